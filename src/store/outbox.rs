//! The outbox: claims, confirms, and the end of history.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::dialect::{Columns, Dialect, values};
use super::error::Result;
use super::pool::SqlStore;
use super::rows::{time_from_millis, to_json, token};
use super::statements::outbox as statements;
use super::tables::outbox::Progress;
use super::{Available, ClaimedRows, Division, Outbox, Pending};
use crate::domain::EventId;
use crate::failpoints::{self, Point};

/// Rows that [`Outbox::pending`] looks at, so that it takes some milliseconds at most.
const PENDING_LIMIT: u32 = 10_000;

#[async_trait]
impl<D: Dialect> Outbox for SqlStore<D> {
    async fn claim(
        &self,
        available: Available<'_>,
        limit: u32,
        until: DateTime<Utc>,
    ) -> Result<ClaimedRows> {
        let mut transaction = self.begin().await?;
        let (ids, is_full) = transaction.lock_available(available, limit).await?;
        if ids.is_empty() {
            transaction.roll_back().await?;
            return Ok(ClaimedRows::default());
        }
        match transaction.claim_rows(&ids, until).await {
            Ok(rows) => {
                transaction.commit().await?;
                failpoints::reach(Point::AfterClaim);
                Ok(ClaimedRows { rows, is_full })
            }
            Err(error) => {
                // Otherwise the search for the row that is to blame could find it locked.
                transaction.undo(&error).await;
                Err(error)
            }
        }
    }

    async fn first_available(&self, available: Available<'_>) -> Result<Option<EventId>> {
        let Available { after, now, except } = available;
        let after = after.unwrap_or(DateTime::UNIX_EPOCH).timestamp_millis();
        let except = to_json(except);
        let values = values![after, now.timestamp_millis(), &except];
        let id = |row: &D::Row| row.text("id").map(EventId::stored);
        Ok(self.fetch_all(statements::FIRST_AVAILABLE, values, id).await?.pop())
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

    async fn divide(
        &self,
        row: &EventId,
        claimed_until: DateTime<Utc>,
        division: Division,
    ) -> Result<()> {
        let mut transaction = self.begin().await?;
        if !transaction.delete_claimed(row, claimed_until).await? {
            return transaction.roll_back().await;
        }
        let Division { confirmed, refused, others, attempts, now, retry_at, others_at } = division;
        let progress = |time| Progress { attempts, ..Progress::available_at(time) };
        let confirmed_progress = Progress { published_at: Some(now), ..progress(now) };
        transaction.insert_events(confirmed, confirmed_progress).await?;
        transaction.insert_each(&refused, progress(retry_at)).await?;
        transaction.insert_events(others, progress(others_at)).await?;
        transaction.commit().await
    }

    async fn take_apart(&self, id: &EventId) -> Result<bool> {
        let mut transaction = self.begin().await?;
        let row = transaction.outbox_rows(std::slice::from_ref(id)).await?.pop();
        let Some((row, available_at)) = row.filter(|(row, _)| row.events.len() > 1) else {
            transaction.roll_back().await?;
            return Ok(false);
        };
        if !transaction.delete_claimed(id, available_at).await? {
            transaction.roll_back().await?;
            return Ok(false);
        }
        let attempts = row.attempt.saturating_sub(1);
        let progress = Progress { attempts, ..Progress::available_at(available_at) };
        transaction.insert_each(&row.events, progress).await?;
        transaction.commit().await?;
        Ok(true)
    }

    async fn pending(&self, except: &[EventId], attempts: u32) -> Result<Option<Pending>> {
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
        let except = to_json(except);
        let values = values![&except, PENDING_LIMIT, attempts, attempts];
        Ok(self.fetch_all(statements::PENDING, values, pending).await?.pop())
    }

    async fn end_claims(
        &self,
        now: DateTime<Utc>,
        latest: DateTime<Utc>,
        limit: u32,
    ) -> Result<u64> {
        let values = values![now.timestamp_millis(), latest.timestamp_millis(), limit];
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
