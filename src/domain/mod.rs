//! The rules of the lobby, pure: no I/O, no async, no framework. (Only a new event id is drawn from
//! time and chance.)
//!
//! Whatever the time or the database must say is passed in as a value. Everybody may use these
//! types; they use nobody's.

mod attendee;
pub mod commands;
mod event;
mod lobby;
mod message;
mod room;
mod trace;

pub use attendee::{
    Actor, ActorKind, Attendee, AttendeeId, Caller, Modification, ParticipantType, Permissions,
    Session,
};
pub use event::{
    EventId, LOBBY_CHANGED, LobbyChangedPayload, OutboxEvent, ROOM_UPDATED, Reason, RoomUpdated,
};
pub use lobby::{Applied, Decision, LobbyChange, decide};
pub use message::{Content, MAX_MESSAGE_CHARS, Message, MessageQuery, NewMessage};
pub use room::{
    Call, InvalidLobby, InvalidToken, Lobby, LobbyState, OBJECT_TYPES_WITH_LOBBY, Room, RoomId,
    RoomToken, Version,
};
pub use trace::TraceParent;
