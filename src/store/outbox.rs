//! The outbox: claims, confirms, and the end of history.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::Outbox;
use super::dialect::{Dialect, values};
use super::error::Result;
use super::pool::SqlStore;
use super::rows::to_json;
use super::statements::{Statement, outbox as statements};
use crate::domain::{EventId, OutboxEvent};

#[async_trait]
impl<D: Dialect> Outbox for SqlStore<D> {
    async fn claim(
        &self,
        now: DateTime<Utc>,
        limit: u32,
        until: DateTime<Utc>,
    ) -> Result<Vec<OutboxEvent>> {
        let mut transaction = self.begin().await?;
        let events = transaction.lock_available(now, limit).await?;
        if !events.is_empty() {
            transaction.claim_events(&events, until).await?;
        }
        transaction.commit().await?;
        Ok(events)
    }

    async fn release(&self, ids: &[EventId], available_at: DateTime<Utc>) -> Result<()> {
        self.update(statements::RELEASE, ids, available_at).await
    }

    async fn mark_published(&self, ids: &[EventId], now: DateTime<Utc>) -> Result<()> {
        self.update(statements::MARK_PUBLISHED, ids, now).await
    }

    async fn prune_published(&self, before: DateTime<Utc>, limit: u32) -> Result<u64> {
        let values = values![before.timestamp_millis(), limit];
        self.execute(statements::PRUNE_PUBLISHED, values).await
    }

    async fn prune_dead(&self, before: DateTime<Utc>, limit: u32) -> Result<u64> {
        let values = values![before.timestamp_millis(), limit];
        self.execute(statements::PRUNE_DEAD, values).await
    }
}

impl<D: Dialect> SqlStore<D> {
    /// Runs a statement over a set of events. It may match fewer: some may have been pruned since.
    async fn update(
        &self,
        statement: Statement,
        ids: &[EventId],
        time: DateTime<Utc>,
    ) -> Result<()> {
        self.execute(statement, values![&to_json(ids), time.timestamp_millis()]).await.map(drop)
    }
}
