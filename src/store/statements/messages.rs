//! Messages of the chats.

/// The columns of [`message`](crate::store::rows::message).
macro_rules! message {
    ($rest:literal) => {
        concat!(
            "\
            SELECT id, actor_type, actor_id, actor_name, created_at, kind, message, mentions,
                   about_type, about_id, about_name, reference_id, parent_id
            FROM lobbyd_messages WHERE room_id = $1 ",
            $rest
        )
    };
}

statements! {
    /// room, message.
    MESSAGE: portable message!("AND id = $2");

    /// room.
    LAST: portable message!("ORDER BY id DESC LIMIT 1");

    /// room → id.
    LAST_ID: portable
        "SELECT id FROM lobbyd_messages WHERE room_id = $1 ORDER BY id DESC LIMIT 1";

    /// room, message, limit.
    NEWER: portable message!("AND id > $2 ORDER BY id LIMIT $3");

    /// room, message, limit.
    OLDER: portable message!("AND id < $2 ORDER BY id DESC LIMIT $3");

    /// room, the room, message → how many comments there are up to that message.
    COMMENTS_UNTIL: portable "\
        SELECT coalesce((SELECT comments FROM lobbyd_room_states WHERE room_id = $1), 0)
             - (SELECT count(*) FROM lobbyd_messages
                WHERE room_id = $2 AND id > $3 AND kind IN ('', 'comment_deleted')) AS comments";

    /// token, user: the author becomes a user without an account, as in Talk.
    FORGET_AUTHOR: portable "\
        UPDATE lobbyd_messages SET actor_type = 'deleted_users', actor_id = 'deleted_users'
        WHERE room_id = (SELECT id FROM lobbyd_rooms WHERE token = $1)
          AND actor_type = 'users' AND actor_id = $2";

    /// kind of actor, actor, name, time, kind, message, mentions, of the participant that it is
    /// about: kind of actor, actor, name; reference, parent, room.
    INSERT: portable "\
        INSERT INTO lobbyd_messages (actor_type, actor_id, actor_name, created_at, kind, message,
                                     mentions, about_type, about_id, about_name, reference_id,
                                     parent_id, room_id)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";

    /// kind of the actor who deletes it, actor, name, message.
    DELETE: portable "\
        UPDATE lobbyd_messages
        SET kind = 'comment_deleted', message = '', mentions = '', about_type = $1, about_id = $2,
            about_name = $3
        WHERE id = $4";

    /// JSON of `{room_id, created_at, kind}`: system messages of lobbyd, in this order.
    INSERT_SYSTEM:
        postgres "\
            INSERT INTO lobbyd_messages (room_id, created_at, actor_type, actor_id, kind)
            SELECT room_id, created_at, 'guests', 'system', kind
            FROM json_to_recordset(CAST($1 AS json))
                 AS new(room_id bigint, created_at bigint, kind text)",
        mysql "\
            INSERT INTO lobbyd_messages (room_id, created_at, actor_type, actor_id, kind)
            SELECT room_id, created_at, 'guests', 'system', kind
            FROM JSON_TABLE($1, '$[*]' COLUMNS (
                     room_id BIGINT PATH '$.room_id', created_at BIGINT PATH '$.created_at',
                     kind VARCHAR(64) CHARACTER SET utf8mb4 PATH '$.kind'
                 )) AS new_rows",
        sqlite "\
            INSERT INTO lobbyd_messages (room_id, created_at, actor_type, actor_id, kind)
            SELECT value ->> 'room_id', value ->> 'created_at', 'guests', 'system',
                   value ->> 'kind'
            FROM jsonb_each($1)";

    /// time, kind, JSON of rooms: a system message of lobbyd in each of those that is open.
    INSERT_IN_OPEN:
        postgres "\
            INSERT INTO lobbyd_messages (room_id, created_at, actor_type, actor_id, kind)
            SELECT id, CAST($1 AS bigint), 'guests', 'system', CAST($2 AS text)
            FROM lobbyd_rooms
            WHERE id = ANY (ARRAY(SELECT CAST(id AS bigint)
                                  FROM json_array_elements_text(CAST($3 AS json)) AS ids(id)))
              AND lobby_state = 0",
        mysql "\
            INSERT INTO lobbyd_messages (room_id, created_at, actor_type, actor_id, kind)
            SELECT room.id, $1, 'guests', 'system', $2
            FROM JSON_TABLE($3, '$[*]' COLUMNS (id BIGINT PATH '$')) AS ids
            STRAIGHT_JOIN lobbyd_rooms AS room ON room.id = ids.id
            WHERE room.lobby_state = 0",
        sqlite "\
            INSERT INTO lobbyd_messages (room_id, created_at, actor_type, actor_id, kind)
            SELECT id, $1, 'guests', 'system', $2
            FROM lobbyd_rooms WHERE id IN (SELECT value FROM json_each($3)) AND lobby_state = 0";

    /// room.
    DELETE_OF_ROOM: portable "DELETE FROM lobbyd_messages WHERE room_id = $1";
}
