//! An actor's part in a room: participant type, permissions, sessions.

use bitflags::bitflags;
use num_enum::{IntoPrimitive, TryFromPrimitive};
use serde::Serialize;

use super::actor::{Actor, ClientId};
use super::call::CallFlags;
use super::lobby::LobbyState;
use super::room::Room;

/// Talk's participant types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, IntoPrimitive, TryFromPrimitive, Serialize)]
#[repr(i64)]
pub enum ParticipantType {
    /// Created the room.
    Owner = 1,
    Moderator = 2,
    /// Was added.
    User = 3,
    Guest = 4,
    /// A user who joined by a public link.
    SelfJoined = 5,
    GuestModerator = 6,
}

impl ParticipantType {
    /// Talk's number.
    pub fn number(self) -> i64 {
        self.into()
    }

    /// Owners, moderators and guest moderators.
    pub fn is_moderator(self) -> bool {
        match self {
            Self::Owner | Self::Moderator | Self::GuestModerator => true,
            Self::User | Self::Guest | Self::SelfJoined => false,
        }
    }

    /// Joined by a public link instead of being added.
    pub fn is_uninvited(self) -> bool {
        match self {
            Self::Guest | Self::SelfJoined | Self::GuestModerator => true,
            Self::Owner | Self::Moderator | Self::User => false,
        }
    }
}

bitflags! {
    /// Talk's attendee permissions. No flags: the attendee has the defaults.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize)]
    #[serde(transparent)]
    pub struct Permissions: i64 {
        /// The other flags apply, even if none of them is set.
        const CUSTOM = 1;
        const START_CALL = 2;
        const JOIN_CALL = 4;
        const IGNORE_LOBBY = 8;
        const AUDIO = 16;
        const VIDEO = 32;
        const SCREEN = 64;
        const CHAT = 128;
        /// Exists in the newest Talk only.
        const REACT = 256;
    }
}

impl Permissions {
    pub const DEFAULT: Self = Self::empty();
    /// What moderators have: every permission of Talk before [`Permissions::REACT`].
    pub const MODERATOR: Self = Self::all().difference(Self::CUSTOM).difference(Self::REACT);
    /// What other participants have by default.
    pub const PARTICIPANT: Self = Self::MODERATOR.difference(Self::IGNORE_LOBBY);

    /// Checks a number that a client sent.
    pub fn parse(number: i64) -> Option<Self> {
        Self::from_bits(number)
    }
}

/// How custom permissions are changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PermissionChange {
    Set,
    Add,
    Remove,
}

/// Key of an attendee's row. Clients name attendees by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct AttendeeId(pub i64);

/// The presence of one of the attendee's clients in the room, from joining to leaving.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Session {
    pub id: String,
    pub client: ClientId,
    pub in_call: CallFlags,
    /// Unix seconds of joining.
    pub last_ping: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Attendee {
    pub id: AttendeeId,
    pub actor: Actor,
    /// May be empty for guests.
    pub display_name: String,
    pub participant_type: ParticipantType,
    /// Custom permissions, or [`Permissions::DEFAULT`].
    pub permissions: Permissions,
    /// For the dial-in, while SIP is enabled with PINs. Guests have none.
    pub pin: Option<String>,
    /// Id of the last message that was read.
    pub last_read_message: i64,
    /// How many chat messages the room had then.
    pub comments_read: i64,
    /// One per client that has joined, the oldest first.
    pub sessions: Vec<Session>,
}

impl Attendee {
    /// As in Talk: moderators have all permissions, others the custom ones or the defaults.
    pub fn effective_permissions(&self) -> Permissions {
        if self.participant_type.is_moderator() {
            Permissions::MODERATOR
        } else if self.permissions == Permissions::DEFAULT {
            Permissions::PARTICIPANT
        } else {
            self.permissions
        }
    }

    /// Whether the attendee has to wait in the room's lobby.
    pub fn is_waiting(&self, room: &Room) -> bool {
        room.lobby.state == LobbyState::NonModerators
            && !self.effective_permissions().contains(Permissions::IGNORE_LOBBY)
    }

    /// Whether the attendee sees the PINs of others: moderators with an account, as in Talk.
    pub fn sees_pins(&self) -> bool {
        self.actor.is_user() && self.participant_type.is_moderator()
    }

    /// The session of a client. Without a cookie a client acts in the newest one.
    pub fn session(&self, client: Option<&ClientId>) -> Option<&Session> {
        match client {
            Some(client) => self.sessions.iter().find(|session| session.client == *client),
            None => self.sessions.last(),
        }
    }

    /// Flags of all sessions in the call; empty if the attendee is not in it.
    pub fn call_flags(&self) -> CallFlags {
        self.sessions.iter().map(|session| session.in_call).collect()
    }

    pub fn is_in_call(&self) -> bool {
        !self.call_flags().is_empty()
    }

    /// Whether the row can be deleted when the attendee leaves: joined by link, with default
    /// permissions.
    pub fn is_temporary(&self) -> bool {
        matches!(self.participant_type, ParticipantType::Guest | ParticipantType::SelfJoined)
            && self.permissions == Permissions::DEFAULT
    }

    /// The permissions after a change. As in Talk, default permissions become custom ones first.
    pub fn changed_permissions(
        &self,
        change: PermissionChange,
        permissions: Permissions,
    ) -> Permissions {
        let base = match self.permissions {
            Permissions::DEFAULT => self.effective_permissions(),
            custom => custom,
        };
        let changed = match change {
            PermissionChange::Set if permissions.is_empty() => return Permissions::DEFAULT,
            PermissionChange::Set => permissions,
            PermissionChange::Add => base | permissions,
            PermissionChange::Remove => base - permissions,
        };
        changed | Permissions::CUSTOM
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_permissions_are_those_of_talk() {
        assert_eq!((Permissions::MODERATOR.bits(), Permissions::PARTICIPANT.bits()), (254, 246));
    }
}
