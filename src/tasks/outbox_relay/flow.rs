//! What the relay does next, and what it reports.
//!
//! It knows whether the broker can be reached, whether the destination takes events, how large
//! batches may be, and whether the outbox may have more. It begins nothing itself.

use super::breaker::{Breaker, Change};
use super::publication::{Claimed, Published, Selection, Unpublished};
use crate::bus::BusError;
use crate::domain::EventId;
use crate::health::{Component, Oldest, Work};
use crate::logging;
use crate::relay::Batch;
use crate::store;
use crate::store::{Pending, StoreError};
use crate::tasks::TaskContext;

pub(super) struct Flow {
    ctx: TaskContext,
    gate: Gate,
    breaker: Breaker,
    /// Most events of a batch.
    batch: u32,
    /// Events of the next batch: fewer on a slow link.
    limit: u32,
    /// Whether the outbox may have events that can be claimed.
    more: bool,
    /// Whether something failed, which is tried again after the next tick.
    paused: bool,
    /// Whether nothing is awaited any longer.
    ending: bool,
    /// Confirmed events that are not marked yet.
    unmarked: Vec<EventId>,
}

/// Whether events can be published at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    Open,
    Disconnected,
    /// A required queue does not exist.
    MissingQueue,
}

impl Flow {
    pub(super) fn new(ctx: TaskContext, batch: u32) -> Self {
        Self {
            ctx,
            gate: Gate::Disconnected,
            breaker: Breaker::default(),
            batch,
            limit: batch,
            more: true,
            paused: false,
            ending: false,
            unmarked: Vec::new(),
        }
    }

    pub(super) fn wake(&mut self) {
        self.more = true;
    }

    pub(super) fn tick(&mut self) {
        self.more |= !self.ending;
        self.paused = false;
    }

    pub(super) fn end(&mut self) {
        (self.ending, self.more) = (true, true);
    }

    pub(super) fn is_open(&self) -> bool {
        self.gate == Gate::Open
    }

    /// Whether nothing is left that could be published.
    pub(super) fn is_flushed(&self) -> bool {
        self.unmarked.is_empty() && !self.more || self.gate == Gate::MissingQueue
    }

    /// Whether batches are small because the link is slow.
    pub(super) fn is_slow(&self) -> bool {
        self.limit < self.batch
    }

    /// The number of events that can be published as one batch.
    pub(super) fn limit(&self) -> usize {
        match self.gate {
            Gate::Open | Gate::Disconnected => usize::try_from(self.limit).unwrap_or(usize::MAX),
            Gate::MissingQueue => 0,
        }
    }

    pub(super) fn take_unmarked(&mut self) -> Vec<EventId> {
        std::mem::take(&mut self.unmarked)
    }

    /// Which events can be claimed now, and how many.
    pub(super) fn next_claim(&self) -> Option<(Selection, u32)> {
        // At the end it is not known yet whether anything is left to publish.
        let is_open = self.is_open() || self.ending && self.gate == Gate::Disconnected;
        if self.paused || !is_open {
            None
        } else if self.breaker.probe_is_due() {
            Some((Selection::Probe, self.limit))
        } else {
            self.more.then(|| (self.selection(Selection::All), self.limit))
        }
    }

    /// What a selection is while events wait for probes.
    pub(super) fn selection(&self, selection: Selection) -> Selection {
        match selection {
            Selection::All if self.breaker.is_open() => Selection::New,
            Selection::All | Selection::New | Selection::Probe => selection,
        }
    }

    pub(super) fn checked(&mut self, outcome: Result<Option<String>, BusError>) {
        match outcome {
            Ok(None) => {
                self.gate = Gate::Open;
                if self.ctx.health.set_up(Component::Publisher) {
                    tracing::info!("publisher connected");
                }
            }
            Ok(Some(queue)) => {
                let error = format!("required queue {queue} does not exist");
                if self.close(Gate::MissingQueue, &error) {
                    tracing::warn!(error, "nothing is published, events remain in the outbox");
                }
            }
            Err(error) => self.disconnected(&logging::causes(&error)),
        }
    }

    fn disconnected(&mut self, error: &str) {
        if self.close(Gate::Disconnected, error) {
            tracing::warn!(error, "publisher disconnected, events remain in the outbox");
        }
    }

    /// Stops publishing. Returns whether this is news.
    fn close(&mut self, gate: Gate, problem: &str) -> bool {
        let changed = std::mem::replace(&mut self.gate, gate) != gate;
        self.ctx.health.set_down(Component::Publisher, problem) || changed
    }

    /// Returns the events that were claimed.
    pub(super) fn claimed(
        &mut self,
        selection: Selection,
        claimed: store::Result<Claimed>,
    ) -> Option<Batch> {
        match claimed {
            Ok(Claimed { batch, is_full }) => {
                match selection {
                    Selection::All | Selection::New => self.more = is_full,
                    Selection::Probe if batch.events.is_empty() => {
                        self.breaker.record(true, 0, 0);
                    }
                    Selection::Probe => {}
                }
                Some(batch)
            }
            Err(error) => {
                self.paused = true;
                if matches!(error, StoreError::TimedOut(_) | StoreError::Contended(_)) {
                    self.limit = (self.limit / 2).max(1);
                }
                report(&error);
                None
            }
        }
    }

    pub(super) fn published(&mut self, selection: Selection, published: Published) {
        let Published { size, taken, returned, reason, failure, unmarked } = published;
        self.unmarked.extend(unmarked);
        match self.breaker.record(selection == Selection::Probe, taken, returned) {
            Some(Change::Opened) => {
                tracing::warn!(
                    error = reason,
                    "no queue takes the events, they remain in the outbox"
                );
            }
            Some(Change::Closed) => {
                self.more = true;
                tracing::info!("events are taken again");
            }
            None => {}
        }
        let Some(failure) = failure else {
            self.limit = self.limit.saturating_mul(2).min(self.batch);
            return;
        };
        (self.more, self.paused) = (true, true);
        match failure {
            Unpublished::Unsent(error) => self.disconnected(&logging::causes(&error)),
            Unpublished::Unconfirmed(why) => {
                // Of several batches at once, only the first makes the next ones smaller.
                if u32::try_from(size).is_ok_and(|size| size <= self.limit) {
                    self.limit = (self.limit / 2).max(1);
                }
                self.disconnected(&format!("broker did not confirm: {why}"));
            }
            Unpublished::ClaimTooShort => tracing::debug!("claim would end before the confirms"),
        }
    }

    /// Reports the oldest event that is not published. Events that are refused, while others are
    /// taken, have a gauge of their own.
    pub(super) fn looked(
        &mut self,
        unmarked: Vec<EventId>,
        pending: store::Result<Option<Pending>>,
        isolated: usize,
    ) {
        self.unmarked.extend(unmarked);
        let pending = match pending {
            Ok(pending) => pending,
            // The age of the last one grows by itself.
            Err(error) => return report(&error),
        };
        let refused = pending.as_ref().map_or(0, |pending| pending.refused);
        let refused = usize::try_from(refused).unwrap_or(usize::MAX).saturating_add(isolated);
        metrics::gauge!(crate::metrics::OUTBOX_REFUSED)
            .set(u32::try_from(refused).unwrap_or(u32::MAX));
        if pending.is_none() {
            self.breaker.reset();
        }
        let overdue = pending.filter(|pending| !pending.is_refused || self.breaker.takes_nothing());
        let oldest = overdue.map(|pending| Oldest {
            item: format!("event {} of room {} is not published", pending.oldest, pending.room),
            age: self.ctx.clock.now() - pending.created_at,
        });
        self.ctx.health.set_oldest(Work::Outbox, oldest);
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
