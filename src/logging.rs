//! The log: its subscriber, its formats, and how an error is written in one line.

use std::{
    fs::File,
    os::{fd::AsFd, unix::fs::MetadataExt},
};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    EnvFilter, Registry,
    filter::Directive,
    fmt::{self, FmtContext, FormatEvent, FormatFields, format::Writer},
    layer::SubscriberExt,
    registry::LookupSpan,
    reload,
    util::SubscriberInitExt,
};

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line, for machines.
    Json,
}

/// The level of the log, which can be changed while the program runs.
pub struct LogLevel(reload::Handle<EnvFilter, Registry>);

impl LogLevel {
    /// Logs at this level from now on.
    ///
    /// # Errors
    ///
    /// `level` is no filter.
    pub fn set(&self, level: &str) -> anyhow::Result<()> {
        self.0.reload(filter(level)?).context("the log is there as long as the program")
    }
}

fn filter(level: &str) -> anyhow::Result<EnvFilter> {
    // The scheduler logs its own start at INFO, for every process and job.
    let quiet: Directive = "tokio_cron_scheduler=warn".parse().context("a valid directive")?;
    Ok(EnvFilter::try_new(level)?.add_directive(quiet))
}

/// Starts logging to stderr.
///
/// # Errors
///
/// `level` is no filter.
pub fn init(format: LogFormat, level: &str) -> anyhow::Result<LogLevel> {
    let (filter, handle) = reload::Layer::new(filter(level)?);
    let registry = tracing_subscriber::registry().with(filter);
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
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            registry.with(layer.with_ansi(colours)).try_init()?;
        }
    }
    Ok(LogLevel(handle))
}

/// Whether systemd reads the log: it names the device and inode of the stream that it reads, and
/// that may have been redirected since. See systemd.exec(5), `$JOURNAL_STREAM`.
fn stderr_is_the_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    let stream = std::io::stderr().as_fd().try_clone_to_owned().map(File::from);
    stream
        .and_then(|stream| stream.metadata())
        .is_ok_and(|stream| named == format!("{}:{}", stream.dev(), stream.ino()))
}

/// Lines that begin with their priority, as the journal understands it: see sd-daemon(3).
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

/// An error with its causes, in one line. A cause that the line ends with already is not repeated:
/// some libraries put it into their own text.
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
