//! Logs and metrics: the subscriber, the recorder, and the name of every metric.
//!
//! Messages can be read alone; identifiers stand beside them as fields with dots, equal
//! everywhere: `room.token`, `event.id`, `timer.due_at`. A failure is logged once, where it is
//! handled.

use std::time::Duration;

use anyhow::Context;
use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::{
    EnvFilter, filter::Directive, layer::SubscriberExt, util::SubscriberInitExt,
};

/// Counter: events taken in, by `outcome`.
pub const EVENTS: &str = "lobbyd_events_received_total";
/// Counter: timers that reset their room.
pub const FIRED: &str = "lobbyd_timers_fired_total";
/// Counter: pending timers that a newer setting replaced or removed.
pub const SUPERSEDED: &str = "lobbyd_timers_superseded_total";
/// Histogram: from the due instant to the commit of the reset.
pub const COMMIT_LAG: &str = "lobbyd_timer_commit_lag_seconds";
/// Histogram: from the due instant to the confirm of its event.
pub const LAG: &str = "lobbyd_timer_lag_seconds";
/// Gauge: scheduled timers.
pub const TIMERS_PENDING: &str = "lobbyd_timers_pending";
/// Gauge: rows with a timer that can never fire.
pub const TIMERS_UNUSABLE: &str = "lobbyd_timers_unusable";
/// Gauge: events without confirm.
pub const OUTBOX_PENDING: &str = "lobbyd_outbox_pending";
/// Gauge: age of the oldest of them.
pub const OUTBOX_OLDEST: &str = "lobbyd_outbox_oldest_age_seconds";
/// Counter: publications, by `outcome`.
pub const PUBLISHED: &str = "lobbyd_events_published_total";
/// Counter: rows of the outbox that housekeeping deleted, by `kind`.
pub const PRUNED: &str = "lobbyd_outbox_pruned_total";
/// Gauge: whether a part is reached, by `part`.
pub const CONNECTED: &str = "lobbyd_connected";
/// Gauge: whether the broker has blocked the publishing connection.
pub const BLOCKED: &str = "lobbyd_broker_blocked";

/// Counter: requests of the HTTP API, by `method` and `status`.
pub const REQUESTS: &str = "lobbyd_http_requests_total";
/// Counter: readings of rooms for the API's clients, by `what`.
pub const READINGS: &str = "lobbyd_room_readings_total";
/// Counter: changes of rooms that were found by comparison with the database, not heard.
pub const UNHEARD: &str = "lobbyd_room_changes_unheard_total";
/// Counter: logins, by `outcome`.
pub const LOGINS: &str = "lobbyd_logins_total";
/// Gauge: requests that are held until a room changes.
pub const HELD: &str = "lobbyd_http_requests_held";

/// Bounds of the lag histograms, in seconds: fine around the goal, coarse for outages.
const LAG_BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0];

/// A burst of ten thousand timers leaves 160 KiB of samples until they are condensed.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line, for machines.
    Json,
}

/// Starts logging to stderr.
///
/// # Errors
///
/// `level` is no filter.
pub fn init_logging(format: LogFormat, level: &str) -> anyhow::Result<()> {
    // The scheduler logs its own start at INFO, for every process and job.
    let quiet: Directive = "tokio_cron_scheduler=warn".parse().context("a valid directive")?;
    let filter = EnvFilter::try_new(level)?.add_directive(quiet);
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init()?,
        LogFormat::Text => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            registry.with(layer.with_ansi(colours)).try_init()?;
        }
    }
    Ok(())
}

/// Installs the recorder of this process. The handle renders the text for Prometheus.
///
/// # Errors
///
/// There is one already.
pub fn init_metrics() -> anyhow::Result<PrometheusHandle> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(LAG.to_owned()), &LAG_BUCKETS)?
        .set_buckets_for_metric(Matcher::Full(COMMIT_LAG.to_owned()), &LAG_BUCKETS)?
        .install_recorder()?;
    describe();
    Ok(handle)
}

fn describe() {
    describe_counter!(EVENTS, "Lobby changes taken in, by outcome");
    describe_counter!(FIRED, "Timers that reset their room");
    describe_counter!(SUPERSEDED, "Pending timers that a newer setting replaced or removed");
    describe_histogram!(COMMIT_LAG, Unit::Seconds, "From the due instant to the reset's commit");
    describe_histogram!(LAG, Unit::Seconds, "From the due instant to the confirm of its event");
    describe_gauge!(TIMERS_PENDING, "Scheduled timers");
    describe_gauge!(TIMERS_UNUSABLE, "Rows with a timer whose room cannot have a lobby");
    describe_gauge!(OUTBOX_PENDING, "Events without confirm");
    describe_gauge!(OUTBOX_OLDEST, Unit::Seconds, "Age of the oldest event without confirm");
    describe_counter!(PUBLISHED, "Publications, by outcome");
    describe_counter!(PRUNED, "Rows of the outbox that housekeeping deleted, by kind");
    describe_gauge!(CONNECTED, "1 while the part is reached, by part");
    describe_gauge!(BLOCKED, "1 while the broker has blocked publishing");
    describe_counter!(REQUESTS, "Requests of the HTTP API, by method and status");
    describe_counter!(LOGINS, "Logins that were not remembered, by outcome");
    describe_counter!(READINGS, "Readings of rooms for the API's clients, by what was read");
    describe_counter!(UNHEARD, "Changes of rooms that were found by comparison, not heard");
    describe_gauge!(HELD, "Requests that are held until a room changes");
    // Counters that exist from the start can be watched for their first increase.
    metrics::counter!(FIRED).absolute(0);
    metrics::counter!(SUPERSEDED).absolute(0);
    metrics::gauge!(BLOCKED).set(0);
    metrics::gauge!(HELD).set(0);
    metrics::counter!(UNHEARD).absolute(0);
}

/// An error with its causes, in one line. A cause that the line ends with already is not repeated:
/// some libraries put it into their own text.
#[must_use]
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

/// Condenses the samples of histograms, which otherwise pile up while nobody reads the metrics.
pub async fn upkeep(handle: PrometheusHandle, stop: CancellationToken) {
    let mut round = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = round.tick() => handle.run_upkeep(),
        }
    }
}
