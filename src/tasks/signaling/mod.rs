//! Tells Talk's signaling servers of changed rooms, so that clients with a websocket learn of a change
//! without asking.
//!
//! What has to be told is in the database, for each server and room. This task makes it of the changes
//! that transactions have recorded, and each server has a [loop](delivery) of its own, so that one that
//! is down delays no other. A room is told as it is then, by one request at a time: many changes are
//! told once, and the newest state is the last one that a server receives. [`gate`] decides what may
//! be sent.

mod delivery;
mod gate;
mod report;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use self::delivery::Delivery;
use self::report::Report;
use crate::clock::DatabaseClock;
use crate::health::Health;
use crate::logging;
use crate::nextcloud::SignalingClient;
use crate::store;
use crate::store::Database;

/// How often the changes of other processes are looked for.
const INTERVAL: Duration = Duration::from_millis(250);

/// How often the database is told that this process has its servers.
const SEEN_INTERVAL: Duration = Duration::from_mins(1);

pub struct SignalingTask {
    /// Apart from that of the timers.
    database: Arc<dyn Database>,
    clock: Arc<DatabaseClock>,
    health: Arc<Health>,
    servers: Vec<Arc<SignalingClient>>,
    /// Wakes after this process has changed rooms.
    changed: Arc<Notify>,
}

impl SignalingTask {
    pub fn new(
        database: Arc<dyn Database>,
        clock: Arc<DatabaseClock>,
        health: Arc<Health>,
        servers: Vec<Arc<SignalingClient>>,
        changed: Arc<Notify>,
    ) -> Self {
        Self { database, clock, health, servers, changed }
    }

    /// Runs until `stop`. Requests that have been sent are awaited for a moment.
    pub async fn run(self, stop: CancellationToken) {
        let report = Report::new(Arc::clone(&self.health), &self.servers);
        let (passed, _receiver) = watch::channel(());
        let deliveries = self.servers.iter().map(|server| {
            let (database, clock) = (Arc::clone(&self.database), Arc::clone(&self.clock));
            let delivery = Delivery::new(database, clock, Arc::clone(server), &report);
            delivery.run(passed.subscribe(), &stop)
        });
        tokio::join!(join_all(deliveries), stop.run_until_cancelled(self.pass_on(&passed)));
    }

    /// Makes of changes what the servers have to be told.
    async fn pass_on(&self, passed: &watch::Sender<()>) {
        let mut seen_at = Instant::now();
        loop {
            if seen_at.elapsed() >= SEEN_INTERVAL {
                seen_at = Instant::now();
                self.try_to(self.see_servers()).await;
            }
            let changes = self.database.pass_on_changes(self.clock.now());
            match self.try_to(changes).await {
                Some(number) if number > 0 => passed.send_modify(|()| {}),
                Some(_) | None => {
                    tokio::select! {
                        () = self.changed.notified() => {}
                        () = sleep(INTERVAL) => {}
                    }
                }
            }
        }
    }

    async fn see_servers(&self) -> store::Result<()> {
        let urls: Vec<&str> = self.servers.iter().map(|server| server.url()).collect();
        self.database.see_signaling_servers(&urls, self.clock.now()).await
    }

    /// The outcome of a use of the database, which is tried again soon.
    async fn try_to<T>(&self, work: impl Future<Output = store::Result<T>>) -> Option<T> {
        let outcome = work.await;
        if let Err(error) = &outcome {
            let error = logging::causes(error);
            tracing::debug!(error, "changes could not be passed on to signaling servers");
            sleep(INTERVAL).await;
        }
        outcome.ok()
    }
}
