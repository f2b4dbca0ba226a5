//! Rooms that the sweep leaves behind: those that stay locked, and those that the database refuses
//! to reset. Each is taken by itself, so that no other room waits for it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::refused::RefusedTimers;
use super::report;
use crate::domain::TimerKey;
use crate::logging;
use crate::relay::RelayHandle;
use crate::store::{self, DueBatch, Fired, LockPolicy, NotFired};
use crate::tasks::TaskContext;

/// Delay after a retry that failed, so that ten thousand refused rooms cost few statements a second.
const PACE: Duration = Duration::from_millis(50);

pub(super) struct SetAside {
    pub(super) ctx: TaskContext,
    pub(super) relay: RelayHandle,
    pub(super) refused: Arc<RefusedTimers>,
    /// The time of a sweep after which due rooms were still locked.
    pub(super) locked: watch::Receiver<Option<DateTime<Utc>>>,
}

impl SetAside {
    /// Waits for the locks of rooms that were due at the time of a sweep, one after the other, and
    /// names each that stays locked once.
    pub(super) async fn wait_for_locks(&self, stop: &CancellationToken) {
        let mut locked = self.locked.clone();
        let mut reported = BTreeSet::new();
        while let Some(Ok(())) = stop.run_until_cancelled(locked.changed()).await {
            let Some(due_at) = *locked.borrow_and_update() else { continue };
            if let Err(error) = self.wait_for_each(due_at, &mut reported, stop).await {
                // The sweep meets the same error, and warns.
                tracing::debug!(error = logging::causes(&error), "locked rooms were not awaited");
            }
        }
    }

    async fn wait_for_each(
        &self,
        due_at: DateTime<Utc>,
        reported: &mut BTreeSet<TimerKey>,
        stop: &CancellationToken,
    ) -> store::Result<()> {
        let mut after = None;
        let before = std::mem::take(reported);
        while !stop.is_cancelled() {
            let except = self.refused.keys();
            let next = self.ctx.database.next_due(after, &except).await?;
            let Some(timer) = next.filter(|timer| timer.key.due_at <= due_at) else { break };
            let batch = DueBatch { after, except: &except, limit: 1, locked: LockPolicy::Wait };
            match self.fire(batch).await {
                Ok(_fired) => {}
                Err(NotFired { error, .. }) if error.is_contention() => {
                    if !before.contains(&timer.key) {
                        tracing::warn!(room.token = %timer.token, "due room is locked");
                    }
                    reported.insert(timer.key);
                }
                Err(NotFired { due, error }) => match due.as_slice() {
                    [timer] => self.refused.add(timer, &error),
                    _none => return Err(error),
                },
            }
            after = Some(timer.key);
        }
        Ok(())
    }

    /// Tries refused rooms again, each at its time.
    pub(super) async fn retry_refused(&self, stop: &CancellationToken) {
        while let Some(key) = stop.run_until_cancelled(self.refused.next_retry()).await {
            let opened = self.retry(key).await.unwrap_or_else(|error| {
                tracing::debug!(error = logging::causes(&error), "refused room was not tried");
                self.refused.postpone(key);
                false
            });
            if !opened {
                stop.run_until_cancelled(sleep(PACE)).await;
            }
        }
    }

    /// Tries to fire a refused timer. Returns whether it did.
    async fn retry(&self, key: TimerKey) -> store::Result<bool> {
        let locked = LockPolicy::SkipLocked;
        let before = Some(key.previous());
        match self.fire(DueBatch { after: before, except: &[], limit: 1, locked }).await {
            Ok(fired) if fired.last == Some(key) => {
                self.refused.remove(key);
                self.refused.retry_all();
                return Ok(true);
            }
            Ok(_another) => {}
            Err(NotFired { due, error }) => match due.as_slice() {
                [timer] if timer.key == key && !error.is_contention() => {
                    self.refused.add(timer, &error);
                    return Ok(false);
                }
                [] if !error.is_contention() => return Err(error),
                _another => {}
            },
        }
        // The room is locked, or the timer is not due any longer.
        let next = self.ctx.database.next_due(before, &[]).await?;
        if next.is_some_and(|timer| timer.key == key) {
            self.refused.postpone(key);
        } else {
            self.refused.remove(key);
        }
        Ok(false)
    }

    async fn fire(&self, batch: DueBatch<'_>) -> Result<Fired, NotFired> {
        let now = self.ctx.sample_time().await?;
        let mut fired = self.ctx.database.fire_due(now, batch, None).await?;
        report(&self.ctx, &fired);
        self.relay.pass(None, std::mem::take(&mut fired.events));
        Ok(fired)
    }
}
