//! Rules of bans.

use super::changes::Announcement;
use super::context::invalid;
use super::{AttendeeChange, BanChange, Changes, CommandContext, Refusal, RoomChange};
use crate::domain::{Actor, Reason};

/// Longest note, in characters, as in Talk.
const MAX_NOTE_CHARS: usize = 4000;

/// Most bans of a room: all of them are read together.
const MAX_BANS: i64 = 1000;

/// Also removes a participant. An actor who has left can be banned too.
pub(super) fn ban(
    context: &CommandContext<'_>,
    actor: &Actor,
    note: &str,
) -> Result<Changes, Refusal> {
    context.require_user()?;
    context.moderator()?;
    if !context.room.is_configurable() {
        return Err(invalid("room", "nobody can be banned from a one-to-one conversation"));
    }
    if *actor == context.caller.actor {
        return Err(invalid("self", "moderators cannot ban themselves"));
    }
    if context.target.is_some_and(|target| target.participant_type.is_moderator()) {
        return Err(invalid("moderator", "moderators cannot be banned"));
    }
    if note.chars().count() > MAX_NOTE_CHARS {
        return Err(invalid("internalNote", "the note is too long"));
    }
    if context.other_bans >= MAX_BANS {
        return Err(invalid("bannedActor", "the room has too many bans"));
    }
    let name = context.target.map(|target| target.display_name.clone()).unwrap_or_default();
    let ban = BanChange::Add { actor: actor.clone(), name: name.clone(), note: note.to_owned() };
    let about = Some((actor.clone(), name));
    let announcement = Announcement { about, ..Announcement::of(Reason::ParticipantBanned) };
    let banned = Changes::of(context.room, RoomChange::None, announcement, context.now).ban(ban);
    Ok(match context.target {
        Some(target) => banned.attendee(AttendeeChange::Removed(target.clone())),
        None => banned,
    })
}

pub(super) fn unban(context: &CommandContext<'_>) -> Result<Changes, Refusal> {
    context.require_user()?;
    context.moderator()?;
    let ban = context.ban.ok_or(Refusal::NoBan)?;
    let about = Some((ban.actor.clone(), ban.display_name.clone()));
    let announcement = Announcement { about, ..Announcement::of(Reason::ParticipantUnbanned) };
    let changes = Changes::of(context.room, RoomChange::None, announcement, context.now);
    Ok(changes.ban(BanChange::Remove(ban.id)))
}
