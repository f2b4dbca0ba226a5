//! The outbox relay: publishes what was stored, until the broker has confirmed it.
//!
//! What the timer loop has just fired comes over a channel, claimed already, and goes out at once.
//! Everything else (left by a crash, by an outage, by a burst) is claimed from the outbox. A claim
//! ends by itself, so the events of a worker that died are picked up by the next one. It never
//! makes an event: id and version were fixed when the row was written.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::Backoff,
    bus::{Bus, BusError, Confirmation, Message, PUBLISH_TIMEOUT, cloudevents},
    clock::DatabaseClock,
    domain::{EventId, OutboxEvent},
    health::{Component, Health},
    logging,
    store::{Database, StoreError},
    traces::{Span, Traces},
};

/// How long a claim holds: one round of publishing, and some time to wait for it. Short, because it
/// is what the events of a worker that died have to wait.
const CLAIM: Duration = PUBLISH_TIMEOUT.saturating_add(Duration::from_secs(2));

/// Batches on their way from the timer loop. More would only wait here for the broker until their
/// claims end.
const HANDOFF_BATCHES: usize = 4;

/// How often the outbox is searched for what others left behind.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Longest wait before an event that the broker did not take is sent again.
const LONGEST_REFUSAL_WAIT: Duration = Duration::from_mins(1);

/// The end of the way to the relay that the timer loop holds, and whoever else stores events.
#[derive(Debug, Clone)]
pub struct RelayHandle {
    batches: mpsc::Sender<Batch>,
    /// Rung when events wait in the outbox.
    left: Arc<Notify>,
}

/// Room for one batch.
#[derive(Debug)]
pub struct Slot<'a> {
    permit: mpsc::Permit<'a, Batch>,
    until: Instant,
}

/// Events that are claimed for this worker until an instant.
#[derive(Debug)]
struct Batch {
    events: Vec<OutboxEvent>,
    until: Instant,
}

impl RelayHandle {
    /// The end of a claim that begins now, by the database's clock.
    pub fn claimed_until(now: DateTime<Utc>) -> DateTime<Utc> {
        now + CLAIM
    }

    /// Room for a batch, if the relay keeps up. Without, events are left to the outbox.
    pub fn reserve(&self) -> Option<Slot<'_>> {
        let permit = self.batches.try_reserve().ok()?;
        Some(Slot { permit, until: Instant::now() + CLAIM })
    }

    /// Tells the relay that events were stored and not handed over.
    pub fn left_in_outbox(&self) {
        self.left.notify_one();
    }
}

impl Slot<'_> {
    /// Hands over events that are claimed.
    pub fn send(self, events: Vec<OutboxEvent>) {
        self.permit.send(Batch { events, until: self.until });
    }
}

/// The loop that publishes.
pub struct OutboxRelay {
    store: Arc<dyn Database>,
    bus: Arc<dyn Bus>,
    clock: Arc<DatabaseClock>,
    health: Arc<Health>,
    fresh: mpsc::Receiver<Batch>,
    left: Arc<Notify>,
    traces: Traces,
    /// Events per round.
    batch: u32,
}

/// Events with their messages, and the spans of their publication.
#[derive(Default)]
struct Written {
    events: Vec<OutboxEvent>,
    messages: Vec<Message>,
    spans: Vec<Span>,
}

/// Why a round of the relay failed.
#[derive(Debug, thiserror::Error)]
enum RelayError {
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("broker did not confirm: {0}")]
    Unconfirmed(String),
}

impl OutboxRelay {
    /// Publishes to `bus`, up to `batch` events per round. The handoff is for the timer loop; whoever
    /// else stores events rings `left`.
    pub fn new(
        store: Arc<dyn Database>,
        bus: Arc<dyn Bus>,
        clock: Arc<DatabaseClock>,
        health: Arc<Health>,
        batch: u32,
        left: Arc<Notify>,
        traces: Traces,
    ) -> (Self, RelayHandle) {
        let (batches, fresh) = mpsc::channel(HANDOFF_BATCHES);
        let handoff = RelayHandle { batches, left: Arc::clone(&left) };
        (Self { store, bus, clock, health, fresh, left, traces, batch }, handoff)
    }

    /// Runs until the timer loop is gone, then flushes the outbox as far as the broker takes it.
    /// What fails stays in the outbox and is tried again; `stop` only cuts waits short.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::new(Backoff::LOOPS);
        let mut look = interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let round = tokio::select! {
                batch = self.fresh.recv() => match batch {
                    Some(batch) => self.deliver_fresh(batch).await,
                    None => break,
                },
                () = self.left.notified() => self.sweep().await,
                _ = look.tick() => self.sweep().await,
            };
            match round {
                Ok(()) => backoff.reset(),
                Err(error) => {
                    self.report(&error);
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = sleep(backoff.next_wait()) => {}
                    }
                }
            }
        }
        // The supervisor ends this when the grace period is over.
        while let Err(error) = self.publish_left().await {
            self.report(&error);
            sleep(backoff.next_wait()).await;
        }
    }

    /// Makes sure of the connection, and publishes what nobody holds.
    async fn sweep(&mut self) -> Result<(), RelayError> {
        self.bus.publish(&[]).await?;
        if self.health.set_up(Component::Publisher) {
            tracing::info!("publisher connected");
        }
        self.publish_left().await
    }

    /// Publishes what nobody holds, and in between what has just fired.
    async fn publish_left(&mut self) -> Result<(), RelayError> {
        loop {
            while let Ok(batch) = self.fresh.try_recv() {
                self.deliver_fresh(batch).await?;
            }
            let now = self.store.now().await?;
            let events = self.store.claim(now, self.batch, now + CLAIM).await?;
            if events.is_empty() {
                return Ok(());
            }
            self.deliver(events).await?;
        }
    }

    /// Publishes what the timer loop handed over, unless it had to wait for so long that its claim
    /// might end meanwhile.
    async fn deliver_fresh(&self, batch: Batch) -> Result<(), RelayError> {
        let left = batch.until.saturating_duration_since(Instant::now());
        if left >= PUBLISH_TIMEOUT {
            return self.deliver(batch.events).await;
        }
        if !left.is_zero() {
            self.release(ids(&batch.events), Duration::ZERO).await;
        }
        Ok(())
    }

    /// Publishes claimed events and notes which the broker has. The others can be claimed again.
    async fn deliver(&self, events: Vec<OutboxEvent>) -> Result<(), RelayError> {
        let Written { events, messages, spans } = self.written(events).await;
        let confirmations = match self.bus.publish(&messages).await {
            Ok(confirmations) => confirmations,
            Err(error) => {
                for mut span in spans {
                    span.note("lobbyd.outcome", &"unsent");
                }
                self.release(ids(&events), Duration::ZERO).await;
                return Err(error.into());
            }
        };

        let now = self.clock.now();
        let mut confirmed = Vec::with_capacity(events.len());
        let mut refused: BTreeMap<Duration, Vec<EventId>> = BTreeMap::new();
        let mut lost = Vec::new();
        let mut failure = None;
        for ((event, mut span), confirmation) in events.into_iter().zip(spans).zip(confirmations) {
            match confirmation {
                Confirmation::Confirmed => {
                    count("confirmed", &mut span);
                    report_confirmed(&event, now);
                    confirmed.push(event.id);
                }
                Confirmation::Refused(why) => {
                    count("refused", &mut span);
                    tracing::warn!(event.id = %event.id, why, "event refused by the broker, will be retried");
                    refused.entry(refusal_wait(event.attempt)).or_default().push(event.id);
                }
                Confirmation::Unconfirmed(why) => {
                    count("unconfirmed", &mut span);
                    failure.get_or_insert(why);
                    lost.push(event.id);
                }
            }
        }
        self.mark_published(confirmed).await;
        for (wait, ids) in refused {
            self.release(ids, wait).await;
        }
        match failure {
            None => Ok(()),
            Some(why) => {
                self.release(lost, Duration::ZERO).await;
                Err(RelayError::Unconfirmed(why))
            }
        }
    }

    /// Writes the messages. An event that cannot be written is put off, and holds up no other.
    async fn written(&self, events: Vec<OutboxEvent>) -> Written {
        let mut written = Written::default();
        for event in events {
            let mut span = self.traces.publication(&event);
            span.note_event(&event.id);
            span.note("lobbyd.room.token", &event.token);
            span.note("lobbyd.attempt", &event.attempt);
            match cloudevents::outgoing(&event, span.place()) {
                Ok(message) => {
                    written.events.push(event);
                    written.messages.push(message);
                    written.spans.push(span);
                }
                Err(error) => {
                    count("unreadable", &mut span);
                    tracing::error!(event.id = %event.id, %error, "outbox event is not valid JSON");
                    self.release(vec![event.id], LONGEST_REFUSAL_WAIT).await;
                }
            }
        }
        written
    }

    /// Notes the confirms, however long the database is away: else the events would go out again.
    async fn mark_published(&self, ids: Vec<EventId>) {
        if ids.is_empty() {
            return;
        }
        let mut backoff = Backoff::new(Backoff::LOOPS);
        while let Err(error) = self.store.mark_published(&ids, self.clock.now()).await {
            tracing::debug!(
                error = logging::causes(&error),
                "publisher confirms could not be stored, retrying"
            );
            sleep(backoff.next_wait()).await;
        }
    }

    /// Lets events be claimed again after `wait`. If that fails, their claim ends by itself.
    async fn release(&self, ids: Vec<EventId>, wait: Duration) {
        let available_at = self.clock.now() + wait;
        if let Err(error) = self.store.release(&ids, available_at).await {
            tracing::debug!(
                error = logging::causes(&error),
                "claim could not be released, it will expire"
            );
        }
    }

    fn report(&self, error: &RelayError) {
        let problem = logging::causes(error);
        match error {
            // The timer loop tells of a database that is away.
            RelayError::Store(StoreError::Unavailable(_) | StoreError::TimedOut(_)) => {
                tracing::debug!(error = problem, "outbox unavailable");
            }
            RelayError::Store(_) => tracing::error!(error = problem, "outbox unreadable"),
            RelayError::Bus(_) | RelayError::Unconfirmed(_) => {
                if self.health.set_down(Component::Publisher, problem.as_str()) {
                    tracing::warn!(
                        error = problem,
                        "publisher disconnected, events remain in the outbox"
                    );
                }
            }
        }
    }
}

fn report_confirmed(event: &OutboxEvent, now: DateTime<Utc>) {
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

/// The wait before an event that was not taken is sent again: one second, doubling.
fn refusal_wait(attempt: u32) -> Duration {
    let seconds = 2_u64.checked_pow(attempt.saturating_sub(1)).unwrap_or(u64::MAX);
    Duration::from_secs(seconds).min(LONGEST_REFUSAL_WAIT)
}

fn ids(events: &[OutboxEvent]) -> Vec<EventId> {
    events.iter().map(|event| event.id.clone()).collect()
}

fn count(outcome: &'static str, span: &mut Span) {
    metrics::counter!(crate::metrics::PUBLISHED, "outcome" => outcome).increment(1);
    span.note("lobbyd.outcome", &outcome);
}
