//! What participants may do to a room: one pure function from a scene and a command to the effects
//! of it, or to the reason why not.
//!
//! The store reads the scene and writes the effects in one transaction; HTTP turns a refusal into a
//! status. Neither of them knows a rule. Where two refusals apply, the first one counts: not logged
//! in, no such room, not a moderator, then what is wrong with the request itself.

mod call;
mod create;
mod participants;
mod settings;

use chrono::{DateTime, Utc};

use super::{
    attendee::{
        Actor, Attendee, AttendeeId, Caller, Modification, ParticipantType, Permissions, Session,
    },
    event::Reason,
    message::{MAX_MESSAGE_CHARS, NewMessage},
    room::{InvalidLobby, Lobby, LobbyState, Room, Version},
};

pub use create::{CreateRoom, NewRoom, initial_changes};
pub use settings::{MAX_DESCRIPTION_CHARS, lobby_effects};

/// What somebody wants to do to a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Put a lobby in front of it, or remove it.
    SetLobby {
        /// Talk's number: 0 none, 1 others than moderators wait.
        state: i64,
        /// Unix seconds of the reset to no lobby, 0 for none.
        timer: Option<i64>,
    },
    /// Enable or disable SIP dial-in.
    SetSip {
        /// Talk's number: 0 off, 1 with a PIN per attendee, 2 without PIN.
        state: i64,
        /// Whether SIP is configured on this server.
        configured: bool,
    },
    /// Give it another name.
    Rename(String),
    /// Say what it is about.
    Describe(String),
    /// Ask strangers for a password: its hash, empty to ask no more.
    SetPassword(String),
    /// Let anybody in who has the link, or nobody any more.
    SetPublic(bool),
    /// Delete it.
    Delete,
    /// Add a user, who exists.
    Add {
        /// The user.
        user: Actor,
        /// The user's name for people.
        display_name: String,
    },
    /// Remove somebody else.
    Remove(AttendeeId),
    /// Take no part any more.
    RemoveSelf,
    /// Make somebody a moderator.
    Promote(AttendeeId),
    /// Make somebody no moderator any more.
    Demote(AttendeeId),
    /// Give somebody permissions of his own.
    SetPermissions(AttendeeId, Modification, Permissions),
    /// Be present from now on.
    Join {
        /// Name of the new session.
        session: String,
        /// Whether to replace a session that is there.
        force: bool,
        /// The room's password hash that the caller's password was found to fit.
        proven: Option<String>,
    },
    /// Take part again in a room of two.
    Return,
    /// Be present no more.
    Leave,
    /// Be present no more, if it is still by the session of this id.
    EndSession(String),
    /// Name oneself, as a guest.
    NameSelf(String),
    /// Say something.
    Send(NewMessage),
    /// Take part in the call, with Talk's flags.
    JoinCall(i64),
    /// Publish other media in the call.
    UpdateCall(i64),
    /// Take no part in the call any more.
    LeaveCall,
    /// End the call for everybody, as a moderator; others only leave it themselves.
    EndCall,
}

impl Command {
    /// Whom else it is about.
    pub fn target(&self) -> Option<Target<'_>> {
        match self {
            Self::Add { user, .. } => Some(Target::Actor(user)),
            Self::Remove(id)
            | Self::Promote(id)
            | Self::Demote(id)
            | Self::SetPermissions(id, ..) => Some(Target::Attendee(*id)),
            Self::SetLobby { .. }
            | Self::SetSip { .. }
            | Self::Rename(_)
            | Self::Describe(_)
            | Self::SetPassword(_)
            | Self::SetPublic(_)
            | Self::Delete
            | Self::RemoveSelf
            | Self::Join { .. }
            | Self::Return
            | Self::Leave
            | Self::EndSession(_)
            | Self::NameSelf(_)
            | Self::Send(_)
            | Self::JoinCall(_)
            | Self::UpdateCall(_)
            | Self::LeaveCall
            | Self::EndCall => None,
        }
    }

    /// Whether its rule asks how many others there are.
    pub fn needs_other_counts(&self) -> bool {
        matches!(
            self,
            Self::Remove(_)
                | Self::RemoveSelf
                | Self::Leave
                | Self::EndSession(_)
                | Self::LeaveCall
                | Self::EndCall
        )
    }
}

/// Whom a command is about, besides the one who gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// By the row's key, as clients name attendees.
    Attendee(AttendeeId),
    /// By name.
    Actor(&'a Actor),
}

/// How many others there are in a room, besides the caller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OtherCounts {
    /// Owners and moderators with an account.
    pub moderators: i64,
    /// Users, moderators or not.
    pub users: i64,
    /// Participants of the call.
    pub in_call: i64,
}

/// What a rule looks at.
#[derive(Debug, Clone, Copy)]
pub struct CommandContext<'a> {
    /// The room, locked.
    pub room: &'a Room,
    /// The one who gives the command.
    pub caller: &'a Caller,
    /// The caller's part in the room, if any.
    pub me: Option<&'a Attendee>,
    /// The one whom the command is about.
    pub target: Option<&'a Attendee>,
    /// How many others there are; zeros unless the command needs it.
    pub others: OtherCounts,
    /// The database's time.
    pub now: DateTime<Utc>,
}

/// Why a command is refused. HTTP has a status for each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such room, or not for this caller.
    #[error("there is no such conversation for this participant")]
    NoRoom,
    /// The one whom the command is about takes no part.
    #[error("there is no such participant")]
    NoParticipant,
    /// The user to add does not exist.
    #[error("there is no such user")]
    NoUser,
    /// The caller has no session in the room.
    #[error("join the conversation first")]
    NotJoined,
    /// A guest asks for what only users may do.
    #[error("log in first")]
    LoginNeeded,
    /// The user is in none of the groups that may enable SIP.
    #[error("this user may not enable SIP dial-in")]
    SipNotAllowed,
    /// Only moderators may do this.
    #[error("only moderators may do this")]
    NotModerator,
    /// Nobody may do this to this participant, or with these permissions.
    #[error("{0}")]
    Forbidden(&'static str),
    /// The room asks for a password, and this was not it.
    #[error("the password does not fit")]
    WrongPassword,
    /// The request makes no sense for this room.
    #[error("{problem}")]
    Invalid {
        /// Talk's word for what is wrong.
        what: &'static str,
        /// The same for people.
        problem: &'static str,
    },
    /// State or timer of a lobby mean nothing.
    #[error(transparent)]
    NoLobby(#[from] InvalidLobby),
    /// The text is too long.
    #[error("a message has at most {MAX_MESSAGE_CHARS} characters")]
    TooLong,
    /// The caller has to wait behind the lobby.
    #[error("wait in the lobby: the conversation is restricted to moderators")]
    Lobby,
    /// SIP is not configured on this server.
    #[error("SIP dial-in is not configured on this server")]
    SipNotConfigured,
    /// There is a session already, and it was not to be replaced.
    #[error("there is a session already")]
    Conflict(Session),
}

impl Refusal {
    /// Talk's word for what is wrong with the request itself.
    pub fn what(&self) -> Option<&'static str> {
        match self {
            Self::Invalid { what, .. } => Some(what),
            Self::NoLobby(_) => Some("value"),
            Self::NoRoom
            | Self::NoParticipant
            | Self::NoUser
            | Self::NotJoined
            | Self::LoginNeeded
            | Self::SipNotAllowed
            | Self::NotModerator
            | Self::Forbidden(_)
            | Self::WrongPassword
            | Self::TooLong
            | Self::Lobby
            | Self::SipNotConfigured
            | Self::Conflict(_) => None,
        }
    }
}

/// Short for a refusal of the request itself.
const fn invalid(what: &'static str, problem: &'static str) -> Refusal {
    Refusal::Invalid { what, problem }
}

/// What a command does to one attendee.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttendeeChange {
    /// A new one; its key is the store's to give.
    New(Attendee),
    /// The row becomes this.
    Changed(Attendee),
    /// The row goes.
    Removed(Attendee),
}

/// What a command does to many attendees at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bulk {
    /// Users without PIN get one.
    AssignPins,
    /// Nobody has a PIN any more.
    DropPins,
    /// Those who have to wait behind the lobby leave the call.
    RemoveWaitingFromCall,
    /// Everybody leaves the call.
    RemoveAllFromCall,
    /// Those who came by the public link go.
    RemoveUninvited,
}

/// What the chat and the events say of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// What happened.
    pub reason: Reason,
    /// Whether the chat shows it.
    pub in_chat: bool,
    /// The participant whom it concerns, if just one, with the name for people.
    pub about: Option<(Actor, String)>,
}

impl Announcement {
    /// The room itself changed.
    pub(super) fn of(reason: Reason) -> Self {
        Self { reason, in_chat: reason.text().is_some(), about: None }
    }

    /// One participant's part changed.
    pub(super) fn about(reason: Reason, attendee: &Attendee) -> Self {
        let about = Some((attendee.actor.clone(), attendee.display_name.clone()));
        Self { reason, in_chat: reason.text().is_some(), about }
    }
}

/// What is to be written, in one transaction. Without a notice nothing changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// The room after it. Its version is newer if there is a notice.
    pub room: Room,
    /// The attendee that changes.
    pub person: Option<AttendeeChange>,
    /// What changes for many.
    pub bulk: Option<Bulk>,
    /// What somebody said, who has read what was said before.
    pub said: Option<(AttendeeId, NewMessage)>,
    /// What is told about it.
    pub notice: Option<Announcement>,
    /// Whether the lobby was set, so that the workers have to know.
    pub lobby_set: bool,
    /// Whether the room goes, with all that belongs to it.
    pub gone: bool,
}

impl Changes {
    /// Nothing.
    fn none(room: &Room) -> Self {
        Self {
            room: room.clone(),
            person: None,
            bulk: None,
            said: None,
            notice: None,
            lobby_set: false,
            gone: false,
        }
    }

    /// A change of the room for this reason, with the next version: one that was made elsewhere,
    /// and is dated by the clock, is still newer.
    fn of(room: Room, notice: Announcement) -> Self {
        let version = room.version.next();
        Self { notice: Some(notice), ..Self::none(&Room { version, ..room }) }
    }

    fn person(self, person: AttendeeChange) -> Self {
        Self { person: Some(person), ..self }
    }

    fn bulk(self, bulk: Bulk) -> Self {
        Self { bulk: Some(bulk), ..self }
    }

    fn gone(self) -> Self {
        Self { gone: true, ..self }
    }
}

/// Says what a command does, or why it is refused.
///
/// # Errors
///
/// The refusal.
pub fn rule(scene: &CommandContext<'_>, command: &Command) -> Result<Changes, Refusal> {
    match command {
        Command::SetLobby { state, timer } => settings::set_lobby(scene, *state, *timer),
        Command::SetSip { state, configured } => settings::set_sip(scene, *state, *configured),
        Command::Rename(name) => settings::rename(scene, name),
        Command::Describe(text) => settings::describe(scene, text),
        Command::SetPassword(hash) => settings::set_password(scene, hash),
        Command::SetPublic(public) => settings::set_public(scene, *public),
        Command::Delete => settings::delete(scene),
        Command::Add { user, display_name } => participants::add(scene, user, display_name),
        Command::Remove(_) => participants::remove(scene),
        Command::RemoveSelf => participants::remove_self(scene),
        Command::Promote(_) => participants::promote(scene),
        Command::Demote(_) => participants::demote(scene),
        Command::SetPermissions(_, how, permissions) => {
            participants::set_permissions(scene, *how, *permissions)
        }
        Command::Join { session, force, proven } => {
            participants::join(scene, session, *force, proven.as_deref())
        }
        Command::Return => participants::come_back(scene),
        Command::Leave => participants::leave(scene),
        Command::EndSession(id) => participants::end_session(scene, id),
        Command::NameSelf(name) => participants::name_self(scene, name),
        Command::Send(message) => send(scene, message),
        Command::JoinCall(flags) => call::join(scene, *flags),
        Command::UpdateCall(flags) => call::update(scene, *flags),
        Command::LeaveCall => call::leave(scene),
        Command::EndCall => call::end(scene),
    }
}

/// What a participant wants to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// The chat.
    Chat,
    /// The list of participants, which plain guests do not see.
    Participants,
    /// Who is in the call.
    Peers,
}

/// Whether somebody may look at a part of the room that the lobby hides.
///
/// # Errors
///
/// The refusal.
pub fn can_read(room: &Room, me: Option<&Attendee>, look: Resource) -> Result<(), Refusal> {
    let me = me.ok_or(Refusal::NoRoom)?;
    if look == Resource::Participants && me.participant_type == ParticipantType::Guest {
        return Err(Refusal::Forbidden("guests do not see the list of participants"));
    }
    if me.is_waiting(room) { Err(Refusal::Lobby) } else { Ok(()) }
}

/// Whether somebody is a moderator of the room, guest moderators included.
///
/// # Errors
///
/// He is not, or takes no part.
pub fn moderates(me: Option<&Attendee>) -> Result<&Attendee, Refusal> {
    let me = me.ok_or(Refusal::NoRoom)?;
    if me.participant_type.is_moderator() { Ok(me) } else { Err(Refusal::NotModerator) }
}

impl<'a> CommandContext<'a> {
    fn participant(&self) -> Result<&'a Attendee, Refusal> {
        self.me.ok_or(Refusal::NoRoom)
    }

    /// Whoever does not have to wait behind the lobby.
    fn admitted(&self) -> Result<&'a Attendee, Refusal> {
        let me = self.participant()?;
        if me.is_waiting(self.room) { Err(Refusal::Lobby) } else { Ok(me) }
    }

    fn moderator(&self) -> Result<&'a Attendee, Refusal> {
        moderates(self.me)
    }

    /// What only users may do, no guest ever, is refused first.
    fn login(&self) -> Result<(), Refusal> {
        if self.caller.actor.is_user() { Ok(()) } else { Err(Refusal::LoginNeeded) }
    }

    fn target(&self) -> Result<&'a Attendee, Refusal> {
        self.target.ok_or(Refusal::NoParticipant)
    }
}

fn send(scene: &CommandContext<'_>, message: &NewMessage) -> Result<Changes, Refusal> {
    let me = scene.admitted()?;
    if !me.effective_permissions().contains(Permissions::CHAT) {
        return Err(Refusal::Forbidden("this participant may not post in the chat"));
    }
    if message.text.trim().is_empty() {
        return Err(invalid("message", "a message says something"));
    }
    if message.text.chars().count() > MAX_MESSAGE_CHARS {
        return Err(Refusal::TooLong);
    }
    let room = Room { comments: scene.room.comments + 1, ..scene.room.clone() };
    let notice = Announcement::about(Reason::MessageSent, me);
    Ok(Changes { said: Some((me.id, message.clone())), ..Changes::of(room, notice) })
}
