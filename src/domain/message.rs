//! Messages in a room's chat: comments of participants, and system messages about the room.

use std::ops::Range;

use serde::Serialize;

use super::actor::Actor;
use super::reason::Reason;

/// Longest chat message, in characters, as in Talk.
pub const MAX_MESSAGE_CHARS: usize = 32_000;

/// Longest text of a message that is shown with its room, in characters.
const MAX_PREVIEW_CHARS: usize = 1000;

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
    /// The participants that the body mentions, with their display names at that time.
    pub mentions: Vec<(Actor, String)>,
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

    /// Whether its text says "you" to this participant.
    pub fn addresses(&self, viewer: &Actor) -> bool {
        match &self.content {
            Content::Comment(_) => false,
            Content::Deleted { by: (by, _name) } => by == viewer,
            Content::System { about, .. } => {
                self.actor == *viewer || about.as_ref().is_some_and(|(about, _)| about == viewer)
            }
        }
    }

    /// Size of the body in bytes.
    pub fn size(&self) -> usize {
        match &self.content {
            Content::Comment(body) => body.len(),
            Content::Deleted { .. } | Content::System { .. } => 0,
        }
    }

    /// The message with the beginning of a long body: what is shown with the room, of which there
    /// are many in a list.
    pub fn preview(mut self) -> Self {
        if let Content::Comment(body) = &mut self.content
            && let Some((end, _)) = body.char_indices().nth(MAX_PREVIEW_CHARS)
        {
            body.truncate(end);
            body.shrink_to_fit();
            body.push('…');
        }
        self
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub enum Content {
    /// The body that a participant wrote.
    Comment(String),
    /// What a comment was before this participant deleted it.
    Deleted { by: (Actor, String) },
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

/// Messages that were requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatPage {
    pub messages: Vec<ChatMessage>,
    /// Id of the last message that every user of the room has read.
    pub last_common_read: i64,
}

/// Finds what may be mentions of participants, as Talk writes them: `@bob`, `@"bob"` or
/// `@"guest/id"`.
pub fn find_mentions(body: &str) -> Vec<(Range<usize>, Actor)> {
    let mut found = Vec::new();
    let mut end = 0;
    for (start, _at) in body.match_indices('@') {
        let before = body.get(..start).and_then(|before| before.chars().next_back());
        if start < end || before.is_some_and(char::is_alphanumeric) {
            continue;
        }
        let rest = body.get(start + 1..).unwrap_or_default();
        let (id, length) = if let Some(quoted) = rest.strip_prefix('"') {
            let Some((id, _rest)) = quoted.split_once('"') else { continue };
            (id, id.len() + 2)
        } else {
            let is_part = |c: char| c.is_alphanumeric() || "-_.@'".contains(c);
            let id = rest.split(|c| !is_part(c)).next().unwrap_or_default();
            let id = id.trim_end_matches(['.', '\'']);
            (id, id.len())
        };
        if id.is_empty() {
            continue;
        }
        end = start + 1 + length;
        let actor = id.strip_prefix("guest/").map_or_else(|| Actor::user(id), Actor::guest);
        found.push((start..end, actor));
    }
    found
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preview_is_the_beginning_of_a_long_body() {
        let preview = |body: &str| {
            let message = Message {
                id: 1,
                actor: Actor::user("bob"),
                actor_name: "Bob".to_owned(),
                created_at: 0,
                content: Content::Comment(body.to_owned()),
                mentions: Vec::new(),
                reference_id: String::new(),
                parent_id: None,
            };
            message.preview().content
        };
        let comment = |body: &str| Content::Comment(body.to_owned());
        let full = "ä".repeat(MAX_PREVIEW_CHARS);
        assert_eq!(preview(&full), comment(&full));
        assert_eq!(preview(&format!("{full}xy")), comment(&format!("{full}…")));
    }

    #[test]
    fn mentions_are_found_as_talk_writes_them() {
        let body = "@bob, write to a@example.org, @\"a b\" and @\"guest/0a\"! @ @\"open (@carol.)";
        let found: Vec<_> = find_mentions(body).into_iter().map(|(_, actor)| actor).collect();
        let users = ["bob", "a b", "carol"].map(Actor::user);
        let [bob, named, carol] = users;
        assert_eq!(found, [bob, named, Actor::guest("0a"), carol]);
        let (range, _actor) = find_mentions("ä @bob.").remove(0);
        assert_eq!(range, 3..7);
    }
}
