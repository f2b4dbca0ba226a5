//! The composition root: makes the parts, connects them, and owns the order of starting and
//! stopping.
//!
//! [`App::build`] does no I/O and finds every error of the configuration. [`App::run_worker`] first
//! answers probes, then waits for the database, then starts the loops. At the end the intake stops
//! taking in, the timer loop finishes its transaction, the relay flushes the outbox, and at last
//! the connections are closed.

use std::{sync::Arc, time::Duration};

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{net::TcpListener, sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::Backoff,
    clock::DatabaseClock,
    config::{Config, ConfigError},
    events::{self, Bus},
    health::{Health, Part},
    http,
    shutdown::Supervisor,
    store::{self, Database, Store, StoreError},
    systemd, telemetry,
    worker::{
        Intake, Relay, TimerLoop,
        housekeeping::{Housekeeping, Retention, Schedules, check_schedule},
    },
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
    database: Arc<dyn Database>,
    bus: Arc<dyn Bus>,
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
        let database = open_database(&config)?;
        check_durations(&config)?;
        for (key, schedule) in [
            ("housekeeping.prune", &config.housekeeping.prune),
            ("housekeeping.gauges", &config.housekeeping.gauges),
            ("housekeeping.summary", &config.housekeeping.summary),
        ] {
            check_schedule(schedule).map_err(|problem| ConfigError::new(key, problem))?;
        }
        Ok(Self { config, database, bus })
    }

    /// Rooms and outbox.
    #[must_use]
    pub fn store(&self) -> Arc<dyn Store> {
        Arc::<dyn Database>::clone(&self.database)
    }

    /// Runs the worker until `stop`, answering probes on `ops`.
    ///
    /// # Errors
    ///
    /// A loop died, or the database holds migrations that cannot be applied.
    pub async fn run_worker(
        self,
        ops: TcpListener,
        metrics: PrometheusHandle,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let health = Arc::new(Health::new(STUCK_MARGIN + 3 * self.config.database.timeout));
        let mut loops = Supervisor::new(stop.clone());
        let ops = http::ops::serve(ops, Arc::clone(&health), metrics.clone(), stop.clone());
        loops.start_fallible("ops listener", ops);
        loops.start("metrics upkeep", telemetry::upkeep(metrics, stop.clone()));
        loops.start("systemd link", systemd::run(Arc::clone(&health), stop.clone()));
        let clock = tokio::select! {
            // In this order: what ends because of the stop is not taken for dead.
            biased;
            clock = self.await_database(&health, &stop) => clock?,
            error = loops.death() => return Err(error),
        };
        if let Some(clock) = clock {
            self.start_loops(&mut loops, &health, &Arc::new(clock), &stop);
        }
        let verdict = loops.run(self.config.shutdown.grace).await;
        tokio::join!(self.bus.close(), self.database.close());
        verdict
    }

    fn start_loops(
        &self,
        loops: &mut Supervisor,
        health: &Arc<Health>,
        clock: &Arc<DatabaseClock>,
        stop: &CancellationToken,
    ) {
        let config = &self.config;
        let batch = config.timers.batch.get();
        let armed = Arc::new(Notify::new());
        let intake = Intake::new(
            self.store(),
            Arc::clone(&self.bus),
            Arc::clone(clock),
            Arc::clone(health),
            Arc::clone(&armed),
            config.events.unknown_room_grace,
        );
        let (relay, handoff) = Relay::new(
            self.store(),
            Arc::clone(&self.bus),
            Arc::clone(clock),
            Arc::clone(health),
            batch,
        );
        let timers = TimerLoop::new(
            self.store(),
            Arc::clone(clock),
            Arc::clone(health),
            armed,
            handoff,
            batch,
        );
        let retention =
            Retention { history: config.outbox.history, dead_after: config.outbox.dead_after };
        let housekeeping = Housekeeping::new(self.store(), Arc::clone(clock), retention);
        let schedules = Schedules {
            prune: config.housekeeping.prune.clone(),
            gauges: config.housekeeping.gauges.clone(),
            summary: config.housekeeping.summary.clone(),
        };
        loops.start("timer loop", timers.run(stop.clone()));
        loops.start("intake", intake.run(stop.clone()));
        loops.start("relay", relay.run(stop.clone()));
        loops.start_fallible("housekeeping", housekeeping.run(schedules, stop.clone()));
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
                    let problem = telemetry::causes(&error);
                    if health.fails(Part::Database, problem.as_str()) {
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

/// Refuses durations that cannot be meant: a use of the database that no database can keep, and a
/// look back beyond the calendar.
fn check_durations(config: &Config) -> Result<(), ConfigError> {
    if config.database.timeout < SHORTEST_TIMEOUT {
        let problem = format!("at least {SHORTEST_TIMEOUT:?}");
        return Err(ConfigError::new("database.timeout", problem));
    }
    for (key, age) in
        [("outbox.history", config.outbox.history), ("outbox.dead_after", config.outbox.dead_after)]
    {
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
    let options = events::Options {
        exchange: config.events.exchange.clone(),
        queue: config.events.queue.clone(),
        dead_letter_queue: config.events.dead_letter_queue.clone(),
        declare: config.events.declare,
        prefetch: config.events.prefetch.get(),
    };
    events::connect(config.events.url.expose(), options)
        .map_err(|error| ConfigError::new("events.url", error))
}
