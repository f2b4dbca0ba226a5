//! Attendees of the rooms.

/// The columns of [`attendee`](crate::store::rows::attendee).
macro_rules! attendee {
    ($rest:literal) => {
        concat!(
            "\
            SELECT id, actor_type, actor_id, display_name, participant_type, permissions, pin,
                   last_read_message, comments_read, session_id, in_call, last_ping
            FROM lobbyd_attendees WHERE room_id = $1 ",
            $rest
        )
    };
}

statements! {
    /// room, kind of actor, actor.
    BY_ACTOR: portable attendee!("AND actor_type = $2 AND actor_id = $3");

    /// room, attendee.
    BY_ID: portable attendee!("AND id = $2");

    /// room.
    ALL_OF_ROOM: portable attendee!("ORDER BY id");

    /// room, an attendee → how many others are moderators, users, in the call.
    COUNT_OTHERS: portable "\
        SELECT count(CASE WHEN participant_type IN (1, 2) THEN 1 END) AS moderators,
               count(CASE WHEN actor_type = 'users' THEN 1 END) AS users,
               count(CASE WHEN in_call <> 0 THEN 1 END) AS in_call
        FROM lobbyd_attendees WHERE room_id = $1 AND id <> $2";

    /// room → how many owners and moderators it has.
    COUNT_MODERATORS: portable "\
        SELECT count(*) AS number FROM lobbyd_attendees
        WHERE room_id = $1 AND participant_type IN (1, 2)";

    /// room → how many are in the call.
    COUNT_IN_CALL: portable "\
        SELECT count(*) AS number FROM lobbyd_attendees WHERE room_id = $1 AND in_call > 0";

    /// user → how many rooms they own.
    COUNT_OWNED: portable "\
        SELECT count(*) AS number FROM lobbyd_attendees
        WHERE actor_type = 'users' AND actor_id = $1 AND participant_type = 1";

    /// room → how many guests it has.
    COUNT_GUESTS: portable "\
        SELECT count(*) AS number FROM lobbyd_attendees WHERE room_id = $1 AND actor_type = 'guests'";

    /// kind of actor, actor, display name, participant type, permissions, PIN, the room, whose last
    /// message is read, comments read, session, in call, last ping, room.
    INSERT: portable "\
        INSERT INTO lobbyd_attendees (actor_type, actor_id, display_name, participant_type,
                                      permissions, pin, last_read_message, comments_read,
                                      session_id, in_call, last_ping, room_id)
        VALUES ($1, $2, $3, $4, $5, $6,
                (SELECT coalesce(max(id), 0) FROM lobbyd_messages WHERE room_id = $7),
                $8, $9, $10, $11, $12)";

    /// display name, participant type, permissions, session, in call, last ping, attendee.
    UPDATE: portable "\
        UPDATE lobbyd_attendees
        SET display_name = $1, participant_type = $2, permissions = $3, session_id = $4,
            in_call = $5, last_ping = $6
        WHERE id = $7";

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

    /// room. Repeats [`Attendee::is_waiting`](crate::domain::Attendee::is_waiting).
    REMOVE_WAITING_FROM_CALL: portable "\
        UPDATE lobbyd_attendees SET in_call = 0
        WHERE room_id = $1 AND in_call <> 0 AND participant_type NOT IN (1, 2, 6)
          AND (permissions & 8) = 0";

    /// room.
    REMOVE_ALL_FROM_CALL: portable
        "UPDATE lobbyd_attendees SET in_call = 0 WHERE room_id = $1 AND in_call <> 0";

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
        SELECT room.token, attendee.actor_type, attendee.actor_id, attendee.session_id
        FROM lobbyd_attendees AS attendee JOIN lobbyd_rooms AS room ON room.id = attendee.room_id
        WHERE attendee.session_id IS NOT NULL AND attendee.last_ping < $1
          AND attendee.seen_at < $2
        ORDER BY attendee.last_ping LIMIT $3";

    /// JSON of attendees, now (seconds).
    TOUCH:
        postgres "\
            UPDATE lobbyd_attendees SET seen_at = $2
            WHERE id IN (
                SELECT id FROM lobbyd_attendees
                WHERE id = ANY (ARRAY(
                    SELECT value::bigint FROM json_array_elements_text(CAST($1 AS json)) AS value
                ))
                ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
            )",
        mysql "\
            UPDATE JSON_TABLE($1, '$[*]' COLUMNS (id BIGINT PATH '$')) AS ids
            STRAIGHT_JOIN lobbyd_attendees AS attendee ON attendee.id = ids.id
            SET attendee.seen_at = $2",
        sqlite "\
            UPDATE lobbyd_attendees SET seen_at = $2
            WHERE id IN (SELECT value FROM json_each($1))";
}
