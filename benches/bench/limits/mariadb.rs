//! Opening rooms in MariaDB, which has no statement that changes two tables.

use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection, Row};

use super::{BATCH, Curve, Progress, curve};

/// The rooms of the batch whose ids follow.
const EVENTS: &str = r#"
    INSERT INTO lobbyd_outbox (id, type, token, events, data, created_at, available_at, attempts)
    SELECT concat('019c0000-0000-7000-8000-', lpad(hex(min(id)), 12, '0')), 'room.updated.v1',
           min(token), count(*),
           concat('[', group_concat(concat(
               '{"id":"019c0000-0000-7000-8000-', lpad(hex(id), 12, '0'), '","token":"', token,
               '","data":{"token":"', token, '","type":', type, ',"lobbyState":0,"lobbyTimer":0,',
               '"sipEnabled":', sip_enabled, ',"version":', lobby_version + 1,
               ',"reason":"lobby_timer_reached","dueAt":"2026-01-01T00:00:00Z",',
               '"firedAt":"2026-01-01T00:00:00.002Z"},"due_at":1767225600}')), ']'),
           utc_timestamp(3), utc_timestamp(3) + INTERVAL 30 SECOND, 1
    FROM lobbyd_rooms WHERE id IN"#;
const MESSAGE: &str = "
    INSERT INTO lobbyd_messages (room_id, created_at, actor_type, actor_id, kind)
    SELECT id, unix_timestamp(), 'guests', 'system', 'lobby_timer_reached'
    FROM lobbyd_rooms WHERE id IN";
const RESET: &str = "
    UPDATE lobbyd_rooms
    SET lobby_state = 0, lobby_timer_reached = lobby_timer, lobby_timer = NULL,
        lobby_version = lobby_version + 1
    WHERE id IN";

pub(super) async fn open_rooms(url: &str) -> Curve {
    let mut connection = MySqlConnection::connect(url).await.unwrap();
    let due = format!(
        "SELECT id, token, lobby_version FROM lobbyd_rooms
         WHERE lobby_due_at <= utc_timestamp()
         ORDER BY lobby_due_at, id LIMIT {BATCH} FOR UPDATE SKIP LOCKED"
    );
    let isolation = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED";
    connection.execute(isolation).await.unwrap();
    let mut progress = Progress::begin();
    loop {
        let mut transaction = connection.begin().await.unwrap();
        let rows = transaction.fetch_all(AssertSqlSafe(due.clone())).await.unwrap();
        if rows.is_empty() {
            return curve([progress]);
        }
        let ids: Vec<String> = rows.iter().map(|row| row.get::<i64, _>(0).to_string()).collect();
        let ids = ids.join(",");
        for statement in [EVENTS, MESSAGE, RESET] {
            let statement = AssertSqlSafe(format!("{statement} ({ids})"));
            transaction.execute(statement).await.unwrap();
        }
        transaction.commit().await.unwrap();
        progress.add(rows.len());
    }
}
