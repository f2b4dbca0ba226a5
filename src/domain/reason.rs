//! Why a room was updated: a name in events, and a text in the chat.

use serde::{Deserialize, Serialize};

use super::actor::Actor;

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
    /// The room has other default permissions, and no participant has custom ones any more.
    DefaultPermissionsChanged,
    ReadOnly,
    ReadOnlyOff,
    ParticipantBanned,
    ParticipantUnbanned,
    ParticipantJoined,
    ParticipantLeft,
    /// A guest has another display name.
    DisplayNameChanged,
    MessageSent,
    MessageDeleted,
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
            Self::ReadOnly => "{actor} locked the conversation",
            Self::ReadOnlyOff => "{actor} unlocked the conversation",
            Self::MessageDeleted => "{actor} deleted a message",
            Self::CallStarted => "{actor} started a call",
            Self::CallJoined => "{actor} joined the call",
            Self::CallLeft => "{actor} left the call",
            Self::CallEnded => "The call has ended",
            Self::CallEndedEveryone => "{actor} ended the call",
            Self::LobbyTimerChanged
            | Self::SipChanged
            | Self::ConversationDeleted
            | Self::PermissionsChanged
            | Self::DefaultPermissionsChanged
            | Self::ParticipantBanned
            | Self::ParticipantUnbanned
            | Self::ParticipantJoined
            | Self::ParticipantLeft
            | Self::DisplayNameChanged
            | Self::MessageSent
            | Self::CallFlagsChanged => return None,
        })
    }

    /// The text as Talk shows it to a viewer: `about` is the participant that the message is about,
    /// if there is one. The viewer is addressed as "you".
    pub fn text_for(self, viewer: Option<&Actor>, actor: &Actor, about: Option<&Actor>) -> String {
        let text = if about == Some(actor) && self == Self::UserAdded {
            "{actor} joined the conversation"
        } else if about == Some(actor) && self == Self::UserRemoved {
            "{actor} left the conversation"
        } else {
            self.text().unwrap_or_default()
        };
        if viewer == Some(actor) && self != Self::CallEndedEveryone {
            return text.replace("{actor}", "You");
        }
        if viewer.is_some() && viewer == about {
            text.replace("{user}", "you")
        } else {
            text.to_owned()
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
                | Self::DefaultPermissionsChanged
                | Self::ReadOnly
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

    #[test]
    fn a_viewer_is_addressed_as_you() {
        let [alice, bob] = ["alice", "bob"].map(Actor::user);
        let added = |viewer: &Actor| Reason::UserAdded.text_for(Some(viewer), &alice, Some(&bob));
        assert_eq!(added(&alice), "You added {user}");
        assert_eq!(added(&bob), "{actor} added you");
        assert_eq!(added(&Actor::guest("g")), "{actor} added {user}");
        let left = Reason::UserRemoved.text_for(Some(&bob), &bob, Some(&bob));
        assert_eq!(left, "You left the conversation");
        let reached = Reason::LobbyTimerReached.text_for(None, &Actor::system(), None);
        assert_eq!(reached, "The conversation is now open to everyone");
    }
}
