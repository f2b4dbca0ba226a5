//! Takes in lobby changes: delivery, rule, commit, acknowledgement, in this order.
//!
//! Changes are applied one after another, in the order of their delivery. What has to wait for
//! something else (for its room, or for the dead-letter queue) is put aside and settled there; it
//! holds up the others only when it makes up the whole prefetch. While the database is away nothing
//! more is taken in: the delivery at hand waits, and the prefetch bounds the rest. Nothing is
//! acknowledged before the commit.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::{Notify, Semaphore, mpsc},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::Backoff,
    bus::{Bus, BusError, Delivery, Subscription, cloudevents},
    clock::DatabaseClock,
    domain::{Applied, LobbyChange, Version},
    health::{Component, Health},
    logging,
    store::{StoreError, Timers},
    traces::{Kind, Span, Traces},
};

/// Waits between the attempts to find an event's room: first and longest.
const ROOM_WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// The loop that takes in lobby changes.
pub struct LobbyConsumer {
    store: Arc<dyn Timers>,
    bus: Arc<dyn Bus>,
    clock: Arc<DatabaseClock>,
    health: Arc<Health>,
    /// Rung when a timer was armed.
    armed: Arc<Notify>,
    traces: Traces,
    /// How long an event waits for its room.
    unknown_room_grace: Duration,
    /// The last instant of receipt that was given out.
    received: Mutex<Version>,
    /// One retry at a time, so that many unknown rooms do not take all the connections.
    retries: Semaphore,
}

/// What is to be done with a delivery.
#[derive(Debug)]
enum Verdict {
    Ack,
    DeadLetter(String),
    /// There is no such room, or not yet.
    AwaitRoom,
}

/// A delivery that waits for something else than the database.
enum Aside {
    DeadLetter(Delivery, String, Span),
    /// The change keeps its instant of receipt, so that a newer one overtakes it for good.
    AwaitRoom(Delivery, LobbyChange, Version, Span),
}

impl LobbyConsumer {
    /// Takes in changes from `bus`, and rings `armed` when the timer loop should look earlier.
    pub fn new(
        store: Arc<dyn Timers>,
        bus: Arc<dyn Bus>,
        clock: Arc<DatabaseClock>,
        health: Arc<Health>,
        armed: Arc<Notify>,
        traces: Traces,
        unknown_room_grace: Duration,
    ) -> Self {
        let received = Mutex::new(Version::ZERO);
        let retries = Semaphore::new(1);
        Self { store, bus, clock, health, armed, traces, unknown_room_grace, received, retries }
    }

    /// Runs until `stop`, over as many connections as it takes. What is not settled then is
    /// delivered again to somebody else.
    pub async fn run(self, stop: CancellationToken) {
        let mut backoff = Backoff::new(Backoff::LOOPS);
        while let Err(lost) = self.consume(&mut backoff, &stop).await {
            if matches!(lost, BusError::Reconnect) {
                continue;
            }
            if self.health.set_down(Component::Consumer, logging::causes(&lost)) {
                tracing::warn!(error = logging::causes(&lost), "consumer disconnected");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(backoff.next_wait()) => {}
            }
        }
    }

    /// Takes in events over one connection, until it is lost or `stop`.
    async fn consume(
        &self,
        backoff: &mut Backoff,
        stop: &CancellationToken,
    ) -> Result<(), BusError> {
        let subscription = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            subscription = self.bus.subscribe() => subscription?,
        };
        backoff.reset();
        if self.health.set_up(Component::Consumer) {
            tracing::info!("consumer connected");
        }
        let (put_aside, aside) = mpsc::unbounded_channel();
        // Both go on at the same time: neither waits for what the other one holds.
        tokio::select! {
            ended = self.take_in_all(subscription, put_aside, stop) => ended,
            ended = self.settle_all(aside, stop) => ended,
        }
    }

    /// Takes in one event after another.
    async fn take_in_all(
        &self,
        mut subscription: Box<dyn Subscription>,
        aside: mpsc::UnboundedSender<Aside>,
        stop: &CancellationToken,
    ) -> Result<(), BusError> {
        loop {
            let delivery = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                delivery = subscription.next() => delivery?,
            };
            if let Some(later) = self.take_in(delivery, stop).await? {
                // The receiver lives as long as this future.
                aside.send(later).ok();
            }
        }
    }

    /// Applies an event and acknowledges it, or says what it has to wait for.
    async fn take_in(
        &self,
        mut delivery: Delivery,
        stop: &CancellationToken,
    ) -> Result<Option<Aside>, BusError> {
        let mut span = self.traces.span("process lobby.changed", Kind::Consumer, delivery.trace);
        let content_type = delivery.content_type.as_deref();
        let change = match cloudevents::parse_lobby_changed(&delivery.body, content_type) {
            Ok(change) => change,
            Err(malformed) => {
                count("malformed", &mut span);
                return Ok(Some(Aside::DeadLetter(delivery, malformed.to_string(), span)));
            }
        };
        span.note("lobbyd.room.token", &change.token);
        let received = self.received_now();
        match self.apply(&change, received, &mut span, stop).await {
            None => Ok(None),
            Some(Verdict::Ack) => delivery.receipt.ack().await.map(|()| None),
            Some(Verdict::DeadLetter(reason)) => {
                Ok(Some(Aside::DeadLetter(delivery, reason, span)))
            }
            Some(Verdict::AwaitRoom) => {
                Ok(Some(Aside::AwaitRoom(delivery, change, received, span)))
            }
        }
    }

    /// Applies a change, however long the database is away. `None` if the process stops first.
    async fn apply(
        &self,
        change: &LobbyChange,
        received: Version,
        span: &mut Span,
        stop: &CancellationToken,
    ) -> Option<Verdict> {
        let mut backoff = Backoff::new(Backoff::LOOPS);
        loop {
            let commit = span.part("commit lobby");
            let applied = self.store.apply(change, received).await;
            drop(commit);
            match applied {
                Ok(applied) => return Some(self.verdict(change, received, applied, span)),
                Err(
                    error @ (StoreError::Rejected(_)
                    | StoreError::Corrupt(_)
                    | StoreError::Unreadable(_)),
                ) => {
                    count("rejected", span);
                    return Some(Verdict::DeadLetter(logging::causes(&error)));
                }
                Err(error) => {
                    if backoff.is_fresh() {
                        tracing::warn!(
                            room.token = %change.token,
                            error = logging::causes(&error),
                            "event is waiting for the database, consumer paused"
                        );
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => return None,
                () = sleep(backoff.next_wait()) => {}
            }
        }
    }

    /// Reports a change, rings the timer loop if it armed a timer, and says how to settle it.
    fn verdict(
        &self,
        change: &LobbyChange,
        received: Version,
        applied: Applied,
        span: &mut Span,
    ) -> Verdict {
        let (room, lobby) = (&change.token, change.lobby);
        let version = change.version.unwrap_or(received).milliseconds();
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
                    self.armed.notify_one();
                }
                Verdict::Ack
            }
            Applied::Stale => {
                count("stale", span);
                tracing::info!(room.token = %room, version, "stale event ignored");
                // The timer loop passes over a row that is locked, as this one was.
                self.armed.notify_one();
                Verdict::Ack
            }
            Applied::LobbyNotSupported => {
                count("no_lobby", span);
                Verdict::DeadLetter(format!("room {room} is of a type or object without lobby"))
            }
            Applied::UnknownRoom => Verdict::AwaitRoom,
        }
    }

    /// Settles what was put aside, all at the same time.
    async fn settle_all(
        &self,
        mut aside: mpsc::UnboundedReceiver<Aside>,
        stop: &CancellationToken,
    ) -> Result<(), BusError> {
        let mut waiting = FuturesUnordered::new();
        loop {
            tokio::select! {
                Some(settled) = waiting.next() => settled?,
                Some(later) = aside.recv() => waiting.push(self.settle(later, stop)),
            }
        }
    }

    async fn settle(&self, aside: Aside, stop: &CancellationToken) -> Result<(), BusError> {
        let (mut delivery, reason, _span) = match aside {
            Aside::DeadLetter(delivery, reason, span) => (delivery, reason, span),
            Aside::AwaitRoom(mut delivery, change, received, mut span) => {
                match self.await_room(&change, received, &mut span, stop).await {
                    None => return Ok(()),
                    Some(Ok(())) => return delivery.receipt.ack().await,
                    Some(Err(reason)) => (delivery, reason, span),
                }
            }
        };
        tracing::warn!(reason, "event dead-lettered");
        let mut backoff = Backoff::new(Backoff::LOOPS);
        while let Err(error) = delivery.receipt.dead_letter(&delivery.body, &reason).await {
            if backoff.is_fresh() {
                tracing::warn!(
                    error = logging::causes(&error),
                    "dead letter could not be published, retrying"
                );
            }
            sleep(backoff.next_wait()).await;
        }
        delivery.receipt.ack().await
    }

    /// Tries a change again until its room is there or the grace is over: then the error is the
    /// reason for a dead letter. `None` if the process stops first.
    async fn await_room(
        &self,
        change: &LobbyChange,
        received: Version,
        span: &mut Span,
        stop: &CancellationToken,
    ) -> Option<Result<(), String>> {
        // Only the waits count: while the database is away nobody can tell if the room is there.
        let mut left = self.unknown_room_grace;
        let mut backoff = Backoff::new(ROOM_WAIT);
        loop {
            let wait = backoff.next_wait();
            sleep(wait).await;
            left = left.saturating_sub(wait);
            let turn = self.retries.acquire().await.expect("nobody closes the semaphore");
            let verdict = self.apply(change, received, span, stop).await?;
            drop(turn);
            match verdict {
                Verdict::Ack => return Some(Ok(())),
                Verdict::DeadLetter(reason) => return Some(Err(reason)),
                Verdict::AwaitRoom if !left.is_zero() => {}
                Verdict::AwaitRoom => {
                    count("unknown_room", span);
                    let (room, grace) = (&change.token, self.unknown_room_grace);
                    return Some(Err(format!("unknown room {room} (waited {grace:?})")));
                }
            }
        }
    }

    /// The instant of receipt, as a version: events without one are ordered by it, so no two are
    /// given the same.
    fn received_now(&self) -> Version {
        let mut received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        *received = Version::of(self.clock.now()).max(received.next());
        *received
    }
}

fn count(outcome: &'static str, span: &mut Span) {
    metrics::counter!(crate::metrics::EVENTS, "outcome" => outcome).increment(1);
    span.note("lobbyd.outcome", &outcome);
}
