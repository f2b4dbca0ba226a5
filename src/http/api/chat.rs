//! The chat of a room: reading, with long polls for new messages, and writing.
//!
//! Who may read and write is decided by `domain`; the waiting is done by
//! [`rooms`](crate::rooms).

use std::time::Duration;

use axum::extract::State;
use axum::http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use super::auth::{Login, UserOrGuest};
use super::dto::MessageDto;
use super::etag::MAX_WAIT;
use super::header_names::{LAST_COMMON_READ, LAST_GIVEN};
use super::ocs::{List, Ocs, OcsError, OcsResponse, OcsResult};
use super::openapi::{InLobby, NoRoom};
use super::params::{
    MAX_MESSAGE_BODY, Params, RoomItemPath, RoomPath, flag, integer, optional_integer,
    optional_text, text,
};
use super::{Api, Routes};
use crate::domain::commands::Command;
use crate::domain::{Actor, Caller, ChatMessage, ChatPage, MessageQuery, NewMessage, RoomToken};

/// Messages per response, by default and at most, as in Talk.
const DEFAULT_LIMIT: i64 = 100;
const MAX_LIMIT: i64 = 200;

/// Seconds to wait for a new message by default, as in Talk.
const DEFAULT_WAIT: u64 = 30;

/// Longest reference of a message, in characters: a SHA-256 in hexadecimal digits.
const MAX_REFERENCE: usize = 64;

pub(super) fn routes() -> Routes {
    vec![routes!(receive, send), routes!(delete)]
}

#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(super) struct Receive {
    /// 1 for newer messages, waiting for some; 0 for older ones.
    #[serde(deserialize_with = "flag")]
    #[param(value_type = i64, minimum = 0, maximum = 1, example = 0)]
    look_into_future: bool,
    /// Number of messages, at most 200.
    #[serde(default, deserialize_with = "optional_integer")]
    #[param(required = false, value_type = i64)]
    limit: Option<i64>,
    /// Only messages newer or older than this one; 0 for the newest.
    #[serde(default, deserialize_with = "optional_integer")]
    #[param(required = false, value_type = i64)]
    last_known_message_id: Option<i64>,
    /// Seconds to wait for a new message, at most 50.
    #[serde(default, deserialize_with = "optional_integer")]
    #[param(required = false, value_type = i64, example = 0)]
    timeout: Option<i64>,
    /// 1 to mark newer messages as read.
    #[serde(default = "one", deserialize_with = "integer")]
    #[param(required = false)]
    set_read_marker: i64,
    /// Whether to include the known message.
    #[serde(default, deserialize_with = "flag")]
    #[param(required = false)]
    include_last_known: bool,
}

fn one() -> i64 {
    1
}

/// List messages of the chat
///
/// Newer messages are listed from old to new, older ones from new to old. If there are no newer
/// messages, the request waits for one.
#[utoipa::path(
    get, path = "/", tag = "chat", operation_id = "receiveMessages", params(RoomPath, Receive),
    responses(NoRoom, InLobby,
        (
            status = 200, description = "The messages", body = inline(Ocs<Vec<MessageDto>>),
            headers(
                ("X-Chat-Last-Given" = String, description = "Id of the last of them"),
                ("X-Chat-Last-Common-Read" = String, description = "Id up to which all users read"),
            )
        ),
        (status = 304, description = "There are none"),
    )
)]
pub(super) async fn receive(
    State(api): State<Api>,
    UserOrGuest(caller): UserOrGuest,
    mut login: Login,
    RoomPath(token): RoomPath,
    method: Method,
    params: Result<Params<Receive>, OcsError>,
) -> OcsResult {
    let params = readable(&api, &token, &caller, params).await?;
    let newer = params.look_into_future;
    let limit = params.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
    let query = MessageQuery {
        newer,
        known: params.last_known_message_id.unwrap_or_default().max(0),
        including: params.include_last_known,
        limit: u32::try_from(limit).unwrap_or(1),
        mark_read: newer && params.set_read_marker != 0 && method != Method::HEAD,
    };
    let wait = match params.timeout {
        _ if method == Method::HEAD => 0,
        Some(wait) => wait.max(0).unsigned_abs(),
        None => DEFAULT_WAIT,
    };
    let deadline = Instant::now() + Duration::from_secs(wait.min(MAX_WAIT));
    let ChatPage { messages, last_common_read } =
        api.service.messages(&token, &caller, query, deadline).await?;
    login.check(&api).await?;
    let response = match messages.last() {
        Some(last) => {
            let last_given = last.message.id;
            let messages = Messages { token, all: messages, viewer: caller.actor };
            OcsResponse::list(messages).header(LAST_GIVEN, last_given)
        }
        None => OcsResponse::not_modified(),
    };
    Ok(response.header(LAST_COMMON_READ, last_common_read))
}

/// Messages of a room as a participant reads them.
struct Messages {
    token: RoomToken,
    all: Vec<ChatMessage>,
    viewer: Actor,
}

impl List for Messages {
    fn elements(&self) -> impl Iterator<Item = impl Serialize> {
        let all = self.all.iter();
        all.map(|message| MessageDto::with_parent(&self.token, message, &self.viewer))
    }
}

/// Parameters of a request for the chat. As in Talk, a chat that the caller may not read is refused
/// before they are.
async fn readable<T, const MAX: usize>(
    api: &Api,
    token: &RoomToken,
    caller: &Caller,
    params: Result<Params<T, MAX>, OcsError>,
) -> Result<T, OcsError> {
    match params {
        Ok(Params(params)) => Ok(params),
        Err(error) => {
            api.service.check_reader(token, caller).await?;
            Err(error)
        }
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Send {
    /// The text.
    #[serde(deserialize_with = "text")]
    #[schema(min_length = 1, max_length = 32_000, example = "Welcome to the webinar")]
    message: String,
    /// Id of the message that it replies to; 0 for none.
    #[serde(default, deserialize_with = "optional_integer")]
    #[schema(required = false, value_type = i64, minimum = 0, example = 0)]
    reply_to: Option<i64>,
    /// Lets the sender recognise the message.
    #[serde(default, deserialize_with = "optional_text")]
    #[schema(max_length = 64)]
    reference_id: String,
}

/// Send a message
#[utoipa::path(
    post, path = "/", tag = "chat", operation_id = "sendMessage",
    params(RoomPath), request_body = Send,
    responses(NoRoom, InLobby,
        (status = 201, description = "The message", body = inline(Ocs<MessageDto>)),
        (status = 400, description = "The message is empty, or the message to reply to does not exist"),
        (status = 403, description = "No permission to chat, or the room is read-only"),
        (status = 413, description = "The message is too long"),
    )
)]
pub(super) async fn send(
    State(api): State<Api>,
    UserOrGuest(caller): UserOrGuest,
    RoomPath(token): RoomPath,
    params: Result<Params<Send, MAX_MESSAGE_BODY>, OcsError>,
) -> OcsResult {
    let request = readable(&api, &token, &caller, params).await?;
    if request.reference_id.chars().count() > MAX_REFERENCE {
        return Err(OcsError::invalid("referenceId", "a reference has at most 64 characters"));
    }
    let message = NewMessage {
        body: request.message,
        reference_id: request.reference_id,
        reply_to: request.reply_to.filter(|id| *id != 0),
    };
    let changed = api.service.change(&token, &caller, &Command::Send(message)).await?;
    let message = changed.message.expect("sending creates a message");
    let message = MessageDto::with_parent(&token, &message, &caller.actor);
    Ok(OcsResponse::with_status(StatusCode::CREATED, message))
}

/// Delete a message
///
/// Moderators delete any message, others their own. It remains as a deleted one.
#[utoipa::path(
    delete, path = "/{id}", tag = "chat", operation_id = "deleteMessage", params(RoomItemPath),
    responses(InLobby,
        (status = 200, description = "The system message", body = inline(Ocs<MessageDto>)),
        (status = 403, description = "It is a message of another participant"),
        (status = 404, description = "There is no such room for this participant, or no such message"),
        (status = 405, description = "It is a system message, or deleted already"),
    )
)]
pub(super) async fn delete(
    State(api): State<Api>,
    UserOrGuest(caller): UserOrGuest,
    RoomItemPath(token, id): RoomItemPath,
) -> OcsResult {
    let changed = api.service.change(&token, &caller, &Command::DeleteMessage(id)).await?;
    let message = changed.message.expect("deleting creates a system message");
    Ok(OcsResponse::ok(MessageDto::with_parent(&token, &message, &caller.actor)))
}
