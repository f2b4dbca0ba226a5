//! Rows become values of the domain, and sets of values become the JSON of a statement.

use std::fmt::Display;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::dialect::Columns;
use super::error::{Result, StoreError};
use crate::domain::{
    Actor, ActorKind, Attendee, AttendeeId, Ban, Call, CallFlags, ClientId, Content, DueTimer,
    Lobby, LobbyState, Message, ParticipantType, PendingTimer, Permissions, Reason, Room, RoomId,
    RoomToken, RoomType, RoomVersion, Session, SipState, TalkTimer, TimerKey, Version,
};

pub(super) fn room(row: &impl Columns) -> Result<Room> {
    let started_at = row.int("call_started_at")?;
    let call = Call { started_at, flags: CallFlags::from_bits_retain(row.int("call_flags")?) };
    Ok(Room {
        password_hash: row.text("password_hash")?,
        default_permissions: Permissions::from_bits_retain(row.int("default_permissions")?),
        read_only: row.int("read_only")? != 0,
        call: (started_at != 0).then_some(call),
        comments: row.int("comments")?,
        changed_at: row.int("changed_at")?,
        ..room_without_state(row)?
    })
}

/// A room as if nothing were kept of it besides its own row.
pub(super) fn room_without_state(row: &impl Columns) -> Result<Room> {
    Ok(Room {
        id: RoomId(row.int("id")?),
        token: token(row)?,
        room_type: RoomType::from(row.int("room_type")?),
        name: row.text("name")?,
        description: row.text("description")?,
        object_type: row.text("object_type")?,
        object_id: row.text("object_id")?,
        lobby: lobby(row)?,
        version: version(row)?,
        timer_reached: row.int_or_null("timer_reached")?.map(time_from_seconds).transpose()?,
        sip: SipState::from(row.int("sip_enabled")?),
        password_hash: String::new(),
        default_permissions: Permissions::DEFAULT,
        read_only: false,
        call: None,
        comments: 0,
        changed_at: 0,
    })
}

pub(super) fn room_version(row: &impl Columns) -> Result<RoomVersion> {
    Ok(RoomVersion {
        token: token(row)?,
        version: version(row)?,
        lobby: lobby(row)?,
        room_type: RoomType::from(row.int("room_type")?),
        name: row.text("name")?,
        sip: SipState::from(row.int("sip_enabled")?),
    })
}

/// Also of a row whose token cannot be read.
pub(super) fn pending_timer(row: &impl Columns) -> Result<PendingTimer> {
    let token = token(row).unwrap_or_else(|_unreadable| RoomToken::stored(String::new()));
    Ok(PendingTimer { key: timer_key(row)?, token })
}

/// A timer of a Talk.
pub(super) fn talk_timer(row: &impl Columns) -> Result<TalkTimer> {
    Ok(TalkTimer {
        room: RoomId(row.int("id")?),
        token: token(row)?,
        room_type: RoomType::from(row.int("room_type")?),
        due_at: time_from_seconds(row.int("due_at")?)?,
    })
}

pub(super) fn due_timer(row: &impl Columns) -> Result<DueTimer> {
    Ok(DueTimer {
        key: timer_key(row)?,
        token: token(row)?,
        room_type: RoomType::from(row.int("room_type")?),
        version: version(row)?,
        sip: SipState::from(row.int("sip_enabled")?),
    })
}

fn timer_key(row: &impl Columns) -> Result<TimerKey> {
    Ok(TimerKey { due_at: time_from_seconds(row.int("due_at")?)?, room: RoomId(row.int("id")?) })
}

/// An attendee with one of their sessions, or with none.
pub(super) fn attendee(row: &impl Columns) -> Result<Attendee> {
    let number = row.int("participant_type")?;
    Ok(Attendee {
        id: AttendeeId(row.int("id")?),
        actor: actor(row)?,
        display_name: row.text("display_name")?,
        participant_type: ParticipantType::try_from(number)
            .map_err(|_unknown| corrupt(number, "participant type"))?,
        permissions: Permissions::from_bits_retain(row.int("permissions")?),
        pin: row.text_or_null("pin")?,
        last_read_message: row.int("last_read_message")?,
        comments_read: row.int("comments_read")?,
        read_at: row.int("read_at")?,
        last_mention: row.int("last_mention")?,
        sessions: session(row)?.into_iter().collect(),
    })
}

fn session(row: &impl Columns) -> Result<Option<Session>> {
    let Some(id) = row.text_or_null("session_id")? else { return Ok(None) };
    Ok(Some(Session {
        id,
        client: ClientId(row.text("client")?),
        in_call: CallFlags::from_bits_retain(row.int("in_call")?),
        last_ping: row.int("last_ping")?,
    }))
}

/// Joins the rows of each attendee, which are consecutive.
pub(super) fn join_sessions(rows: Vec<Attendee>) -> Vec<Attendee> {
    let mut attendees: Vec<Attendee> = Vec::with_capacity(rows.len());
    for row in rows {
        match attendees.last_mut() {
            Some(last) if last.id == row.id => last.sessions.extend(row.sessions),
            Some(_) | None => attendees.push(row),
        }
    }
    attendees
}

/// Kind of a comment that was deleted.
pub(super) const DELETED: &str = "comment_deleted";

pub(super) fn message(row: &impl Columns) -> Result<Message> {
    let kind = row.text("kind")?;
    let content = match kind.as_str() {
        "" => Content::Comment(row.text("message")?),
        DELETED => {
            let by = about(row)?.ok_or_else(|| corrupt(&kind, "message"))?;
            Content::Deleted { by }
        }
        kind => {
            let reason =
                Reason::from_name(kind).ok_or_else(|| corrupt(kind, "kind of a system message"))?;
            Content::System { reason, about: about(row)? }
        }
    };
    let mentions = row.text("mentions")?;
    Ok(Message {
        id: row.int("id")?,
        actor: actor(row)?,
        actor_name: row.text("actor_name")?,
        created_at: row.int("created_at")?,
        content,
        mentions: match mentions.as_str() {
            "" => Vec::new(),
            json => {
                serde_json::from_str(json).map_err(|error| corrupt(error, "list of mentions"))?
            }
        },
        reference_id: row.text("reference_id")?,
        parent_id: row.int_or_null("parent_id")?,
    })
}

/// The participant that a message is about, with the display name.
fn about(row: &impl Columns) -> Result<Option<(Actor, String)>> {
    Ok(match (row.text_or_null("about_type")?, row.text_or_null("about_id")?) {
        (Some(kind), Some(id)) => {
            let name = row.text_or_null("about_name")?.unwrap_or_default();
            Some((Actor { kind: actor_kind(&kind)?, id }, name))
        }
        (Some(_), None) | (None, _) => None,
    })
}

pub(super) fn ban(row: &impl Columns) -> Result<Ban> {
    Ok(Ban {
        id: row.int("id")?,
        actor: actor(row)?,
        display_name: row.text("display_name")?,
        moderator: (Actor::user(row.text("moderator_id")?), row.text("moderator_name")?),
        note: row.text("note")?,
        created_at: row.int("created_at")?,
    })
}

pub(super) fn token(row: &impl Columns) -> Result<RoomToken> {
    row.text("token").map(RoomToken::stored)
}

pub(super) fn actor(row: &impl Columns) -> Result<Actor> {
    Ok(Actor { kind: actor_kind(&row.text("actor_type")?)?, id: row.text("actor_id")? })
}

pub(super) fn time_from_seconds(seconds: i64) -> Result<DateTime<Utc>> {
    DateTime::from_timestamp(seconds, 0).ok_or_else(|| corrupt(seconds, "time"))
}

pub(super) fn time_from_millis(milliseconds: i64) -> Result<DateTime<Utc>> {
    DateTime::from_timestamp_millis(milliseconds).ok_or_else(|| corrupt(milliseconds, "time"))
}

pub(super) fn time_from_micros(microseconds: i64) -> Result<DateTime<Utc>> {
    DateTime::from_timestamp_micros(microseconds).ok_or_else(|| corrupt(microseconds, "time"))
}

/// JSON of an event, or of a set of values: one parameter that all three databases can read as a
/// table.
pub(super) fn to_json(values: &(impl Serialize + ?Sized)) -> String {
    serde_json::to_string(values).expect("plain values can be written as JSON")
}

/// Before the key of every timer: the first second of the year 1.
const START: i64 = -62_135_596_800;

/// The values of a key in the search for the timers after it.
pub(super) fn key_values(after: Option<TimerKey>) -> [i64; 3] {
    let (due_at, room) =
        after.map_or((START, 0), |TimerKey { due_at, room }| (due_at.timestamp(), room.number()));
    [due_at, due_at, room]
}

/// The value of timers that a search leaves out.
pub(super) fn exceptions(timers: &[TimerKey]) -> String {
    let pairs: Vec<_> = timers.iter().map(|timer| (timer.room, timer.due_at.timestamp())).collect();
    to_json(&pairs)
}

fn actor_kind(name: &str) -> Result<ActorKind> {
    ActorKind::from_name(name).ok_or_else(|| corrupt(name, "actor type"))
}

fn version(row: &impl Columns) -> Result<Version> {
    row.int("lobby_version").map(Version::stored)
}

fn lobby(row: &impl Columns) -> Result<Lobby> {
    let timer = row.int_or_null("lobby_timer")?;
    Ok(Lobby { state: lobby_state(row)?, timer: timer.map(time_from_seconds).transpose()? })
}

fn lobby_state(row: &impl Columns) -> Result<LobbyState> {
    let number = row.int("lobby_state")?;
    number.try_into().map_err(|_unknown| corrupt(number, "lobby state"))
}

fn corrupt(value: impl Display, expected: &str) -> StoreError {
    StoreError::Corrupt(format!("{value} is not a valid {expected}"))
}
