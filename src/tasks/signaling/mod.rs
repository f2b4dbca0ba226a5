//! Tells Talk's signaling servers of changed rooms, so that clients with a websocket learn of a change
//! without asking.
//!
//! What has to be told is in the database, for each server and room. This task makes it of the changes
//! that transactions have recorded, and each server has a [loop](delivery) of its own, so that one that
//! is down delays no other. A room is told as it is then, by one request at a time: many changes are
//! told once, and the newest state is the last one that a server receives. [`gate`] decides what may
//! be sent.

mod claim;
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
use crate::store::{Database, StoreError};

/// How often the changes of other processes are looked for.
const INTERVAL: Duration = Duration::from_millis(250);

/// Changes that are passed on at once, if they have few rooms.
const CHANGES: u32 = 16;

/// When changes that the database refused are tried again.
const SKIP_INTERVAL: Duration = Duration::from_mins(1);

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
        let passing_on = self.pass_on(&passed, &report);
        tokio::join!(join_all(deliveries), stop.run_until_cancelled(passing_on));
    }

    /// Makes of changes what the servers have to be told.
    async fn pass_on(&self, passed: &watch::Sender<()>, report: &Report) {
        let mut seen_at = Some(Instant::now());
        let mut pass = Pass::default();
        loop {
            if seen_at.is_none_or(|seen_at| seen_at.elapsed() >= SEEN_INTERVAL) {
                let urls: Vec<&str> = self.servers.iter().map(|server| server.url()).collect();
                let seen = self.database.see_signaling_servers(&urls, self.clock.now()).await;
                seen_at = pass.note(seen).map(|()| Instant::now());
            }
            match self.pass_on_some(&mut pass, report).await {
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

    /// Passes on some changes, or fewer after a failure. One that the database refuses waits by itself.
    async fn pass_on_some(&self, pass: &mut Pass, report: &Report) -> Option<usize> {
        if pass.skipped_at.is_some_and(|skipped_at| skipped_at.elapsed() >= SKIP_INTERVAL) {
            (pass.after, pass.skipped_at) = (String::new(), None);
        }
        // Without a transaction: mostly there is none.
        let first = pass.note(self.database.first_change(&pass.after).await)?;
        report.oldest_change(first.as_ref().map(|(_id, made_at)| *made_at));
        first?;
        let passed = self.database.pass_on_changes(&pass.after, pass.limit, self.clock.now()).await;
        let is_refused = passed.as_ref().is_err_and(StoreError::is_refusal) && pass.limit == 1;
        let passed = pass.note(passed);
        pass.limit = if passed.is_some() { CHANGES } else { 1 };
        if is_refused
            && let Ok(Some((refused, _made_at))) = self.database.first_change(&pass.after).await
        {
            tracing::warn!(change = refused, "the database refuses to pass on a change");
            pass.after = refused;
            pass.skipped_at.get_or_insert_with(Instant::now);
        }
        passed
    }
}

/// How changes are passed on.
struct Pass {
    /// Changes at once.
    limit: u32,
    /// Only those behind this one, which the database refused then.
    after: String,
    skipped_at: Option<Instant>,
    is_failing: bool,
}

impl Default for Pass {
    fn default() -> Self {
        Self { limit: CHANGES, after: String::new(), skipped_at: None, is_failing: false }
    }
}

impl Pass {
    /// Logs the first failure of some in a row.
    fn note<T>(&mut self, outcome: store::Result<T>) -> Option<T> {
        match &outcome {
            Ok(_) => self.is_failing = false,
            Err(error) => {
                let error = logging::causes(error);
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::warn!(error, "changes are not passed on to signaling servers");
                }
            }
        }
        outcome.ok()
    }
}
