//! Publishes the events of the outbox until the broker has confirmed them.
//!
//! What the timer task has just fired arrives over the [`RelayQueue`], claimed already, and is
//! published immediately. Everything else (left by a crash, an outage or a burst) is claimed from the
//! outbox. A claim expires, so another relay picks up the events of a crashed process. The relay
//! never creates an event: id and version were fixed when the row was written.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::TaskContext;
use crate::backoff::{Backoff, retry};
use crate::bus::{BusError, Confirmation, Message, PUBLISH_TIMEOUT, cloudevents};
use crate::domain::{EventId, OutboxEvent};
use crate::health::Component;
use crate::logging;
use crate::relay::{Batch, CLAIM, RelayQueue};
use crate::store::StoreError;
use crate::traces::Span;

/// How often the outbox is searched for events that nothing announced.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Longest delay before an event that the broker refused is published again.
const MAX_REFUSAL_DELAY: Duration = Duration::from_mins(1);

pub struct OutboxRelay {
    ctx: TaskContext,
    queue: RelayQueue,
    /// Events per round.
    batch: u32,
}

/// Events with their messages, and the spans of their publication.
#[derive(Default)]
struct Encoded {
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
    /// Publishes up to `batch` events per round.
    pub fn new(ctx: TaskContext, queue: RelayQueue, batch: u32) -> Self {
        Self { ctx, queue, batch }
    }

    /// Runs until all handles of the queue are dropped, then flushes the outbox as far as the broker
    /// takes it. Whatever fails stays in the outbox and is tried again; `stop` only ends delays.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::new(Backoff::TASKS);
        let mut poll = interval(POLL_INTERVAL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let round = tokio::select! {
                batch = self.queue.batches.recv() => match batch {
                    Some(batch) => self.publish_batch(batch).await,
                    None => break,
                },
                () = self.queue.wake.notified() => self.poll_outbox().await,
                _ = poll.tick() => self.poll_outbox().await,
            };
            match round {
                Ok(()) => backoff.reset(),
                Err(error) => {
                    self.report(&error);
                    stop.run_until_cancelled(sleep(backoff.next_wait())).await;
                }
            }
        }
        // The supervisor ends this when the grace period is over.
        while let Err(error) = self.drain_outbox().await {
            self.report(&error);
            sleep(backoff.next_wait()).await;
        }
    }

    /// Makes sure of the connection, then publishes the outbox.
    async fn poll_outbox(&mut self) -> Result<(), RelayError> {
        self.ctx.bus.publish(&[]).await?;
        if self.ctx.health.set_up(Component::Publisher) {
            tracing::info!("publisher connected");
        }
        self.drain_outbox().await
    }

    /// Publishes what is not claimed, and in between what has just fired.
    async fn drain_outbox(&mut self) -> Result<(), RelayError> {
        loop {
            while let Ok(batch) = self.queue.batches.try_recv() {
                self.publish_batch(batch).await?;
            }
            let now = self.ctx.sample_time().await?;
            let events = self.ctx.database.claim(now, self.batch, now + CLAIM).await?;
            if events.is_empty() {
                return Ok(());
            }
            self.publish(events).await?;
        }
    }

    /// Publishes a batch of the queue, unless it has waited for so long that its claim might expire
    /// meanwhile.
    async fn publish_batch(&self, batch: Batch) -> Result<(), RelayError> {
        let left = batch.expires_at.saturating_duration_since(Instant::now());
        if left >= PUBLISH_TIMEOUT {
            return self.publish(batch.events).await;
        }
        if !left.is_zero() {
            self.release(ids(&batch.events), Duration::ZERO).await;
        }
        Ok(())
    }

    /// Publishes claimed events and marks those that the broker confirms. The others can be claimed
    /// again.
    async fn publish(&self, events: Vec<OutboxEvent>) -> Result<(), RelayError> {
        let Encoded { events, messages, spans } = self.encode(events).await;
        let confirmations = match self.ctx.bus.publish(&messages).await {
            Ok(confirmations) => confirmations,
            Err(error) => {
                for mut span in spans {
                    span.set("lobbyd.outcome", &"unsent");
                }
                self.release(ids(&events), Duration::ZERO).await;
                return Err(error.into());
            }
        };

        let now = self.ctx.clock.now();
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
                    tracing::warn!(
                        event.id = %event.id,
                        why,
                        "event refused by the broker, will be retried"
                    );
                    refused.entry(refusal_delay(event.attempt)).or_default().push(event.id);
                }
                Confirmation::Unconfirmed(why) => {
                    count("unconfirmed", &mut span);
                    failure.get_or_insert(why);
                    lost.push(event.id);
                }
            }
        }
        self.mark_published(confirmed).await;
        for (delay, ids) in refused {
            self.release(ids, delay).await;
        }
        match failure {
            None => Ok(()),
            Some(why) => {
                self.release(lost, Duration::ZERO).await;
                Err(RelayError::Unconfirmed(why))
            }
        }
    }

    /// Encodes the messages. An event that cannot be encoded is released, and delays no other.
    async fn encode(&self, events: Vec<OutboxEvent>) -> Encoded {
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
                    tracing::error!(event.id = %event.id, %error, "outbox event is not valid JSON");
                    self.release(vec![event.id], MAX_REFUSAL_DELAY).await;
                }
            }
        }
        encoded
    }

    /// Stores the publisher confirms, however long the database is unavailable: otherwise the events
    /// would be published again.
    async fn mark_published(&self, ids: Vec<EventId>) {
        if ids.is_empty() {
            return;
        }
        let report = |error: &StoreError| {
            let error = logging::causes(error);
            tracing::debug!(error, "publisher confirms could not be stored, retrying");
        };
        let mark = || self.ctx.database.mark_published(&ids, self.ctx.clock.now());
        retry(Backoff::TASKS, report, mark).await;
    }

    /// Lets events be claimed again after `delay`. If that fails, their claim expires.
    async fn release(&self, ids: Vec<EventId>, delay: Duration) {
        let available_at = self.ctx.clock.now() + delay;
        if let Err(error) = self.ctx.database.release(&ids, available_at).await {
            let error = logging::causes(&error);
            tracing::debug!(error, "claim could not be released, it will expire");
        }
    }

    fn report(&self, error: &RelayError) {
        let problem = logging::causes(error);
        match error {
            // The component that watches the database warns of an outage.
            RelayError::Store(
                StoreError::Unavailable(_)
                | StoreError::TimedOut(_)
                | StoreError::CommitUnanswered(_)
                | StoreError::Contended(_),
            ) => {
                tracing::debug!(error = problem, "outbox unavailable");
            }
            RelayError::Store(_) => tracing::error!(error = problem, "outbox unreadable"),
            RelayError::Bus(_) | RelayError::Unconfirmed(_) => {
                if self.ctx.health.set_down(Component::Publisher, problem.as_str()) {
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

/// The delay before a refused event is published again: one second, doubling.
fn refusal_delay(attempt: u32) -> Duration {
    let seconds = 2_u64.checked_pow(attempt.saturating_sub(1)).unwrap_or(u64::MAX);
    Duration::from_secs(seconds).min(MAX_REFUSAL_DELAY)
}

fn ids(events: &[OutboxEvent]) -> Vec<EventId> {
    events.iter().map(|event| event.id.clone()).collect()
}

fn count(outcome: &'static str, span: &mut Span) {
    metrics::counter!(crate::metrics::PUBLISHED, "outcome" => outcome).increment(1);
    span.set("lobbyd.outcome", &outcome);
}
