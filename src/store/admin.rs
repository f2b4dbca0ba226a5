//! The database as a whole: its tables, its time, how to reach it.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{
    Admin, Backlog,
    connection::probe,
    dialect::{Columns, Dialect, values},
    error::Result,
    migration,
    pool::SqlStore,
    rows::time_from_millis,
    statements::{self, admin},
};

#[async_trait]
impl<D: Dialect> Admin for SqlStore<D> {
    async fn migrate(&self) -> Result<()> {
        migration::migrate(&self.pool, self.limit).await
    }

    async fn now(&self) -> Result<DateTime<Utc>> {
        let mut connection = self.acquire().await?;
        let now = |row: &D::Row| time_from_millis(row.int("now")?);
        let now = connection.fetch_one(admin::NOW, values![], now).await?;
        connection.release();
        Ok(now)
    }

    async fn prepare_all(&self) -> Result<()> {
        let mut connection = self.acquire().await?;
        for statement in statements::all() {
            connection.prepare(statement).await?;
        }
        // Not released: prepared without values, PostgreSQL guesses their types, and a statement
        // that stays in the connection's cache would be run with values of others.
        drop(connection);
        Ok(())
    }

    async fn backlog(&self) -> Result<Backlog> {
        let mut connection = self.acquire().await?;
        let backlog = |row: &D::Row| {
            let oldest = row.int_or_null("outbox_oldest")?;
            Ok(Backlog {
                timers_pending: row.int("timers_pending")?.unsigned_abs(),
                timers_unusable: row.int("timers_unusable")?.unsigned_abs(),
                outbox_pending: row.int("outbox_pending")?.unsigned_abs(),
                outbox_oldest: oldest.map(time_from_millis).transpose()?,
            })
        };
        let backlog = connection.fetch_one(admin::BACKLOG, values![], backlog).await?;
        connection.release();
        Ok(backlog)
    }

    async fn fired_since(&self, since: DateTime<Utc>) -> Result<u64> {
        let mut connection = self.acquire().await?;
        let values = values![since.timestamp_millis()];
        let number = |row: &D::Row| row.int("number");
        let fired = connection.fetch_one(admin::FIRED_SINCE, values, number).await?;
        connection.release();
        Ok(fired.unsigned_abs())
    }

    async fn try_url(&self, url: &str) -> Result<()> {
        let options = D::connect_options(url, self.limit)?;
        probe::<D>(&options, self.limit, statements::rooms::NEXT_DUE).await
    }

    fn use_url(&self, url: &str) -> Result<()> {
        self.set_url(url)
    }

    async fn close(&self) {
        self.close_pool().await;
    }
}
