//! The statements behind the HTTP API: one text for all three databases.
//!
//! They keep to what all three understand, and to columns whose types all three read alike: whole
//! numbers and texts. Each placeholder stands once, in the order of its number, so that MySQL's,
//! which have no numbers, can be made of them.

use std::sync::LazyLock;

/// Names each statement once, with its text.
macro_rules! shared_statements {
    ($($(#[$doc:meta])* $name:ident: $sql:expr,)*) => {
        /// The texts, with the placeholders of one kind of database.
        #[derive(Debug)]
        pub(super) struct Shared {
            $($(#[$doc])* pub(super) $name: &'static str,)*
        }

        impl Shared {
            const NUMBERED: Self = Self { $($name: $sql,)* };

            /// Every text.
            pub(super) fn all(&self) -> Vec<&'static str> {
                vec![$(self.$name,)*]
            }

            fn each(&self, change: impl Fn(&'static str) -> &'static str) -> Self {
                Self { $($name: change(self.$name),)* }
            }
        }
    };
}

/// The columns of [`AttendeeRow`](super::rows::AttendeeRow).
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

/// The columns of [`MessageRow`](super::rows::MessageRow).
macro_rules! message {
    ($rest:literal) => {
        concat!(
            "\
            SELECT id, actor_type, actor_id, actor_name, created_at, kind, message, about_type,
                   about_id, about_name, reference_id, parent_id
            FROM lobbyd_messages WHERE room_id = $1 ",
            $rest
        )
    };
}

shared_statements! {
    /// id, display name, password hash.
    add_user: "INSERT INTO lobbyd_users (id, display_name, password_hash) VALUES ($1, $2, $3)",
    /// user, group.
    add_group: "INSERT INTO lobbyd_user_groups (user_id, name) VALUES ($1, $2)",
    /// id → id, display name, password hash. (MySQL finds "alice " for "alice", so it is compared.)
    user: "SELECT id, display_name, password_hash FROM lobbyd_users WHERE id = $1",
    /// user → groups.
    groups: "SELECT name FROM lobbyd_user_groups WHERE user_id = $1 ORDER BY name",
    /// → id, display name.
    users: "SELECT id, display_name FROM lobbyd_users ORDER BY id",
    /// hash, id.
    set_user_password: "UPDATE lobbyd_users SET password_hash = $1 WHERE id = $2",
    /// id.
    remove_user: "DELETE FROM lobbyd_users WHERE id = $1",
    /// user.
    remove_groups: "DELETE FROM lobbyd_user_groups WHERE user_id = $1",
    /// user.
    remove_from_rooms: "\
        DELETE FROM lobbyd_attendees WHERE actor_type = 'users' AND actor_id = $1",
    /// user → tokens of the rooms that he takes part in.
    rooms_of_user: "\
        SELECT room.token FROM lobbyd_attendees AS attendee
        JOIN lobbyd_rooms AS room ON room.id = attendee.room_id
        WHERE attendee.actor_type = 'users' AND attendee.actor_id = $1 ORDER BY room.id",

    /// token, type, name, description, object type, object id, version.
    make_room: "\
        INSERT INTO lobbyd_rooms (token, type, name, description, object_type, object_id,
                                  lobby_version)
        VALUES ($1, $2, $3, $4, $5, $6, $7)",
    /// type, name, description, SIP, version, id, the version that was read.
    update_room: "\
        UPDATE lobbyd_rooms
        SET type = $1, name = $2, description = $3, sip_enabled = $4, lobby_version = $5
        WHERE id = $6 AND lobby_version = $7",
    /// password hash, start of the call, its flags, comments, changed at, room.
    update_state: "\
        UPDATE lobbyd_room_states
        SET password_hash = $1, call_started_at = $2, call_flags = $3, comments = $4,
            changed_at = $5
        WHERE room_id = $6",
    /// The same.
    insert_state: "\
        INSERT INTO lobbyd_room_states (password_hash, call_started_at, call_flags, comments,
                                        changed_at, room_id)
        VALUES ($1, $2, $3, $4, $5, $6)",
    /// room.
    delete_messages: "DELETE FROM lobbyd_messages WHERE room_id = $1",
    /// room.
    delete_attendees: "DELETE FROM lobbyd_attendees WHERE room_id = $1",
    /// room.
    delete_state: "DELETE FROM lobbyd_room_states WHERE room_id = $1",
    /// room.
    delete_room: "DELETE FROM lobbyd_rooms WHERE id = $1",

    /// room, kind of actor, actor.
    attendee: attendee!("AND actor_type = $2 AND actor_id = $3"),
    /// room, attendee.
    attendee_by_id: attendee!("AND id = $2"),
    /// room.
    attendees: attendee!("ORDER BY id"),
    /// room, an attendee → how many others are moderators, users, in the call.
    others: "\
        SELECT count(CASE WHEN participant_type IN (1, 2) THEN 1 END),
               count(CASE WHEN actor_type = 'users' THEN 1 END),
               count(CASE WHEN in_call <> 0 THEN 1 END)
        FROM lobbyd_attendees WHERE room_id = $1 AND id <> $2",
    /// room → how many are owners and moderators.
    count_moderators: "\
        SELECT count(*) FROM lobbyd_attendees WHERE room_id = $1 AND participant_type IN (1, 2)",
    /// room → how many are in the call.
    count_in_call: "SELECT count(*) FROM lobbyd_attendees WHERE room_id = $1 AND in_call > 0",
    /// kind of actor, actor, display name, participant type, permissions, PIN, the room, whose last
    /// message is read, comments read, session, in call, last ping, room.
    insert_attendee: "\
        INSERT INTO lobbyd_attendees (actor_type, actor_id, display_name, participant_type,
                                      permissions, pin, last_read_message, comments_read,
                                      session_id, in_call, last_ping, room_id)
        VALUES ($1, $2, $3, $4, $5, $6,
                (SELECT coalesce(max(id), 0) FROM lobbyd_messages WHERE room_id = $7),
                $8, $9, $10, $11, $12)",
    /// display name, participant type, permissions, session, in call, last ping, attendee.
    update_attendee: "\
        UPDATE lobbyd_attendees
        SET display_name = $1, participant_type = $2, permissions = $3, session_id = $4,
            in_call = $5, last_ping = $6
        WHERE id = $7",
    /// attendee.
    delete_attendee: "DELETE FROM lobbyd_attendees WHERE id = $1",
    /// room: users without PIN.
    without_pin: "\
        SELECT id FROM lobbyd_attendees
        WHERE room_id = $1 AND actor_type = 'users' AND pin IS NULL ORDER BY id",
    /// room → PINs.
    pins: "SELECT pin FROM lobbyd_attendees WHERE room_id = $1 AND pin IS NOT NULL",
    /// PIN, attendee.
    set_pin: "UPDATE lobbyd_attendees SET pin = $1 WHERE id = $2",
    /// room.
    drop_pins: "UPDATE lobbyd_attendees SET pin = NULL WHERE room_id = $1",
    /// room: those leave the call who have to wait behind the lobby, see
    /// [`Attendee::is_waiting`](crate::domain::Attendee::is_waiting).
    waiting_leave_call: "\
        UPDATE lobbyd_attendees SET in_call = 0
        WHERE room_id = $1 AND in_call <> 0 AND participant_type NOT IN (1, 2, 6)
          AND (permissions & 8) = 0",
    /// room.
    everybody_leaves_call: "\
        UPDATE lobbyd_attendees SET in_call = 0 WHERE room_id = $1 AND in_call <> 0",
    /// room: guests, and users who came by the link.
    uninvited_go: "\
        DELETE FROM lobbyd_attendees WHERE room_id = $1 AND participant_type IN (4, 5, 6)",
    /// message, comments, now (seconds), attendee, the same message: older ones than the last change
    /// nothing.
    mark_read: "\
        UPDATE lobbyd_attendees SET last_read_message = $1, comments_read = $2, read_at = $3
        WHERE id = $4 AND last_read_message < $5",
    /// since (seconds) → room, kind of actor, actor.
    read_since: "\
        SELECT room_id, actor_type, actor_id FROM lobbyd_attendees WHERE read_at >= $1",
    /// before (seconds), the same, limit → token, kind of actor, actor, session.
    unseen: "\
        SELECT room.token, attendee.actor_type, attendee.actor_id, attendee.session_id
        FROM lobbyd_attendees AS attendee JOIN lobbyd_rooms AS room ON room.id = attendee.room_id
        WHERE attendee.session_id IS NOT NULL AND attendee.last_ping < $1
          AND attendee.seen_at < $2
        ORDER BY attendee.last_ping LIMIT $3",

    /// kind of actor, actor, name, time, kind, message, about whom: kind of actor, actor, name,
    /// reference, parent, room.
    insert_message: "\
        INSERT INTO lobbyd_messages (actor_type, actor_id, actor_name, created_at, kind, message,
                                     about_type, about_id, about_name, reference_id, parent_id,
                                     room_id)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
    /// room.
    last_message: message!("ORDER BY id DESC LIMIT 1"),
    /// room → id.
    last_message_id: "\
        SELECT id FROM lobbyd_messages WHERE room_id = $1 ORDER BY id DESC LIMIT 1",
    /// room, message.
    message: message!("AND id = $2"),
    /// room, message, limit: newer ones.
    newer_messages: message!("AND id > $2 ORDER BY id LIMIT $3"),
    /// room, message, limit: older ones.
    older_messages: message!("AND id < $2 ORDER BY id DESC LIMIT $3"),
    /// room, the room, message → how many chat messages there are until that one.
    comments_until: "\
        SELECT coalesce((SELECT comments FROM lobbyd_room_states WHERE room_id = $1), 0)
             - (SELECT count(*) FROM lobbyd_messages
                WHERE room_id = $2 AND id > $3 AND kind = '')",
}

/// With numbered placeholders.
pub(super) static NUMBERED: Shared = Shared::NUMBERED;

/// With question marks, as MySQL has them.
pub(super) static QUESTION_MARKS: LazyLock<Shared> = LazyLock::new(|| {
    // The texts live as long as the process, like those that they are made of.
    Shared::NUMBERED.each(|sql| Box::leak(with_question_marks(sql).into_boxed_str()))
});

fn with_question_marks(sql: &str) -> String {
    let mut parts = sql.split('$');
    let mut marked = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        marked.push('?');
        marked.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    marked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_stand_in_the_order_of_their_numbers() {
        for sql in NUMBERED.all() {
            let numbers: Vec<usize> = sql
                .split('$')
                .skip(1)
                .map(|part| {
                    let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
                    digits.parse().unwrap()
                })
                .collect();
            let expected: Vec<usize> = (1..=numbers.len()).collect();
            assert_eq!(numbers, expected, "{sql}");
        }
    }

    #[test]
    fn placeholders_become_question_marks() {
        let marked = with_question_marks("SELECT a WHERE b = $1 AND c IN ($10, 2)");
        assert_eq!(marked, "SELECT a WHERE b = ? AND c IN (?, 2)");
        assert_eq!(QUESTION_MARKS.delete_room, "DELETE FROM lobbyd_rooms WHERE id = ?");
    }
}
