//! The ops listener: `/livez`, `/readyz` and `/metrics`.
//!
//! It reports what [`Health`] and the metrics say, and decides nothing. It listens on an address of
//! its own, so clients of the API can neither reach it nor occupy its connections.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::connections::Limits;
use super::server;
use crate::health::{Health, Problem};
use crate::metrics::Collect;

/// Enough for probes and some scrapers.
const CONNECTIONS: usize = 64;

/// Time for the header of a request, also on an idle connection: probes connect for each request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Media type of Prometheus' text format.
const METRICS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Clone)]
struct Ops {
    health: Arc<Health>,
    backlog: Arc<dyn Collect>,
    metrics: PrometheusHandle,
}

/// Serves probes and metrics on `listener` until `stop`. `backlog` sets its gauges for each scrape.
pub async fn serve(
    listener: TcpListener,
    health: Arc<Health>,
    backlog: Arc<dyn Collect>,
    metrics: PrometheusHandle,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let router = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render))
        .with_state(Ops { health, backlog, metrics });
    let limits = Limits { connections: CONNECTIONS, per_address: CONNECTIONS, trusted: Vec::new() };
    server::serve(listener, router, limits, HEADER_TIMEOUT, stop).await
}

/// Whether the process makes progress. Database and broker do not matter here: a restart would not
/// repair them.
async fn livez(State(ops): State<Ops>) -> impl IntoResponse {
    if ops.health.is_alive() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the timer task is stuck\n")
    }
}

/// Whether all components are up and no work is overdue, otherwise what is wrong. A query such as
/// `?part=database` restricts this to the parts that it names: the API works without the broker.
async fn readyz(State(ops): State<Ops>, RawQuery(query): RawQuery) -> impl IntoResponse {
    let query = query.unwrap_or_default();
    let names: Vec<_> = form_urlencoded::parse(query.as_bytes())
        .filter_map(|(key, value)| (key == "part").then_some(value))
        .collect();
    let is_asked_for = |part| names.is_empty() || names.iter().any(|name| name == part);
    let mut text = String::new();
    for Problem { part, text: problem } in ops.health.problems() {
        if is_asked_for(part) {
            writeln!(text, "{part}: {problem}").expect("writing to a String does not fail");
        }
    }
    if text.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, text)
    }
}

async fn render(State(ops): State<Ops>) -> impl IntoResponse {
    ops.health.record_ages();
    ops.backlog.collect().await;
    ([(CONTENT_TYPE, METRICS_TEXT)], ops.metrics.render())
}
