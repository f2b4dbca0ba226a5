//! The call of a room: who is in it, and with which media.
//!
//! lobbyd records participation only; the media are transmitted elsewhere. Who may join or end a
//! call is decided by `domain`.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use super::auth::UserOrGuest;
use super::dto::PeerDto;
use super::ocs::{List, Ocs, OcsResponse, OcsResult};
use super::openapi::{Done, InLobby, NoRoom, NotJoined};
use super::params::{Params, RoomPath, flag, integer, optional_integer};
use super::{Api, Routes};
use crate::domain::commands::{Command, Resource};
use crate::domain::{Attendee, CallFlags, RoomToken};

/// As in Talk, a participant who joins without flags has audio and video.
const DEFAULT_FLAGS: CallFlags = CallFlags::IN_CALL.union(CallFlags::AUDIO).union(CallFlags::VIDEO);

pub(super) fn routes() -> Routes {
    vec![routes!(peers, join, update, leave)]
}

/// List the participants of the call
///
/// A participant is listed once for each session that is in the call.
#[utoipa::path(
    get, path = "/", tag = "call", operation_id = "listPeers", params(RoomPath),
    responses(NoRoom, InLobby, (
        status = 200, description = "The participants of the call", body = inline(Ocs<Vec<PeerDto>>)
    ))
)]
pub(super) async fn peers(
    State(api): State<Api>,
    UserOrGuest(caller): UserOrGuest,
    RoomPath(token): RoomPath,
) -> OcsResult {
    let (_room, all) = api.service.participants(&token, &caller, Resource::Peers).await?;
    Ok(OcsResponse::list(Peers { token, all }))
}

/// The participants of the call of a room.
struct Peers {
    token: RoomToken,
    all: Vec<Attendee>,
}

impl List for Peers {
    fn elements(&self) -> impl Iterator<Item = impl Serialize> {
        self.all.iter().flat_map(|attendee| PeerDto::all_of(&self.token, attendee))
    }
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
    post, path = "/", tag = "call", operation_id = "joinCall",
    params(RoomPath), request_body = JoinCall,
    responses(Done, NotJoined, InLobby,
        (status = 400, description = "The flags are invalid"),
        (status = 403, description = "No permission to start or join a call, or the room is read-only"),
    )
)]
pub(super) async fn join(
    State(api): State<Api>,
    UserOrGuest(caller): UserOrGuest,
    RoomPath(token): RoomPath,
    Params(request): Params<JoinCall>,
) -> OcsResult {
    let flags = request.flags.map_or(DEFAULT_FLAGS, CallFlags::from_bits_retain);
    api.execute(&token, &caller, Command::JoinCall(flags)).await
}

#[derive(Deserialize, ToSchema)]
pub(super) struct UpdateCall {
    /// The sum of 1 in the call, 2 audio, 4 video, 8 by phone.
    #[serde(deserialize_with = "integer")]
    #[schema(minimum = 1, maximum = 15, example = 3)]
    flags: i64,
}

/// Change the participant's media in the call
#[utoipa::path(
    put, path = "/", tag = "call", operation_id = "updateCall",
    params(RoomPath), request_body = UpdateCall,
    responses(Done, NotJoined, InLobby, (
        status = 400, description = "The participant is not in the call, or the flags are invalid"
    ))
)]
pub(super) async fn update(
    State(api): State<Api>,
    UserOrGuest(caller): UserOrGuest,
    RoomPath(token): RoomPath,
    Params(request): Params<UpdateCall>,
) -> OcsResult {
    let flags = CallFlags::from_bits_retain(request.flags);
    api.execute(&token, &caller, Command::UpdateCall(flags)).await
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct LeaveCall {
    /// End the call for all participants. Ignored unless the participant is a moderator.
    #[serde(default, deserialize_with = "flag")]
    #[param(required = false)]
    all: bool,
}

/// Leave the call, or end it
#[utoipa::path(
    delete,
    path = "/",
    tag = "call",
    operation_id = "leaveCall",
    params(RoomPath, LeaveCall),
    responses(Done, NotJoined)
)]
pub(super) async fn leave(
    State(api): State<Api>,
    UserOrGuest(caller): UserOrGuest,
    RoomPath(token): RoomPath,
    Params(params): Params<LeaveCall>,
) -> OcsResult {
    let command = if params.all { Command::EndCall } else { Command::LeaveCall };
    api.execute(&token, &caller, command).await
}
