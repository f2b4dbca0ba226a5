//! Rooms: what clients poll, and what moderators configure.
//!
//! The polled responses carry an entity tag, see [`etag`](super::etag). Who may see or change what
//! is decided by `domain`; the waiting is done by [`rooms`](crate::rooms).

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use super::auth::{AuthenticatedUser, Login, Requester, UserOrGuest};
use super::dto::RoomDto;
use super::etag::{Conditional, NotModified, Tag};
use super::header_names::{MODIFIED_BEFORE, TALK_HASH};
use super::moderation::{permissions, zero_or_one};
use super::ocs::{List, Ocs, OcsError, OcsResponse, OcsResult};
use super::openapi::{Done, NoRoom, NotModerator, RoomShown};
use super::params::{
    MAX_DESCRIPTION_BODY, Params, RoomPath, integer, optional_integer, optional_text, text,
};
use super::{Api, Routes, unsupported};
use crate::auth::MAX_PASSWORD_BYTES;
use crate::cache::View;
use crate::domain::commands::{Command, CreateRoom};
use crate::domain::{Caller, LobbyRequest, RoomType};

/// A change is dated before its commit, and becomes visible after it, so consecutive lists overlap
/// by this time: a room that is listed twice does no harm, one that is never listed does.
const OVERLAP: Duration = Duration::from_secs(5);

pub(super) fn routes() -> Routes {
    vec![
        routes!(list, create),
        routes!(show, rename, delete),
        routes!(describe),
        routes!(set_password),
        routes!(allow_guests, disallow_guests),
    ]
}

#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(super) struct ListRooms {
    /// Unix seconds: only rooms that have changed since then.
    #[serde(default, deserialize_with = "optional_integer")]
    #[param(required = false, value_type = i64)]
    modified_since: Option<i64>,
}

/// List the user's rooms
///
/// With `If-None-Match`, a list that the client has is answered with 304; with `Prefer: wait=N` as
/// well, the request waits up to N (50) seconds until a room changes.
#[utoipa::path(
    get, path = "/", tag = "rooms", operation_id = "listRooms",
    security(("basic" = [])), params(ListRooms, Conditional),
    responses(NotModified, (
        status = 200, description = "The rooms", body = inline(Ocs<Vec<RoomDto>>), headers(
            ("ETag" = String, description = "Identifies the state of the rooms"),
            ("Preference-Applied" = String, description = "How long the request could have waited"),
            ("X-Nextcloud-Talk-Hash" = String, description = "Identifies the capabilities"),
            ("X-Nextcloud-Talk-Modified-Before" = String, description = "The next modifiedSince"),
        )
    ))
)]
pub(super) async fn list(
    State(api): State<Api>,
    AuthenticatedUser(caller): AuthenticatedUser,
    mut login: Login,
    conditional: Conditional,
    Params(params): Params<ListRooms>,
) -> OcsResult {
    let since = params.modified_since.unwrap_or_default();
    let before = api.service.now() - OVERLAP;
    let viewer = api.viewer(Some(&caller));
    let is_modified = |view: &&View| {
        let read_at = view.attendee().map_or(0, |attendee| attendee.read_at);
        read_at >= since || view.overview().is_modified_since(since)
    };
    let tag = |views: &Vec<View>| conditional.tag(views.iter().filter(is_modified), viewer);
    let is_news = |tag: &Tag| conditional.is_news(tag);
    let deadline = conditional.deadline();
    let (mut views, tag) = api.service.list_when(&caller.actor.id, deadline, tag, is_news).await?;
    login.check(&api).await?;
    let response = conditional.answer(&tag, || {
        views.retain(|view| is_modified(&view));
        OcsResponse::list(Rooms { views, caller: caller.clone(), api: Arc::clone(&api) })
    });
    let response = response.header(TALK_HASH, api.talk_hash.clone());
    Ok(response.header(MODIFIED_BEFORE, before.timestamp()))
}

/// Rooms as a user sees them.
struct Rooms {
    views: Vec<View>,
    caller: Caller,
    api: Api,
}

impl List for Rooms {
    fn elements(&self) -> impl Iterator<Item = impl Serialize> {
        self.views.iter().map(|view| self.api.room(view, &self.caller))
    }
}

/// Get a room
///
/// Participants see it; others see of a public room what they need to join it. With
/// `If-None-Match`, a state that the client has is answered with 304; with `Prefer: wait=N` as
/// well, the request waits up to N (50) seconds until the room changes.
#[utoipa::path(
    get, path = "/{token}", tag = "rooms", operation_id = "getRoom",
    security(("basic" = []), ("guest" = []), ()), params(RoomPath, Conditional),
    responses(NotModified, NoRoom, (
        status = 200, description = "The room", body = inline(Ocs<RoomDto>), headers(
            ("ETag" = String, description = "Identifies the state of the room"),
            ("Preference-Applied" = String, description = "How long the request could have waited"),
            ("X-Nextcloud-Talk-Hash" = String, description = "Identifies the capabilities"),
        )
    ))
)]
pub(super) async fn show(
    State(api): State<Api>,
    Requester { caller, address, mut login, .. }: Requester,
    conditional: Conditional,
    RoomPath(token): RoomPath,
) -> OcsResult {
    let caller = caller.as_ref();
    let viewer = api.viewer(caller);
    let tag = |view: &View| conditional.tag([view], viewer);
    let is_news = |tag: &Tag| conditional.is_news(tag);
    let deadline = conditional.deadline();
    let poll = api.service.view_when(&token, caller, address, deadline, tag, is_news);
    let (view, tag) = poll.await?;
    login.check(&api).await?;
    let response = conditional.answer(&tag, || OcsResponse::ok(RoomDto::of(&view, viewer)));
    Ok(response.header(TALK_HASH, api.talk_hash.clone()))
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreateRoomRequest {
    /// 1 one-to-one, 2 group, 3 public.
    #[serde(deserialize_with = "integer")]
    #[schema(minimum = 1, maximum = 3, example = 2)]
    room_type: i64,
    /// The other user of a one-to-one room.
    #[serde(default, deserialize_with = "optional_text")]
    invite: String,
    /// Name of a group or public room.
    #[serde(default, deserialize_with = "optional_text")]
    #[schema(max_length = 255, example = "Quarterly webinar")]
    room_name: String,
    /// Type of the object that the room belongs to: empty, `event`, `extended_conversation` or
    /// `instant_meeting`.
    #[serde(default, deserialize_with = "optional_text")]
    object_type: String,
    /// Id of that object.
    #[serde(default, deserialize_with = "optional_text")]
    #[schema(max_length = 64)]
    object_id: String,
    #[serde(default, deserialize_with = "optional_text")]
    #[schema(max_length = 2000)]
    description: String,
    /// Of a public room: needed by those who are not participants yet.
    #[serde(default, deserialize_with = "optional_text")]
    password: String,
    /// 0 none, 1 non-moderators wait.
    #[serde(default, deserialize_with = "optional_integer")]
    #[schema(required = false, value_type = i64, minimum = 0, maximum = 1)]
    lobby_state: Option<i64>,
    /// Unix seconds at which the lobby is removed.
    #[serde(default, deserialize_with = "optional_integer")]
    #[schema(required = false, value_type = i64, minimum = 0)]
    lobby_timer: Option<i64>,
    /// Permissions of participants who have none of their own, as in `permissions/default`.
    #[serde(default, deserialize_with = "optional_integer")]
    #[schema(required = false, value_type = i64, minimum = 0, maximum = 511)]
    permissions: Option<i64>,
    /// 0 no, 1 yes.
    #[serde(default, deserialize_with = "optional_integer")]
    #[schema(required = false, value_type = i64, minimum = 0, maximum = 1)]
    read_only: Option<i64>,
    #[serde(flatten)]
    #[schema(ignore)]
    others: Map<String, Value>,
}

/// Create a room
///
/// Two users have one one-to-one room. If it exists already, it is returned with status 200.
#[utoipa::path(
    post, path = "/", tag = "rooms", operation_id = "createRoom",
    security(("basic" = [])), request_body = CreateRoomRequest,
    responses(
        (status = 200, description = "The existing one-to-one room", body = inline(Ocs<RoomDto>)),
        (status = 201, description = "The new room", body = inline(Ocs<RoomDto>)),
        (status = 400, description = "Type, name, object, password or lobby is invalid"),
        (status = 404, description = "There is no such user to invite"),
    )
)]
pub(super) async fn create(
    State(api): State<Api>,
    AuthenticatedUser(caller): AuthenticatedUser,
    Params(request): Params<CreateRoomRequest, MAX_DESCRIPTION_BODY>,
) -> OcsResult {
    unsupported::check(&request.others)?;
    let default_permissions = permissions(request.permissions.unwrap_or_default(), "permissions")?;
    let read_only = zero_or_one(request.read_only.unwrap_or_default(), "read-only")?;
    let (view, created) = if RoomType::from(request.room_type) == RoomType::OneToOne {
        api.service.one_to_one(&caller, &request.invite).await?
    } else {
        if !request.invite.is_empty() {
            return Err(OcsError::invalid("invite", "add participants after the room is created"));
        }
        check_password(&request.password)?;
        let password = Some(request.password.as_str()).filter(|password| !password.is_empty());
        let room = CreateRoom {
            room_type: request.room_type.into(),
            has_password: password.is_some(),
            default_permissions,
            read_only,
            lobby: LobbyRequest {
                state: request.lobby_state.unwrap_or_default(),
                timer: request.lobby_timer,
            },
            name: request.room_name,
            description: request.description,
            object_type: request.object_type,
            object_id: request.object_id,
        };
        (api.service.create(&caller, &room, password).await?, true)
    };
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    Ok(OcsResponse::with_status(status, api.room(&view, &caller)))
}

/// A longer text is hardly meant as a password, and hashing takes time in proportion.
pub(super) fn check_password(password: &str) -> Result<(), OcsError> {
    if password.len() > MAX_PASSWORD_BYTES {
        return Err(OcsError::invalid("password", "a password has at most 4096 bytes"));
    }
    Ok(())
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Rename {
    #[serde(deserialize_with = "text")]
    #[schema(min_length = 1, max_length = 255, example = "Quarterly webinar")]
    room_name: String,
}

/// Rename a room
#[utoipa::path(
    put, path = "/{token}", tag = "rooms", operation_id = "renameRoom", params(RoomPath),
    request_body = Rename,
    responses(RoomShown, NotModerator, NoRoom, (
        status = 400, description = "The name is empty or too long, or the room is one-to-one"
    ))
)]
pub(super) async fn rename(
    State(api): State<Api>,
    UserOrGuest(caller): UserOrGuest,
    RoomPath(token): RoomPath,
    Params(request): Params<Rename>,
) -> OcsResult {
    api.show_after(&token, &caller, &Command::Rename(request.room_name)).await
}

/// Delete a room with its chat
#[utoipa::path(
    delete, path = "/{token}", tag = "rooms", operation_id = "deleteRoom", params(RoomPath),
    responses(Done, NotModerator, NoRoom, (
        status = 400, description = "One-to-one rooms cannot be deleted; leave instead"
    ))
)]
pub(super) async fn delete(
    State(api): State<Api>,
    UserOrGuest(caller): UserOrGuest,
    RoomPath(token): RoomPath,
) -> OcsResult {
    api.execute(&token, &caller, Command::Delete).await
}

#[derive(Deserialize, ToSchema)]
pub(super) struct Describe {
    /// May be empty.
    #[serde(deserialize_with = "text")]
    #[schema(max_length = 2000, example = "Figures and questions")]
    description: String,
}

/// Set the description of a room
#[utoipa::path(
    put, path = "/{token}/description", tag = "rooms", operation_id = "describeRoom",
    params(RoomPath), request_body = Describe,
    responses(RoomShown, NotModerator, NoRoom, (
        status = 400, description = "The description is too long, or the room is one-to-one"
    ))
)]
pub(super) async fn describe(
    State(api): State<Api>,
    UserOrGuest(caller): UserOrGuest,
    RoomPath(token): RoomPath,
    Params(request): Params<Describe, MAX_DESCRIPTION_BODY>,
) -> OcsResult {
    api.show_after(&token, &caller, &Command::Describe(request.description)).await
}

#[derive(Deserialize, ToSchema)]
pub(super) struct SetPassword {
    /// Empty to remove the password.
    #[serde(deserialize_with = "text")]
    #[schema(max_length = 4096, example = "correct horse")]
    password: String,
}

/// Set or remove the password of a public room
#[utoipa::path(
    put, path = "/{token}/password", tag = "rooms", operation_id = "setPassword",
    params(RoomPath), request_body = SetPassword,
    responses(RoomShown, NoRoom,
        (status = 400, description = "The password is too long"),
        (status = 403, description = "The participant is not a moderator, or the room is not public"),
    )
)]
pub(super) async fn set_password(
    State(api): State<Api>,
    UserOrGuest(caller): UserOrGuest,
    RoomPath(token): RoomPath,
    Params(request): Params<SetPassword>,
) -> OcsResult {
    check_password(&request.password)?;
    let view = api.service.set_password(&token, &caller, &request.password).await?;
    Ok(OcsResponse::ok(api.room(&view, &caller)))
}

/// Make a room public, so that users and guests can join by link
#[utoipa::path(
    post, path = "/{token}/public", tag = "rooms", operation_id = "allowGuests", params(RoomPath),
    responses(RoomShown, NotModerator, NoRoom, (
        status = 400, description = "The room is not a group room"
    ))
)]
pub(super) async fn allow_guests(
    State(api): State<Api>,
    UserOrGuest(caller): UserOrGuest,
    RoomPath(token): RoomPath,
) -> OcsResult {
    api.show_after(&token, &caller, &Command::SetPublic(true)).await
}

/// Make a room private; removes participants who joined by link
#[utoipa::path(
    delete, path = "/{token}/public", tag = "rooms", operation_id = "disallowGuests",
    params(RoomPath),
    responses(RoomShown, NotModerator, NoRoom, (status = 400, description = "The room is not public"))
)]
pub(super) async fn disallow_guests(
    State(api): State<Api>,
    UserOrGuest(caller): UserOrGuest,
    RoomPath(token): RoomPath,
) -> OcsResult {
    api.show_after(&token, &caller, &Command::SetPublic(false)).await
}
