//! The call of a room: who is in it. (The media go elsewhere.)

use axum::extract::State;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::{
    Api,
    asker::Asker,
    input::{Input, Token, flag, integer, optional_integer},
    ocs::{Answer, Ocs, Reply},
    shapes::PeerShape,
};
use crate::domain::rules::{Command, Look};

/// Talk's flags of somebody who joins and does not say how: in the call, with audio and video.
const USUAL_FLAGS: i64 = 7;

/// Who is in the call
#[utoipa::path(
    get, path = "/ocs/v2.php/apps/spreed/api/v4/call/{token}", tag = "call",
    operation_id = "listPeers", params(("token" = String, Path, description = "The room")),
    responses(
        (status = 200, description = "The participants of the call", body = inline(Ocs<Vec<PeerShape>>)),
        (status = 404, description = "No such room for this participant"),
        (status = 412, description = "Wait in the lobby"),
    )
)]
pub(super) async fn peers(State(api): State<Api>, asker: Asker, Token(token): Token) -> Answer {
    let caller = asker.participant()?;
    let all = api.service.participants(&token, &caller.actor, Look::Peers).await?;
    let peers: Vec<PeerShape> = all.iter().filter_map(|each| PeerShape::of(&token, each)).collect();
    Ok(Reply::ok(peers))
}

#[derive(Deserialize, ToSchema)]
pub(super) struct JoinCall {
    /// The sum of 1 in the call, 2 audio, 4 video, 8 by phone; 7 if absent.
    #[serde(default, deserialize_with = "optional_integer")]
    #[schema(required = false, value_type = i64, minimum = 0, maximum = 15, example = 7)]
    flags: Option<i64>,
}

/// Join the call, or start it
#[utoipa::path(
    post, path = "/ocs/v2.php/apps/spreed/api/v4/call/{token}", tag = "call",
    operation_id = "joinCall", params(("token" = String, Path, description = "The room")),
    request_body = JoinCall,
    responses(
        (status = 200, description = "In the call", body = inline(Ocs<Vec<String>>)),
        (status = 400, description = "The flags mean nothing"),
        (status = 403, description = "No permission to start or join"),
        (status = 404, description = "No such room for this participant, or not joined"),
        (status = 412, description = "Wait in the lobby"),
    )
)]
pub(super) async fn join(
    State(api): State<Api>,
    asker: Asker,
    Token(token): Token,
    Input(wanted): Input<JoinCall>,
) -> Answer {
    let flags = wanted.flags.unwrap_or(USUAL_FLAGS);
    api.command(&token, &asker.participant()?, Command::JoinCall(flags)).await?;
    Ok(Reply::done())
}

#[derive(Deserialize, ToSchema)]
pub(super) struct UpdateCall {
    /// The sum of 1 in the call, 2 audio, 4 video, 8 by phone.
    #[serde(deserialize_with = "integer")]
    #[schema(minimum = 1, maximum = 15, example = 3)]
    flags: i64,
}

/// Publish other media in the call
#[utoipa::path(
    put, path = "/ocs/v2.php/apps/spreed/api/v4/call/{token}", tag = "call",
    operation_id = "updateCall", params(("token" = String, Path, description = "The room")),
    request_body = UpdateCall,
    responses(
        (status = 200, description = "Updated", body = inline(Ocs<Vec<String>>)),
        (status = 400, description = "Not in the call, or the flags mean nothing"),
        (status = 404, description = "No such room for this participant, or not joined"),
        (status = 412, description = "Wait in the lobby"),
    )
)]
pub(super) async fn update(
    State(api): State<Api>,
    asker: Asker,
    Token(token): Token,
    Input(wanted): Input<UpdateCall>,
) -> Answer {
    api.command(&token, &asker.participant()?, Command::UpdateCall(wanted.flags)).await?;
    Ok(Reply::done())
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct LeaveCall {
    /// As a moderator: end the call for everybody. Others leave it themselves.
    #[serde(default, deserialize_with = "flag")]
    #[param(required = false)]
    all: bool,
}

/// Leave the call, or end it
#[utoipa::path(
    delete, path = "/ocs/v2.php/apps/spreed/api/v4/call/{token}", tag = "call",
    operation_id = "leaveCall",
    params(("token" = String, Path, description = "The room"), LeaveCall),
    responses(
        (status = 200, description = "Left", body = inline(Ocs<Vec<String>>)),
        (status = 404, description = "No such room for this participant, or not joined"),
    )
)]
pub(super) async fn leave(
    State(api): State<Api>,
    asker: Asker,
    Token(token): Token,
    Input(wanted): Input<LeaveCall>,
) -> Answer {
    let command = if wanted.all { Command::EndCall } else { Command::LeaveCall };
    api.command(&token, &asker.participant()?, command).await?;
    Ok(Reply::done())
}
