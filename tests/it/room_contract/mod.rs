//! What the store promises about rooms, participants, calls and chats, on each database.

mod participants;
mod rooms;
