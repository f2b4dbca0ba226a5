//! What lobbyd keeps about the rooms of a Nextcloud Talk: timers whose rooms will be announced as
//! open, and the versions of lobbies.

statements! {
    /// JSON of room, token, type, due time (seconds).
    RECORD:
        postgres "\
            INSERT INTO lobbyd_talk_timers (room_id, token, room_type, due_at)
            SELECT room, token, type, to_timestamp(due_at)
            FROM json_to_recordset(CAST($1 AS json))
                     AS timers (room bigint, token text, type bigint, due_at bigint)
            ON CONFLICT (room_id, due_at) DO NOTHING",
        mysql "\
            INSERT INTO lobbyd_talk_timers (room_id, token, room_type, due_at)
            SELECT timers.room, timers.token, timers.type,
                   TIMESTAMP'1970-01-01 00:00:00' + INTERVAL timers.due_at SECOND
            FROM JSON_TABLE($1, '$[*]' COLUMNS (
                     room BIGINT PATH '$.room',
                     token VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$.token',
                     type BIGINT PATH '$.type',
                     due_at BIGINT PATH '$.due_at'
                 )) AS timers
            ON DUPLICATE KEY UPDATE token = VALUES(token)",
        // The condition tells the parser that ON does not belong to a join.
        sqlite "\
            INSERT INTO lobbyd_talk_timers (room_id, token, room_type, due_at)
            SELECT value ->> 'room', value ->> 'token', value ->> 'type',
                   datetime(value ->> 'due_at', 'unixepoch')
            FROM json_each($1) WHERE TRUE
            ON CONFLICT (room_id, due_at) DO NOTHING";

    /// limit → room, token, type, due time (seconds).
    RECORDED:
        postgres "\
            SELECT room_id AS id, token, room_type, extract(epoch FROM due_at)::bigint AS due_at
            FROM lobbyd_talk_timers ORDER BY lobbyd_talk_timers.due_at LIMIT $1",
        mysql "\
            SELECT room_id AS id, token, room_type,
                   TIMESTAMPDIFF(SECOND, '1970-01-01', due_at) AS due_at
            FROM lobbyd_talk_timers ORDER BY lobbyd_talk_timers.due_at LIMIT $1",
        sqlite "\
            SELECT room_id AS id, token, room_type, unixepoch(due_at) AS due_at
            FROM lobbyd_talk_timers ORDER BY lobbyd_talk_timers.due_at LIMIT $1";

    /// room, due time (seconds).
    DELETE:
        postgres "\
            DELETE FROM lobbyd_talk_timers WHERE room_id = $1 AND due_at = to_timestamp($2)",
        mysql "\
            DELETE FROM lobbyd_talk_timers
            WHERE room_id = $1
              AND due_at = TIMESTAMP'1970-01-01 00:00:00' + INTERVAL $2 SECOND",
        sqlite "\
            DELETE FROM lobbyd_talk_timers
            WHERE room_id = $1 AND due_at = datetime($2, 'unixepoch')";

    /// token → version.
    LOBBY_VERSION: portable "SELECT version FROM lobbyd_talk_lobbies WHERE token = $1";

    /// token, version.
    SET_LOBBY_VERSION:
        postgres "\
            INSERT INTO lobbyd_talk_lobbies (token, version) VALUES ($1, $2)
            ON CONFLICT (token) DO UPDATE SET version = excluded.version",
        mysql "\
            INSERT INTO lobbyd_talk_lobbies (token, version) VALUES ($1, $2)
            ON DUPLICATE KEY UPDATE version = VALUES(version)",
        sqlite "\
            INSERT INTO lobbyd_talk_lobbies (token, version) VALUES ($1, $2)
            ON CONFLICT (token) DO UPDATE SET version = excluded.version";
}
