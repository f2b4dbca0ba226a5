//! Sets of rooms whose lobbies are changed by events.

macro_rules! update_lobbies {
    (postgres) => {
        "\
            UPDATE lobbyd_rooms AS room
            SET lobby_state = new.state, lobby_timer = to_timestamp(new.timer),
                lobby_version = new.version
            FROM json_to_recordset(CAST($1 AS json))
                 AS new(id bigint, state smallint, timer bigint, version bigint, before bigint)
            WHERE room.id = new.id AND room.lobby_version = new.before"
    };
    (mysql) => {
        "\
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
            WHERE room.lobby_version = changed.before_version"
    };
    (sqlite) => {
        "\
            UPDATE lobbyd_rooms
            SET lobby_state = new.value ->> 'state',
                lobby_timer = datetime(new.value ->> 'timer', 'unixepoch'),
                lobby_version = new.value ->> 'version'
            FROM json_each($1) AS new
            WHERE lobbyd_rooms.id = new.value ->> 'id'
              AND lobby_version = new.value ->> 'before'"
    };
}

statements! {
    /// JSON of tokens → the columns of [`room_without_state`](crate::store::rows::room_without_state).
    /// Locks the rows until the transaction ends, and skips those that are locked. Another table
    /// would be read as it was before the lock, so none is.
    LOCK:
        postgres "\
            SELECT id, token, type::bigint AS room_type, name, description, object_type, object_id,
                   lobby_state::bigint AS lobby_state,
                   floor(extract(epoch FROM lobby_timer))::bigint AS lobby_timer, lobby_version,
                   floor(extract(epoch FROM lobby_timer_reached))::bigint AS timer_reached,
                   sip_enabled::bigint AS sip_enabled
            FROM lobbyd_rooms
            WHERE token = ANY (ARRAY(SELECT json_array_elements_text(CAST($1 AS json))))
            FOR NO KEY UPDATE SKIP LOCKED",
        mysql "\
            SELECT room.id, room.token, CAST(room.type AS SIGNED) AS room_type, room.name,
                   room.description, room.object_type, room.object_id,
                   CAST(room.lobby_state AS SIGNED) AS lobby_state,
                   TIMESTAMPDIFF(SECOND, '1970-01-01', room.lobby_timer) AS lobby_timer,
                   room.lobby_version,
                   TIMESTAMPDIFF(SECOND, '1970-01-01', room.lobby_timer_reached) AS timer_reached,
                   CAST(room.sip_enabled AS SIGNED) AS sip_enabled
            FROM JSON_TABLE($1, '$[*]' COLUMNS (
                     token VARCHAR(32) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$'
                 )) AS tokens
            STRAIGHT_JOIN lobbyd_rooms AS room ON room.token = tokens.token
            FOR UPDATE /*!80000 OF room */ SKIP LOCKED",
        sqlite "\
            SELECT id, token, type AS room_type, name, description, object_type, object_id,
                   lobby_state, unixepoch(lobby_timer) AS lobby_timer, lobby_version,
                   unixepoch(lobby_timer_reached) AS timer_reached, sip_enabled
            FROM lobbyd_rooms WHERE token IN (SELECT value FROM json_each($1))";

    /// JSON of ids → id of those rooms that have a call.
    IN_CALL:
        postgres "\
            SELECT room_id AS id FROM lobbyd_room_states
            WHERE room_id = ANY (ARRAY(SELECT json_array_elements_text(CAST($1 AS json))::bigint))
              AND call_started_at <> 0",
        mysql "\
            SELECT state.room_id AS id
            FROM JSON_TABLE($1, '$[*]' COLUMNS (id BIGINT PATH '$')) AS ids
            STRAIGHT_JOIN lobbyd_room_states AS state ON state.room_id = ids.id
            WHERE state.call_started_at <> 0",
        sqlite "\
            SELECT room_id AS id FROM lobbyd_room_states
            WHERE room_id IN (SELECT value FROM json_each($1)) AND call_started_at <> 0";

    /// JSON of `{id, state, timer, version, before}`: sets the lobbies of the rooms that still have
    /// the version `before`.
    UPDATE_LOBBIES:
        postgres update_lobbies!(postgres),
        mysql update_lobbies!(mysql),
        sqlite update_lobbies!(sqlite);

    /// As [`UPDATE_LOBBIES`], within a second: see [`RESET_SHORT`](super::rooms::RESET_SHORT).
    UPDATE_LOBBIES_SHORT:
        postgres update_lobbies!(postgres),
        mysql concat!("/*M!100300 SET STATEMENT max_statement_time = 1 FOR */ ",
                      update_lobbies!(mysql)),
        sqlite update_lobbies!(sqlite);

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
