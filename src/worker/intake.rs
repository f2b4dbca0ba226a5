//! Takes in lobby changes: delivery, rule, commit, acknowledgement, in this order.
//!
//! Changes are applied one after another, in the order of their delivery. What has to wait for
//! something else than the database (for its room, or for the dead-letter queue) waits beside
//! that, so that it holds up nobody. While the database is away nothing more is taken in: the
//! delivery at hand waits, and the prefetch bounds the rest. Nothing is acknowledged before the
//! commit.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::Backoff,
    clock::DatabaseClock,
    domain::{Applied, LobbyChanged, Version},
    events::{Bus, BusError, Delivery, wire},
    health::{Health, Part},
    store::{Store, StoreError},
    telemetry,
};

/// Waits between the attempts to find an event's room: first and longest.
const ROOM_WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// The loop that takes in lobby changes.
pub struct Intake {
    store: Arc<dyn Store>,
    bus: Arc<dyn Bus>,
    clock: Arc<DatabaseClock>,
    health: Arc<Health>,
    /// Rung when a timer was armed.
    armed: Arc<Notify>,
    /// How long an event waits for its room.
    unknown_room_grace: Duration,
    /// The last instant of receipt that was given out.
    received: Mutex<Version>,
}

/// What is to be done with a delivery.
#[derive(Debug)]
enum Verdict {
    Ack,
    DeadLetter(String),
    /// There is no such room, or not yet. The change keeps its instant of receipt.
    AwaitRoom(LobbyChanged, Version),
}

impl Intake {
    /// Takes in changes from `bus`, and rings `armed` when the timer loop should look earlier.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        bus: Arc<dyn Bus>,
        clock: Arc<DatabaseClock>,
        health: Arc<Health>,
        armed: Arc<Notify>,
        unknown_room_grace: Duration,
    ) -> Self {
        let received = Mutex::new(Version::ZERO);
        Self { store, bus, clock, health, armed, unknown_room_grace, received }
    }

    /// Runs until `stop`, over as many connections as it takes. What is not settled then is
    /// delivered again to somebody else.
    ///
    /// # Errors
    ///
    /// None: whatever fails is tried again.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut backoff = Backoff::new(Backoff::LOOPS);
        while let Err(lost) = self.consume(&mut backoff, &stop).await {
            if self.health.fails(Part::Consumer, telemetry::causes(&lost)) {
                tracing::warn!(error = telemetry::causes(&lost), "no events come in");
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = sleep(backoff.next_wait()) => {}
            }
        }
        Ok(())
    }

    /// Takes in events over one connection, until it is lost or `stop`.
    async fn consume(
        &self,
        backoff: &mut Backoff,
        stop: &CancellationToken,
    ) -> Result<(), BusError> {
        let mut subscription = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            subscription = self.bus.subscribe() => subscription?,
        };
        backoff.reset();
        if self.health.works(Part::Consumer) {
            tracing::info!("events come in");
        }
        let mut waiting = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Some(settled) = waiting.next() => settled?,
                delivery = subscription.next() => {
                    let mut delivery = delivery?;
                    match self.judge(&delivery, stop).await {
                        None => return Ok(()),
                        Some(Verdict::Ack) => delivery.receipt.ack().await?,
                        Some(later) => waiting.push(self.settle_later(delivery, later, stop)),
                    }
                }
            }
        }
    }

    /// Applies an event and says what is to be done with its delivery; `None` if the process
    /// stops before that is known.
    async fn judge(&self, delivery: &Delivery, stop: &CancellationToken) -> Option<Verdict> {
        match wire::parse_lobby_changed(&delivery.body, delivery.content_type.as_deref()) {
            Ok(change) => {
                let received = self.received_now();
                self.apply(change, received, stop).await
            }
            Err(malformed) => {
                count("malformed");
                Some(Verdict::DeadLetter(malformed.to_string()))
            }
        }
    }

    /// Applies a change, however long the database is away. `None` if the process stops first.
    async fn apply(
        &self,
        change: LobbyChanged,
        received: Version,
        stop: &CancellationToken,
    ) -> Option<Verdict> {
        let mut backoff = Backoff::new(Backoff::LOOPS);
        loop {
            match self.store.apply(&change, received).await {
                Ok(applied) => return Some(self.verdict(change, received, applied)),
                Err(error @ (StoreError::Rejected(_) | StoreError::Corrupt(_))) => {
                    count("rejected");
                    return Some(Verdict::DeadLetter(telemetry::causes(&error)));
                }
                Err(error) => {
                    if backoff.is_fresh() {
                        tracing::warn!(
                            room.token = %change.token,
                            error = telemetry::causes(&error),
                            "event waits for the database, nothing more is taken in meanwhile"
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

    /// Reports what became of a change.
    fn verdict(&self, change: LobbyChanged, received: Version, applied: Applied) -> Verdict {
        let room = &change.token;
        let version = change.version.unwrap_or(received).milliseconds();
        match applied {
            Applied::Set { lobby, replaced } => {
                count("applied");
                if let Some(superseded) = replaced.filter(|&timer| Some(timer) != lobby.timer) {
                    metrics::counter!(telemetry::SUPERSEDED).increment(1);
                    tracing::info!(room.token = %room, timer.due_at = %superseded, "timer superseded");
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
                count("stale");
                tracing::info!(room.token = %room, version, "stale event changes nothing");
                Verdict::Ack
            }
            Applied::NoLobby => {
                count("no_lobby");
                Verdict::DeadLetter(format!("room {room} is of a type or object without lobby"))
            }
            Applied::UnknownRoom => Verdict::AwaitRoom(change, received),
        }
    }

    /// Settles a delivery that has to wait for something else than the database.
    async fn settle_later(
        &self,
        mut delivery: Delivery,
        verdict: Verdict,
        stop: &CancellationToken,
    ) -> Result<(), BusError> {
        let reason = match verdict {
            Verdict::Ack => return delivery.receipt.ack().await,
            Verdict::DeadLetter(reason) => reason,
            Verdict::AwaitRoom(change, received) => {
                match self.await_room(change, received, stop).await {
                    None => return Ok(()),
                    Some(Verdict::Ack) => return delivery.receipt.ack().await,
                    Some(Verdict::DeadLetter(reason)) => reason,
                    Some(Verdict::AwaitRoom(..)) => {
                        count("unknown_room");
                        format!("no such room, not even {:?} later", self.unknown_room_grace)
                    }
                }
            }
        };
        tracing::warn!(reason, "event goes to the dead letters");
        let mut backoff = Backoff::new(Backoff::LOOPS);
        while let Err(error) = delivery.receipt.dead_letter(&delivery.body, &reason).await {
            tracing::debug!(error = telemetry::causes(&error), "dead letter has to wait");
            sleep(backoff.next_wait()).await;
        }
        delivery.receipt.ack().await
    }

    /// Tries a change again until its room is there or the grace is over.
    async fn await_room(
        &self,
        mut change: LobbyChanged,
        received: Version,
        stop: &CancellationToken,
    ) -> Option<Verdict> {
        let over = Instant::now() + self.unknown_room_grace;
        let mut backoff = Backoff::new(ROOM_WAIT);
        loop {
            sleep(backoff.next_wait()).await;
            match self.apply(change, received, stop).await {
                Some(Verdict::AwaitRoom(again, _)) if Instant::now() < over => change = again,
                settled => return settled,
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

fn count(outcome: &'static str) {
    metrics::counter!(telemetry::EVENTS, "outcome" => outcome).increment(1);
}
