//! Sets of rooms whose lobbies are changed by events.

statements! {
    /// JSON of tokens → id. Locks the rows until the transaction ends, and skips those that are
    /// locked.
    LOCK:
        postgres "\
            SELECT id FROM lobbyd_rooms
            WHERE token = ANY (ARRAY(SELECT json_array_elements_text(CAST($1 AS json))))
            FOR NO KEY UPDATE SKIP LOCKED",
        mysql "\
            SELECT room.id
            FROM JSON_TABLE($1, '$[*]' COLUMNS (
                     token VARCHAR(32) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$'
                 )) AS tokens
            STRAIGHT_JOIN lobbyd_rooms AS room ON room.token = tokens.token
            FOR UPDATE SKIP LOCKED",
        sqlite "SELECT id FROM lobbyd_rooms WHERE token IN (SELECT value FROM json_each($1))";

    /// JSON of `{id, state, timer, version, before}`: sets the lobbies of the rooms that still have
    /// the version `before`.
    UPDATE_LOBBIES:
        postgres "\
            UPDATE lobbyd_rooms AS room
            SET lobby_state = new.state, lobby_timer = to_timestamp(new.timer),
                lobby_version = new.version
            FROM json_to_recordset(CAST($1 AS json))
                 AS new(id bigint, state smallint, timer bigint, version bigint, before bigint)
            WHERE room.id = new.id AND room.lobby_version = new.before",
        mysql "\
            UPDATE JSON_TABLE($1, '$[*]' COLUMNS (
                       id BIGINT PATH '$.id', state SMALLINT PATH '$.state',
                       timer BIGINT PATH '$.timer', version BIGINT PATH '$.version',
                       before_version BIGINT PATH '$.before'
                   )) AS changed
            STRAIGHT_JOIN lobbyd_rooms AS room ON room.id = changed.id
            SET room.lobby_state = changed.state,
                room.lobby_timer =
                    TIMESTAMP'1970-01-01 00:00:00' + INTERVAL changed.timer SECOND,
                room.lobby_version = changed.version
            WHERE room.lobby_version = changed.before_version",
        sqlite "\
            UPDATE lobbyd_rooms
            SET lobby_state = new.value ->> 'state',
                lobby_timer = datetime(new.value ->> 'timer', 'unixepoch'),
                lobby_version = new.value ->> 'version'
            FROM json_each($1) AS new
            WHERE lobbyd_rooms.id = new.value ->> 'id'
              AND lobby_version = new.value ->> 'before'";

    /// JSON of `{room_id, changed_at}`.
    SET_CHANGED_AT:
        postgres "\
            INSERT INTO lobbyd_room_states (room_id, changed_at)
            SELECT room_id, changed_at
            FROM json_to_recordset(CAST($1 AS json)) AS new(room_id bigint, changed_at bigint)
            ON CONFLICT (room_id) DO UPDATE SET changed_at = excluded.changed_at",
        mysql "\
            INSERT INTO lobbyd_room_states (room_id, changed_at)
            SELECT changed.room_id, changed.changed_at
            FROM JSON_TABLE($1, '$[*]' COLUMNS (
                     room_id BIGINT PATH '$.room_id', changed_at BIGINT PATH '$.changed_at'
                 )) AS changed
            ON DUPLICATE KEY UPDATE changed_at = VALUES(changed_at)",
        // The condition tells the parser that ON does not belong to a join.
        sqlite "\
            INSERT INTO lobbyd_room_states (room_id, changed_at)
            SELECT value ->> 'room_id', value ->> 'changed_at' FROM json_each($1) WHERE TRUE
            ON CONFLICT (room_id) DO UPDATE SET changed_at = excluded.changed_at";
}
