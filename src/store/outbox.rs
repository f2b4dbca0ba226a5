//! The outbox: claims, confirms, and the end of history.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::dialect::{Columns, Dialect, values};
use super::error::Result;
use super::pool::SqlStore;
use super::rows::{time_from_millis, to_json, token};
use super::statements::outbox as statements;
use super::{Outbox, Pending};
use crate::domain::{EventId, OutboxEvent};

/// Events that [`Outbox::pending`] looks at, so that it takes some milliseconds at most.
const PENDING_LIMIT: u32 = 10_000;

#[async_trait]
impl<D: Dialect> Outbox for SqlStore<D> {
    async fn claim(
        &self,
        after: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
        limit: u32,
        until: DateTime<Utc>,
    ) -> Result<Vec<OutboxEvent>> {
        let mut transaction = self.begin().await?;
        let events = transaction.lock_available(after, now, limit).await?;
        if events.is_empty() {
            transaction.roll_back().await?;
        } else {
            transaction.claim_events(&events, until).await?;
            transaction.commit().await?;
        }
        Ok(events)
    }

    async fn release(
        &self,
        ids: &[EventId],
        claimed_until: DateTime<Utc>,
        available_at: DateTime<Utc>,
    ) -> Result<()> {
        let ids = to_json(ids);
        let values =
            values![&ids, claimed_until.timestamp_millis(), available_at.timestamp_millis()];
        self.execute(statements::RELEASE, values).await.map(drop)
    }

    async fn mark_published(&self, ids: &[EventId], now: DateTime<Utc>) -> Result<()> {
        let ids = to_json(ids);
        let values = values![&ids, now.timestamp_millis()];
        self.execute(statements::MARK_PUBLISHED, values).await.map(drop)
    }

    async fn pending(&self, attempts: u32) -> Result<Option<Pending>> {
        let pending = |row: &D::Row| {
            Ok(Pending {
                oldest: EventId::stored(row.text("id")?),
                room: token(row)?,
                created_at: time_from_millis(row.int("created_at")?)?,
                is_refused: row.int("attempts")? >= attempts.into(),
                refused: row.int("refused")?.unsigned_abs(),
                last_available: time_from_millis(row.int("last_available")?)?,
            })
        };
        let values = values![PENDING_LIMIT, attempts, attempts];
        Ok(self.fetch_all(statements::PENDING, values, pending).await?.pop())
    }

    async fn end_claims(&self, now: DateTime<Utc>, latest: DateTime<Utc>) -> Result<u64> {
        let values = values![now.timestamp_millis(), latest.timestamp_millis()];
        self.execute(statements::END_CLAIMS, values).await
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
