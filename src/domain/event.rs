//! The events that leave lobbyd, as the outbox holds them.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{
    attendee::Actor,
    room::{Lobby, LobbyState, Room, RoomToken, Version},
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
    /// A new identity. It grows with time, so that rows made together lie together in the index.
    pub fn new() -> Self {
        Self(uuid::Uuid::now_v7().to_string())
    }

    /// Takes the id of a row.
    pub(crate) fn stored(id: String) -> Self {
        Self(id)
    }

    /// The UUID's text.
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

/// Why a room was updated. Its name on the wire is also that of the system message in the chat, for
/// what the chat shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Its timer was due.
    LobbyTimerReached,
    /// Somebody removed the lobby.
    LobbyNone,
    /// Somebody put a lobby in front of it.
    LobbyNonModerators,
    /// It keeps its lobby, with another timer.
    LobbyTimerChanged,
    /// SIP dial-in was enabled, disabled, or has other rules.
    SipChanged,
    /// It was made.
    ConversationCreated,
    /// It is no more.
    ConversationDeleted,
    /// It has another name.
    ConversationRenamed,
    /// It has a description, or another one.
    DescriptionSet,
    /// It has no description any more.
    DescriptionRemoved,
    /// Strangers need a password, or another one.
    PasswordSet,
    /// Strangers need no password any more.
    PasswordRemoved,
    /// It is public from now on.
    GuestsAllowed,
    /// It is not public any more.
    GuestsDisallowed,
    /// Somebody takes part from now on.
    UserAdded,
    /// Somebody takes no part any more.
    UserRemoved,
    /// A user is a moderator from now on.
    ModeratorPromoted,
    /// A user is no moderator any more.
    ModeratorDemoted,
    /// A guest is a moderator from now on.
    GuestModeratorPromoted,
    /// A guest is no moderator any more.
    GuestModeratorDemoted,
    /// Somebody has other permissions.
    PermissionsChanged,
    /// Somebody has a session in it.
    ParticipantJoined,
    /// Somebody has no session in it any more.
    ParticipantLeft,
    /// A guest has another name.
    DisplayNameChanged,
    /// Somebody said something.
    MessageSent,
    /// The first one is in the call.
    CallStarted,
    /// One more is in the call.
    CallJoined,
    /// Somebody in the call publishes other media.
    CallFlagsChanged,
    /// Somebody is no more in the call.
    CallLeft,
    /// Nobody is in the call any more.
    CallEnded,
    /// A moderator ended the call.
    CallEndedEveryone,
}

impl Reason {
    /// Its name on the wire and in the chat.
    pub fn name(self) -> String {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::String(name)) => name,
            other => unreachable!("a unit variant is written as a text, not as {other:?}"),
        }
    }

    /// What the chat says about it, with Talk's placeholders; `None` for what it does not show.
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

    /// The same, of somebody who did it to himself.
    pub fn self_action_text(self) -> Option<&'static str> {
        if self == Self::UserAdded {
            Some("{actor} joined the conversation")
        } else if self == Self::UserRemoved {
            Some("{actor} left the conversation")
        } else {
            self.text()
        }
    }

    /// Reads the name of a system message.
    pub fn from_name(name: &str) -> Option<Self> {
        serde_json::from_value(name.into()).ok()
    }

    /// Whether it changes what every participant has of his own: the PIN, or his place in the call
    /// or the room. (A lobby does so for those who are in the call.)
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

/// `data` of a `lobby.changed.v1` event: what somebody set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LobbyChangedPayload {
    /// The room.
    pub token: String,
    /// Talk's number of the lobby state.
    pub state: i64,
    /// Unix seconds; absent or 0 for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timer: Option<i64>,
    /// Milliseconds since 1970 of the change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
}

impl LobbyChangedPayload {
    /// What was set, as an event says it.
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
    /// The participant whom the change concerns, if it is just one.
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
    /// The room after a change for this reason.
    pub fn of(room: &Room, reason: Reason, about: Option<Actor>) -> Self {
        Self {
            token: room.token.as_str().to_owned(),
            room_type: room.room_type,
            lobby_state: room.lobby.state.number(),
            lobby_timer: room.lobby.timer.map_or(0, |timer| timer.timestamp()),
            sip_enabled: room.sip_enabled,
            version: room.version.milliseconds(),
            reason,
            about,
            due_at: None,
            fired_at: None,
        }
    }

    /// The room after its timer, due at `due_at`, was reached.
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
            about: None,
            due_at: Some(due_at),
            fired_at: Some(fired_at),
        }
    }
}

/// A row of the outbox: an event that is stored and has yet to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxEvent {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_has_talks_name() {
        assert_eq!(Reason::LobbyTimerReached.name(), "lobby_timer_reached");
        assert_eq!(Reason::from_name("lobby_non_moderators"), Some(Reason::LobbyNonModerators));
        assert_eq!(Reason::from_name("nonsense"), None);
    }

    #[test]
    fn an_event_names_the_participant_whom_it_concerns() {
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
