//! The events that leave lobbyd, as the outbox holds them.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::room::{LobbyState, RoomToken, Version};

/// CloudEvents type of [`RoomUpdated`].
pub const ROOM_UPDATED: &str = "room.updated.v1";

/// Identity of one change, the same for every publication of it: a UUID in text form.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventId(String);

impl EventId {
    /// A new identity. It grows with time, so that rows made together lie together in the index.
    #[must_use]
    pub fn new() -> Self {
        Self(uuid::Uuid::now_v7().to_string())
    }

    /// Takes the id of a row.
    pub(crate) fn stored(id: String) -> Self {
        Self(id)
    }

    /// The UUID's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for EventId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a room was updated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Its timer was due.
    LobbyTimerReached,
}

/// `data` of a `room.updated.v1` event: the room after the change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoomUpdated {
    /// The room.
    pub token: String,
    /// Talk's number of the room's type.
    #[serde(rename = "type")]
    pub room_type: i64,
    /// Talk's number of the lobby state.
    pub lobby_state: i64,
    /// Unix seconds, 0 for none, as in Talk's room data.
    pub lobby_timer: i64,
    /// Talk's number of the SIP state.
    pub sip_enabled: i64,
    /// Version of the room; a consumer drops what is not newer.
    pub version: i64,
    /// Why.
    pub reason: Reason,
    /// When the timer was due.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub due_at: Option<DateTime<Utc>>,
    /// When the room was reset, by the database's clock.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fired_at: Option<DateTime<Utc>>,
}

impl RoomUpdated {
    /// The room after its timer, due at `due_at`, was reached.
    #[must_use]
    pub fn timer_reached(
        token: &RoomToken,
        room_type: i64,
        sip_enabled: i64,
        version: Version,
        due_at: DateTime<Utc>,
        fired_at: DateTime<Utc>,
    ) -> Self {
        Self {
            token: token.as_str().to_owned(),
            room_type,
            lobby_state: LobbyState::None.number(),
            lobby_timer: 0,
            sip_enabled,
            version: version.milliseconds(),
            reason: Reason::LobbyTimerReached,
            due_at: Some(due_at),
            fired_at: Some(fired_at),
        }
    }
}

/// A row of the outbox: an event that is stored and has yet to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Identity of the change.
    pub id: EventId,
    /// CloudEvents type, for example [`ROOM_UPDATED`].
    pub event_type: String,
    /// The room.
    pub token: RoomToken,
    /// The event's `data`, JSON text, fixed when the row was written.
    pub data: String,
    /// When the change was made, by the database's clock.
    pub created_at: DateTime<Utc>,
    /// When it was due, for a timer that was reached: the lag counts from here.
    pub due_at: Option<DateTime<Utc>>,
    /// How often it was claimed for publication, this time included.
    pub attempt: u32,
}
