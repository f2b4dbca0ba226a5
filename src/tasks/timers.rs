//! The timer loop: opens every room whose timer is due.
//!
//! It sleeps until the next due instant that it knows of, and looks anew at least every second,
//! because other processes arm timers too. Before it fires it asks the database for the time, and
//! fires what is due at that sample: the sample is in the past by the time the reset commits, so
//! nothing is ever early, whatever the clocks of this machine do. It holds no timers in memory and
//! publishes nothing.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;

use super::RelayHandle;
use crate::{
    backoff::Backoff,
    clock::DatabaseClock,
    domain::OutboxEvent,
    health::{Component, Health},
    logging,
    store::{self, Database, Fired, LockPolicy},
    traces::Traces,
};

/// Longest sleep. It bounds how late a timer fires that another process armed.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Wait for a room that is due while somebody else holds it. Whoever joins or chats there needs some
/// milliseconds.
const HELD_INTERVAL: Duration = Duration::from_millis(20);

/// After so many rounds in which a due room was held it is waited for, in the line of those who
/// want it: a crowd that comes in would else keep it closed. The other rooms open meanwhile.
const HELD_ROUNDS: u32 = 3;

/// What the loop knows from its last round.
#[derive(Default)]
struct Known {
    /// Rounds in a row in which a due room was held.
    held_rounds: u32,
    next_due: Option<DateTime<Utc>>,
}

impl Known {
    /// Shows for how long the first room is due, also while the database is away.
    fn show_overdue(&self, now: DateTime<Utc>) {
        let overdue = self.next_due.map_or(0.0, |due_at| (now - due_at).as_seconds_f64().max(0.0));
        metrics::gauge!(crate::metrics::OVERDUE).set(overdue);
    }
}

/// The loop that fires.
pub struct TimerTask {
    store: Arc<dyn Database>,
    clock: Arc<DatabaseClock>,
    health: Arc<Health>,
    /// Rung when this process armed a timer.
    armed: Arc<Notify>,
    handoff: RelayHandle,
    traces: Traces,
    /// Rooms per transaction.
    batch: u32,
    /// Rung when a due room has to be waited for.
    held: Notify,
}

impl TimerTask {
    /// Fires up to `batch` rooms at once, and hands their events to the relay.
    pub fn new(
        store: Arc<dyn Database>,
        clock: Arc<DatabaseClock>,
        health: Arc<Health>,
        armed: Arc<Notify>,
        handoff: RelayHandle,
        traces: Traces,
        batch: u32,
    ) -> Self {
        Self { store, clock, health, armed, handoff, traces, batch, held: Notify::new() }
    }

    /// Runs until `stop`. A transaction that has begun is finished. Whatever fails is tried again:
    /// a due room that was not reset is still due.
    pub async fn run(self, stop: CancellationToken) {
        tokio::join!(self.open_due(&stop), self.open_held(&stop));
    }

    async fn open_due(&self, stop: &CancellationToken) {
        let mut backoff = Backoff::new(Backoff::LOOPS);
        let mut known = Known::default();
        while !stop.is_cancelled() {
            let nap = match self.round(&mut known, stop).await {
                Ok(nap) => {
                    backoff.reset();
                    if self.health.set_up(Component::Database) {
                        tracing::info!("database available, timers fire");
                    }
                    nap
                }
                Err(error) => {
                    if self.health.set_down(Component::Database, logging::causes(&error)) {
                        tracing::warn!(
                            error = logging::causes(&error),
                            "database unavailable, timers cannot fire"
                        );
                    }
                    known.show_overdue(self.clock.now());
                    backoff.next_wait()
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.armed.notified() => {}
                () = sleep(nap) => {}
            }
        }
    }

    /// Waits for one held room at a time, so that it holds up none that is free.
    async fn open_held(&self, stop: &CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.held.notified() => {}
            }
            let fired = async {
                let now = self.store.now().await?;
                self.store.fire_due(now, 1, LockPolicy::Wait, None).await
            };
            match fired.await {
                Ok(fired) => {
                    self.report(&fired);
                    self.handoff.left_in_outbox();
                    let opened_at = self.clock.now();
                    self.trace(fired.events.into_iter().map(|event| (event, opened_at)).collect());
                }
                Err(error) => {
                    tracing::warn!(
                        error = logging::causes(&error),
                        "locked due room could not be reset"
                    );
                }
            }
        }
    }

    /// Fires all that is due, and says for how long there is nothing to do.
    async fn round(&self, known: &mut Known, stop: &CancellationToken) -> store::Result<Duration> {
        let mut traced = Vec::new();
        let now = loop {
            self.health.record_progress();
            let now = self.store.now().await?;
            self.clock.observe(now);
            known.show_overdue(now);
            let slot = self.handoff.reserve();
            let claimed_until =
                slot.as_ref().map(|_slot| RelayHandle::claimed_until(self.clock.now()));
            let fired =
                self.store.fire_due(now, self.batch, LockPolicy::SkipLocked, claimed_until).await?;
            let last = fired.is_short_of(self.batch);
            self.report(&fired);
            if !last {
                known.next_due = fired.events.last().and_then(|event| event.due_at);
            }
            let opened_at = self.clock.now();
            let room = self.traces.room().saturating_sub(traced.len());
            traced.extend(fired.events.iter().take(room).map(|event| (event.clone(), opened_at)));
            self.traces.pass_over(fired.events.len().saturating_sub(room));
            match slot {
                _ if fired.events.is_empty() => {}
                Some(slot) => slot.send(fired.events),
                None => self.handoff.left_in_outbox(),
            }
            if last || stop.is_cancelled() {
                break now;
            }
        };
        self.trace(traced);
        let next = self.store.next_due().await?;
        known.next_due = next;
        known.show_overdue(now);
        if next.is_some_and(|due_at| due_at <= now) {
            known.held_rounds += 1;
            if known.held_rounds > HELD_ROUNDS {
                self.held.notify_one();
            }
            return Ok(HELD_INTERVAL);
        }
        known.held_rounds = 0;
        Ok(next.map_or(LOOK_INTERVAL, |due_at| self.clock.until(due_at).min(LOOK_INTERVAL)))
    }

    /// Records what fired, and when it was open. By now all rooms that were due are open.
    fn trace(&self, opened: Vec<(OutboxEvent, DateTime<Utc>)>) {
        if opened.is_empty() || self.traces.room() == 0 {
            return self.traces.pass_over(opened.len());
        }
        for (event, opened_at) in opened {
            let mut span = self.traces.opening(&event, opened_at);
            span.note_event(&event.id);
            span.note("lobbyd.room.token", &event.token);
            if let Some(due_at) = event.due_at {
                span.note("lobbyd.timer.due_at", &due_at.to_rfc3339());
            }
        }
    }

    fn report(&self, fired: &Fired) {
        let now = self.clock.now();
        metrics::counter!(crate::metrics::FIRED)
            .increment(u64::try_from(fired.events.len()).unwrap_or(0));
        for event in &fired.events {
            if let Some(due_at) = event.due_at {
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
}
