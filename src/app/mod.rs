//! The composition root: creates the parts, connects them, and owns the order of start and stop.
//!
//! [`App::build`] does no I/O and finds the errors of the configuration. [`App::run`] first answers
//! probes, then waits for the database, then starts the tasks of its [`Role`]. At the stop the consumer and the API stop taking
//! input, the timer task finishes its transaction, the relay flushes the outbox, and last the
//! connections are closed. `cli` is the only caller.

mod api_runtime;
mod gauges;
mod outlook;
mod probe;
mod reload;
mod role;
mod signaling;
mod talk;
mod tasks;
mod validate;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::api_runtime::ApiRuntime;
use self::gauges::Gauges;
use self::outlook::ReadOutlook;
pub use self::probe::try_servers;
use self::reload::Reload;
pub use self::reload::ReloadSource;
pub use self::role::Role;
pub use self::signaling::check_signaling;
use self::talk::Talk;
pub use self::talk::check_talk;
use self::tasks::{Api, TaskSet};
use self::validate::{Validated, validate};
use crate::auth::ClientSecrets;
use crate::backoff::Backoff;
use crate::bus::Bus;
use crate::clock::DatabaseClock;
use crate::config::{Config, ConfigError};
use crate::health::{Component, Health};
use crate::http::JoinUrl;
use crate::http::api::{Hosts, Origins, Proxies};
use crate::nextcloud::SignalingClient;
use crate::relay::RelayHandle;
use crate::store::{Database, PoolGroup, StoreError};
use crate::supervisor::Supervisor;
use crate::systemd::SystemdNotifier;
use crate::tasks::housekeeping::Schedules;
use crate::tasks::{TalkContext, TalkTask, TaskContext, WriteCheck};
use crate::traces::{Exporter, Traces};
use crate::{bus, http, logging, relay, store};

/// After this time without progress the timer task counts as stuck, beyond the three uses of the
/// database that one of its steps may take.
const STUCK_MARGIN: Duration = Duration::from_secs(30);

/// How often the log repeats that the start waits for the database.
const REMINDER: Duration = Duration::from_mins(1);

/// Most connections of a pool, which has a place for each from the start.
const MAX_CONNECTIONS: u32 = 1000;

/// Bound of the count of what is left at the end.
const COUNT_TIMEOUT: Duration = Duration::from_millis(500);

/// The program, built and not yet started.
pub struct App {
    role: Role,
    config: Config,
    /// The pool of the tasks.
    database: Arc<dyn Database>,
    /// The pool of the API, so that its clients delay no task.
    api_database: Arc<dyn Database>,
    bus: Arc<dyn Bus>,
    /// The Talk whose rooms the role opens.
    talk: Option<Talk>,
    /// The signaling servers that the role tells of rooms.
    signaling: Vec<Arc<SignalingClient>>,
    proxies: Proxies,
    hosts: Hosts,
    origins: Origins,
    join_url: Option<JoinUrl>,
    exporter: Option<Exporter>,
    reloads: Option<ReloadSource>,
}

impl App {
    /// Builds the program. Nothing is connected yet.
    pub fn build(config: Config, role: Role) -> Result<Self, ConfigError> {
        let bus = open_bus(&config)?;
        Self::with_bus(config, role, bus)
    }

    /// Builds the program on a bus that the caller uses as well.
    pub fn with_bus(config: Config, role: Role, bus: Arc<dyn Bus>) -> Result<Self, ConfigError> {
        let Validated { proxies, hosts, origins, join_url, exporter, mut signaling } =
            validate(&config)?;
        validate::check_role(&config, role)?;
        let talk = if role.opens_talk() { Talk::open(&config.talk)? } else { None };
        if !role.works() {
            signaling.clear();
        }
        let group = PoolGroup::default();
        let urls = config.database.url.expose();
        let [tasks, api] = role.applications();
        let database = open_pool(&config, &urls, tasks, group.clone())?;
        let api_database = open_pool(&config, &urls, api, group)?;
        Ok(Self {
            role,
            config,
            database,
            api_database,
            bus,
            talk,
            signaling,
            proxies,
            hosts,
            origins,
            join_url,
            exporter,
            reloads: None,
        })
    }

    /// Applies a changed configuration whenever `source` asks for it.
    pub fn reloading(self, source: ReloadSource) -> Self {
        Self { reloads: Some(source), ..self }
    }

    pub fn database(&self) -> Arc<dyn Database> {
        Arc::clone(&self.database)
    }

    /// Runs until `stop`. Fails if a task fails, or if the migrations cannot be applied.
    pub async fn run(
        mut self,
        metrics: PrometheusHandle,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let role = self.role;
        let (ops, http) = self.listen(role).await?;
        let api_runtime = ApiRuntime::start(role).context("the threads of the API")?;
        let stuck_after = STUCK_MARGIN + 3 * self.config.database.timeout;
        let components = role.components(self.talk.is_some(), !self.signaling.is_empty());
        let health = Arc::new(Health::new(&components, stuck_after, self.config.ops.overdue_after));
        let mut supervisor = Supervisor::new(stop.clone());
        let gauges = Arc::new(Gauges::new(Arc::clone(&self.api_database), &api_runtime));
        let outlook = Arc::new(ReadOutlook::new(&self.api_database, &self.bus));
        let ops_health = Arc::clone(&health);
        let ops = http::ops::serve(ops, ops_health, gauges, outlook, metrics.clone(), stop.clone());
        supervisor.spawn("ops listener", ops);
        supervisor.spawn("metrics upkeep", crate::metrics::upkeep(metrics, stop.clone()));
        let systemd = Arc::new(SystemdNotifier::default());
        let notifier = Arc::clone(&systemd).run(Arc::clone(&health), stop.clone());
        supervisor.spawn("systemd notifier", notifier);
        let (reschedule, schedules) = watch::channel(schedules(&self.config));
        if let Some(source) = self.reloads.take() {
            let reload = Reload {
                source,
                config: self.config.clone(),
                databases: vec![self.database(), Arc::clone(&self.api_database)],
                bus: Arc::clone(&self.bus),
                talk: self.talk.clone(),
                signaling: self.signaling.clone(),
                schedules: reschedule,
                health: Arc::clone(&health),
                systemd,
            };
            supervisor.spawn("reload", reload.run(stop.clone()));
        }
        let (relay, queue) = relay::channel();
        self.start_talk(&mut supervisor, &health, &relay, &stop);
        let prepared = tokio::select! {
            // In this order: a task that ends because of the stop has not failed.
            biased;
            () = stop.cancelled() => None,
            prepared = self.await_database(role, &health) => Some(prepared?),
            error = supervisor.next_failure() => return Err(error),
        };
        if let Some(Prepared { clock, clients }) = prepared {
            let check = WriteCheck::new(Arc::clone(&self.api_database), Arc::clone(&health));
            supervisor.spawn("write check", check.run(stop.clone()));
            let clock = Arc::new(clock);
            let traces = self.exporter.take().map_or_else(Traces::default, |exporter| {
                let (traces, spans) = Traces::new(Arc::clone(&clock));
                supervisor.spawn("trace exporter", exporter.run(spans, stop.clone()));
                traces
            });
            let (database, bus) = (self.database(), Arc::clone(&self.bus));
            let ctx = TaskContext { database, bus, clock, health, traces };
            let tasks = TaskSet { app: &self, supervisor: &mut supervisor, ctx, schedules, stop };
            let api = http.zip(clients).map(|(listener, clients)| Api {
                listener,
                runtime: api_runtime.handle(),
                clients,
            });
            tasks.start(role, api, relay, queue);
        }
        let outcome = supervisor.run(self.config.shutdown.grace).await;
        self.log_end().await;
        tokio::join!(self.bus.close(), self.database.close(), self.api_database.close());
        outcome
    }

    /// Starts the task that has a Talk open its rooms, which does not wait for lobbyd's own database.
    fn start_talk(
        &self,
        supervisor: &mut Supervisor,
        health: &Arc<Health>,
        relay: &RelayHandle,
        stop: &CancellationToken,
    ) {
        let Some(Talk { rooms, client }) = self.talk.clone() else { return };
        let (database, health) = (self.database(), Arc::clone(health));
        let ctx = TalkContext { rooms, client, database, relay: relay.clone(), health };
        let task = TalkTask::new(ctx, self.config.talk.concurrency);
        supervisor.spawn("Talk task", task.run(stop.clone()));
    }

    /// Opens the ops listener, and that of the API if the role serves it.
    async fn listen(&self, role: Role) -> anyhow::Result<(TcpListener, Option<TcpListener>)> {
        let config = &self.config;
        let http =
            if role.serves() { Some(bind("http.listen", config.http.listen).await?) } else { None };
        let ops = bind("ops.listen", config.ops.listen).await?;
        let (version, kinds) = (env!("CARGO_PKG_VERSION"), config.kinds());
        metrics::gauge!(
            crate::metrics::BUILD,
            "version" => version, "database" => kinds.database, "events" => kinds.events
        )
        .set(1);
        tracing::info!(
            version,
            database = config.database.url.redacted(),
            events = config.events.url.redacted(),
            ops = %ops.local_addr()?,
            "lobbyd starting"
        );
        if let Some(http) = &http {
            tracing::info!(http = %http.local_addr()?, "HTTP API listening");
        }
        Ok((ops, http))
    }

    /// Logs the end, and how many events are left without a publisher confirm.
    async fn log_end(&self) {
        if let Ok(Ok(backlog)) = timeout(COUNT_TIMEOUT, self.database.backlog()).await {
            tracing::info!(outbox.pending = backlog.outbox_pending, "stopped");
        } else {
            tracing::info!("stopped, the outbox could not be counted");
        }
    }

    /// Waits for the database and applies the migrations.
    async fn await_database(&self, role: Role, health: &Health) -> anyhow::Result<Prepared> {
        let mut backoff = Backoff::new(Backoff::TASKS);
        let mut reminded_at = Instant::now();
        loop {
            match self.prepare_database(role).await {
                Ok(prepared) => return Ok(prepared),
                Err(error @ StoreError::Migration(_)) => return Err(error.into()),
                Err(StoreError::Unsuitable(problem)) => {
                    return Err(ConfigError::new("database.url", problem).into());
                }
                Err(error) => {
                    let problem = logging::causes(&error);
                    let is_news = health.set_down(Component::Database, problem.as_str());
                    let is_reminder = reminded_at.elapsed() >= REMINDER;
                    // A refused login has a reminder of its own.
                    if is_news || is_reminder && !matches!(error, StoreError::LoginRefused(_)) {
                        reminded_at = Instant::now();
                        tracing::warn!(error = problem, "waiting for the database");
                    }
                }
            }
            sleep(backoff.next_wait()).await;
        }
    }

    async fn prepare_database(&self, role: Role) -> store::Result<Prepared> {
        if self.config.database.migrate {
            self.database.migrate().await?;
        }
        self.database.prepare_all().await?;
        self.database.check_writable().await?;
        let mut clients = None;
        if role.serves() {
            let key = self.database.client_key(&ClientSecrets::random_key()).await?;
            clients = Some(ClientSecrets::new(&key));
        }
        let now = self.database.now().await?;
        // Before any room changes, so that no change is missed.
        let servers: Vec<&str> = self.signaling.iter().map(|server| server.url()).collect();
        self.database.see_signaling_servers(&servers, now).await?;
        Ok(Prepared { clock: DatabaseClock::new(now), clients })
    }
}

/// What is read of the database before the tasks start.
struct Prepared {
    clock: DatabaseClock,
    /// Only the API needs them.
    clients: Option<ClientSecrets>,
}

async fn bind(key: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{key}: cannot listen on {address}"))
}

fn schedules(config: &Config) -> Schedules {
    Schedules {
        prune: config.housekeeping.prune.clone(),
        summary: config.housekeeping.summary.clone(),
        sessions: config.housekeeping.sessions.clone(),
    }
}

/// Opens a database that exists, for a command of this name: SQLite does not create the file.
pub fn open_existing_database(
    config: &Config,
    command: &'static str,
) -> Result<Arc<dyn Database>, ConfigError> {
    let urls = existing(config);
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    open_pool(config, &urls, command, PoolGroup::default())
}

/// Opens a database for a command of this name. A SQLite file that root creates belongs to the owner
/// of its folder, so that the service can use it.
pub fn open_database(config: &Config, command: &'static str) -> anyhow::Result<Arc<dyn Database>> {
    let urls = config.database.url.expose();
    let database = open_pool(config, &urls, command, PoolGroup::default())?;
    for url in urls {
        store::create_file_for_owner(url).context("file of the database")?;
    }
    Ok(database)
}

/// The URLs with which SQLite does not create the file.
fn existing(config: &Config) -> Vec<String> {
    let urls = config.database.url.expose();
    urls.into_iter().map(|url| url.replace("mode=rwc", "mode=rw")).collect()
}

fn open_pool(
    config: &Config,
    urls: &[&str],
    application: &'static str,
    group: PoolGroup,
) -> Result<Arc<dyn Database>, ConfigError> {
    let max_connections = config.database.max_connections.get();
    if max_connections > MAX_CONNECTIONS {
        let problem = format!("at most {MAX_CONNECTIONS}");
        return Err(ConfigError::new("database.max_connections", problem));
    }
    let options = store::PoolOptions {
        max_connections,
        timeout: config.database.timeout,
        application,
        group,
    };
    store::connect(urls, options).map_err(|error| ConfigError::new("database.url", error))
}

pub fn open_bus(config: &Config) -> Result<Arc<dyn Bus>, ConfigError> {
    let options = bus::BusOptions {
        exchange: config.events.exchange.clone(),
        queue: config.events.queue.clone(),
        dead_letter_queue: config.events.dead_letter_queue.clone(),
        retry_queue: config.events.retry_queue.clone(),
        updates_exchange: config.events.updates_exchange.clone(),
        required_queues: config.events.required_queues.clone(),
        declare: config.events.declare,
        prefetch: config.events.prefetch.get(),
    };
    bus::connect(&config.events.url.expose(), options)
        .map_err(|error| ConfigError::new("events.url", error))
}
