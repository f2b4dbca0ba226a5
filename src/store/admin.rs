//! The database as a whole: its tables, its time, how to reach it.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::dialect::{Columns, Dialect, explain_failed, values};
use super::error::{Result, StoreError};
use super::pool::SqlStore;
use super::rows::time_from_micros;
use super::statements::admin;
use super::{Admin, Backlog, migration, statements};

#[async_trait]
impl<D: Dialect> Admin for SqlStore<D> {
    async fn migrate(&self) -> Result<()> {
        let migrating = async {
            self.servers.settle(&self.pool).await;
            migration::migrate(&self.pool, self.limit).await
        };
        let migrated = self.unless_refused(migrating).await;
        if migrated.is_err() {
            self.servers.suspect();
        }
        migrated
    }

    async fn now(&self) -> Result<DateTime<Utc>> {
        let now = |row: &D::Row| time_from_micros(row.int("now")?);
        self.fetch_one(admin::NOW, values![], now).await
    }

    async fn prepare_all(&self) -> Result<()> {
        let mut connection = self.acquire().await?;
        connection.check_settings().await?;
        for statement in statements::all() {
            // Each is a round trip, and there are more than a distant database answers in time.
            connection.restart_deadline();
            let prepared = connection.prepare(statement).await;
            prepared.map_err(|error| explain_failed::<D>(error, StoreError::Unprepared))?;
        }
        // Not released: prepared without values, PostgreSQL guesses their types, and a statement
        // that stays in the connection's cache would be run with values of others.
        drop(connection);
        Ok(())
    }

    async fn backlog(&self) -> Result<Backlog> {
        let backlog = |row: &D::Row| {
            Ok(Backlog {
                timers_pending: row.int("timers_pending")?.unsigned_abs(),
                outbox_pending: row.int("outbox_pending")?.unsigned_abs(),
            })
        };
        let limit = Backlog::LIMIT;
        self.fetch_one(admin::BACKLOG, values![limit, limit], backlog).await
    }

    async fn unusable_timers(&self) -> Result<u64> {
        let number = |row: &D::Row| row.int("number");
        Ok(self.fetch_one(admin::UNUSABLE_TIMERS, values![], number).await?.unsigned_abs())
    }

    fn check_commits(&self) -> Result<()> {
        Self::check_commits(self)
    }

    async fn check_writable(&self) -> Result<()> {
        let written = self.execute(statements::inbox::PROBE, values![]).await;
        written.map(drop).map_err(|error| self.explained(error))
    }

    async fn fired_since(&self, since: DateTime<Utc>) -> Result<u64> {
        let values = values![since.timestamp_millis()];
        let fired = self.fetch_one(admin::FIRED_SINCE, values, |row| row.int("number")).await?;
        Ok(fired.unsigned_abs())
    }

    async fn try_urls(&self, urls: &[&str]) -> Result<()> {
        self.try_urls_with(urls, statements::rooms::CHECK).await
    }

    fn use_urls(&self, urls: &[&str]) -> Result<()> {
        self.set_urls(urls)
    }

    async fn close(&self) {
        self.close_pool().await;
    }
}
