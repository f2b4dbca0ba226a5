//! The webinar's settings of a room: lobby and SIP dial-in.
//!
//! Both are answered with the room as it is after the change. Which rooms can have them, and who
//! may set them, is decided by `domain`.

use axum::extract::State;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::auth::AuthenticatedUser;
use super::dto::RoomDto;
use super::ocs::{Ocs, OcsResult};
use super::openapi::{NoRoom, NotModerator};
use super::params::{Params, RoomPath, integer, optional_integer};
use super::{Api, Routes};
use crate::domain::LobbyRequest;
use crate::domain::commands::Command;

pub(super) fn routes() -> Routes {
    vec![routes!(set_lobby), routes!(set_sip)]
}

#[derive(Deserialize, ToSchema)]
pub(super) struct SetLobby {
    /// 0 none, 1 non-moderators wait.
    #[serde(deserialize_with = "integer")]
    #[schema(minimum = 0, maximum = 1, example = 1)]
    state: i64,
    /// Unix seconds at which the lobby is removed; no timer if null, 0 or absent.
    #[serde(default, deserialize_with = "optional_integer")]
    #[schema(minimum = 0, maximum = 253_402_300_799_i64, example = 1_767_225_600)]
    timer: Option<i64>,
}

/// Set or remove the lobby of a room
///
/// Participants who have to wait then leave a call in progress. A timer in the past opens the room
/// at once.
#[utoipa::path(
    put, path = "/lobby", tag = "webinar", operation_id = "setLobby", security(("basic" = [])),
    params(RoomPath), request_body = SetLobby,
    responses(NotModerator, NoRoom,
        (status = 200, description = "The room", body = inline(Ocs<RoomDto>)),
        (status = 400, description = "State or timer is invalid, or the room cannot have a lobby"),
    )
)]
pub(super) async fn set_lobby(
    State(api): State<Api>,
    AuthenticatedUser(caller): AuthenticatedUser,
    RoomPath(token): RoomPath,
    Params(request): Params<SetLobby>,
) -> OcsResult {
    let command = Command::SetLobby(LobbyRequest { state: request.state, timer: request.timer });
    api.show_after(&token, &caller, &command).await
}

#[derive(Deserialize, ToSchema)]
pub(super) struct SetSip {
    /// 0 disabled, 1 with a PIN per attendee, 2 without PIN.
    #[serde(deserialize_with = "integer")]
    #[schema(minimum = 0, maximum = 2, example = 1)]
    state: i64,
}

/// Enable or disable SIP dial-in
#[utoipa::path(
    put, path = "/sip", tag = "webinar", operation_id = "setSip", security(("basic" = [])),
    params(RoomPath), request_body = SetSip,
    responses(NotModerator, NoRoom,
        (status = 200, description = "The room", body = inline(Ocs<RoomDto>)),
        (status = 400, description = "Invalid or unchanged state, or a room without dial-in"),
        (status = 412, description = "SIP is not configured on this server"),
    )
)]
pub(super) async fn set_sip(
    State(api): State<Api>,
    AuthenticatedUser(caller): AuthenticatedUser,
    RoomPath(token): RoomPath,
    Params(request): Params<SetSip>,
) -> OcsResult {
    let configured = api.service.sip().configured;
    let command = Command::SetSip { state: request.state.into(), configured };
    api.show_after(&token, &caller, &command).await
}
