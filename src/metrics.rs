//! The metrics: the recorder, and the name, help text and first value of each.

use std::time::Duration;

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

/// Gauge: 1, with the program's `version`.
pub const BUILD: &str = "lobbyd_build_info";
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
/// Gauge: for how long the room that has been due for longest is due.
pub const OVERDUE: &str = "lobbyd_timer_overdue_seconds";
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
/// Counter: spans of traces that no collector took.
pub const SPANS_DROPPED: &str = "lobbyd_spans_dropped_total";

/// Bounds of the lag histograms, in seconds: fine around the goal, coarse for outages.
const LAG_BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0];

/// A burst of ten thousand timers leaves 160 KiB of samples until they are condensed.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Installs the recorder of this process. The handle renders the text for Prometheus.
///
/// # Errors
///
/// There is one already.
pub fn install() -> anyhow::Result<PrometheusHandle> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(LAG.to_owned()), &LAG_BUCKETS)?
        .set_buckets_for_metric(Matcher::Full(COMMIT_LAG.to_owned()), &LAG_BUCKETS)?
        .install_recorder()?;
    describe();
    Ok(handle)
}

/// Names, units and helps for people, and series that exist before the first event: only then can a
/// counter be watched for its first increase.
fn describe() {
    describe_gauge!(BUILD, "Always 1; the label says which version runs");
    describe_counter!(EVENTS, "Lobby changes taken in, by outcome");
    describe_counter!(FIRED, "Timers that reset their room");
    describe_counter!(SUPERSEDED, "Pending timers that a newer setting replaced or removed");
    describe_histogram!(COMMIT_LAG, Unit::Seconds, "From the due instant to the reset's commit");
    describe_histogram!(LAG, Unit::Seconds, "From the due instant to the confirm of its event");
    describe_gauge!(OVERDUE, Unit::Seconds, "How long the first due room has been closed too long");
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
    describe_counter!(SPANS_DROPPED, "Spans of traces that no collector took");
    metrics::gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1);
    for counter in [FIRED, SUPERSEDED, UNHEARD, SPANS_DROPPED] {
        metrics::counter!(counter).absolute(0);
    }
    for (counter, label, values) in [
        (
            EVENTS,
            "outcome",
            ["applied", "stale", "malformed", "no_lobby", "unknown_room", "rejected"].as_slice(),
        ),
        (PUBLISHED, "outcome", &["confirmed", "refused", "unconfirmed", "unreadable"]),
        (PRUNED, "kind", &["history", "dead"]),
        (READINGS, "what", &["room", "attendee", "list"]),
        (LOGINS, "outcome", &["ok", "wrong", "throttled"]),
    ] {
        for value in values {
            metrics::counter!(counter, label => *value).absolute(0);
        }
    }
    for gauge in
        [OVERDUE, TIMERS_PENDING, TIMERS_UNUSABLE, OUTBOX_PENDING, OUTBOX_OLDEST, BLOCKED, HELD]
    {
        metrics::gauge!(gauge).set(0);
    }
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
