//! The command line: what can be asked of the program, and how it teaches itself.

mod demo;
mod publish;

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::{Parser, Subcommand};
use lobbyd::{
    app::{self, App},
    config::{Config, ConfigError},
    shutdown, telemetry,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Opens the lobby of every webinar room on time.
///
/// lobbyd takes in lobby changes from RabbitMQ, keeps the schedule in the database, resets a room
/// when its timer is due, and publishes a room-updated event, so that everybody who waits gets in.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP, max_term_width = 100)]
pub(crate) struct Cli {
    /// Configuration file, in place of /etc/lobbyd/lobbyd.toml
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Try it, with nothing installed:
  lobbyd demo

Run it for real: create a PostgreSQL database and a RabbitMQ user, then
  export LOBBYD__DATABASE__URL=postgres://lobbyd:secret@localhost/lobbyd
  export LOBBYD__EVENTS__URL=amqp://lobbyd:secret@localhost/%2f
  lobbyd run
  lobbyd publish TOKEN --state 1 --in 30s

Exit status: 0 done, 1 failed, 2 wrong arguments, 78 wrong configuration, 130 stopped by a second
signal.
`lobbyd config check` prints the configuration; config/lobbyd.toml explains every key.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the whole chain in a few seconds, in a temporary place
    Demo(demo::Demo),
    /// Run everything in one process: the daemon, and the HTTP API when it is there
    Run,
    /// Run the daemon: take in events, open rooms, publish updates
    Worker,
    /// Bring the database up to date and exit
    Migrate,
    /// Publish one lobby-change event
    Publish(publish::Publish),
    /// Look at the configuration
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check the configuration and print what is in force, secrets hidden
    Check,
}

impl Cli {
    /// Does what was asked for.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let load = || load(self.config.as_deref());
        match self.command {
            // It shows the embedded defaults, whatever is configured here.
            Command::Demo(demo) => demo.run().await,
            Command::Run | Command::Worker => worker(load()?).await,
            Command::Migrate => migrate(&load()?).await,
            Command::Publish(publish) => publish.run(&load()?).await,
            Command::Config { command: ConfigCommand::Check } => check(load()?),
        }
    }
}

/// Reads the configuration and starts to log as it says.
fn load(file: Option<&Path>) -> anyhow::Result<Config> {
    let config = Config::load(file)?;
    telemetry::init_logging(config.log.format, &config.log.level)
        .map_err(|error| ConfigError::new("log.level", error))?;
    Ok(config)
}

async fn worker(config: Config) -> anyhow::Result<()> {
    let address = config.ops.listen;
    let app = App::build(config)?;
    let ops = TcpListener::bind(address)
        .await
        .with_context(|| format!("ops.listen: cannot listen on {address}"))?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), ops = %ops.local_addr()?, "lobbyd starts");
    let stop = CancellationToken::new();
    let signals = shutdown::on_signal(stop.clone());
    let worked = app.run_worker(ops, telemetry::init_metrics()?, stop.clone());
    tokio::select! {
        worked = worked => worked,
        Err(error) = signals => Err(error),
    }
}

async fn migrate(config: &Config) -> anyhow::Result<()> {
    let store = app::open_database(config)?;
    store.migrate().await?;
    store.close().await;
    say("the database is up to date")
}

fn check(config: Config) -> anyhow::Result<()> {
    let text = config.to_toml();
    App::build(config)?;
    say(text.trim_end())
}

/// Prints a line, or several, for whoever asked.
fn say(text: &str) -> anyhow::Result<()> {
    writeln!(io::stdout().lock(), "{text}").context("standard output")
}

/// Prints an error with its causes in one line. If nobody can read it, the exit status is left.
pub(crate) fn print_error(error: &anyhow::Error) {
    let line = telemetry::causes(error.as_ref());
    writeln!(io::stderr().lock(), "lobbyd: {line}").ok();
}
