//! Why a room was updated: a name in events, and a text in the chat.

use serde::{Deserialize, Serialize};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_has_the_name_that_talk_uses() {
        assert_eq!(Reason::LobbyTimerReached.name(), "lobby_timer_reached");
        assert_eq!(Reason::from_name("lobby_non_moderators"), Some(Reason::LobbyNonModerators));
        assert_eq!(Reason::from_name("nonsense"), None);
    }
}
