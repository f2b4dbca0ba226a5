//! The chat of a room.

use std::time::Duration;

use axum::{
    extract::State,
    http::{HeaderName, StatusCode},
};
use serde::Deserialize;
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};

use super::{
    Api,
    auth::Requester,
    dto::MessageDto,
    ocs::{Ocs, OcsError, OcsResponse, OcsResult},
    params::{Input, Token, flag, integer, optional_integer, text},
};
use crate::domain::{MessageQuery, NewMessage, commands::Command};

/// Messages of one answer: usually, and at most, as in Talk.
const USUAL_LIMIT: i64 = 100;
const MOST: i64 = 200;

/// Seconds to wait for a new message: usually, and at most, as in Talk.
const USUAL_WAIT: i64 = 30;
const LONGEST_WAIT: i64 = 60;

/// Longest reference of a message, in characters: a SHA-256 in hexadecimal digits.
const MAX_REFERENCE: usize = 64;

/// The last message of an answer, to go on from there.
const LAST_GIVEN: HeaderName = HeaderName::from_static("x-chat-last-given");

#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(super) struct Receive {
    /// 1 newer messages, waiting for some; 0 older ones.
    #[serde(deserialize_with = "integer")]
    #[param(minimum = 0, maximum = 1, example = 0)]
    look_into_future: i64,
    /// At most this many, and at most 200.
    #[serde(default, deserialize_with = "optional_integer")]
    #[param(required = false, value_type = i64)]
    limit: Option<i64>,
    /// Newer or older than this one; 0 for the newest.
    #[serde(default, deserialize_with = "optional_integer")]
    #[param(required = false, value_type = i64)]
    last_known_message_id: Option<i64>,
    /// Seconds to wait for a new message, at most 60.
    #[serde(default, deserialize_with = "optional_integer")]
    #[param(required = false, value_type = i64, example = 0)]
    timeout: Option<i64>,
    /// Whether the messages count as read from now on.
    #[serde(default = "one", deserialize_with = "integer")]
    #[param(required = false)]
    set_read_marker: i64,
    /// Whether the known message is given again.
    #[serde(default, deserialize_with = "flag")]
    #[param(required = false)]
    include_last_known: bool,
}

fn one() -> i64 {
    1
}

/// Messages of the chat
///
/// Newer ones come in their order, older ones backwards. If there is no newer one, the request is
/// held until somebody says something.
#[utoipa::path(
    get, path = "/ocs/v2.php/apps/spreed/api/v1/chat/{token}", tag = "chat",
    operation_id = "receiveMessages",
    params(("token" = String, Path, description = "The room"), Receive),
    responses(
        (status = 200, description = "The messages", body = inline(Ocs<Vec<MessageDto>>)),
        (status = 304, description = "There are none"),
        (status = 404, description = "No such room for this participant"),
        (status = 412, description = "Wait in the lobby"),
    )
)]
pub(super) async fn receive(
    State(api): State<Api>,
    requester: Requester,
    Token(token): Token,
    Input(wanted): Input<Receive>,
) -> OcsResult {
    let caller = requester.participant()?;
    let newer = match wanted.look_into_future {
        0 => false,
        1 => true,
        _ => return Err(OcsError::invalid("lookIntoFuture", "lookIntoFuture is 0 or 1")),
    };
    let limit = wanted.limit.unwrap_or(USUAL_LIMIT).clamp(1, MOST);
    let query = MessageQuery {
        newer,
        known: wanted.last_known_message_id.unwrap_or_default().max(0),
        including: wanted.include_last_known,
        limit: u32::try_from(limit).unwrap_or(1),
        mark_read: wanted.set_read_marker != 0,
    };
    let wait = wanted.timeout.unwrap_or(USUAL_WAIT).clamp(0, LONGEST_WAIT).unsigned_abs();
    let deadline = Instant::now() + Duration::from_secs(wait);
    let messages = api.service.messages(&token, &caller.actor, query, deadline).await?;
    let Some(last) = messages.last() else {
        return Ok(OcsResponse::not_modified());
    };
    let last = last.message.id;
    let shapes: Vec<MessageDto> =
        messages.iter().map(|message| MessageDto::with_parent(&token, message)).collect();
    Ok(OcsResponse::ok(shapes).header(LAST_GIVEN, last))
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Send {
    /// The words.
    #[serde(deserialize_with = "text")]
    #[schema(min_length = 1, max_length = 32_000, example = "Welcome to the webinar")]
    message: String,
    /// The message that it answers; 0 for none.
    #[serde(default, deserialize_with = "optional_integer")]
    #[schema(required = false, value_type = i64, minimum = 0, example = 0)]
    reply_to: Option<i64>,
    /// What the sender knows it by.
    #[serde(default, deserialize_with = "text")]
    #[schema(max_length = 64)]
    reference_id: String,
}

/// Say something
#[utoipa::path(
    post, path = "/ocs/v2.php/apps/spreed/api/v1/chat/{token}", tag = "chat",
    operation_id = "sendMessage", params(("token" = String, Path, description = "The room")),
    request_body = Send,
    responses(
        (status = 201, description = "The message", body = inline(Ocs<MessageDto>)),
        (status = 400, description = "It says nothing, or answers what is not there"),
        (status = 403, description = "No permission to chat"),
        (status = 404, description = "No such room for this participant"),
        (status = 412, description = "Wait in the lobby"),
        (status = 413, description = "The message is too long"),
    )
)]
pub(super) async fn send(
    State(api): State<Api>,
    requester: Requester,
    Token(token): Token,
    Input(wanted): Input<Send>,
) -> OcsResult {
    let caller = requester.participant()?;
    if wanted.reference_id.chars().count() > MAX_REFERENCE {
        return Err(OcsError::invalid("referenceId", "a reference has at most 64 characters"));
    }
    let message = NewMessage {
        body: wanted.message,
        reference_id: wanted.reference_id,
        reply_to: wanted.reply_to.filter(|id| *id != 0),
    };
    let changed = api.service.change(&token, &caller, &Command::Send(message)).await?;
    let message = changed.message.expect("a message that was sent is there");
    Ok(OcsResponse::with(StatusCode::CREATED, MessageDto::with_parent(&token, &message)))
}
