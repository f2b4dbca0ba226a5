//! Rules for the call of a room.

use super::{
    Announcement, Attendee, AttendeeChange, Bulk, Changes, CommandContext, Permissions, Reason,
    Refusal, Room, Session, invalid, settings::touch_silently,
};
use crate::domain::room::Call;

/// Talk's flags of a participant in the call.
const IN_CALL: i64 = 1;
const WITH_AUDIO: i64 = 2;
const WITH_VIDEO: i64 = 4;
const ALL_FLAGS: i64 = 15;

pub(super) fn join(scene: &CommandContext<'_>, flags: i64) -> Result<Changes, Refusal> {
    let me = scene.admitted()?;
    let session = me.session.as_ref().ok_or(Refusal::NotJoined)?;
    let permissions = me.effective_permissions();
    let (reason, needed) = match (scene.room.call, session.in_call) {
        (None, _) => (Reason::CallStarted, Permissions::START_CALL),
        (Some(_), 0) => (Reason::CallJoined, Permissions::JOIN_CALL),
        (Some(_), _) => (Reason::CallFlagsChanged, Permissions::JOIN_CALL),
    };
    if !permissions.contains(needed) {
        return Err(Refusal::Forbidden("this participant may not start or join the call"));
    }
    set_flags(scene, me, session, flags | IN_CALL, reason)
}

pub(super) fn update(scene: &CommandContext<'_>, flags: i64) -> Result<Changes, Refusal> {
    let me = scene.admitted()?;
    let session = me.session.as_ref().ok_or(Refusal::NotJoined)?;
    if session.in_call == 0 {
        return Err(invalid("flags", "join the call first"));
    }
    if flags & IN_CALL == 0 {
        return Err(invalid("flags", "flags contain 1 (in call); leave the call to take it away"));
    }
    set_flags(scene, me, session, flags, Reason::CallFlagsChanged)
}

fn set_flags(
    scene: &CommandContext<'_>,
    me: &Attendee,
    session: &Session,
    flags: i64,
    reason: Reason,
) -> Result<Changes, Refusal> {
    if !(0..=ALL_FLAGS).contains(&flags) {
        return Err(invalid("flags", "flags are the sum of 1 (in call), 2 (audio), 4 (video), 8"));
    }
    let flags = allowed(me, flags);
    let call = match scene.room.call {
        Some(call) => Call { flags: call.flags | flags, ..call },
        None => Call { started_at: scene.now.timestamp(), flags },
    };
    let me = with_session(me, Session { in_call: flags, ..session.clone() });
    let notice = Announcement::about(reason, &me);
    let room = Room { call: Some(call), ..touch_silently(scene) };
    Ok(Changes::of(room, notice).person(AttendeeChange::Changed(me)))
}

/// Media that the participant may not publish are not announced.
fn allowed(me: &Attendee, flags: i64) -> i64 {
    let permissions = me.effective_permissions();
    [(Permissions::AUDIO, WITH_AUDIO), (Permissions::VIDEO, WITH_VIDEO)]
        .into_iter()
        .filter(|(permission, _flag)| !permissions.contains(*permission))
        .fold(flags, |flags, (_permission, flag)| flags & !flag)
}

pub(super) fn leave(scene: &CommandContext<'_>) -> Result<Changes, Refusal> {
    let me = scene.participant()?;
    let session = me.session.as_ref().ok_or(Refusal::NotJoined)?;
    if session.in_call == 0 {
        return Ok(Changes::none(scene.room));
    }
    let me = with_session(me, Session { in_call: 0, ..session.clone() });
    let reason = if scene.others.in_call == 0 { Reason::CallEnded } else { Reason::CallLeft };
    Ok(Changes::of(scene.room.clone(), Announcement::about(reason, &me))
        .person(AttendeeChange::Changed(me)))
}

pub(super) fn end(scene: &CommandContext<'_>) -> Result<Changes, Refusal> {
    if !scene.participant()?.participant_type.is_moderator() {
        return leave(scene);
    }
    if scene.room.call.is_none() {
        return Ok(Changes::none(scene.room));
    }
    let notice = Announcement::of(Reason::CallEndedEveryone);
    Ok(Changes::of(scene.room.clone(), notice).bulk(Bulk::RemoveAllFromCall))
}

fn with_session(me: &Attendee, session: Session) -> Attendee {
    Attendee { session: Some(session), ..me.clone() }
}
