//! The call of a room: who is in it. (The media go elsewhere.)

use axum::extract::State;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::{
    Api,
    auth::Requester,
    dto::PeerDto,
    ocs::{Ocs, OcsResponse, OcsResult},
    params::{Input, Token, flag, integer, optional_integer},
};
use crate::domain::{
    CallFlags,
    commands::{Command, Resource},
};

/// Talk's flags of somebody who joins and does not say how: in the call, with audio and video.
const USUAL_FLAGS: i64 = 7;

/// Who is in the call
#[utoipa::path(
    get, path = "/ocs/v2.php/apps/spreed/api/v4/call/{token}", tag = "call",
    operation_id = "listPeers", params(("token" = String, Path, description = "The room")),
    responses(
        (status = 200, description = "The participants of the call", body = inline(Ocs<Vec<PeerDto>>)),
        (status = 404, description = "No such room for this participant"),
        (status = 412, description = "Wait in the lobby"),
    )
)]
pub(super) async fn peers(
    State(api): State<Api>,
    requester: Requester,
    Token(token): Token,
) -> OcsResult {
    let caller = requester.participant()?;
    let all = api.service.participants(&token, &caller.actor, Resource::Peers).await?;
    let peers: Vec<PeerDto> = all.iter().filter_map(|each| PeerDto::of(&token, each)).collect();
    Ok(OcsResponse::ok(peers))
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
    requester: Requester,
    Token(token): Token,
    Input(wanted): Input<JoinCall>,
) -> OcsResult {
    let flags = wanted.flags.unwrap_or(USUAL_FLAGS);
    api.command(
        &token,
        &requester.participant()?,
        Command::JoinCall(CallFlags::from_bits_retain(flags)),
    )
    .await?;
    Ok(OcsResponse::done())
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
    requester: Requester,
    Token(token): Token,
    Input(wanted): Input<UpdateCall>,
) -> OcsResult {
    api.command(
        &token,
        &requester.participant()?,
        Command::UpdateCall(CallFlags::from_bits_retain(wanted.flags)),
    )
    .await?;
    Ok(OcsResponse::done())
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
    requester: Requester,
    Token(token): Token,
    Input(wanted): Input<LeaveCall>,
) -> OcsResult {
    let command = if wanted.all { Command::EndCall } else { Command::LeaveCall };
    api.command(&token, &requester.participant()?, command).await?;
    Ok(OcsResponse::done())
}
