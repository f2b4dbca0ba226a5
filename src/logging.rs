//! The log on standard error: its formats, its level, and errors in one line.
//!
//! Under systemd each line begins with its priority, and the journal adds the time. The priorities
//! are written here instead of sending to the journal's socket (tracing-journald): there the fields
//! of an event become fields of the entry, which `journalctl` does not show beside the message.
//!
//! The command line calls [`init`] once. Other modules use `tracing`, and [`causes`] for errors.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::{Directive, filter_fn};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    /// One object per line.
    Json,
}

/// Changes the level while the program runs.
pub struct LogLevel(reload::Handle<EnvFilter, Registry>);

impl LogLevel {
    /// `level` is a level or a filter by module, as in [`EnvFilter`].
    pub fn set(&self, level: &str) -> anyhow::Result<()> {
        self.0.reload(filter(level)?).context("the subscriber lives as long as the program")
    }
}

/// The levels of libraries whose lines repeat what lobbyd says, each with the module that they log
/// under. A filter that names the module overrides its level.
///
/// The scheduler logs its start at INFO, once per job. lapin logs each message that is returned, with
/// its whole body, and each channel that is closed; lobbyd reports both. sqlx warns of each slow
/// statement and each slow connection.
const QUIET: [(&str, &str); 3] =
    [("tokio_cron_scheduler", "warn"), ("lapin", "off"), ("sqlx", "error")];

fn filter(level: &str) -> anyhow::Result<EnvFilter> {
    let mut filter = EnvFilter::try_new(level)?;
    for (module, quiet) in QUIET {
        if !level.contains(module) {
            let directive: Directive =
                format!("{module}={quiet}").parse().context("a valid directive")?;
            filter = filter.add_directive(directive);
        }
    }
    Ok(filter)
}

/// Installs the subscriber of this process. `level` is a level or a filter by module.
pub fn init(format: LogFormat, level: &str) -> anyhow::Result<LogLevel> {
    let (filter, handle) = reload::Layer::new(filter(level)?);
    let registry = tracing_subscriber::registry().with(filter).with(filter_fn(shows_no_password));
    let layer = fmt::layer().with_writer(std::io::stderr);
    let journal = stderr_is_the_journal();
    match format {
        LogFormat::Json if journal => {
            let json = fmt::format().json().flatten_event(true).without_time();
            registry.with(layer.json().event_format(Prioritized(json))).try_init()?;
        }
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init()?,
        LogFormat::Text if journal => {
            let text = fmt::format().without_time().with_level(false).with_ansi(false);
            registry.with(layer.with_ansi(false).event_format(Prioritized(text))).try_init()?;
        }
        LogFormat::Text => {
            let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
            registry.with(layer.with_ansi(is_terminal)).try_init()?;
        }
    }
    Ok(LogLevel(handle))
}

/// At TRACE, lapin logs each frame, among them the login at the broker.
fn shows_no_password(metadata: &Metadata<'_>) -> bool {
    *metadata.level() != Level::TRACE || !metadata.target().starts_with("lapin")
}

/// Whether systemd reads standard error. `$JOURNAL_STREAM` contains device and inode of the stream
/// that it reads, which may have been redirected since; see systemd.exec(5).
fn stderr_is_the_journal() -> bool {
    let Ok(journal) = std::env::var("JOURNAL_STREAM") else { return false };
    let stream = std::io::stderr().as_fd().try_clone_to_owned().map(File::from);
    stream
        .and_then(|stream| stream.metadata())
        .is_ok_and(|stream| journal == format!("{}:{}", stream.dev(), stream.ino()))
}

/// Prefixes each line with the priority for the journal, see sd-daemon(3).
struct Prioritized<F>(F);

impl<S, N, F> FormatEvent<S, N> for Prioritized<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        write!(writer, "<{priority}>")?;
        self.0.format_event(context, writer, event)
    }
}

/// An error with its causes, in one line. Some libraries put the cause into their own text, so a
/// cause with which the line ends already is not repeated.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let text = next.to_string();
        if !line.ends_with(&text) {
            line = format!("{line}: {text}");
        }
        cause = next.source();
    }
    line
}
