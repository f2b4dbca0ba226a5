//! Takes over a changed configuration while the program runs: the level of the log, secrets, and
//! the schedules of housekeeping.
//!
//! Either a value is in force afterwards, or the log says why not: a configuration that cannot be
//! used changes nothing, a secret that does not work leaves the old one in use, and of everything
//! else that was changed it is said that it takes a restart.

use std::sync::Arc;

use tokio::{signal::unix::Signal, sync::watch};
use tokio_util::sync::CancellationToken;

use super::{schedules, validate};
use crate::{
    config::{Config, ConfigError},
    events::Bus,
    store::Database,
    systemd::Link,
    telemetry::{self, LogLevel},
    worker::housekeeping::Schedules,
};

/// Where a running program gets its changed configuration from.
pub struct Source {
    /// Each one asks for it.
    pub hangups: Signal,
    /// Reads all layers anew.
    pub read: Box<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>,
    /// The level of the log.
    pub level: LogLevel,
}

/// The loop that waits for changes, and the parts that can take one over.
pub(super) struct Reload {
    pub(super) source: Source,
    /// What is in force.
    pub(super) config: Config,
    pub(super) databases: Vec<Arc<dyn Database>>,
    pub(super) bus: Arc<dyn Bus>,
    pub(super) schedules: watch::Sender<Schedules>,
    pub(super) systemd: Arc<Link>,
}

impl Reload {
    /// Runs until `stop`. A change that has begun is finished.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                // The stream of signals never ends.
                _ = self.source.hangups.recv() => {}
            }
            self.systemd.reloading();
            match (self.source.read)().and_then(|next| validate(&next).map(|()| next)) {
                Ok(next) => self.take_over(next).await,
                Err(error) => {
                    tracing::error!(%error, "configuration cannot be used, all stays as it was");
                }
            }
            self.systemd.reloaded();
        }
    }

    async fn take_over(&mut self, mut next: Config) {
        if let Err(error) = self.source.level.set(&next.log.level) {
            tracing::error!(%error, "log.level cannot be used, it stays as it was");
        }
        if next.database.url != self.config.database.url && !self.renew_database(&next).await {
            next.database.url = self.config.database.url.clone();
        }
        if next.events.url != self.config.events.url && !self.renew_bus(&next).await {
            next.events.url = self.config.events.url.clone();
        }
        self.schedules.send_replace(schedules(&next));
        for key in self.config.needs_restart(&next) {
            tracing::warn!(key, "changed, but in force only after a restart");
        }
        self.config = next;
        tracing::info!("configuration was read anew");
    }

    /// Returns whether the new URL is in use.
    async fn renew_database(&self, next: &Config) -> bool {
        for database in &self.databases {
            if let Err(error) = database.renew(next.database.url.expose()).await {
                let error = telemetry::causes(&error);
                tracing::error!(error, "database.url does not work, the old one stays in use");
                return false;
            }
        }
        tracing::info!("database is reached by the new database.url from now on");
        true
    }

    /// Returns whether the new URL is in use.
    async fn renew_bus(&self, next: &Config) -> bool {
        match self.bus.renew(next.events.url.expose()).await {
            Ok(()) => {
                tracing::info!("broker is reached by the new events.url from now on");
                true
            }
            Err(error) => {
                let error = telemetry::causes(&error);
                tracing::error!(error, "events.url does not work, the old one stays in use");
                false
            }
        }
    }
}
