//! The database and the broker of the service, for commands that people run beside it.
//!
//! Without the service's credentials a command would use another database than the service. Every error
//! here says what to set, or as which user to run the command.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::anyhow;
use lobbyd::bus::{Bus, BusError};
use lobbyd::config::{Config, ConfigError, Loaded};
use lobbyd::store::{self, Database, StoreError};
use lobbyd::{app, logging};
use rustix::process::geteuid;

const SET_DATABASE: &str = "set LOBBYD__DATABASE__URL";

const TRY_SERVERS: &str =
    "`lobbyd config check --connect` tries the servers and shows where the URL comes from";

const SET_BROKER: &str = "set LOBBYD__EVENTS__URL to the service's broker (amqp://…)";

/// How else a command finds what the service uses. Root's commands use its credentials already.
fn alternatives() -> &'static str {
    if geteuid().is_root() {
        ", or name the service's file with --config"
    } else {
        ", or name the service's file with --config, or run the command as root, which uses the \
         service's credentials"
    }
}

/// Runs a command of this name on the database.
pub(super) async fn with_database<T>(
    loaded: &Loaded,
    command: &'static str,
    work: impl AsyncFnOnce(&dyn Database) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let database = open_database(loaded, command)?;
    let done = work(&*database).await;
    database.close().await;
    done.map_err(|error| explained(error, loaded))
}

/// Runs a command of this name on the database, which it creates if it does not exist.
pub(super) async fn with_new_database<T>(
    loaded: &Loaded,
    command: &'static str,
    work: impl AsyncFnOnce(&dyn Database) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let database = app::open_database(&loaded.config, command)?;
    let done = match prepare(&*database, &loaded.config).await {
        Ok(()) => work(&*database).await,
        Err(error) => Err(error),
    };
    database.close().await;
    done.map_err(|error| explained(error, loaded))
}

/// Creates the tables, and says where, if they do not exist; updates them otherwise.
async fn prepare(database: &dyn Database, config: &Config) -> anyhow::Result<()> {
    if !config.database.migrate {
        return Ok(());
    }
    let urls = config.database.url.expose();
    if database.try_urls(&urls).await.is_err_and(|error| error.is_answer()) {
        let file = urls.first().and_then(|url| store::sqlite_file(url));
        let place = match file.map(std::path::absolute).transpose()? {
            Some(file) => file.display().to_string(),
            None => config.database.url.redacted(),
        };
        writeln!(io::stderr().lock(), "lobbyd: creating lobbyd's tables in {place}")?;
    }
    Ok(database.migrate().await?)
}

/// Opens a database that exists.
pub(super) fn open_database(
    loaded: &Loaded,
    command: &'static str,
) -> Result<Arc<dyn Database>, ConfigError> {
    let Loaded { config, origins } = loaded;
    let urls = config.database.url.expose();
    if let Some(file) = urls.first().and_then(|url| store::sqlite_file(url)) {
        check_file(&file, origins.is_default("database.url"))
            .map_err(|problem| ConfigError::new("database.url", problem))?;
    }
    app::open_existing_database(config, command)
}

/// Checks that a file of SQLite can be used.
fn check_file(file: &Path, is_default: bool) -> Result<(), String> {
    let shown = file.display();
    match File::options().read(true).write(true).open(file) {
        Ok(_file) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound && is_default => Err(format!(
            "nothing names the database of the service, and there is no {shown} here; \
             {SET_DATABASE}{}",
            alternatives()
        )),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(format!("there is no file {shown}; lobbyd migrate creates it"))
        }
        Err(error) => {
            Err(format!("{shown}: {error}; run the command as root, or as the owner of the file"))
        }
    }
}

/// Opens the broker.
pub(super) fn open_bus(loaded: &Loaded) -> Result<Arc<dyn Bus>, ConfigError> {
    if loaded.config.events.url.is_in_process() {
        let problem = format!(
            "memory: is a bus inside one process, which keeps no dead letters: they are in its log; \
             {SET_BROKER}{}",
            alternatives()
        );
        return Err(ConfigError::new("events.url", problem));
    }
    app::open_bus(&loaded.config)
}

/// Says what can be done about an error of the database.
fn explained(error: anyhow::Error, loaded: &Loaded) -> anyhow::Error {
    let Some(cause) = error.downcast_ref::<StoreError>() else { return error };
    let Some(remedy) = remedy(cause) else { return error };
    let url = loaded.config.database.url.redacted();
    anyhow!("{url}: {}; {remedy}", logging::causes(cause))
}

fn remedy(error: &StoreError) -> Option<&'static str> {
    match error {
        StoreError::Unavailable(_) if error.is_answer() => {
            Some("lobbyd migrate creates the tables that it needs")
        }
        StoreError::Unavailable(_) | StoreError::TimedOut(_) => Some(TRY_SERVERS),
        StoreError::LoginRefused(_) => Some(SET_DATABASE),
        StoreError::NotOwned(_) => Some("run the command as root, or as that user"),
        StoreError::Unsuitable(_)
        | StoreError::Contended(_)
        | StoreError::CommitUnanswered(_)
        | StoreError::Rejected(_)
        | StoreError::Conflict { .. }
        | StoreError::Unreadable(_)
        | StoreError::Corrupt(_)
        | StoreError::Unprepared(_)
        | StoreError::Migration(_)
        | StoreError::Url(_) => None,
    }
}

/// Says what can be done about an error of the broker.
pub(super) fn explained_broker(error: anyhow::Error, config: &Config) -> anyhow::Error {
    let Some(cause) = error.downcast_ref::<BusError>() else { return error };
    let (url, queue) = (config.events.url.redacted(), &config.events.dead_letter_queue);
    let causes = logging::causes(cause);
    let is_refusal = causes.contains("ACCESS_REFUSED");
    let remedy = match cause {
        BusError::Unparseable { .. } => {
            "the broker has moved this dead letter here, because it ends the connection of each \
             program that reads it; remove it with RabbitMQ's management plugin"
                .to_owned()
        }
        _ if is_refusal && causes.contains("Login was refused") => {
            "the broker knows no user with this password; set LOBBYD__EVENTS__URL to the URL of one \
             who may read the dead letters"
                .to_owned()
        }
        _ if is_refusal => format!(
            "this user lacks a permission: the commands need to read the queue {queue} and, for \
             replay, to write to the exchange amq.default; set LOBBYD__EVENTS__URL to the URL of a \
             user who may (deploy/rabbitmq/README.md creates one)"
        ),
        BusError::LoginRefused(_) => {
            "the virtual host is what follows the / after the host in LOBBYD__EVENTS__URL: it has to \
             exist (rabbitmqctl list_vhosts), and the user needs permissions there"
                .to_owned()
        }
        BusError::Broker(_) if causes.contains("NOT_FOUND") => {
            return anyhow!(
                "{url}: there is no queue {queue}; a worker or `lobbyd run` creates it when it starts, \
                 unless events.declare is false"
            );
        }
        BusError::Broker(_) | BusError::TimedOut(..) => {
            return anyhow!("{url}: {}; {TRY_SERVERS}", logging::causes(error.as_ref()));
        }
        BusError::Blocked
        | BusError::ConsumerEnded
        | BusError::Overrun
        | BusError::Reconnect
        | BusError::InProcess
        | BusError::Refused(_)
        | BusError::Url(_) => return error,
    };
    error.context(format!("{url}: {remedy}"))
}
