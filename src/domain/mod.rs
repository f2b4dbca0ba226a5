//! The rules of the lobby, pure: no I/O, no async, no framework. (Only a new event id is drawn from
//! time and chance.)
//!
//! Whatever the time or the database must say is passed in as a value. Everybody may use these
//! types; they use nobody's.

mod event;
mod lobby;
mod room;

pub use event::{EventId, Outgoing, ROOM_UPDATED, Reason, RoomUpdated};
pub use lobby::{Applied, Decision, LobbyChanged, decide};
pub use room::{
    InvalidToken, Lobby, LobbyState, OBJECT_TYPES_WITH_LOBBY, Room, RoomId, RoomToken, Version,
};
