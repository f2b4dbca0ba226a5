//! Rooms: what clients poll, and what moderators make of them.

use std::time::Duration;

use axum::{
    extract::State,
    http::{HeaderName, StatusCode},
};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::{
    Api, TALK_HASH,
    auth::{AuthenticatedUser, Requester},
    dto::RoomDto,
    etag::Conditional,
    ocs::{Ocs, OcsError, OcsResponse, OcsResult},
    params::{Input, Token, integer, optional_integer, text},
};
use crate::{
    auth::MAX_PASSWORD_BYTES,
    domain::{
        LobbyRequest, RoomType,
        commands::{Command, CreateRoom},
    },
    rooms::View,
};

/// From before the look at the database; the next list may be asked for since then.
const MODIFIED_BEFORE: HeaderName = HeaderName::from_static("x-nextcloud-talk-modified-before");

/// A change is dated before its commit, and heard after it. So lists overlap by what lies between:
/// what is told twice does no harm, what is never told does.
const OVERLAP: Duration = Duration::from_secs(5);

#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(super) struct ListRooms {
    /// Unix seconds: only rooms that changed since then.
    #[serde(default, deserialize_with = "optional_integer")]
    #[param(required = false, value_type = i64)]
    modified_since: Option<i64>,
}

/// The rooms in which the user takes part
///
/// `ETag` and `If-None-Match` save the answer that is known already; with `Prefer: wait=N` the
/// request is then held until a room changes, for at most N (60) seconds.
#[utoipa::path(
    get, path = "/ocs/v2.php/apps/spreed/api/v4/room", tag = "rooms", operation_id = "listRooms",
    params(
        ListRooms,
        ("If-None-Match" = Option<String>, Header, description = "Tags of the states that are known"),
        ("Prefer" = Option<String>, Header, description = "wait=N", example = "wait=1"),
    ),
    responses(
        (status = 200, description = "The rooms", body = inline(Ocs<Vec<RoomDto>>), headers(
            ("ETag" = String, description = "Stands for what the rooms look like"),
            ("Preference-Applied" = String, description = "How long the request may be held"),
            ("X-Nextcloud-Talk-Hash" = String, description = "Stands for the capabilities"),
            ("X-Nextcloud-Talk-Modified-Before" = String, description = "The next modifiedSince"),
        )),
        (status = 304, description = "They look as before", headers(
            ("ETag" = String, description = "The tag that is known"),
        )),
    )
)]
pub(super) async fn list(
    State(api): State<Api>,
    AuthenticatedUser(caller): AuthenticatedUser,
    conditional: Conditional,
    Input(wanted): Input<ListRooms>,
) -> OcsResult {
    let since = wanted.modified_since.unwrap_or_default();
    let before = api.service.now() - OVERLAP;
    let rights = api.rights(Some(&caller));
    let tag = |views: &[View]| conditional.tag(views, rights);
    let views = api
        .service
        .list_when(&caller.actor.id, conditional.deadline(), |views| {
            !conditional.knows(&tag(&modified(views, since)))
        })
        .await?;
    let views = modified(&views, since);
    let reply = conditional.answer(&tag(&views), || {
        OcsResponse::ok(views.iter().map(|view| RoomDto::of(view, rights)).collect::<Vec<_>>())
    });
    Ok(reply.header(TALK_HASH, &api.talk_hash).header(MODIFIED_BEFORE, before.timestamp()))
}

/// Those that changed at `since` or later: in the chat, or without a word there.
fn modified(views: &[View], since: i64) -> Vec<View> {
    let changed = |view: &&View| {
        let summary = view.summary();
        let said = summary.last_message.as_ref().map_or(0, |message| message.created_at);
        said.max(summary.room.changed_at) >= since
    };
    views.iter().filter(changed).cloned().collect()
}

/// A room
///
/// Participants see it, and of a public room anybody sees as much as he needs to join. `ETag` and
/// `If-None-Match` save the answer that is known already; with `Prefer: wait=N` the request is then
/// held until the room changes, for at most N (60) seconds.
#[utoipa::path(
    get, path = "/ocs/v2.php/apps/spreed/api/v4/room/{token}", tag = "rooms",
    operation_id = "getRoom",
    params(
        ("token" = String, Path, description = "The room"),
        ("If-None-Match" = Option<String>, Header, description = "Tags of the states that are known"),
        ("Prefer" = Option<String>, Header, description = "wait=N", example = "wait=1"),
    ),
    responses(
        (status = 200, description = "The room", body = inline(Ocs<RoomDto>), headers(
            ("ETag" = String, description = "Stands for what the room looks like"),
            ("Preference-Applied" = String, description = "How long the request may be held"),
            ("X-Nextcloud-Talk-Hash" = String, description = "Stands for the capabilities"),
        )),
        (status = 304, description = "It looks as before", headers(
            ("ETag" = String, description = "The tag that is known"),
        )),
        (status = 404, description = "No such room for this participant"),
    )
)]
pub(super) async fn show(
    State(api): State<Api>,
    requester: Requester,
    conditional: Conditional,
    Token(token): Token,
) -> OcsResult {
    let rights = api.rights(requester.caller.as_ref());
    let tag = |view: &View| conditional.tag(std::slice::from_ref(view), rights);
    let differs = |view: &View| !conditional.knows(&tag(view));
    let deadline = conditional.deadline();
    let view = api.service.view_when(&token, requester.actor(), deadline, differs).await?;
    let reply = conditional.answer(&tag(&view), || {
        OcsResponse::ok(RoomDto::of(&view, api.rights(requester.caller.as_ref())))
    });
    Ok(reply.header(TALK_HASH, &api.talk_hash))
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreateRoomRequest {
    /// 1 one-to-one, 2 group, 3 public.
    #[serde(deserialize_with = "integer")]
    #[schema(minimum = 1, maximum = 3, example = 2)]
    room_type: i64,
    /// The other user of a one-to-one room.
    #[serde(default, deserialize_with = "text")]
    invite: String,
    /// Name of a group or public room.
    #[serde(default, deserialize_with = "text")]
    #[schema(max_length = 255, example = "Quarterly webinar")]
    room_name: String,
    /// What it belongs to: nothing, `event`, `extended_conversation` or `instant_meeting`.
    #[serde(default, deserialize_with = "text")]
    object_type: String,
    /// Which one of these.
    #[serde(default, deserialize_with = "text")]
    #[schema(max_length = 64)]
    object_id: String,
    /// What it is about.
    #[serde(default, deserialize_with = "text")]
    #[schema(max_length = 2000)]
    description: String,
    /// For strangers, of a public room.
    #[serde(default, deserialize_with = "text")]
    password: String,
    /// 0 none, 1 others than moderators wait.
    #[serde(default, deserialize_with = "optional_integer")]
    #[schema(required = false, value_type = i64, minimum = 0, maximum = 1)]
    lobby_state: Option<i64>,
    /// Unix seconds of the reset to no lobby.
    #[serde(default, deserialize_with = "optional_integer")]
    #[schema(required = false, value_type = i64, minimum = 0)]
    lobby_timer: Option<i64>,
}

/// Make a room
///
/// There is one room of each two users: if it is there already, it is the answer, with status 200.
#[utoipa::path(
    post, path = "/ocs/v2.php/apps/spreed/api/v4/room", tag = "rooms", operation_id = "createRoom",
    request_body = CreateRoomRequest,
    responses(
        (status = 200, description = "The room of two that is there", body = inline(Ocs<RoomDto>)),
        (status = 201, description = "The new room", body = inline(Ocs<RoomDto>)),
        (status = 400, description = "Type, name, object, password or lobby cannot be used"),
        (status = 404, description = "No such user to invite"),
    )
)]
pub(super) async fn create(
    State(api): State<Api>,
    AuthenticatedUser(caller): AuthenticatedUser,
    Input(wanted): Input<CreateRoomRequest>,
) -> OcsResult {
    let (token, made) = if RoomType::from_number(wanted.room_type) == RoomType::OneToOne {
        api.service.one_to_one(&caller, &wanted.invite).await?
    } else {
        if !wanted.invite.is_empty() {
            return Err(OcsError::invalid("invite", "add participants after the room is made"));
        }
        let password = Some(wanted.password.as_str()).filter(|password| !password.is_empty());
        check_password(&wanted.password)?;
        let wish = CreateRoom {
            room_type: wanted.room_type.into(),
            has_password: password.is_some(),
            lobby: LobbyRequest {
                state: wanted.lobby_state.unwrap_or_default(),
                timer: wanted.lobby_timer,
            },
            name: wanted.room_name,
            description: wanted.description,
            object_type: wanted.object_type,
            object_id: wanted.object_id,
        };
        (api.service.create(&caller, &wish, password).await?, true)
    };
    let view = api.view(&token, &caller).await?;
    let status = if made { StatusCode::CREATED } else { StatusCode::OK };
    Ok(OcsResponse::with(status, RoomDto::of(&view, api.rights(Some(&caller)))))
}

/// Refuses what is hardly meant as a password.
pub(super) fn check_password(password: &str) -> Result<(), OcsError> {
    if password.len() > MAX_PASSWORD_BYTES {
        return Err(OcsError::invalid("password", "a password has at most 4096 bytes"));
    }
    Ok(())
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Rename {
    /// The new name.
    #[serde(deserialize_with = "text")]
    #[schema(min_length = 1, max_length = 255, example = "Quarterly webinar")]
    room_name: String,
}

/// Give a room another name
#[utoipa::path(
    put, path = "/ocs/v2.php/apps/spreed/api/v4/room/{token}", tag = "rooms",
    operation_id = "renameRoom", params(("token" = String, Path, description = "The room")),
    request_body = Rename,
    responses(
        (status = 200, description = "Renamed", body = inline(Ocs<Vec<String>>)),
        (status = 400, description = "The name is empty or too long, or this is a room of two"),
        (status = 403, description = "Not a moderator"),
        (status = 404, description = "No such room for this participant"),
    )
)]
pub(super) async fn rename(
    State(api): State<Api>,
    requester: Requester,
    Token(token): Token,
    Input(wanted): Input<Rename>,
) -> OcsResult {
    api.command(&token, &requester.participant()?, Command::Rename(wanted.room_name)).await?;
    Ok(OcsResponse::done())
}

/// Delete a room, with all that was said in it
#[utoipa::path(
    delete, path = "/ocs/v2.php/apps/spreed/api/v4/room/{token}", tag = "rooms",
    operation_id = "deleteRoom", params(("token" = String, Path, description = "The room")),
    responses(
        (status = 200, description = "Deleted", body = inline(Ocs<Vec<String>>)),
        (status = 400, description = "A room of two cannot be deleted, only left"),
        (status = 403, description = "Not a moderator"),
        (status = 404, description = "No such room for this participant"),
    )
)]
pub(super) async fn delete(
    State(api): State<Api>,
    requester: Requester,
    Token(token): Token,
) -> OcsResult {
    api.command(&token, &requester.participant()?, Command::Delete).await?;
    Ok(OcsResponse::done())
}

#[derive(Deserialize, ToSchema)]
pub(super) struct Describe {
    /// What it is about; empty to say nothing.
    #[serde(default, deserialize_with = "text")]
    #[schema(max_length = 2000, example = "Figures and questions")]
    description: String,
}

/// Say what a room is about
#[utoipa::path(
    put, path = "/ocs/v2.php/apps/spreed/api/v4/room/{token}/description", tag = "rooms",
    operation_id = "describeRoom", params(("token" = String, Path, description = "The room")),
    request_body = Describe,
    responses(
        (status = 200, description = "Described", body = inline(Ocs<Vec<String>>)),
        (status = 400, description = "The text is too long, or this is a room of two"),
        (status = 403, description = "Not a moderator"),
        (status = 404, description = "No such room for this participant"),
    )
)]
pub(super) async fn describe(
    State(api): State<Api>,
    requester: Requester,
    Token(token): Token,
    Input(wanted): Input<Describe>,
) -> OcsResult {
    api.command(&token, &requester.participant()?, Command::Describe(wanted.description)).await?;
    Ok(OcsResponse::done())
}

#[derive(Deserialize, ToSchema)]
pub(super) struct SetPassword {
    /// The new password; empty to ask for none.
    #[serde(default, deserialize_with = "text")]
    #[schema(max_length = 4096, example = "correct horse")]
    password: String,
}

/// Ask strangers for a password, or for none
#[utoipa::path(
    put, path = "/ocs/v2.php/apps/spreed/api/v4/room/{token}/password", tag = "rooms",
    operation_id = "setPassword", params(("token" = String, Path, description = "The room")),
    request_body = SetPassword,
    responses(
        (status = 200, description = "Set", body = inline(Ocs<Vec<String>>)),
        (status = 400, description = "The password is too long"),
        (status = 403, description = "Not a moderator, or not a public room"),
        (status = 404, description = "No such room for this participant"),
    )
)]
pub(super) async fn set_password(
    State(api): State<Api>,
    requester: Requester,
    Token(token): Token,
    Input(wanted): Input<SetPassword>,
) -> OcsResult {
    check_password(&wanted.password)?;
    api.service.set_password(&token, &requester.participant()?, &wanted.password).await?;
    Ok(OcsResponse::done())
}

/// Let anybody in who has the link
#[utoipa::path(
    post, path = "/ocs/v2.php/apps/spreed/api/v4/room/{token}/public", tag = "rooms",
    operation_id = "allowGuests", params(("token" = String, Path, description = "The room")),
    responses(
        (status = 200, description = "It is public now", body = inline(Ocs<Vec<String>>)),
        (status = 400, description = "Not a group room"),
        (status = 403, description = "Not a moderator"),
        (status = 404, description = "No such room for this participant"),
    )
)]
pub(super) async fn allow_guests(
    State(api): State<Api>,
    requester: Requester,
    Token(token): Token,
) -> OcsResult {
    api.command(&token, &requester.participant()?, Command::SetPublic(true)).await?;
    Ok(OcsResponse::done())
}

/// Let only those in who were added; who came by the link has to go
#[utoipa::path(
    delete, path = "/ocs/v2.php/apps/spreed/api/v4/room/{token}/public", tag = "rooms",
    operation_id = "disallowGuests", params(("token" = String, Path, description = "The room")),
    responses(
        (status = 200, description = "It is a group room now", body = inline(Ocs<Vec<String>>)),
        (status = 400, description = "Not a public room"),
        (status = 403, description = "Not a moderator"),
        (status = 404, description = "No such room for this participant"),
    )
)]
pub(super) async fn disallow_guests(
    State(api): State<Api>,
    requester: Requester,
    Token(token): Token,
) -> OcsResult {
    api.command(&token, &requester.participant()?, Command::SetPublic(false)).await?;
    Ok(OcsResponse::done())
}
