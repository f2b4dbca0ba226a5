//! What a new room begins with.

use super::{
    Actor, Attendee, Caller, DateTime, Effects, Lobby, LobbyState, Notice, ParticipantType, Person,
    Reason, Room, Utc, lobby_effects, people::newcomer,
};
use crate::domain::room::RoomToken;

/// A room to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewConversation {
    /// Its name on every wire.
    pub token: RoomToken,
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

/// What is written after the room's row, one after the other: its owner, the other one, the lobby.
#[must_use]
pub fn beginnings(
    empty: &Room,
    caller: &Caller,
    new: &NewConversation,
    now: DateTime<Utc>,
) -> Vec<Effects> {
    let owner = |actor: &Actor, name: &str| -> Attendee {
        newcomer(empty, actor.clone(), name, ParticipantType::Owner)
    };
    let room = Room { password_hash: new.password_hash.clone(), ..empty.clone() };
    let maker = owner(&caller.actor, &caller.display_name);
    let notice = Notice::about(Reason::ConversationCreated, &maker);
    let mut steps = vec![Effects::of(room, notice).person(Person::New(maker))];
    if let Some((actor, name)) = &new.other {
        let other = owner(actor, name);
        let notice = Notice { in_chat: false, ..Notice::about(Reason::UserAdded, &other) };
        steps.push(Effects::of(latest(&steps, empty), notice).person(Person::New(other)));
    }
    if new.lobby.state == LobbyState::NonModerators {
        let room = latest(&steps, empty);
        let closing = lobby_effects(&room, new.lobby, room.version.next(), now);
        steps.push(Effects { lobby_set: true, ..closing });
    }
    steps
}

fn latest(steps: &[Effects], empty: &Room) -> Room {
    steps.last().map_or(empty, |effects| &effects.room).clone()
}
