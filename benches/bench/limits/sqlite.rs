//! Opening rooms in SQLite by three statements for each batch.

use std::str::FromStr;

use sqlx::{
    AssertSqlSafe, ConnectOptions, Executor,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use super::{BATCH, Curve, Progress, curve};

const EVENTS: &str = r#"
    INSERT INTO lobbyd_outbox (id, type, token, events, data, created_at, available_at, attempts)
    SELECT printf('019c0000-0000-7000-8000-%012x', min(id)), 'room.updated.v1', min(token),
           count(*),
           concat('[', group_concat(concat(
               '{"id":"', printf('019c0000-0000-7000-8000-%012x', id), '","token":"', token,
               '","data":{"token":"', token, '","type":', type, ',"lobbyState":0,"lobbyTimer":0,',
               '"sipEnabled":', sip_enabled, ',"version":', lobby_version + 1,
               ',"reason":"lobby_timer_reached","dueAt":"2026-01-01T00:00:00Z",',
               '"firedAt":"2026-01-01T00:00:00.002Z"},"due_at":1767225600}')), ']'),
           strftime('%Y-%m-%d %H:%M:%f'), strftime('%Y-%m-%d %H:%M:%f', 'now', '30 seconds'), 1
    FROM lobbyd_rooms WHERE id IN"#;
const MESSAGE: &str = "
    INSERT INTO lobbyd_messages (room_id, created_at, actor_type, actor_id, kind)
    SELECT id, unixepoch(), 'guests', 'system', 'lobby_timer_reached'
    FROM lobbyd_rooms WHERE id IN";
const RESET: &str = "
    UPDATE lobbyd_rooms
    SET lobby_state = 0, lobby_timer_reached = lobby_timer, lobby_timer = NULL,
        lobby_version = lobby_version + 1
    WHERE id IN";

pub(super) async fn open_rooms(url: &str) -> Curve {
    let options = SqliteConnectOptions::from_str(url)
        .unwrap()
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full);
    let mut connection = options.connect().await.unwrap();
    let due = format!(
        "SELECT id FROM lobbyd_rooms
         WHERE lobby_timer IS NOT NULL AND lobby_state = 1 AND type IN (2, 3) AND object_type IN
               ('', 'room', 'emails', 'event', 'extended_conversation', 'instant_meeting')
           AND lobby_timer <= datetime('now')
         ORDER BY lobby_timer, id LIMIT {BATCH}"
    );
    let events = format!("{EVENTS} ({due}) HAVING count(*) > 0");
    let message = format!("{MESSAGE} ({due})");
    let reset = format!("{RESET} ({due}) RETURNING id, token, lobby_version");
    let mut progress = Progress::begin();
    loop {
        connection.execute("BEGIN IMMEDIATE").await.unwrap();
        for insert in [&events, &message] {
            connection.execute(AssertSqlSafe(insert.clone())).await.unwrap();
        }
        let opened = connection.fetch_all(AssertSqlSafe(reset.clone())).await.unwrap();
        connection.execute("COMMIT").await.unwrap();
        if opened.is_empty() {
            return curve([progress]);
        }
        progress.add(opened.len());
    }
}
