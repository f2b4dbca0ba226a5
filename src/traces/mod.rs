//! Trace spans: from the receipt of a lobby change to its commit, and from the reset of a room to the
//! publication of its event, also across processes.
//!
//! A received change continues the trace of its sender. The reset of a room begins the trace of its
//! own event, whose context follows from the event's id; the publication continues that trace and
//! passes it to the consumers.
//!
//! The tasks create spans; a finished span goes through a channel to the [`Exporter`], which `app`
//! starts. Recording never blocks: a span that does not fit is dropped and counted. Without a
//! configured endpoint all of this does nothing.

#[cfg_attr(feature = "otlp", path = "otlp.rs")]
#[cfg_attr(not(feature = "otlp"), path = "none.rs")]
mod exporter;

use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio::sync::mpsc;

pub use self::exporter::Exporter;
use crate::clock::DatabaseClock;
use crate::domain::{EventId, OutboxEvent, TraceParent};

/// Spans that wait for the exporter: those of some seconds of a burst.
const CAPACITY: usize = 8192;

/// Creates the spans of a process. The default one records nothing.
#[derive(Clone, Default)]
pub struct Traces(Option<Recorder>);

#[derive(Clone)]
struct Recorder {
    finished: mpsc::Sender<FinishedSpan>,
    clock: Arc<DatabaseClock>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Processes a received message.
    Consumer,
    Internal,
    /// Sends a message.
    Producer,
}

#[derive(Debug)]
#[cfg_attr(not(feature = "otlp"), expect(dead_code, reason = "read by the exporter"))]
pub struct FinishedSpan {
    name: &'static str,
    kind: Kind,
    context: TraceParent,
    parent: Option<TraceParent>,
    started_at: DateTime<Utc>,
    /// `None` while the span lasts.
    ended_at: Option<DateTime<Utc>>,
    attributes: Vec<(&'static str, String)>,
}

/// Lasts until it is dropped. It is empty if spans are not recorded.
pub struct Span(Option<(FinishedSpan, Recorder)>);

impl Traces {
    /// Records spans, with times of this clock, for the exporter that reads the receiver.
    pub fn new(clock: Arc<DatabaseClock>) -> (Self, mpsc::Receiver<FinishedSpan>) {
        let (finished, spans) = mpsc::channel(CAPACITY);
        (Self(Some(Recorder { finished, clock })), spans)
    }

    /// Begins a span that continues the trace of `parent`, or begins a trace.
    pub fn span(&self, name: &'static str, kind: Kind, parent: Option<TraceParent>) -> Span {
        if self.0.is_none() {
            return Span(None);
        }
        let trace = parent.map_or_else(rand::random, |parent| parent.trace);
        let sampled = parent.is_none_or(|parent| parent.sampled);
        self.begin(name, kind, TraceParent { trace, span: rand::random(), sampled }, parent)
    }

    /// The span of a room's reset: the first one in the trace of its event.
    pub fn opening(&self, event: &OutboxEvent, opened_at: DateTime<Utc>) -> Span {
        if self.0.is_none() {
            return Span(None);
        }
        let Some(context) = TraceParent::of_event(&event.id) else { return Span(None) };
        let mut span = self.begin("open room", Kind::Internal, context, None);
        if let Some((finished, _)) = &mut span.0 {
            finished.started_at = event.created_at;
            finished.ended_at = Some(opened_at);
        }
        span
    }

    /// Begins the span of a publication. It is the first one in the trace of its event, unless a
    /// reset began that trace, or an earlier attempt.
    pub fn publication(&self, event: &OutboxEvent, attempt: u32) -> Span {
        if self.0.is_none() {
            return Span(None);
        }
        match TraceParent::of_event(&event.id) {
            Some(context) if event.due_at.is_none() && attempt <= 1 => {
                self.begin("publish event", Kind::Producer, context, None)
            }
            parent => self.span("publish event", Kind::Producer, parent),
        }
    }

    fn begin(
        &self,
        name: &'static str,
        kind: Kind,
        context: TraceParent,
        parent: Option<TraceParent>,
    ) -> Span {
        let Some(recorder) = self.0.as_ref().filter(|_| context.sampled) else { return Span(None) };
        let (started_at, ended_at, attributes) = (recorder.clock.now(), None, Vec::new());
        let finished =
            FinishedSpan { name, kind, context, parent, started_at, ended_at, attributes };
        Span(Some((finished, recorder.clone())))
    }
}

impl Span {
    /// Begins a span within this one.
    pub fn child(&self, name: &'static str) -> Self {
        let Some((finished, recorder)) = &self.0 else { return Self(None) };
        Traces(Some(recorder.clone())).span(name, Kind::Internal, Some(finished.context))
    }

    /// What continues this span passes on as its parent.
    pub fn context(&self) -> Option<TraceParent> {
        self.0.as_ref().map(|(finished, _)| finished.context)
    }

    pub fn set(&mut self, key: &'static str, value: &dyn fmt::Display) {
        if let Some((finished, _)) = &mut self.0 {
            finished.attributes.push((key, value.to_string()));
        }
    }

    pub fn set_event_id(&mut self, id: &EventId) {
        self.set("messaging.message.id", id);
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some((mut finished, recorder)) = self.0.take() {
            finished.ended_at.get_or_insert_with(|| recorder.clock.now().max(finished.started_at));
            if recorder.finished.try_send(finished).is_err() {
                record_dropped(1);
            }
        }
    }
}

fn record_dropped(spans: usize) {
    let spans = u64::try_from(spans).unwrap_or(u64::MAX);
    metrics::counter!(crate::metrics::SPANS_DROPPED).increment(spans);
}
