//! What crosses between the store and the relay: claimed rows of the outbox, and what became of them.

use chrono::{DateTime, Utc};

use crate::domain::{EventId, OutboxEvent, OutboxRow, RoomToken};

/// Which unpublished rows can be claimed.
#[derive(Debug, Clone, Copy)]
pub struct Available<'a> {
    /// Only those that became available after this time.
    pub after: Option<DateTime<Utc>>,
    pub now: DateTime<Utc>,
    /// Rows to leave out.
    pub except: &'a [EventId],
}

/// Rows of the outbox that were claimed.
#[derive(Debug, Default)]
pub struct ClaimedRows {
    pub rows: Vec<OutboxRow>,
    /// Whether there may be more.
    pub is_full: bool,
}

/// What became of the events of a row, if not the same of all.
#[derive(Debug)]
pub struct Division {
    pub confirmed: Vec<OutboxEvent>,
    pub refused: Vec<OutboxEvent>,
    /// Those that were not sent, or not answered.
    pub others: Vec<OutboxEvent>,
    pub attempts: u32,
    pub now: DateTime<Utc>,
    /// When the refused ones can be claimed again.
    pub retry_at: DateTime<Utc>,
    /// When the others can be claimed again.
    pub others_at: DateTime<Utc>,
}

/// The unpublished events. Of many, only the first to become available are looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// The oldest event that is not refused, or the oldest if all are.
    pub oldest: EventId,
    pub room: RoomToken,
    pub created_at: DateTime<Utc>,
    pub is_refused: bool,
    /// How many are refused.
    pub refused: u64,
    /// The latest end of a claim or delay.
    pub last_available: DateTime<Utc>,
}
