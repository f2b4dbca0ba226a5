//! What the use cases read and write, a table at a time and mostly one statement each.
//!
//! Methods of [`Connection`](super::connection::Connection) may run outside a transaction; those of
//! [`Transaction`](super::connection::Transaction) need one, and the room's lock to change a room.
//! No rule is here.

mod attendees;
mod bans;
mod inbox;
mod messages;
pub(super) mod outbox;
mod rooms;
mod users;
