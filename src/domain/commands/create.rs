//! What a new room begins with.

use super::{
    Actor, Announcement, Attendee, AttendeeChange, Caller, Changes, DateTime, Lobby, LobbyState,
    ParticipantType, Reason, Refusal, Room, Utc, invalid, lobby_effects,
    participants::newcomer,
    settings::{checked_description, checked_name, lobby_from},
};

/// What a room may be made for.
const OBJECT_TYPES: [&str; 4] = ["", "event", "extended_conversation", "instant_meeting"];

/// Longest id of an object, in characters: the width of the column.
const MAX_OBJECT_ID_CHARS: usize = 64;

/// What somebody wants to make.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CreateRoom {
    /// Talk's number: 2 group, 3 public.
    pub room_type: i64,
    /// Name for people.
    pub name: String,
    /// What it is about.
    pub description: String,
    /// What it belongs to; empty for nothing.
    pub object_type: String,
    /// Which one of these.
    pub object_id: String,
    /// Whether strangers are to need a password.
    pub has_password: bool,
    /// Talk's number of the lobby state.
    pub lobby_state: i64,
    /// Unix seconds of the reset to no lobby, 0 for none.
    pub lobby_timer: Option<i64>,
}

/// A room to be made. Its token is whoever makes it to choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRoom {
    /// Talk's number.
    pub room_type: i64,
    /// Name for people.
    pub name: String,
    /// What it is about.
    pub description: String,
    /// What it belongs to; empty for nothing.
    pub object_type: String,
    /// Which one of these.
    pub object_id: String,
    /// Hash of its password; empty for none.
    pub password_hash: String,
    /// The lobby that it begins with.
    pub lobby: Lobby,
    /// The other one of a room of two, with the name for people.
    pub other: Option<(Actor, String)>,
}

impl NewRoom {
    /// A group or public room, without a password yet.
    ///
    /// # Errors
    ///
    /// What is wrong with the wish.
    pub fn of(wish: &CreateRoom, now: DateTime<Utc>) -> Result<Self, Refusal> {
        if !matches!(wish.room_type, Room::GROUP | Room::PUBLIC) {
            return Err(invalid("type", "a room is 1 (one-to-one), 2 (group) or 3 (public)"));
        }
        if !OBJECT_TYPES.contains(&wish.object_type.as_str())
            || wish.object_id.chars().count() > MAX_OBJECT_ID_CHARS
        {
            return Err(invalid("object", "no conversation can be made for this object"));
        }
        if wish.has_password && wish.room_type != Room::PUBLIC {
            return Err(invalid("password", "only public conversations have a password"));
        }
        Ok(Self {
            room_type: wish.room_type,
            name: checked_name(&wish.name)?.to_owned(),
            description: checked_description(&wish.description)?.to_owned(),
            object_type: wish.object_type.clone(),
            object_id: wish.object_id.clone(),
            password_hash: String::new(),
            lobby: lobby_from(wish.lobby_state, wish.lobby_timer, now)?,
            other: None,
        })
    }

    /// The room of two users.
    ///
    /// # Errors
    ///
    /// Both are the same.
    pub fn one_to_one(one: &Actor, other: Actor, other_name: String) -> Result<Self, Refusal> {
        if *one == other {
            return Err(invalid("invite", "a conversation of two needs somebody else"));
        }
        Ok(Self {
            room_type: Room::ONE_TO_ONE,
            name: Room::one_to_one_name(&one.id, &other.id),
            description: String::new(),
            object_type: String::new(),
            object_id: String::new(),
            password_hash: String::new(),
            lobby: Lobby::OPEN,
            other: Some((other, other_name)),
        })
    }
}

/// What is written after the room's row, one after the other: its owner, the other one, the lobby.
pub fn initial_changes(
    empty: &Room,
    caller: &Caller,
    new: &NewRoom,
    now: DateTime<Utc>,
) -> Vec<Changes> {
    let owner = |actor: &Actor, name: &str| -> Attendee {
        newcomer(empty, actor.clone(), name, ParticipantType::Owner)
    };
    let room = Room { password_hash: new.password_hash.clone(), ..empty.clone() };
    let maker = owner(&caller.actor, &caller.display_name);
    let notice = Announcement::about(Reason::ConversationCreated, &maker);
    let mut steps = vec![Changes::of(room, notice).person(AttendeeChange::New(maker))];
    if let Some((actor, name)) = &new.other {
        let other = owner(actor, name);
        let notice =
            Announcement { in_chat: false, ..Announcement::about(Reason::UserAdded, &other) };
        steps.push(Changes::of(latest(&steps, empty), notice).person(AttendeeChange::New(other)));
    }
    if new.lobby.state == LobbyState::NonModerators {
        let room = latest(&steps, empty);
        let closing = lobby_effects(&room, new.lobby, room.version.next(), now);
        steps.push(Changes { lobby_set: true, ..closing });
    }
    steps
}

fn latest(steps: &[Changes], empty: &Room) -> Room {
    steps.last().map_or(empty, |effects| &effects.room).clone()
}
