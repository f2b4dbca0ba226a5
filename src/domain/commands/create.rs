//! Rules for creating rooms.

use chrono::{DateTime, Utc};

use super::changes::Announcement;
use super::context::invalid;
use super::participants::new_attendee;
use super::settings::{checked_description, checked_name, lobby_changes, requested_lobby};
use super::{AttendeeChange, Changes, Refusal, RoomChange};
use crate::domain::{
    Actor, Attendee, Caller, InvalidLobby, Lobby, LobbyRequest, LobbyState, ParticipantType,
    Permissions, Reason, Room, RoomType,
};

/// Object types of rooms that clients may create.
const OBJECT_TYPES: [&str; 4] = ["", "event", "extended_conversation", "instant_meeting"];

/// Width of the database's column, in characters.
const MAX_OBJECT_ID_CHARS: usize = 64;

/// A request to create a group or public room, not yet checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateRoom {
    pub room_type: RoomType,
    pub name: String,
    pub description: String,
    pub object_type: String,
    pub object_id: String,
    pub has_password: bool,
    pub default_permissions: Permissions,
    pub read_only: bool,
    pub lobby: LobbyRequest,
}

impl CreateRoom {
    /// An open room without object and password.
    pub fn new(room_type: RoomType, name: impl Into<String>) -> Self {
        Self {
            room_type,
            name: name.into(),
            description: String::new(),
            object_type: String::new(),
            object_id: String::new(),
            has_password: false,
            default_permissions: Permissions::DEFAULT,
            read_only: false,
            lobby: LobbyRequest { state: LobbyState::None.number(), timer: None },
        }
    }
}

/// A room to be created. Its token is chosen by the caller of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRoom {
    pub room_type: RoomType,
    pub name: String,
    pub description: String,
    pub object_type: String,
    pub object_id: String,
    /// Empty for no password.
    pub password_hash: String,
    pub default_permissions: Permissions,
    pub read_only: bool,
    pub lobby: Lobby,
    /// The other user of a one-to-one room, with the display name.
    pub other: Option<(Actor, String)>,
}

impl NewRoom {
    /// A group or public room, without a password yet.
    pub fn of(request: &CreateRoom, now: DateTime<Utc>) -> Result<Self, Refusal> {
        if !matches!(request.room_type, RoomType::Group | RoomType::Public) {
            return Err(invalid("type", "a room is 1 (one-to-one), 2 (group) or 3 (public)"));
        }
        if !OBJECT_TYPES.contains(&request.object_type.as_str()) {
            return Err(invalid("object-type", "no conversation can be created for this object"));
        }
        if request.object_id.chars().count() > MAX_OBJECT_ID_CHARS {
            return Err(invalid("object-id", "the id of an object has at most 64 characters"));
        }
        if request.has_password && request.room_type != RoomType::Public {
            return Err(invalid("password", "only public conversations have a password"));
        }
        Ok(Self {
            room_type: request.room_type,
            name: checked_name(&request.name, "name")?.to_owned(),
            description: checked_description(&request.description, "description")?.to_owned(),
            object_type: request.object_type.clone(),
            object_id: request.object_id.clone(),
            password_hash: String::new(),
            default_permissions: request.default_permissions.as_custom(),
            read_only: request.read_only,
            lobby: requested_lobby(request.lobby, now).map_err(invalid_lobby)?,
            other: None,
        })
    }

    pub fn one_to_one(one: &Actor, other: Actor, other_name: String) -> Result<Self, Refusal> {
        if *one == other {
            return Err(invalid("invite", "a one-to-one conversation needs another user"));
        }
        Ok(Self {
            room_type: RoomType::OneToOne,
            name: Room::one_to_one_name(&one.id, &other.id),
            description: String::new(),
            object_type: String::new(),
            object_id: String::new(),
            password_hash: String::new(),
            default_permissions: Permissions::DEFAULT,
            read_only: false,
            lobby: Lobby::OPEN,
            other: Some((other, other_name)),
        })
    }
}

/// Talk names the invalid part of the lobby.
fn invalid_lobby(error: InvalidLobby) -> Refusal {
    match error {
        InvalidLobby::State(_) => invalid("lobby", "the state of a lobby is 0 or 1"),
        InvalidLobby::Timer(_) => invalid("lobby-timer", "a timer is in seconds since 1970"),
    }
}

/// What is written after the new room's row, one step after another: the owner, the other user of
/// a one-to-one room, the lobby.
pub fn initial_changes(
    empty: &Room,
    caller: &Caller,
    new: &NewRoom,
    now: DateTime<Utc>,
) -> Vec<Changes> {
    let owner = |actor: &Actor, name: &str| -> Attendee {
        new_attendee(empty, actor.clone(), name, ParticipantType::Owner)
    };
    let creator = owner(&caller.actor, &caller.display_name);
    let announcement = Announcement::about(Reason::ConversationCreated, &creator);
    let created = Changes::of(empty, RoomChange::None, announcement, now)
        .password_hash(&new.password_hash)
        .default_permissions(new.default_permissions)
        .read_only(new.read_only)
        .attendee(AttendeeChange::New(creator));
    let mut room = created.room().clone();
    let mut steps = vec![created];
    if let Some((actor, name)) = &new.other {
        let other = owner(actor, name);
        let announcement =
            Announcement { in_chat: false, ..Announcement::about(Reason::UserAdded, &other) };
        let added = Changes::of(&room, RoomChange::None, announcement, now)
            .attendee(AttendeeChange::New(other));
        room = added.room().clone();
        steps.push(added);
    }
    if new.lobby.state == LobbyState::NonModerators {
        let closed = lobby_changes(&room, new.lobby, room.version.next(), now);
        steps.push(closed.publish_lobby());
    }
    steps
}
