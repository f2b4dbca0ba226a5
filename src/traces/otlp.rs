//! Exports spans in batches to a collector, by OTLP over HTTP. The only user of OpenTelemetry.

use std::time::Duration;

use opentelemetry::trace::{SpanContext, SpanKind, Status, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, SpanId, TraceFlags, TraceId};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{FinishedSpan, Kind, record_dropped};
use crate::domain::TraceParent;

/// Maximum spans of one request.
const BATCH: usize = 512;

/// How long a batch waits for more spans.
const BATCH_DELAY: Duration = Duration::from_secs(1);

const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

pub struct Exporter(SpanExporter);

impl Exporter {
    /// Connects when the first spans are exported.
    pub fn new(endpoint: &str) -> Result<Self, String> {
        let address = url::Url::parse(endpoint).map_err(|error| error.to_string())?;
        if address.scheme() != "http" || !address.has_host() {
            return Err(
                "expected http://host:4318/v1/traces; for TLS use a local collector".to_owned()
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

    /// Runs until the last sender of spans is dropped. Spans that the collector does not accept are
    /// dropped. After `stop` the first failure ends it, so that an unavailable collector delays the
    /// shutdown by no more than one request.
    pub async fn run(self, mut spans: mpsc::Receiver<FinishedSpan>, stop: CancellationToken) {
        let mut available = true;
        while let Some(first) = spans.recv().await {
            let mut batch = vec![first];
            let deadline = Instant::now() + BATCH_DELAY;
            while batch.len() < BATCH
                && let Ok(Some(span)) = timeout_at(deadline, spans.recv()).await
            {
                batch.push(span);
            }
            let count = batch.len();
            let exporting = self.0.export(batch.into_iter().map(span_data).collect());
            let problem = match timeout(REQUEST_TIMEOUT, exporting).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_elapsed) => Some(format!("no answer within {REQUEST_TIMEOUT:?}")),
            };
            if let Some(error) = &problem {
                let remaining = if stop.is_cancelled() { spans.len() } else { 0 };
                record_dropped(count + remaining);
                if available {
                    tracing::warn!(error, "trace collector unavailable, dropping spans");
                }
                if stop.is_cancelled() {
                    return;
                }
            } else if !available {
                tracing::info!("trace collector available");
            }
            available = problem.is_none();
        }
    }
}

fn span_data(span: FinishedSpan) -> SpanData {
    SpanData {
        span_context: context(span.context),
        parent_span_id: span.parent.map_or(SpanId::INVALID, |parent| SpanId::from(parent.span)),
        parent_span_is_remote: span.kind == Kind::Consumer && span.parent.is_some(),
        span_kind: match span.kind {
            Kind::Consumer => SpanKind::Consumer,
            Kind::Internal => SpanKind::Internal,
            Kind::Producer => SpanKind::Producer,
        },
        name: span.name.into(),
        start_time: span.started_at.into(),
        end_time: span.ended_at.unwrap_or(span.started_at).into(),
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

fn context(context: TraceParent) -> SpanContext {
    let flags = if context.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let (trace, span) = (TraceId::from(context.trace), SpanId::from(context.span));
    SpanContext::new(trace, span, flags, false, TraceState::default())
}
