//! The steps of the relay: claiming, publishing and marking events, and looking at what is left.
//!
//! Each step is independent of the others, so that they can run at the same time. None of them
//! repeats itself; what was not done stays in the outbox, or is returned.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::claim::{Claim, Delays, LONGEST_DELAY, Selection, ids, refusal_delay};
use super::isolated::Isolated;
use super::outcome::{Encoded, Outcome, REFUSED_ATTEMPTS, Share, encode, outcomes};
use super::reported::{Reported, report_refused};
use crate::bus::{BusError, PUBLISH_TIMEOUT};
use crate::domain::EventId;
use crate::failpoints::{self, Point};
use crate::logging;
use crate::relay::{Batch, CLAIM};
use crate::store::{self, Available, ClaimedRows, Pending, StoreError};
use crate::tasks::TaskContext;

/// Events that became available before are those that were set back.
const OLDEST_OTHER: TimeDelta = TimeDelta::days(5 * 365);

/// Claims and delays last for a minute at most. What ends later was written by a clock that was
/// ahead, before it stepped back or another server took over.
const LATEST_CLAIM: TimeDelta = TimeDelta::minutes(2);

/// Claims that one statement ends.
const END_AT_ONCE: u32 = 1000;

/// Why events were not published.
pub(super) enum Unpublished {
    Unsent(BusError),
    Unconfirmed(String),
    /// The claim would end before the confirms.
    ClaimTooShort,
}

impl Published {
    fn add(&mut self, outcome: &Outcome) {
        self.taken += outcome.confirmed.len();
        self.returned += outcome.refused.len();
        if self.reason.is_none() {
            self.reason.clone_from(&outcome.refusal);
        }
        if self.failure.is_none() {
            self.failure = outcome.failure.clone().map(Unpublished::Unconfirmed);
        }
    }
}

/// What was claimed.
pub(super) struct Claimed {
    pub(super) batch: Batch,
    /// Whether there may be more.
    pub(super) is_full: bool,
}

/// What became of a batch.
#[derive(Default)]
pub(super) struct Published {
    pub(super) size: usize,
    pub(super) taken: usize,
    pub(super) returned: usize,
    /// Why one of them was returned.
    pub(super) reason: Option<String>,
    /// Why some were not sent or not confirmed.
    pub(super) failure: Option<Unpublished>,
    /// Confirmed rows that the database could not mark, and may mark later.
    pub(super) unmarked: Vec<EventId>,
}

/// What became of publisher confirms.
#[derive(Default)]
struct Marked {
    /// The database is unavailable, or a lock was in the way.
    unmarked: Vec<EventId>,
    refused: Vec<EventId>,
}

/// Batches of which the outcome is stored at once: the pool has connections for more than the relay.
const SETTLING: usize = 2;

/// Runs the steps.
pub(super) struct Publications {
    ctx: TaskContext,
    reported: Reported,
    settling: Semaphore,
    /// Rows that the database refuses to claim.
    isolated: Mutex<Isolated>,
}

impl Publications {
    pub(super) fn new(ctx: TaskContext) -> Self {
        Self {
            ctx,
            reported: Reported::default(),
            settling: Semaphore::new(SETTLING),
            isolated: Mutex::default(),
        }
    }

    /// Makes sure of the connection. Returns the name of a required queue that does not exist.
    pub(super) async fn check_broker(&self) -> Result<Option<String>, BusError> {
        self.ctx.bus.publish(&[]).await?;
        self.ctx.bus.missing_queue().await
    }

    /// Claims events of the outbox, at most `limit`. A batch that the database refuses is halved down
    /// to the row that is refused, which is left out for a while.
    pub(super) async fn claim(&self, selection: Selection, limit: u32) -> store::Result<Claimed> {
        let expires_at = Instant::now() + CLAIM;
        let now = self.ctx.sample_time().await?;
        let (after, before) = match selection {
            Selection::All => (None, now),
            Selection::Others => (Some(now - OLDEST_OTHER), now),
            Selection::Probe => (None, now - OLDEST_OTHER),
        };
        let claimed_until = now + CLAIM;
        let mut part = limit;
        loop {
            let except = self.isolated.lock().waiting();
            let available = Available { after, now: before, except: &except };
            match self.ctx.database.claim(available, part, claimed_until).await {
                Ok(ClaimedRows { rows, is_full }) => {
                    self.isolated.lock().claimed(&rows, is_full);
                    let batch = Batch { rows, claimed_until, expires_at };
                    return Ok(Claimed { batch, is_full });
                }
                Err(error) if !error.is_refusal() || left(expires_at).is_zero() => {
                    return Err(error);
                }
                Err(_refused) if part > 1 => part /= 2,
                Err(error) => {
                    let first = self.ctx.database.first_available(available).await?;
                    let Some(first) = first else { return Err(error) };
                    if !matches!(self.ctx.database.take_apart(&first).await, Ok(true)) {
                        self.isolate(first, &error);
                    }
                    part = limit;
                }
            }
        }
    }

    /// Publishes the first `limit` events of a batch, and marks the rows that the broker confirms.
    /// The others can be claimed again. Does nothing if the claim may end meanwhile.
    pub(super) async fn publish(
        &self,
        batch: Batch,
        selection: Selection,
        limit: usize,
    ) -> Published {
        let Batch { rows, claimed_until, expires_at } = batch;
        let claim = Claim { ctx: &self.ctx, until: claimed_until };
        if left(expires_at).is_zero() {
            claim.release(ids(&rows), TimeDelta::zero()).await;
            return Published { failure: Some(Unpublished::ClaimTooShort), ..Published::default() };
        }
        let Encoded { rows, messages, mut spans, unreadable } =
            encode(&self.ctx.traces, rows, limit);
        for (id, error) in unreadable {
            if self.reported.is_news(&id) {
                tracing::error!(event.id = %id, %error, "outbox event is not valid JSON");
            }
            claim.release(vec![id], LONGEST_DELAY).await;
        }
        if messages.is_empty() {
            return Published::default();
        }
        failpoints::reach(Point::AfterCommitBeforePublish);
        let confirmations = match self.ctx.bus.publish(&messages).await {
            Ok(confirmations) => confirmations,
            Err(error) => {
                for span in &mut spans {
                    span.set("lobbyd.outcome", &"unsent");
                }
                claim.release(ids(&rows), TimeDelta::zero()).await;
                return Published {
                    failure: Some(Unpublished::Unsent(error)),
                    ..Published::default()
                };
            }
        };
        failpoints::reach(Point::AfterConfirmBeforeMark);
        let outcomes = outcomes(rows, confirmations, spans);
        let mut published = Published { size: messages.len(), ..Published::default() };
        for outcome in &outcomes {
            published.add(outcome);
        }
        self.reported.confirmed(&outcomes, self.ctx.clock.now());
        let delays = Delays::after(selection, published.taken);
        report_refused(&outcomes, selection == Selection::All);
        published.unmarked = self.settle(outcomes, delays, &claim).await;
        published
    }

    /// Stores what became of rows. Returns those that could not be marked yet.
    async fn settle(
        &self,
        outcomes: Vec<Outcome>,
        delays: Delays,
        claim: &Claim<'_>,
    ) -> Vec<EventId> {
        let _turn = self.settling.acquire().await;
        let (mut confirmed, mut refused, mut others) = (Vec::new(), Vec::new(), Vec::new());
        let mut attempts = BTreeMap::new();
        for outcome in outcomes {
            let Outcome { id, attempt, .. } = &outcome;
            match outcome.share() {
                Share::Confirmed => {
                    attempts.insert(id.clone(), *attempt);
                    confirmed.push(outcome.id);
                }
                Share::Refused => refused.push((outcome.id, delays.of_refused(outcome.attempt))),
                Share::Unanswered => others.push(outcome.id),
                Share::Mixed => claim.divide(outcome, delays).await,
            }
        }
        let marked = self.mark(vec![confirmed]).await;
        for id in marked.refused {
            if !matches!(self.ctx.database.take_apart(&id).await, Ok(true)) {
                let attempt = attempts.get(&id).copied().unwrap_or(1);
                refused.push((id, refusal_delay(attempt)));
            }
        }
        claim.delay(refused).await;
        claim.release(others, TimeDelta::zero()).await;
        marked.unmarked
    }

    /// Lets the rows of a batch be claimed again.
    pub(super) async fn release(&self, batch: Batch) {
        let claim = Claim { ctx: &self.ctx, until: batch.claimed_until };
        claim.release(ids(&batch.rows), TimeDelta::zero()).await;
    }

    /// Marks events whose confirms could not be stored before. Returns those that are left, and
    /// what is not published.
    pub(super) async fn look(
        &self,
        mut unmarked: Vec<EventId>,
    ) -> (Vec<EventId>, store::Result<Option<Pending>>) {
        // A confirm that waits for a lock is found by halves, one with each call.
        let second = unmarked.split_off(unmarked.len() / 2);
        let unmarked = self.mark(vec![second, unmarked]).await.unmarked;
        (unmarked, self.pending().await)
    }

    async fn pending(&self) -> store::Result<Option<Pending>> {
        let now = self.ctx.sample_time().await?;
        let isolated = self.isolated.lock().all();
        let pending = self.ctx.database.pending(&isolated, REFUSED_ATTEMPTS).await?;
        let latest = now + LATEST_CLAIM;
        if pending.as_ref().is_some_and(|pending| pending.last_available > latest) {
            let events = self.end_claims(now, latest).await?;
            tracing::warn!(events, "database clock stepped back, claims of events ended");
        }
        Ok(pending)
    }

    async fn end_claims(&self, now: DateTime<Utc>, latest: DateTime<Utc>) -> store::Result<u64> {
        let mut ended = 0;
        loop {
            let events = self.ctx.database.end_claims(now, latest, END_AT_ONCE).await?;
            ended += events;
            if events < END_AT_ONCE.into() {
                return Ok(ended);
            }
        }
    }

    /// Stores publisher confirms, the last set first. A set that the database refuses is halved down
    /// to the event that is refused.
    async fn mark(&self, mut sets: Vec<Vec<EventId>>) -> Marked {
        let mut refused = Vec::new();
        while let Some(mut set) = sets.pop() {
            if set.is_empty() {
                continue;
            }
            match self.ctx.database.mark_published(&set, self.ctx.clock.now()).await {
                Ok(()) => {
                    failpoints::reach(Point::AfterMark);
                    self.reported.forget(&set);
                }
                Err(error) if !error.is_refusal() => {
                    let error = logging::causes(&error);
                    tracing::debug!(error, "publisher confirms could not be stored yet");
                    sets.push(set);
                    return Marked { unmarked: sets.concat(), refused };
                }
                Err(_refused) if set.len() > 1 => {
                    let second = set.split_off(set.len() / 2);
                    sets.extend([second, set]);
                }
                Err(error) => {
                    for id in set {
                        self.report_unmarked(&id, &error);
                        refused.push(id);
                    }
                }
            }
        }
        Marked { unmarked: Vec::new(), refused }
    }

    /// How many events the database refuses to claim.
    pub(super) fn isolated(&self) -> usize {
        self.isolated.lock().all().len()
    }

    fn isolate(&self, id: EventId, error: &StoreError) {
        if self.reported.is_news(&id) {
            let error = logging::causes(error);
            tracing::warn!(event.id = %id, error, "event cannot be claimed, it is left out");
        }
        self.isolated.lock().add(id);
    }

    fn report_unmarked(&self, id: &EventId, error: &StoreError) {
        let message = "publisher confirm could not be stored, event will be published again";
        let error = logging::causes(error);
        if self.reported.is_news(id) {
            tracing::warn!(event.id = %id, error, "{message}");
        } else {
            tracing::debug!(event.id = %id, error, "{message}");
        }
    }
}

/// How long a batch may still wait before it is published.
fn left(expires_at: Instant) -> Duration {
    expires_at.saturating_duration_since(Instant::now() + PUBLISH_TIMEOUT)
}
