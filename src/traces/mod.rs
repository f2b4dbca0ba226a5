//! Traces: from the event that comes in through its commit, and from the room that opens to the
//! publication, in whatever processes these are.
//!
//! A change that comes in goes on with the trace of its sender. A room that opens begins the trace of
//! its own event, which has the event's id. The publication goes on with it, and hands it to whoever receives the event.
//!
//! Spans go over a channel to the exporter. It holds up nobody: when the collector does not take
//! them they are dropped, and counted. Without an endpoint nothing of this costs anything.

#[cfg_attr(feature = "otlp", path = "otlp.rs")]
#[cfg_attr(not(feature = "otlp"), path = "none.rs")]
mod exporter;

use std::{fmt, sync::Arc};

use chrono::{DateTime, Utc};
use tokio::sync::mpsc;

pub use self::exporter::Exporter;
use crate::{
    clock::DatabaseClock,
    domain::{EventId, OutboxEvent, TraceParent},
};

/// Spans that wait for the exporter: those of some seconds of a burst.
const WAITING: usize = 8192;

/// Where the spans of a process go, if anywhere.
#[derive(Clone, Default)]
pub struct Traces(Option<Recorder>);

#[derive(Clone)]
struct Recorder {
    finished: mpsc::Sender<Finished>,
    clock: Arc<DatabaseClock>,
}

/// What a span stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Work on a message that came.
    Consumer,
    /// Work inside.
    Internal,
    /// A message that is sent.
    Producer,
}

/// A span that is over, for the exporter.
#[derive(Debug)]
#[cfg_attr(not(feature = "otlp"), expect(dead_code, reason = "nobody reads them"))]
pub struct Finished {
    name: &'static str,
    kind: Kind,
    place: TraceParent,
    parent: Option<TraceParent>,
    begin: DateTime<Utc>,
    /// `None` as long as it goes on.
    end: Option<DateTime<Utc>>,
    attributes: Vec<(&'static str, String)>,
}

/// A span that goes on until it is dropped; or nothing, where nobody records it.
pub struct Span(Option<(Finished, Recorder)>);

impl Traces {
    /// Spans, by the database's time, and the end at which they come out.
    pub fn new(clock: Arc<DatabaseClock>) -> (Self, mpsc::Receiver<Finished>) {
        let (finished, spans) = mpsc::channel(WAITING);
        (Self(Some(Recorder { finished, clock })), spans)
    }

    /// How many spans would be taken now; none if nobody wants any.
    pub fn room(&self) -> usize {
        self.0.as_ref().map_or(0, |recorder| recorder.finished.capacity())
    }

    /// Counts spans for which there was no room, and which were not even begun.
    pub fn pass_over(&self, spans: usize) {
        if self.0.is_some() {
            metrics::counter!(crate::metrics::SPANS_DROPPED)
                .increment(u64::try_from(spans).unwrap_or(u64::MAX));
        }
    }

    /// A span that goes on with the trace of `parent`, or begins one.
    pub fn span(&self, name: &'static str, kind: Kind, parent: Option<TraceParent>) -> Span {
        if self.0.is_none() {
            return Span(None);
        }
        let trace = parent.map_or_else(rand::random, |parent| parent.trace);
        let sampled = parent.is_none_or(|parent| parent.sampled);
        self.span_at(name, kind, TraceParent { trace, span: rand::random(), sampled }, parent)
    }

    /// The span of a room that opened: the first one in the trace of its event.
    pub fn opening(&self, event: &OutboxEvent, opened_at: DateTime<Utc>) -> Span {
        let Some(place) = TraceParent::of_event(&event.id) else { return Span(None) };
        let mut span = self.span_at("open room", Kind::Internal, place, None);
        if let Some((finished, _)) = &mut span.0 {
            finished.begin = event.created_at;
            finished.end = Some(opened_at);
        }
        span
    }

    /// The span of a publication. It is the first one in the trace of its event, unless that is
    /// about a room that opened, or was tried before.
    pub fn publication(&self, event: &OutboxEvent) -> Span {
        let origin = TraceParent::of_event(&event.id);
        match origin {
            Some(place) if event.due_at.is_none() && event.attempt <= 1 => {
                self.span_at("publish event", Kind::Producer, place, None)
            }
            parent => self.span("publish event", Kind::Producer, parent),
        }
    }

    fn span_at(
        &self,
        name: &'static str,
        kind: Kind,
        place: TraceParent,
        parent: Option<TraceParent>,
    ) -> Span {
        let Some(recorder) = self.0.as_ref().filter(|_| place.sampled) else { return Span(None) };
        let begin = recorder.clock.now();
        let attributes = Vec::new();
        let finished = Finished { name, kind, place, parent, begin, end: None, attributes };
        Span(Some((finished, recorder.clone())))
    }
}

impl Span {
    /// A part of it.
    pub fn part(&self, name: &'static str) -> Self {
        let Some((finished, recorder)) = &self.0 else { return Self(None) };
        Traces(Some(recorder.clone())).span(name, Kind::Internal, Some(finished.place))
    }

    /// Where it stands, for those that go on with it.
    pub fn place(&self) -> Option<TraceParent> {
        self.0.as_ref().map(|(finished, _)| finished.place)
    }

    /// Notes a fact.
    pub fn note(&mut self, key: &'static str, value: &dyn fmt::Display) {
        if let Some((finished, _)) = &mut self.0 {
            finished.attributes.push((key, value.to_string()));
        }
    }

    /// Notes the event that it is about.
    pub fn note_event(&mut self, id: &EventId) {
        self.note("messaging.message.id", id);
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some((mut finished, recorder)) = self.0.take() {
            finished.end.get_or_insert_with(|| recorder.clock.now().max(finished.begin));
            if recorder.finished.try_send(finished).is_err() {
                metrics::counter!(crate::metrics::SPANS_DROPPED).increment(1);
            }
        }
    }
}
