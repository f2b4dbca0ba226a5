//! Rules for the call of a room.

use super::{
    Attendee, AttendeeChange, Bulk, Effects, Notice, Permissions, Reason, Refusal, Room, Scene,
    Session, invalid, shape::unseen,
};
use crate::domain::room::Call;

/// Talk's flags of a participant in the call.
const IN_CALL: i64 = 1;
const WITH_AUDIO: i64 = 2;
const WITH_VIDEO: i64 = 4;
const ALL_FLAGS: i64 = 15;

pub(super) fn join(scene: &Scene<'_>, flags: i64) -> Result<Effects, Refusal> {
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

pub(super) fn update(scene: &Scene<'_>, flags: i64) -> Result<Effects, Refusal> {
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
    scene: &Scene<'_>,
    me: &Attendee,
    session: &Session,
    flags: i64,
    reason: Reason,
) -> Result<Effects, Refusal> {
    if !(0..=ALL_FLAGS).contains(&flags) {
        return Err(invalid("flags", "flags are the sum of 1 (in call), 2 (audio), 4 (video), 8"));
    }
    let flags = allowed(me, flags);
    let call = match scene.room.call {
        Some(call) => Call { flags: call.flags | flags, ..call },
        None => Call { started_at: scene.now.timestamp(), flags },
    };
    let me = with_session(me, Session { in_call: flags, ..session.clone() });
    let notice = Notice::about(reason, &me);
    let room = Room { call: Some(call), ..unseen(scene) };
    Ok(Effects::of(room, notice).person(AttendeeChange::Changed(me)))
}

/// Media that the participant may not publish are not announced.
fn allowed(me: &Attendee, flags: i64) -> i64 {
    let permissions = me.effective_permissions();
    [(Permissions::AUDIO, WITH_AUDIO), (Permissions::VIDEO, WITH_VIDEO)]
        .into_iter()
        .filter(|(permission, _flag)| !permissions.contains(*permission))
        .fold(flags, |flags, (_permission, flag)| flags & !flag)
}

pub(super) fn leave(scene: &Scene<'_>) -> Result<Effects, Refusal> {
    let me = scene.participant()?;
    let session = me.session.as_ref().ok_or(Refusal::NotJoined)?;
    if session.in_call == 0 {
        return Ok(Effects::none(scene.room));
    }
    let me = with_session(me, Session { in_call: 0, ..session.clone() });
    let reason = if scene.census.in_call == 0 { Reason::CallEnded } else { Reason::CallLeft };
    Ok(Effects::of(scene.room.clone(), Notice::about(reason, &me))
        .person(AttendeeChange::Changed(me)))
}

pub(super) fn end(scene: &Scene<'_>) -> Result<Effects, Refusal> {
    if !scene.participant()?.participant_type.is_moderator() {
        return leave(scene);
    }
    if scene.room.call.is_none() {
        return Ok(Effects::none(scene.room));
    }
    let notice = Notice::of(Reason::CallEndedEveryone);
    Ok(Effects::of(scene.room.clone(), notice).bulk(Bulk::EverybodyLeavesCall))
}

fn with_session(me: &Attendee, session: Session) -> Attendee {
    Attendee { session: Some(session), ..me.clone() }
}
