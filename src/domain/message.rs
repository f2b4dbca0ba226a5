//! Messages in a room's chat: comments of participants, and system messages about the room.

use serde::Serialize;

use super::actor::Actor;
use super::reason::Reason;

/// Longest chat message, in characters, as in Talk.
pub const MAX_MESSAGE_CHARS: usize = 32_000;

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Message {
    /// Grows within the room.
    pub id: i64,
    pub actor: Actor,
    /// The actor's display name at that time.
    pub actor_name: String,
    /// Unix seconds.
    pub created_at: i64,
    pub content: Content,
    /// An id that the sender chose; empty for none.
    pub reference_id: String,
    /// The message that this one replies to.
    pub parent_id: Option<i64>,
}

impl Message {
    /// Only comments can be replied to.
    pub fn is_comment(&self) -> bool {
        matches!(self.content, Content::Comment(_))
    }

    /// Size of the body in bytes.
    pub fn size(&self) -> usize {
        match &self.content {
            Content::Comment(body) => body.len(),
            Content::System { .. } => 0,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub enum Content {
    /// The body that a participant wrote.
    Comment(String),
    /// A change of the room.
    System {
        reason: Reason,
        /// The participant that the change is about, with the display name at that time.
        about: Option<(Actor, String)>,
    },
}

/// A message with the one that it replies to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatMessage {
    pub message: Message,
    pub parent: Option<Message>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMessage {
    pub body: String,
    /// An id that the sender chose; empty for none.
    pub reference_id: String,
    pub reply_to: Option<i64>,
}

/// Which messages of a chat are requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageQuery {
    /// Messages newer than the known one, in order, or older ones, backwards.
    pub newer: bool,
    /// Id of the last known message; 0 for none.
    pub known: i64,
    /// Whether to return the known message as well.
    pub including: bool,
    pub limit: u32,
    /// Whether to mark the returned messages as read.
    pub mark_read: bool,
}
