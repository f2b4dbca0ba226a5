//! What a command is decided on, and why it is refused.

use chrono::{DateTime, Utc};

use crate::domain::{
    Actor, Attendee, AttendeeId, Ban, Caller, InvalidLobby, MAX_MESSAGE_CHARS, Message,
    ParticipantType, Room, Session,
};

/// The participant that a command is about, besides the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    Attendee(AttendeeId),
    Actor(&'a Actor),
}

/// Numbers of participants in a room, without the caller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OtherCounts {
    /// Owners and moderators with an account.
    pub moderators: i64,
    /// Users, including moderators.
    pub users: i64,
    pub in_call: i64,
}

/// What a command is decided on, read in the same transaction.
#[derive(Debug, Clone, Copy)]
pub struct CommandContext<'a> {
    /// The room, whose row is locked.
    pub room: &'a Room,
    pub caller: &'a Caller,
    pub me: Option<&'a Attendee>,
    /// The attendee that the command is about.
    pub target: Option<&'a Attendee>,
    /// The message that the command replies to or deletes.
    pub message: Option<&'a Message>,
    /// The participants that a message mentions.
    pub mentioned: &'a [Attendee],
    /// Whether the caller is banned; false for participants.
    pub is_banned: bool,
    /// The ban that the command removes.
    pub ban: Option<&'a Ban>,
    /// Bans of others in the room; 0 unless the command adds one.
    pub other_bans: i64,
    /// Zeros unless [`Command::needs_other_counts`](super::Command::needs_other_counts).
    pub others: OtherCounts,
    /// The database's time.
    pub now: DateTime<Utc>,
}

/// Why a command is refused. HTTP has a status for each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such room, or none that this caller may see.
    #[error("there is no such conversation for this participant")]
    NoRoom,
    #[error("there is no such participant")]
    NoParticipant,
    #[error("there is no such user")]
    NoUser,
    #[error("there is no such message")]
    NoMessage,
    #[error("there is no such ban")]
    NoBan,
    /// A system message, or a message that is deleted.
    #[error("only messages of participants can be deleted")]
    NotDeletable,
    #[error("join the conversation first")]
    NotJoined,
    #[error("log in first")]
    LoginNeeded,
    /// The user is in none of the groups that may enable SIP.
    #[error("this user may not enable SIP dial-in")]
    SipNotAllowed,
    #[error("only moderators may do this")]
    NotModerator,
    #[error("{0}")]
    Forbidden(&'static str),
    #[error("wrong password")]
    WrongPassword,
    #[error("this participant was banned from the conversation")]
    Banned,
    #[error("{problem}")]
    Invalid {
        /// Talk's name for the invalid value.
        what: &'static str,
        problem: &'static str,
    },
    #[error(transparent)]
    InvalidLobby(#[from] InvalidLobby),
    #[error("a message has at most {MAX_MESSAGE_CHARS} characters")]
    TooLong,
    /// The caller has to wait in the lobby.
    #[error("wait in the lobby: the conversation is restricted to moderators")]
    Lobby,
    #[error("SIP dial-in is not configured on this server")]
    SipNotConfigured,
    /// The caller's client has a session in the call, which was not to be replaced.
    #[error("there is a session already")]
    AlreadyJoined(Session),
}

impl Refusal {
    /// Talk's name for the invalid value of the request.
    pub fn what(&self) -> Option<&'static str> {
        if let Self::Invalid { what, .. } = self {
            return Some(what);
        }
        let names = [
            (matches!(self, Self::InvalidLobby(_)), "value"),
            (*self == Self::WrongPassword, "password"),
            (*self == Self::Banned, "ban"),
        ];
        names.into_iter().find_map(|(is_this, name)| is_this.then_some(name))
    }
}

pub(super) const fn invalid(what: &'static str, problem: &'static str) -> Refusal {
    Refusal::Invalid { what, problem }
}

/// What a participant wants to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    Chat,
    /// Guests who are not moderators do not see the list of participants.
    Participants,
    /// The participants of the call.
    Peers,
}

/// Whether a participant may read a part of the room that the lobby hides. Returns them if so.
pub fn can_read(
    room: &Room,
    me: Option<Attendee>,
    resource: Resource,
) -> Result<Attendee, Refusal> {
    let me = me.ok_or(Refusal::NoRoom)?;
    if resource == Resource::Participants && me.participant_type == ParticipantType::Guest {
        return Err(Refusal::Forbidden("guests do not see the list of participants"));
    }
    if me.is_waiting(room) { Err(Refusal::Lobby) } else { Ok(me) }
}

/// Whether an attendee is a moderator, including guest moderators.
pub fn require_moderator(me: Option<&Attendee>) -> Result<&Attendee, Refusal> {
    let me = me.ok_or(Refusal::NoRoom)?;
    if me.participant_type.is_moderator() { Ok(me) } else { Err(Refusal::NotModerator) }
}

impl<'a> CommandContext<'a> {
    pub(super) fn participant(&self) -> Result<&'a Attendee, Refusal> {
        self.me.ok_or(Refusal::NoRoom)
    }

    /// The session of the caller's client.
    pub(super) fn session(&self) -> Result<&'a Session, Refusal> {
        self.participant()?.session(self.caller.client.as_ref()).ok_or(Refusal::NotJoined)
    }

    /// The caller, unless they have to wait in the lobby.
    pub(super) fn admitted(&self) -> Result<&'a Attendee, Refusal> {
        let me = self.participant()?;
        if me.is_waiting(self.room) { Err(Refusal::Lobby) } else { Ok(me) }
    }

    /// Refuses what nobody may do in a room that is read-only.
    pub(super) fn writable(&self) -> Result<(), Refusal> {
        if self.room.read_only {
            return Err(Refusal::Forbidden("the conversation is read-only"));
        }
        Ok(())
    }

    pub(super) fn moderator(&self) -> Result<&'a Attendee, Refusal> {
        require_moderator(self.me)
    }

    /// Guests are refused before anything else is checked.
    pub(super) fn require_user(&self) -> Result<(), Refusal> {
        if self.caller.actor.is_user() { Ok(()) } else { Err(Refusal::LoginNeeded) }
    }

    pub(super) fn target(&self) -> Result<&'a Attendee, Refusal> {
        self.target.ok_or(Refusal::NoParticipant)
    }
}
