//! The webinar: lobby and SIP dial-in.

use axum::extract::State;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{
    Api,
    auth::AuthenticatedUser,
    dto::RoomDto,
    ocs::{Ocs, OcsResponse, OcsResult},
    params::{Input, Token, integer, optional_integer},
};
use crate::domain::{Caller, LobbyRequest, RoomToken, commands::Command};

#[derive(Deserialize, ToSchema)]
pub(super) struct SetLobby {
    /// 0 none, 1 others than moderators wait.
    #[serde(deserialize_with = "integer")]
    #[schema(minimum = 0, maximum = 1, example = 1)]
    state: i64,
    /// Unix seconds of the reset to no lobby; null, 0 or absent for none.
    #[serde(default, deserialize_with = "optional_integer")]
    #[schema(minimum = 0, maximum = 253_402_300_799_i64, example = 1_767_225_600)]
    timer: Option<i64>,
}

/// Put a lobby in front of a room, or remove it
///
/// Who has to wait leaves a call that goes on. A timer in the past opens the room at once.
#[utoipa::path(
    put, path = "/ocs/v2.php/apps/spreed/api/v4/room/{token}/webinar/lobby", tag = "webinar",
    operation_id = "setLobby", params(("token" = String, Path, description = "The room")),
    request_body = SetLobby,
    responses(
        (status = 200, description = "The room", body = inline(Ocs<RoomDto>)),
        (status = 400, description = "The room cannot have a lobby, or state or timer mean nothing"),
        (status = 403, description = "Not a moderator"),
        (status = 404, description = "No such room for this participant"),
    )
)]
pub(super) async fn set_lobby(
    State(api): State<Api>,
    AuthenticatedUser(caller): AuthenticatedUser,
    Token(token): Token,
    Input(wanted): Input<SetLobby>,
) -> OcsResult {
    let command = Command::SetLobby(LobbyRequest { state: wanted.state, timer: wanted.timer });
    api.command(&token, &caller, command).await?;
    room(&api, &token, &caller).await
}

#[derive(Deserialize, ToSchema)]
pub(super) struct SetSip {
    /// 0 off, 1 with a PIN per attendee, 2 without PIN.
    #[serde(deserialize_with = "integer")]
    #[schema(minimum = 0, maximum = 2, example = 1)]
    state: i64,
}

/// Enable or disable SIP dial-in
#[utoipa::path(
    put, path = "/ocs/v2.php/apps/spreed/api/v4/room/{token}/webinar/sip", tag = "webinar",
    operation_id = "setSip", params(("token" = String, Path, description = "The room")),
    request_body = SetSip,
    responses(
        (status = 200, description = "The room", body = inline(Ocs<RoomDto>)),
        (status = 400, description = "The state means nothing or is the same, or the room cannot have a dial-in"),
        (status = 403, description = "Not a moderator"),
        (status = 404, description = "No such room for this participant"),
        (status = 412, description = "SIP is not configured on this server"),
    )
)]
pub(super) async fn set_sip(
    State(api): State<Api>,
    AuthenticatedUser(caller): AuthenticatedUser,
    Token(token): Token,
    Input(wanted): Input<SetSip>,
) -> OcsResult {
    let configured = api.service.sip().configured;
    api.command(&token, &caller, Command::SetSip { state: wanted.state.into(), configured })
        .await?;
    room(&api, &token, &caller).await
}

async fn room(api: &Api, token: &RoomToken, caller: &Caller) -> OcsResult {
    let view = api.view(token, caller).await?;
    Ok(OcsResponse::ok(RoomDto::of(&view, api.rights(Some(caller)))))
}
