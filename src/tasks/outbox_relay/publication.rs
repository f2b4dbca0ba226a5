//! The steps of the relay: claiming, publishing and marking events, and looking at what is left.
//!
//! Each step is independent of the others, so that they can run at the same time. None of them
//! repeats itself; what was not done stays in the outbox, or is returned.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::breaker::PROBE;
use super::claim::{Claim, LONGEST_DELAY, ids};
use super::isolated::Isolated;
use crate::bus::{BusError, Confirmation, Message, PUBLISH_TIMEOUT, cloudevents};
use crate::domain::{EventId, OutboxEvent};
use crate::logging;
use crate::relay::{Batch, CLAIM};
use crate::store::{self, Available, Pending, StoreError};
use crate::tasks::TaskContext;
use crate::traces::Span;

/// How far events are set back that wait for probes. No other event is as old, so the index tells
/// them apart, and a probe begins with those that wait longest.
const SET_BACK: TimeDelta = TimeDelta::days(10 * 365);

/// Events that became available before are those that were set back.
const OLDEST_OTHER: TimeDelta = TimeDelta::days(5 * 365);

/// Claims and delays last for a minute at most. What ends later was written by a clock that was
/// ahead, before it stepped back or another server took over.
const LATEST_CLAIM: TimeDelta = TimeDelta::minutes(2);

/// Claims that one statement ends.
const END_AT_ONCE: u32 = 1000;

/// An event with so many attempts has been tried for a minute, and counts as refused.
const REFUSED_ATTEMPTS: u32 = 6;

/// Events whose trouble is remembered, so that it is logged once.
const MAX_REPORTED: usize = 10_000;

/// Which events are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Selection {
    /// Any, those first that became available first.
    All,
    /// Any that do not wait for probes.
    Others,
    /// A few of those that do.
    Probe,
}

/// Why events were not published.
pub(super) enum Unpublished {
    Unsent(BusError),
    Unconfirmed(String),
    /// The claim would end before the confirms.
    ClaimTooShort,
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
    /// Confirmed events that the database could not mark, and may mark later.
    pub(super) unmarked: Vec<EventId>,
}

/// Events with their messages, and the spans of their publication.
#[derive(Default)]
struct Encoded {
    events: Vec<OutboxEvent>,
    messages: Vec<Message>,
    spans: Vec<Span>,
}

/// What became of publisher confirms.
#[derive(Default)]
struct Marked {
    /// The database is unavailable, or a lock was in the way.
    unmarked: Vec<EventId>,
    refused: Vec<EventId>,
}

/// Runs the steps.
pub(super) struct Publications {
    ctx: TaskContext,
    /// Events whose trouble was logged.
    reported: Mutex<BTreeSet<EventId>>,
    /// Events that the database refuses to claim.
    isolated: Mutex<Isolated>,
}

impl Publications {
    pub(super) fn new(ctx: TaskContext) -> Self {
        Self { ctx, reported: Mutex::default(), isolated: Mutex::default() }
    }

    /// Makes sure of the connection. Returns the name of a required queue that does not exist.
    pub(super) async fn check_broker(&self) -> Result<Option<String>, BusError> {
        self.ctx.bus.publish(&[]).await?;
        self.ctx.bus.missing_queue().await
    }

    /// Claims events of the outbox, at most `limit`. A batch that the database refuses is halved down
    /// to the event that is refused, which is left out for a while.
    pub(super) async fn claim(&self, selection: Selection, limit: u32) -> store::Result<Claimed> {
        let expires_at = Instant::now() + CLAIM;
        let now = self.ctx.sample_time().await?;
        let (after, before, limit) = match selection {
            Selection::All => (None, now, limit),
            Selection::Others => (Some(now - OLDEST_OTHER), now, limit),
            Selection::Probe => (None, now - OLDEST_OTHER, limit.min(PROBE)),
        };
        let claimed_until = now + CLAIM;
        let mut part = limit;
        loop {
            let except = self.isolated.lock().waiting();
            let available = Available { after, now: before, except: &except };
            match self.ctx.database.claim(available, part, claimed_until).await {
                Ok(events) => {
                    let is_full = u32::try_from(events.len()).is_ok_and(|number| number >= part);
                    self.isolated.lock().claimed(&events, is_full);
                    let batch = Batch { events, claimed_until, expires_at };
                    return Ok(Claimed { batch, is_full });
                }
                Err(error) if !error.is_refusal() || left(expires_at).is_zero() => {
                    return Err(error);
                }
                Err(_refused) if part > 1 => part /= 2,
                Err(error) => {
                    let first = self.ctx.database.first_available(available).await?;
                    let Some(first) = first else { return Err(error) };
                    self.isolate(first, &error);
                    part = limit;
                }
            }
        }
    }

    /// Publishes claimed events and marks those that the broker confirms. The others can be claimed
    /// again. Does nothing if the claim may end meanwhile.
    pub(super) async fn publish(&self, batch: Batch, selection: Selection) -> Published {
        let Batch { events, claimed_until, expires_at } = batch;
        let claim = Claim { ctx: &self.ctx, until: claimed_until };
        if left(expires_at).is_zero() {
            claim.release(ids(&events), TimeDelta::zero()).await;
            return Published { failure: Some(Unpublished::ClaimTooShort), ..Published::default() };
        }
        let Encoded { events, messages, spans } = self.encode(events, &claim).await;
        if messages.is_empty() {
            return Published::default();
        }
        let confirmations = match self.ctx.bus.publish(&messages).await {
            Ok(confirmations) => confirmations,
            Err(error) => {
                for mut span in spans {
                    span.set("lobbyd.outcome", &"unsent");
                }
                claim.release(ids(&events), TimeDelta::zero()).await;
                return Published {
                    failure: Some(Unpublished::Unsent(error)),
                    ..Published::default()
                };
            }
        };
        let attempts: BTreeMap<EventId, u32> =
            events.iter().map(|event| (event.id.clone(), event.attempt)).collect();
        let mut published = Published { size: events.len(), ..Published::default() };
        let (mut confirmed, mut returned, mut lost) = (Vec::new(), Vec::new(), Vec::new());
        let now = self.ctx.clock.now();
        for ((event, mut span), confirmation) in events.into_iter().zip(spans).zip(confirmations) {
            match confirmation {
                Confirmation::Confirmed => {
                    count("confirmed", &mut span);
                    self.report_confirmed(&event, now);
                    confirmed.push(event.id);
                }
                Confirmation::Refused(why) => {
                    count("refused", &mut span);
                    let long = event.attempt == REFUSED_ATTEMPTS && selection == Selection::All;
                    report_refused(&event, &why, long);
                    published.reason.get_or_insert(why);
                    returned.push(event.id);
                }
                Confirmation::Unconfirmed(why) => {
                    count("unconfirmed", &mut span);
                    published.failure.get_or_insert(Unpublished::Unconfirmed(why));
                    lost.push(event.id);
                }
            }
        }
        (published.taken, published.returned) = (confirmed.len(), returned.len());

        let marked = self.mark(vec![confirmed]).await;
        published.unmarked = marked.unmarked;
        claim.delay(marked.refused, &attempts).await;
        if published.taken == 0 || selection == Selection::Others {
            claim.release(returned, -SET_BACK).await;
        } else {
            claim.delay(returned, &attempts).await;
        }
        claim.release(lost, TimeDelta::zero()).await;
        published
    }

    /// Lets the events of a batch be claimed again.
    pub(super) async fn release(&self, batch: Batch) {
        let claim = Claim { ctx: &self.ctx, until: batch.claimed_until };
        claim.release(ids(&batch.events), TimeDelta::zero()).await;
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

    /// Encodes the messages. An event that cannot be encoded is released, and delays no other.
    async fn encode(&self, events: Vec<OutboxEvent>, claim: &Claim<'_>) -> Encoded {
        let mut encoded = Encoded::default();
        for event in events {
            let mut span = self.ctx.traces.publication(&event);
            span.set_event_id(&event.id);
            span.set("lobbyd.room.token", &event.token);
            span.set("lobbyd.attempt", &event.attempt);
            match cloudevents::outgoing(&event, span.context()) {
                Ok(message) => {
                    encoded.events.push(event);
                    encoded.messages.push(message);
                    encoded.spans.push(span);
                }
                Err(error) => {
                    count("unreadable", &mut span);
                    if self.is_news(&event.id) {
                        tracing::error!(event.id = %event.id, %error, "outbox event is not valid JSON");
                    }
                    claim.release(vec![event.id], LONGEST_DELAY).await;
                }
            }
        }
        encoded
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
                Ok(()) => self.forget(&set),
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

    fn report_confirmed(&self, event: &OutboxEvent, now: DateTime<Utc>) {
        if self.reported.lock().contains(&event.id) {
            return;
        }
        let lag = event.due_at.map(|due_at| (now - due_at).as_seconds_f64());
        if let Some(lag) = lag {
            metrics::histogram!(crate::metrics::LAG).record(lag);
        }
        tracing::info!(
            room.token = %event.token,
            event.id = %event.id,
            attempt = event.attempt,
            lag_seconds = lag,
            "event published"
        );
    }

    /// How many events the database refuses to claim.
    pub(super) fn isolated(&self) -> usize {
        self.isolated.lock().all().len()
    }

    fn isolate(&self, id: EventId, error: &StoreError) {
        if self.is_news(&id) {
            let error = logging::causes(error);
            tracing::warn!(event.id = %id, error, "event cannot be claimed, it is left out");
        }
        self.isolated.lock().add(id);
    }

    fn report_unmarked(&self, id: &EventId, error: &StoreError) {
        let message = "publisher confirm could not be stored, event will be published again";
        let error = logging::causes(error);
        if self.is_news(id) {
            tracing::warn!(event.id = %id, error, "{message}");
        } else {
            tracing::debug!(event.id = %id, error, "{message}");
        }
    }

    /// Whether the trouble with this event was not logged yet.
    fn is_news(&self, id: &EventId) -> bool {
        let mut reported = self.reported.lock();
        reported.len() < MAX_REPORTED && reported.insert(id.clone())
    }

    fn forget(&self, ids: &[EventId]) {
        let mut reported = self.reported.lock();
        if !reported.is_empty() {
            reported.retain(|id| !ids.contains(id));
        }
    }
}

/// Logs that an event was refused, as a warning if it has been so for `long`.
fn report_refused(event: &OutboxEvent, why: &str, long: bool) {
    let (id, room, attempt) = (&event.id, &event.token, event.attempt);
    if long {
        tracing::warn!(event.id = %id, room.token = %room, attempt, why, "event still refused");
    } else {
        tracing::debug!(event.id = %id, room.token = %room, attempt, why, "event refused");
    }
}

/// How long a batch may still wait before it is published.
fn left(expires_at: Instant) -> Duration {
    expires_at.saturating_duration_since(Instant::now() + PUBLISH_TIMEOUT)
}

fn count(outcome: &'static str, span: &mut Span) {
    metrics::counter!(crate::metrics::PUBLISHED, "outcome" => outcome).increment(1);
    span.set("lobbyd.outcome", &outcome);
}
