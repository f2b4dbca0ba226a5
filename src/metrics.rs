//! The Prometheus metrics: their names, help texts and first values, and the recorder.
//!
//! The table below is the only place where a metric is named; everything else uses its constant.
//! `app` installs the recorder once per process, and [`http::ops`](crate::http::ops) renders it.
//! Gauges that have to be looked up are [collected](Collect) when the metrics are rendered. Labels
//! have a fixed set of values: never a token, a user or an address.

use std::time::Duration;

use async_trait::async_trait;
use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

/// Sets gauges, before the metrics are rendered.
#[async_trait]
pub trait Collect: Send + Sync {
    async fn collect(&self);
}

/// Makes a documented constant of each row, and `describe`, which registers all of them. A row ends
/// with the series that exist from the start: `{}` is one without labels, `{ "label": "value", … }`
/// is one for each value. Only a counter that exists can be watched for its first increase.
macro_rules! metric_table {
    ($(
        $kind:ident $constant:ident $(($unit:ident))? $name:literal $help:literal
        $({ $($series:tt)* })?
    )+) => {
        $(
            #[doc = $help]
            pub const $constant: &str = $name;
        )+

        fn describe() {
            $(
                metric_table!(@describe $kind $constant, $(Unit::$unit,)? $help);
                $(metric_table!(@series $kind $constant $($series)*);)?
            )+
        }
    };
    (@describe counter $($row:tt)+) => { describe_counter!($($row)+) };
    (@describe gauge $($row:tt)+) => { describe_gauge!($($row)+) };
    (@describe histogram $($row:tt)+) => { describe_histogram!($($row)+) };
    (@series gauge $constant:ident) => { metrics::gauge!($constant).set(0) };
    (@series counter $constant:ident) => { metrics::counter!($constant).absolute(0) };
    (@series counter $constant:ident $label:literal: $($value:literal),+) => {
        for value in [$($value),+] {
            metrics::counter!($constant, $label => value).absolute(0);
        }
    };
}

metric_table! {
    gauge BUILD "lobbyd_build_info"
        "Always 1; the labels are the version of the program, and the kinds of database and bus"
    gauge RELOAD_OK "lobbyd_config_reload_ok"
        "1 if the last reload of the configuration worked, or none was requested"
    gauge TASKS "lobbyd_tasks"
        "Tasks that have not ended, such as one for each connection to the HTTP API, by runtime"

    counter EVENTS "lobbyd_events_received_total" "Lobby changes received, by outcome"
        { "outcome": "applied", "stale", "malformed", "no_lobby", "unknown_room", "rejected" }
    counter FIRED "lobbyd_timers_fired_total" "Timers that reset their room" {}
    counter SUPERSEDED "lobbyd_timers_superseded_total"
        "Pending timers that a newer setting replaced or removed" {}
    histogram COMMIT_LAG (Seconds) "lobbyd_timer_commit_lag_seconds"
        "Time from a timer's due time to the commit of the reset"
    histogram LAG (Seconds) "lobbyd_timer_lag_seconds"
        "Time from a timer's due time to the publisher confirm of its event"
    gauge OVERDUE (Seconds) "lobbyd_timer_overdue_seconds"
        "How long the timer that has been due for longest is overdue" {}
    gauge TIMERS_PENDING "lobbyd_timers_pending" "Scheduled timers, counted up to 10000" {}
    gauge TIMERS_REFUSED "lobbyd_timers_refused"
        "Due rooms that the database refuses to reset, counted up to 10000" {}

    gauge DELIVERIES_OLDEST (Seconds) "lobbyd_delivery_oldest_age_seconds"
        "Age of the oldest delivery that is not acknowledged" {}
    gauge DELIVERIES_ASIDE "lobbyd_deliveries_aside"
        "Deliveries that are set aside, because their room is locked or does not exist yet" {}

    gauge OUTBOX_PENDING "lobbyd_outbox_pending"
        "Events without publisher confirm, counted up to 10000" {}
    gauge OUTBOX_OLDEST (Seconds) "lobbyd_outbox_oldest_age_seconds"
        "Age of the oldest event without publisher confirm" {}
    gauge OUTBOX_REFUSED "lobbyd_outbox_refused"
        "Events that were tried for a minute without success, each tried again now and then" {}
    counter PUBLISHED "lobbyd_events_published_total" "Publications, by outcome"
        { "outcome": "confirmed", "refused", "unconfirmed", "unreadable" }
    counter PRUNED "lobbyd_outbox_pruned_total" "Outbox rows deleted by housekeeping, by kind"
        { "kind": "history", "dead" }

    counter TALK_OPENED "lobbyd_talk_opened_total"
        "Rooms of Talk that were open after their timer, by what had read them first"
        { "by": "lobbyd", "other" }
    counter TALK_REQUESTS "lobbyd_talk_requests_total" "Requests for rooms of Talk, by outcome"
        { "outcome": "ok", "not_found", "failed", "unanswered", "unauthorized", "blocked",
          "maintenance", "redirected", "unreachable" }
    histogram TALK_LAG (Seconds) "lobbyd_talk_lag_seconds"
        "Time from a timer's due time until its room of Talk was seen open"
    gauge TALK_OVERDUE (Seconds) "lobbyd_talk_overdue_seconds"
        "How long the room of Talk that has been due for longest is overdue" {}
    gauge TALK_DUE "lobbyd_talk_due" "Rooms of Talk that are due and not open, up to 1000" {}
    gauge TALK_REFUSED "lobbyd_talk_refused" "Due rooms that Talk does not open" {}
    gauge TALK_LEADER "lobbyd_talk_leader" "1 while this instance opens the rooms of Talk" {}

    counter SIGNALING_REQUESTS "lobbyd_signaling_requests_total"
        "Rooms told to Talk's signaling servers, by server and outcome"
    histogram SIGNALING_LAG (Seconds) "lobbyd_signaling_lag_seconds"
        "Time from a change, or from a timer's due time, until a signaling server was told the room"
    gauge SIGNALING_PENDING "lobbyd_signaling_pending"
        "Rooms that signaling servers have yet to be told, counted up to 10000 for each" {}
    gauge SIGNALING_OLDEST (Seconds) "lobbyd_signaling_oldest_seconds"
        "Age of the oldest change that a signaling server has yet to be told" {}
    gauge SIGNALING_REFUSED "lobbyd_signaling_refused" "Rooms that signaling servers refuse" {}
    counter SIGNALING_DROPPED "lobbyd_signaling_dropped_total"
        "Rooms that a signaling server was not told for too long" {}

    gauge CONNECTED "lobbyd_connected" "1 while the component works, by part"
    gauge BLOCKED "lobbyd_broker_blocked" "1 while the broker blocks the publishing connection" {}

    counter REQUESTS "lobbyd_http_requests_total"
        "Requests of the HTTP API, by method, route and status"
    histogram REQUEST_DURATION (Seconds) "lobbyd_http_request_duration_seconds"
        "Time that requests of the HTTP API took, by method and route, without those that may wait"
    counter LIMITED "lobbyd_http_limited_total"
        "Connections and requests of the HTTP API refused at a limit, by limit"
        { "limit": "connections", "long_polls", "changes", "joins", "rooms", "guests", "hashes", "unknown_rooms",
          "request_bytes", "response_bytes" }
    gauge LONG_POLLS "lobbyd_http_long_polls" "Requests that wait for their room to change" {}
    gauge EVENT_STREAMS "lobbyd_event_streams" "Open event streams, on which clients follow a room" {}
    counter LOGINS "lobbyd_logins_total" "Logins, by outcome"
        { "outcome": "ok", "wrong", "throttled" }
    counter ROOM_PASSWORDS "lobbyd_room_passwords_total" "Passwords given to join a room, by outcome"
        { "outcome": "ok", "wrong", "throttled" }
    counter CACHE_LOADS "lobbyd_cache_loads_total"
        "Reads of the database for the room cache, by what was read"
        { "what": "room", "attendee", "list" }
    counter MISSED_UPDATES "lobbyd_cache_missed_updates_total"
        "Changes of cached rooms that were found in the database before their update arrived" {}
    counter SPANS_DROPPED "lobbyd_spans_dropped_total" "Trace spans that were not exported" {}
}

/// Bounds of the lag histograms, in seconds: fine around the goal, coarse for outages.
const LAG_BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0];

/// Bounds of the durations of requests, in seconds.
const REQUEST_BUCKETS: [f64; 11] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// A burst of 50,000 requests leaves 800 KiB of samples until they are condensed.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Installs the recorder of this process, which must not have one already.
pub fn install() -> anyhow::Result<PrometheusHandle> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(LAG.to_owned()), &LAG_BUCKETS)?
        .set_buckets_for_metric(Matcher::Full(TALK_LAG.to_owned()), &LAG_BUCKETS)?
        .set_buckets_for_metric(Matcher::Full(SIGNALING_LAG.to_owned()), &LAG_BUCKETS)?
        .set_buckets_for_metric(Matcher::Full(COMMIT_LAG.to_owned()), &LAG_BUCKETS)?
        .set_buckets_for_metric(Matcher::Full(REQUEST_DURATION.to_owned()), &REQUEST_BUCKETS)?
        .install_recorder()?;
    describe();
    metrics::gauge!(RELOAD_OK).set(1);
    Ok(handle)
}

/// Condenses the samples of histograms, which otherwise accumulate until the metrics are scraped.
pub async fn upkeep(handle: PrometheusHandle, stop: CancellationToken) {
    let mut tick = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => handle.run_upkeep(),
        }
    }
}
