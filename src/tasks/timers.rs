//! Resets every room whose timer is due.
//!
//! The task sleeps until the next due time that it knows of, and checks at least every second,
//! because other processes arm timers too. Each tick first samples the database's time and fires
//! what is due at that sample. The sample is in the past by the time the reset commits, so no timer
//! fires early, whatever the clocks of this machine do. The task holds no timers in memory and
//! publishes nothing: it passes the events of the rooms to the relay.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::TaskContext;
use crate::backoff::Backoff;
use crate::health::{Component, Oldest, Work};
use crate::relay::{BatchPermit, RelayHandle};
use crate::store::{Fired, LockPolicy};
use crate::{logging, store};

/// Longest sleep. It bounds how late a timer fires that another process armed.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Delay before a due room that was locked is tried again. A join or a chat message locks it for
/// some milliseconds.
const LOCKED_INTERVAL: Duration = Duration::from_millis(20);

/// After so many ticks in a row with a locked due room, the task waits for the row lock instead of
/// skipping it; otherwise a busy room could stay closed. The other rooms open meanwhile.
const LOCKED_TICKS: u32 = 3;

pub struct TimerTask {
    ctx: TaskContext,
    relay: RelayHandle,
    /// Rooms per transaction.
    batch: u32,
    armed: TimerWaker,
    /// Time of the first pending timer, as of the last tick.
    next_due: Option<DateTime<Utc>>,
    /// Ticks in a row with a locked due room.
    locked_ticks: u32,
    /// Wakes [`LockedRooms`].
    locked: Arc<Notify>,
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
            next_due: None,
            locked_ticks: 0,
            locked: Arc::default(),
        }
    }

    pub fn waker(&self) -> TimerWaker {
        self.armed.clone()
    }

    /// Runs until `stop`. A transaction that has begun is finished. A tick that fails is repeated:
    /// a due room that was not reset is still due.
    pub async fn run(mut self, stop: CancellationToken) {
        let locked_rooms = LockedRooms {
            ctx: self.ctx.clone(),
            relay: self.relay.clone(),
            wake: Arc::clone(&self.locked),
        };
        tokio::join!(self.tick_until(&stop), locked_rooms.run(&stop));
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
                    let problem = logging::causes(&error);
                    if self.ctx.health.set_down(Component::Database, problem.as_str()) {
                        tracing::warn!(error = problem, "database unavailable, timers cannot fire");
                    }
                    self.record_overdue(self.ctx.clock.now());
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

    /// Resets the rooms that are due, up to one batch, and returns the delay until the next tick:
    /// zero while more of them may be due.
    pub async fn tick(&mut self) -> store::Result<Duration> {
        self.ctx.health.record_progress();
        let now = self.ctx.sample_time().await?;
        self.record_overdue(now);
        let permit = self.relay.reserve(now);
        let claimed_until = permit.as_ref().map(BatchPermit::claimed_until);
        let fired = self
            .ctx
            .database
            .fire_due(now, self.batch, LockPolicy::SkipLocked, claimed_until)
            .await?;
        report(&self.ctx, &fired);
        let more = !fired.is_short_of(self.batch);
        let last_due = fired.events.last().and_then(|event| event.due_at);
        self.relay.pass(permit, fired.events);
        if more {
            self.next_due = last_due;
            return Ok(Duration::ZERO);
        }
        self.next_due = self.ctx.database.next_due().await?;
        self.record_overdue(now);
        Ok(self.delay(now))
    }

    /// Everything that was due at `now` has fired, except locked rooms.
    fn delay(&mut self, now: DateTime<Utc>) -> Duration {
        match self.next_due {
            Some(due_at) if due_at <= now => {
                self.locked_ticks += 1;
                if self.locked_ticks > LOCKED_TICKS {
                    self.locked.notify_one();
                }
                LOCKED_INTERVAL
            }
            next => {
                self.locked_ticks = 0;
                next.map_or(POLL_INTERVAL, |due_at| self.ctx.clock.until(due_at).min(POLL_INTERVAL))
            }
        }
    }

    /// Records for how long the first timer has been due, also while the database is unavailable.
    fn record_overdue(&self, now: DateTime<Utc>) {
        let oldest = self
            .next_due
            .map(|due_at| Oldest { item: "a room is due".to_owned(), age: now - due_at });
        self.ctx.health.set_oldest(Work::Timers, oldest);
    }
}

/// Resets due rooms that stay locked, one at a time, so that the other rooms need not wait for their
/// locks.
struct LockedRooms {
    ctx: TaskContext,
    relay: RelayHandle,
    wake: Arc<Notify>,
}

impl LockedRooms {
    async fn run(&self, stop: &CancellationToken) {
        while stop.run_until_cancelled(self.wake.notified()).await.is_some() {
            match self.reset_one().await {
                Ok(fired) => {
                    report(&self.ctx, &fired);
                    self.relay.pass(None, fired.events);
                }
                Err(error) => {
                    let error = logging::causes(&error);
                    tracing::warn!(error, "locked due room could not be reset");
                }
            }
        }
    }

    async fn reset_one(&self) -> store::Result<Fired> {
        let now = self.ctx.sample_time().await?;
        self.ctx.database.fire_due(now, 1, LockPolicy::Wait, None).await
    }
}

/// Logs, counts and traces the rooms that have been reset.
fn report(ctx: &TaskContext, fired: &Fired) {
    let now = ctx.clock.now();
    metrics::counter!(crate::metrics::FIRED)
        .increment(u64::try_from(fired.events.len()).unwrap_or(0));
    for event in &fired.events {
        let mut span = ctx.traces.opening(event, now);
        span.set_event_id(&event.id);
        span.set("lobbyd.room.token", &event.token);
        if let Some(due_at) = event.due_at {
            span.set("lobbyd.timer.due_at", &due_at.format("%+"));
            let lag = (now - due_at).as_seconds_f64();
            metrics::histogram!(crate::metrics::COMMIT_LAG).record(lag);
            tracing::info!(
                room.token = %event.token,
                event.id = %event.id,
                timer.due_at = %due_at,
                lag_seconds = lag,
                "room opened"
            );
        }
    }
    if fired.cleared_timers > 0 {
        tracing::info!(rooms = fired.cleared_timers, "timers of open rooms cleared");
    }
}
