//! Opening rooms in MariaDB.

use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection, Row};

use super::{
    BATCH, Curve, Progress, curve,
    statements::{EventTexts, RESET, events, messages},
};

const EVENT_TEXTS: EventTexts = EventTexts {
    id: "concat('019c0000-0000-7000-8000-', lpad(hex(id), 12, '0'))",
    first_id: "concat('019c0000-0000-7000-8000-', lpad(hex(min(id)), 12, '0'))",
    now: "utc_timestamp(3)",
    claimed_until: "utc_timestamp(3) + INTERVAL 30 SECOND",
};

pub(super) async fn open_rooms(url: &str) -> Curve {
    let mut connection = MySqlConnection::connect(url).await.unwrap();
    let due = format!(
        "SELECT id, token, lobby_version FROM lobbyd_rooms
         WHERE lobby_due_at <= utc_timestamp()
         ORDER BY lobby_due_at, id LIMIT {BATCH} FOR UPDATE SKIP LOCKED"
    );
    let isolation = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED";
    connection.execute(isolation).await.unwrap();
    let (events, messages) = (events(&EVENT_TEXTS), messages("unix_timestamp()"));
    let mut progress = Progress::begin();
    loop {
        let mut transaction = connection.begin().await.unwrap();
        let rows = transaction.fetch_all(AssertSqlSafe(due.clone())).await.unwrap();
        if rows.is_empty() {
            return curve([progress]);
        }
        let ids: Vec<String> = rows.iter().map(|row| row.get::<i64, _>(0).to_string()).collect();
        let ids = ids.join(",");
        for statement in [&*events, &*messages, RESET] {
            let statement = AssertSqlSafe(format!("{statement} ({ids})"));
            transaction.execute(statement).await.unwrap();
        }
        transaction.commit().await.unwrap();
        progress.add(rows.len());
    }
}
