//! Rooms, lobbies, participants, and the rules about them.
//!
//! Pure: no I/O, no async, no framework, no clock and no randomness. Times and whatever the
//! database says are passed in as values. Every other module may use these types; this module
//! uses none of theirs.

mod actor;
mod attendee;
mod ban;
mod call;
pub mod commands;
mod event;
mod lobby;
mod lobby_change;
mod message;
mod permissions;
mod pin;
mod reason;
mod room;
mod signaling;
mod talk;
mod timer;
mod trace;
mod view;

pub use actor::{Actor, ActorKind, Caller, ClientId, User};
pub use attendee::{Attendee, AttendeeId, ParticipantType, PermissionChange, Session};
pub use ban::Ban;
pub use call::{Call, CallFlags};
pub use event::{
    EventId, LOBBY_CHANGED, LobbyChangedPayload, OutboxEvent, OutboxRow, ROOM_UPDATED, RoomUpdated,
};
pub use lobby::{InvalidLobby, Lobby, LobbyRequest, LobbyState};
pub use lobby_change::{
    Applied, ChangeOrder, Decision, DeliveryIdentity, IncomingChange, decide_lobby_change,
};
pub use message::{
    ChatMessage, ChatPage, Content, MAX_MESSAGE_CHARS, Message, MessageQuery, NewMessage,
    find_mentions,
};
pub use permissions::Permissions;
pub use pin::Pins;
pub use reason::Reason;
pub use room::{
    InvalidToken, OBJECT_TYPES_WITH_LOBBY, Room, RoomId, RoomOverview, RoomToken, RoomType,
    RoomVersion, SipState, Version,
};
pub use signaling::{SignalingBacklog, SignalingUpdate};
pub use talk::{Standing, TalkLobby, TalkTimer, talk_lobby_set};
pub use timer::{DueTimer, PendingTimer, TimerKey};
pub use trace::TraceParent;
pub use view::{Audience, ParticipantView, RoomView, ViewerContext, participants_for};
