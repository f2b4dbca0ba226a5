//! Who takes part in a room, and what they may do there.

use serde::{Deserialize, Serialize};

use super::room::{LobbyState, Room};

/// The one who acts, or who takes part: a user of this server or a guest.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Actor {
    /// What kind of id it is.
    #[serde(rename = "actorType")]
    pub kind: ActorKind,
    /// A user's name, or a guest's public id, which does not give away the guest's cookie.
    #[serde(rename = "actorId")]
    pub id: String,
}

/// Talk's actor types, as far as they exist here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActorKind {
    /// Somebody with an account.
    Users,
    /// Somebody with a cookie.
    Guests,
}

impl ActorKind {
    /// Talk's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Users => "users",
            Self::Guests => "guests",
        }
    }

    /// Reads Talk's name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "users" => Some(Self::Users),
            "guests" => Some(Self::Guests),
            _ => None,
        }
    }
}

impl Actor {
    /// A user of this server.
    pub fn user(id: impl Into<String>) -> Self {
        Self { kind: ActorKind::Users, id: id.into() }
    }

    /// A guest.
    pub fn guest(id: impl Into<String>) -> Self {
        Self { kind: ActorKind::Guests, id: id.into() }
    }

    /// lobbyd itself, as Talk writes it in the chat.
    pub fn system() -> Self {
        Self::guest("system")
    }

    /// Whether it has an account.
    pub fn is_user(&self) -> bool {
        self.kind == ActorKind::Users
    }
}

/// The one who sends a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Who it is.
    pub actor: Actor,
    /// The account's name for people; a guest's is in the room's list of participants.
    pub display_name: String,
    /// Whether the user is in one of the groups that may enable SIP.
    pub may_enable_sip: bool,
}

/// Talk's levels of participation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ParticipantType {
    /// 1: made the room.
    Owner,
    /// 2
    Moderator,
    /// 3: a user who was added.
    User,
    /// 4
    Guest,
    /// 5: a user who followed a public link.
    SelfJoined,
    /// 6
    GuestModerator,
}

impl ParticipantType {
    /// Reads Talk's number.
    pub fn from_number(number: i64) -> Option<Self> {
        match number {
            1 => Some(Self::Owner),
            2 => Some(Self::Moderator),
            3 => Some(Self::User),
            4 => Some(Self::Guest),
            5 => Some(Self::SelfJoined),
            6 => Some(Self::GuestModerator),
            _ => None,
        }
    }

    /// Talk's number.
    pub fn number(self) -> i64 {
        match self {
            Self::Owner => 1,
            Self::Moderator => 2,
            Self::User => 3,
            Self::Guest => 4,
            Self::SelfJoined => 5,
            Self::GuestModerator => 6,
        }
    }

    /// Owners, moderators and guest moderators.
    pub fn is_moderator(self) -> bool {
        match self {
            Self::Owner | Self::Moderator | Self::GuestModerator => true,
            Self::User | Self::Guest | Self::SelfJoined => false,
        }
    }
}

/// A set of Talk's attendee permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Permissions(i64);

impl Permissions {
    /// Nothing of one's own: the room's defaults apply.
    pub const DEFAULT: Self = Self(0);
    /// Says that the others are meant, even if there are none.
    pub const CUSTOM: Self = Self(1);
    /// Start a call.
    pub const START_CALL: Self = Self(2);
    /// Join a call.
    pub const JOIN_CALL: Self = Self(4);
    /// Pass the lobby.
    pub const IGNORE_LOBBY: Self = Self(8);
    /// Publish audio.
    pub const AUDIO: Self = Self(16);
    /// Publish video.
    pub const VIDEO: Self = Self(32);
    /// Post in the chat.
    pub const CHAT: Self = Self(128);
    /// Everything, what moderators have.
    pub const ALL: Self = Self(254);
    /// Everything but to pass the lobby: what others have, unless they were given their own.
    pub const USUAL: Self = Self(246);

    /// Checks a number that came from outside. The newest Talk has one bit more than is named here.
    pub fn parse(number: i64) -> Option<Self> {
        (0..=511).contains(&number).then_some(Self(number))
    }

    /// Takes the number of a row.
    pub(crate) fn stored(number: i64) -> Self {
        Self(number)
    }

    /// Talk's number.
    pub fn number(self) -> i64 {
        self.0
    }

    /// Whether all of `other` are in it.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// How one's own permissions are changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Modification {
    /// They become just these.
    Set,
    /// These are added.
    Add,
    /// These are taken away.
    Remove,
}

/// Key of an attendee; only the store makes one, but clients name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttendeeId(pub i64);

/// Presence in the room: since one has joined, until one leaves.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Session {
    /// Names the session on the wire.
    pub id: String,
    /// Talk's flags: 0 not in the call, 1 in it, with 2 audio, 4 video, 8 by phone.
    pub in_call: i64,
    /// Unix seconds at which the session was last seen.
    pub last_ping: i64,
}

/// Somebody who takes part in a room.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Attendee {
    /// Key of the row.
    pub id: AttendeeId,
    /// Who it is.
    pub actor: Actor,
    /// Name for people; may be empty for guests.
    pub display_name: String,
    /// Level of participation.
    pub participant_type: ParticipantType,
    /// One's own permissions, [`Permissions::DEFAULT`] for none.
    pub permissions: Permissions,
    /// For the dial-in, while SIP is enabled with PINs. Guests have none.
    pub pin: Option<String>,
    /// The last message that was read.
    pub last_read_message: i64,
    /// How many chat messages the room had then.
    pub comments_read: i64,
    /// Presence in the room.
    pub session: Option<Session>,
}

impl Attendee {
    /// What the attendee may do: as in Talk, moderators everything, others what they were given or
    /// else the usual.
    pub fn effective_permissions(&self) -> Permissions {
        if self.participant_type.is_moderator() {
            Permissions::ALL
        } else if self.permissions == Permissions::DEFAULT {
            Permissions::USUAL
        } else {
            self.permissions
        }
    }

    /// Whether the attendee has to wait behind the room's lobby.
    pub fn is_waiting(&self, room: &Room) -> bool {
        room.lobby.state == LobbyState::NonModerators
            && !self.effective_permissions().contains(Permissions::IGNORE_LOBBY)
    }

    /// Whether the attendee sees the PINs of others: moderators with an account, as in Talk.
    pub fn sees_pins(&self) -> bool {
        self.actor.is_user() && self.participant_type.is_moderator()
    }

    /// The same attendee, out of the call if he has to wait behind the room's lobby by now.
    pub fn removed_from_call_if_waiting(mut self, room: &Room) -> Self {
        let waits = self.is_waiting(room);
        if let Some(session) = self.session.as_mut().filter(|_session| waits) {
            session.in_call = 0;
        }
        self
    }

    /// The attendee's flags in the call; 0 for not in it.
    pub fn in_call(&self) -> i64 {
        self.session.as_ref().map_or(0, |session| session.in_call)
    }

    /// Whether nothing is lost if the attendee goes: somebody who came by the link, and was given
    /// nothing.
    pub fn is_temporary(&self) -> bool {
        matches!(self.participant_type, ParticipantType::Guest | ParticipantType::SelfJoined)
            && self.permissions == Permissions::DEFAULT
    }

    /// The permissions after a modification. As in Talk, what was default becomes custom first.
    pub fn modified(&self, how: Modification, permissions: Permissions) -> Permissions {
        let base = match self.permissions {
            Permissions::DEFAULT => self.effective_permissions(),
            own => own,
        };
        let bits = match how {
            Modification::Set => permissions.0,
            Modification::Add => base.0 | permissions.0,
            Modification::Remove => base.0 & !permissions.0,
        };
        match (how, bits) {
            (Modification::Set, 0) => Permissions::DEFAULT,
            (_, bits) => Permissions(bits | Permissions::CUSTOM.0),
        }
    }
}
