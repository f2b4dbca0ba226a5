//! Keeps the cache in step with the other processes.
//!
//! Every change that lobbyd makes is announced. The updates arrive from the bus and wake the
//! requests that wait for them. While the listener is disconnected the cache is revalidated each
//! second, and everything is invalidated when it connects again. `app` runs one [`CacheSync`]
//! beside each API.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::{RoomCache, Updates};
use crate::backoff::Backoff;
use crate::bus::{Bus, BusError, cloudevents};
use crate::health::{Component, Health};
use crate::logging;

/// How often the cache is revalidated while the listener is disconnected.
const DISCONNECTED_INTERVAL: Duration = Duration::from_secs(1);

/// How often it is revalidated otherwise: then only for what others write by SQL.
const CONNECTED_INTERVAL: Duration = Duration::from_secs(5);

/// Applies the changes of other processes to the cache.
pub struct CacheSync {
    cache: Arc<RoomCache>,
    bus: Arc<dyn Bus>,
    health: Arc<Health>,
    reports_database: bool,
}

impl CacheSync {
    pub fn new(cache: Arc<RoomCache>, bus: Arc<dyn Bus>, health: Arc<Health>) -> Self {
        Self { cache, bus, health, reports_database: false }
    }

    /// Also reports whether the database is available: for a process without the timer task, which
    /// does so otherwise. A component has one writer, so that its outage is logged exactly once.
    pub fn reporting_database(self) -> Self {
        Self { reports_database: true, ..self }
    }

    pub async fn run(self, stop: CancellationToken) {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = self.listen() => {}
            () = self.revalidate_regularly() => {}
        }
    }

    /// Listens over one connection after another.
    async fn listen(&self) {
        let mut backoff = Backoff::new(Backoff::TASKS);
        loop {
            let lost = match self.listen_once(&mut backoff).await {
                Ok(never) => match never {},
                Err(BusError::Reconnect) => continue,
                Err(lost) => logging::causes(&lost),
            };
            if self.health.set_down(Component::Listener, lost.as_str()) {
                tracing::warn!(
                    error = lost,
                    "update listener disconnected, polling the database instead"
                );
                // The last update that arrived may not be the last that was published.
                self.cache.invalidate();
            }
            sleep(backoff.next_wait()).await;
        }
    }

    async fn listen_once(&self, backoff: &mut Backoff) -> Result<Infallible, BusError> {
        let mut listener = self.bus.listen().await?;
        backoff.reset();
        if self.health.set_up(Component::Listener) {
            tracing::info!("update listener connected");
        }
        // Earlier updates were missed.
        self.cache.invalidate();
        loop {
            if let Some(update) = cloudevents::parse_room_updated(&listener.next().await?) {
                self.cache.apply_update(&update);
            }
        }
    }

    async fn revalidate_regularly(&self) {
        let mut tick = interval(DISCONNECTED_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut revalidated_at = Instant::now();
        loop {
            tick.tick().await;
            let is_connected = self.health.is_up(Component::Listener);
            if !is_connected || revalidated_at.elapsed() >= CONNECTED_INTERVAL {
                self.revalidate().await;
                revalidated_at = Instant::now();
            }
        }
    }

    async fn revalidate(&self) {
        let updates = if self.health.is_up(Component::Listener) {
            Updates::Received
        } else {
            Updates::Missed
        };
        let revalidated = self.cache.revalidate(updates).await;
        match revalidated.and_then(|()| self.cache.check_commits()) {
            Ok(()) => {
                if self.reports_database && self.health.set_up(Component::Database) {
                    tracing::info!("database available, API answers");
                }
            }
            Err(error) => {
                let problem = logging::causes(&error);
                if self.reports_database
                    && self.health.set_down(Component::Database, problem.as_str())
                {
                    tracing::warn!(error = problem, "database unavailable, API cannot answer");
                } else {
                    tracing::debug!(error = problem, "cached rooms could not be revalidated");
                }
            }
        }
    }
}
