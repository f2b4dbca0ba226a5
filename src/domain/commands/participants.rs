//! Rules for who takes part in a room, and as what.

use super::{
    Actor, Announcement, Attendee, AttendeeChange, AttendeeId, Bulk, Changes, CommandContext,
    Modification, ParticipantType, Permissions, Reason, Refusal, Room, Session, invalid,
    settings::touch_silently,
};

/// Longest name of a guest, in characters: the width of Talk's column.
const MAX_GUEST_NAME_CHARS: usize = 64;

pub(super) fn add(
    scene: &CommandContext<'_>,
    user: &Actor,
    display_name: &str,
) -> Result<Changes, Refusal> {
    scene.login()?;
    scene.moderator()?;
    if !scene.room.is_configurable() {
        return Err(invalid("type", "nobody can be added to a conversation of two"));
    }
    let new = match scene.target {
        // Who came by the link belongs to the room from now on.
        Some(there) if there.participant_type == ParticipantType::SelfJoined => {
            AttendeeChange::Changed(Attendee {
                participant_type: ParticipantType::User,
                ..there.clone()
            })
        }
        Some(_) => return Ok(Changes::none(scene.room)),
        None => AttendeeChange::New(newcomer(
            scene.room,
            user.clone(),
            display_name,
            ParticipantType::User,
        )),
    };
    Ok(with_pin(scene, concerning(scene, Reason::UserAdded, new)))
}

pub(super) fn remove(scene: &CommandContext<'_>) -> Result<Changes, Refusal> {
    let me = scene.moderator()?;
    let target = scene.target()?;
    if !scene.room.is_configurable() {
        return Err(invalid("type", "nobody can be removed from a conversation of two"));
    }
    if target.id == me.id {
        return remove_self(scene);
    }
    if target.participant_type == ParticipantType::Owner {
        return Err(Refusal::Forbidden("an owner cannot be removed"));
    }
    Ok(concerning(scene, Reason::UserRemoved, AttendeeChange::Removed(target.clone())))
}

pub(super) fn remove_self(scene: &CommandContext<'_>) -> Result<Changes, Refusal> {
    let me = scene.participant()?;
    let gone = concerning(scene, Reason::UserRemoved, AttendeeChange::Removed(me.clone()));
    if !me.actor.is_user() {
        return Ok(gone);
    }
    let one_to_one = scene.room.room_type == Room::ONE_TO_ONE;
    if one_to_one && scene.others.users == 0 {
        let notice = Announcement::of(Reason::ConversationDeleted);
        return Ok(Changes::of(scene.room.clone(), notice).gone());
    }
    let last = me.participant_type.is_moderator() && scene.others.moderators == 0;
    if last && !one_to_one {
        return Err(invalid("last-moderator", "promote somebody before the last moderator goes"));
    }
    Ok(gone)
}

pub(super) fn promote(scene: &CommandContext<'_>) -> Result<Changes, Refusal> {
    scene.moderator()?;
    let (participant_type, reason) = match scene.target()?.participant_type {
        ParticipantType::User | ParticipantType::SelfJoined => {
            (ParticipantType::Moderator, Reason::ModeratorPromoted)
        }
        ParticipantType::Guest => (ParticipantType::GuestModerator, Reason::GuestModeratorPromoted),
        ParticipantType::Owner | ParticipantType::Moderator | ParticipantType::GuestModerator => {
            return Err(invalid("participant", "this participant is a moderator already"));
        }
    };
    change_type(scene, participant_type, reason)
}

pub(super) fn demote(scene: &CommandContext<'_>) -> Result<Changes, Refusal> {
    let me = scene.moderator()?;
    let target = scene.target()?;
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
            return Err(invalid("participant", "this participant is no moderator to demote"));
        }
    };
    change_type(scene, participant_type, reason)
}

fn change_type(
    scene: &CommandContext<'_>,
    participant_type: ParticipantType,
    reason: Reason,
) -> Result<Changes, Refusal> {
    if !scene.room.is_configurable() {
        return Err(invalid("type", "both have the same rights in a conversation of two"));
    }
    let changed = Attendee { participant_type, ..scene.target()?.clone() };
    // Who is demoted behind a lobby waits there like everybody else.
    let changed = changed.removed_from_call_if_waiting(scene.room);
    Ok(concerning(scene, reason, AttendeeChange::Changed(changed)))
}

pub(super) fn set_permissions(
    scene: &CommandContext<'_>,
    how: Modification,
    permissions: Permissions,
) -> Result<Changes, Refusal> {
    scene.moderator()?;
    let target = scene.target()?;
    if !scene.room.is_configurable() {
        return Err(invalid("room-type", "there are no permissions in a conversation of two"));
    }
    if target.participant_type.is_moderator() {
        return Err(invalid("moderator", "moderators have all permissions"));
    }
    let changed = Attendee { permissions: target.modified(how, permissions), ..target.clone() };
    let changed = changed.removed_from_call_if_waiting(scene.room);
    Ok(concerning(scene, Reason::PermissionsChanged, AttendeeChange::Changed(changed)))
}

pub(super) fn join(
    scene: &CommandContext<'_>,
    session: &str,
    force: bool,
    proven: Option<&str>,
) -> Result<Changes, Refusal> {
    let (room, actor) = (scene.room, &scene.caller.actor);
    let session = Session { id: session.to_owned(), in_call: 0, last_ping: scene.now.timestamp() };
    let person = match scene.me {
        Some(me) => match &me.session {
            // On another device; nobody is thrown out of a call without being asked.
            Some(other) if !force && other.in_call != 0 => {
                return Err(Refusal::Conflict(other.clone()));
            }
            Some(_) | None => {
                AttendeeChange::Changed(Attendee { session: Some(session), ..me.clone() })
            }
        },
        None if room.is_public() => {
            if !room.password_hash.is_empty() && proven != Some(room.password_hash.as_str()) {
                return Err(Refusal::WrongPassword);
            }
            let name = &scene.caller.display_name;
            let new = newcomer(scene.room, actor.clone(), name, joining_type(actor));
            AttendeeChange::New(Attendee { session: Some(session), ..new })
        }
        None => return Err(Refusal::NoRoom),
    };
    Ok(with_pin(scene, concerning(scene, Reason::ParticipantJoined, person)))
}

pub(super) fn come_back(scene: &CommandContext<'_>) -> Result<Changes, Refusal> {
    let (room, actor) = (scene.room, &scene.caller.actor);
    if !room.is_one_to_one_with(actor) {
        return Err(Refusal::NoRoom);
    }
    if scene.me.is_some() {
        return Ok(Changes::none(room));
    }
    let name = &scene.caller.display_name;
    let new = newcomer(scene.room, actor.clone(), name, ParticipantType::Owner);
    Ok(concerning(scene, Reason::UserAdded, AttendeeChange::New(new)))
}

/// What somebody becomes who joins a public room that he does not belong to.
fn joining_type(actor: &Actor) -> ParticipantType {
    if actor.is_user() { ParticipantType::SelfJoined } else { ParticipantType::Guest }
}

pub(super) fn leave(scene: &CommandContext<'_>) -> Result<Changes, Refusal> {
    let me = scene.participant()?;
    if me.session.is_none() {
        return Ok(Changes::none(scene.room));
    }
    let person = if me.is_temporary() {
        AttendeeChange::Removed(me.clone())
    } else {
        AttendeeChange::Changed(Attendee { session: None, ..me.clone() })
    };
    Ok(concerning(scene, Reason::ParticipantLeft, person))
}

/// A session that was not heard of any more ends like one that was left. A newer one stays.
pub(super) fn end_session(scene: &CommandContext<'_>, id: &str) -> Result<Changes, Refusal> {
    match &scene.participant()?.session {
        Some(session) if session.id == id => leave(scene),
        Some(_) | None => Ok(Changes::none(scene.room)),
    }
}

pub(super) fn name_self(scene: &CommandContext<'_>, name: &str) -> Result<Changes, Refusal> {
    if scene.caller.actor.is_user() {
        return Err(Refusal::Forbidden("only guests name themselves"));
    }
    let me = scene.participant()?;
    let name = name.trim();
    if name.chars().count() > MAX_GUEST_NAME_CHARS {
        return Err(invalid("displayName", "a guest's name has at most 64 characters"));
    }
    if name == me.display_name {
        return Ok(Changes::none(scene.room));
    }
    let changed = Attendee { display_name: name.to_owned(), ..me.clone() };
    Ok(concerning(scene, Reason::DisplayNameChanged, AttendeeChange::Changed(changed)))
}

/// A change of one participant's part.
fn concerning(scene: &CommandContext<'_>, reason: Reason, person: AttendeeChange) -> Changes {
    let (AttendeeChange::New(who) | AttendeeChange::Changed(who) | AttendeeChange::Removed(who)) =
        &person;
    let notice = Announcement::about(reason, who);
    let room = if notice.in_chat { scene.room.clone() } else { touch_silently(scene) };
    Changes::of(room, notice).person(person)
}

/// Users of a room with PINs have one.
fn with_pin(scene: &CommandContext<'_>, effects: Changes) -> Changes {
    let lacks = match &effects.person {
        Some(AttendeeChange::New(who) | AttendeeChange::Changed(who)) => {
            who.actor.is_user() && who.pin.is_none()
        }
        Some(AttendeeChange::Removed(_)) | None => false,
    };
    if scene.room.sip_enabled == 1 && lacks { effects.bulk(Bulk::AssignPins) } else { effects }
}

/// Somebody new has read all that was said before, because he was not there.
pub(super) fn newcomer(
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
        session: None,
    }
}
