//! Opening rooms in SQLite.

use std::str::FromStr;

use sqlx::{
    AssertSqlSafe, ConnectOptions, Executor,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use super::{
    BATCH, Curve, Progress, curve,
    statements::{EventTexts, RESET, events, messages},
};

const EVENT_TEXTS: EventTexts = EventTexts {
    id: "printf('019c0000-0000-7000-8000-%012x', id)",
    first_id: "printf('019c0000-0000-7000-8000-%012x', min(id))",
    now: "strftime('%Y-%m-%d %H:%M:%f')",
    claimed_until: "strftime('%Y-%m-%d %H:%M:%f', 'now', '30 seconds')",
};

/// With the settings of lobbyd's connections.
pub(super) async fn open_rooms(url: &str) -> Curve {
    let options = SqliteConnectOptions::from_str(url)
        .unwrap()
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .row_buffer_size(512)
        .pragma("cache_size", "-512");
    let mut connection = options.connect().await.unwrap();
    let due = format!(
        "SELECT id FROM lobbyd_rooms
         WHERE lobby_timer IS NOT NULL AND lobby_state = 1 AND type IN (2, 3) AND object_type IN
               ('', 'room', 'emails', 'event', 'extended_conversation', 'instant_meeting')
           AND lobby_timer <= datetime('now')
         ORDER BY lobby_timer, id LIMIT {BATCH}"
    );
    let events = format!("{} ({due}) HAVING count(*) > 0", events(&EVENT_TEXTS));
    let messages = format!("{} ({due})", messages("unixepoch()"));
    let reset = format!("{RESET} ({due}) RETURNING id, token, lobby_version");
    let mut progress = Progress::begin();
    loop {
        connection.execute("BEGIN IMMEDIATE").await.unwrap();
        for insert in [&events, &messages] {
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
