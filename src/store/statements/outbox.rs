//! Events, until they are published and afterwards.
//!
//! What a change of a set depends on is in the new value, not in the condition, for the reason that
//! `statements` gives about sets of ids.

/// Changes a set of events. The JSON of their ids is the first value.
macro_rules! update {
    (postgres $set:literal) => {
        concat!(
            "UPDATE lobbyd_outbox SET ",
            $set,
            " WHERE id = ANY (ARRAY(SELECT json_array_elements_text(CAST($1 AS json))))"
        )
    };
    (mysql $set:literal) => {
        concat!(
            "UPDATE JSON_TABLE($1, '$[*]' COLUMNS (
                        id CHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$'
                    )) AS ids
            STRAIGHT_JOIN lobbyd_outbox AS event ON event.id = ids.id SET ",
            $set
        )
    };
    (sqlite $set:literal) => {
        concat!("UPDATE lobbyd_outbox SET ", $set, " WHERE id IN (SELECT value FROM json_each($1))")
    };
}

/// Locks unpublished rows that can be claimed: after, now (milliseconds), JSON of ids to leave out.
macro_rules! available {
    (postgres $columns:literal, $limit:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM lobbyd_outbox
            WHERE published_at IS NULL AND available_at > to_timestamp($1 / 1000.0)
              AND available_at <= to_timestamp($2 / 1000.0)
              AND id <> ALL (ARRAY(SELECT json_array_elements_text(CAST($3 AS json))))
            ORDER BY available_at, id LIMIT ",
            $limit,
            " FOR UPDATE SKIP LOCKED"
        )
    };
    (mysql $columns:literal, $limit:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM lobbyd_outbox
            WHERE published_at IS NULL
              AND available_at > TIMESTAMP'1970-01-01 00:00:00' + INTERVAL $1 * 1000 MICROSECOND
              AND available_at <= TIMESTAMP'1970-01-01 00:00:00' + INTERVAL $2 * 1000 MICROSECOND
              AND id NOT IN (SELECT id FROM JSON_TABLE($3, '$[*]' COLUMNS (
                      id CHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$'
                  )) AS ids)
            ORDER BY available_at, id LIMIT ",
            $limit,
            " FOR UPDATE SKIP LOCKED"
        )
    };
    (sqlite $columns:literal, $limit:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM lobbyd_outbox
            WHERE published_at IS NULL
              AND available_at > strftime('%Y-%m-%d %H:%M:%f', $1 / 1000.0, 'unixepoch')
              AND available_at <= strftime('%Y-%m-%d %H:%M:%f', $2 / 1000.0, 'unixepoch')
              AND id NOT IN (SELECT value FROM json_each($3))
            ORDER BY available_at, id LIMIT ",
            $limit
        )
    };
}

macro_rules! pending {
    ($database:ident $created_at:literal, $attempts:literal, $available_at:literal,
     $others:literal) => {
        concat!(
            "\
            WITH pending AS (
                SELECT id, token, events, created_at, available_at, attempts FROM lobbyd_outbox
                WHERE published_at IS NULL AND id ",
            $others,
            " ORDER BY available_at, id LIMIT $2
            )
            SELECT id, token, ",
            $created_at,
            " AS created_at, ",
            $attempts,
            " AS attempts,
                   (SELECT ",
            sum_of_events!($database),
            " FROM pending WHERE attempts >= $3) AS refused,
                   (SELECT ",
            $available_at,
            " FROM lobbyd_outbox
                    WHERE published_at IS NULL ORDER BY available_at DESC LIMIT 1) AS last_available
            FROM pending
            ORDER BY CASE WHEN attempts < $4 THEN 0 ELSE 1 END, created_at LIMIT 1"
        )
    };
}

/// The time of a number of milliseconds.
macro_rules! time {
    (postgres $milliseconds:literal) => {
        concat!("to_timestamp(", $milliseconds, " / 1000.0)")
    };
    (mysql $milliseconds:literal) => {
        concat!("TIMESTAMP'1970-01-01 00:00:00' + INTERVAL ", $milliseconds, " * 1000 MICROSECOND")
    };
    (sqlite $milliseconds:literal) => {
        concat!("strftime('%Y-%m-%d %H:%M:%f', ", $milliseconds, " / 1000.0, 'unixepoch')")
    };
}

/// Deletes some events that meet a condition. It is followed by the limit.
macro_rules! delete_some {
    (mysql $condition:literal, $time:expr) => {
        concat!("DELETE FROM lobbyd_outbox WHERE ", $condition, $time, " LIMIT $2")
    };
    ($database:ident $condition:literal, $time:expr) => {
        concat!(
            "DELETE FROM lobbyd_outbox WHERE id IN (
                SELECT id FROM lobbyd_outbox WHERE ",
            $condition,
            $time,
            " LIMIT $2)"
        )
    };
}

/// Inserts a row that several events share.
macro_rules! insert_together {
    ($database:ident) => {
        concat!(
            "INSERT INTO lobbyd_outbox
                    (id, type, token, data, events, created_at, available_at, attempts, published_at)
             VALUES ($1, $2, $3, $4, $5, ",
            time!($database "$6"), ", ", time!($database "$7"), ", $8, ", time!($database "$9"), ")"
        )
    };
}

statements! {
    /// JSON of the new rows.
    INSERT:
        postgres "\
            INSERT INTO lobbyd_outbox
                   (id, type, token, data, created_at, due_at, available_at, attempts,
                    published_at)
            SELECT id, type, token, data, to_timestamp(created_at / 1000.0), to_timestamp(due_at),
                   to_timestamp(available_at / 1000.0), attempts,
                   to_timestamp(published_at / 1000.0)
            FROM json_to_recordset(CAST($1 AS json))
                 AS new(id text, type text, token text, data text, created_at bigint,
                        due_at bigint, available_at bigint, attempts integer,
                        published_at bigint)",
        mysql "\
            INSERT INTO lobbyd_outbox
                   (id, type, token, data, created_at, due_at, available_at, attempts,
                    published_at)
            SELECT id, type, token, data,
                   TIMESTAMP'1970-01-01 00:00:00' + INTERVAL created_at * 1000 MICROSECOND,
                   TIMESTAMP'1970-01-01 00:00:00' + INTERVAL due_at SECOND,
                   TIMESTAMP'1970-01-01 00:00:00' + INTERVAL available_at * 1000 MICROSECOND,
                   attempts,
                   TIMESTAMP'1970-01-01 00:00:00' + INTERVAL published_at * 1000 MICROSECOND
            FROM JSON_TABLE($1, '$[*]' COLUMNS (
                     id CHAR(36) CHARACTER SET utf8mb4 PATH '$.id',
                     type VARCHAR(64) CHARACTER SET utf8mb4 PATH '$.type',
                     token VARCHAR(32) CHARACTER SET utf8mb4 PATH '$.token',
                     data TEXT CHARACTER SET utf8mb4 PATH '$.data',
                     created_at BIGINT PATH '$.created_at', due_at BIGINT PATH '$.due_at',
                     available_at BIGINT PATH '$.available_at', attempts INT PATH '$.attempts',
                     published_at BIGINT PATH '$.published_at'
                 )) AS new_rows",
        sqlite "\
            INSERT INTO lobbyd_outbox
                   (id, type, token, data, created_at, due_at, available_at, attempts,
                    published_at)
            SELECT value ->> 'id', value ->> 'type', value ->> 'token', value ->> 'data',
                   strftime('%Y-%m-%d %H:%M:%f', (value ->> 'created_at') / 1000.0, 'unixepoch'),
                   datetime(value ->> 'due_at', 'unixepoch'),
                   strftime('%Y-%m-%d %H:%M:%f', (value ->> 'available_at') / 1000.0, 'unixepoch'),
                   value ->> 'attempts',
                   strftime('%Y-%m-%d %H:%M:%f', (value ->> 'published_at') / 1000.0, 'unixepoch')
            FROM jsonb_each($1)";

    /// id, type, token, JSON of the events, their number, created at, available at (milliseconds),
    /// attempts, published at (milliseconds).
    INSERT_TOGETHER:
        postgres insert_together!(postgres),
        mysql insert_together!(mysql),
        sqlite insert_together!(sqlite);

    /// after, now (milliseconds), JSON of ids to leave out, limit → id, number of events. Locks the
    /// rows.
    AVAILABLE:
        postgres available!(postgres "id, events::bigint AS events", "$4"),
        mysql available!(mysql "id, CAST(events AS SIGNED) AS events", "$4"),
        // As for the rooms that are due, SQLite does not plan this each time again.
        sqlite available!(sqlite "id, events", "+$4");

    /// after, now (milliseconds), JSON of ids to leave out → id. Locks the row.
    FIRST_AVAILABLE:
        postgres available!(postgres "id", "1"),
        mysql available!(mysql "id", "1"),
        sqlite available!(sqlite "id", "1");

    /// JSON of ids → rows with their events, and when they are available.
    ROWS:
        postgres "\
            SELECT id, type AS event_type, token, events::bigint AS events, data,
                   floor(extract(epoch FROM created_at) * 1000)::bigint AS created_at,
                   floor(extract(epoch FROM due_at))::bigint AS due_at,
                   attempts::bigint AS attempts,
                   floor(extract(epoch FROM available_at) * 1000)::bigint AS available_at
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
                       AS available_at
            FROM JSON_TABLE($1, '$[*]' COLUMNS (
                     id CHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$'
                 )) AS ids
            STRAIGHT_JOIN lobbyd_outbox AS event ON event.id = ids.id",
        sqlite "\
            SELECT id, type AS event_type, token, events, data,
                   CAST(round(unixepoch(created_at, 'subsec') * 1000) AS INTEGER) AS created_at,
                   unixepoch(due_at) AS due_at, attempts,
                   CAST(round(unixepoch(available_at, 'subsec') * 1000) AS INTEGER) AS available_at
            FROM lobbyd_outbox WHERE id IN (SELECT value FROM json_each($1))";

    /// id, end of its claim (milliseconds).
    DELETE_CLAIMED:
        postgres "\
            DELETE FROM lobbyd_outbox WHERE id = $1 AND published_at IS NULL
              AND available_at = CAST(to_timestamp($2 / 1000.0) AS timestamptz(3))",
        mysql "\
            DELETE FROM lobbyd_outbox WHERE id = $1 AND published_at IS NULL
              AND available_at =
                  TIMESTAMP'1970-01-01 00:00:00' + INTERVAL $2 * 1000 MICROSECOND",
        sqlite "\
            DELETE FROM lobbyd_outbox WHERE id = $1 AND published_at IS NULL
              AND available_at = strftime('%Y-%m-%d %H:%M:%f', $2 / 1000.0, 'unixepoch')";

    /// JSON of ids, until (milliseconds).
    CLAIM:
        postgres update!(postgres
            "available_at = to_timestamp($2 / 1000.0), attempts = attempts + 1"),
        mysql update!(mysql
            "event.available_at = TIMESTAMP'1970-01-01 00:00:00' + INTERVAL $2 * 1000 MICROSECOND,
                event.attempts = event.attempts + 1"),
        sqlite update!(sqlite
            "available_at = strftime('%Y-%m-%d %H:%M:%f', $2 / 1000.0, 'unixepoch'),
                attempts = attempts + 1");

    /// JSON of ids, end of their claim, available at (milliseconds).
    RELEASE:
        postgres update!(postgres
            "available_at = CASE
                WHEN published_at IS NULL
                 AND available_at = CAST(to_timestamp($2 / 1000.0) AS timestamptz(3))
                THEN to_timestamp($3 / 1000.0) ELSE available_at END"),
        mysql update!(mysql
            "event.available_at = CASE
                WHEN event.published_at IS NULL AND event.available_at =
                    TIMESTAMP'1970-01-01 00:00:00' + INTERVAL $2 * 1000 MICROSECOND
                THEN TIMESTAMP'1970-01-01 00:00:00' + INTERVAL $3 * 1000 MICROSECOND
                ELSE event.available_at END"),
        sqlite update!(sqlite
            "available_at = CASE
                WHEN published_at IS NULL
                 AND available_at = strftime('%Y-%m-%d %H:%M:%f', $2 / 1000.0, 'unixepoch')
                THEN strftime('%Y-%m-%d %H:%M:%f', $3 / 1000.0, 'unixepoch')
                ELSE available_at END");

    /// JSON of ids, now (milliseconds).
    MARK_PUBLISHED:
        postgres update!(postgres
            "published_at = coalesce(published_at, to_timestamp($2 / 1000.0))"),
        mysql update!(mysql
            "event.published_at = coalesce(event.published_at,
                TIMESTAMP'1970-01-01 00:00:00' + INTERVAL $2 * 1000 MICROSECOND)"),
        sqlite update!(sqlite
            "published_at = coalesce(published_at,
                strftime('%Y-%m-%d %H:%M:%f', $2 / 1000.0, 'unixepoch'))");

    /// JSON of ids to leave out, limit, attempts, attempts → of unpublished events, the oldest that had fewer attempts, or
    /// else the oldest; the number that had as many; and when the last is available. The first two
    /// look at `limit` events.
    PENDING:
        postgres pending!(postgres
            "floor(extract(epoch FROM created_at) * 1000)::bigint",
            "attempts::bigint",
            "floor(extract(epoch FROM available_at) * 1000)::bigint",
            "<> ALL (ARRAY(SELECT json_array_elements_text(CAST($1 AS json))))"
        ),
        mysql pending!(mysql
            "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', created_at) DIV 1000",
            "CAST(attempts AS SIGNED)",
            "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', available_at) DIV 1000",
            "NOT IN (SELECT id FROM JSON_TABLE($1, '$[*]' COLUMNS (
                        id CHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$'
                    )) AS ids)"
        ),
        sqlite pending!(sqlite
            "CAST(round(unixepoch(created_at, 'subsec') * 1000) AS INTEGER)",
            "attempts",
            "CAST(round(unixepoch(available_at, 'subsec') * 1000) AS INTEGER)",
            "NOT IN (SELECT value FROM json_each($1))"
        );

    /// now, latest (milliseconds), limit: ends claims that last longer.
    END_CLAIMS:
        postgres "\
            UPDATE lobbyd_outbox SET available_at = to_timestamp($1 / 1000.0)
            WHERE id IN (
                SELECT id FROM lobbyd_outbox
                WHERE published_at IS NULL AND available_at > to_timestamp($2 / 1000.0) LIMIT $3
            )",
        mysql "\
            UPDATE lobbyd_outbox
            SET available_at = TIMESTAMP'1970-01-01 00:00:00' + INTERVAL $1 * 1000 MICROSECOND
            WHERE published_at IS NULL
              AND available_at > TIMESTAMP'1970-01-01 00:00:00' + INTERVAL $2 * 1000 MICROSECOND
            LIMIT $3",
        sqlite "\
            UPDATE lobbyd_outbox
            SET available_at = strftime('%Y-%m-%d %H:%M:%f', $1 / 1000.0, 'unixepoch')
            WHERE id IN (
                SELECT id FROM lobbyd_outbox
                WHERE published_at IS NULL
                  AND available_at > strftime('%Y-%m-%d %H:%M:%f', $2 / 1000.0, 'unixepoch')
                LIMIT $3
            )";

    /// before (milliseconds), limit.
    PRUNE_PUBLISHED:
        postgres delete_some!(postgres "published_at < ", time!(postgres "$1")),
        mysql delete_some!(mysql "published_at < ", time!(mysql "$1")),
        sqlite delete_some!(sqlite "published_at < ", time!(sqlite "$1"));

    /// before (milliseconds), limit.
    PRUNE_DEAD:
        postgres delete_some!(postgres "published_at IS NULL AND created_at < ", time!(postgres "$1")),
        mysql delete_some!(mysql "published_at IS NULL AND created_at < ", time!(mysql "$1")),
        sqlite delete_some!(sqlite "published_at IS NULL AND created_at < ", time!(sqlite "$1"));
}
