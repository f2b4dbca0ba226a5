//! A delivery on its way to its acknowledgement, and where it waits.

use chrono::{DateTime, Utc};

use crate::bus::{Delivery, DeliveryTag, Destination, Transfer};
use crate::domain::IncomingChange;
use crate::traces::Span;

/// A lobby change that is not applied yet.
pub(super) struct Event {
    pub(super) delivery: Delivery,
    pub(super) change: IncomingChange,
    /// When it was first received, by any worker.
    pub(super) received: DateTime<Utc>,
    pub(super) span: Span,
}

/// Why an event cannot be applied now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// Another transaction has locked the room.
    LockedRoom,
    UnknownRoom,
}

/// An event that goes to the retry queue.
pub(super) struct Parked {
    pub(super) event: Event,
    pub(super) obstacle: Obstacle,
}

/// A delivery that can never be applied.
pub(super) struct DeadLetter {
    pub(super) delivery: Delivery,
    pub(super) received: DateTime<Utc>,
    pub(super) reason: String,
}

/// Work that is not done, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Undone {
    pub(super) since: DateTime<Utc>,
    pub(super) item: String,
}

/// What goes to another queue.
pub(super) trait Outgoing: Send + Sync + 'static {
    fn transfer(&self) -> Transfer<'_>;
    fn tag(&self) -> DeliveryTag;
    fn received(&self) -> DateTime<Utc>;
}

impl Event {
    /// The event, after it has waited: its room may have changed since it was received.
    pub(super) fn waited(self) -> Self {
        Self { change: self.change.waited(), ..self }
    }

    pub(super) fn undone(&self) -> Undone {
        let item = format!("event of room {} is not acknowledged", self.change.token);
        Undone { since: self.received, item }
    }
}

impl Outgoing for Parked {
    fn transfer(&self) -> Transfer<'_> {
        let Event { delivery, received, .. } = &self.event;
        Transfer { delivery, destination: Destination::Retry { first_received: *received } }
    }

    fn tag(&self) -> DeliveryTag {
        self.event.delivery.tag
    }

    fn received(&self) -> DateTime<Utc> {
        self.event.received
    }
}

impl Outgoing for DeadLetter {
    fn transfer(&self) -> Transfer<'_> {
        let destination = Destination::DeadLetters { reason: &self.reason };
        Transfer { delivery: &self.delivery, destination }
    }

    fn tag(&self) -> DeliveryTag {
        self.delivery.tag
    }

    fn received(&self) -> DateTime<Utc> {
        self.received
    }
}
