//! The statements of the limits on MariaDB and SQLite. Neither has one that changes two tables, so
//! there are three for each batch. A condition on the ids of its rooms follows each of them.

/// How a database writes what differs in [`events`].
pub(super) struct EventTexts {
    /// The id of the event of room `id`, and of the first room.
    pub(super) id: &'static str,
    pub(super) first_id: &'static str,
    pub(super) now: &'static str,
    pub(super) claimed_until: &'static str,
}

/// Writes a row of the outbox for the rooms.
pub(super) fn events(texts: &EventTexts) -> String {
    let EventTexts { id, first_id, now, claimed_until } = texts;
    format!(
        r#"
        INSERT INTO lobbyd_outbox (id, type, token, events, data, created_at, available_at, attempts)
        SELECT {first_id}, 'room.updated.v1', min(token), count(*),
               concat('[', group_concat(concat(
                   '{{"id":"', {id}, '","token":"', token, '","data":{{"token":"', token,
                   '","type":', type, ',"lobbyState":0,"lobbyTimer":0,"sipEnabled":', sip_enabled,
                   ',"version":', lobby_version + 1, ',"reason":"lobby_timer_reached",',
                   '"dueAt":"2026-01-01T00:00:00Z","firedAt":"2026-01-01T00:00:00.002Z"}},',
                   '"due_at":1767225600}}')), ']'),
               {now}, {claimed_until}, 1
        FROM lobbyd_rooms WHERE id IN"#
    )
}

/// Writes a message of the chat of each room, at `now` in Unix seconds.
pub(super) fn messages(now: &str) -> String {
    format!(
        "INSERT INTO lobbyd_messages (room_id, created_at, actor_type, actor_id, kind)
         SELECT id, {now}, 'guests', 'system', 'lobby_timer_reached'
         FROM lobbyd_rooms WHERE id IN"
    )
}

/// Resets the rooms.
pub(super) const RESET: &str = "
    UPDATE lobbyd_rooms
    SET lobby_state = 0, lobby_timer_reached = lobby_timer, lobby_timer = NULL,
        lobby_version = lobby_version + 1
    WHERE id IN";
