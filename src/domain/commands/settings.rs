//! Rules for what a room is: its lobby, dial-in, name, password and kind.

use super::{
    Announcement, Bulk, Changes, CommandContext, DateTime, InvalidLobby, Lobby, LobbyState, Reason,
    Refusal, Room, Utc, Version, invalid,
};

/// Longest name of a room, in characters.
const MAX_NAME_CHARS: usize = 255;

/// Longest description, in characters, as in Talk.
pub const MAX_DESCRIPTION_CHARS: usize = 2_000;

const NO_LOBBY: Refusal = invalid("type", "only group and public conversations can have a lobby");

const NOT_FOR_THIS_TYPE: Refusal =
    invalid("type", "this is only for group and public conversations");

pub(super) fn set_lobby(
    scene: &CommandContext<'_>,
    state: i64,
    timer: Option<i64>,
) -> Result<Changes, Refusal> {
    let room = scene.room;
    scene.login()?;
    scene.moderator()?;
    if !room.is_configurable() {
        return Err(NO_LOBBY);
    }
    if !room.can_have_lobby() {
        return Err(invalid("object", "a conversation about this object cannot have a lobby"));
    }
    if room.is_breakout_room() {
        return Err(invalid("object", "the lobby of a breakout room follows its parent"));
    }
    let lobby = lobby_from(state, timer, scene.now)?;
    let version = Version::of(scene.now).max(room.version.next());
    Ok(Changes { lobby_set: true, ..lobby_effects(room, lobby, version, scene.now) })
}

/// Reads a lobby that is to be set. One whose timer is over is open: nobody is sent out for an
/// instant.
pub(super) fn lobby_from(
    state: i64,
    timer: Option<i64>,
    now: DateTime<Utc>,
) -> Result<Lobby, InvalidLobby> {
    let lobby = Lobby::parse(state, timer)?;
    let over = lobby.scheduled().is_some_and(|timer| timer <= now);
    Ok(if over { Lobby::OPEN } else { lobby })
}

/// What a lobby that was set does to its room, whoever set it.
pub fn lobby_effects(room: &Room, lobby: Lobby, version: Version, now: DateTime<Utc>) -> Changes {
    let (before, after) = (room.lobby.state, lobby.state);
    let reason = match (before, after) {
        (LobbyState::NonModerators, LobbyState::NonModerators) => Reason::LobbyTimerChanged,
        (_, LobbyState::None) => Reason::LobbyNone,
        (LobbyState::None, LobbyState::NonModerators) => Reason::LobbyNonModerators,
    };
    let notice = Announcement { in_chat: before != after, ..Announcement::of(reason) };
    let changed = Room { lobby, version, changed_at: now.timestamp(), ..room.clone() };
    let effects = Changes { notice: Some(notice), ..Changes::none(&changed) };
    // Who has to wait only until an instant that is over stays where he is.
    let closes =
        reason == Reason::LobbyNonModerators && lobby.timer.is_none_or(|timer| timer > now);
    if closes { effects.bulk(Bulk::RemoveWaitingFromCall) } else { effects }
}

pub(super) fn set_sip(
    scene: &CommandContext<'_>,
    state: i64,
    configured: bool,
) -> Result<Changes, Refusal> {
    let room = scene.room;
    scene.login()?;
    scene.participant()?;
    if !scene.caller.may_enable_sip {
        return Err(Refusal::SipNotAllowed);
    }
    scene.moderator()?;
    if !configured {
        return Err(Refusal::SipNotConfigured);
    }
    if !room.is_configurable() {
        return Err(NOT_FOR_THIS_TYPE);
    }
    if room.is_breakout_room() {
        return Err(invalid("breakout-room", "a breakout room has no dial-in of its own"));
    }
    let bulk = match state {
        1 => Bulk::AssignPins,
        0 | 2 => Bulk::DropPins,
        _ => {
            return Err(invalid("value", "state is 0 (off), 1 (with PINs) or 2 (without PIN)"));
        }
    };
    if state == room.sip_enabled {
        return Err(invalid("value", "the conversation has this state already"));
    }
    if !room.token.is_dialable() {
        return Err(invalid("token", "a telephone cannot dial the token of this conversation"));
    }
    let changed = Room { sip_enabled: state, ..touch_silently(scene) };
    Ok(Changes::of(changed, Announcement::of(Reason::SipChanged)).bulk(bulk))
}

pub(super) fn rename(scene: &CommandContext<'_>, name: &str) -> Result<Changes, Refusal> {
    scene.moderator()?;
    let name = checked_name(name)?;
    if !scene.room.is_configurable() {
        return Err(NOT_FOR_THIS_TYPE);
    }
    let changed = Room { name: name.to_owned(), ..scene.room.clone() };
    Ok(announce_if_changed(scene, changed, Reason::ConversationRenamed))
}

/// A description that a room can have, without the white space around it.
pub(super) fn checked_description(text: &str) -> Result<&str, Refusal> {
    let text = text.trim();
    if text.chars().count() > MAX_DESCRIPTION_CHARS {
        return Err(invalid("value", "a description has at most 2000 characters"));
    }
    Ok(text)
}

/// A name that a room can have, without the white space around it.
pub(super) fn checked_name(name: &str) -> Result<&str, Refusal> {
    let name = name.trim();
    if name.is_empty() || name.chars().count() > MAX_NAME_CHARS {
        return Err(invalid("value", "a name has 1 to 255 characters"));
    }
    Ok(name)
}

pub(super) fn describe(scene: &CommandContext<'_>, text: &str) -> Result<Changes, Refusal> {
    scene.moderator()?;
    if !scene.room.is_configurable() {
        return Err(NOT_FOR_THIS_TYPE);
    }
    let text = checked_description(text)?;
    let reason = if text.is_empty() { Reason::DescriptionRemoved } else { Reason::DescriptionSet };
    Ok(announce_if_changed(
        scene,
        Room { description: text.to_owned(), ..scene.room.clone() },
        reason,
    ))
}

pub(super) fn set_password(scene: &CommandContext<'_>, hash: &str) -> Result<Changes, Refusal> {
    scene.moderator()?;
    if !scene.room.is_public() {
        return Err(Refusal::Forbidden("only public conversations have a password"));
    }
    let reason = if hash.is_empty() { Reason::PasswordRemoved } else { Reason::PasswordSet };
    Ok(announce_if_changed(
        scene,
        Room { password_hash: hash.to_owned(), ..scene.room.clone() },
        reason,
    ))
}

pub(super) fn set_public(scene: &CommandContext<'_>, public: bool) -> Result<Changes, Refusal> {
    scene.login()?;
    scene.moderator()?;
    match (scene.room.room_type, public) {
        (Room::GROUP, true) => {
            let changed = Room { room_type: Room::PUBLIC, ..scene.room.clone() };
            Ok(Changes::of(changed, Announcement::of(Reason::GuestsAllowed)))
        }
        (Room::PUBLIC, false) => {
            let changed = Room { room_type: Room::GROUP, ..scene.room.clone() };
            let notice = Announcement::of(Reason::GuestsDisallowed);
            Ok(Changes::of(changed, notice).bulk(Bulk::RemoveUninvited))
        }
        (_, true) => Err(invalid("type", "only a group conversation can be made public")),
        (_, false) => Err(invalid("type", "only a public conversation can be closed to guests")),
    }
}

pub(super) fn delete(scene: &CommandContext<'_>) -> Result<Changes, Refusal> {
    scene.moderator()?;
    if !scene.room.is_configurable() {
        return Err(invalid("type", "leave a conversation of two in place of deleting it"));
    }
    Ok(Changes::of(scene.room.clone(), Announcement::of(Reason::ConversationDeleted)).gone())
}

/// A change that is none is not told.
fn announce_if_changed(scene: &CommandContext<'_>, changed: Room, reason: Reason) -> Changes {
    if changed == *scene.room {
        Changes::none(scene.room)
    } else {
        Changes::of(changed, Announcement::of(reason))
    }
}

/// The room, about to change in a way that the chat does not show.
pub(super) fn touch_silently(scene: &CommandContext<'_>) -> Room {
    Room { changed_at: scene.now.timestamp(), ..scene.room.clone() }
}
