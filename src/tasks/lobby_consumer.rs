//! Applies lobby changes from the bus: delivery, rule, commit, acknowledgement, in this order.
//!
//! Changes are applied one after another, in the order of their delivery. A delivery that must wait
//! (for its room, or for the dead-letter queue) is parked; parked deliveries block the others only
//! if they fill the prefetch window. While the database is unavailable no further delivery is taken:
//! the current one waits, and the prefetch bounds the rest. Nothing is acknowledged before the
//! commit.

use std::convert::Infallible;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{RwLock, RwLockReadGuard, Semaphore, mpsc};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{TaskContext, TimerWaker};
use crate::backoff::{Backoff, retry};
use crate::bus::{BusError, Delivery, Subscription, cloudevents};
use crate::domain::{Applied, IncomingChange};
use crate::health::Component;
use crate::logging;
use crate::relay::RelayHandle;
use crate::store::StoreError;
use crate::traces::{Kind, Span};

/// Delays between the checks for an event's room: first and longest.
const ROOM_DELAYS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

pub struct LobbyConsumer {
    ctx: TaskContext,
    timers: TimerWaker,
    relay: RelayHandle,
    /// How long an event waits for its room.
    unknown_room_grace: Duration,
    /// How far ahead of the database's clock a version may be.
    max_clock_skew: Duration,
    /// One retry at a time, so that many unknown rooms do not use up the connections.
    retries: Semaphore,
    /// Held for reading from the begin of a transaction to its acknowledgement.
    transactions: RwLock<()>,
}

#[derive(Debug)]
enum Disposition<'a> {
    /// The transaction ends with the acknowledgement.
    Ack(RwLockReadGuard<'a, ()>),
    /// The event can never be applied, for this reason.
    DeadLetter(String),
    /// The room does not exist, or not yet. The change keeps its receive time, so a newer change
    /// still wins.
    RetryUntilRoomExists(IncomingChange),
}

/// A delivery that has been processed and not settled.
struct Processed<'a> {
    delivery: Delivery,
    disposition: Disposition<'a>,
    span: Span,
}

impl LobbyConsumer {
    /// Wakes `timers` when a timer was armed, and `relay` when a room was changed.
    pub fn new(
        ctx: TaskContext,
        timers: TimerWaker,
        relay: RelayHandle,
        unknown_room_grace: Duration,
        max_clock_skew: Duration,
    ) -> Self {
        Self {
            ctx,
            timers,
            relay,
            unknown_room_grace,
            max_clock_skew,
            retries: Semaphore::new(1),
            transactions: RwLock::default(),
        }
    }

    /// Runs until `stop`. A transaction that has begun is finished. Deliveries that are not settled
    /// then are delivered again, to any worker.
    pub async fn run(self, stop: CancellationToken) {
        let stopped = async {
            stop.cancelled().await;
            self.transactions.write().await
        };
        tokio::select! {
            () = self.consume() => {}
            _no_transaction = stopped => {}
        }
    }

    /// Consumes over one connection after another.
    async fn consume(&self) {
        let mut backoff = Backoff::new(Backoff::TASKS);
        loop {
            let lost = match self.ctx.bus.subscribe().await {
                Ok(subscription) => {
                    backoff.reset();
                    if self.ctx.health.set_up(Component::Consumer) {
                        tracing::info!("consumer connected");
                    }
                    self.consume_from(subscription).await
                }
                Err(error) => error,
            };
            if matches!(lost, BusError::Reconnect) {
                continue;
            }
            let problem = logging::causes(&lost);
            if self.ctx.health.set_down(Component::Consumer, problem.as_str()) {
                tracing::warn!(error = problem, "consumer disconnected");
            }
            sleep(backoff.next_wait()).await;
        }
    }

    /// Consumes until the connection is lost. Parked deliveries are settled concurrently: neither
    /// side waits for what the other one holds.
    async fn consume_from(&self, subscription: Box<dyn Subscription>) -> BusError {
        let (park, parked) = mpsc::unbounded_channel();
        let lost = tokio::select! {
            ended = self.process_all(subscription, park) => ended,
            ended = self.settle_all(parked) => ended,
        };
        match lost {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn process_all<'a>(
        &'a self,
        mut subscription: Box<dyn Subscription>,
        park: mpsc::UnboundedSender<Processed<'a>>,
    ) -> Result<Infallible, BusError> {
        loop {
            let mut processed = self.process(subscription.next().await?).await;
            match processed.disposition {
                Disposition::Ack(_transaction) => processed.delivery.receipt.ack().await?,
                Disposition::DeadLetter(_) | Disposition::RetryUntilRoomExists(_) => {
                    // The receiver lives as long as this future.
                    park.send(processed).ok();
                }
            }
        }
    }

    async fn process(&self, delivery: Delivery) -> Processed<'_> {
        let mut span = self.ctx.traces.span(
            "process lobby.changed",
            Kind::Consumer,
            delivery.properties.trace,
        );
        let now = self.ctx.clock.now();
        let parsed = cloudevents::parse_lobby_changed(
            &delivery.body,
            &delivery.properties,
            now,
            self.max_clock_skew,
        );
        let disposition = match parsed {
            Ok(change) => {
                span.set("lobbyd.room.token", &change.token);
                self.apply(&change, &mut span).await
            }
            Err(malformed) => {
                count("malformed", &mut span);
                Disposition::DeadLetter(malformed.to_string())
            }
        };
        Processed { delivery, disposition, span }
    }

    /// Applies a change, however long the database is unavailable.
    async fn apply<'a>(&'a self, change: &IncomingChange, span: &mut Span) -> Disposition<'a> {
        let mut backoff = Backoff::new(Backoff::TASKS);
        loop {
            let transaction = self.transactions.read().await;
            let commit = span.child("commit lobby");
            let set = std::slice::from_ref(change);
            let applied = self.ctx.database.apply(set, self.ctx.clock.now()).await;
            drop(commit);
            match applied.map(|results| results.into_iter().next()) {
                Ok(Some(Applied::Locked) | None) => {}
                Ok(Some(applied)) => return self.disposition(change, applied, transaction, span),
                Err(
                    error @ (StoreError::Rejected(_)
                    | StoreError::Corrupt(_)
                    | StoreError::Unreadable(_)),
                ) => {
                    count("rejected", span);
                    return Disposition::DeadLetter(logging::causes(&error));
                }
                Err(error) => {
                    if backoff.is_first_failure() {
                        tracing::warn!(
                            room.token = %change.token,
                            error = logging::causes(&error),
                            "event is waiting for the database, consumer paused"
                        );
                    }
                }
            }
            drop(transaction);
            sleep(backoff.next_wait()).await;
        }
    }

    /// Reports a change, wakes the timer task if a timer was armed, and says how to settle the event.
    fn disposition<'a>(
        &self,
        change: &IncomingChange,
        applied: Applied,
        transaction: RwLockReadGuard<'a, ()>,
        span: &mut Span,
    ) -> Disposition<'a> {
        let (room, lobby) = (&change.token, change.lobby);
        let version = change.order.version().milliseconds();
        match applied {
            Applied::Set { replaced } => {
                count("applied", span);
                if let Some(superseded) = replaced.filter(|&timer| Some(timer) != lobby.timer) {
                    metrics::counter!(crate::metrics::SUPERSEDED).increment(1);
                    tracing::info!(
                        room.token = %room,
                        timer.due_at = %superseded,
                        "timer superseded"
                    );
                }
                tracing::info!(
                    room.token = %room,
                    version,
                    lobby.state = lobby.state.number(),
                    timer.due_at = lobby.timer.map(tracing::field::display),
                    "lobby set"
                );
                if lobby.scheduled().is_some() {
                    self.timers.wake();
                }
                self.relay.wake();
                Disposition::Ack(transaction)
            }
            Applied::Stale => {
                count("stale", span);
                tracing::info!(room.token = %room, version, "stale event ignored");
                // This transaction had locked the row, and the timer task skips locked rows.
                self.timers.wake();
                Disposition::Ack(transaction)
            }
            Applied::LobbyNotSupported => {
                count("no_lobby", span);
                let reason = format!("room {room} is of a type or object without lobby");
                Disposition::DeadLetter(reason)
            }
            Applied::UnknownRoom | Applied::Locked => {
                Disposition::RetryUntilRoomExists(change.clone().waited())
            }
        }
    }

    /// Settles the parked deliveries, all at the same time.
    async fn settle_all<'a>(
        &'a self,
        mut parked: mpsc::UnboundedReceiver<Processed<'a>>,
    ) -> Result<Infallible, BusError> {
        let mut settling = FuturesUnordered::new();
        loop {
            tokio::select! {
                Some(settled) = settling.next() => settled?,
                Some(processed) = parked.recv() => settling.push(self.settle(processed)),
            }
        }
    }

    async fn settle(&self, processed: Processed<'_>) -> Result<(), BusError> {
        let Processed { mut delivery, mut disposition, mut span } = processed;
        if let Disposition::RetryUntilRoomExists(change) = disposition {
            disposition = self.apply_when_room_exists(&change, &mut span).await;
        }
        if let Disposition::DeadLetter(reason) = disposition {
            tracing::warn!(reason, "event dead-lettered");
            let report = |error: &BusError| {
                let error = logging::causes(error);
                tracing::warn!(error, "dead letter could not be published, retrying");
            };
            let publish = || delivery.receipt.dead_letter(&delivery.body, &reason);
            retry(Backoff::TASKS, report, publish).await;
        }
        delivery.receipt.ack().await
    }

    /// Repeats a change until its room exists, or the grace period is over.
    async fn apply_when_room_exists<'a>(
        &'a self,
        change: &IncomingChange,
        span: &mut Span,
    ) -> Disposition<'a> {
        // Only the delays count: while the database is unavailable nothing is known about the room.
        let mut grace = self.unknown_room_grace;
        let mut backoff = Backoff::new(ROOM_DELAYS);
        loop {
            let delay = backoff.next_wait();
            sleep(delay).await;
            grace = grace.saturating_sub(delay);
            let permit = self.retries.acquire().await.expect("the semaphore is never closed");
            let disposition = self.apply(change, span).await;
            drop(permit);
            match disposition {
                Disposition::RetryUntilRoomExists(_) if !grace.is_zero() => {}
                Disposition::RetryUntilRoomExists(_) => {
                    count("unknown_room", span);
                    let (room, waited) = (&change.token, self.unknown_room_grace);
                    let reason = format!("unknown room {room} (waited {waited:?})");
                    return Disposition::DeadLetter(reason);
                }
                settled @ (Disposition::Ack(_) | Disposition::DeadLetter(_)) => return settled,
            }
        }
    }
}

fn count(outcome: &'static str, span: &mut Span) {
    metrics::counter!(crate::metrics::EVENTS, "outcome" => outcome).increment(1);
    span.set("lobbyd.outcome", &outcome);
}
