//! Resets every room whose timer is due.
//!
//! The task sleeps until the next due time that it knows of, and checks at least every second,
//! because other processes arm timers too. A *sweep* goes through the due timers in their order,
//! one batch per transaction, by the key of the last timer that fired. When there is more than one
//! batch, two are fired at once, they take turns with what falls due meanwhile, and announcements
//! leave the processor to them for a while. Each tick samples the database's time and fires what is
//! due at that sample. The sample is in the past by the time the reset commits, so no timer fires
//! early, whatever the clocks of this machine do.
//!
//! A fault stops only itself. The rooms of a batch that fails are *suspects*: sweeps leave them out,
//! and in between they are divided down to the one room that is refused, which is tried again at a
//! slow pace. Locked rooms are skipped; [`one_by_one`] waits for them. The task holds no other timers
//! in memory, and publishes nothing: it passes the events of the rooms to the relay.

mod one_by_one;
mod punctuality;
mod refused;
mod report;
mod suspects;
mod sweep;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::one_by_one::{LockedSweep, OneByOne};
use self::punctuality::Punctuality;
use self::refused::RefusedTimers;
use self::report::report;
use self::suspects::{Suspects, near, size};
use self::sweep::{Hold, LockedRooms, Sweep};
use super::TaskContext;
use crate::backoff::Backoff;
use crate::domain::{PendingTimer, TimerKey};
use crate::health::{Component, Oldest, Work};
use crate::relay::{BatchPermit, RelayHandle};
use crate::store::{DueBatch, Fired, LockPolicy, NotFired, Patience, StoreError};
use crate::{logging, store};

/// Longest sleep. It bounds how late a timer fires that another process armed, and how long a sweep
/// goes on without a report of the oldest due room.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// For how long a sweep has the processor before announcements share it.
const OPENING_ALONE: Duration = Duration::from_secs(2);

/// For how long suspects are tried before the next sweep, for the rooms that have become due
/// meanwhile.
const SUSPECT_TIME: Duration = Duration::from_millis(50);

/// Into how many parts a batch is divided that failed. With two, one room of 500 would be found by
/// fewer transactions, but many would take twice as many.
const PARTS: usize = 8;

/// After so many sweeps in a row that left a locked room behind, the row locks are awaited;
/// otherwise a busy room could stay closed. The other rooms open meanwhile.
const LOCKED_SWEEPS: u32 = 3;

pub struct TimerTask {
    ctx: TaskContext,
    relay: RelayHandle,
    /// Most rooms per transaction.
    batch: u32,
    armed: TimerWaker,
    /// A sweep that goes on.
    sweep: Option<Sweep>,
    hold: Hold,
    /// The end of the last sweep.
    swept_at: Instant,
    suspects: Suspects,
    refused: Arc<RefusedTimers>,
    locked: LockedRooms,
    punctuality: Punctuality,
    /// Wakes the task that waits for the rooms that a sweep found locked.
    await_locked: watch::Sender<Option<LockedSweep>>,
    looked_at: Instant,
}

/// Wakes the timer task after a timer was armed.
#[derive(Debug, Clone, Default)]
pub struct TimerWaker(Arc<Notify>);

impl TimerWaker {
    /// Tells the timer task of a timer that was armed at `now`. It looks often enough to find one by
    /// itself that is due later.
    pub fn armed(&self, due_at: DateTime<Utc>, now: DateTime<Utc>) {
        if due_at < now + POLL_INTERVAL * 2 {
            self.wake();
        }
    }

    /// Lets the timer task check its next due time now.
    pub fn wake(&self) {
        self.0.notify_one();
    }
}

impl TimerTask {
    /// Fires up to `batch` timers per transaction, and passes their events to `relay`.
    pub fn new(ctx: TaskContext, relay: RelayHandle, batch: u32) -> Self {
        Self {
            ctx,
            relay,
            batch,
            armed: TimerWaker::default(),
            sweep: None,
            hold: Hold::default(),
            swept_at: Instant::now(),
            suspects: Suspects::default(),
            refused: Arc::default(),
            locked: LockedRooms::default(),
            punctuality: Punctuality::default(),
            await_locked: watch::Sender::default(),
            looked_at: Instant::now(),
        }
    }

    /// Waits for timers to a millisecond or two only, by the runtime's time: a simulation advances that,
    /// and not the system's.
    pub fn in_runtime_time(self) -> Self {
        Self { punctuality: Punctuality::coarse(), ..self }
    }

    pub fn waker(&self) -> TimerWaker {
        self.armed.clone()
    }

    /// Runs until `stop`. A transaction that has begun is finished. A tick that fails is repeated:
    /// a due room that was not reset is still due.
    pub async fn run(mut self, stop: CancellationToken) {
        let one_by_one = OneByOne {
            ctx: self.ctx.clone(),
            relay: self.relay.clone(),
            refused: Arc::clone(&self.refused),
            locked: self.await_locked.subscribe(),
        };
        tokio::join!(
            self.tick_until(&stop),
            one_by_one.wait_for_locks(&stop),
            one_by_one.retry_refused(&stop),
        );
    }

    async fn tick_until(&mut self, stop: &CancellationToken) {
        let mut backoff = Backoff::new(Backoff::TASKS);
        while !stop.is_cancelled() {
            let delay = match self.tick().await {
                Ok(delay) => {
                    backoff.reset();
                    if self.ctx.health.set_up(Component::Database) {
                        tracing::info!("database available, timers fire");
                    }
                    delay
                }
                Err(error) => {
                    self.end_sweep();
                    let problem = logging::causes(&error);
                    if self.ctx.health.set_down(Component::Database, problem.as_str()) {
                        tracing::warn!(error = problem, "database unavailable, timers cannot fire");
                    }
                    let looked =
                        error.is_refusal() && self.look(self.ctx.clock.now()).await.is_ok();
                    if !looked {
                        self.report_unknown();
                    }
                    backoff.next_wait()
                }
            };
            if delay.is_zero() {
                continue;
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = self.armed.0.notified() => {}
                () = self.punctuality.sleep(delay) => {}
            }
        }
        self.end_sweep();
    }

    /// Fires one batch, and returns the delay until the next tick: zero while more is due.
    pub async fn tick(&mut self) -> store::Result<Duration> {
        self.ctx.health.record_progress();
        let now = self.ctx.sample_time().await?;
        if self.sweep.is_none()
            && self.swept_at.elapsed() < SUSPECT_TIME
            && let Some(suspects) = self.suspects.take()
        {
            let after = suspects.first().map(|timer| timer.key.previous());
            let except = near(self.isolated(after));
            self.fire(now, after, &except, size(&suspects)).await?;
            return Ok(Duration::ZERO);
        }
        if self.fire_newest(now).await? || self.fire_oldest(now).await? {
            if self.looked_at.elapsed() > POLL_INTERVAL {
                self.look(now).await?;
            }
            return Ok(Duration::ZERO);
        }
        let delay = self.delay(now).await?;
        self.swept_at = Instant::now();
        Ok(if self.suspects.is_empty() { delay } else { Duration::ZERO })
    }

    /// Fires the first batch of a sweep, or the next ones. Returns whether the sweep goes on.
    async fn fire_oldest(&mut self, now: DateTime<Utc>) -> store::Result<bool> {
        let after = self.sweep.as_ref().and_then(|sweep| sweep.after);
        // Two batches mix their rooms, and a room that is refused would be found later.
        let last = if self.sweep.is_some() && self.suspects.is_empty() {
            self.fire_two(now, after).await?
        } else {
            self.fire(now, after, &self.isolated(after), self.batch).await?
        };
        if last.is_none() {
            self.end_sweep();
            return Ok(false);
        }
        let sweep = self.sweep.get_or_insert_with(|| Sweep::begin(now));
        (sweep.after, sweep.is_turn_of_newest) = (last, true);
        if sweep.began_at.elapsed() > OPENING_ALONE {
            self.hold.end(&self.relay);
        } else {
            self.hold.begin(&self.relay);
        }
        Ok(true)
    }

    /// Fires a batch of what has become due since the sweep began: these rooms do not wait for its
    /// end. Returns whether there can have been any.
    async fn fire_newest(&mut self, now: DateTime<Utc>) -> store::Result<bool> {
        let Some(after) = self.sweep.as_mut().and_then(|sweep| sweep.turn_of_newest(now)) else {
            return Ok(false);
        };
        let except = self.isolated(Some(after));
        let last = self.fire(now, Some(after), &except, self.batch).await?;
        if let Some(sweep) = &mut self.sweep {
            sweep.newest = last.unwrap_or(TimerKey::last_at(now));
        }
        Ok(true)
    }

    fn end_sweep(&mut self) {
        self.sweep = None;
        self.hold.end(&self.relay);
    }

    /// Fires a batch of due timers, or finds out which of them may be to blame. Returns the last one
    /// of a batch that had any, unless nothing is due after it.
    async fn fire(
        &mut self,
        now: DateTime<Utc>,
        after: Option<TimerKey>,
        except: &[TimerKey],
        limit: u32,
    ) -> store::Result<Option<TimerKey>> {
        let permit = self.relay.reserve(now);
        let claimed_until = permit.as_ref().map(BatchPermit::claimed_until);
        let batch = due_batch(after, except, limit);
        match self.ctx.database.fire_due(now, batch, claimed_until).await {
            Ok(fired) => {
                self.punctuality.found(fired.last.is_some());
                Ok(self.pass(fired, permit, limit))
            }
            Err(not_fired) => {
                drop(permit);
                self.examine(not_fired)
            }
        }
    }

    /// Fires two batches at once: while the database works for one, the events of the other are
    /// written. Each skips what the other has locked, so together they take all up to the earlier of
    /// their last timers. Their events stay in the outbox. Returns as [`fire`](Self::fire).
    async fn fire_two(
        &mut self,
        now: DateTime<Utc>,
        after: Option<TimerKey>,
    ) -> store::Result<Option<TimerKey>> {
        let (except, limit) = (self.isolated(after), self.batch);
        let batch = due_batch(after, &except, limit);
        let fire = || self.ctx.database.fire_due(now, batch, None);
        let outcomes: [_; 2] = tokio::join!(fire(), fire()).into();
        let mut lasts = Vec::new();
        for outcome in outcomes {
            lasts.push(match outcome {
                Ok(fired) => Ok(self.pass(fired, None, limit)),
                Err(not_fired) => self.examine(not_fired),
            });
        }
        // A batch can be short because of what the other has locked.
        let lasts: Vec<Option<TimerKey>> = lasts.into_iter().collect::<store::Result<_>>()?;
        Ok(lasts.into_iter().flatten().min())
    }

    /// Reports rooms that were reset, and passes on their events. Returns the last timer unless the
    /// batch was short.
    fn pass(&self, fired: Fired, permit: Option<BatchPermit<'_>>, limit: u32) -> Option<TimerKey> {
        report(&self.ctx, &fired);
        let last = fired.last.filter(|_last| !fired.is_short_of(limit));
        self.relay.pass(permit, fired.rows);
        last
    }

    /// Finds out which timers of a batch may be to blame. Returns the last one.
    fn examine(&mut self, not_fired: NotFired) -> store::Result<Option<TimerKey>> {
        let NotFired { due, error } = not_fired;
        self.blame(&due, error)?;
        Ok(due.last().map(|timer| timer.key))
    }

    /// Divides a batch that failed, down to the one room that is to blame.
    fn blame(&mut self, due: &[PendingTimer], error: StoreError) -> store::Result<()> {
        match due {
            // They count as locked.
            [] | [_] if error.is_contention() => {}
            [] => return Err(error),
            [timer] if error.is_timeout() || error.is_refusal() => {
                self.refused.add(timer, &error);
            }
            several if error.is_timeout() || error.is_refusal() || error.is_contention() => {
                self.suspects.add(several, several.len().div_ceil(PARTS), self.batch);
            }
            _outage => return Err(error),
        }
        Ok(())
    }

    /// The timers that sweeps leave out, of those after this one.
    fn isolated(&self, after: Option<TimerKey>) -> Vec<TimerKey> {
        let suspects = self.suspects.timers().map(|timer| timer.key);
        let isolated = suspects.chain(self.refused.keys());
        isolated.filter(|key| after.is_none_or(|after| *key > after)).collect()
    }

    /// The delay after a sweep. Everything that was due at `now` has fired, except isolated and locked
    /// rooms.
    async fn delay(&mut self, now: DateTime<Utc>) -> store::Result<Duration> {
        let first = self.look(now).await?;
        let until = |time: DateTime<Utc>| self.ctx.clock.until(time).min(POLL_INTERVAL);
        let Some(locked) = first.filter(|key| key.due_at <= now) else {
            self.locked = LockedRooms::default();
            return Ok(first.map_or(POLL_INTERVAL, |key| until(key.due_at)));
        };
        let upcoming = self.ctx.database.next_due(Some(TimerKey::last_at(now)), &[]).await?;
        let upcoming = upcoming.map(|timer| timer.key.due_at);
        let delay = self.locked.next_delay(locked, upcoming, now);
        if self.locked.sweeps > LOCKED_SWEEPS {
            self.await_locked
                .send_replace(Some(LockedSweep { at: now, except: self.isolated(None) }));
        }
        Ok(upcoming.map_or(delay, |due_at| until(due_at).min(delay)))
    }

    /// Reports the oldest due room, and returns the first timer that is not isolated.
    async fn look(&mut self, now: DateTime<Utc>) -> store::Result<Option<TimerKey>> {
        let oldest = self.ctx.database.next_due(None, &[]).await?;
        let isolated = self.isolated(None);
        let first = match &oldest {
            Some(timer) if isolated.contains(&timer.key) => {
                self.ctx.database.next_due(None, &isolated).await?
            }
            _not_isolated => oldest.clone(),
        };
        self.looked_at = Instant::now();
        let key = first.as_ref().map(|timer| timer.key);
        let suspects = self.suspects.timers().cloned();
        let waiting = self.refused.first_unready(suspects.chain(first));
        self.ctx.health.set_oldest(
            Work::Timers,
            waiting.map(|PendingTimer { key, token }| Oldest {
                item: format!("room {token} is due"),
                age: now - key.due_at,
            }),
        );
        self.ctx.health.set_oldest_of_all(Work::Timers, oldest.map(|timer| now - timer.key.due_at));
        Ok(key)
    }

    /// While the database does not say which rooms are due, any may be since the last look.
    fn report_unknown(&self) {
        self.ctx.health.assume_oldest(Work::Timers, self.looked_at.elapsed());
    }
}

/// A batch of a sweep: nothing waits long for one of its rooms.
fn due_batch(after: Option<TimerKey>, except: &[TimerKey], limit: u32) -> DueBatch<'_> {
    let (locked, patience) = (LockPolicy::SkipLocked, Patience::Short);
    DueBatch { after, except, limit, locked, patience }
}
