//! What participants may do in a room: one pure function from a context and a command to the
//! changes, or to the refusal.
//!
//! The store reads the context and writes the changes in one transaction. HTTP turns a refusal
//! into a status. Neither of them knows a rule. If several refusals apply, the first one counts:
//! not logged in, no such room, not a moderator, then what is wrong with the request itself.

mod bans;
mod call;
mod changes;
mod chat;
mod context;
mod create;
mod participants;
mod settings;

use super::{
    Actor, AttendeeId, CallFlags, LobbyRequest, NewMessage, PermissionChange, Permissions,
    SipState, find_mentions,
};

pub use changes::{
    Announcement, AttendeeChange, BanChange, BulkChange, Changes, RoomChange, RoomSettings,
    SessionChange,
};
pub use context::{
    CommandContext, OtherCounts, Refusal, Resource, Target, can_read, require_moderator,
};
pub use create::{CreateRoom, NewRoom, initial_changes};
pub use settings::{MAX_DESCRIPTION_CHARS, lobby_changes};

/// Participants that one message can mention. Each is looked up.
const MAX_MENTIONS: usize = 10;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    SetLobby(LobbyRequest),
    SetSip {
        state: SipState,
        /// Whether SIP is configured on this server.
        configured: bool,
    },
    Rename(String),
    Describe(String),
    /// The hash of the new password; empty for none.
    SetPassword(String),
    SetPublic(bool),
    SetReadOnly(bool),
    SetDefaultPermissions(Permissions),
    Delete,
    /// Add a user who exists.
    Add {
        user: Actor,
        display_name: String,
    },
    Attendee(AttendeeId, AttendeeCommand),
    /// Leave the room for good.
    RemoveSelf,
    /// Leave the room for good, because the account is removed.
    RemoveAccount,
    Join {
        session_id: String,
        /// Whether to replace a session of the same client that is in the call.
        force: bool,
        /// The hash of the room's password that the caller's password matched.
        verified: Option<String>,
    },
    Return,
    /// End the session of the caller's client.
    Leave,
    /// End this session of the caller.
    EndSession(String),
    NameSelf(String),
    Send(NewMessage),
    /// Delete this message.
    DeleteMessage(i64),
    Ban {
        actor: Actor,
        note: String,
    },
    Unban(i64),
    JoinCall(CallFlags),
    UpdateCall(CallFlags),
    LeaveCall,
    /// End the call for all participants as a moderator; others leave it.
    EndCall,
}

/// What a moderator does to another attendee.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttendeeCommand {
    Remove,
    Promote,
    Demote,
    SetPermissions(PermissionChange, Permissions),
}

impl Command {
    /// The participant that the command is about, besides the caller.
    pub fn target(&self) -> Option<Target<'_>> {
        if let Self::Attendee(id, _) = self {
            Some(Target::Attendee(*id))
        } else if let Self::Add { user: actor, .. } | Self::Ban { actor, .. } = self {
            Some(Target::Actor(actor))
        } else {
            None
        }
    }

    /// The message that the command replies to or deletes.
    pub fn message(&self) -> Option<i64> {
        if let Self::Send(message) = self {
            message.reply_to
        } else if let Self::DeleteMessage(id) = self {
            Some(*id)
        } else {
            None
        }
    }

    /// The ban that the command removes.
    pub fn ban(&self) -> Option<i64> {
        if let Self::Unban(id) = self { Some(*id) } else { None }
    }

    /// The actors that a message may mention, without duplicates.
    pub fn mentions(&self) -> Vec<Actor> {
        let Self::Send(message) = self else { return Vec::new() };
        let mut actors: Vec<_> =
            find_mentions(&message.body).into_iter().map(|(_, it)| it).collect();
        actors.sort();
        actors.dedup();
        actors.truncate(MAX_MENTIONS);
        actors
    }

    /// Whether the decision depends on the numbers of other participants.
    pub fn needs_other_counts(&self) -> bool {
        matches!(
            self,
            Self::Attendee(_, AttendeeCommand::Remove)
                | Self::RemoveSelf
                | Self::RemoveAccount
                | Self::Leave
                | Self::EndSession(_)
                | Self::LeaveCall
                | Self::EndCall
        )
    }
}

/// What a command changes, or why it is refused.
pub fn decide(context: &CommandContext<'_>, command: &Command) -> Result<Changes, Refusal> {
    match command {
        Command::SetLobby(request) => settings::set_lobby(context, *request),
        Command::SetSip { state, configured } => settings::set_sip(context, *state, *configured),
        Command::Rename(name) => settings::rename(context, name),
        Command::Describe(description) => settings::describe(context, description),
        Command::SetPassword(hash) => settings::set_password(context, hash),
        Command::SetPublic(public) => settings::set_public(context, *public),
        Command::SetReadOnly(read_only) => settings::set_read_only(context, *read_only),
        Command::SetDefaultPermissions(permissions) => {
            settings::set_default_permissions(context, *permissions)
        }
        Command::Delete => settings::delete(context),
        Command::Add { user, display_name } => participants::add(context, user, display_name),
        Command::Attendee(_, AttendeeCommand::Remove) => participants::remove(context),
        Command::Attendee(_, AttendeeCommand::Promote) => participants::promote(context),
        Command::Attendee(_, AttendeeCommand::Demote) => participants::demote(context),
        Command::Attendee(_, AttendeeCommand::SetPermissions(change, permissions)) => {
            participants::set_permissions(context, *change, *permissions)
        }
        Command::RemoveSelf => participants::remove_self(context),
        Command::RemoveAccount => participants::remove_account(context),
        Command::Join { session_id, force, verified } => {
            participants::join(context, session_id, *force, verified.as_deref())
        }
        Command::Return => participants::return_to_one_to_one(context),
        Command::Leave => participants::leave(context),
        Command::EndSession(session_id) => participants::end_session(context, session_id),
        Command::NameSelf(name) => participants::name_self(context, name),
        Command::Send(message) => chat::send(context, message),
        Command::DeleteMessage(_) => chat::delete_message(context),
        Command::Ban { actor, note } => bans::ban(context, actor, note),
        Command::Unban(_) => bans::unban(context),
        Command::JoinCall(flags) => call::join(context, *flags),
        Command::UpdateCall(flags) => call::update(context, *flags),
        Command::LeaveCall => call::leave(context),
        Command::EndCall => call::end(context),
    }
}
