//! An actor's part in a room: participant type, permissions, sessions.

use num_enum::{IntoPrimitive, TryFromPrimitive};
use serde::Serialize;

use super::actor::{Actor, ClientId};
use super::call::CallFlags;
use super::lobby::LobbyState;
use super::permissions::Permissions;
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

impl AttendeeId {
    /// The id of no attendee.
    pub const NONE: Self = Self(0);
}

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
    /// Unix seconds of that.
    pub read_at: i64,
    /// Id of the last message that mentions the attendee.
    pub last_mention: i64,
    /// One per client that has joined, the oldest first.
    pub sessions: Vec<Session>,
}

impl Attendee {
    /// As in Talk: moderators have all permissions, others their own, those of the room, or the
    /// defaults.
    pub fn effective_permissions(&self, room: &Room) -> Permissions {
        if self.participant_type.is_moderator() {
            return Permissions::MODERATOR;
        }
        let custom = [self.permissions, room.default_permissions];
        let custom = custom.into_iter().find(|each| *each != Permissions::DEFAULT);
        custom.unwrap_or(Permissions::PARTICIPANT)
    }

    /// Whether the attendee has to wait in the room's lobby.
    pub fn is_waiting(&self, room: &Room) -> bool {
        room.lobby.state == LobbyState::NonModerators
            && !self.effective_permissions(room).contains(Permissions::IGNORE_LOBBY)
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
        room: &Room,
        change: PermissionChange,
        permissions: Permissions,
    ) -> Permissions {
        let base = match self.permissions {
            Permissions::DEFAULT => self.effective_permissions(room),
            custom => custom,
        };
        let changed = match change {
            PermissionChange::Set => return permissions.as_custom(),
            PermissionChange::Add => base | permissions,
            PermissionChange::Remove => base - permissions,
        };
        changed | Permissions::CUSTOM
    }
}
