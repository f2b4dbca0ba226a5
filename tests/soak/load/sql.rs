//! Programs that share the database: they write rows, and hold locks.

use std::{any::Any, time::Duration};

use tokio::time::timeout;

use crate::{
    change_log::marked,
    support::database::{Database, Kind},
};

/// How long a statement may take. Locks are held for a shorter time.
const PATIENCE: Duration = Duration::from_secs(15);

pub struct Sql {
    /// Connections for statements, and those that hold locks.
    statements: Database,
    holders: Database,
}

impl Sql {
    pub fn new(database: &Database) -> Self {
        let open = || Database::open(database.kind, database.admin_url.clone());
        Self { statements: open(), holders: open() }
    }

    /// Sets the lobby of rooms. Returns whether it was committed; otherwise it may have been or not.
    pub async fn set(
        &self,
        op: usize,
        tokens: &[&str],
        state: i64,
        timer: Option<i64>,
        version: i64,
    ) -> bool {
        let timer =
            timer.map_or_else(|| "NULL".to_owned(), |timer| self.statements.timestamp_sql(timer));
        let update = format!(
            "UPDATE lobbyd_rooms SET lobby_state = {state}, lobby_timer = {timer},
             lobby_version = GREATEST(lobby_version + 1, {version}) WHERE token IN ('{}')",
            tokens.join("','")
        );
        self.execute(&marked(self.kind(), op, &update)).await
    }

    pub fn kind(&self) -> Kind {
        self.statements.kind
    }

    pub async fn execute(&self, sql: &str) -> bool {
        timeout(PATIENCE, self.statements.try_execute(sql)).await.is_ok_and(|done| done.is_ok())
    }

    /// Executes a statement that can be repeated until it has succeeded.
    pub async fn insist(&self, sql: &str) {
        while !self.execute(sql).await {
            super::wait(0.2).await;
        }
    }

    /// Locks rooms until the result is dropped, if it can.
    pub async fn lock(&self, tokens: &[&str]) -> Option<Box<dyn Any + Send>> {
        let tokens = tokens.join("','");
        let sql = format!("SELECT id FROM lobbyd_rooms WHERE token IN ('{tokens}') FOR UPDATE");
        timeout(PATIENCE, self.holders.try_hold(&sql)).await.ok()?.ok()
    }
}
