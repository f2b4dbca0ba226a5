//! The rules of the lobby, pure: no I/O, no async, no framework. (Only a new event id is drawn from
//! time and chance.)
//!
//! Whatever the time or the database must say is passed in as a value. Everybody may use these
//! types; they use nobody's.

mod event;
mod lobby;
mod message;
mod participant;
mod room;
pub mod rules;
mod trace;

pub use event::{EventId, LOBBY_CHANGED, LobbyData, Outgoing, ROOM_UPDATED, Reason, RoomUpdated};
pub use lobby::{Applied, Decision, LobbyChanged, decide};
pub use message::{Content, MAX_MESSAGE_CHARS, Message, MessageQuery, NewMessage};
pub use participant::{
    Actor, ActorKind, Attendee, AttendeeId, Caller, Modification, ParticipantType, Permissions,
    Session,
};
pub use room::{
    Call, InvalidLobby, InvalidToken, Lobby, LobbyState, OBJECT_TYPES_WITH_LOBBY, Room, RoomId,
    RoomToken, Version,
};
pub use trace::TraceParent;
