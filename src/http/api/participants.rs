//! Participants: joining and leaving a room, and who takes part in it in which role.
//!
//! Which participants a viewer sees, and what they may change, is decided by `domain`. Joining is
//! the only operation by which an anonymous visitor changes a room.

use axum::extract::State;
use axum_extra::extract::CookieJar;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;
use uuid::Uuid;

use super::auth::{Requester, UserOrGuest};
use super::dto::{ParticipantDto, RoomDto};
use super::ocs::{List, Ocs, OcsError, OcsResponse, OcsResult};
use super::openapi::{Done, InLobby, NoAttendee, NoRoom, NotModerator};
use super::params::{Params, RoomPath, flag, integer, optional_text, text};
use super::rooms::check_password;
use super::{Api, Routes};
use crate::domain::commands::{AttendeeCommand, Command, Resource};
use crate::domain::{
    Actor, Attendee, AttendeeId, PermissionChange, Permissions, Room, participants_for,
};

pub(super) fn routes() -> Routes {
    vec![
        routes!(list, add),
        routes!(join, leave),
        routes!(remove_self),
        routes!(remove),
        routes!(promote, demote),
        routes!(set_permissions),
    ]
}

/// What guests do elsewhere: in Talk it has a path of its own.
pub(super) fn guest_routes() -> Routes {
    vec![routes!(name_self)]
}

/// List the participants of a room
///
/// Guests are listed while they have a session.
#[utoipa::path(
    get, path = "/participants", tag = "participants", operation_id = "listParticipants",
    params(RoomPath),
    responses(NoRoom, InLobby,
        (status = 200, description = "The participants", body = inline(Ocs<Vec<ParticipantDto>>)),
        (status = 403, description = "Guests do not see the list"),
    )
)]
pub(super) async fn list(
    State(api): State<Api>,
    UserOrGuest(caller): UserOrGuest,
    RoomPath(token): RoomPath,
) -> OcsResult {
    let (room, all) = api.service.participants(&token, &caller, Resource::Participants).await?;
    Ok(OcsResponse::list(Participants { room, all, viewer: caller.actor }))
}

/// The participants of a room that a viewer sees.
struct Participants {
    room: Room,
    all: Vec<Attendee>,
    viewer: Actor,
}

impl List for Participants {
    fn elements(&self) -> impl Iterator<Item = impl Serialize> {
        let visible = participants_for(&self.room, &self.all, &self.viewer);
        visible.map(|participant| ParticipantDto::of(&self.room.token, participant))
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct AddParticipant {
    /// The user's id.
    #[serde(deserialize_with = "text")]
    #[schema(example = "bob")]
    new_participant: String,
    /// The type of the id; only `users` is supported.
    #[serde(default = "users", deserialize_with = "optional_text")]
    #[schema(required = false, example = "users")]
    source: String,
}

fn users() -> String {
    "users".to_owned()
}

/// Add a user to a room
#[utoipa::path(
    post, path = "/participants", tag = "participants", operation_id = "addParticipant",
    params(RoomPath), request_body = AddParticipant,
    responses(Done, NotModerator,
        (status = 400, description = "The source is not users, or the room is one-to-one"),
        (status = 404, description = "There is no such room for this participant, or no such user"),
    )
)]
pub(super) async fn add(
    State(api): State<Api>,
    UserOrGuest(caller): UserOrGuest,
    RoomPath(token): RoomPath,
    Params(request): Params<AddParticipant>,
) -> OcsResult {
    if request.source != "users" {
        return Err(OcsError::invalid("source", "only users can be added"));
    }
    api.service.add(&token, &caller, &request.new_participant).await?;
    Ok(OcsResponse::done())
}

#[derive(Deserialize, ToSchema)]
pub(super) struct Join {
    /// The room's password, for those who are not participants yet.
    #[serde(default, deserialize_with = "optional_text")]
    password: String,
    /// Whether to replace the client's session if it is in the call.
    #[serde(default = "yes", deserialize_with = "flag")]
    #[schema(required = false, default = true)]
    force: bool,
}

fn yes() -> bool {
    true
}

/// Join a room, which starts a session
///
/// Each client of a participant has a session of its own: clients are recognised by a cookie. An
/// anonymous visitor who joins a public room becomes a guest.
#[utoipa::path(
    post, path = "/participants/active", tag = "participants", operation_id = "joinRoom",
    security(("basic" = []), ("guest" = []), ()), params(RoomPath), request_body = Join,
    responses(NoRoom,
        (
            status = 200, description = "The room", body = inline(Ocs<RoomDto>),
            headers(("Set-Cookie" = String, description = "Of a client that had no cookie"))
        ),
        (status = 403, description = "Wrong password, or the participant is banned"),
        (status = 409, description = "The client is in the call, and force is false"),
    )
)]
pub(super) async fn join(
    State(api): State<Api>,
    requester: Requester,
    RoomPath(token): RoomPath,
    Params(request): Params<Join>,
) -> Result<(CookieJar, OcsResponse), OcsError> {
    check_password(&request.password)?;
    let from = requester.address;
    let (caller, cookies) = requester.with_cookie(&token, &api.clients);
    let verified = api.service.admit(&token, &caller, &request.password, from).await?;
    let session_id = Uuid::new_v4().simple().to_string();
    let command = Command::Join { session_id, force: request.force, verified };
    let view = api.service.view_after(&token, &caller, &command).await?;
    Ok((cookies, OcsResponse::ok(api.room(&view, &caller))))
}

/// Leave a room, which ends the client's session
///
/// A client without cookies ends the newest session.
/// Users who were added, moderators, and participants with custom permissions remain participants.
#[utoipa::path(
    delete,
    path = "/participants/active",
    tag = "participants",
    operation_id = "leaveRoom",
    params(RoomPath),
    responses(Done, NoRoom)
)]
pub(super) async fn leave(
    State(api): State<Api>,
    UserOrGuest(caller): UserOrGuest,
    RoomPath(token): RoomPath,
) -> OcsResult {
    api.execute(&token, &caller, Command::Leave).await
}

/// Leave a room for good
///
/// When the only user leaves a room, it is deleted.
#[utoipa::path(
    delete, path = "/participants/self", tag = "participants", operation_id = "removeSelf",
    params(RoomPath),
    responses(Done, NoRoom, (
        status = 400, description = "The last moderator has to promote another participant first"
    ))
)]
pub(super) async fn remove_self(
    State(api): State<Api>,
    UserOrGuest(caller): UserOrGuest,
    RoomPath(token): RoomPath,
) -> OcsResult {
    api.execute(&token, &caller, Command::RemoveSelf).await
}

/// Names the attendee that a command is about.
#[derive(Deserialize, ToSchema, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(super) struct AttendeeParams {
    #[serde(deserialize_with = "integer")]
    #[schema(example = 2)]
    attendee_id: i64,
}

impl AttendeeParams {
    fn command(&self, command: AttendeeCommand) -> Command {
        Command::Attendee(AttendeeId(self.attendee_id), command)
    }
}

/// Remove a participant from a room
#[utoipa::path(
    delete, path = "/attendees", tag = "participants", operation_id = "removeAttendee",
    params(RoomPath, AttendeeParams),
    responses(Done, NoAttendee,
        (status = 400, description = "The room is one-to-one, or the attendee is its last moderator"),
        (status = 403, description = "The participant is not a moderator, or the attendee is an owner"),
    )
)]
pub(super) async fn remove(
    State(api): State<Api>,
    UserOrGuest(caller): UserOrGuest,
    RoomPath(token): RoomPath,
    Params(params): Params<AttendeeParams>,
) -> OcsResult {
    api.execute(&token, &caller, params.command(AttendeeCommand::Remove)).await
}

/// Make a user or guest a moderator
#[utoipa::path(
    post, path = "/moderators", tag = "participants", operation_id = "promote",
    params(RoomPath), request_body = AttendeeParams,
    responses(Done, NotModerator, NoAttendee, (
        status = 400, description = "The attendee is a moderator already"
    ))
)]
pub(super) async fn promote(
    State(api): State<Api>,
    UserOrGuest(caller): UserOrGuest,
    RoomPath(token): RoomPath,
    Params(params): Params<AttendeeParams>,
) -> OcsResult {
    api.execute(&token, &caller, params.command(AttendeeCommand::Promote)).await
}

/// Make a moderator an ordinary user or guest
#[utoipa::path(
    delete, path = "/moderators", tag = "participants", operation_id = "demote",
    params(RoomPath, AttendeeParams),
    responses(Done, NoAttendee,
        (status = 400, description = "The attendee is not a moderator, or is an owner"),
        (status = 403, description = "The participant is not a moderator, or is the attendee"),
    )
)]
pub(super) async fn demote(
    State(api): State<Api>,
    UserOrGuest(caller): UserOrGuest,
    RoomPath(token): RoomPath,
    Params(params): Params<AttendeeParams>,
) -> OcsResult {
    api.execute(&token, &caller, params.command(AttendeeCommand::Demote)).await
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct SetPermissions {
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

/// Set custom permissions of a participant, for example to ignore the lobby
#[utoipa::path(
    put, path = "/attendees/permissions", tag = "participants", operation_id = "setPermissions",
    params(RoomPath), request_body = SetPermissions,
    responses(Done, NotModerator, NoAttendee, (
        status = 400, description = "Mode or permissions are invalid, or the attendee is a moderator"
    ))
)]
pub(super) async fn set_permissions(
    State(api): State<Api>,
    UserOrGuest(caller): UserOrGuest,
    RoomPath(token): RoomPath,
    Params(request): Params<SetPermissions>,
) -> OcsResult {
    let change = match request.mode.as_str() {
        "set" => PermissionChange::Set,
        "add" => PermissionChange::Add,
        "remove" => PermissionChange::Remove,
        _other => return Err(OcsError::invalid("mode", "mode is set, add or remove")),
    };
    let permissions = Permissions::parse(request.permissions)
        .ok_or_else(|| OcsError::invalid("value", "permissions are a number from 0 to 511"))?;
    let command = AttendeeCommand::SetPermissions(change, permissions);
    let attendee = AttendeeId(request.attendee_id);
    api.execute(&token, &caller, Command::Attendee(attendee, command)).await
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct NameSelf {
    /// May be empty.
    #[serde(deserialize_with = "text")]
    #[schema(max_length = 64, example = "Carol")]
    display_name: String,
}

/// Set the guest's display name
#[utoipa::path(
    post, path = "/name", tag = "participants", operation_id = "nameGuest",
    params(RoomPath), request_body = NameSelf,
    responses(Done, NoRoom,
        (status = 400, description = "The name is too long"),
        (status = 403, description = "The participant is not a guest"),
    )
)]
pub(super) async fn name_self(
    State(api): State<Api>,
    UserOrGuest(caller): UserOrGuest,
    RoomPath(token): RoomPath,
    Params(request): Params<NameSelf>,
) -> OcsResult {
    api.execute(&token, &caller, Command::NameSelf(request.display_name)).await
}
