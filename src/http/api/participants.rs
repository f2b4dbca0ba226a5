//! Participants: who takes part, as what, and who is there at the moment.

use axum::{extract::State, http::header};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{
    Api,
    auth::Requester,
    dto::{ParticipantDto, RoomDto},
    ocs::{Ocs, OcsError, OcsResponse, OcsResult},
    params::{Input, Token, flag, integer, text},
    rooms::check_password,
};
use crate::domain::{
    Attendee, AttendeeId, PermissionChange, Permissions,
    commands::{AttendeeCommand, Command, Resource},
};

/// The participants of a room
///
/// Guests without a session are left out: they were here.
#[utoipa::path(
    get, path = "/ocs/v2.php/apps/spreed/api/v4/room/{token}/participants", tag = "participants",
    operation_id = "listParticipants", params(("token" = String, Path, description = "The room")),
    responses(
        (status = 200, description = "The participants", body = inline(Ocs<Vec<ParticipantDto>>)),
        (status = 403, description = "Guests do not see the list"),
        (status = 404, description = "No such room for this participant"),
        (status = 412, description = "Wait in the lobby"),
    )
)]
pub(super) async fn list(
    State(api): State<Api>,
    requester: Requester,
    Token(token): Token,
) -> OcsResult {
    let caller = requester.participant()?;
    let all = api.service.participants(&token, &caller.actor, Resource::Participants).await?;
    let sees_pins = all.iter().any(|each| each.actor == caller.actor && each.sees_pins());
    let here = |each: &&Attendee| each.actor.is_user() || each.presence.is_some();
    let shapes: Vec<ParticipantDto> = all
        .iter()
        .filter(here)
        .map(|each| ParticipantDto::of(&token, each, sees_pins || each.actor == caller.actor))
        .collect();
    Ok(OcsResponse::ok(shapes))
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct AddParticipant {
    /// The user's id.
    #[serde(deserialize_with = "text")]
    #[schema(example = "bob")]
    new_participant: String,
    /// What it is the id of: `users`, nothing else.
    #[serde(default = "users", deserialize_with = "text")]
    #[schema(required = false, example = "users")]
    source: String,
}

fn users() -> String {
    "users".to_owned()
}

/// Add a user to a room
#[utoipa::path(
    post, path = "/ocs/v2.php/apps/spreed/api/v4/room/{token}/participants", tag = "participants",
    operation_id = "addParticipant", params(("token" = String, Path, description = "The room")),
    request_body = AddParticipant,
    responses(
        (status = 200, description = "The user takes part", body = inline(Ocs<Vec<String>>)),
        (status = 400, description = "Another source than users, or a room of two"),
        (status = 403, description = "Not a moderator"),
        (status = 404, description = "No such room for this participant, or no such user"),
    )
)]
pub(super) async fn add(
    State(api): State<Api>,
    requester: Requester,
    Token(token): Token,
    Input(wanted): Input<AddParticipant>,
) -> OcsResult {
    let caller = requester.participant()?;
    if wanted.source != "users" {
        return Err(OcsError::invalid("source", "only users can be added"));
    }
    api.service.add(&token, &caller, &wanted.new_participant).await?;
    Ok(OcsResponse::done())
}

#[derive(Deserialize, ToSchema)]
pub(super) struct Join {
    /// The room's password, for strangers.
    #[serde(default, deserialize_with = "text")]
    password: String,
    /// Whether to replace a session that is there.
    #[serde(default = "yes", deserialize_with = "flag")]
    #[schema(required = false, default = true)]
    force: bool,
}

fn yes() -> bool {
    true
}

/// Join a room: be there from now on
///
/// A participant has one session at a time. A stranger who joins a public room gets a cookie, by
/// which he is known as a guest.
#[utoipa::path(
    post, path = "/ocs/v2.php/apps/spreed/api/v4/room/{token}/participants/active",
    tag = "participants", operation_id = "joinRoom",
    params(("token" = String, Path, description = "The room")),
    request_body = Join,
    responses(
        (status = 200, description = "The room", body = inline(Ocs<RoomDto>)),
        (status = 403, description = "The password does not fit"),
        (status = 404, description = "No such room for this participant"),
        (status = 409, description = "There is a session, and force is false"),
    )
)]
pub(super) async fn join(
    State(api): State<Api>,
    requester: Requester,
    Token(token): Token,
    Input(wanted): Input<Join>,
) -> OcsResult {
    check_password(&wanted.password)?;
    let from = requester.address;
    let (caller, cookie) = requester.or_create_guest();
    let proven = api.service.prove(&token, &caller.actor, &wanted.password, from).await?;
    let session_id = Uuid::new_v4().simple().to_string();
    let command = Command::Join { session_id, force: wanted.force, verified: proven };
    api.command(&token, &caller, command).await?;
    let view = api.view(&token, &caller).await?;
    let reply = OcsResponse::ok(RoomDto::of(&view, api.rights(Some(&caller))));
    Ok(match cookie {
        Some(cookie) => reply.header(header::SET_COOKIE, cookie),
        None => reply,
    })
}

/// Leave a room: be there no more
///
/// Users who were added, moderators, and whoever was given permissions still take part.
#[utoipa::path(
    delete, path = "/ocs/v2.php/apps/spreed/api/v4/room/{token}/participants/active",
    tag = "participants", operation_id = "leaveRoom",
    params(("token" = String, Path, description = "The room")),
    responses(
        (status = 200, description = "Left", body = inline(Ocs<Vec<String>>)),
        (status = 404, description = "No such room for this participant"),
    )
)]
pub(super) async fn leave(
    State(api): State<Api>,
    requester: Requester,
    Token(token): Token,
) -> OcsResult {
    api.command(&token, &requester.participant()?, Command::Leave).await?;
    Ok(OcsResponse::done())
}

/// Take no part in a room any more
///
/// With the last one of two the room goes.
#[utoipa::path(
    delete, path = "/ocs/v2.php/apps/spreed/api/v4/room/{token}/participants/self",
    tag = "participants", operation_id = "removeSelf",
    params(("token" = String, Path, description = "The room")),
    responses(
        (status = 200, description = "Removed", body = inline(Ocs<Vec<String>>)),
        (status = 400, description = "The last moderator promotes somebody first"),
        (status = 404, description = "No such room for this participant"),
    )
)]
pub(super) async fn remove_self(
    State(api): State<Api>,
    requester: Requester,
    Token(token): Token,
) -> OcsResult {
    api.command(&token, &requester.participant()?, Command::RemoveSelf).await?;
    Ok(OcsResponse::done())
}

#[derive(Deserialize, ToSchema, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(super) struct Whom {
    /// Whom it is about.
    #[serde(deserialize_with = "integer")]
    #[schema(example = 2)]
    attendee_id: i64,
}

/// Remove somebody from a room
#[utoipa::path(
    delete, path = "/ocs/v2.php/apps/spreed/api/v4/room/{token}/attendees", tag = "participants",
    operation_id = "removeAttendee",
    params(("token" = String, Path, description = "The room"), Whom),
    responses(
        (status = 200, description = "Removed", body = inline(Ocs<Vec<String>>)),
        (status = 400, description = "A room of two, or oneself as the last moderator"),
        (status = 403, description = "Not a moderator, or the other one is an owner"),
        (status = 404, description = "No such room for this participant, or no such attendee"),
    )
)]
pub(super) async fn remove(
    State(api): State<Api>,
    requester: Requester,
    Token(token): Token,
    Input(whom): Input<Whom>,
) -> OcsResult {
    let command = Command::Attendee(AttendeeId(whom.attendee_id), AttendeeCommand::Remove);
    api.command(&token, &requester.participant()?, command).await?;
    Ok(OcsResponse::done())
}

/// Make a user or guest a moderator
#[utoipa::path(
    post, path = "/ocs/v2.php/apps/spreed/api/v4/room/{token}/moderators", tag = "participants",
    operation_id = "promote", params(("token" = String, Path, description = "The room")),
    request_body = Whom,
    responses(
        (status = 200, description = "Promoted", body = inline(Ocs<Vec<String>>)),
        (status = 400, description = "A moderator already"),
        (status = 403, description = "Not a moderator"),
        (status = 404, description = "No such room for this participant, or no such attendee"),
    )
)]
pub(super) async fn promote(
    State(api): State<Api>,
    requester: Requester,
    Token(token): Token,
    Input(whom): Input<Whom>,
) -> OcsResult {
    let command = Command::Attendee(AttendeeId(whom.attendee_id), AttendeeCommand::Promote);
    api.command(&token, &requester.participant()?, command).await?;
    Ok(OcsResponse::done())
}

/// Make a moderator a user or guest like others
#[utoipa::path(
    delete, path = "/ocs/v2.php/apps/spreed/api/v4/room/{token}/moderators", tag = "participants",
    operation_id = "demote",
    params(("token" = String, Path, description = "The room"), Whom),
    responses(
        (status = 200, description = "Demoted", body = inline(Ocs<Vec<String>>)),
        (status = 400, description = "No moderator, or an owner"),
        (status = 403, description = "Not a moderator, or oneself"),
        (status = 404, description = "No such room for this participant, or no such attendee"),
    )
)]
pub(super) async fn demote(
    State(api): State<Api>,
    requester: Requester,
    Token(token): Token,
    Input(whom): Input<Whom>,
) -> OcsResult {
    let command = Command::Attendee(AttendeeId(whom.attendee_id), AttendeeCommand::Demote);
    api.command(&token, &requester.participant()?, command).await?;
    Ok(OcsResponse::done())
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct SetPermissions {
    /// Whom it is about.
    #[serde(deserialize_with = "integer")]
    #[schema(example = 2)]
    attendee_id: i64,
    /// `set`, `add` or `remove`; Talk's own client calls it `method`.
    #[serde(default = "set", alias = "method", deserialize_with = "text")]
    #[schema(required = false, example = "add")]
    mode: String,
    /// The sum of 1 custom, 2 start call, 4 join call, 8 ignore lobby, 16 audio, 32 video, 64
    /// screen, 128 chat; 0 for the default.
    #[serde(deserialize_with = "integer")]
    #[schema(minimum = 0, maximum = 511, example = 8)]
    permissions: i64,
}

fn set() -> String {
    "set".to_owned()
}

/// Give a participant permissions of his own, for example to pass the lobby
#[utoipa::path(
    put, path = "/ocs/v2.php/apps/spreed/api/v4/room/{token}/attendees/permissions",
    tag = "participants", operation_id = "setPermissions",
    params(("token" = String, Path, description = "The room")),
    request_body = SetPermissions,
    responses(
        (status = 200, description = "Given", body = inline(Ocs<Vec<String>>)),
        (status = 400, description = "Mode or permissions mean nothing, or the attendee is a moderator"),
        (status = 403, description = "Not a moderator"),
        (status = 404, description = "No such room for this participant, or no such attendee"),
    )
)]
pub(super) async fn set_permissions(
    State(api): State<Api>,
    requester: Requester,
    Token(token): Token,
    Input(wanted): Input<SetPermissions>,
) -> OcsResult {
    let how = match wanted.mode.as_str() {
        "set" => PermissionChange::Set,
        "add" => PermissionChange::Add,
        "remove" => PermissionChange::Remove,
        _other => return Err(OcsError::invalid("mode", "mode is set, add or remove")),
    };
    let permissions = Permissions::parse(wanted.permissions)
        .ok_or_else(|| OcsError::invalid("value", "permissions are a number from 0 to 511"))?;
    let command = Command::Attendee(
        AttendeeId(wanted.attendee_id),
        AttendeeCommand::SetPermissions(how, permissions),
    );
    api.command(&token, &requester.participant()?, command).await?;
    Ok(OcsResponse::done())
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct NameSelf {
    /// The guest's name.
    #[serde(default, deserialize_with = "text")]
    #[schema(max_length = 64, example = "Carol")]
    display_name: String,
}

/// Name oneself, as a guest
#[utoipa::path(
    post, path = "/ocs/v2.php/apps/spreed/api/v1/guest/{token}/name", tag = "participants",
    operation_id = "nameGuest", params(("token" = String, Path, description = "The room")),
    request_body = NameSelf,
    responses(
        (status = 200, description = "Named", body = inline(Ocs<Vec<String>>)),
        (status = 400, description = "The name is too long"),
        (status = 403, description = "Not a guest"),
        (status = 404, description = "No such room for this participant"),
    )
)]
pub(super) async fn name_self(
    State(api): State<Api>,
    requester: Requester,
    Token(token): Token,
    Input(wanted): Input<NameSelf>,
) -> OcsResult {
    api.command(&token, &requester.participant()?, Command::NameSelf(wanted.display_name)).await?;
    Ok(OcsResponse::done())
}
