//! Attendees of the rooms, and their sessions, which are deleted with them.

/// The columns of [`attendee`](crate::store::rows::attendee), a row per session.
macro_rules! attendee {
    ($condition:literal) => {
        concat!(
            "\
            SELECT attendee.id, attendee.actor_type, attendee.actor_id, attendee.display_name,
                   attendee.participant_type, attendee.permissions, attendee.pin,
                   attendee.last_read_message, attendee.comments_read, attendee.read_at,
                   attendee.last_mention, session.session_id, session.client, session.in_call, session.last_ping
            FROM lobbyd_attendees AS attendee
            LEFT JOIN lobbyd_sessions AS session ON session.attendee_id = attendee.id
            WHERE attendee.room_id = $1 ",
            $condition,
            " ORDER BY attendee.id, session.id"
        )
    };
}

statements! {
    /// room, kind of actor, actor.
    BY_ACTOR: portable attendee!("AND attendee.actor_type = $2 AND attendee.actor_id = $3");

    /// room, attendee.
    BY_ID: portable attendee!("AND attendee.id = $2");

    /// room.
    ALL_OF_ROOM: portable attendee!("");

    /// room, an attendee, the same → how many others are moderators, users, in the call.
    COUNT_OTHERS: portable "\
        SELECT count(CASE WHEN participant_type IN (1, 2) THEN 1 END) AS moderators,
               count(CASE WHEN actor_type = 'users' THEN 1 END) AS users,
               (SELECT count(*) FROM lobbyd_sessions
                WHERE room_id = $1 AND attendee_id <> $2 AND in_call <> 0) AS in_call
        FROM lobbyd_attendees WHERE room_id = $3 AND id <> $4";

    /// room → how many owners and moderators it has, and how many users.
    COUNT_USERS: portable "\
        SELECT count(CASE WHEN participant_type IN (1, 2) THEN 1 END) AS moderators,
               count(*) AS users
        FROM lobbyd_attendees WHERE room_id = $1 AND actor_type = 'users'";

    /// room → the last message that all users have read.
    LAST_COMMON_READ: portable "\
        SELECT coalesce(min(last_read_message), 0) AS id FROM lobbyd_attendees
        WHERE room_id = $1 AND actor_type = 'users'";

    /// message, attendee.
    MENTION: portable "UPDATE lobbyd_attendees SET last_mention = $1 WHERE id = $2";

    /// room.
    RESET_PERMISSIONS: portable
        "UPDATE lobbyd_attendees SET permissions = 0 WHERE room_id = $1 AND permissions <> 0";

    /// room → how many sessions are in the call.
    COUNT_IN_CALL: portable
        "SELECT count(*) AS number FROM lobbyd_sessions WHERE room_id = $1 AND in_call <> 0";

    /// user → how many rooms they own.
    COUNT_OWNED: portable "\
        SELECT count(*) AS number FROM lobbyd_attendees
        WHERE actor_type = 'users' AND actor_id = $1 AND participant_type = 1";

    /// room → how many guests it has.
    COUNT_GUESTS: portable "\
        SELECT count(*) AS number FROM lobbyd_attendees WHERE room_id = $1 AND actor_type = 'guests'";

    /// kind of actor, actor, display name, participant type, permissions, PIN, the room, whose last
    /// message is read, comments read, room.
    INSERT: portable "\
        INSERT INTO lobbyd_attendees (actor_type, actor_id, display_name, participant_type,
                                      permissions, pin, last_read_message, comments_read,
                                      room_id)
        VALUES ($1, $2, $3, $4, $5, $6,
                (SELECT coalesce(max(id), 0) FROM lobbyd_messages WHERE room_id = $7),
                $8, $9)";

    /// display name, participant type, permissions, attendee.
    UPDATE: portable "\
        UPDATE lobbyd_attendees SET display_name = $1, participant_type = $2, permissions = $3
        WHERE id = $4";

    /// session, client, in call, last ping, room, the same, kind of actor, actor.
    INSERT_SESSION: portable "\
        INSERT INTO lobbyd_sessions (session_id, client, in_call, last_ping, room_id, attendee_id)
        VALUES ($1, $2, $3, $4, $5,
                (SELECT id FROM lobbyd_attendees
                 WHERE room_id = $6 AND actor_type = $7 AND actor_id = $8))";

    /// in call, session.
    SET_CALL_FLAGS: portable "UPDATE lobbyd_sessions SET in_call = $1 WHERE session_id = $2";

    /// session.
    DELETE_SESSION: portable "DELETE FROM lobbyd_sessions WHERE session_id = $1";

    /// attendee.
    DELETE: portable "DELETE FROM lobbyd_attendees WHERE id = $1";

    /// room.
    DELETE_OF_ROOM: portable "DELETE FROM lobbyd_attendees WHERE room_id = $1";

    /// user.
    DELETE_OF_USER: portable
        "DELETE FROM lobbyd_attendees WHERE actor_type = 'users' AND actor_id = $1";

    /// room → users without PIN.
    WITHOUT_PIN: portable "\
        SELECT id FROM lobbyd_attendees
        WHERE room_id = $1 AND actor_type = 'users' AND pin IS NULL ORDER BY id";

    /// room → PINs.
    PINS: portable
        "SELECT pin FROM lobbyd_attendees WHERE room_id = $1 AND pin IS NOT NULL";

    /// PIN, attendee.
    SET_PIN: portable "UPDATE lobbyd_attendees SET pin = $1 WHERE id = $2";

    /// room.
    DROP_PINS: portable "UPDATE lobbyd_attendees SET pin = NULL WHERE room_id = $1";

    /// room, permissions that do not wait in this room either. Repeats
    /// [`Attendee::is_waiting`](crate::domain::Attendee::is_waiting).
    REMOVE_WAITING_FROM_CALL: portable "\
        UPDATE lobbyd_sessions SET in_call = 0
        WHERE room_id = $1 AND in_call <> 0
          AND EXISTS (SELECT 1 FROM lobbyd_attendees AS attendee
                      WHERE attendee.id = lobbyd_sessions.attendee_id
                        AND attendee.participant_type NOT IN (1, 2, 6)
                        AND (attendee.permissions & 8) = 0 AND attendee.permissions <> $2)";

    /// room.
    REMOVE_ALL_FROM_CALL: portable
        "UPDATE lobbyd_sessions SET in_call = 0 WHERE room_id = $1 AND in_call <> 0";

    /// room. Repeats
    /// [`ParticipantType::is_uninvited`](crate::domain::ParticipantType::is_uninvited).
    REMOVE_UNINVITED: portable
        "DELETE FROM lobbyd_attendees WHERE room_id = $1 AND participant_type IN (4, 5, 6)";

    /// message, comments, now (seconds), attendee, the same message: an older one than the last
    /// changes nothing.
    MARK_READ: portable "\
        UPDATE lobbyd_attendees SET last_read_message = $1, comments_read = $2, read_at = $3
        WHERE id = $4 AND last_read_message < $5";

    /// since (seconds) → room, kind of actor, actor.
    READ_SINCE: portable
        "SELECT room_id, actor_type, actor_id FROM lobbyd_attendees WHERE read_at >= $1";

    /// before (seconds), the same, limit → token, kind of actor, actor, session.
    INACTIVE: portable "\
        SELECT room.token, attendee.actor_type, attendee.actor_id, session.session_id
        FROM lobbyd_sessions AS session
        JOIN lobbyd_attendees AS attendee ON attendee.id = session.attendee_id
        JOIN lobbyd_rooms AS room ON room.id = session.room_id
        WHERE session.last_ping < $1 AND session.seen_at < $2
        ORDER BY session.last_ping LIMIT $3";

    /// JSON of sessions, now (seconds).
    TOUCH:
        postgres "\
            UPDATE lobbyd_sessions SET seen_at = $2
            WHERE id IN (
                SELECT id FROM lobbyd_sessions
                WHERE session_id = ANY (ARRAY(SELECT json_array_elements_text(CAST($1 AS json))))
                ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
            )",
        mysql "\
            UPDATE JSON_TABLE($1, '$[*]' COLUMNS (
                       id VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$'
                   )) AS ids
            STRAIGHT_JOIN lobbyd_sessions AS session ON session.session_id = ids.id
            SET session.seen_at = $2",
        sqlite "\
            UPDATE lobbyd_sessions SET seen_at = $2
            WHERE session_id IN (SELECT value FROM json_each($1))";
}
