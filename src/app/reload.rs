//! Applies a changed configuration while the program runs: the log level, the two URLs, secrets, and
//! the schedules of housekeeping. A URL or secret in a file of its own is also read again while its
//! server does not work: Kubernetes renews a mounted secret without a signal.
//!
//! Afterwards a value is either in force, or the log says why not: an invalid configuration changes
//! nothing, a URL that does not work leaves the previous one in use, and any other changed value is
//! reported to need a restart.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::schedules;
use super::signaling::renew_secrets;
use super::talk::Talk;
use super::validate::validate;
use crate::bus::Bus;
use crate::config::{Config, ConfigError, SecretUrls, SignalingServer, TalkConfig};
use crate::health::{Component, Health};
use crate::logging;
use crate::logging::LogLevel;
use crate::nextcloud::SignalingClient;
use crate::store::Database;
use crate::systemd::SystemdNotifier;
use crate::tasks::housekeeping::Schedules;

/// How often the file of a URL is read again while its server does not work.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(5);

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
    pub(super) talk: Option<Talk>,
    pub(super) signaling: Vec<Arc<SignalingClient>>,
    pub(super) schedules: watch::Sender<Schedules>,
    pub(super) health: Arc<Health>,
    pub(super) systemd: Arc<SystemdNotifier>,
}

/// What a reload has left undone.
#[derive(Default)]
struct Outcome {
    /// Keys that do not work, or the error of the whole configuration.
    failed: Vec<String>,
    /// Keys that require a restart.
    restart: Vec<String>,
}

impl Outcome {
    /// Logs whether the URL of this key is used from now on, and returns it.
    fn add(&mut self, key: &'static str, changed: &Result<(), String>) -> bool {
        match changed {
            Ok(()) => tracing::info!(key, "setting taken over"),
            Err(error) => {
                tracing::error!(error, "{key} does not work, keeping the previous URL");
                self.failed.push(key.to_owned());
            }
        }
        changed.is_ok()
    }

    fn undone(&self) -> Option<String> {
        let failed = (!self.failed.is_empty())
            .then(|| format!("last reload failed: {}", self.failed.join(", ")));
        let restart = (!self.restart.is_empty())
            .then(|| format!("restart required for {}", self.restart.join(", ")));
        let undone: Vec<String> = failed.into_iter().chain(restart).collect();
        (!undone.is_empty()).then(|| undone.join("; "))
    }
}

/// The components that depend on the broker.
const BROKER_COMPONENTS: [Component; 3] =
    [Component::Consumer, Component::Publisher, Component::Listener];

impl Reload {
    /// Runs until `stop`, which may interrupt a change: a half-applied one ends with the process.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let reloads = async {
            loop {
                tokio::select! {
                    // The stream of signals never ends.
                    _ = self.source.hangups.recv() => self.reload().await,
                    () = sleep(RENEWAL_INTERVAL) => self.renew_urls().await,
                }
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
        let outcome = match next {
            Ok(next) => self.apply(next).await,
            Err(error) => {
                tracing::error!(%error, "configuration invalid, reload skipped");
                Outcome { failed: vec![error.to_string()], ..Outcome::default() }
            }
        };
        metrics::gauge!(crate::metrics::RELOAD_OK).set(i32::from(outcome.failed.is_empty()));
        self.systemd.reloaded(outcome.undone());
    }

    async fn apply(&mut self, next: Config) -> Outcome {
        self.config.signaling.take_secrets(&next.signaling);
        let restart = self.config.needs_restart(&next);
        for key in &restart {
            tracing::warn!(key, "setting changed, restart required");
        }
        let mut outcome = Outcome { restart, ..Outcome::default() };
        for key in self.config.reloaded(&next) {
            tracing::info!(key, "setting taken over");
        }
        self.config.log.level = next.log.level;
        self.config.housekeeping = next.housekeeping;
        let schedules = schedules(&self.config);
        self.schedules
            .send_if_modified(|current| std::mem::replace(current, schedules.clone()) != schedules);
        self.apply_database_url(next.database.url, &mut outcome).await;
        self.apply_events_url(next.events.url, &mut outcome).await;
        self.apply_talk(next.talk, &mut outcome).await;
        self.renew_signaling(&next.signaling.servers);
        for server in &self.signaling {
            server.try_secret_again();
        }
        match outcome.undone() {
            None => tracing::info!("configuration reloaded"),
            Some(undone) => tracing::warn!(undone, "configuration reloaded in part"),
        }
        outcome
    }

    /// Takes over a URL whose file has changed, if its server does not work. Anything else in the
    /// configuration may be half edited, and waits for a reload.
    async fn renew_urls(&mut self) {
        let is_database_up = self.health.is_up(Component::Database);
        let is_talk_up = self.talk.is_none() || self.health.is_up(Component::Talk);
        let is_signaling_up = self.signaling.is_empty() || self.health.is_up(Component::Signaling);
        if is_database_up && self.is_broker_up() && is_talk_up && is_signaling_up {
            return;
        }
        let Ok(next) = (self.source.read)() else { return };
        let (mut outcome, config) = (Outcome::default(), &self.config);
        let is_same = |old: &Option<PathBuf>, new: &Option<PathBuf>| old.is_some() && old == new;
        let database = is_same(&config.database.url_file, &next.database.url_file);
        let events = is_same(&config.events.url_file, &next.events.url_file);
        let mut talk = config.talk.clone();
        if is_same(&talk.secret_file, &next.talk.secret_file) {
            talk.secret = next.talk.secret;
        }
        if is_same(&talk.password_file, &next.talk.password_file) {
            talk.password = next.talk.password;
        }
        if is_same(&talk.database_url_file, &next.talk.database_url_file) {
            talk.database_url = next.talk.database_url;
        }
        if database && !is_database_up {
            self.apply_database_url(next.database.url, &mut outcome).await;
        }
        if events && !self.is_broker_up() {
            self.apply_events_url(next.events.url, &mut outcome).await;
        }
        if !is_talk_up {
            self.apply_talk(talk, &mut outcome).await;
        }
        if !is_signaling_up {
            let mut servers = next.signaling.servers;
            let current = &self.config.signaling.servers;
            servers.retain(|next| current.iter().any(|server| server.has_same_secret_file(next)));
            self.renew_signaling(&servers);
        }
    }

    /// Takes over changed secrets.
    fn renew_signaling(&mut self, servers: &[SignalingServer]) {
        for server in renew_secrets(&self.signaling, servers) {
            tracing::info!(key = "signaling.servers", server, "setting taken over");
        }
    }

    async fn apply_talk(&mut self, next: TalkConfig, outcome: &mut Outcome) {
        if let Some(talk) = &self.talk {
            for (key, changed) in talk.reload(&mut self.config.talk, next).await {
                outcome.add(key, &changed);
            }
        }
    }

    fn is_broker_up(&self) -> bool {
        BROKER_COMPONENTS.iter().any(|component| self.health.is_up(*component))
    }

    async fn apply_database_url(&mut self, url: SecretUrls, outcome: &mut Outcome) {
        if url != self.config.database.url {
            let changed = self.change_database(&url.expose()).await;
            if outcome.add("database.url", &changed) {
                self.config.database.url = url;
            }
        }
    }

    async fn apply_events_url(&mut self, url: SecretUrls, outcome: &mut Outcome) {
        if url != self.config.events.url {
            let changed = self.change_bus(&url.expose()).await;
            if outcome.add("events.url", &changed) {
                self.config.events.url = url;
            }
        }
    }

    /// While the old URL works, the new one is tested first, because a mistyped one would keep every
    /// room closed. If the old URL does not work either, the new one replaces it untested.
    async fn change_database(&self, urls: &[&str]) -> Result<(), String> {
        let kind = |urls: &[&str]| {
            let first = urls.first().and_then(|url| url.split(':').next());
            first.unwrap_or_default().to_owned()
        };
        let old = kind(&self.config.database.url.expose());
        if old == "sqlite" || old != kind(urls) {
            return Err("another file or kind of database needs a restart".to_owned());
        }
        if let Some(one) = self.databases.first()
            && self.health.is_up(Component::Database)
        {
            one.try_urls(urls).await.map_err(|error| logging::causes(&error))?;
        }
        for database in &self.databases {
            database.use_urls(urls).map_err(|error| logging::causes(&error))?;
        }
        Ok(())
    }

    async fn change_bus(&self, urls: &[&str]) -> Result<(), String> {
        if self.is_broker_up() {
            self.bus.try_urls(urls).await.map_err(|error| logging::causes(&error))?;
        }
        self.bus.use_urls(urls).map_err(|error| logging::causes(&error))
    }
}
