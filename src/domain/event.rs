//! The events that lobbyd receives and publishes, and the reasons of changes.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{
    actor::Actor,
    lobby::{Lobby, LobbyState},
    room::{Room, RoomToken, Version},
    timer::DueTimer,
};

/// CloudEvents type of [`RoomUpdated`].
pub const ROOM_UPDATED: &str = "room.updated.v1";

/// CloudEvents type of [`LobbyChangedPayload`].
pub const LOBBY_CHANGED: &str = "lobby.changed.v1";

/// Identity of one change, the same for every publication of it: a UUID in text form.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventId(String);

impl EventId {
    /// The id of a row.
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

/// Why a room was updated. Its name is used in events, and for the chat's system message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    LobbyTimerReached,
    LobbyNone,
    LobbyNonModerators,
    /// The room keeps its lobby with another timer.
    LobbyTimerChanged,
    SipChanged,
    ConversationCreated,
    ConversationDeleted,
    ConversationRenamed,
    DescriptionSet,
    DescriptionRemoved,
    PasswordSet,
    PasswordRemoved,
    /// The room became public.
    GuestsAllowed,
    /// The room is no longer public.
    GuestsDisallowed,
    UserAdded,
    UserRemoved,
    ModeratorPromoted,
    ModeratorDemoted,
    GuestModeratorPromoted,
    GuestModeratorDemoted,
    PermissionsChanged,
    ParticipantJoined,
    ParticipantLeft,
    /// A guest has another display name.
    DisplayNameChanged,
    MessageSent,
    CallStarted,
    CallJoined,
    CallFlagsChanged,
    CallLeft,
    /// The last participant left the call.
    CallEnded,
    /// A moderator ended the call for all participants.
    CallEndedEveryone,
}

impl Reason {
    /// Its name in events and in the chat.
    pub fn name(self) -> String {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::String(name)) => name,
            other => unreachable!("a unit variant is written as a string, not as {other:?}"),
        }
    }

    /// The text of the chat's system message, with Talk's placeholders; `None` if the chat does not
    /// show the change.
    pub fn text(self) -> Option<&'static str> {
        Some(match self {
            Self::LobbyTimerReached => "The conversation is now open to everyone",
            Self::LobbyNone => "{actor} opened the conversation to everyone",
            Self::LobbyNonModerators => "{actor} restricted the conversation to moderators",
            Self::ConversationCreated => "{actor} created the conversation",
            Self::ConversationRenamed => "{actor} renamed the conversation",
            Self::DescriptionSet => "{actor} set the description",
            Self::DescriptionRemoved => "{actor} removed the description",
            Self::PasswordSet => "{actor} set a password",
            Self::PasswordRemoved => "{actor} removed the password",
            Self::GuestsAllowed => "{actor} allowed guests",
            Self::GuestsDisallowed => "{actor} disallowed guests",
            Self::UserAdded => "{actor} added {user}",
            Self::UserRemoved => "{actor} removed {user}",
            Self::ModeratorPromoted | Self::GuestModeratorPromoted => {
                "{actor} promoted {user} to moderator"
            }
            Self::ModeratorDemoted | Self::GuestModeratorDemoted => {
                "{actor} demoted {user} from moderator"
            }
            Self::CallStarted => "{actor} started a call",
            Self::CallJoined => "{actor} joined the call",
            Self::CallLeft => "{actor} left the call",
            Self::CallEnded => "The call has ended",
            Self::CallEndedEveryone => "{actor} ended the call",
            Self::LobbyTimerChanged
            | Self::SipChanged
            | Self::ConversationDeleted
            | Self::PermissionsChanged
            | Self::ParticipantJoined
            | Self::ParticipantLeft
            | Self::DisplayNameChanged
            | Self::MessageSent
            | Self::CallFlagsChanged => return None,
        })
    }

    /// The text for an action on oneself.
    pub fn self_action_text(self) -> Option<&'static str> {
        if self == Self::UserAdded {
            Some("{actor} joined the conversation")
        } else if self == Self::UserRemoved {
            Some("{actor} left the conversation")
        } else {
            self.text()
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        serde_json::from_value(name.into()).ok()
    }

    /// Whether it changes the attendee record of every participant: PIN, place in the call or in the
    /// room. (A new lobby changes the records of those in the call.)
    pub fn affects_all_attendees(self) -> bool {
        matches!(
            self,
            Self::SipChanged
                | Self::ConversationDeleted
                | Self::GuestsDisallowed
                | Self::CallEndedEveryone
        )
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
            due_at: None,
            fired_at: None,
        }
    }

    /// The announcement of a reset.
    pub(super) fn timer_reached(
        timer: &DueTimer,
        version: Version,
        fired_at: DateTime<Utc>,
    ) -> Self {
        Self {
            token: timer.token.as_str().to_owned(),
            room_type: timer.room_type.number(),
            lobby_state: LobbyState::None.number(),
            lobby_timer: 0,
            sip_enabled: timer.sip.number(),
            version: version.milliseconds(),
            reason: Reason::LobbyTimerReached,
            about: None,
            due_at: Some(timer.due_at),
            fired_at: Some(fired_at),
        }
    }
}

/// A row of the outbox: an event that is stored and has yet to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxEvent {
    pub id: EventId,
    /// CloudEvents type, for example [`ROOM_UPDATED`].
    pub event_type: String,
    pub token: RoomToken,
    /// The event's `data` as JSON, fixed when the row was written.
    pub data: String,
    /// When the change was made, by the database's clock.
    pub created_at: DateTime<Utc>,
    /// When the timer was due, for a reset: the lag counts from here.
    pub due_at: Option<DateTime<Utc>>,
    /// How often the event was claimed for publication, including this time.
    pub attempt: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_has_the_name_that_talk_uses() {
        assert_eq!(Reason::LobbyTimerReached.name(), "lobby_timer_reached");
        assert_eq!(Reason::from_name("lobby_non_moderators"), Some(Reason::LobbyNonModerators));
        assert_eq!(Reason::from_name("nonsense"), None);
    }

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
