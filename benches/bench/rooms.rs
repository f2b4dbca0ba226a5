//! Rooms in the database, written by SQL as another program may.

use super::support::database::{Database, Kind};

/// Adds rooms PREFIX1, PREFIX2, … with a lobby until `timer`, an SQL expression in which `n` is the
/// room's number.
pub async fn add(database: &Database, prefix: &str, number: u32, timer: &str) {
    insert(database, prefix, number, &format!("1, {timer}")).await;
}

/// Adds open rooms PREFIX1, PREFIX2, …
pub async fn add_open(database: &Database, prefix: &str, number: u32) {
    insert(database, prefix, number, "0, NULL").await;
}

async fn insert(database: &Database, prefix: &str, number: u32, lobby: &str) {
    let numbers = match database.kind {
        Kind::Postgres => format!("SELECT n FROM generate_series(1, {number}) AS n"),
        Kind::MariaDb => format!("SELECT seq AS n FROM seq_1_to_{number}"),
        Kind::Sqlite => format!(
            "WITH RECURSIVE numbers(n) AS
                 (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {number})
             SELECT n FROM numbers"
        ),
    };
    let insert = "INSERT INTO lobbyd_rooms (token, type, name, lobby_state, lobby_timer)";
    let select = format!("SELECT concat('{prefix}', n), 3, 'Webinar', {lobby}");
    database.execute(&format!("{insert} {select} FROM ({numbers}) AS numbers")).await;
}

/// Removes all rooms, messages and events, so that each run begins with the same tables.
pub async fn clear(database: &Database) {
    for table in ["lobbyd_rooms", "lobbyd_messages", "lobbyd_outbox"] {
        let verb = if database.kind == Kind::Sqlite { "DELETE FROM" } else { "TRUNCATE TABLE" };
        database.execute(&format!("{verb} {table}")).await;
    }
}

/// Lets the database do now what it would do during the measurement because of the rows before.
pub async fn settle(database: &Database) {
    match database.kind {
        Kind::Postgres => {
            database.execute("VACUUM (ANALYZE) lobbyd_rooms").await;
            database.execute("CHECKPOINT").await;
        }
        Kind::MariaDb => {
            database.execute("ANALYZE TABLE lobbyd_rooms").await;
        }
        Kind::Sqlite => {
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)").await;
        }
    }
}
