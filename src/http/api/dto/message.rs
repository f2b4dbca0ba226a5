//! A message of the chat.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::{Actor, ChatMessage, Content, Message, Reason, RoomToken, find_mentions};

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
    /// `comment`, `comment_deleted` or `system`.
    message_type: &'static str,
    is_replyable: bool,
    /// Chosen by the sender.
    reference_id: String,
    /// The text; names in braces refer to `messageParameters`.
    message: String,
    message_parameters: BTreeMap<String, Parameter>,
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
#[serde(rename_all = "kebab-case")]
struct Parameter {
    /// `user` or `guest`.
    r#type: &'static str,
    id: String,
    /// The display name.
    name: String,
    /// How a message mentions the participant.
    mention_id: String,
}

impl Parameter {
    fn of(actor: &Actor, name: &str) -> Self {
        let (r#type, id) = if actor.is_user() {
            ("user", actor.id.clone())
        } else {
            ("guest", format!("guest/{}", actor.id))
        };
        let name = if name.is_empty() { "Guest" } else { name };
        Self { r#type, mention_id: id.clone(), id, name: name.to_owned() }
    }
}

impl MessageDto {
    pub(in crate::http::api) fn with_parent(
        token: &RoomToken,
        chat: &ChatMessage,
        viewer: &Actor,
    ) -> Self {
        let parent = chat.parent.as_ref();
        let parent = parent.map(|parent| Box::new(Self::of(token, parent, Some(viewer))));
        Self { parent, ..Self::of(token, &chat.message, Some(viewer)) }
    }

    pub(super) fn of(token: &RoomToken, message: &Message, viewer: Option<&Actor>) -> Self {
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
            Content::Comment(body) => {
                let (message, message_parameters) = with_mentions(body, &message.mentions);
                Self { message, message_parameters, ..comment }
            }
            Content::Deleted { by: (by, name) } => Self {
                message_type: "comment_deleted",
                is_replyable: false,
                message: deleted_text(by, &message.actor, viewer).to_owned(),
                message_parameters: BTreeMap::from([("actor".to_owned(), Parameter::of(by, name))]),
                markdown: false,
                ..comment
            },
            Content::System { reason, about } => {
                let actor = Parameter::of(&message.actor, &message.actor_name);
                let mut message_parameters = BTreeMap::from([("actor".to_owned(), actor)]);
                let names_user = matches!(reason, Reason::UserAdded | Reason::UserRemoved);
                if let Some((user, name)) = about
                    && (names_user || *user != message.actor)
                {
                    message_parameters.insert("user".to_owned(), Parameter::of(user, name));
                }
                let about = about.as_ref().map(|(actor, _name)| actor);
                Self {
                    system_message: reason.name(),
                    message_type: "system",
                    is_replyable: false,
                    message: reason.text_for(viewer, &message.actor, about),
                    message_parameters,
                    markdown: false,
                    ..comment
                }
            }
        }
    }
}

fn deleted_text(by: &Actor, author: &Actor, viewer: Option<&Actor>) -> &'static str {
    if viewer == Some(by) {
        "Message deleted by you"
    } else if by == author {
        "Message deleted by author"
    } else {
        "Message deleted by {actor}"
    }
}

/// The text with placeholders for the participants that it mentions.
fn with_mentions(
    body: &str,
    mentions: &[(Actor, String)],
) -> (String, BTreeMap<String, Parameter>) {
    let mut text = body.to_owned();
    let mut parameters = BTreeMap::new();
    let found = if mentions.is_empty() { Vec::new() } else { find_mentions(body) };
    // From the end, so that the earlier ranges stay valid.
    for (range, actor) in found.into_iter().rev() {
        let named = mentions.iter().enumerate().find(|(_, (mentioned, _))| *mentioned == actor);
        let Some((index, (actor, name))) = named else { continue };
        let parameter = Parameter::of(actor, name);
        let key = format!("mention-{}{}", parameter.r#type, index + 1);
        text.replace_range(range, &format!("{{{key}}}"));
        parameters.insert(key, parameter);
    }
    (text, parameters)
}
