//! The composition root: makes the parts, connects them, and owns the order of starting and
//! stopping.
//!
//! [`App::build`] does no I/O and finds every error of the configuration. [`App::run`] first
//! answers probes, then waits for the database, then starts the loops. At the end the intake stops
//! taking in, the timer loop finishes its transaction, the relay flushes the outbox, and at last
//! the connections are closed.

mod reload;

use std::{sync::Arc, time::Duration};

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use self::reload::Reload;
pub use self::reload::Source;
use crate::{
    auth::{Accounts, Passwords},
    backoff::Backoff,
    bus::{self, Bus},
    cache::CacheSync,
    clock::DatabaseClock,
    config::{Config, ConfigError},
    health::{Component, Health},
    http::{
        self, Limits,
        api::{ApiDependencies, Proxies},
    },
    logging,
    rooms::{Service, Sip},
    store::{self, Database, StoreError},
    supervisor::Supervisor,
    systemd::Link,
    tasks::{
        LobbyConsumer, OutboxRelay, RelayHandle, TimerTask,
        housekeeping::{Housekeeping, Retention, Schedules, check_schedule},
    },
    traces::{Exporter, Traces},
};

/// After this time without progress the timer loop is stuck, beyond the three uses of the database
/// that a step may take.
const STUCK_MARGIN: Duration = Duration::from_secs(30);

/// A connection has to be made within it.
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(100);

/// Events are not kept for longer: 100 years.
const OLDEST: Duration = Duration::from_hours(100 * 366 * 24);

/// The program, put together and not yet started.
pub struct App {
    config: Config,
    /// Of the loops.
    database: Arc<dyn Database>,
    /// Of the API: connections of its own, so that its clients hold up no loop.
    api_database: Arc<dyn Database>,
    bus: Arc<dyn Bus>,
    proxies: Proxies,
    exporter: Option<Exporter>,
    reloads: Option<Source>,
}

impl App {
    /// Puts the program together. Nothing is connected yet.
    ///
    /// # Errors
    ///
    /// A value of the configuration that its part cannot use.
    pub fn build(config: Config) -> Result<Self, ConfigError> {
        let bus = open_bus(&config)?;
        Self::with_bus(config, bus)
    }

    /// The same, with a bus that somebody else listens to as well.
    ///
    /// # Errors
    ///
    /// A value of the configuration that its part cannot use.
    pub fn with_bus(config: Config, bus: Arc<dyn Bus>) -> Result<Self, ConfigError> {
        let (proxies, exporter) = validate(&config)?;
        let (database, api_database) = (open_database(&config)?, open_database(&config)?);
        Ok(Self { config, database, api_database, bus, proxies, exporter, reloads: None })
    }

    /// The same, which takes over a changed configuration whenever it is asked to.
    pub fn reloading(self, source: Source) -> Self {
        Self { reloads: Some(source), ..self }
    }

    pub fn database(&self) -> Arc<dyn Database> {
        Arc::clone(&self.database)
    }

    /// Does its work until `stop`, and answers probes on `ops` meanwhile.
    ///
    /// # Errors
    ///
    /// A loop died, or the database holds migrations that cannot be applied.
    pub async fn run(
        mut self,
        work: Work,
        ops: TcpListener,
        metrics: PrometheusHandle,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let stuck_after = STUCK_MARGIN + 3 * self.config.database.timeout;
        let health = Arc::new(Health::new(work.parts(), stuck_after));
        let mut loops = Supervisor::new(stop.clone());
        let ops = http::ops::serve(ops, Arc::clone(&health), metrics.clone(), stop.clone());
        loops.start_fallible("ops listener", ops);
        loops.start("metrics upkeep", crate::metrics::upkeep(metrics, stop.clone()));
        let systemd = Arc::new(Link::default());
        loops.start("systemd link", Arc::clone(&systemd).run(Arc::clone(&health), stop.clone()));
        let (reschedule, scheduled) = watch::channel(schedules(&self.config));
        if let Some(source) = self.reloads.take() {
            let reload = Reload {
                source,
                config: self.config.clone(),
                databases: vec![self.database(), Arc::clone(&self.api_database)],
                bus: Arc::clone(&self.bus),
                schedules: reschedule,
                health: Arc::clone(&health),
                systemd,
            };
            loops.start("reload", reload.run(stop.clone()));
        }
        let clock = tokio::select! {
            // In this order: what ends because of the stop is not taken for dead.
            biased;
            clock = self.await_database(&health, &stop) => clock?,
            error = loops.death() => return Err(error),
        };
        if let Some(clock) = clock {
            let clock = Arc::new(clock);
            let traces = self.exporter.take().map_or_else(Traces::default, |exporter| {
                let (traces, spans) = Traces::new(Arc::clone(&clock));
                loops.start("exporter of traces", exporter.run(spans, stop.clone()));
                traces
            });
            Loops { app: &self, supervisor: &mut loops, health, clock, traces, scheduled, stop }
                .start(work);
        }
        let verdict = loops.run(self.config.shutdown.grace).await;
        tokio::join!(self.bus.close(), self.database.close(), self.api_database.close());
        verdict
    }

    /// Waits for the database and brings it up to date. `None` if the process stops first.
    async fn await_database(
        &self,
        health: &Health,
        stop: &CancellationToken,
    ) -> anyhow::Result<Option<DatabaseClock>> {
        let mut backoff = Backoff::new(Backoff::LOOPS);
        loop {
            let opened = tokio::select! {
                () = stop.cancelled() => return Ok(None),
                opened = self.open_database() => opened,
            };
            match opened {
                Ok(clock) => return Ok(Some(clock)),
                Err(error @ StoreError::Migration(_)) => return Err(error.into()),
                Err(error) => {
                    let problem = logging::causes(&error);
                    if health.set_down(Component::Database, problem.as_str()) {
                        tracing::warn!(error = problem, "waiting for the database");
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(None),
                () = sleep(backoff.next_wait()) => {}
            }
        }
    }

    async fn open_database(&self) -> store::Result<DatabaseClock> {
        if self.config.database.migrate {
            self.database.migrate().await?;
        }
        self.database.prepare_all().await?;
        self.database.now().await.map(DatabaseClock::new)
    }
}

/// What a process does.
#[derive(Debug)]
pub enum Work {
    /// Takes in events, opens rooms, publishes updates.
    Worker,
    /// Serves the HTTP API on this listener.
    Api(TcpListener),
    /// Both.
    Both(TcpListener),
}

impl Work {
    /// What it depends on.
    fn parts(&self) -> &'static [Component] {
        match self {
            Self::Worker => &[Component::Database, Component::Consumer, Component::Publisher],
            Self::Api(_) => &[Component::Database, Component::Publisher, Component::Listener],
            Self::Both(_) => &[
                Component::Database,
                Component::Consumer,
                Component::Publisher,
                Component::Listener,
            ],
        }
    }
}

/// The loops of a process that has reached its database, and what they share.
struct Loops<'a> {
    app: &'a App,
    supervisor: &'a mut Supervisor,
    health: Arc<Health>,
    clock: Arc<DatabaseClock>,
    /// The exporter ends when all loops that have it are at their end.
    traces: Traces,
    scheduled: watch::Receiver<Schedules>,
    stop: CancellationToken,
}

impl Loops<'_> {
    fn start(mut self, work: Work) {
        let left = Arc::new(Notify::new());
        let (relay, handoff) = OutboxRelay::new(
            self.app.database(),
            Arc::clone(&self.app.bus),
            Arc::clone(&self.clock),
            Arc::clone(&self.health),
            self.app.config.timers.batch.get(),
            Arc::clone(&left),
            self.traces.clone(),
        );
        match work {
            Work::Worker => self.start_worker(handoff),
            Work::Api(listener) => self.start_api(listener, handoff, left),
            Work::Both(listener) => {
                self.start_worker(handoff.clone());
                self.start_api(listener, handoff, left);
            }
        }
        self.supervisor.start("relay", relay.run(self.stop));
    }

    fn start_worker(&mut self, handoff: RelayHandle) {
        let config = &self.app.config;
        let armed = Arc::new(Notify::new());
        let intake = LobbyConsumer::new(
            self.app.database(),
            Arc::clone(&self.app.bus),
            Arc::clone(&self.clock),
            Arc::clone(&self.health),
            Arc::clone(&armed),
            self.traces.clone(),
            config.events.unknown_room_grace,
        );
        let timers = TimerTask::new(
            self.app.database(),
            Arc::clone(&self.clock),
            Arc::clone(&self.health),
            armed,
            handoff,
            self.traces.clone(),
            config.timers.batch.get(),
        );
        let retention = Retention {
            history: config.outbox.history,
            dead_after: config.outbox.dead_after,
            session: config.http.session_timeout,
        };
        let housekeeping =
            Housekeeping::new(self.app.database(), Arc::clone(&self.clock), retention);
        let scheduled = self.scheduled.clone();
        self.supervisor.start("timer loop", timers.run(self.stop.clone()));
        self.supervisor.start("intake", intake.run(self.stop.clone()));
        self.supervisor
            .start_fallible("housekeeping", housekeeping.run(scheduled, self.stop.clone()));
    }

    /// The API holds the handoff: the end of all of them tells the relay that nothing more comes.
    fn start_api(&mut self, listener: TcpListener, handoff: RelayHandle, left: Arc<Notify>) {
        let (http, sip) = (&self.app.config.http, &self.app.config.sip);
        let database = Arc::clone(&self.app.api_database);
        let passwords = Arc::new(Passwords::new());
        let accounts = Accounts::new(Arc::<dyn Database>::clone(&database), Arc::clone(&passwords));
        let sip = Sip {
            configured: sip.is_configured(),
            dialin_info: sip.dialin_info.clone().unwrap_or_default(),
            groups: sip.groups.clone(),
        };
        let clock = Arc::clone(&self.clock);
        let service = Arc::new(Service::new(
            Arc::clone(&database),
            clock,
            passwords,
            sip,
            left,
            self.stop.clone(),
        ));
        let bus = Arc::clone(&self.app.bus);
        let updates = CacheSync::new(Arc::clone(&service), bus, Arc::clone(&self.health));
        self.supervisor.start("listener for updates", updates.run(self.stop.clone()));
        let limits = Limits {
            connections: http.max_connections.get(),
            per_address: http.max_connections_per_address.get(),
            trusted: http.trusted_proxies.clone(),
        };
        let proxies = self.app.proxies.clone();
        let front = ApiDependencies { service, accounts: Arc::new(accounts), proxies };
        let stop = self.stop.clone();
        self.supervisor.start_fallible("HTTP API", async move {
            let served = http::api::serve(listener, front, limits, stop).await;
            drop(handoff);
            served
        });
    }
}

/// Refuses values that only the parts can judge, before any of them starts. Returns those that were
/// made of some on the way.
fn validate(config: &Config) -> Result<(Proxies, Option<Exporter>), ConfigError> {
    check_durations(config)?;
    for (key, schedule) in [
        ("housekeeping.prune", &config.housekeeping.prune),
        ("housekeeping.gauges", &config.housekeeping.gauges),
        ("housekeeping.summary", &config.housekeeping.summary),
        ("housekeeping.sessions", &config.housekeeping.sessions),
    ] {
        check_schedule(schedule).map_err(|problem| ConfigError::new(key, problem))?;
    }
    let proxies = Proxies::new(&config.http.trusted_proxies, config.http.user_header.as_deref())
        .map_err(|problem| ConfigError::new("http.user_header", problem))?;
    let exporter = config.traces.endpoint.as_deref().map(Exporter::new).transpose();
    let exporter = exporter.map_err(|problem| ConfigError::new("traces.endpoint", problem))?;
    Ok((proxies, exporter))
}

fn schedules(config: &Config) -> Schedules {
    Schedules {
        prune: config.housekeeping.prune.clone(),
        gauges: config.housekeeping.gauges.clone(),
        summary: config.housekeeping.summary.clone(),
        sessions: config.housekeeping.sessions.clone(),
    }
}

/// Refuses durations that cannot be meant: a use of the database that no database can keep, and a
/// look back beyond the calendar.
fn check_durations(config: &Config) -> Result<(), ConfigError> {
    if config.database.timeout < SHORTEST_TIMEOUT {
        let problem = format!("at least {SHORTEST_TIMEOUT:?}");
        return Err(ConfigError::new("database.timeout", problem));
    }
    for (key, age) in [
        ("outbox.history", config.outbox.history),
        ("outbox.dead_after", config.outbox.dead_after),
        ("http.session_timeout", config.http.session_timeout),
    ] {
        if age > OLDEST {
            return Err(ConfigError::new(key, "at most 100 years"));
        }
    }
    Ok(())
}

/// The database that the configuration names.
///
/// # Errors
///
/// `database.url` cannot be used.
pub fn open_database(config: &Config) -> Result<Arc<dyn Database>, ConfigError> {
    let options = store::Options {
        max_connections: config.database.max_connections.get(),
        timeout: config.database.timeout,
    };
    store::connect(config.database.url.expose(), options)
        .map_err(|error| ConfigError::new("database.url", error))
}

/// The bus that the configuration names.
///
/// # Errors
///
/// `events.url` cannot be used.
pub fn open_bus(config: &Config) -> Result<Arc<dyn Bus>, ConfigError> {
    let options = bus::Options {
        exchange: config.events.exchange.clone(),
        queue: config.events.queue.clone(),
        dead_letter_queue: config.events.dead_letter_queue.clone(),
        declare: config.events.declare,
        prefetch: config.events.prefetch.get(),
    };
    bus::connect(config.events.url.expose(), options)
        .map_err(|error| ConfigError::new("events.url", error))
}
