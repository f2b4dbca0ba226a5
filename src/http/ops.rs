//! The ops listener: `/livez`, `/readyz` and `/metrics`, and a page that shows them with what is due next.
//!
//! It reports what [`Health`] and the metrics say, and decides nothing. It listens on an address of
//! its own, so clients of the API can neither reach it nor occupy its connections.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::connections::Limits;
use super::pages::{Asset, Page};
use super::server;
use crate::health::{Health, Problem};
use crate::metrics::Collect;

/// Enough for probes and some scrapers.
const CONNECTIONS: usize = 64;

/// Time for the header of a request, also on an idle connection: probes connect for each request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Media type of Prometheus' text format.
const METRICS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

const HTML: &str = include_str!("pages/assets/operations/page.html");

const ASSETS: &[Asset] = &[
    Asset { name: "page.css", text: include_str!("pages/assets/operations/page.css") },
    Asset { name: "page.js", text: include_str!("pages/assets/operations/page.js") },
    Asset { name: "metrics.js", text: include_str!("pages/assets/operations/metrics.js") },
    Asset { name: "icon.svg", text: include_str!("pages/assets/call/icon.svg") },
];

/// What is due next, read for the page.
#[async_trait]
pub trait Outlook: Send + Sync {
    /// The next timers, in the order in which they are due; `None` if they cannot be read.
    async fn timers(&self) -> Option<Vec<UpcomingTimer>>;

    /// The queues of the broker; `None` if they cannot be read.
    async fn queues(&self) -> Option<Vec<Queue>>;
}

#[derive(Debug, Clone, Serialize)]
pub struct UpcomingTimer {
    pub token: String,
    /// Unix seconds.
    pub due_at: i64,
}

#[derive(Debug, Clone, Serialize)]
pub struct Queue {
    pub name: String,
    /// `None` if there is no such queue.
    pub messages: Option<u64>,
}

#[derive(Clone)]
struct Ops {
    health: Arc<Health>,
    gauges: Arc<dyn Collect>,
    outlook: Arc<dyn Outlook>,
    metrics: PrometheusHandle,
    page: Arc<Page>,
}

/// Serves probes, metrics and the page on `listener` until `stop`. `gauges` are set for each scrape.
pub async fn serve(
    listener: TcpListener,
    health: Arc<Health>,
    gauges: Arc<dyn Collect>,
    outlook: Arc<dyn Outlook>,
    metrics: PrometheusHandle,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let page = Arc::new(Page::new(HTML, ASSETS, &[]));
    let router = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render))
        .route("/", get(show))
        .route("/assets/{version}/{name}", get(asset))
        .route("/status.json", get(status))
        .with_state(Ops { health, gauges, outlook, metrics, page });
    let limits = Limits {
        connections: CONNECTIONS,
        per_address: CONNECTIONS,
        trusted: Vec::new(),
        uses_reserve: true,
    };
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
    ops.gauges.collect().await;
    ([(CONTENT_TYPE, METRICS_TEXT)], ops.metrics.render())
}

async fn show(State(ops): State<Ops>, headers: HeaderMap) -> Response {
    ops.page.html(StatusCode::OK, &headers)
}

async fn asset(State(ops): State<Ops>, Path((version, name)): Path<(String, String)>) -> Response {
    ops.page.asset(&version, &name)
}

/// What the page shows besides the metrics.
#[derive(Serialize)]
struct Status {
    version: &'static str,
    parts: Vec<Part>,
    undone: Vec<Undone>,
    timers: Option<Vec<UpcomingTimer>>,
    queues: Option<Vec<Queue>>,
}

#[derive(Serialize)]
struct Part {
    name: &'static str,
    /// Why it does not work.
    problem: Option<String>,
}

/// The oldest item of some work.
#[derive(Serialize)]
struct Undone {
    part: &'static str,
    item: String,
    seconds: u64,
}

async fn status(State(ops): State<Ops>) -> impl IntoResponse {
    let parts = ops.health.components().into_iter();
    let undone = ops.health.oldest().into_iter();
    let (timers, queues) = tokio::join!(ops.outlook.timers(), ops.outlook.queues());
    let status = Status {
        version: env!("CARGO_PKG_VERSION"),
        parts: parts.map(|(name, problem)| Part { name, problem }).collect(),
        undone: undone
            .map(|(part, item, age)| Undone { part, item, seconds: age.as_secs() })
            .collect(),
        timers,
        queues,
    };
    let status = serde_json::to_string(&status).expect("it has text keys");
    ([(CACHE_CONTROL, "no-store"), (CONTENT_TYPE, "application/json")], status)
}
