//! Publishes the events of the outbox until the broker has confirmed them.
//!
//! What the timer task has just fired arrives over the [`RelayQueue`], claimed already, and goes
//! first. What the consumer has just applied arrives in the same way. Everything else (left by a crash, an outage or a burst) is claimed from the outbox. A claim
//! expires, so another relay picks up the events of a crashed process. The relay never creates an
//! event: id and version were fixed when the row was written.
//!
//! The relay is a pipeline of steps: while some batches wait for their confirms, others are claimed,
//! sent and marked. So events of a room can overtake each other; consumers order them by their
//! version. [`publication`] has the steps, and [`flow`] decides which of them are due.

mod claim;
mod flow;
mod isolated;
mod outcome;
mod publication;
mod reported;

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::time::{MissedTickBehavior, interval};

use self::claim::Selection;
use self::flow::Flow;
use self::publication::{Claimed, Publications, Published};
use super::TaskContext;
use crate::bus::BusError;
use crate::domain::EventId;
use crate::relay::{Batch, RelayQueue};
use crate::store;
use crate::store::Pending;

/// How often broker and outbox are checked, and what failed is tried again.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Batches that are published at once, each on a channel of its own. The broker is busy with four;
/// the others are being sent or marked meanwhile.
const CHANNELS: usize = 6;

pub struct OutboxRelay {
    ctx: TaskContext,
    queue: RelayQueue,
    /// Most events of a batch.
    batch: u32,
}

/// The relay at work.
struct Pipeline<'a> {
    queue: RelayQueue,
    publications: &'a Publications,
    steps: FuturesUnordered<BoxFuture<'a, Step>>,
    /// The steps in progress.
    checking: bool,
    looking: bool,
    claiming: bool,
    publishing: usize,
    flow: Flow,
}

/// What a step has done.
enum Step {
    /// With the name of a required queue that does not exist.
    Checked(Result<Option<String>, BusError>),
    /// With the confirmed events that are still not marked.
    Looked(Vec<EventId>, store::Result<Option<Pending>>),
    Claimed(Selection, store::Result<Claimed>),
    Published(Selection, Published),
    Released,
}

impl OutboxRelay {
    /// Publishes up to `batch` events at a time.
    pub fn new(ctx: TaskContext, queue: RelayQueue, batch: u32) -> Self {
        Self { ctx, queue, batch }
    }

    /// Runs until all handles of the queue are dropped, then flushes the outbox as far as the broker
    /// takes it; the supervisor ends that when the grace period is over. Whatever fails stays in the
    /// outbox and is tried again.
    pub async fn run(self) {
        let publications = Publications::new(self.ctx.clone());
        let pipeline = Pipeline {
            queue: self.queue,
            publications: &publications,
            steps: FuturesUnordered::new(),
            checking: false,
            looking: false,
            claiming: false,
            publishing: 0,
            flow: Flow::new(self.ctx.health, self.ctx.clock, self.batch),
        };
        pipeline.run().await;
    }
}

impl Pipeline<'_> {
    async fn run(mut self) {
        let mut poll = interval(POLL_INTERVAL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ending = false;
        loop {
            self.start();
            let is_idle = !self.claiming && !self.looking && self.publishing == 0;
            if ending && is_idle && self.flow.is_flushed() {
                return;
            }
            let takes_changes = self.takes_changes();
            tokio::select! {
                biased;
                Some(step) = self.steps.next() => self.finish(step),
                batch = self.queue.batches.recv(), if !ending && self.publishing < CHANNELS => {
                    if let Some(batch) = batch {
                        self.publish(Selection::All, batch);
                    } else {
                        ending = true;
                        self.flow.end();
                    }
                }
                Some(batch) = self.queue.changes.recv(), if takes_changes => {
                    self.publish(Selection::All, batch);
                }
                () = self.queue.wake.notified() => self.flow.wake(),
                _ = poll.tick() => {
                    self.flow.tick();
                    self.check();
                }
            }
            self.queue.set_open(self.flow.is_open());
        }
    }

    /// Begins what can be done now: first what has just fired, then what the outbox holds, then what
    /// has just been applied, so that it cannot hold up the outbox for good.
    fn start(&mut self) {
        while self.publishing < CHANNELS
            && let Ok(batch) = self.queue.batches.try_recv()
        {
            self.publish(Selection::All, batch);
        }
        if !self.claiming
            && (self.flow.is_ending() || !self.queue.is_held())
            && self.publishing < self.channels()
            && let Some((selection, limit)) = self.flow.next_claim()
        {
            self.claiming = true;
            let publications = self.publications;
            self.steps.push(Box::pin(async move {
                Step::Claimed(selection, publications.claim(selection, limit).await)
            }));
        }
        while self.takes_changes()
            && let Ok(batch) = self.queue.changes.try_recv()
        {
            self.publish(Selection::All, batch);
        }
    }

    /// Channels for what has not just fired.
    fn channels(&self) -> usize {
        // One is left for what fires meanwhile. Batches on a slow link go one by one.
        if self.flow.is_slow() { 1 } else { CHANNELS - 1 }
    }

    fn takes_changes(&self) -> bool {
        self.publishing + usize::from(self.claiming) < self.channels()
    }

    /// Begins the checks of broker and outbox, unless the last ones still run.
    fn check(&mut self) {
        let publications = self.publications;
        if !std::mem::replace(&mut self.checking, true) {
            self.steps.push(Box::pin(async { Step::Checked(publications.check_broker().await) }));
        }
        if !std::mem::replace(&mut self.looking, true) {
            let unmarked = self.flow.take_unmarked();
            self.steps.push(Box::pin(async {
                let (unmarked, pending) = publications.look(unmarked).await;
                Step::Looked(unmarked, pending)
            }));
        }
    }

    /// Begins to publish a claimed batch; what exceeds the limit goes back to the outbox.
    fn publish(&mut self, selection: Selection, mut batch: Batch) {
        let publications = self.publications;
        let selection = self.flow.selection(selection);
        let limit = self.flow.limit(selection);
        let rest = batch.split_off(limit);
        if !rest.rows.is_empty() {
            self.flow.wake();
            self.steps.push(Box::pin(async {
                publications.release(rest).await;
                Step::Released
            }));
        }
        if !batch.rows.is_empty() {
            self.publishing += 1;
            self.steps.push(Box::pin(async move {
                Step::Published(selection, publications.publish(batch, selection, limit).await)
            }));
        }
    }

    fn finish(&mut self, step: Step) {
        match step {
            Step::Checked(outcome) => {
                self.checking = false;
                self.flow.checked(outcome);
            }
            Step::Looked(unmarked, pending) => {
                self.looking = false;
                self.flow.looked(unmarked, pending, self.publications.isolated());
            }
            Step::Claimed(selection, claimed) => {
                self.claiming = false;
                if let Some(batch) = self.flow.claimed(selection, claimed) {
                    self.publish(selection, batch);
                }
            }
            Step::Published(selection, published) => {
                self.publishing -= 1;
                self.flow.published(selection, published);
            }
            Step::Released => {}
        }
    }
}
