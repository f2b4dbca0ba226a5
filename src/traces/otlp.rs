//! The exporter: spans in batches to a collector, by OTLP over HTTP.

use std::time::Duration;

use opentelemetry::{
    InstrumentationScope, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{SpanContext, SpanKind, Status, TraceState},
};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks},
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{Finished, Kind};
use crate::domain::TraceParent;

/// Spans of one request.
const BATCH: usize = 512;

/// How long a batch waits to become full.
const GATHERING: Duration = Duration::from_secs(1);

/// Bound of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// The way to a collector.
pub struct Exporter(SpanExporter);

impl Exporter {
    /// To the collector at this address. Nothing is connected yet.
    ///
    /// # Errors
    ///
    /// What is wrong with the address.
    pub fn new(endpoint: &str) -> Result<Self, String> {
        let address = url::Url::parse(endpoint).map_err(|error| error.to_string())?;
        if address.scheme() != "http" || !address.has_host() {
            return Err(
                "expected http://host:4318/v1/traces; a collector nearby does TLS".to_owned()
            );
        }
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(endpoint)
            .with_timeout(REQUEST_TIMEOUT)
            .build()
            .map_err(|error| error.to_string())?;
        exporter.set_resource(
            &Resource::builder()
                .with_service_name("lobbyd")
                .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
                .build(),
        );
        Ok(Self(exporter))
    }

    /// Exports until nobody has spans any more. What the collector does not take is dropped. After
    /// `stop` the first failure is the end, and all that is left is dropped, so that a collector that is
    /// away holds up nobody for longer than one request.
    pub async fn run(self, mut spans: mpsc::Receiver<Finished>, stop: CancellationToken) {
        let mut working = true;
        while let Some(first) = spans.recv().await {
            let mut batch = vec![first];
            let full_by = Instant::now() + GATHERING;
            while batch.len() < BATCH
                && let Ok(Some(span)) = timeout_at(full_by, spans.recv()).await
            {
                batch.push(span);
            }
            let number = batch.len();
            let exporting = self.0.export(batch.into_iter().map(span_data).collect());
            let problem = match timeout(REQUEST_TIMEOUT, exporting).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_elapsed) => Some(format!("no answer within {REQUEST_TIMEOUT:?}")),
            };
            if let Some(error) = &problem {
                let left = if stop.is_cancelled() { spans.len() } else { 0 };
                metrics::counter!(crate::metrics::SPANS_DROPPED)
                    .increment(u64::try_from(number + left).unwrap_or(0));
                if working {
                    tracing::warn!(error, "trace collector unavailable, dropping spans");
                }
                if stop.is_cancelled() {
                    return;
                }
            } else if !working {
                tracing::info!("trace collector available");
            }
            working = problem.is_none();
        }
    }
}

fn span_data(span: Finished) -> SpanData {
    SpanData {
        span_context: context(span.place),
        parent_span_id: span.parent.map_or(SpanId::INVALID, |parent| SpanId::from(parent.span)),
        parent_span_is_remote: span.kind == Kind::Consumer && span.parent.is_some(),
        span_kind: match span.kind {
            Kind::Consumer => SpanKind::Consumer,
            Kind::Internal => SpanKind::Internal,
            Kind::Producer => SpanKind::Producer,
        },
        name: span.name.into(),
        start_time: span.begin.into(),
        end_time: span.end.unwrap_or(span.begin).into(),
        attributes: span
            .attributes
            .into_iter()
            .map(|(key, value)| KeyValue::new(key, value))
            .collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope::builder("lobbyd").build(),
    }
}

fn context(place: TraceParent) -> SpanContext {
    let flags = if place.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let (trace, span) = (TraceId::from(place.trace), SpanId::from(place.span));
    SpanContext::new(trace, span, flags, false, TraceState::default())
}
