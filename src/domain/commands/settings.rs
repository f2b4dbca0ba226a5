//! Rules of a room's lobby, dial-in, name, description, password and type.

use chrono::{DateTime, Utc};

use super::changes::Announcement;
use super::context::invalid;
use super::{BulkChange, Changes, CommandContext, Refusal, RoomChange, RoomSettings};
use crate::domain::{
    InvalidLobby, Lobby, LobbyRequest, LobbyState, Permissions, Reason, Room, RoomType, SipState,
    Version,
};

/// Longest name of a room, in characters.
const MAX_NAME_CHARS: usize = 255;

/// Longest description, in characters, as in Talk.
pub const MAX_DESCRIPTION_CHARS: usize = 2_000;

const NO_LOBBY: Refusal = invalid("type", "only group and public conversations can have a lobby");

const NOT_CONFIGURABLE: Refusal =
    invalid("type", "this is only for group and public conversations");

pub(super) fn set_lobby(
    context: &CommandContext<'_>,
    request: LobbyRequest,
) -> Result<Changes, Refusal> {
    let room = context.room;
    context.require_user()?;
    context.moderator()?;
    if !room.is_configurable() {
        return Err(NO_LOBBY);
    }
    if !room.can_have_lobby() {
        return Err(invalid("object", "a conversation about this object cannot have a lobby"));
    }
    if room.is_breakout_room() {
        return Err(invalid("object", "the lobby of a breakout room follows its parent"));
    }
    let lobby = requested_lobby(request, context.now)?;
    let version = Version::of(context.now).max(room.version.next());
    Ok(lobby_changes(room, lobby, version, context.now).publish_lobby())
}

/// Reads a lobby that is to be set. A timer in the past opens the room at once: no participant is
/// removed from the call for a lobby that is over.
pub(super) fn requested_lobby(
    request: LobbyRequest,
    now: DateTime<Utc>,
) -> Result<Lobby, InvalidLobby> {
    let lobby = Lobby::parse(request)?;
    let expired = lobby.scheduled().is_some_and(|timer| timer <= now);
    Ok(if expired { Lobby::OPEN } else { lobby })
}

/// What a new lobby changes, whether it was set by the API or by an event.
pub fn lobby_changes(room: &Room, lobby: Lobby, version: Version, now: DateTime<Utc>) -> Changes {
    let (before, after) = (room.lobby.state, lobby.state);
    let reason = match (before, after) {
        (LobbyState::NonModerators, LobbyState::NonModerators) => Reason::LobbyTimerChanged,
        (_, LobbyState::None) => Reason::LobbyNone,
        (LobbyState::None, LobbyState::NonModerators) => Reason::LobbyNonModerators,
    };
    let announcement = Announcement { in_chat: before != after, ..Announcement::of(reason) };
    let changes = Changes::of(room, RoomChange::Lobby(lobby), announcement, now).version(version);
    // A lobby that is over already removes no participant from the call.
    let closes =
        reason == Reason::LobbyNonModerators && lobby.timer.is_none_or(|timer| timer > now);
    if closes { changes.bulk(BulkChange::RemoveWaitingFromCall) } else { changes }
}

pub(super) fn set_sip(
    context: &CommandContext<'_>,
    state: SipState,
    configured: bool,
) -> Result<Changes, Refusal> {
    let room = context.room;
    context.require_user()?;
    context.participant()?;
    if !context.caller.may_enable_sip {
        return Err(Refusal::SipNotAllowed);
    }
    context.moderator()?;
    if !configured {
        return Err(Refusal::SipNotConfigured);
    }
    if !room.is_configurable() {
        return Err(NOT_CONFIGURABLE);
    }
    if room.is_breakout_room() {
        return Err(invalid("breakout-room", "a breakout room has no dial-in of its own"));
    }
    let bulk = match state {
        SipState::WithPin => BulkChange::AssignPins,
        SipState::Disabled | SipState::WithoutPin => BulkChange::DropPins,
        SipState::Other(_) => {
            return Err(invalid("value", "state is 0 (off), 1 (with PINs) or 2 (without PIN)"));
        }
    };
    if state == room.sip {
        return Err(invalid("value", "the conversation has this state already"));
    }
    if !room.token.is_dialable() {
        return Err(invalid("token", "a telephone cannot dial the token of this conversation"));
    }
    let settings = RoomSettings { sip: state, ..RoomSettings::of(room) };
    Ok(change(context, settings, Reason::SipChanged).bulk(bulk))
}

pub(super) fn rename(context: &CommandContext<'_>, name: &str) -> Result<Changes, Refusal> {
    context.moderator()?;
    let name = checked_name(name, "value")?;
    if !context.room.is_configurable() {
        return Err(NOT_CONFIGURABLE);
    }
    let settings = RoomSettings { name: name.to_owned(), ..RoomSettings::of(context.room) };
    Ok(change_if_different(context, settings, Reason::ConversationRenamed))
}

/// A valid description, without the white space around it. `what` names an invalid one.
pub(super) fn checked_description<'a>(
    description: &'a str,
    what: &'static str,
) -> Result<&'a str, Refusal> {
    let description = description.trim();
    if description.chars().count() > MAX_DESCRIPTION_CHARS {
        return Err(invalid(what, "a description has at most 2000 characters"));
    }
    Ok(description)
}

/// A valid name, without the white space around it. `what` names an invalid one.
pub(super) fn checked_name<'a>(name: &'a str, what: &'static str) -> Result<&'a str, Refusal> {
    let name = name.trim();
    if name.is_empty() || name.chars().count() > MAX_NAME_CHARS {
        return Err(invalid(what, "a name has 1 to 255 characters"));
    }
    Ok(name)
}

pub(super) fn describe(context: &CommandContext<'_>, text: &str) -> Result<Changes, Refusal> {
    context.moderator()?;
    if !context.room.is_configurable() {
        return Err(NOT_CONFIGURABLE);
    }
    let description = checked_description(text, "value")?.to_owned();
    let reason =
        if description.is_empty() { Reason::DescriptionRemoved } else { Reason::DescriptionSet };
    let settings = RoomSettings { description, ..RoomSettings::of(context.room) };
    Ok(change_if_different(context, settings, reason))
}

pub(super) fn set_password(context: &CommandContext<'_>, hash: &str) -> Result<Changes, Refusal> {
    context.moderator()?;
    if !context.room.is_public() {
        return Err(Refusal::Forbidden("only public conversations have a password"));
    }
    if hash == context.room.password_hash {
        return Ok(Changes::none(context.room));
    }
    let reason = if hash.is_empty() { Reason::PasswordRemoved } else { Reason::PasswordSet };
    let announcement = Announcement::of(reason);
    let set = Changes::of(context.room, RoomChange::None, announcement, context.now);
    Ok(set.password_hash(hash))
}

pub(super) fn set_public(context: &CommandContext<'_>, public: bool) -> Result<Changes, Refusal> {
    context.require_user()?;
    context.moderator()?;
    let settings = |room_type| RoomSettings { room_type, ..RoomSettings::of(context.room) };
    match (context.room.room_type, public) {
        (RoomType::Group, true) => {
            Ok(change(context, settings(RoomType::Public), Reason::GuestsAllowed))
        }
        (RoomType::Public, false) => {
            let closed = change(context, settings(RoomType::Group), Reason::GuestsDisallowed);
            Ok(closed.bulk(BulkChange::RemoveUninvited))
        }
        (_, true) => Err(invalid("type", "only a group conversation can be made public")),
        (_, false) => Err(invalid("type", "only a public conversation can be closed to guests")),
    }
}

pub(super) fn set_read_only(
    context: &CommandContext<'_>,
    read_only: bool,
) -> Result<Changes, Refusal> {
    context.require_user()?;
    context.moderator()?;
    if !context.room.is_configurable() {
        return Err(NOT_CONFIGURABLE);
    }
    if read_only == context.room.read_only {
        return Ok(Changes::none(context.room));
    }
    let reason = if read_only { Reason::ReadOnly } else { Reason::ReadOnlyOff };
    let announcement = Announcement::of(reason);
    let set = Changes::of(context.room, RoomChange::None, announcement, context.now);
    let set = set.read_only(read_only);
    Ok(if read_only { set.bulk(BulkChange::RemoveAllFromCall) } else { set })
}

/// As in Talk, custom permissions of participants do not outlast a change of the defaults.
pub(super) fn set_default_permissions(
    context: &CommandContext<'_>,
    permissions: Permissions,
) -> Result<Changes, Refusal> {
    context.moderator()?;
    if !context.room.is_configurable() {
        return Err(NOT_CONFIGURABLE);
    }
    if context.room.is_breakout_room() {
        return Err(invalid("breakout-room", "a breakout room follows its parent"));
    }
    let permissions = permissions.as_custom();
    if permissions == context.room.default_permissions {
        return Ok(Changes::none(context.room));
    }
    let announcement = Announcement::of(Reason::DefaultPermissionsChanged);
    let set = Changes::of(context.room, RoomChange::None, announcement, context.now)
        .default_permissions(permissions)
        .bulk(BulkChange::ResetPermissions);
    let closed = context.room.lobby.state == LobbyState::NonModerators;
    Ok(if closed { set.bulk(BulkChange::RemoveWaitingFromCall) } else { set })
}

pub(super) fn delete(context: &CommandContext<'_>) -> Result<Changes, Refusal> {
    context.require_user()?;
    context.moderator()?;
    if !context.room.is_configurable() {
        let problem = "one-to-one conversations cannot be deleted; leave instead";
        return Err(invalid("type", problem));
    }
    Ok(deletion(context))
}

pub(super) fn deletion(context: &CommandContext<'_>) -> Changes {
    let announcement = Announcement::of(Reason::ConversationDeleted);
    Changes::of(context.room, RoomChange::Delete, announcement, context.now)
}

fn change(context: &CommandContext<'_>, settings: RoomSettings, reason: Reason) -> Changes {
    let change = RoomChange::Settings(settings);
    Changes::of(context.room, change, Announcement::of(reason), context.now)
}

fn change_if_different(
    context: &CommandContext<'_>,
    settings: RoomSettings,
    reason: Reason,
) -> Changes {
    if settings == RoomSettings::of(context.room) {
        Changes::none(context.room)
    } else {
        change(context, settings, reason)
    }
}
