//! The events that lobbyd receives and publishes, as types.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::actor::Actor;
use super::lobby::Lobby;
use super::reason::Reason;
use super::room::{Room, RoomToken, Version};

/// CloudEvents type of [`RoomUpdated`].
pub const ROOM_UPDATED: &str = "room.updated.v1";

/// CloudEvents type of [`LobbyChangedPayload`].
pub const LOBBY_CHANGED: &str = "lobby.changed.v1";

/// Identity of one change, the same for every publication of it: a UUID in text form.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventId(String);

impl EventId {
    pub(crate) fn stored(id: String) -> Self {
        Self(id)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<uuid::Uuid> for EventId {
    fn from(id: uuid::Uuid) -> Self {
        Self(id.to_string())
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `data` of a `lobby.changed.v1` event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LobbyChangedPayload {
    pub token: String,
    /// Talk's number.
    pub state: i64,
    /// Unix seconds; absent or 0 for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timer: Option<i64>,
    /// Milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
}

impl LobbyChangedPayload {
    pub fn of(token: &RoomToken, lobby: Lobby, version: Option<Version>) -> Self {
        Self {
            token: token.as_str().to_owned(),
            state: lobby.state.number(),
            timer: lobby.timer.map(|timer| timer.timestamp()),
            version: version.map(Version::milliseconds),
        }
    }
}

/// `data` of a `room.updated.v1` event: the room after the change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoomUpdated {
    pub token: String,
    /// Talk's number.
    #[serde(rename = "type")]
    pub room_type: i64,
    /// Talk's number.
    pub lobby_state: i64,
    /// Unix seconds, 0 for none, as in Talk's room data.
    pub lobby_timer: i64,
    /// Talk's number.
    pub sip_enabled: i64,
    /// Consumers drop an update that is not newer than the last one.
    pub version: i64,
    pub reason: Reason,
    /// The participant that the change is about, if it is about exactly one.
    #[serde(flatten, skip_serializing_if = "Option::is_none", default)]
    pub about: Option<Actor>,
    /// Participants that a message mentions.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub mentioned: Vec<Actor>,
    /// When the timer was due.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub due_at: Option<DateTime<Utc>>,
    /// When the room was reset, by the database's clock.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fired_at: Option<DateTime<Utc>>,
}

impl RoomUpdated {
    pub fn of(room: &Room, reason: Reason, about: Option<Actor>) -> Self {
        Self {
            token: room.token.as_str().to_owned(),
            room_type: room.room_type.number(),
            lobby_state: room.lobby.state.number(),
            lobby_timer: room.lobby.timer.map_or(0, |timer| timer.timestamp()),
            sip_enabled: room.sip.number(),
            version: room.version.milliseconds(),
            reason,
            about,
            mentioned: Vec::new(),
            due_at: None,
            fired_at: None,
        }
    }
}

/// An event that is stored and has yet to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxEvent {
    pub id: EventId,
    /// CloudEvents type, for example [`ROOM_UPDATED`].
    pub event_type: String,
    pub token: RoomToken,
    /// The event's `data` as JSON, fixed when it was stored.
    pub data: String,
    /// When the change was made, by the database's clock.
    pub created_at: DateTime<Utc>,
    /// When the timer was due, for a reset whose lag counts.
    pub due_at: Option<DateTime<Utc>>,
}

/// A row of the outbox: events that are claimed, and recorded as published, together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxRow {
    /// That of the first event.
    pub id: EventId,
    /// At least one.
    pub events: Vec<OutboxEvent>,
    /// How often the row was claimed for publication, including this time.
    pub attempt: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_names_the_participant_that_it_is_about() {
        let mut event = RoomUpdated {
            token: "abc".to_owned(),
            room_type: 3,
            lobby_state: 0,
            lobby_timer: 0,
            sip_enabled: 0,
            version: 7,
            reason: Reason::UserAdded,
            about: Some(Actor::user("alice")),
            mentioned: Vec::new(),
            due_at: None,
            fired_at: None,
        };
        let data = serde_json::to_value(&event).unwrap();
        assert_eq!((&data["actorType"], &data["actorId"]), (&"users".into(), &"alice".into()));
        assert_eq!(serde_json::from_value::<RoomUpdated>(data).unwrap(), event);
        event.about = None;
        let data = serde_json::to_value(&event).unwrap();
        assert_eq!(serde_json::from_value::<RoomUpdated>(data).unwrap(), event);
    }
}
