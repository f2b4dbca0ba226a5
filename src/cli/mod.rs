//! The command line: its commands, their help texts, and what they print.
//!
//! Each command loads the configuration and starts the log, then uses the library. The help of the
//! program is enough to try it and to set it up.

mod access;
mod credentials;
mod dead_letters;
mod demo;
mod diagnosis;
mod generate;
mod groups;
mod health;
mod history;
mod instant;
mod lobby;
mod manual;
mod output;
mod publish;
mod rooms;
mod status;
mod talk;
mod timers;
mod user;

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use lobbyd::app::{App, ReloadSource, Role};
use lobbyd::config::{Config, ConfigError, Layers, Loaded};
use lobbyd::http::PROBE_FILES;
use lobbyd::logging::LogLevel;
use lobbyd::{app, logging, supervisor};
use rlimit::Resource;
use rustix::fs::Mode;
use tokio_util::sync::CancellationToken;

/// Opens the lobby of every webinar room on time.
///
/// lobbyd consumes lobby changes from RabbitMQ, keeps the schedule in the database, resets each room
/// when its timer is due, and publishes a room-updated event, so that all waiting participants are
/// let in. It also serves the webinar API of Nextcloud Talk, for moderators and participants.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP, max_term_width = 100)]
pub(crate) struct Cli {
    /// Configuration file, instead of /etc/lobbyd/lobbyd.toml
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

/// How often a sign of progress moves.
const SPINNER_INTERVAL: Duration = Duration::from_millis(100);

const AFTER_HELP: &str = "\
Try it, with nothing installed:
  lobbyd demo

Run it: create a PostgreSQL database and a RabbitMQ user, then
  export LOBBYD__DATABASE__URL=postgres://lobbyd:secret@localhost/lobbyd
  export LOBBYD__EVENTS__URL=amqp://lobbyd:secret@localhost/%2f
  lobbyd user add alice --password-stdin
  lobbyd run
Rooms come from clients of the HTTP API, or from a row with token, type and name in lobbyd_rooms:
  INSERT INTO lobbyd_rooms (token, type, name) VALUES ('webinar', 3, 'Quarterly webinar')
  lobbyd publish webinar --state 1 --in 30s

When a room did not open:
  lobbyd rooms TOKEN                 says why, and what to do about it
  lobbyd lobby clear TOKEN           opens it now; works without broker and worker
  lobbyd status                      which server does not answer, which work is not done
  lobbyd dead-letters list           events that could not be applied, with the reasons;
                                     `dead-letters replay` has them applied when the cause is removed
  lobbyd timers, lobbyd history      what opens next; what has opened, how late, and who was told
Each of them has --json for scripts.

Exit status: 0 success, 1 failure, 2 invalid arguments, 78 invalid configuration, 130 stopped by a \
second signal.

`lobbyd config check --connect` prints the configuration and tries the servers; config/lobbyd.toml \
explains every key. Commands that root runs use the credentials of the service in /etc/credstore.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the whole chain in a few seconds, in a temporary folder
    Demo(demo::Demo),
    /// Run the daemon and the HTTP API in one process
    Run,
    /// Run the daemon: consume events, open rooms, publish updates
    Worker,
    /// Serve the HTTP API; any number of processes can do so
    Api,
    /// Beside a Nextcloud Talk: have it open its rooms on time
    Talk(talk::Talk),
    /// Update the database schema and exit
    Migrate,
    /// List rooms, and say why a room is open or not
    Rooms(rooms::Rooms),
    /// List the rooms that are closed until a time
    Timers(timers::Timers),
    /// List the timers that fired, and whether that was announced
    History(history::History),
    /// Show what works and which work is not done
    Status(status::StatusCommand),
    /// Put a lobby in front of a room, or remove it
    #[command(subcommand)]
    Lobby(lobby::LobbyCommand),
    /// List, show, replay and drop events that could not be applied
    #[command(subcommand)]
    DeadLetters(dead_letters::DeadLettersCommand),
    /// Publish one lobby change, as another program would
    Publish(publish::Publish),
    /// Check the running program, for health checks of containers
    Health(health::Health),
    /// Add, remove and list the users of the HTTP API
    #[command(subcommand)]
    User(user::User),
    /// Check the configuration
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Write man pages and shell completions, for packagers
    Generate(generate::Generate),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check the configuration and print each value with its origin, secrets hidden
    Check(Check),
}

#[derive(Debug, Args)]
struct Check {
    /// Also connect to database and broker as a start would, and print what each of them answers
    #[arg(long)]
    connect: bool,

    /// Print errors only
    #[arg(long)]
    quiet: bool,
}

impl Cli {
    /// Reads the arguments of the program. Ends it if they are invalid, or ask for help.
    pub(crate) fn from_arguments() -> Self {
        let command = groups::with_groups(Self::command());
        Self::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit())
    }

    pub(crate) async fn run(self) -> anyhow::Result<()> {
        // What lobbyd writes is nobody else's to read: rooms, chats and password hashes in SQLite. What
        // packagers generate is for everybody.
        if !matches!(self.command, Command::Generate(_)) {
            rustix::process::umask(Mode::RWXG | Mode::RWXO);
        }
        let file = self.config;
        // These use the same servers as the service, so they find the same credentials.
        let is_quiet = matches!(
            self.command,
            Command::Config { command: ConfigCommand::Check(Check { quiet: true, .. }) }
        );
        let beside_service = || {
            let layers = credentials::layers(file.clone());
            let (loaded, _level) = load(&layers).map_err(explain_unreadable)?;
            if !is_quiet {
                credentials::report(&loaded.origins, &layers)?;
            }
            anyhow::Ok(loaded)
        };
        let layers = Layers { file: file.clone(), credstore: None };
        match self.command {
            // It runs on the embedded defaults, not on the configuration of this machine.
            Command::Demo(demo) => Box::pin(demo.run()).await,
            Command::Run => serve(layers, Role::Both).await,
            Command::Worker => serve(layers, Role::Worker).await,
            Command::Api => serve(layers, Role::Api).await,
            Command::Talk(talk::Talk { command: None }) => serve(layers, Role::Talk).await,
            Command::Talk(talk::Talk { command: Some(command) }) => {
                command.run(&beside_service()?.config).await
            }
            Command::Migrate => migrate(&beside_service()?.config).await,
            Command::Rooms(rooms) => rooms.run(&beside_service()?).await,
            Command::Timers(timers) => timers.run(&beside_service()?).await,
            Command::History(history) => history.run(&beside_service()?).await,
            Command::Status(status) => status.run(&beside_service()?).await,
            Command::Lobby(lobby) => lobby.run(&beside_service()?).await,
            Command::DeadLetters(dead_letters) => dead_letters.run(&beside_service()?).await,
            Command::Health(health) => health.run(&load(&layers)?.0.config).await,
            Command::Publish(publish) => publish.run(&beside_service()?.config).await,
            Command::User(user) => user.run(&beside_service()?).await,
            Command::Config { command: ConfigCommand::Check(check) } => {
                check.run(beside_service()?).await
            }
            Command::Generate(generate) => generate.run(),
        }
    }
}

/// Says as which user a command can be run whose configuration or credentials are not for everybody.
fn explain_unreadable(error: anyhow::Error) -> anyhow::Error {
    if error.to_string().contains("Permission denied") {
        return error.context("run the command as root, or as the user of the service");
    }
    error
}

/// Reads the configuration and starts the log as configured there.
fn load(layers: &Layers) -> anyhow::Result<(Loaded, LogLevel)> {
    let loaded = Config::load(layers)?;
    let level = logging::init(loaded.config.log.format, &loaded.config.log.level)
        .map_err(|error| ConfigError::new("log.level", error))?;
    Ok((loaded, level))
}

async fn serve(layers: Layers, role: Role) -> anyhow::Result<()> {
    let (Loaded { config, origins }, level) = load(&layers)?;
    // SIGHUP from a closed terminal ends the program, as users expect.
    let hangups = if io::stdin().is_terminal() { None } else { Some(supervisor::hangups()?) };
    raise_file_limit();
    let is_unreachable = role == Role::Worker && config.events.url.is_in_process();
    let mut app = App::build(config, role)?;
    let files: Vec<String> =
        origins.files().iter().map(|file| file.display().to_string()).collect();
    tracing::info!(files = ?files, "configuration read");
    if is_unreachable {
        tracing::warn!(
            "no event can reach a worker whose events.url is memory:, which is a bus inside one \
             process; name the broker (amqp://…), or use `lobbyd run`"
        );
    }
    if let Some(hangups) = hangups {
        let read = Box::new(move || Config::load(&layers).map(|loaded| loaded.config));
        app = app.reloading(ReloadSource { hangups, read, level });
    }
    let stop = CancellationToken::new();
    let signals = supervisor::on_signal(stop.clone());
    let running = app.run(lobbyd::metrics::install()?, stop.clone());
    tokio::select! {
        outcome = running => outcome,
        Err(error) = signals => Err(error),
    }
}

/// Each waiting client is an open file, and the usual soft limit is 1024. A few stay beyond the limit.
fn raise_file_limit() {
    let raised = rlimit::increase_nofile_limit(u64::MAX).and_then(|limit| {
        let (_soft, hard) = Resource::NOFILE.get()?;
        Resource::NOFILE.set(limit.saturating_sub(PROBE_FILES), hard)
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "limit of open files could not be raised");
    }
}

async fn migrate(config: &Config) -> anyhow::Result<()> {
    let store = app::open_database(config, "lobbyd migrate")?;
    let url = config.database.url.redacted();
    // How long it takes depends on the tables; nothing says how much of it is done.
    let style = ProgressStyle::with_template("{spinner} {msg}, {elapsed}")?;
    let progress = ProgressBar::new_spinner().with_style(style);
    progress.set_message(format!("updating the tables of {url}"));
    progress.enable_steady_tick(SPINNER_INTERVAL);
    let migrated = store.migrate().await;
    progress.finish_and_clear();
    store.close().await;
    migrated?;
    print(&format!("{url} is up to date"))
}

impl Check {
    async fn run(self, Loaded { config, origins }: Loaded) -> anyhow::Result<()> {
        let shown = origins.annotate(&config.to_toml());
        App::build(config.clone(), Role::Both)?;
        if !self.quiet {
            print(shown.trim_end())?;
        }
        if !self.connect {
            return Ok(());
        }
        let mut answers = Vec::from(app::try_servers(&config).await?);
        if config.talk.url.is_some() {
            answers.extend(app::check_talk(&config, None).await?);
        }
        answers.extend(app::check_signaling(&config).await?);
        print_answers(answers, self.quiet)
    }
}

/// Prints what servers have answered, by the keys of the configuration. Fails if one refused.
fn print_answers(
    answers: Vec<(&'static str, Result<String, String>)>,
    is_quiet: bool,
) -> anyhow::Result<()> {
    let mut refused = Vec::new();
    for (key, answer) in answers {
        match answer {
            Ok(answer) if is_quiet => drop(answer),
            Ok(answer) => print(&format!("# {key}: {answer}"))?,
            Err(problem) => refused.push(format!("{key}: {problem}")),
        }
    }
    if refused.is_empty() { Ok(()) } else { bail!("{}", refused.join("; ")) }
}

/// Prints lines to standard output. A reader that has ended, as after `| head -1`, is not an error.
fn print(text: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        printed => printed.context("standard output"),
    }
}

/// Prints an error with its causes in one line. If that fails, the exit status still tells.
pub(crate) fn print_error(error: &anyhow::Error) {
    let line = logging::causes(error.as_ref());
    writeln!(io::stderr().lock(), "lobbyd: {}", output::printable_lines(&line)).ok();
}
