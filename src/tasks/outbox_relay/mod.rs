//! Publishes the events of the outbox until the broker has confirmed them.
//!
//! What the timer task has just fired arrives over the [`RelayQueue`], claimed already, and goes
//! first. Everything else (left by a crash, an outage or a burst) is claimed from the outbox. A claim
//! expires, so another relay picks up the events of a crashed process. The relay never creates an
//! event: id and version were fixed when the row was written.
//!
//! The relay is a pipeline: while some batches wait for their confirms, others are claimed, sent and
//! marked. So events of a room can overtake each other; consumers order them by their version. A
//! batch that fails delays no other one. What the destination does not take is in [`breaker`], and
//! what happens to one batch in [`publication`].

mod breaker;
mod publication;

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::time::{MissedTickBehavior, interval};

use self::breaker::{Breaker, Change};
use self::publication::{Publications, Published, Selection};
use super::TaskContext;
use crate::bus::BusError;
use crate::domain::EventId;
use crate::health::{Component, Oldest, Work};
use crate::logging;
use crate::relay::{Batch, RelayQueue};
use crate::store;
use crate::store::{Pending, StoreError};

/// How often broker and outbox are checked, and what failed is tried again.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Batches that are published at once.
const CHANNELS: usize = 4;

pub struct OutboxRelay {
    ctx: TaskContext,
    queue: RelayQueue,
    /// Most events of a batch.
    batch: u32,
    /// Events of the next batch.
    limit: u32,
    gate: Gate,
    breaker: Breaker,
    /// Whether all handles of the queue are dropped.
    ending: bool,
    /// Whether the outbox may have more events than were claimed.
    more: bool,
    /// Whether something failed, which is tried again after the next tick.
    paused: bool,
    /// Confirmed events that are not marked yet.
    unmarked: Vec<EventId>,
    running: Running,
}

/// Whether events can be published at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    Open,
    Disconnected,
    /// A required queue does not exist.
    MissingQueue,
}

/// The steps in progress.
#[derive(Default)]
struct Running {
    checking: bool,
    looking: bool,
    claiming: bool,
    publishing: usize,
}

type Steps<'a> = FuturesUnordered<BoxFuture<'a, Step>>;

/// The end of a step.
enum Step {
    Checked(Result<Option<String>, BusError>),
    Looked(Vec<EventId>, store::Result<Option<Pending>>),
    Claimed(Selection, store::Result<Batch>),
    Published(Selection, Published),
    Released,
}

/// Why a batch was not published.
#[derive(Debug, thiserror::Error)]
enum RelayError {
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error("broker did not confirm: {0}")]
    Unconfirmed(String),
    #[error("claim would end before the confirms")]
    ClaimTooShort,
}

impl OutboxRelay {
    /// Publishes up to `batch` events at a time.
    pub fn new(ctx: TaskContext, queue: RelayQueue, batch: u32) -> Self {
        Self {
            ctx,
            queue,
            batch,
            limit: batch,
            gate: Gate::Disconnected,
            breaker: Breaker::default(),
            ending: false,
            more: true,
            paused: false,
            unmarked: Vec::new(),
            running: Running::default(),
        }
    }

    /// Runs until all handles of the queue are dropped, then flushes the outbox as far as the broker
    /// takes it; the supervisor ends that when the grace period is over. Whatever fails stays in the
    /// outbox and is tried again.
    pub async fn run(mut self) {
        let publications = Publications::new(self.ctx.clone());
        let mut steps = Steps::new();
        let mut poll = interval(POLL_INTERVAL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.start(&publications, &mut steps);
            if self.is_flushed() {
                return;
            }
            let takes_batch = !self.ending && self.running.publishing < CHANNELS;
            tokio::select! {
                biased;
                Some(step) = steps.next() => self.finish(step, &publications, &mut steps),
                batch = self.queue.batches.recv(), if takes_batch => {
                    if let Some(batch) = batch {
                        self.publish(Selection::All, batch, &publications, &mut steps);
                    } else {
                        (self.ending, self.more) = (true, true);
                    }
                }
                () = self.queue.wake.notified() => self.more = true,
                _ = poll.tick() => {
                    self.more |= !self.ending;
                    self.paused = false;
                    self.check(&publications, &mut steps);
                }
            }
        }
    }

    /// Begins what can be done now: first what has just fired, then what the outbox holds.
    fn start<'a>(&mut self, publications: &'a Publications, steps: &mut Steps<'a>) {
        while self.running.publishing < CHANNELS
            && let Ok(batch) = self.queue.batches.try_recv()
        {
            self.publish(Selection::All, batch, publications, steps);
        }
        if let Some(selection) = self.next_claim() {
            self.running.claiming = true;
            let limit = self.limit;
            steps.push(Box::pin(async move {
                Step::Claimed(selection, publications.claim(selection, limit).await)
            }));
        }
    }

    /// What can be claimed now.
    fn next_claim(&self) -> Option<Selection> {
        // One channel is left for what fires meanwhile. Batches on a slow link go one by one.
        let channels = if self.limit < self.batch { 1 } else { CHANNELS - 1 };
        let has_room = !self.running.claiming && self.running.publishing < channels;
        // At the end it is not known yet whether anything is left to publish.
        let is_open = self.gate == Gate::Open || self.ending && self.gate == Gate::Disconnected;
        if self.paused || !has_room || !is_open {
            None
        } else if self.breaker.probe_is_due() {
            Some(Selection::Probe)
        } else if self.more && self.breaker.is_open() {
            Some(Selection::New)
        } else {
            self.more.then_some(Selection::All)
        }
    }

    /// Begins the checks of broker and outbox, unless the last ones still run.
    fn check<'a>(&mut self, publications: &'a Publications, steps: &mut Steps<'a>) {
        if !std::mem::replace(&mut self.running.checking, true) {
            steps.push(Box::pin(async { Step::Checked(publications.check_broker().await) }));
        }
        if !std::mem::replace(&mut self.running.looking, true) {
            let unmarked = std::mem::take(&mut self.unmarked);
            steps.push(Box::pin(async {
                let (unmarked, pending) = publications.look(unmarked).await;
                Step::Looked(unmarked, pending)
            }));
        }
    }

    /// Begins to publish a claimed batch; what exceeds the limit goes back to the outbox.
    fn publish<'a>(
        &mut self,
        selection: Selection,
        mut batch: Batch,
        publications: &'a Publications,
        steps: &mut Steps<'a>,
    ) {
        let limit = match self.gate {
            Gate::Open | Gate::Disconnected => usize::try_from(self.limit).unwrap_or(usize::MAX),
            Gate::MissingQueue => 0,
        };
        let rest = batch.split_off(limit);
        if !rest.events.is_empty() {
            self.more = true;
            steps.push(Box::pin(async {
                publications.release(rest).await;
                Step::Released
            }));
        }
        if batch.events.is_empty() {
            return;
        }
        let selection = if selection == Selection::All && self.breaker.is_open() {
            Selection::New
        } else {
            selection
        };
        self.running.publishing += 1;
        steps.push(Box::pin(async move {
            Step::Published(selection, publications.publish(batch, selection).await)
        }));
    }

    fn finish<'a>(&mut self, step: Step, publications: &'a Publications, steps: &mut Steps<'a>) {
        match step {
            Step::Checked(outcome) => {
                self.running.checking = false;
                self.checked(outcome);
            }
            Step::Looked(unmarked, pending) => {
                self.running.looking = false;
                self.unmarked.extend(unmarked);
                match pending {
                    Ok(pending) => self.report_pending(pending.as_ref()),
                    Err(error) => report(&error),
                }
            }
            Step::Claimed(selection, claimed) => {
                self.running.claiming = false;
                match claimed {
                    Ok(batch) => self.claimed(selection, batch, publications, steps),
                    Err(error) => {
                        self.paused = true;
                        report(&error);
                    }
                }
            }
            Step::Published(selection, published) => {
                self.running.publishing -= 1;
                self.published(selection, published);
            }
            Step::Released => {}
        }
    }

    fn checked(&mut self, outcome: Result<Option<String>, BusError>) {
        match outcome {
            Ok(None) => {
                self.gate = Gate::Open;
                self.queue.set_open(true);
                if self.ctx.health.set_up(Component::Publisher) {
                    tracing::info!("publisher connected");
                }
            }
            Ok(Some(queue)) => {
                let problem = format!("required queue {queue} does not exist");
                if self.close(Gate::MissingQueue, &problem) {
                    tracing::warn!(
                        error = problem,
                        "nothing is published, events remain in the outbox"
                    );
                }
            }
            Err(error) => self.disconnected(&logging::causes(&error)),
        }
    }

    fn disconnected(&mut self, problem: &str) {
        if self.close(Gate::Disconnected, problem) {
            tracing::warn!(error = problem, "publisher disconnected, events remain in the outbox");
        }
    }

    /// Stops publishing. Returns whether this is news.
    fn close(&mut self, gate: Gate, problem: &str) -> bool {
        self.queue.set_open(false);
        let changed = std::mem::replace(&mut self.gate, gate) != gate;
        self.ctx.health.set_down(Component::Publisher, problem) || changed
    }

    fn claimed<'a>(
        &mut self,
        selection: Selection,
        batch: Batch,
        publications: &'a Publications,
        steps: &mut Steps<'a>,
    ) {
        let is_full = u32::try_from(batch.events.len()).is_ok_and(|number| number >= self.limit);
        match selection {
            Selection::All | Selection::New => self.more = is_full,
            Selection::Probe if batch.events.is_empty() => drop(self.breaker.record(true, 0, 0)),
            Selection::Probe => {}
        }
        self.publish(selection, batch, publications, steps);
    }

    fn published(&mut self, selection: Selection, published: Published) {
        let Published { size, taken, returned, reason, failure, unmarked } = published;
        self.unmarked.extend(unmarked);
        match self.breaker.record(selection == Selection::Probe, taken, returned) {
            Some(Change::Opened) => tracing::warn!(
                error = reason,
                "no queue takes the events, they remain in the outbox"
            ),
            Some(Change::Closed) => {
                self.more = true;
                tracing::info!("events are taken again");
            }
            None => {}
        }
        match failure {
            None => self.limit = self.limit.saturating_mul(2).min(self.batch),
            Some(failure) => {
                (self.more, self.paused) = (true, true);
                match failure {
                    RelayError::Bus(error) => self.disconnected(&logging::causes(&error)),
                    RelayError::Unconfirmed(_) => {
                        // Of several batches at once, only the first counts.
                        if u32::try_from(size).is_ok_and(|size| size <= self.limit) {
                            self.limit = (self.limit / 2).max(1);
                        }
                        self.disconnected(&failure.to_string());
                    }
                    RelayError::ClaimTooShort => tracing::debug!("{failure}"),
                }
            }
        }
    }

    /// Reports the oldest event that is not published. Events that are refused, while others are
    /// taken, have a gauge of their own.
    fn report_pending(&mut self, pending: Option<&Pending>) {
        metrics::gauge!(crate::metrics::OUTBOX_REFUSED)
            .set(pending.map_or(0.0, |pending| count(pending.refused)));
        let Some(pending) = pending else {
            self.breaker.reset();
            return self.ctx.health.set_oldest(Work::Outbox, None);
        };
        let counts = !pending.is_refused || self.breaker.takes_nothing();
        let oldest = counts.then(|| Oldest {
            item: format!("event {} of room {} is not published", pending.oldest, pending.room),
            age: self.ctx.clock.now() - pending.created_at,
        });
        self.ctx.health.set_oldest(Work::Outbox, oldest);
    }

    /// Whether the relay has to end, and nothing is left that it could publish.
    fn is_flushed(&self) -> bool {
        let is_idle =
            !self.running.claiming && !self.running.looking && self.running.publishing == 0;
        let is_done = self.unmarked.is_empty() && !self.more;
        self.ending && is_idle && (is_done || self.gate == Gate::MissingQueue)
    }
}

fn report(error: &StoreError) {
    let problem = logging::causes(error);
    if error.is_refusal() {
        tracing::error!(error = problem, "outbox unreadable");
    } else {
        // The component that watches the database warns of an outage.
        tracing::debug!(error = problem, "outbox unavailable");
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::as_conversions,
    reason = "a gauge is a float; counts lose nothing below 2^53"
)]
fn count(number: u64) -> f64 {
    number as f64
}
