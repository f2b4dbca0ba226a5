//! What moderators restrict: default permissions, writing, and who may join.
//!
//! Who may do so, and what it means, is decided by `domain`.

use axum::extract::State;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::auth::{AuthenticatedUser, UserOrGuest};
use super::dto::BanDto;
use super::ocs::{Ocs, OcsError, OcsResponse, OcsResult};
use super::openapi::{Done, NoRoom, NotModerator, RoomShown};
use super::params::{
    MAX_MESSAGE_BODY, Params, RoomItemPath, RoomPath, integer, optional_text, text,
};
use super::{Api, Routes};
use crate::domain::commands::Command;
use crate::domain::{Actor, ActorKind, Permissions};

pub(super) fn routes() -> Routes {
    vec![routes!(set_read_only), routes!(set_default_permissions)]
}

/// In Talk, bans have a path of their own.
pub(super) fn ban_routes() -> Routes {
    vec![routes!(list_bans, ban), routes!(unban)]
}

/// Reads permissions. `problem` is Talk's name for invalid ones.
pub(super) fn permissions(number: i64, problem: &str) -> Result<Permissions, OcsError> {
    Permissions::parse(number)
        .ok_or_else(|| OcsError::invalid(problem, "permissions are a number from 0 to 511"))
}

/// Reads 0 or 1. `problem` is Talk's name for another number.
pub(super) fn zero_or_one(number: i64, problem: &str) -> Result<bool, OcsError> {
    match number {
        0 => Ok(false),
        1 => Ok(true),
        _other => Err(OcsError::invalid(problem, "expected 0 or 1")),
    }
}

#[derive(Deserialize, ToSchema)]
pub(super) struct SetReadOnly {
    /// 0 no, 1 yes.
    #[serde(deserialize_with = "integer")]
    #[schema(minimum = 0, maximum = 1, example = 1)]
    state: i64,
}

/// Make a room read-only, or writable again
///
/// In a read-only room nobody can write, or join the call; a call in progress ends.
#[utoipa::path(
    put, path = "/read-only", tag = "moderation", operation_id = "setReadOnly",
    security(("basic" = [])), params(RoomPath), request_body = SetReadOnly,
    responses(RoomShown, NotModerator, NoRoom, (
        status = 400, description = "The state is invalid, or the room is one-to-one"
    ))
)]
pub(super) async fn set_read_only(
    State(api): State<Api>,
    AuthenticatedUser(caller): AuthenticatedUser,
    RoomPath(token): RoomPath,
    Params(request): Params<SetReadOnly>,
) -> OcsResult {
    let read_only = zero_or_one(request.state, "value")?;
    api.show_after(&token, &caller, &Command::SetReadOnly(read_only)).await
}

#[derive(Deserialize, ToSchema)]
pub(super) struct SetDefaultPermissions {
    /// The sum of 1 custom, 2 start call, 4 join call, 8 ignore lobby, 16 audio, 32 video, 64
    /// screen, 128 chat; 0 for those of Talk.
    #[serde(deserialize_with = "integer")]
    #[schema(minimum = 0, maximum = 511, example = 132)]
    permissions: i64,
}

/// Set the permissions of participants who are not moderators
///
/// Custom permissions of participants are removed. An audience that listens, and may chat, has 132:
/// join call, chat.
#[utoipa::path(
    put, path = "/permissions/default", tag = "moderation", operation_id = "setDefaultPermissions",
    params(RoomPath), request_body = SetDefaultPermissions,
    responses(RoomShown, NotModerator, NoRoom, (
        status = 400, description = "The permissions are invalid, or the room is one-to-one"
    ))
)]
pub(super) async fn set_default_permissions(
    State(api): State<Api>,
    UserOrGuest(caller): UserOrGuest,
    RoomPath(token): RoomPath,
    Params(request): Params<SetDefaultPermissions>,
) -> OcsResult {
    let permissions = permissions(request.permissions, "value")?;
    api.show_after(&token, &caller, &Command::SetDefaultPermissions(permissions)).await
}

/// List the bans of a room
#[utoipa::path(
    get, path = "/", tag = "moderation", operation_id = "listBans", params(RoomPath),
    responses(NotModerator, NoRoom, (
        status = 200, description = "The bans", body = inline(Ocs<Vec<BanDto>>)
    ))
)]
pub(super) async fn list_bans(
    State(api): State<Api>,
    UserOrGuest(caller): UserOrGuest,
    RoomPath(token): RoomPath,
) -> OcsResult {
    let bans = api.service.bans(&token, &caller).await?;
    Ok(OcsResponse::ok(bans.into_iter().map(BanDto::from).collect::<Vec<_>>()))
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct AddBan {
    /// `users` or `guests`.
    #[serde(deserialize_with = "text")]
    #[schema(example = "guests")]
    actor_type: String,
    #[serde(deserialize_with = "text")]
    #[schema(min_length = 1, max_length = 64, example = "bob")]
    actor_id: String,
    /// Only moderators see it.
    #[serde(default, deserialize_with = "optional_text")]
    #[schema(max_length = 4000)]
    internal_note: String,
}

/// Ban a user or guest from a room
///
/// A participant is removed. A banned actor cannot join, unless a moderator adds them.
#[utoipa::path(
    post, path = "/", tag = "moderation", operation_id = "ban", security(("basic" = [])),
    params(RoomPath), request_body = AddBan,
    responses(NotModerator, NoRoom,
        (status = 200, description = "The ban", body = inline(Ocs<BanDto>)),
        (status = 400, description = "The actor is invalid, a moderator or the caller, or \
            the room has too many bans"),
    )
)]
pub(super) async fn ban(
    State(api): State<Api>,
    AuthenticatedUser(caller): AuthenticatedUser,
    RoomPath(token): RoomPath,
    Params(request): Params<AddBan, MAX_MESSAGE_BODY>,
) -> OcsResult {
    const MAX_ID_CHARS: usize = 64;
    let kind =
        ActorKind::from_name(&request.actor_type).filter(|kind| *kind != ActorKind::DeletedUsers);
    let id = Some(request.actor_id).filter(|id| {
        (1..=MAX_ID_CHARS).contains(&id.chars().count()) && !id.contains(char::is_control)
    });
    let actor = kind.zip(id).map(|(kind, id)| Actor { kind, id });
    let actor = actor.ok_or_else(|| {
        OcsError::invalid("bannedActor", "expected the id of one of the users or guests")
    })?;
    let command = Command::Ban { actor: actor.clone(), note: request.internal_note };
    api.service.change(&token, &caller, &command).await?;
    let bans = api.service.bans(&token, &caller).await?;
    match bans.into_iter().find(|ban| ban.actor == actor) {
        Some(ban) => Ok(OcsResponse::ok(BanDto::from(ban))),
        // Another moderator has removed it meanwhile.
        None => Ok(OcsResponse::done()),
    }
}

/// Remove a ban
#[utoipa::path(
    delete, path = "/{id}", tag = "moderation", operation_id = "unban",
    security(("basic" = [])), params(RoomItemPath),
    responses(Done, NotModerator, (
        status = 404, description = "There is no such room for this participant, or no such ban"
    ))
)]
pub(super) async fn unban(
    State(api): State<Api>,
    AuthenticatedUser(caller): AuthenticatedUser,
    RoomItemPath(token, id): RoomItemPath,
) -> OcsResult {
    api.execute(&token, &caller, Command::Unban(id)).await
}
