//! What is said in a room's chat, by people and by the room itself.

use super::{attendee::Actor, event::Reason};

/// Longest chat message, in characters, as in Talk.
pub const MAX_MESSAGE_CHARS: usize = 32_000;

/// A message of the chat.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Message {
    /// Grows within the room.
    pub id: i64,
    /// Who said or did it.
    pub actor: Actor,
    /// The actor's name at that time.
    pub actor_name: String,
    /// Unix seconds.
    pub created_at: i64,
    /// What it is.
    pub content: Content,
    /// What its sender knows it by; empty for none.
    pub reference_id: String,
    /// The message that it answers.
    pub parent_id: Option<i64>,
}

impl Message {
    /// Whether somebody said it, so that it can be answered.
    pub fn is_comment(&self) -> bool {
        matches!(self.content, Content::Comment(_))
    }

    /// Bytes of what somebody said.
    pub fn size(&self) -> usize {
        match &self.content {
            Content::Comment(text) => text.len(),
            Content::System { .. } => 0,
        }
    }
}

/// What a message is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Content {
    /// Somebody's words.
    Comment(String),
    /// Something that happened to the room.
    System {
        /// What happened.
        reason: Reason,
        /// To whom, and the name at that time.
        about: Option<(Actor, String)>,
    },
}

/// What somebody wants to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMessage {
    /// The words.
    pub text: String,
    /// What its sender knows it by; empty for none.
    pub reference_id: String,
    /// The message that it answers.
    pub reply_to: Option<i64>,
}

/// Which messages are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageQuery {
    /// Newer than the known one, or older ones.
    pub newer: bool,
    /// The known one; 0 for none.
    pub known: i64,
    /// Whether the known one is asked for again.
    pub including: bool,
    /// At most this many.
    pub limit: u32,
    /// Whether they count as read from now on.
    pub mark_read: bool,
}
