//! What administrators see: rooms, timers, and the history of the outbox.
//!
//! Each is bounded by a limit. Lists of rooms follow an index; of the history, the newest rows are
//! searched, whose ids grow with time.

/// Rooms with the number of their participants. The columns that need a conversion differ. An order
/// names the table, because a converted column has the name of its source.
macro_rules! listed {
    ($converted:literal, $tables:expr) => {
        concat!(
            "SELECT ",
            $converted,
            ", room.id, room.token, room.name, room.description, room.object_type, room.object_id,
                   room.lobby_version,
                   (SELECT count(*) FROM lobbyd_attendees AS attendee
                    WHERE attendee.room_id = room.id) AS participants
            FROM ",
            $tables
        )
    };
    (postgres $tables:expr) => {
        listed!(
            "room.type::bigint AS room_type, room.lobby_state::bigint AS lobby_state,
                   floor(extract(epoch FROM room.lobby_timer))::bigint AS lobby_timer,
                   floor(extract(epoch FROM room.lobby_timer_reached))::bigint AS timer_reached,
                   room.sip_enabled::bigint AS sip_enabled",
            $tables
        )
    };
    (mysql $tables:expr) => {
        listed!(
            "CAST(room.type AS SIGNED) AS room_type, CAST(room.lobby_state AS SIGNED) AS lobby_state,
                   TIMESTAMPDIFF(SECOND, '1970-01-01', room.lobby_timer) AS lobby_timer,
                   TIMESTAMPDIFF(SECOND, '1970-01-01', room.lobby_timer_reached) AS timer_reached,
                   CAST(room.sip_enabled AS SIGNED) AS sip_enabled",
            $tables
        )
    };
    (sqlite $tables:expr) => {
        listed!(
            "room.type AS room_type, room.lobby_state, unixepoch(room.lobby_timer) AS lobby_timer,
                   unixepoch(room.lobby_timer_reached) AS timer_reached, room.sip_enabled",
            $tables
        )
    };
}

/// Rows of the outbox with resets, the newest first: since (milliseconds), a part of the data, limit.
macro_rules! resets {
    ($columns:literal, $since:literal, $contains:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM (SELECT id, events, data, created_at FROM lobbyd_outbox ORDER BY id DESC LIMIT 20000)
                 AS newest
            WHERE data LIKE '%\"lobby_timer_reached\"%' AND created_at >= ",
            $since,
            " AND ",
            $contains,
            " ORDER BY id DESC LIMIT $3"
        )
    };
}

/// Rows of the outbox that say that a room is open, the newest first: a part of the data, limit.
macro_rules! openings {
    ($contains:literal) => {
        concat!(
            "SELECT id FROM (SELECT id, data FROM lobbyd_outbox ORDER BY id DESC LIMIT 20000) AS newest
            WHERE (data LIKE '%\"lobby_timer_reached\"%' OR data LIKE '%\"lobby_none\"%') AND ",
            $contains,
            " ORDER BY id DESC LIMIT $2"
        )
    };
}

statements! {
    /// limit → the columns of [`room_without_state`](crate::store::rows::room_without_state), and the
    /// number of participants: the newest rooms.
    NEWEST_ROOMS:
        postgres listed!(postgres "lobbyd_rooms AS room ORDER BY room.id DESC LIMIT $1"),
        mysql listed!(mysql "lobbyd_rooms AS room ORDER BY room.id DESC LIMIT $1"),
        sqlite listed!(sqlite "lobbyd_rooms AS room ORDER BY room.id DESC LIMIT $1");

    /// JSON of tokens → the columns of [`NEWEST_ROOMS`].
    ROOMS_BY_TOKEN:
        postgres listed!(postgres
            "lobbyd_rooms AS room
            WHERE room.token = ANY (ARRAY(SELECT json_array_elements_text(CAST($1 AS json))))"),
        mysql listed!(mysql
            "JSON_TABLE($1, '$[*]' COLUMNS (
                     token VARCHAR(32) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$'
                 )) AS tokens
            STRAIGHT_JOIN lobbyd_rooms AS room ON room.token = tokens.token"),
        sqlite listed!(sqlite
            "lobbyd_rooms AS room WHERE room.token IN (SELECT value FROM json_each($1))");

    /// limit → the columns of [`NEWEST_ROOMS`]: the timers that can fire, the first one first.
    TIMERS:
        postgres listed!(postgres concat!(
            "lobbyd_rooms AS room WHERE ", has_timer!(postgres),
            " AND lobby_timer < 'infinity' ORDER BY room.lobby_timer, room.id LIMIT $1"
        )),
        mysql listed!(mysql concat!(
            "lobbyd_rooms AS room WHERE ", has_timer!(mysql),
            " ORDER BY room.lobby_due_at, room.id LIMIT $1"
        )),
        sqlite listed!(sqlite concat!(
            "lobbyd_rooms AS room WHERE ", has_timer!(sqlite),
            " ORDER BY room.lobby_timer, room.id LIMIT $1"
        ));

    /// now (seconds), limit → number of timers that are due, up to the limit.
    COUNT_DUE:
        postgres concat!(
            "SELECT count(*) AS number FROM (SELECT 1 AS one FROM lobbyd_rooms WHERE ",
            has_timer!(postgres), " AND lobby_timer <= to_timestamp($1) LIMIT $2) AS due"
        ),
        mysql "\
            SELECT count(*) AS number FROM (SELECT 1 AS one FROM lobbyd_rooms
                WHERE lobby_due_at <= TIMESTAMP'1970-01-01 00:00:00' + INTERVAL $1 SECOND
                LIMIT $2) AS due",
        sqlite concat!(
            "SELECT count(*) AS number FROM (SELECT 1 AS one FROM lobbyd_rooms WHERE ",
            has_timer!(sqlite), " AND lobby_timer <= datetime($1, 'unixepoch') LIMIT $2) AS due"
        );

    /// limit, token, the same → tokens: the newest, and the neighbours in their order.
    NEARBY_TOKENS: portable "\
        SELECT token FROM (SELECT token FROM lobbyd_rooms ORDER BY id DESC LIMIT $1) AS newest
        UNION
        SELECT token FROM (SELECT token FROM lobbyd_rooms WHERE token > $2
                           ORDER BY token LIMIT 20) AS later
        UNION
        SELECT token FROM (SELECT token FROM lobbyd_rooms WHERE token < $3
                           ORDER BY token DESC LIMIT 20) AS earlier";

    /// since (milliseconds), a part of the data, limit → id, number of events.
    RESETS:
        postgres resets!("id, events::bigint AS events",
            "to_timestamp($1 / 1000.0)", "strpos(data, $2) > 0"),
        mysql resets!("id, CAST(events AS SIGNED) AS events",
            "TIMESTAMP'1970-01-01 00:00:00' + INTERVAL $1 * 1000 MICROSECOND",
            "LOCATE($2, data) > 0"),
        sqlite resets!("id, events",
            "strftime('%Y-%m-%d %H:%M:%f', $1 / 1000.0, 'unixepoch')", "instr(data, $2) > 0");

    /// A part of the data, limit → id.
    OPENINGS:
        postgres openings!("strpos(data, $1) > 0"),
        mysql openings!("LOCATE($1, data) > 0"),
        sqlite openings!("instr(data, $1) > 0");

    /// JSON of ids → rows with their events, and when they were published.
    HISTORY_ROWS:
        postgres "\
            SELECT id, type AS event_type, token, events::bigint AS events, data,
                   floor(extract(epoch FROM created_at) * 1000)::bigint AS created_at,
                   floor(extract(epoch FROM due_at))::bigint AS due_at,
                   attempts::bigint AS attempts,
                   floor(extract(epoch FROM available_at) * 1000)::bigint AS available_at,
                   floor(extract(epoch FROM published_at) * 1000)::bigint AS published_at
            FROM lobbyd_outbox
            WHERE id = ANY (ARRAY(SELECT json_array_elements_text(CAST($1 AS json))))",
        mysql "\
            SELECT event.id, event.type AS event_type, event.token,
                   CAST(event.events AS SIGNED) AS events, event.data,
                   TIMESTAMPDIFF(MICROSECOND, '1970-01-01', event.created_at) DIV 1000
                       AS created_at,
                   TIMESTAMPDIFF(SECOND, '1970-01-01', event.due_at) AS due_at,
                   CAST(event.attempts AS SIGNED) AS attempts,
                   TIMESTAMPDIFF(MICROSECOND, '1970-01-01', event.available_at) DIV 1000
                       AS available_at,
                   TIMESTAMPDIFF(MICROSECOND, '1970-01-01', event.published_at) DIV 1000
                       AS published_at
            FROM JSON_TABLE($1, '$[*]' COLUMNS (
                     id CHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$'
                 )) AS ids
            STRAIGHT_JOIN lobbyd_outbox AS event ON event.id = ids.id",
        sqlite "\
            SELECT id, type AS event_type, token, events, data,
                   CAST(round(unixepoch(created_at, 'subsec') * 1000) AS INTEGER) AS created_at,
                   unixepoch(due_at) AS due_at, attempts,
                   CAST(round(unixepoch(available_at, 'subsec') * 1000) AS INTEGER) AS available_at,
                   CAST(round(unixepoch(published_at, 'subsec') * 1000) AS INTEGER) AS published_at
            FROM lobbyd_outbox WHERE id IN (SELECT value FROM json_each($1))";
}
