//! Resets every room whose timer is due.
//!
//! The task sleeps until the next due time that it knows of, and checks at least every second,
//! because other processes arm timers too. A *sweep* goes through the due timers in their order,
//! one batch per transaction, by the key of the last timer that fired. Each batch first samples the
//! database's time and fires what is due at that sample. The sample is in the past by the time the
//! reset commits, so no timer fires early, whatever the clocks of this machine do.
//!
//! A fault stops only itself. A batch that the database refuses is skipped, and later divided down to
//! the one room that is refused; that room is left out and tried again at a slow pace. Locked rooms
//! are skipped, and awaited in [`set_aside`]. The task holds no timers in memory besides the refused ones, and
//! publishes nothing: it passes the events of the rooms to the relay.

mod refused;
mod set_aside;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use self::refused::RefusedTimers;
use self::set_aside::SetAside;
use super::TaskContext;
use crate::backoff::Backoff;
use crate::domain::{PendingTimer, TimerKey};
use crate::health::{Component, Oldest, Work};
use crate::relay::{BatchPermit, RelayHandle};
use crate::store::{DueBatch, Fired, LockPolicy, NotFired, StoreError};
use crate::{logging, store};

/// Longest sleep. It bounds how late a timer fires that another process armed, and how long a sweep
/// goes on without a report of the oldest due room.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// For how long parts of batches that failed are tried before the sweep goes on with the rooms that
/// have become due meanwhile.
const SUSPECT_TIME: Duration = Duration::from_millis(50);

/// Into how many parts a batch is divided that failed. With two, one room of 500 would be found by
/// fewer transactions, but many would take twice as many.
const PARTS: usize = 8;

/// Bound of the parts that wait. With more of them, small parts come before large ones.
const MAX_SUSPECTS: usize = 1000;

/// Delay before due rooms that are locked are tried again: a join or a chat message locks one for
/// some milliseconds. It doubles up to [`POLL_INTERVAL`].
const LOCKED_DELAY: Duration = Duration::from_millis(20);

/// After so many sweeps in a row that left a locked room behind, the row locks are awaited;
/// otherwise a busy room could stay closed. The other rooms open meanwhile.
const LOCKED_SWEEPS: u32 = 3;

pub struct TimerTask {
    ctx: TaskContext,
    relay: RelayHandle,
    /// Most rooms per transaction.
    batch: u32,
    armed: TimerWaker,
    /// The last timer of the sweep so far.
    after: Option<TimerKey>,
    /// Whether nothing is due after it.
    swept: bool,
    swept_at: Instant,
    /// Parts of batches that failed.
    suspects: VecDeque<Stretch>,
    /// The timer whose transaction took too long, alone.
    slow: Option<TimerKey>,
    refused: Arc<RefusedTimers>,
    locked: LockedRooms,
    /// Wakes the task that waits for locked rooms, with the time of the sweep.
    await_locked: watch::Sender<Option<DateTime<Utc>>>,
    looked_at: Instant,
}

/// Some of the due timers, in their order.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    after: Option<TimerKey>,
    /// The last one; `None` for all.
    until: Option<TimerKey>,
    /// Most rooms per transaction.
    limit: u32,
}

impl Stretch {
    /// What is left of it after a timer; after none, nothing is.
    fn rest_after(self, last: Option<TimerKey>) -> Option<Self> {
        let last = last?;
        let rest = Self { after: Some(last), ..self };
        self.until.is_none_or(|until| last < until).then_some(rest)
    }
}

/// Due rooms that sweeps left behind because they were locked.
#[derive(Debug, Default)]
struct LockedRooms {
    first: Option<TimerKey>,
    /// The first timer that was not due yet.
    upcoming: Option<DateTime<Utc>>,
    sweeps: u32,
    delay: Duration,
}

/// Wakes the timer task after a timer was armed.
#[derive(Debug, Clone, Default)]
pub struct TimerWaker(Arc<Notify>);

impl TimerWaker {
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
            after: None,
            swept: true,
            swept_at: Instant::now(),
            suspects: VecDeque::new(),
            slow: None,
            refused: Arc::default(),
            locked: LockedRooms::default(),
            await_locked: watch::Sender::default(),
            looked_at: Instant::now(),
        }
    }

    pub fn waker(&self) -> TimerWaker {
        self.armed.clone()
    }

    /// Runs until `stop`. A transaction that has begun is finished. A tick that fails is repeated:
    /// a due room that was not reset is still due.
    pub async fn run(mut self, stop: CancellationToken) {
        let set_aside = SetAside {
            ctx: self.ctx.clone(),
            relay: self.relay.clone(),
            refused: Arc::clone(&self.refused),
            locked: self.await_locked.subscribe(),
        };
        tokio::join!(
            self.tick_until(&stop),
            set_aside.wait_for_locks(&stop),
            set_aside.retry_refused(&stop),
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
                    (self.after, self.swept) = (None, true);
                    self.suspects.clear();
                    let problem = logging::causes(&error);
                    if self.ctx.health.set_down(Component::Database, problem.as_str()) {
                        tracing::warn!(error = problem, "database unavailable, timers cannot fire");
                    }
                    if error.is_refusal() {
                        // If this fails too, the age of the last known room grows by itself.
                        self.look(self.ctx.clock.now()).await.ok();
                    }
                    backoff.next_wait()
                }
            };
            if delay.is_zero() {
                // Even the shortest sleep takes a millisecond.
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.armed.0.notified() => {}
                () = sleep(delay) => {}
            }
        }
    }

    /// Fires one batch, and returns the delay until the next tick: zero while the sweep goes on.
    pub async fn tick(&mut self) -> store::Result<Duration> {
        self.ctx.health.record_progress();
        let now = self.ctx.sample_time().await?;
        if !self.swept || self.suspects.is_empty() || self.swept_at.elapsed() > SUSPECT_TIME {
            self.sweep(now).await?;
        } else {
            self.take_apart(now).await?;
        }
        if !self.swept || !self.suspects.is_empty() {
            if self.looked_at.elapsed() > POLL_INTERVAL {
                self.look(now).await?;
            }
            return Ok(Duration::ZERO);
        }
        self.after = None;
        self.delay(now).await
    }

    /// Fires the next batch of the sweep. One that fails is left to [`take_apart`](Self::take_apart).
    async fn sweep(&mut self, now: DateTime<Utc>) -> store::Result<()> {
        let batch = Stretch { after: self.after, until: None, limit: self.batch };
        let rest = self.fire(now, batch).await?;
        self.swept = rest.is_none();
        self.swept_at = Instant::now();
        self.after = rest.map_or(self.after, |rest| rest.after);
        Ok(())
    }

    /// Fires some rooms of a batch that failed.
    async fn take_apart(&mut self, now: DateTime<Utc>) -> store::Result<()> {
        let Some(suspect) = self.suspects.pop_front() else { return Ok(()) };
        let fired = self.fire(now, suspect).await;
        let rest = fired.as_ref().map_or(Some(suspect), |rest| *rest);
        if let Some(rest) = rest {
            self.suspects.push_front(rest);
        }
        fired.map(drop)
    }

    /// Fires a batch of due timers, or finds out which of them may be to blame. Returns the rest of
    /// the stretch.
    async fn fire(
        &mut self,
        now: DateTime<Utc>,
        stretch: Stretch,
    ) -> store::Result<Option<Stretch>> {
        let permit = self.relay.reserve(now);
        let claimed_until = permit.as_ref().map(BatchPermit::claimed_until);
        let except = self.refused.keys();
        let Stretch { after, limit, .. } = stretch;
        let batch = DueBatch { after, except: &except, limit, locked: LockPolicy::SkipLocked };
        match self.ctx.database.fire_due(now, batch, claimed_until).await {
            Ok(fired) => {
                report(&self.ctx, &fired);
                let rest = stretch.rest_after(fired.last).filter(|_| !fired.is_short_of(limit));
                self.relay.pass(permit, fired.events);
                Ok(rest)
            }
            Err(NotFired { due, error }) => {
                drop(permit);
                self.suspect(after, &due, error)?;
                Ok(stretch.rest_after(due.last().map(|timer| timer.key)))
            }
        }
    }

    /// Divides a batch that failed, down to the one room that is to blame.
    fn suspect(
        &mut self,
        after: Option<TimerKey>,
        due: &[PendingTimer],
        error: StoreError,
    ) -> store::Result<()> {
        let slow = matches!(error, StoreError::TimedOut(_));
        match due {
            // By none of these rooms. They count as locked.
            [] if error.is_contention() => {}
            [] => return Err(error),
            [_timer] if error.is_contention() => {}
            // The database may have been slow, rather than the room.
            [timer] if slow && self.slow != Some(timer.key) => {
                self.slow = Some(timer.key);
                return Err(error);
            }
            [timer] if slow || error.is_refusal() => self.refused.add(timer, &error),
            [_timer] => return Err(error),
            // Each further try may take as long.
            [.., last] if slow => {
                self.set_aside(Stretch { after, until: Some(last.key), limit: 1 });
            }
            several if error.is_refusal() || error.is_contention() => {
                let mut after = after;
                for part in several.chunks(several.len().div_ceil(PARTS)) {
                    let until = part.last().map(|timer| timer.key);
                    let limit = u32::try_from(part.len()).unwrap_or(self.batch);
                    self.set_aside(Stretch { after, until, limit });
                    after = until;
                }
            }
            _several => return Err(error),
        }
        Ok(())
    }

    /// The largest batches come first: they may have the most healthy rooms.
    fn set_aside(&mut self, suspect: Stretch) {
        if self.suspects.len() < MAX_SUSPECTS {
            self.suspects.push_back(suspect);
        } else {
            self.suspects.push_front(suspect);
        }
    }

    /// The delay after a sweep. Everything that was due at `now` has fired, except refused and locked
    /// rooms.
    async fn delay(&mut self, now: DateTime<Utc>) -> store::Result<Duration> {
        let first = self.look(now).await?.map(|timer| timer.key);
        let until = |time: DateTime<Utc>| self.ctx.clock.until(time).min(POLL_INTERVAL);
        let Some(locked) = first.filter(|key| key.due_at <= now) else {
            self.locked = LockedRooms::default();
            return Ok(first.map_or(POLL_INTERVAL, |key| until(key.due_at)));
        };
        let upcoming = self.ctx.database.next_due(Some(TimerKey::last_at(now)), &[]).await?;
        let upcoming = upcoming.map(|timer| timer.key.due_at);
        let delay = self.locked.next_delay(locked, upcoming, now);
        if self.locked.sweeps > LOCKED_SWEEPS {
            self.await_locked.send_replace(Some(now));
        }
        Ok(upcoming.map_or(delay, |due_at| until(due_at).min(delay)))
    }

    /// Finds the first timer that was not refused, and reports the oldest due room.
    async fn look(&mut self, now: DateTime<Utc>) -> store::Result<Option<PendingTimer>> {
        let first = self.ctx.database.next_due(None, &self.refused.keys()).await?;
        self.looked_at = Instant::now();
        let refused = self.refused.first_unready();
        let oldest = first.iter().chain(&refused).min_by_key(|timer| timer.key);
        let oldest = oldest.map(|PendingTimer { key, token }| Oldest {
            item: format!("room {token} is due"),
            age: now - key.due_at,
        });
        self.ctx.health.set_oldest(Work::Timers, oldest);
        Ok(first)
    }
}

impl LockedRooms {
    /// Counts a sweep that left `first` behind, and returns the delay until the next one. It is
    /// short again with other rooms: a lock is short as a rule.
    fn next_delay(
        &mut self,
        first: TimerKey,
        upcoming: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> Duration {
        let same = self.first == Some(first) && self.upcoming.is_none_or(|due_at| due_at > now);
        self.delay = if same { (self.delay * 2).min(POLL_INTERVAL) } else { LOCKED_DELAY };
        (self.first, self.upcoming) = (Some(first), upcoming);
        self.sweeps += 1;
        self.delay
    }
}

/// Logs, counts and traces the rooms that have been reset.
fn report(ctx: &TaskContext, fired: &Fired) {
    let now = ctx.clock.now();
    metrics::counter!(crate::metrics::FIRED)
        .increment(u64::try_from(fired.events.len()).unwrap_or(0));
    for event in &fired.events {
        let lag = event.due_at.map(|due_at| (now - due_at).as_seconds_f64());
        tracing::info!(
            room.token = %event.token,
            event.id = %event.id,
            timer.due_at = event.due_at.map(tracing::field::display),
            lag_seconds = lag,
            "room opened"
        );
        // Otherwise the trace begins with the publication.
        if let (Some(due_at), Some(lag)) = (event.due_at, lag) {
            let mut span = ctx.traces.opening(event, now);
            span.set_event_id(&event.id);
            span.set("lobbyd.room.token", &event.token);
            span.set("lobbyd.timer.due_at", &due_at.format("%+"));
            metrics::histogram!(crate::metrics::COMMIT_LAG).record(lag);
        }
    }
}
