//! Takes over a changed configuration while the program runs: the level of the log, secrets, and
//! the schedules of housekeeping.
//!
//! Either a value is in force afterwards, or the log says why not: a configuration that cannot be
//! used changes nothing, a URL that does not work leaves the one in use that does, and of everything
//! else that was changed it is said that it takes a restart.

use std::sync::Arc;

use tokio::{signal::unix::Signal, sync::watch};
use tokio_util::sync::CancellationToken;

use super::{schedules, validate};
use crate::{
    bus::Bus,
    config::{Config, ConfigError},
    health::{Component, Health},
    logging::{self, LogLevel},
    store::Database,
    systemd::Link,
    tasks::housekeeping::Schedules,
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
    pub(super) health: Arc<Health>,
    pub(super) systemd: Arc<Link>,
}

/// The parts that depend on the broker.
const OF_THE_BROKER: [Component; 3] =
    [Component::Consumer, Component::Publisher, Component::Listener];

impl Reload {
    /// Runs until `stop`, also in the middle of a change: what is taken over half ends with the
    /// process.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.reload() => {}
            }
        }
    }

    /// Waits until it is asked for, and reloads.
    async fn reload(&mut self) {
        // The stream of signals never ends.
        self.source.hangups.recv().await;
        self.systemd.reloading();
        let next = (self.source.read)().and_then(|next| {
            validate(&next)?;
            let level = self.source.level.set(&next.log.level);
            level.map_err(|problem| ConfigError::new("log.level", problem))?;
            Ok(next)
        });
        match next {
            Ok(next) => self.take_over(next).await,
            Err(error) => {
                tracing::error!(%error, "configuration invalid, reload skipped");
            }
        }
        self.systemd.reloaded();
    }

    async fn take_over(&mut self, next: Config) {
        for key in self.config.needs_restart(&next) {
            tracing::warn!(key, "setting changed, restart required");
        }
        self.config.log.level = next.log.level;
        self.config.housekeeping = next.housekeeping;
        let schedules = schedules(&self.config);
        self.schedules
            .send_if_modified(|current| std::mem::replace(current, schedules.clone()) != schedules);
        if next.database.url != self.config.database.url {
            match self.renew_database(next.database.url.expose()).await {
                Ok(()) => self.config.database.url = next.database.url,
                Err(error) => {
                    tracing::error!(error, "database.url does not work, keeping the previous URL");
                }
            }
        }
        if next.events.url != self.config.events.url {
            match self.renew_bus(next.events.url.expose()).await {
                Ok(()) => self.config.events.url = next.events.url,
                Err(error) => {
                    tracing::error!(error, "events.url does not work, keeping the previous URL");
                }
            }
        }
        tracing::info!("configuration reloaded");
    }

    /// A URL is tried while the old one works. When that does not, it is not worth to be kept.
    async fn renew_database(&self, url: &str) -> Result<(), String> {
        let kind = |url: &str| url.split(':').next().unwrap_or_default().to_owned();
        let old = kind(self.config.database.url.expose());
        if old == "sqlite" || old != kind(url) {
            return Err("another file or kind of database takes a restart".to_owned());
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

    /// The same.
    async fn renew_bus(&self, url: &str) -> Result<(), String> {
        if OF_THE_BROKER.iter().any(|part| self.health.is_up(*part)) {
            self.bus.try_url(url).await.map_err(|error| logging::causes(&error))?;
        }
        self.bus.use_url(url).map_err(|error| logging::causes(&error))
    }
}
