//! Rules of who takes part in a room, and with which participant type and permissions.

use super::changes::Announcement;
use super::context::invalid;
use super::settings::deletion;
use super::{
    AttendeeChange, BulkChange, Changes, CommandContext, Refusal, RoomChange, RoomSettings,
    SessionChange,
};
use crate::domain::{
    Actor, Attendee, AttendeeId, CallFlags, Caller, ClientId, ParticipantType, PermissionChange,
    Permissions, Reason, Room, RoomType, Session, SipState,
};

/// Longest display name of a guest, in characters: the width of Talk's column.
const MAX_GUEST_NAME_CHARS: usize = 64;

/// Sessions of one attendee at a time: more devices than a person uses. A client that forgets its
/// cookies starts another session each time it joins.
const MAX_SESSIONS: usize = 8;

pub(super) fn add(
    context: &CommandContext<'_>,
    user: &Actor,
    display_name: &str,
) -> Result<Changes, Refusal> {
    context.require_user()?;
    context.moderator()?;
    if !context.room.is_configurable() {
        return Err(invalid("type", "participants cannot be added to a one-to-one conversation"));
    }
    let added = match context.target {
        // A user who joined by the link becomes a member.
        Some(attendee) if attendee.participant_type == ParticipantType::SelfJoined => {
            let participant_type = ParticipantType::User;
            AttendeeChange::Changed(Attendee { participant_type, ..attendee.clone() })
        }
        Some(_) => return Ok(Changes::none(context.room)),
        None => AttendeeChange::New(new_attendee(
            context.room,
            user.clone(),
            display_name,
            ParticipantType::User,
        )),
    };
    Ok(with_pin(context, change(context, Reason::UserAdded, added)))
}

pub(super) fn remove(context: &CommandContext<'_>) -> Result<Changes, Refusal> {
    let me = context.moderator()?;
    let target = context.target()?;
    if !context.room.is_configurable() {
        let problem = "participants cannot be removed from a one-to-one conversation";
        return Err(invalid("type", problem));
    }
    if target.id == me.id {
        return remove_self(context);
    }
    if target.participant_type == ParticipantType::Owner {
        return Err(Refusal::Forbidden("an owner cannot be removed"));
    }
    Ok(change(context, Reason::UserRemoved, AttendeeChange::Removed(target.clone())))
}

pub(super) fn remove_self(context: &CommandContext<'_>) -> Result<Changes, Refusal> {
    let me = context.participant()?;
    let removed = change(context, Reason::UserRemoved, AttendeeChange::Removed(me.clone()));
    if !me.actor.is_user() {
        return Ok(removed);
    }
    let one_to_one = is_one_to_one(context.room);
    let last_moderator = me.participant_type.is_moderator() && context.others.moderators == 0;
    if last_moderator && context.others.users == 0 {
        return Ok(deletion(context));
    }
    if last_moderator && !one_to_one {
        let problem = "promote another participant before the last moderator leaves";
        return Err(invalid("last-moderator", problem));
    }
    Ok(removed)
}

/// Whether it is the room of two users, or that of one whose other user's account was removed.
fn is_one_to_one(room: &Room) -> bool {
    matches!(room.room_type, RoomType::OneToOne | RoomType::FormerOneToOne)
}

/// A one-to-one room stays with the other user, under the name of the removed one, as in Talk. Nobody
/// returns to it: a later account of the same name is another person's.
pub(super) fn remove_account(context: &CommandContext<'_>) -> Result<Changes, Refusal> {
    let CommandContext { room, caller, now, .. } = *context;
    let returns = room.is_one_to_one_with(&caller.actor);
    if context.me.is_none() && !returns {
        return Err(Refusal::NoRoom);
    }
    if is_one_to_one(room) && context.others.users == 0 {
        return Ok(deletion(context));
    }
    let changes = if returns {
        let settings = RoomSettings {
            room_type: RoomType::FormerOneToOne,
            name: caller.display_name.clone(),
            ..RoomSettings::of(room)
        };
        let about = Some((caller.actor.clone(), caller.display_name.clone()));
        let announcement = Announcement { about, ..Announcement::of(Reason::UserRemoved) };
        Changes::of(room, RoomChange::Settings(settings), announcement, now).read_only(true)
    } else {
        let me = context.participant()?;
        let announcement = Announcement::about(Reason::UserRemoved, me);
        Changes::of(room, RoomChange::None, announcement, now)
    };
    Ok(match context.me {
        Some(me) => changes.attendee(AttendeeChange::Removed(me.clone())),
        None => changes,
    })
}

pub(super) fn promote(context: &CommandContext<'_>) -> Result<Changes, Refusal> {
    context.moderator()?;
    let (participant_type, reason) = match context.target()?.participant_type {
        ParticipantType::User | ParticipantType::SelfJoined => {
            (ParticipantType::Moderator, Reason::ModeratorPromoted)
        }
        ParticipantType::Guest => (ParticipantType::GuestModerator, Reason::GuestModeratorPromoted),
        ParticipantType::Owner | ParticipantType::Moderator | ParticipantType::GuestModerator => {
            return Err(invalid("participant", "this participant is a moderator already"));
        }
    };
    change_type(context, participant_type, reason)
}

pub(super) fn demote(context: &CommandContext<'_>) -> Result<Changes, Refusal> {
    let me = context.moderator()?;
    let target = context.target()?;
    if target.id == me.id {
        return Err(Refusal::Forbidden("moderators cannot demote themselves"));
    }
    let (participant_type, reason) = match target.participant_type {
        ParticipantType::Moderator => (ParticipantType::User, Reason::ModeratorDemoted),
        ParticipantType::GuestModerator => (ParticipantType::Guest, Reason::GuestModeratorDemoted),
        ParticipantType::Owner
        | ParticipantType::User
        | ParticipantType::Guest
        | ParticipantType::SelfJoined => {
            return Err(invalid("participant", "this participant cannot be demoted"));
        }
    };
    change_type(context, participant_type, reason)
}

fn change_type(
    context: &CommandContext<'_>,
    participant_type: ParticipantType,
    reason: Reason,
) -> Result<Changes, Refusal> {
    if !context.room.is_configurable() {
        let problem = "both participants of a one-to-one conversation have the same rights";
        return Err(invalid("type", problem));
    }
    let changed = Attendee { participant_type, ..context.target()?.clone() };
    Ok(change_rights(context, reason, changed))
}

pub(super) fn set_permissions(
    context: &CommandContext<'_>,
    how: PermissionChange,
    permissions: Permissions,
) -> Result<Changes, Refusal> {
    context.moderator()?;
    let target = context.target()?;
    if !context.room.is_configurable() {
        return Err(invalid("room-type", "a one-to-one conversation has no permissions"));
    }
    if target.participant_type.is_moderator() {
        return Err(invalid("moderator", "moderators have all permissions"));
    }
    let permissions = target.changed_permissions(context.room, how, permissions);
    let changed = Attendee { permissions, ..target.clone() };
    Ok(change_rights(context, Reason::PermissionsChanged, changed))
}

/// An attendee who has to wait in the lobby from then on leaves the call.
fn change_rights(context: &CommandContext<'_>, reason: Reason, changed: Attendee) -> Changes {
    let in_call = changed.sessions.iter().filter(|session| !session.in_call.is_empty());
    let left: Vec<_> = in_call
        .filter(|_session| changed.is_waiting(context.room))
        .map(|session| Session { in_call: CallFlags::empty(), ..session.clone() })
        .map(SessionChange::CallFlags)
        .collect();
    change(context, reason, AttendeeChange::Changed(changed)).sessions(left)
}

pub(super) fn join(
    context: &CommandContext<'_>,
    session_id: &str,
    force: bool,
    verified: Option<&str>,
) -> Result<Changes, Refusal> {
    let (room, Caller { actor, client, display_name, .. }) = (context.room, context.caller);
    let session = Session {
        id: session_id.to_owned(),
        client: client.clone().unwrap_or_else(|| ClientId(session_id.to_owned())),
        in_call: CallFlags::empty(),
        last_ping: context.now.timestamp(),
    };
    let own = context.me.zip(client.as_ref()).and_then(|(me, client)| me.session(Some(client)));
    let started = SessionChange::Started { actor: actor.clone(), session };
    match context.me {
        // A client is not removed from a call without being asked.
        Some(_me) if !force && own.is_some_and(|own| !own.in_call.is_empty()) => {
            Err(Refusal::AlreadyJoined(own.cloned().expect("there is one")))
        }
        Some(me) => {
            let is_full = me.sessions.len() >= MAX_SESSIONS;
            let replaced = own.or_else(|| me.sessions.first().filter(|_oldest| is_full));
            let ended = replaced.cloned().map(SessionChange::Ended);
            let sessions = ended.into_iter().chain([started]);
            Ok(change_sessions(context, Reason::ParticipantJoined, me, sessions))
        }
        None if room.is_public() => {
            if context.is_banned {
                return Err(Refusal::Banned);
            }
            if room.has_password() && verified != Some(room.password_hash.as_str()) {
                return Err(Refusal::WrongPassword);
            }
            let new = new_attendee(room, actor.clone(), display_name, joining_type(actor));
            let joined = change(context, Reason::ParticipantJoined, AttendeeChange::New(new));
            Ok(with_pin(context, joined.sessions([started])))
        }
        None => Err(Refusal::NoRoom),
    }
}

pub(super) fn return_to_one_to_one(context: &CommandContext<'_>) -> Result<Changes, Refusal> {
    let (room, actor) = (context.room, &context.caller.actor);
    if !room.is_one_to_one_with(actor) {
        return Err(Refusal::NoRoom);
    }
    if context.me.is_some() {
        return Ok(Changes::none(room));
    }
    let name = &context.caller.display_name;
    let new = new_attendee(room, actor.clone(), name, ParticipantType::Owner);
    Ok(change(context, Reason::UserAdded, AttendeeChange::New(new)))
}

/// The type of a non-member who joins a public room.
fn joining_type(actor: &Actor) -> ParticipantType {
    if actor.is_user() { ParticipantType::SelfJoined } else { ParticipantType::Guest }
}

pub(super) fn leave(context: &CommandContext<'_>) -> Result<Changes, Refusal> {
    let me = context.participant()?;
    let session = me.session(context.caller.client.as_ref());
    Ok(session.map_or_else(|| Changes::none(context.room), |session| end(context, me, session)))
}

/// An inactive session ends as if its client had left.
pub(super) fn end_session(
    context: &CommandContext<'_>,
    session_id: &str,
) -> Result<Changes, Refusal> {
    let me = context.participant()?;
    let session = me.sessions.iter().find(|session| session.id == session_id);
    Ok(session.map_or_else(|| Changes::none(context.room), |session| end(context, me, session)))
}

fn end(context: &CommandContext<'_>, me: &Attendee, session: &Session) -> Changes {
    if me.is_temporary() && me.sessions.len() == 1 {
        return change(context, Reason::ParticipantLeft, AttendeeChange::Removed(me.clone()));
    }
    let ended = SessionChange::Ended(session.clone());
    change_sessions(context, Reason::ParticipantLeft, me, [ended])
}

pub(super) fn name_self(context: &CommandContext<'_>, name: &str) -> Result<Changes, Refusal> {
    if context.caller.actor.is_user() {
        return Err(Refusal::Forbidden("only guests can set their display name"));
    }
    let me = context.participant()?;
    let name = name.trim();
    if name.chars().count() > MAX_GUEST_NAME_CHARS {
        return Err(invalid("displayName", "a guest's name has at most 64 characters"));
    }
    if name == me.display_name {
        return Ok(Changes::none(context.room));
    }
    let renamed = Attendee { display_name: name.to_owned(), ..me.clone() };
    Ok(change(context, Reason::DisplayNameChanged, AttendeeChange::Changed(renamed)))
}

fn change(context: &CommandContext<'_>, reason: Reason, attendee: AttendeeChange) -> Changes {
    let announcement = Announcement::about(reason, attendee.attendee());
    Changes::of(context.room, RoomChange::None, announcement, context.now).attendee(attendee)
}

fn change_sessions(
    context: &CommandContext<'_>,
    reason: Reason,
    me: &Attendee,
    sessions: impl IntoIterator<Item = SessionChange>,
) -> Changes {
    let announcement = Announcement::about(reason, me);
    Changes::of(context.room, RoomChange::None, announcement, context.now).sessions(sessions)
}

/// Each user of a room with PINs has one.
fn with_pin(context: &CommandContext<'_>, changes: Changes) -> Changes {
    let needs_pin = changes.attendee.as_ref().is_some_and(|change| match change {
        AttendeeChange::New(attendee) | AttendeeChange::Changed(attendee) => {
            attendee.actor.is_user() && attendee.pin.is_none()
        }
        AttendeeChange::Removed(_) => false,
    });
    if context.room.sip == SipState::WithPin && needs_pin {
        changes.bulk(BulkChange::AssignPins)
    } else {
        changes
    }
}

/// A new participant has no unread messages: those that exist were not written for them.
pub(super) fn new_attendee(
    room: &Room,
    actor: Actor,
    display_name: &str,
    participant_type: ParticipantType,
) -> Attendee {
    Attendee {
        id: AttendeeId(0),
        actor,
        display_name: display_name.to_owned(),
        participant_type,
        permissions: Permissions::DEFAULT,
        pin: None,
        last_read_message: 0,
        comments_read: room.comments,
        read_at: 0,
        last_mention: 0,
        sessions: Vec::new(),
    }
}
