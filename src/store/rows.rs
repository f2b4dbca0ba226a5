//! How rows and the database's types become those of the domain, and back.
//!
//! The order of the columns is that of `Statements`.

use std::fmt::Display;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::FromRow;

use super::{Result, StoreError};
use crate::domain::{
    Actor, ActorKind, Attendee, AttendeeId, Call, CallFlags, Content, DueTimer, EventId, Lobby,
    LobbyState, Message, OutboxEvent, ParticipantType, Permissions, Presence, ROOM_UPDATED, Reason,
    Room, RoomId, RoomToken, RoomUpdated, RoomVersion, Version,
};

/// A row of `Statements::room`.
#[derive(FromRow)]
pub(super) struct RoomRow {
    id: i64,
    token: String,
    room_type: i64,
    name: String,
    description: String,
    object_type: String,
    object_id: String,
    lobby_state: i64,
    lobby_timer: Option<i64>,
    lobby_version: i64,
    timer_reached: Option<i64>,
    sip_enabled: i64,
    password_hash: String,
    call_started_at: i64,
    call_flags: i64,
    comments: i64,
    changed_at: i64,
}

/// A row of `Statements::room_versions`.
#[derive(FromRow)]
pub(super) struct MarkRow {
    token: String,
    lobby_version: i64,
    lobby_state: i64,
    lobby_timer: Option<i64>,
    room_type: i64,
    name: String,
    sip_enabled: i64,
}

/// A row of `Shared::attendee` and its like.
#[derive(FromRow)]
pub(super) struct AttendeeRow {
    id: i64,
    actor_type: String,
    actor_id: String,
    display_name: String,
    participant_type: i64,
    permissions: i64,
    pin: Option<String>,
    last_read_message: i64,
    comments_read: i64,
    session_id: Option<String>,
    in_call: i64,
    last_ping: i64,
}

/// A row of `Shared::message` and its like.
#[derive(FromRow)]
pub(super) struct MessageRow {
    id: i64,
    actor_type: String,
    actor_id: String,
    actor_name: String,
    created_at: i64,
    kind: String,
    message: String,
    about_type: Option<String>,
    about_id: Option<String>,
    about_name: Option<String>,
    reference_id: String,
    parent_id: Option<i64>,
}

/// A row of `Statements::due`: id, token, type, state, timer, version, SIP.
pub(super) type DueRow = (i64, String, i64, i64, i64, i64, i64);

/// A row of `Statements::available`: id, type, token, data, created at, due at, attempts so far.
pub(super) type EventRow = (String, String, String, String, i64, Option<i64>, i64);

pub(super) fn room(row: RoomRow) -> Result<Room> {
    Ok(Room {
        id: RoomId(row.id),
        token: RoomToken::stored(row.token),
        room_type: row.room_type.into(),
        name: row.name,
        description: row.description,
        object_type: row.object_type,
        object_id: row.object_id,
        lobby: lobby(row.lobby_state, row.lobby_timer)?,
        version: Version::stored(row.lobby_version),
        timer_reached: row.timer_reached.map(instant_from_seconds).transpose()?,
        sip: row.sip_enabled.into(),
        password_hash: row.password_hash,
        call: (row.call_started_at != 0).then_some(Call {
            started_at: row.call_started_at,
            flags: CallFlags::from_bits_retain(row.call_flags),
        }),
        comments: row.comments,
        changed_at: row.changed_at,
    })
}

pub(super) fn mark(row: MarkRow) -> Result<RoomVersion> {
    Ok(RoomVersion {
        token: RoomToken::stored(row.token),
        version: Version::stored(row.lobby_version),
        lobby: lobby(row.lobby_state, row.lobby_timer)?,
        room_type: row.room_type.into(),
        name: row.name,
        sip: row.sip_enabled.into(),
    })
}

pub(super) fn attendee(row: AttendeeRow) -> Result<Attendee> {
    let participant_type = ParticipantType::from_number(row.participant_type)
        .ok_or_else(|| corrupt(row.participant_type, "participant type"))?;
    Ok(Attendee {
        id: AttendeeId(row.id),
        actor: actor(&row.actor_type, row.actor_id)?,
        display_name: row.display_name,
        participant_type,
        permissions: Permissions::from_bits_retain(row.permissions),
        pin: row.pin,
        last_read_message: row.last_read_message,
        comments_read: row.comments_read,
        presence: row.session_id.map(|session_id| Presence {
            session_id,
            in_call: CallFlags::from_bits_retain(row.in_call),
            last_ping: row.last_ping,
        }),
    })
}

pub(super) fn message(row: MessageRow) -> Result<Message> {
    let content = if row.kind.is_empty() {
        Content::Comment(row.message)
    } else {
        let reason = Reason::from_name(&row.kind)
            .ok_or_else(|| corrupt(&row.kind, "kind of a system message"))?;
        let about = match (row.about_type, row.about_id) {
            (Some(kind), Some(id)) => Some((actor(&kind, id)?, row.about_name.unwrap_or_default())),
            _ => None,
        };
        Content::System { reason, about }
    };
    Ok(Message {
        id: row.id,
        actor: actor(&row.actor_type, row.actor_id)?,
        actor_name: row.actor_name,
        created_at: row.created_at,
        content,
        reference_id: row.reference_id,
        parent_id: row.parent_id,
    })
}

pub(super) fn actor(kind: &str, id: String) -> Result<Actor> {
    let kind = ActorKind::from_name(kind).ok_or_else(|| corrupt(kind, "actor type"))?;
    Ok(Actor { kind, id })
}

pub(super) fn outgoing(row: EventRow) -> Result<OutboxEvent> {
    let (id, event_type, token, data, created_at, due_at, attempts) = row;
    Ok(OutboxEvent {
        id: EventId::stored(id),
        event_type,
        token: RoomToken::stored(token),
        data,
        created_at: instant_from_millis(created_at)?,
        due_at: due_at.map(instant_from_seconds).transpose()?,
        attempt: u32::try_from(attempts).unwrap_or(u32::MAX).saturating_add(1),
    })
}

/// A room whose timer is due, locked.
pub(super) fn due_timer(row: DueRow) -> Result<DueTimer> {
    let (id, token, room_type, state, timer, version, sip) = row;
    Ok(DueTimer {
        room: RoomId(id),
        token: RoomToken::stored(token),
        room_type: room_type.into(),
        lobby_state: lobby_state(state)?,
        due_at: instant_from_seconds(timer)?,
        version: Version::stored(version),
        sip: sip.into(),
    })
}

/// The event that announces a reset.
pub(super) fn reset_event(
    timer: &DueTimer,
    announcement: &RoomUpdated,
    fired_at: DateTime<Utc>,
    attempt: u32,
) -> OutboxEvent {
    OutboxEvent {
        id: new_event_id(),
        event_type: ROOM_UPDATED.to_owned(),
        token: timer.token.clone(),
        data: json(announcement),
        created_at: fired_at,
        due_at: Some(timer.due_at),
        attempt,
    }
}

/// Ids grow with time, so that rows of the same time are neighbours in the index.
pub(super) fn new_event_id() -> EventId {
    uuid::Uuid::now_v7().into()
}

/// One element of the JSON of `Statements::insert_reset_messages`.
#[derive(Serialize)]
pub(super) struct ResetMessage {
    pub(super) room_id: i64,
    pub(super) created_at: i64,
}

/// One element of the JSON of `Statements::reset`.
#[derive(Serialize)]
pub(super) struct ResetRow {
    pub(super) id: i64,
    pub(super) timer: i64,
    pub(super) version: i64,
}

/// One element of the JSON of `Statements::insert_outbox`.
#[derive(Serialize)]
pub(super) struct OutboxRow<'a> {
    id: &'a EventId,
    r#type: &'a str,
    token: &'a str,
    data: &'a str,
    created_at: i64,
    due_at: Option<i64>,
    available_at: i64,
    attempts: u32,
}

impl<'a> OutboxRow<'a> {
    pub(super) fn of(event: &'a OutboxEvent, available_at: i64) -> Self {
        Self {
            id: &event.id,
            r#type: &event.event_type,
            token: event.token.as_str(),
            data: &event.data,
            created_at: event.created_at.timestamp_millis(),
            due_at: event.due_at.map(|due_at| due_at.timestamp()),
            available_at,
            attempts: event.attempt,
        }
    }
}

fn lobby_state(number: i64) -> Result<LobbyState> {
    LobbyState::from_number(number).ok_or_else(|| corrupt(number, "lobby state"))
}

fn lobby(state: i64, timer: Option<i64>) -> Result<Lobby> {
    Ok(Lobby { state: lobby_state(state)?, timer: timer.map(instant_from_seconds).transpose()? })
}

fn corrupt(value: impl Display, expected: &str) -> StoreError {
    StoreError::Corrupt(format!("{value} is no {expected}"))
}

pub(super) fn instant_from_seconds(seconds: i64) -> Result<DateTime<Utc>> {
    DateTime::from_timestamp(seconds, 0).ok_or_else(|| corrupt(seconds, "instant"))
}

pub(super) fn instant_from_millis(milliseconds: i64) -> Result<DateTime<Utc>> {
    DateTime::from_timestamp_millis(milliseconds).ok_or_else(|| corrupt(milliseconds, "instant"))
}

/// A set of values as the one parameter that all three databases can read as a table.
pub(super) fn json(values: &(impl Serialize + ?Sized)) -> String {
    serde_json::to_string(values).expect("plain values can be written as JSON")
}
