//! Timers of rooms: setting them, and firing what is due.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::connection::Transaction;
use super::dialect::{Columns, Dialect, explain_failed, values};
use super::error::{Result, StoreError};
use super::pool::SqlStore;
use super::rows::to_json;
use super::statements::{inbox, rooms as statements};
use super::tables::outbox::{NewEvents, Progress, new_event};
use super::{AppliedSet, DueBatch, Fired, NotFired, Patience, Timers, rows};
use crate::domain::{
    DueTimer, IncomingChange, OutboxEvent, OutboxRow, PendingTimer, ROOM_UPDATED, Reason, TimerKey,
};
use crate::failpoints::{self, Point};

#[async_trait]
impl<D: Dialect> Timers for SqlStore<D> {
    async fn apply(
        &self,
        changes: &[IncomingChange],
        patience: Patience,
        now: DateTime<Utc>,
        claimed_until: Option<DateTime<Utc>>,
    ) -> Result<AppliedSet> {
        let mut transaction = self.begin().await?;
        match transaction.apply(changes, patience, now, claimed_until).await {
            Ok((applied, Outcome::Written)) => transaction.commit().await.map(|()| applied),
            Ok((applied, Outcome::Unchanged)) => transaction.roll_back().await.map(|()| applied),
            Err(error) => {
                transaction.undo(&error).await;
                Err(error)
            }
        }
    }

    async fn prune_applied(&self, before: DateTime<Utc>, limit: u32) -> Result<u64> {
        self.execute(inbox::PRUNE, values![before.timestamp_millis(), limit]).await
    }

    async fn fire_due(
        &self,
        now: DateTime<Utc>,
        batch: DueBatch<'_>,
        claimed_until: Option<DateTime<Utc>>,
    ) -> Result<Fired, NotFired> {
        let mut transaction = self.begin().await?;
        let rows = match transaction.lock_due(now, batch).await {
            Ok(rows) => rows,
            Err(error) => {
                transaction.undo(&error).await;
                return Err(error.into());
            }
        };
        if rows.is_empty() {
            // A commit means that something was written.
            transaction.roll_back().await?;
            return Ok(Fired::default());
        }
        let (pending, due): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        let rows = match transaction.fire(due, batch.patience, now, claimed_until).await {
            Ok(rows) => rows,
            Err(error) => {
                transaction.undo(&error).await;
                return Err(NotFired { due: pending, error: of_these_rows::<D>(error) });
            }
        };
        let last = pending.last().map(|timer| timer.key);
        match transaction.commit().await.map_err(of_these_rows::<D>) {
            Ok(()) => Ok(Fired { rows, last }),
            // A constraint can be checked at the commit, and Galera finds its conflicts then.
            Err(error) if error.is_refusal() || error.is_contention() => {
                Err(NotFired { due: pending, error })
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn next_due(
        &self,
        after: Option<TimerKey>,
        except: &[TimerKey],
    ) -> Result<Option<PendingTimer>> {
        let [from, again, room] = rows::key_values(after);
        let except = rows::exceptions(except);
        let values = values![from, again, room, &except];
        Ok(self.fetch_all(statements::NEXT_DUE, values, rows::pending_timer).await?.pop())
    }

    async fn clear_timers_of_open_rooms(&self, limit: u32) -> Result<u64> {
        let id = |row: &D::Row| row.int("id");
        // Without locks first: the search may read all rooms.
        let open = self.fetch_all(statements::OPEN_WITH_TIMER, values![limit], id).await?;
        if open.is_empty() {
            return Ok(0);
        }
        let mut transaction = self.begin().await?;
        let locked =
            transaction.fetch_all(statements::LOCK_OPEN, values![&to_json(&open)], id).await?;
        let cleared =
            transaction.execute(statements::CLEAR_TIMERS, values![&to_json(&locked)]).await?;
        transaction.commit().await?;
        Ok(cleared)
    }
}

/// Whether a transaction has something to commit.
enum Outcome {
    Written,
    Unchanged,
}

/// What an error says about rows that have been locked. Their table exists, so a statement that the
/// database cannot run may be that of a trigger for one of them.
pub(super) fn of_these_rows<D: Dialect>(error: StoreError) -> StoreError {
    explain_failed::<D>(error, StoreError::Rejected)
}

impl<D: Dialect> Transaction<D> {
    async fn apply(
        &mut self,
        changes: &[IncomingChange],
        patience: Patience,
        now: DateTime<Utc>,
        claimed_until: Option<DateTime<Utc>>,
    ) -> Result<(AppliedSet, Outcome)> {
        let mut set = self.lock_change_set(changes, now).await?;
        let results = changes.iter().map(|change| set.apply(change)).collect();
        if set.is_unchanged() {
            return Ok((AppliedSet { results, rows: Vec::new() }, Outcome::Unchanged));
        }
        if patience == Patience::Short {
            self.shorten_statements().await?;
        }
        let progress = Progress::of_new(now, claimed_until);
        let rows = self.write_change_set(set, patience, progress).await?;
        Ok((AppliedSet { results, rows }, Outcome::Written))
    }

    /// Resets rooms that are locked, and stores an event for each.
    pub(super) async fn fire(
        &mut self,
        due: Vec<Result<DueTimer>>,
        patience: Patience,
        now: DateTime<Utc>,
        claimed_until: Option<DateTime<Utc>>,
    ) -> Result<Vec<OutboxRow>> {
        let due = due.into_iter().collect::<Result<Vec<DueTimer>>>()?;
        if patience == Patience::Short {
            self.shorten_statements().await?;
        }
        let event = |timer: &DueTimer| OutboxEvent {
            due_at: timer.lag_counts().then_some(timer.key.due_at),
            ..new_event(ROOM_UPDATED, &timer.token, &timer.announcement(now), now)
        };
        let progress = Progress::of_new(now, claimed_until);
        // While the database resets the rooms.
        let encoding = async { NewEvents::encode(due.iter().map(event).collect(), progress) };
        let (reset, events) = tokio::join!(self.reset_rooms(&due, patience), encoding);
        reset?;
        failpoints::reach(Point::InsideReset);
        let rooms: Vec<_> = due.iter().map(|timer| timer.key.room).collect();
        self.insert_opening_messages(&rooms, Reason::LobbyTimerReached, now).await?;
        let events = events?;
        self.pass_to_signaling(events.events()).await?;
        self.insert_encoded(events).await
    }
}
