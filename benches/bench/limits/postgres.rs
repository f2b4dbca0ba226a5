//! Opening rooms in PostgreSQL by one statement for each batch.

use std::sync::LazyLock;

use sqlx::{AssertSqlSafe, Connection, PgConnection, Row, postgres::PgRow};
use tokio::task::JoinSet;

use super::{BATCH, Curve, Progress, curve};

/// Connections on which lobbyd opens rooms.
const CONNECTIONS: usize = 1;

pub(super) async fn open_rooms(url: &str) -> Curve {
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(PgConnection::connect(url).await.unwrap());
    }
    let mut loops = JoinSet::new();
    for connection in connections {
        loops.spawn(open_all(connection));
    }
    curve(loops.join_all().await)
}

/// Opens batches from the oldest timer on, each after the key of the last one.
async fn open_all(mut connection: PgConnection) -> Progress {
    let mut progress = Progress::begin();
    let mut after = (0, 0);
    loop {
        let opened = open_batch(&mut connection, after).await;
        let Some(last) = opened.last() else { return progress };
        after = (last.get("due_at"), last.get("id"));
        progress.add(opened.len());
    }
}

/// Opens the first rooms whose timers are due, after the one with this time and id.
pub(super) async fn open_batch(connection: &mut PgConnection, after: (i64, i64)) -> Vec<PgRow> {
    let opening = sqlx::query(AssertSqlSafe(OPEN_BATCH.as_str())).bind(after.0).bind(after.1);
    opening.fetch_all(connection).await.unwrap()
}

/// Resets a batch of rooms, and writes beside them what lobbyd writes: a message of the chat for
/// each, and a row of the outbox for all. Time and id of the last timer → the rooms, in the order of
/// their timers.
static OPEN_BATCH: LazyLock<String> = LazyLock::new(|| {
    format!(
        r#"
        WITH due AS MATERIALIZED (
            SELECT id, token, type, sip_enabled, lobby_timer, lobby_version + 1 AS version
            FROM lobbyd_rooms
            WHERE lobby_timer IS NOT NULL AND lobby_state = 1 AND type IN (2, 3) AND object_type IN
                  ('', 'room', 'emails', 'event', 'extended_conversation', 'instant_meeting')
              AND (lobby_timer, id) > (to_timestamp($1::bigint), $2::bigint)
              AND lobby_timer <= now()
            ORDER BY lobby_timer, id LIMIT {BATCH} FOR NO KEY UPDATE SKIP LOCKED
        ), reset AS (
            UPDATE lobbyd_rooms AS room
            SET lobby_state = 0, lobby_timer = NULL, lobby_version = due.version,
                lobby_timer_reached = due.lobby_timer
            FROM due WHERE room.id = due.id
        ), message AS (
            INSERT INTO lobbyd_messages (room_id, created_at, actor_type, actor_id, kind)
            SELECT id, floor(extract(epoch FROM now())), 'guests', 'system', 'lobby_timer_reached'
            FROM due
        ), event AS (
            INSERT INTO lobbyd_outbox
                   (id, type, token, events, data, created_at, available_at, attempts)
            SELECT min(event_id), 'room.updated.v1', min(token), count(*),
                   concat('[', string_agg(concat(
                       '{{"id":"', event_id, '","token":"', token, '","data":{{"token":"', token,
                       '","type":', type, ',"lobbyState":0,"lobbyTimer":0,"sipEnabled":', sip_enabled,
                       ',"version":', version, ',"reason":"lobby_timer_reached",',
                       '"dueAt":"2026-01-01T00:00:00Z","firedAt":"2026-01-01T00:00:00.002Z"}},',
                       '"due_at":', floor(extract(epoch FROM lobby_timer)), '}}'), ','), ']'),
                   now(), now() + INTERVAL '30 seconds', 1
            FROM due,
                 concat('019c0000-0000-7000-8000-', lpad(to_hex(id), 12, '0')) AS event_id
            HAVING count(*) > 0
        )
        SELECT id, token, version, floor(extract(epoch FROM lobby_timer))::bigint AS due_at
        FROM due ORDER BY lobby_timer, id"#
    )
});
