//! Rooms, their states, and their timers.

/// A room with its state. The columns that need a conversion differ.
macro_rules! room {
    ($converted:literal, $tables:literal, $condition:literal) => {
        concat!(
            "SELECT ",
            $converted,
            ", room.id, room.token, room.name, room.description, room.object_type, room.object_id,
                   room.lobby_version, coalesce(state.password_hash, '') AS password_hash,
                   coalesce(state.call_started_at, 0) AS call_started_at,
                   coalesce(state.call_flags, 0) AS call_flags,
                   coalesce(state.default_permissions, 0) AS default_permissions,
                   coalesce(state.read_only, 0) AS read_only,
                   coalesce(state.comments, 0) AS comments,
                   coalesce(state.changed_at, 0) AS changed_at
            FROM ",
            $tables,
            "
            LEFT JOIN lobbyd_room_states AS state ON state.room_id = room.id ",
            $condition
        )
    };
    (postgres $condition:literal) => {
        room!(
            "room.type::bigint AS room_type, room.lobby_state::bigint AS lobby_state,
                   floor(extract(epoch FROM room.lobby_timer))::bigint AS lobby_timer,
                   floor(extract(epoch FROM room.lobby_timer_reached))::bigint AS timer_reached,
                   room.sip_enabled::bigint AS sip_enabled",
            "lobbyd_rooms AS room",
            $condition
        )
    };
    (mysql $tables:literal, $condition:literal) => {
        room!(
            "CAST(room.type AS SIGNED) AS room_type, CAST(room.lobby_state AS SIGNED) AS lobby_state,
                   TIMESTAMPDIFF(SECOND, '1970-01-01', room.lobby_timer) AS lobby_timer,
                   TIMESTAMPDIFF(SECOND, '1970-01-01', room.lobby_timer_reached) AS timer_reached,
                   CAST(room.sip_enabled AS SIGNED) AS sip_enabled",
            $tables,
            $condition
        )
    };
    (sqlite $condition:literal) => {
        room!(
            "room.type AS room_type, room.lobby_state, unixepoch(room.lobby_timer) AS lobby_timer,
                   unixepoch(room.lobby_timer_reached) AS timer_reached, room.sip_enabled",
            "lobbyd_rooms AS room",
            $condition
        )
    };
}

/// Timers in the order of their index, after a key and without exceptions. MySQL needs the time of
/// the key twice, so the key has three values, and it searches the exceptions as a text: for a set
/// made of them it would read all of them, as JSON, for each timer.
macro_rules! timers {
    (postgres $columns:literal) => {
        concat!(
            "SELECT id, token, floor(extract(epoch FROM lobby_timer))::bigint AS due_at",
            $columns,
            " FROM lobbyd_rooms WHERE ",
            has_timer!(postgres),
            " AND (lobby_timer, id) > (to_timestamp(greatest(CAST($1 AS bigint), $2)), $3)
              AND (id, floor(extract(epoch FROM lobby_timer))::bigint) NOT IN (
                  SELECT CAST(value ->> 0 AS bigint), CAST(value ->> 1 AS bigint)
                  FROM json_array_elements(CAST($4 AS json)))"
        )
    };
    (mysql $columns:literal) => {
        concat!(
            "SELECT id, token, TIMESTAMPDIFF(SECOND, '1970-01-01', lobby_due_at) AS due_at",
            $columns,
            " FROM lobbyd_rooms
            WHERE (lobby_due_at > TIMESTAMP'1970-01-01 00:00:00' + INTERVAL $1 SECOND
                   OR lobby_due_at = TIMESTAMP'1970-01-01 00:00:00' + INTERVAL $2 SECOND
                   AND id > $3)
              AND LOCATE(CAST(CONCAT(
                      '[', id, ',', TIMESTAMPDIFF(SECOND, '1970-01-01', lobby_due_at), ']'
                  ) AS BINARY), $4) = 0"
        )
    };
    (sqlite $columns:literal) => {
        concat!(
            "SELECT id, token, unixepoch(lobby_timer) AS due_at",
            $columns,
            " FROM lobbyd_rooms WHERE ",
            has_timer!(sqlite),
            " AND (lobby_timer, id) > (datetime(max($1, $2), 'unixepoch'), $3)
              AND (id, unixepoch(lobby_timer)) NOT IN (
                  SELECT value ->> 0, value ->> 1 FROM json_each($4))"
        )
    };
}

/// The timers that are due. SQLite would plan a statement whose limit is a bare value each time again,
/// because the best plan may depend on it.
macro_rules! due {
    (postgres) => {
        concat!(
            timers!(postgres
                ", type::bigint AS room_type, lobby_version, sip_enabled::bigint AS sip_enabled"),
            " AND lobby_timer <= to_timestamp($5) ORDER BY lobby_timer, id LIMIT $6"
        )
    };
    (mysql) => {
        concat!(
            timers!(mysql
                ", CAST(type AS SIGNED) AS room_type, lobby_version,
                   CAST(sip_enabled AS SIGNED) AS sip_enabled"),
            " AND lobby_due_at <= TIMESTAMP'1970-01-01 00:00:00' + INTERVAL $5 SECOND
            ORDER BY lobby_due_at, id LIMIT $6"
        )
    };
    (sqlite) => {
        concat!(
            timers!(sqlite ", type AS room_type, lobby_version, sip_enabled"),
            " AND lobby_timer <= datetime($5, 'unixepoch') ORDER BY lobby_timer, id LIMIT +$6"
        )
    };
}

/// Resets rooms that still have their timer.
macro_rules! reset {
    (postgres) => {
        "\
            UPDATE lobbyd_rooms AS room
            SET lobby_state = 0, lobby_timer = NULL, lobby_version = due.version,
                lobby_timer_reached = room.lobby_timer
            FROM json_to_recordset(CAST($1 AS json))
                 AS due(id bigint, timer bigint, version bigint)
            WHERE room.id = due.id AND floor(extract(epoch FROM room.lobby_timer)) = due.timer"
    };
    (mysql) => {
        "\
            UPDATE JSON_TABLE($1, '$[*]' COLUMNS (
                       id BIGINT PATH '$.id', timer BIGINT PATH '$.timer',
                       version BIGINT PATH '$.version'
                   )) AS due
            STRAIGHT_JOIN lobbyd_rooms AS room ON room.id = due.id
            SET room.lobby_state = 0, room.lobby_timer = NULL, room.lobby_version = due.version,
                room.lobby_timer_reached =
                    TIMESTAMP'1970-01-01 00:00:00' + INTERVAL due.timer SECOND
            WHERE TIMESTAMPDIFF(SECOND, '1970-01-01', room.lobby_timer) = due.timer"
    };
    (sqlite) => {
        "\
            UPDATE lobbyd_rooms
            SET lobby_state = 0, lobby_timer = NULL, lobby_version = due.value ->> 'version',
                lobby_timer_reached = lobby_timer
            FROM jsonb_each($1) AS due
            WHERE lobbyd_rooms.id = due.value ->> 'id'
              AND unixepoch(lobby_timer) = due.value ->> 'timer'"
    };
}

statements! {
    /// token → the columns of [`room`](crate::store::rows::room).
    ROOM:
        postgres room!(postgres "WHERE room.token = $1"),
        mysql room!(mysql "lobbyd_rooms AS room", "WHERE room.token = $1"),
        sqlite room!(sqlite "WHERE room.token = $1");

    /// token → id. Locks the row until the transaction ends.
    LOCK:
        // Not FOR UPDATE, here and below: that waits for each open transaction that has inserted a
        // row with a foreign key to the room.
        postgres "SELECT id FROM lobbyd_rooms WHERE token = $1 FOR NO KEY UPDATE",
        mysql "SELECT id FROM lobbyd_rooms WHERE token = $1 FOR UPDATE",
        sqlite "SELECT id FROM lobbyd_rooms WHERE token = $1";

    /// JSON of tokens → the columns of [`room_version`](crate::store::rows::room_version).
    VERSIONS:
        postgres "\
            SELECT token, lobby_version, lobby_state::bigint AS lobby_state,
                   floor(extract(epoch FROM lobby_timer))::bigint AS lobby_timer,
                   type::bigint AS room_type, name, sip_enabled::bigint AS sip_enabled
            FROM lobbyd_rooms
            WHERE token = ANY (ARRAY(SELECT json_array_elements_text(CAST($1 AS json))))",
        mysql "\
            SELECT room.token, room.lobby_version,
                   CAST(room.lobby_state AS SIGNED) AS lobby_state,
                   TIMESTAMPDIFF(SECOND, '1970-01-01', room.lobby_timer) AS lobby_timer,
                   CAST(room.type AS SIGNED) AS room_type, room.name,
                   CAST(room.sip_enabled AS SIGNED) AS sip_enabled
            FROM JSON_TABLE($1, '$[*]' COLUMNS (
                     token VARCHAR(32) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$'
                 )) AS tokens
            STRAIGHT_JOIN lobbyd_rooms AS room ON room.token = tokens.token",
        sqlite "\
            SELECT token, lobby_version, lobby_state, unixepoch(lobby_timer) AS lobby_timer,
                   type AS room_type, name, sip_enabled
            FROM lobbyd_rooms WHERE token IN (SELECT value FROM json_each($1))";

    /// user → tokens of the rooms in which the user takes part.
    OF_USER: portable "\
        SELECT room.token FROM lobbyd_attendees AS attendee
        JOIN lobbyd_rooms AS room ON room.id = attendee.room_id
        WHERE attendee.actor_type = 'users' AND attendee.actor_id = $1 ORDER BY room.id";

    /// user as JSON → tokens of one-to-one rooms whose name contains it. Reads every room.
    ONE_TO_ONE_OF:
        postgres "SELECT token FROM lobbyd_rooms WHERE type = 1 AND strpos(name, $1) > 0",
        mysql "SELECT token FROM lobbyd_rooms WHERE type = 1 AND instr(name, $1) > 0",
        sqlite "SELECT token FROM lobbyd_rooms WHERE type = 1 AND instr(name, $1) > 0";

    /// token, type, name, description, object type, object id, version.
    INSERT: portable "\
        INSERT INTO lobbyd_rooms (token, type, name, description, object_type, object_id,
                                  lobby_version)
        VALUES ($1, $2, $3, $4, $5, $6, $7)";

    /// version, id, the version that was read.
    UPDATE_VERSION: portable
        "UPDATE lobbyd_rooms SET lobby_version = $1 WHERE id = $2 AND lobby_version = $3";

    /// type, name, description, SIP, version, id, the version that was read.
    UPDATE_SETTINGS: portable "\
        UPDATE lobbyd_rooms
        SET type = $1, name = $2, description = $3, sip_enabled = $4, lobby_version = $5
        WHERE id = $6 AND lobby_version = $7";

    /// state, timer (seconds), version, id, the version that was read.
    UPDATE_LOBBY:
        postgres "\
            UPDATE lobbyd_rooms
            SET lobby_state = $1, lobby_timer = to_timestamp($2), lobby_version = $3
            WHERE id = $4 AND lobby_version = $5",
        mysql "\
            UPDATE lobbyd_rooms
            SET lobby_state = $1,
                lobby_timer = TIMESTAMP'1970-01-01 00:00:00' + INTERVAL $2 SECOND,
                lobby_version = $3
            WHERE id = $4 AND lobby_version = $5",
        sqlite "\
            UPDATE lobbyd_rooms
            SET lobby_state = $1, lobby_timer = datetime($2, 'unixepoch'), lobby_version = $3
            WHERE id = $4 AND lobby_version = $5";

    /// id.
    DELETE: portable "DELETE FROM lobbyd_rooms WHERE id = $1";

    /// password hash, start of the call, its flags, default permissions, read-only, comments,
    /// changed at, room.
    INSERT_STATE: portable "\
        INSERT INTO lobbyd_room_states (password_hash, call_started_at, call_flags,
                                        default_permissions, read_only, comments, changed_at,
                                        room_id)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";

    /// The values of [`INSERT_STATE`].
    UPDATE_STATE: portable "\
        UPDATE lobbyd_room_states
        SET password_hash = $1, call_started_at = $2, call_flags = $3, default_permissions = $4,
            read_only = $5, comments = $6, changed_at = $7
        WHERE room_id = $8";

    /// room.
    DELETE_STATE: portable "DELETE FROM lobbyd_room_states WHERE room_id = $1";

    /// key (seconds, seconds, id), JSON of `[id, seconds]` to leave out, now (seconds), limit → the
    /// columns of [`due_timer`](crate::store::rows::due_timer). Locks the rows, and skips those that
    /// are locked.
    DUE:
        postgres concat!(due!(postgres), " FOR NO KEY UPDATE SKIP LOCKED"),
        mysql concat!(due!(mysql), " FOR UPDATE SKIP LOCKED"),
        // A transaction that writes locks the whole database, so there is nothing to skip.
        sqlite due!(sqlite);

    /// As [`DUE`], but waits for rows that are locked. MariaDB waits for a second, as
    /// PostgreSQL does by
    /// [`SHORT_LOCK_WAITS`](crate::store::dialect::Dialect::SHORT_LOCK_WAITS); MySQL waits for as
    /// long as for any lock.
    DUE_WAITING:
        postgres concat!(due!(postgres), " FOR NO KEY UPDATE"),
        mysql concat!(due!(mysql), " FOR UPDATE /*M!100300 WAIT 1 */"),
        sqlite due!(sqlite);

    /// key (seconds, seconds, id), JSON of `[id, seconds]` to leave out → the columns of
    /// [`pending_timer`](crate::store::rows::pending_timer): the first timer, past or not.
    NEXT_DUE:
        // A view can hold a timer without end, which has no number.
        postgres concat!(
            timers!(postgres ""),
            " AND lobby_timer < 'infinity' ORDER BY lobby_timer, id LIMIT 1"
        ),
        mysql concat!(timers!(mysql ""), " ORDER BY lobby_due_at, id LIMIT 1"),
        sqlite concat!(timers!(sqlite ""), " ORDER BY lobby_timer, id LIMIT 1");

    /// Fails where the table or a column of it is missing.
    CHECK:
        postgres "SELECT lobby_timer FROM lobbyd_rooms LIMIT 1",
        mysql "SELECT lobby_due_at FROM lobbyd_rooms LIMIT 1",
        sqlite "SELECT lobby_timer FROM lobbyd_rooms LIMIT 1";

    /// limit → ids of open rooms that have a timer.
    OPEN_WITH_TIMER: portable concat!(
        "SELECT id FROM lobbyd_rooms WHERE lobby_timer IS NOT NULL AND lobby_state = 0 AND ",
        can_have_lobby!(),
        " LIMIT $1"
    );

    /// JSON of ids → ids of those that are still open and have a timer. Locks the rows, and skips
    /// those that are locked.
    LOCK_OPEN:
        postgres "\
            SELECT id FROM lobbyd_rooms
            WHERE id = ANY (ARRAY(SELECT CAST(id AS bigint)
                                  FROM json_array_elements_text(CAST($1 AS json)) AS ids(id)))
              AND lobby_state = 0 AND lobby_timer IS NOT NULL
            FOR NO KEY UPDATE SKIP LOCKED",
        mysql "\
            SELECT room.id FROM JSON_TABLE($1, '$[*]' COLUMNS (id BIGINT PATH '$')) AS ids
            STRAIGHT_JOIN lobbyd_rooms AS room ON room.id = ids.id
            WHERE room.lobby_state = 0 AND room.lobby_timer IS NOT NULL
            FOR UPDATE /*!80000 OF room */ SKIP LOCKED",
        sqlite "\
            SELECT id FROM lobbyd_rooms WHERE id IN (SELECT value FROM json_each($1))
              AND lobby_state = 0 AND lobby_timer IS NOT NULL";

    /// JSON of ids.
    CLEAR_TIMERS:
        postgres "\
            UPDATE lobbyd_rooms SET lobby_timer = NULL
            WHERE id = ANY (ARRAY(SELECT CAST(id AS bigint)
                                  FROM json_array_elements_text(CAST($1 AS json)) AS ids(id)))",
        mysql "\
            UPDATE JSON_TABLE($1, '$[*]' COLUMNS (id BIGINT PATH '$')) AS ids
            STRAIGHT_JOIN lobbyd_rooms AS room ON room.id = ids.id SET room.lobby_timer = NULL",
        sqlite "\
            UPDATE lobbyd_rooms SET lobby_timer = NULL
            WHERE id IN (SELECT value FROM json_each($1))";

    /// JSON of `{id, timer, version}`: resets those that still have that timer.
    RESET:
        postgres reset!(postgres),
        mysql reset!(mysql),
        sqlite reset!(sqlite);

    /// As [`RESET`], within a second. PostgreSQL is told so by
    /// [`SHORT_STATEMENTS`](crate::store::dialect::Dialect::SHORT_STATEMENTS), MySQL and SQLite cannot
    /// be told.
    RESET_SHORT:
        postgres reset!(postgres),
        mysql concat!("/*M!100300 SET STATEMENT max_statement_time = 1 FOR */ ", reset!(mysql)),
        sqlite reset!(sqlite);
}
