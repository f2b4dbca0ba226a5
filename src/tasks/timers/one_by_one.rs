//! Rooms that the sweep leaves out: those that stay locked, and those that the database refuses to
//! reset. Each is reset in a transaction of its own, so that no other room waits for it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::refused::RefusedTimers;
use super::report::report;
use crate::domain::TimerKey;
use crate::logging;
use crate::relay::RelayHandle;
use crate::store::{self, DueBatch, Fired, LockPolicy, NotFired};
use crate::tasks::TaskContext;

/// Delay after a retry that failed, so that ten thousand refused rooms cost few statements a second.
const PACE: Duration = Duration::from_millis(50);

pub(super) struct OneByOne {
    pub(super) ctx: TaskContext,
    pub(super) relay: RelayHandle,
    pub(super) refused: Arc<RefusedTimers>,
    /// A sweep after which due rooms were still locked.
    pub(super) locked: watch::Receiver<Option<LockedSweep>>,
}

/// A sweep through all rooms that were due at a time, except for some.
#[derive(Debug, Clone)]
pub(super) struct LockedSweep {
    pub(super) at: DateTime<Utc>,
    pub(super) except: Vec<TimerKey>,
}

impl OneByOne {
    /// Waits for the locks of rooms that a sweep has left behind, one after the other, and names each
    /// that stays locked once.
    pub(super) async fn wait_for_locks(&self, stop: &CancellationToken) {
        let mut locked = self.locked.clone();
        let mut reported = BTreeSet::new();
        while let Some(Ok(())) = stop.run_until_cancelled(locked.changed()).await {
            let Some(sweep) = locked.borrow_and_update().clone() else { continue };
            if let Err(error) = self.wait_for_each(sweep, &mut reported, stop).await {
                // The sweep meets the same error, and warns.
                tracing::debug!(error = logging::causes(&error), "locked rooms were not awaited");
            }
        }
    }

    async fn wait_for_each(
        &self,
        LockedSweep { at, except }: LockedSweep,
        reported: &mut BTreeSet<TimerKey>,
        stop: &CancellationToken,
    ) -> store::Result<()> {
        let mut after = None;
        let before = std::mem::take(reported);
        while !stop.is_cancelled() {
            let next = self.ctx.database.next_due(after, &except).await?;
            let Some(timer) = next.filter(|timer| timer.key.due_at <= at) else { break };
            let batch =
                DueBatch { after, except: &except, locked: LockPolicy::Wait, ..DueBatch::first(1) };
            match self.fire(batch).await {
                Ok(_fired) => {}
                Err(NotFired { error, .. }) if error.is_contention() => {
                    if !before.contains(&timer.key) {
                        tracing::warn!(
                            room.token = %timer.token,
                            timer.due_at = %timer.key.due_at,
                            "due room is locked by another transaction"
                        );
                    }
                    reported.insert(timer.key);
                }
                Err(NotFired { due, error }) => match due.as_slice() {
                    [timer] if error.is_refusal() => self.refused.add(timer, &error),
                    _outage => return Err(error),
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
                self.refused.defer(key);
                false
            });
            if !opened {
                stop.run_until_cancelled(sleep(PACE)).await;
            }
        }
    }

    /// Tries to fire a refused timer. Returns whether it did.
    async fn retry(&self, key: TimerKey) -> store::Result<bool> {
        let before = Some(key.previous());
        match self.fire(DueBatch { after: before, ..DueBatch::first(1) }).await {
            Ok(fired) if fired.last == Some(key) => {
                self.refused.remove(key);
                self.refused.retry_all();
                return Ok(true);
            }
            Ok(_another) => {}
            Err(NotFired { error, .. }) if error.is_contention() => {}
            Err(NotFired { due, error }) if error.is_refusal() || error.is_timeout() => {
                match due.as_slice() {
                    [timer] if timer.key == key => {
                        self.refused.add(timer, &error);
                        return Ok(false);
                    }
                    [_another] => {}
                    _none => return Err(error),
                }
            }
            Err(NotFired { error, .. }) => return Err(error),
        }
        // The room is locked, or the timer is not due any longer.
        let next = self.ctx.database.next_due(before, &[]).await?;
        if next.is_some_and(|timer| timer.key == key) {
            self.refused.defer(key);
        } else {
            self.refused.remove(key);
        }
        Ok(false)
    }

    async fn fire(&self, batch: DueBatch<'_>) -> Result<Fired, NotFired> {
        let now = self.ctx.sample_time().await?;
        let mut fired = self.ctx.database.fire_due(now, batch, None).await?;
        report(&self.ctx, &fired);
        self.relay.pass(None, std::mem::take(&mut fired.rows));
        Ok(fired)
    }
}
