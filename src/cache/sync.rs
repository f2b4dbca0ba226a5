//! Hears the room updates of all processes, so that whoever waits here is answered at once.
//!
//! A lobby change of somebody else's is heard on its way to a worker, who applies it without an
//! announcement; so the room is looked at until the change is there. What was missed while nothing
//! was heard is made up for: the rooms in use are compared with the database each second, and all of
//! them are read anew when the bus is back.

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::Backoff,
    bus::{
        Bus, BusError,
        cloudevents::{self, Heard},
    },
    domain::LobbyChange,
    health::{Component, Health},
    logging,
    rooms::Service,
};

/// How often the rooms in use are compared with the database while nothing is heard.
const DEAF_INTERVAL: Duration = Duration::from_secs(1);

/// The same while update listener connected: then only for what others write by SQL.
const HEARING_INTERVAL: Duration = Duration::from_secs(5);

/// Wait for the first look for a change that is on its way: a worker needs some milliseconds. It
/// doubles for each next one.
const FIRST_LOOK: Duration = Duration::from_millis(5);

/// How long a change is looked for. After that the usual comparison sees it, if it is ever applied.
const LOOKED_FOR: Duration = Duration::from_millis(1200);

/// Changes on their way that are looked for. What comes beyond is seen by the usual comparison.
const EXPECTED: usize = 1024;

/// How often it is noted who was there: much more often than a session ends without that.
const PRESENCE_INTERVAL: Duration = Duration::from_secs(30);

/// The loop that hears.
pub struct CacheSync {
    service: Arc<Service>,
    bus: Arc<dyn Bus>,
    health: Arc<Health>,
}

impl CacheSync {
    /// Hears for this service, from `bus`.
    pub fn new(service: Arc<Service>, bus: Arc<dyn Bus>, health: Arc<Health>) -> Self {
        Self { service, bus, health }
    }

    /// Runs until `stop`, over as many connections as it takes.
    pub async fn run(self, stop: CancellationToken) {
        let (expect, expected) = mpsc::channel(EXPECTED);
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.hear(expect) => {}
            () = self.look_for(expected) => {}
            () = self.compare_now_and_then() => {}
            () = self.note_presence() => {}
        }
    }

    async fn hear(&self, expect: mpsc::Sender<LobbyChange>) {
        let mut backoff = Backoff::new(Backoff::LOOPS);
        loop {
            let lost = match self.hear_over_one_connection(&mut backoff, &expect).await {
                Ok(never) => match never {},
                Err(BusError::Reconnect) => continue,
                Err(lost) => logging::causes(&lost),
            };
            if self.health.set_down(Component::Listener, lost.as_str()) {
                tracing::warn!(
                    error = lost,
                    "update listener disconnected, polling the database instead"
                );
                // What was last heard may not be the last that was said.
                self.service.outdate();
            }
            sleep(backoff.next_wait()).await;
        }
    }

    async fn hear_over_one_connection(
        &self,
        backoff: &mut Backoff,
        expect: &mpsc::Sender<LobbyChange>,
    ) -> Result<Infallible, BusError> {
        let mut listener = self.bus.listen().await?;
        backoff.reset();
        if self.health.set_up(Component::Listener) {
            tracing::info!("update listener connected");
        }
        // What was published before is missed.
        self.service.outdate();
        loop {
            match cloudevents::parse_heard(&listener.next().await?) {
                Some(Heard::Updated(update)) => self.service.hear(&update),
                Some(Heard::Set(change)) if self.service.awaits(&change) => {
                    expect.try_send(change).ok();
                }
                // Of no room in use; or malformed, which the worker says.
                Some(Heard::Set(_)) | None => {}
            }
        }
    }

    /// Looks at the rooms until the changes that are on their way are there, for each of them about
    /// a second.
    async fn look_for(&self, mut expected: mpsc::Receiver<LobbyChange>) {
        let mut changes: Vec<(Instant, LobbyChange)> = Vec::new();
        while let Some(first) = expected.recv().await {
            changes.push((Instant::now(), first));
            let mut wait = FIRST_LOOK;
            let mut look_at = Instant::now() + wait;
            while !changes.is_empty() {
                tokio::select! {
                    () = sleep_until(look_at) => {
                        self.compare().await;
                        changes.retain(|(heard, change)| {
                            heard.elapsed() < LOOKED_FOR && self.service.awaits(change)
                        });
                        wait *= 2;
                        look_at = Instant::now() + wait;
                    }
                    Some(next) = expected.recv() => {
                        changes.push((Instant::now(), next));
                        wait = FIRST_LOOK;
                        // Never put off by what comes in.
                        look_at = look_at.min(Instant::now() + wait);
                    }
                }
            }
        }
    }

    async fn compare_now_and_then(&self) {
        let mut round = interval(DEAF_INTERVAL);
        round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut compared = Instant::now();
        loop {
            round.tick().await;
            // Each time while nothing is heard, else only now and then.
            if self.health.is_up(Component::Listener) && compared.elapsed() < HEARING_INTERVAL {
                continue;
            }
            self.compare().await;
            compared = Instant::now();
        }
    }

    async fn note_presence(&self) {
        let mut round = interval(PRESENCE_INTERVAL);
        round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            round.tick().await;
            if let Err(error) = self.service.note_presence().await {
                tracing::debug!(error = logging::causes(&error), "presence could not be recorded");
            }
        }
    }

    /// The next round is soon, so one that fails is not worth a line.
    async fn compare(&self) {
        match self.service.compare(!self.health.is_up(Component::Listener)).await {
            Ok(()) => {
                self.health.set_up(Component::Database);
            }
            Err(error) => {
                let error = logging::causes(&error);
                tracing::debug!(error, "cached rooms could not be revalidated");
                self.health.set_down(Component::Database, error);
            }
        }
    }
}
