//! Identities of events that were applied.

statements! {
    /// JSON of ids → id, applied at (milliseconds).
    APPLIED:
        postgres "\
            SELECT id, floor(extract(epoch FROM applied_at) * 1000)::bigint AS applied_at
            FROM lobbyd_inbox
            WHERE id = ANY (ARRAY(SELECT json_array_elements_text(CAST($1 AS json))))",
        mysql "\
            SELECT inbox.id,
                   TIMESTAMPDIFF(MICROSECOND, '1970-01-01', inbox.applied_at) DIV 1000
                       AS applied_at
            FROM JSON_TABLE($1, '$[*]' COLUMNS (
                     id VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$'
                 )) AS ids
            STRAIGHT_JOIN lobbyd_inbox AS inbox ON inbox.id = ids.id",
        sqlite "\
            SELECT id,
                   CAST(round(unixepoch(applied_at, 'subsec') * 1000) AS INTEGER) AS applied_at
            FROM lobbyd_inbox WHERE id IN (SELECT value FROM json_each($1))";

    /// now (milliseconds), JSON of identities.
    RECORD:
        postgres "\
            INSERT INTO lobbyd_inbox (id, applied_at)
            SELECT id, to_timestamp($1 / 1000.0)
            FROM json_array_elements_text(CAST($2 AS json)) AS id
            ON CONFLICT (id) DO UPDATE SET applied_at = excluded.applied_at",
        mysql "\
            INSERT INTO lobbyd_inbox (id, applied_at)
            SELECT ids.id,
                   TIMESTAMP'1970-01-01 00:00:00' + INTERVAL $1 * 1000 MICROSECOND
            FROM JSON_TABLE($2, '$[*]' COLUMNS (
                     id VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$'
                 )) AS ids
            ON DUPLICATE KEY UPDATE applied_at = VALUES(applied_at)",
        // The condition tells the parser that ON does not belong to a join.
        sqlite "\
            INSERT INTO lobbyd_inbox (id, applied_at)
            SELECT value, strftime('%Y-%m-%d %H:%M:%f', $1 / 1000.0, 'unixepoch')
            FROM json_each($2) WHERE TRUE
            ON CONFLICT (id) DO UPDATE SET applied_at = excluded.applied_at";

    /// before (milliseconds), limit.
    PRUNE:
        postgres "\
            DELETE FROM lobbyd_inbox WHERE id IN (
                SELECT id FROM lobbyd_inbox
                WHERE applied_at < to_timestamp($1 / 1000.0) LIMIT $2
            )",
        mysql "\
            DELETE FROM lobbyd_inbox
            WHERE applied_at < TIMESTAMP'1970-01-01 00:00:00' + INTERVAL $1 * 1000 MICROSECOND
            LIMIT $2",
        sqlite "\
            DELETE FROM lobbyd_inbox WHERE id IN (
                SELECT id FROM lobbyd_inbox
                WHERE applied_at < strftime('%Y-%m-%d %H:%M:%f', $1 / 1000.0, 'unixepoch')
                LIMIT $2
            )";

    /// Writes a row of its own, to learn whether commits are answered.
    PROBE:
        postgres "\
            INSERT INTO lobbyd_inbox (id, applied_at) VALUES ('commit probe', now())
            ON CONFLICT (id) DO UPDATE SET applied_at = excluded.applied_at",
        mysql "\
            INSERT INTO lobbyd_inbox (id, applied_at) VALUES ('commit probe', UTC_TIMESTAMP(3))
            ON DUPLICATE KEY UPDATE applied_at = UTC_TIMESTAMP(3)",
        sqlite "\
            INSERT INTO lobbyd_inbox (id, applied_at)
            VALUES ('commit probe', strftime('%Y-%m-%d %H:%M:%f'))
            ON CONFLICT (id) DO UPDATE SET applied_at = excluded.applied_at";
}
