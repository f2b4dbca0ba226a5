//! Rooms that a signaling server of Talk has to be told.

use chrono::{DateTime, Utc};

use super::room::RoomToken;

/// A room that has changed since a server was told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignalingUpdate {
    pub token: RoomToken,
    /// How often the room has changed.
    pub changes: i64,
    /// When the first of these changes could be told, by the database's clock: for a timer, when it was
    /// due.
    pub since: DateTime<Utc>,
    /// How often the server refused this room; or 1, if it failed.
    pub failures: u32,
}

/// What a server has yet to be told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SignalingBacklog {
    /// The number of rooms, counted up to 10,000, and how many of them the server refuses.
    pub pending: i64,
    pub refused: i64,
    /// Whether the server failed to take a room or refuses one, counted or not.
    pub has_failed: bool,
    /// When the first change of the others could be told.
    pub oldest: Option<DateTime<Utc>>,
}
