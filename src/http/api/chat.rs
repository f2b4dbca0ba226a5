//! The chat of a room: reading, with long polls for new messages, and writing.
//!
//! Who may read and write is decided by `domain`; the waiting is done by
//! [`rooms`](crate::rooms).

use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderName, StatusCode};
use serde::Deserialize;
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use super::auth::UserOrGuest;
use super::dto::MessageDto;
use super::etag::MAX_WAIT;
use super::ocs::{Ocs, OcsError, OcsResponse, OcsResult};
use super::openapi::{InLobby, NoRoom};
use super::params::{MAX_MESSAGE_BODY, Params, RoomPath, flag, integer, optional_integer, optional_text, text};
use super::{Api, Routes};
use crate::domain::commands::Command;
use crate::domain::{MessageQuery, NewMessage};

/// Messages per response, by default and at most, as in Talk.
const DEFAULT_LIMIT: i64 = 100;
const MAX_LIMIT: i64 = 200;

/// Seconds to wait for a new message by default, as in Talk.
const DEFAULT_WAIT: u64 = 30;

/// Longest reference of a message, in characters: a SHA-256 in hexadecimal digits.
const MAX_REFERENCE: usize = 64;

/// Id of the last message of a response, for the next request.
const LAST_GIVEN: HeaderName = HeaderName::from_static("x-chat-last-given");

pub(super) fn routes() -> Routes {
    vec![routes!(receive, send)]
}

#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(super) struct Receive {
    /// 1 for newer messages, waiting for some; 0 for older ones.
    #[serde(deserialize_with = "integer")]
    #[param(minimum = 0, maximum = 1, example = 0)]
    look_into_future: i64,
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
    /// 1 to mark the messages as read.
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
        (status = 200, description = "The messages", body = inline(Ocs<Vec<MessageDto>>)),
        (status = 304, description = "There are none"),
    )
)]
pub(super) async fn receive(
    State(api): State<Api>,
    UserOrGuest(caller): UserOrGuest,
    RoomPath(token): RoomPath,
    Params(params): Params<Receive>,
) -> OcsResult {
    let newer = match params.look_into_future {
        0 => false,
        1 => true,
        _ => return Err(OcsError::invalid("lookIntoFuture", "lookIntoFuture is 0 or 1")),
    };
    let limit = params.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
    let query = MessageQuery {
        newer,
        known: params.last_known_message_id.unwrap_or_default().max(0),
        including: params.include_last_known,
        limit: u32::try_from(limit).unwrap_or(1),
        mark_read: params.set_read_marker != 0,
    };
    let wait = params.timeout.map_or(DEFAULT_WAIT, |wait| wait.max(0).unsigned_abs());
    let deadline = Instant::now() + Duration::from_secs(wait.min(MAX_WAIT));
    let messages = api.service.messages(&token, &caller, query, deadline).await?;
    let Some(last) = messages.last() else {
        return Ok(OcsResponse::not_modified());
    };
    let last_given = last.message.id;
    let messages = messages.iter().map(|message| MessageDto::with_parent(&token, message));
    Ok(OcsResponse::ok(messages.collect::<Vec<_>>()).header(LAST_GIVEN, last_given))
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
        (status = 403, description = "No permission to chat"),
        (status = 413, description = "The message is too long"),
    )
)]
pub(super) async fn send(
    State(api): State<Api>,
    UserOrGuest(caller): UserOrGuest,
    RoomPath(token): RoomPath,
    Params(request): Params<Send, MAX_MESSAGE_BODY>,
) -> OcsResult {
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
    Ok(OcsResponse::with_status(StatusCode::CREATED, MessageDto::with_parent(&token, &message)))
}
