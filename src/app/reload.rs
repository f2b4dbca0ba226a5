//! Applies a changed configuration while the program runs: the log level, the two URLs, and the
//! schedules of housekeeping.
//!
//! Afterwards a value is either in force, or the log says why not: an invalid configuration changes
//! nothing, a URL that does not work leaves the previous one in use, and any other changed value is
//! reported to need a restart.

use std::sync::Arc;

use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::schedules;
use super::validate::validate;
use crate::bus::Bus;
use crate::config::{Config, ConfigError};
use crate::health::{Component, Health};
use crate::logging;
use crate::logging::LogLevel;
use crate::store::Database;
use crate::systemd::SystemdNotifier;
use crate::tasks::housekeeping::Schedules;

/// Where a running program gets its changed configuration from.
pub struct ReloadSource {
    /// Each signal requests a reload.
    pub hangups: Signal,
    /// Reads all layers of the configuration.
    pub read: Box<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>,
    pub level: LogLevel,
}

/// Waits for reload requests, and holds the parts that can apply a change.
pub(super) struct Reload {
    pub(super) source: ReloadSource,
    /// The configuration in force.
    pub(super) config: Config,
    pub(super) databases: Vec<Arc<dyn Database>>,
    pub(super) bus: Arc<dyn Bus>,
    pub(super) schedules: watch::Sender<Schedules>,
    pub(super) health: Arc<Health>,
    pub(super) systemd: Arc<SystemdNotifier>,
}

/// The components that depend on the broker.
const BROKER_COMPONENTS: [Component; 3] =
    [Component::Consumer, Component::Publisher, Component::Listener];

impl Reload {
    /// Runs until `stop`, which may interrupt a change: a half-applied one ends with the process.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let reloads = async {
            // The stream of signals never ends.
            while self.source.hangups.recv().await.is_some() {
                self.reload().await;
            }
        };
        stop.run_until_cancelled(reloads).await;
    }

    async fn reload(&mut self) {
        self.systemd.reloading();
        let next = (self.source.read)().and_then(|next| {
            validate(&next)?;
            let level = self.source.level.set(&next.log.level);
            level.map_err(|problem| ConfigError::new("log.level", problem))?;
            Ok(next)
        });
        match next {
            Ok(next) => self.apply(next).await,
            Err(error) => {
                tracing::error!(%error, "configuration invalid, reload skipped");
            }
        }
        self.systemd.reloaded();
    }

    async fn apply(&mut self, next: Config) {
        for key in self.config.needs_restart(&next) {
            tracing::warn!(key, "setting changed, restart required");
        }
        self.config.log.level = next.log.level;
        self.config.housekeeping = next.housekeeping;
        let schedules = schedules(&self.config);
        self.schedules
            .send_if_modified(|current| std::mem::replace(current, schedules.clone()) != schedules);
        if next.database.url != self.config.database.url {
            match self.change_database(next.database.url.expose()).await {
                Ok(()) => self.config.database.url = next.database.url,
                Err(error) => {
                    tracing::error!(error, "database.url does not work, keeping the previous URL");
                }
            }
        }
        if next.events.url != self.config.events.url {
            match self.change_bus(next.events.url.expose()).await {
                Ok(()) => self.config.events.url = next.events.url,
                Err(error) => {
                    tracing::error!(error, "events.url does not work, keeping the previous URL");
                }
            }
        }
        tracing::info!("configuration reloaded");
    }

    /// While the old URL works, the new one is tested first, because a mistyped one would keep every
    /// room closed. If the old URL does not work either, the new one replaces it untested.
    async fn change_database(&self, url: &str) -> Result<(), String> {
        let kind = |url: &str| url.split(':').next().unwrap_or_default().to_owned();
        let old = kind(self.config.database.url.expose());
        if old == "sqlite" || old != kind(url) {
            return Err("another file or kind of database needs a restart".to_owned());
        }
        if let Some(one) = self.databases.first()
            && self.health.is_up(Component::Database)
        {
            one.try_url(url).await.map_err(|error| logging::causes(&error))?;
        }
        for database in &self.databases {
            database.use_url(url).map_err(|error| logging::causes(&error))?;
        }
        Ok(())
    }

    async fn change_bus(&self, url: &str) -> Result<(), String> {
        if BROKER_COMPONENTS.iter().any(|component| self.health.is_up(*component)) {
            self.bus.try_url(url).await.map_err(|error| logging::causes(&error))?;
        }
        self.bus.use_url(url).map_err(|error| logging::causes(&error))
    }
}
