//! Rules of the call.

use super::changes::Announcement;
use super::context::invalid;
use super::{BulkChange, Changes, CommandContext, Refusal, RoomChange, SessionChange};
use crate::domain::{Attendee, Call, CallFlags, Permissions, Reason, Room, Session};

pub(super) fn join(context: &CommandContext<'_>, flags: CallFlags) -> Result<Changes, Refusal> {
    let me = context.admitted()?;
    let session = context.session()?;
    let (reason, needed) = match context.room.call {
        None => (Reason::CallStarted, Permissions::START_CALL),
        Some(_) if me.is_in_call() => (Reason::CallFlagsChanged, Permissions::JOIN_CALL),
        Some(_) => (Reason::CallJoined, Permissions::JOIN_CALL),
    };
    context.writable()?;
    if !me.effective_permissions(context.room).contains(needed) {
        return Err(Refusal::Forbidden("this participant may not start or join the call"));
    }
    set_flags(context, me, session, flags | CallFlags::IN_CALL, reason)
}

pub(super) fn update(context: &CommandContext<'_>, flags: CallFlags) -> Result<Changes, Refusal> {
    let me = context.admitted()?;
    let session = context.session()?;
    if session.in_call.is_empty() {
        return Err(invalid("flags", "join the call first"));
    }
    if !flags.contains(CallFlags::IN_CALL) {
        return Err(invalid(
            "flags",
            "flags must contain 1 (in call); to leave the call, delete it",
        ));
    }
    set_flags(context, me, session, flags, Reason::CallFlagsChanged)
}

fn set_flags(
    context: &CommandContext<'_>,
    me: &Attendee,
    session: &Session,
    flags: CallFlags,
    reason: Reason,
) -> Result<Changes, Refusal> {
    if !CallFlags::all().contains(flags) {
        return Err(invalid("flags", "flags are the sum of 1 (in call), 2 (audio), 4 (video), 8"));
    }
    let flags = permitted(context.room, me, flags);
    let call = match context.room.call {
        Some(call) => Call { flags: call.flags | flags, ..call },
        None => Call { started_at: context.now.timestamp(), flags },
    };
    Ok(change(context, reason, me, session, flags).call(call))
}

/// Without the media that the participant may not publish.
fn permitted(room: &Room, me: &Attendee, flags: CallFlags) -> CallFlags {
    let permissions = me.effective_permissions(room);
    [(Permissions::AUDIO, CallFlags::AUDIO), (Permissions::VIDEO, CallFlags::VIDEO)]
        .into_iter()
        .filter(|(permission, _)| !permissions.contains(*permission))
        .fold(flags, |flags, (_, medium)| flags - medium)
}

pub(super) fn leave(context: &CommandContext<'_>) -> Result<Changes, Refusal> {
    let me = context.participant()?;
    let session = context.session()?;
    if session.in_call.is_empty() {
        return Ok(Changes::none(context.room));
    }
    let other_session = |each: &Session| each.id != session.id && !each.in_call.is_empty();
    let reason = if me.sessions.iter().any(other_session) {
        Reason::CallFlagsChanged
    } else if context.others.in_call == 0 {
        Reason::CallEnded
    } else {
        Reason::CallLeft
    };
    Ok(change(context, reason, me, session, CallFlags::empty()))
}

pub(super) fn end(context: &CommandContext<'_>) -> Result<Changes, Refusal> {
    if !context.participant()?.participant_type.is_moderator() {
        return leave(context);
    }
    if context.room.call.is_none() {
        return Ok(Changes::none(context.room));
    }
    let announcement = Announcement::of(Reason::CallEndedEveryone);
    let ended = Changes::of(context.room, RoomChange::None, announcement, context.now);
    Ok(ended.bulk(BulkChange::RemoveAllFromCall))
}

fn change(
    context: &CommandContext<'_>,
    reason: Reason,
    me: &Attendee,
    session: &Session,
    in_call: CallFlags,
) -> Changes {
    let changed = SessionChange::CallFlags(Session { in_call, ..session.clone() });
    let announcement = Announcement::about(reason, me);
    Changes::of(context.room, RoomChange::None, announcement, context.now).sessions([changed])
}
