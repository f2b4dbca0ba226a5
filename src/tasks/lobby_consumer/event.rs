//! A delivery on its way to its acknowledgement, and where it waits.

use std::collections::HashMap;

use crate::bus::{Delivery, DeliveryTag, Destination, Transfer, Waited};
use crate::domain::{IncomingChange, RoomToken, Version};
use crate::tasks::receipt::Receipt;
use crate::traces::Span;

/// Longest reason of a dead letter, in bytes. It may quote the body.
const MAX_REASON: usize = 1000;

/// A lobby change that is not applied yet.
pub(super) struct Event {
    pub(super) delivery: Delivery,
    pub(super) change: IncomingChange,
    pub(super) received: Receipt,
    pub(super) span: Span,
}

/// Why an event cannot be applied now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// Another transaction has locked the room.
    Locked,
    /// The database takes too long to change the room.
    Slow,
    /// There is no such room, or not yet.
    Unknown,
}

/// An event that goes to the retry queue.
pub(super) struct Parked {
    pub(super) event: Event,
    pub(super) obstacle: Obstacle,
}

/// A delivery that can never be applied.
pub(super) struct DeadLetter {
    pub(super) delivery: Delivery,
    pub(super) received: Receipt,
    /// Its room, if it names one.
    pub(super) room: Option<RoomToken>,
    pub(super) outcome: &'static str,
    pub(super) reason: String,
    pub(super) span: Span,
}

/// Work that is not done, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Undone {
    pub(super) since: Receipt,
    pub(super) item: String,
}

/// What goes to another queue.
pub(super) trait Outgoing: Send + Sync + 'static {
    fn transfer(&self) -> Transfer<'_>;
    fn tag(&self) -> DeliveryTag;
    fn received(&self) -> Receipt;
}

impl DeadLetter {
    pub(super) fn new(
        delivery: Delivery,
        received: Receipt,
        room: Option<RoomToken>,
        outcome: &'static str,
        mut reason: String,
        span: Span,
    ) -> Self {
        reason.truncate(reason.floor_char_boundary(MAX_REASON));
        Self { delivery, received, room, outcome, reason, span }
    }
}

impl Event {
    pub(super) fn dead_letter(self, outcome: &'static str, reason: String) -> DeadLetter {
        let room = Some(self.change.token);
        DeadLetter::new(self.delivery, self.received, room, outcome, reason, self.span)
    }

    /// The event, after it has waited: its room may have changed since it was received. It becomes
    /// the `latest` of those of its room that wait.
    pub(super) fn waited(self, latest: &mut Version) -> Self {
        let change = self.change.waited(*latest);
        *latest = change.order.version().max(*latest);
        Self { change, ..self }
    }

    pub(super) fn undone(&self) -> Undone {
        let item = format!("event of room {} is not acknowledged", self.change.token);
        Undone { since: self.received, item }
    }

    pub(super) fn undone_for(&self, obstacle: Obstacle) -> Undone {
        let room = &self.change.token;
        let item = match obstacle {
            Obstacle::Locked => format!("event of room {room}, which is locked"),
            Obstacle::Slow => {
                format!("event of room {room}, which takes the database too long to change")
            }
            Obstacle::Unknown => format!("event of room {room}, which is unknown"),
        };
        Undone { since: self.received, item }
    }
}

/// The event that was received first.
pub(super) fn oldest(events: &[Event]) -> Option<&Event> {
    events.iter().min_by_key(|event| event.received)
}

/// Events of a set, after they have waited.
pub(super) fn waited(events: Vec<Event>) -> Vec<Event> {
    let mut latest: HashMap<RoomToken, Version> = HashMap::new();
    let each = events.into_iter().map(|event| {
        let latest = latest.entry(event.change.token.clone()).or_insert(Version::ZERO);
        event.waited(latest)
    });
    each.collect()
}

impl Outgoing for Parked {
    fn transfer(&self) -> Transfer<'_> {
        let Event { delivery, received, change, .. } = &self.event;
        let identity = change.identity.as_ref();
        let destination = Destination::Retry(Waited {
            first_received: received.at(),
            version: change.order.version(),
            duplicate_since: identity.and_then(|identity| identity.duplicate_since),
        });
        Transfer { delivery, destination }
    }

    fn tag(&self) -> DeliveryTag {
        self.event.delivery.tag
    }

    fn received(&self) -> Receipt {
        self.event.received
    }
}

impl Outgoing for DeadLetter {
    fn transfer(&self) -> Transfer<'_> {
        let destination =
            Destination::DeadLetters { reason: &self.reason, received: self.received.at() };
        Transfer { delivery: &self.delivery, destination }
    }

    fn tag(&self) -> DeliveryTag {
        self.delivery.tag
    }

    fn received(&self) -> Receipt {
        self.received
    }
}
