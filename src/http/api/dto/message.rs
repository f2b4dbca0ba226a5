//! A message of the chat.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::{Actor, ChatMessage, Content, Message, RoomToken};

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Message)]
pub(in crate::http::api) struct MessageDto {
    /// Grows within the room.
    id: i64,
    /// Token of the room.
    token: String,
    /// `users` or `guests`.
    actor_type: &'static str,
    actor_id: String,
    /// The display name when the message was sent.
    actor_display_name: String,
    /// Unix seconds.
    timestamp: i64,
    /// Identifier of an event; empty for a comment.
    system_message: String,
    /// `comment` or `system`.
    message_type: &'static str,
    is_replyable: bool,
    /// Chosen by the sender.
    reference_id: String,
    /// The text; names in braces refer to `messageParameters`.
    message: String,
    message_parameters: BTreeMap<&'static str, Parameter>,
    /// Always 0.
    expiration_timestamp: i64,
    /// Always empty.
    #[schema(value_type = Object)]
    reactions: BTreeMap<String, i64>,
    /// Whether the text may be rendered as Markdown.
    markdown: bool,
    /// The message that this one replies to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(no_recursion)]
    parent: Option<Box<MessageDto>>,
}

/// What a name in braces stands for.
#[derive(Serialize, ToSchema)]
struct Parameter {
    /// `user` or `guest`.
    r#type: &'static str,
    id: String,
    /// The display name.
    name: String,
}

impl Parameter {
    fn of(actor: &Actor, name: &str) -> Self {
        let (r#type, id) = if actor.is_user() {
            ("user", actor.id.clone())
        } else {
            ("guest", format!("guest/{}", actor.id))
        };
        Self { r#type, id, name: name.to_owned() }
    }
}

impl MessageDto {
    pub(in crate::http::api) fn with_parent(token: &RoomToken, chat: &ChatMessage) -> Self {
        let parent = chat.parent.as_ref().map(|parent| Box::new(Self::of(token, parent)));
        Self { parent, ..Self::of(token, &chat.message) }
    }

    pub(super) fn of(token: &RoomToken, message: &Message) -> Self {
        let comment = Self {
            id: message.id,
            token: token.to_string(),
            actor_type: message.actor.kind.name(),
            actor_id: message.actor.id.clone(),
            actor_display_name: message.actor_name.clone(),
            timestamp: message.created_at,
            system_message: String::new(),
            message_type: "comment",
            is_replyable: true,
            reference_id: message.reference_id.clone(),
            message: String::new(),
            message_parameters: BTreeMap::new(),
            expiration_timestamp: 0,
            reactions: BTreeMap::new(),
            markdown: true,
            parent: None,
        };
        match &message.content {
            Content::Comment(text) => Self { message: text.clone(), ..comment },
            Content::System { reason, about } => {
                let others = about.as_ref().filter(|(actor, _)| *actor != message.actor);
                let text = match about {
                    Some(_) if others.is_none() => reason.self_action_text(),
                    Some(_) | None => reason.text(),
                };
                let actor = Parameter::of(&message.actor, &message.actor_name);
                let mut message_parameters = BTreeMap::from([("actor", actor)]);
                if let Some((user, name)) = others {
                    message_parameters.insert("user", Parameter::of(user, name));
                }
                Self {
                    system_message: reason.name(),
                    message_type: "system",
                    is_replyable: false,
                    message: text.unwrap_or_default().to_owned(),
                    message_parameters,
                    markdown: false,
                    ..comment
                }
            }
        }
    }
}
