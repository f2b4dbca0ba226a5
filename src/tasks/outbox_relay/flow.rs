//! What the relay does next, and what it reports.
//!
//! It knows whether the broker can be reached, whether the destination takes events, how large
//! batches may be, and whether the outbox may have more. It begins nothing itself.

use std::sync::Arc;

use super::claim::{PROBE, Selection};
use super::publication::{Claimed, Published, Unpublished};
use crate::bus::BusError;
use crate::clock::DatabaseClock;
use crate::domain::EventId;
use crate::health::{Component, Health, Oldest, Work};
use crate::logging;
use crate::relay::Batch;
use crate::store;
use crate::store::{Pending, StoreError};
use crate::tasks::breaker::{Breaker, Change};

pub(super) struct Flow {
    health: Arc<Health>,
    clock: Arc<DatabaseClock>,
    gate: Gate,
    confirms: Confirms,
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
    /// Which server refuses the login. Only an operator can change that, so a stop does not wait.
    refusing: Refusing,
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

/// The servers that refuse the login.
#[derive(Debug, Clone, Copy, Default)]
struct Refusing {
    database: bool,
    broker: bool,
}

/// Whether the broker confirms what it receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Confirms {
    Arrive,
    /// The last batch was left without some.
    Missing,
}

impl Flow {
    pub(super) fn new(health: Arc<Health>, clock: Arc<DatabaseClock>, batch: u32) -> Self {
        Self {
            health,
            clock,
            gate: Gate::Disconnected,
            confirms: Confirms::Arrive,
            breaker: Breaker::default(),
            batch,
            limit: batch,
            more: true,
            paused: false,
            ending: false,
            refusing: Refusing::default(),
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

    /// Whether nothing is passed on any longer, so that only the outbox has events.
    pub(super) fn is_ending(&self) -> bool {
        self.ending
    }

    pub(super) fn is_open(&self) -> bool {
        self.gate == Gate::Open
    }

    /// Whether nothing is left that could be published.
    pub(super) fn is_flushed(&self) -> bool {
        let is_shut = self.gate == Gate::MissingQueue || self.refusing.broker;
        self.refusing.database || self.unmarked.is_empty() && (!self.more || is_shut)
    }

    /// Whether batches are small because the link is slow.
    pub(super) fn is_slow(&self) -> bool {
        self.limit < self.batch
    }

    /// The number of events that can be published as one batch.
    pub(super) fn limit(&self, selection: Selection) -> usize {
        let limit = match (self.gate, selection) {
            (Gate::MissingQueue, _) => 0,
            (_, Selection::Probe) => self.limit.min(PROBE),
            (_, Selection::All | Selection::Others) => self.limit,
        };
        usize::try_from(limit).unwrap_or(usize::MAX)
    }

    pub(super) fn take_unmarked(&mut self) -> Vec<EventId> {
        std::mem::take(&mut self.unmarked)
    }

    /// Which events can be claimed now, and how many.
    pub(super) fn next_claim(&mut self) -> Option<(Selection, u32)> {
        // At the end it is not known yet whether anything is left to publish.
        let is_open = self.is_open() || self.ending && self.gate == Gate::Disconnected;
        if self.paused || !is_open {
            None
        } else if self.breaker.begin_probe() {
            Some((Selection::Probe, self.limit.min(PROBE)))
        } else {
            // What is written from now on may be too late for this claim.
            std::mem::take(&mut self.more).then(|| (self.selection(Selection::All), self.limit))
        }
    }

    /// What a selection is while refused events wait for probes.
    pub(super) fn selection(&self, selection: Selection) -> Selection {
        match selection {
            Selection::All if self.breaker.is_open() => Selection::Others,
            Selection::All | Selection::Others | Selection::Probe => selection,
        }
    }

    pub(super) fn checked(&mut self, outcome: Result<Option<String>, BusError>) {
        self.refusing.broker = matches!(outcome, Err(BusError::LoginRefused(_)));
        match outcome {
            Ok(None) => {
                self.gate = Gate::Open;
                self.connected();
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

    /// A connection is of use when the broker confirms what is published there.
    fn connected(&self) {
        let is_up = self.is_open() && self.confirms == Confirms::Arrive;
        if is_up && self.health.set_up(Component::Publisher) {
            tracing::info!("publisher connected");
        }
    }

    fn disconnected(&mut self, error: &str) {
        if self.close(Gate::Disconnected, error) && self.confirms == Confirms::Arrive {
            tracing::warn!(error, "publisher disconnected, events remain in the outbox");
        }
    }

    /// Stops publishing. Returns whether this is news.
    fn close(&mut self, gate: Gate, problem: &str) -> bool {
        let changed = std::mem::replace(&mut self.gate, gate) != gate;
        self.health.set_down(Component::Publisher, problem) || changed
    }

    /// Returns the events that were claimed.
    pub(super) fn claimed(
        &mut self,
        selection: Selection,
        claimed: store::Result<Claimed>,
    ) -> Option<Batch> {
        self.refusing.database = matches!(claimed, Err(StoreError::LoginRefused(_)));
        match claimed {
            Ok(Claimed { batch, is_full }) => {
                self.more |= is_full && selection != Selection::Probe;
                Some(batch)
            }
            Err(error) => {
                (self.more, self.paused) = (true, true);
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
        self.keep_unmarked(unmarked);
        match self.breaker.record(selection == Selection::Probe, taken, returned) {
            Some(Change::Opened) => {
                tracing::warn!(error = reason, "events are refused, they remain in the outbox");
            }
            Some(Change::Closed) => {
                self.more = true;
                tracing::info!("refused events are taken again");
            }
            None => {}
        }
        let Some(failure) = failure else {
            self.limit = self.limit.saturating_mul(2).min(self.batch);
            if size > 0 {
                self.confirms = Confirms::Arrive;
                self.connected();
            }
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
                self.confirms = Confirms::Missing;
            }
            Unpublished::ClaimTooShort => tracing::debug!("claim would end before the confirms"),
        }
    }

    fn keep_unmarked(&mut self, ids: Vec<EventId>) {
        // An event whose claim has ended may be here already.
        let new = ids.into_iter().filter(|id| !self.unmarked.contains(id)).collect::<Vec<_>>();
        self.unmarked.extend(new);
    }

    /// Reports the oldest event that is not published. Events that are refused, while others are
    /// taken, have a gauge of their own.
    pub(super) fn looked(
        &mut self,
        unmarked: Vec<EventId>,
        pending: store::Result<Option<Pending>>,
        isolated: usize,
    ) {
        self.keep_unmarked(unmarked);
        let mut pending = match pending {
            Ok(pending) => pending,
            // The age of the last one grows by itself.
            Err(error) => return report(&error),
        };
        if let Some(pending) = &mut pending
            && self.confirms == Confirms::Missing
        {
            // The attempts say nothing about the events.
            (pending.is_refused, pending.refused) = (false, 0);
        }
        let refused = pending.as_ref().map_or(0, |pending| pending.refused);
        let refused = usize::try_from(refused).unwrap_or(usize::MAX).saturating_add(isolated);
        metrics::gauge!(crate::metrics::OUTBOX_REFUSED)
            .set(u32::try_from(refused).unwrap_or(u32::MAX));
        if pending.is_none() {
            self.breaker.reset();
            self.confirms = Confirms::Arrive;
        }
        let overdue = pending.filter(|pending| !pending.is_refused || self.breaker.takes_nothing());
        let oldest = overdue.map(|pending| Oldest {
            item: format!("event {} of room {} is not published", pending.oldest, pending.room),
            age: self.clock.now() - pending.created_at,
        });
        self.health.set_oldest(Work::Outbox, oldest);
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono::{DateTime, TimeDelta};
    use tokio::time::{Instant, advance};

    use super::*;
    use crate::domain::RoomToken;

    fn flow() -> (Flow, Arc<Health>) {
        let (minute, second) = (Duration::from_mins(1), Duration::from_secs(1));
        let health = Arc::new(Health::new(&[Component::Publisher], minute, second));
        let clock = Arc::new(DatabaseClock::new(DateTime::UNIX_EPOCH));
        let mut flow = Flow::new(Arc::clone(&health), clock, 8);
        flow.checked(Ok(None));
        (flow, health)
    }

    fn unconfirmed() -> Published {
        let failure = Some(Unpublished::Unconfirmed("timed out".to_owned()));
        Published { size: 8, failure, ..Published::default() }
    }

    fn returned(number: usize) -> Published {
        Published { size: number, returned: number, ..Published::default() }
    }

    /// An event that counts as refused.
    fn refused(flow: &Flow) -> Pending {
        let now = flow.clock.now();
        Pending {
            oldest: EventId::from(uuid::Uuid::nil()),
            room: RoomToken::parse("room").unwrap(),
            created_at: now - TimeDelta::minutes(1),
            is_refused: true,
            refused: 1,
            last_available: now,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_broker_that_confirms_nothing_is_no_connection() {
        let (mut flow, health) = flow();
        for _ in 0..10 {
            assert!(flow.next_claim().is_some());
            flow.published(Selection::All, unconfirmed());
            assert!(flow.next_claim().is_none());
            flow.tick();
            flow.checked(Ok(None));
            let pending = refused(&flow);
            flow.looked(Vec::new(), Ok(Some(pending)), 0);
            assert!(flow.is_open() && !health.is_up(Component::Publisher));
            assert_eq!(health.problems().len(), 2, "{:?}", health.problems());
        }
        let confirmed = Published { size: 1, taken: 1, ..Published::default() };
        flow.published(Selection::All, confirmed);
        let pending = refused(&flow);
        flow.looked(Vec::new(), Ok(Some(pending)), 0);
        assert!(health.problems().is_empty(), "{:?}", health.problems());

        flow.published(Selection::All, unconfirmed());
        flow.looked(Vec::new(), Ok(None), 0);
        flow.checked(Ok(None));
        assert!(health.is_up(Component::Publisher), "nothing waits for a confirm");
    }

    #[tokio::test(start_paused = true)]
    async fn probes_are_begun_one_by_one() {
        let (mut flow, _health) = flow();
        flow.published(Selection::All, returned(8));
        let mut probes = Vec::new();
        for second in 1..=40 {
            advance(Duration::from_secs(1)).await;
            flow.more = false;
            let claims: Vec<_> = std::iter::from_fn(|| flow.next_claim()).take(3).collect();
            for (selection, _limit) in claims {
                assert_eq!(selection, Selection::Probe);
                probes.push(second);
                flow.published(selection, returned(8));
            }
        }
        assert_eq!(probes, [1, 3, 7, 15, 31]);
    }

    #[tokio::test(start_paused = true)]
    async fn events_that_are_written_during_a_claim_are_claimed_next() {
        let (mut flow, _health) = flow();
        let now = flow.clock.now();
        let none = || {
            let batch = Batch { rows: Vec::new(), claimed_until: now, expires_at: Instant::now() };
            Ok(Claimed { batch, is_full: false })
        };
        assert!(flow.next_claim().is_some());
        flow.end();
        flow.claimed(Selection::All, none());
        assert!(!flow.is_flushed() && flow.next_claim().is_some());
        flow.claimed(Selection::All, none());
        assert!(flow.next_claim().is_none() && flow.is_flushed());
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_does_not_wait_for_servers_that_refuse_the_login() {
        let (mut flow, _health) = flow();
        flow.end();
        assert!(!flow.is_flushed());
        flow.checked(Err(BusError::LoginRefused("wrong password".to_owned())));
        assert!(flow.is_flushed());
        let unmarked = vec![EventId::from(uuid::Uuid::nil())];
        flow.published(Selection::All, Published { unmarked, ..Published::default() });
        assert!(!flow.is_flushed(), "the database can store the confirm");
        flow.claimed(Selection::All, Err(StoreError::LoginRefused("wrong password".to_owned())));
        assert!(flow.is_flushed());
    }

    #[tokio::test(start_paused = true)]
    async fn confirms_are_marked_before_the_end() {
        let (mut flow, _health) = flow();
        flow.end();
        let id = EventId::from(uuid::Uuid::nil());
        let unmarked = vec![id.clone()];
        flow.published(Selection::All, Published { unmarked, ..Published::default() });
        flow.checked(Ok(Some("webinars".to_owned())));
        assert!(!flow.is_flushed());
        let unmarked = flow.take_unmarked();
        assert_eq!(unmarked, [id]);
        assert!(flow.is_flushed());
    }
}
