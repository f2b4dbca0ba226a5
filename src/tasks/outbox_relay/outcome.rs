//! The messages of claimed rows, and what became of each row.

use metrics::counter;

use crate::bus::{Confirmation, Message, cloudevents};
use crate::domain::{EventId, OutboxEvent, OutboxRow};
use crate::metrics::PUBLISHED;
use crate::traces::{Span, Traces};

/// An event with so many attempts has been tried for a minute, and counts as refused.
pub(super) const REFUSED_ATTEMPTS: u32 = 6;

/// Rows with the messages of their events, and the spans of their publication. The last events have
/// no message if there were more than can be sent.
#[derive(Default)]
pub(super) struct Encoded {
    pub(super) rows: Vec<OutboxRow>,
    pub(super) messages: Vec<Message>,
    pub(super) spans: Vec<Span>,
    /// Rows whose data is not JSON.
    pub(super) unreadable: Vec<(EventId, serde_json::Error)>,
}

/// What became of the events of a row.
pub(super) struct Outcome {
    pub(super) id: EventId,
    pub(super) attempt: u32,
    pub(super) confirmed: Vec<OutboxEvent>,
    pub(super) refused: Vec<OutboxEvent>,
    /// Those that were not sent, or not answered.
    pub(super) others: Vec<OutboxEvent>,
    /// Why one of them was refused.
    pub(super) refusal: Option<String>,
    /// Why one of them was not answered.
    pub(super) failure: Option<String>,
}

/// What became of a row as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Share {
    Confirmed,
    Refused,
    Unanswered,
    /// Its events differ.
    Mixed,
}

/// Encodes the first `limit` events.
pub(super) fn encode(traces: &Traces, rows: Vec<OutboxRow>, limit: usize) -> Encoded {
    let mut encoded = Encoded::default();
    for row in rows {
        let before = encoded.messages.len();
        match encoded.add(traces, &row, limit) {
            Ok(()) => encoded.rows.push(row),
            Err(error) => {
                counter!(PUBLISHED, "outcome" => "unreadable").increment(1);
                encoded.messages.truncate(before);
                encoded.spans.truncate(before);
                encoded.unreadable.push((row.id, error));
            }
        }
    }
    encoded
}

impl Encoded {
    fn add(
        &mut self,
        traces: &Traces,
        row: &OutboxRow,
        limit: usize,
    ) -> Result<(), serde_json::Error> {
        for event in row.events.iter().take(limit.saturating_sub(self.messages.len())) {
            let mut span = traces.publication(event, row.attempt);
            span.set_event_id(&event.id);
            span.set("lobbyd.room.token", &event.token);
            span.set("lobbyd.attempt", &row.attempt);
            match cloudevents::outgoing(event, span.context()) {
                Ok(message) => {
                    self.messages.push(message);
                    self.spans.push(span);
                }
                Err(error) => {
                    span.set("lobbyd.outcome", &"unreadable");
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

/// What became of rows, by the answers to their messages.
pub(super) fn outcomes(
    rows: Vec<OutboxRow>,
    confirmations: Vec<Confirmation>,
    spans: Vec<Span>,
) -> Vec<Outcome> {
    let mut answers = confirmations.into_iter().zip(spans);
    let outcome = |row: OutboxRow| {
        let mut outcome = Outcome::new(row.id, row.attempt);
        for event in row.events {
            outcome.add(event, answers.next());
        }
        outcome.count();
        outcome
    };
    rows.into_iter().map(outcome).collect()
}

impl Outcome {
    fn new(id: EventId, attempt: u32) -> Self {
        let (confirmed, refused, others) = (Vec::new(), Vec::new(), Vec::new());
        Self { id, attempt, confirmed, refused, others, refusal: None, failure: None }
    }

    fn add(&mut self, event: OutboxEvent, answer: Option<(Confirmation, Span)>) {
        let Some((confirmation, mut span)) = answer else {
            self.others.push(event);
            return;
        };
        match confirmation {
            Confirmation::Confirmed => {
                span.set("lobbyd.outcome", &"confirmed");
                self.confirmed.push(event);
            }
            Confirmation::Refused(why) => {
                span.set("lobbyd.outcome", &"refused");
                self.refusal.get_or_insert(why);
                self.refused.push(event);
            }
            Confirmation::Unconfirmed(why) => {
                span.set("lobbyd.outcome", &"unconfirmed");
                counter!(PUBLISHED, "outcome" => "unconfirmed").increment(1);
                self.failure.get_or_insert(why);
                self.others.push(event);
            }
        }
    }

    fn count(&self) {
        for (outcome, events) in [("confirmed", &self.confirmed), ("refused", &self.refused)] {
            let number = u64::try_from(events.len()).unwrap_or(u64::MAX);
            counter!(PUBLISHED, "outcome" => outcome).increment(number);
        }
    }

    pub(super) fn share(&self) -> Share {
        match (self.confirmed.is_empty(), self.refused.is_empty(), self.others.is_empty()) {
            (false, true, true) => Share::Confirmed,
            (true, false, true) => Share::Refused,
            (true, true, _) => Share::Unanswered,
            (false, _, _) | (true, false, false) => Share::Mixed,
        }
    }
}
