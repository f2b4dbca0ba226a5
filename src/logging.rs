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
use tracing_subscriber::filter::{LevelFilter, filter_fn};
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
/// lapin logs each message that is returned, with its whole body, and each channel that is closed;
/// lobbyd reports both. sqlx warns of each slow statement and each slow connection.
const QUIET: [(&str, &str); 2] = [("lapin", "off"), ("sqlx", "error")];

/// The highest level of all other libraries, unless the filter names them.
const LIBRARIES: LevelFilter = LevelFilter::WARN;

/// The filter of a configured level. A level without a module is that of lobbyd.
fn filter(level: &str) -> anyhow::Result<EnvFilter> {
    let mut own = LevelFilter::ERROR;
    let mut directives = Vec::new();
    for part in level.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        match part.parse::<LevelFilter>() {
            Ok(level) => {
                own = level;
                directives.push(format!("lobbyd={level}"));
            }
            Err(_by_module) => directives.push(part.to_owned()),
        }
    }
    directives.insert(0, own.min(LIBRARIES).to_string());
    let quiet = QUIET.iter().filter(|(module, _level)| !level.contains(module));
    directives.extend(quiet.map(|(module, level)| format!("{module}={level}")));
    Ok(EnvFilter::try_new(directives.join(","))?)
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
    let mut line = without_line_of_server(&error.to_string()).to_owned();
    let mut cause = error.source();
    while let Some(next) = cause {
        let text = next.to_string();
        let text = without_line_of_server(&text);
        if !line.ends_with(text) {
            line = format!("{line}: {text}");
        }
        cause = next.source();
    }
    line
}

/// sqlx ends PostgreSQL's errors with the line of the server's source, which looks like one of a
/// configuration file.
fn without_line_of_server(text: &str) -> &str {
    match text.rsplit_once(" at line ") {
        Some((message, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => message,
        Some(_) | None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_without_a_module_is_that_of_lobbyd() {
        let quiet = "lapin=off,sqlx=error";
        for (level, expected) in [
            ("info", format!("lobbyd=info,warn,{quiet}")),
            ("debug", format!("lobbyd=debug,warn,{quiet}")),
            ("error", format!("lobbyd=error,error,{quiet}")),
            ("off", format!("lobbyd=off,off,{quiet}")),
            ("info,", format!("lobbyd=info,warn,{quiet}")),
            ("warn,sqlx=debug", "lobbyd=warn,warn,lapin=off,sqlx=debug".to_owned()),
            ("lobbyd::tasks=debug", format!("lobbyd::tasks=debug,error,{quiet}")),
        ] {
            let sorted = |filter: &str| {
                let mut directives: Vec<_> = filter.split(',').map(str::to_owned).collect();
                directives.sort();
                directives
            };
            assert_eq!(sorted(&filter(level).unwrap().to_string()), sorted(&expected), "{level}");
        }
        assert!(filter("a=b=c").is_err());
    }

    #[test]
    fn the_line_of_the_servers_source_is_left_out() {
        let error = std::io::Error::other("password authentication failed at line 334");
        assert_eq!(causes(&error), "password authentication failed");
        let error = std::io::Error::other("expected a value at line 1 column 2");
        assert_eq!(causes(&error), "expected a value at line 1 column 2");
    }
}
