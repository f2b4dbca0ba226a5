//! The ops listener: `/livez`, `/readyz`, `/metrics`.

use std::{fmt::Write, sync::Arc};

use axum::{
    Router,
    extract::{RawQuery, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::server::{self, Limits};
use crate::health::{Component, Health};

/// Probes and a scraper or two.
const CONNECTIONS: usize = 64;

/// Media type of Prometheus' text format.
const METRICS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Clone)]
struct Ops {
    health: Arc<Health>,
    metrics: PrometheusHandle,
}

/// Serves the probes and metrics until `stop`.
///
/// # Errors
///
/// None after the listener was bound.
pub async fn serve(
    listener: TcpListener,
    health: Arc<Health>,
    metrics: PrometheusHandle,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let router = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render))
        .with_state(Ops { health, metrics });
    let limits = Limits { connections: CONNECTIONS, per_address: CONNECTIONS, trusted: Vec::new() };
    server::serve(listener, router, limits, stop).await
}

/// Whether the process works. Databases and brokers do not matter here: a restart would not bring
/// them back.
async fn livez(State(ops): State<Ops>) -> impl IntoResponse {
    if ops.health.is_alive() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the timer loop is stuck\n")
    }
}

/// Whether everything is reached, and what is not; or whether just the parts are that the query
/// names, as in `?part=database`: the API goes on to work without the broker.
async fn readyz(State(ops): State<Ops>, RawQuery(query): RawQuery) -> impl IntoResponse {
    let query = query.unwrap_or_default();
    let parts: Vec<_> = form_urlencoded::parse(query.as_bytes())
        .filter_map(|(key, value)| (key == "part").then_some(value))
        .collect();
    let asked = |part: Component| parts.is_empty() || parts.iter().any(|name| name == part.name());
    let mut text = String::new();
    for (part, problem) in ops.health.problems().into_iter().filter(|(part, _)| asked(*part)) {
        writeln!(text, "{}: {problem}", part.name()).expect("a text takes any text");
    }
    if text.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, text)
    }
}

async fn render(State(ops): State<Ops>) -> impl IntoResponse {
    ([(CONTENT_TYPE, METRICS_TEXT)], ops.metrics.render())
}
