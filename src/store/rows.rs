//! How rows and the database's types become those of the domain, and back.
//!
//! The order of the columns is that of `Statements`.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{Result, StoreError};
use crate::domain::{
    EventId, Lobby, LobbyState, Outgoing, ROOM_UPDATED, Room, RoomId, RoomToken, RoomUpdated,
    Version,
};

/// A row of `Statements::room`: id, token, type, object type, state, timer, version, timer reached,
/// SIP.
pub(super) type RoomRow = (i64, String, i64, String, i64, Option<i64>, i64, Option<i64>, i64);

/// A row of `Statements::due`: id, token, type, state, timer, version, SIP.
pub(super) type DueRow = (i64, String, i64, i64, i64, i64, i64);

/// A row of `Statements::available`: id, type, token, data, created at, due at, attempts so far.
pub(super) type EventRow = (String, String, String, String, i64, Option<i64>, i64);

pub(super) fn room(row: RoomRow) -> Result<Room> {
    let (id, token, room_type, object_type, state, timer, version, timer_reached, sip_enabled) =
        row;
    Ok(Room {
        id: RoomId(id),
        token: RoomToken::stored(token),
        room_type,
        object_type,
        lobby: Lobby {
            state: lobby_state(state)?,
            timer: timer.map(instant_from_seconds).transpose()?,
        },
        version: Version::stored(version),
        timer_reached: timer_reached.map(instant_from_seconds).transpose()?,
        sip_enabled,
    })
}

pub(super) fn outgoing(row: EventRow) -> Result<Outgoing> {
    let (id, event_type, token, data, created_at, due_at, attempts) = row;
    Ok(Outgoing {
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
pub(super) struct Due {
    id: RoomId,
    token: RoomToken,
    room_type: i64,
    state: LobbyState,
    timer: DateTime<Utc>,
    version: Version,
    sip_enabled: i64,
}

impl Due {
    pub(super) fn new(row: DueRow) -> Result<Self> {
        let (id, token, room_type, state, timer, version, sip_enabled) = row;
        Ok(Self {
            id: RoomId(id),
            token: RoomToken::stored(token),
            room_type,
            state: lobby_state(state)?,
            timer: instant_from_seconds(timer)?,
            version: Version::stored(version),
            sip_enabled,
        })
    }

    /// The smallest newer version: a setting that was made before this reset, but arrives after
    /// it, is still newer, and wins. A room that is only tidied keeps its version.
    fn next_version(&self) -> Version {
        match self.state {
            LobbyState::None => self.version,
            LobbyState::NonModerators => self.version.next(),
        }
    }

    pub(super) fn reset(&self) -> Reset {
        Reset {
            id: self.id.0,
            timer: self.timer.timestamp(),
            version: self.next_version().milliseconds(),
        }
    }

    /// The event of the reset; a room that is only tidied has none.
    pub(super) fn event(&self, fired_at: DateTime<Utc>, attempt: u32) -> Option<Outgoing> {
        if self.state == LobbyState::None {
            return None;
        }
        let data = RoomUpdated::timer_reached(
            &self.token,
            self.room_type,
            self.sip_enabled,
            self.next_version(),
            self.timer,
            fired_at,
        );
        Some(Outgoing {
            id: EventId::new(),
            event_type: ROOM_UPDATED.to_owned(),
            token: self.token.clone(),
            data: json(&data),
            created_at: fired_at,
            due_at: Some(self.timer),
            attempt,
        })
    }
}

/// One element of the JSON of `Statements::reset`.
#[derive(Serialize)]
pub(super) struct Reset {
    id: i64,
    timer: i64,
    version: i64,
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
    pub(super) fn of(event: &'a Outgoing, available_at: i64) -> Self {
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
    LobbyState::from_number(number)
        .ok_or_else(|| StoreError::Corrupt(format!("{number} is no lobby state")))
}

pub(super) fn instant_from_seconds(seconds: i64) -> Result<DateTime<Utc>> {
    DateTime::from_timestamp(seconds, 0)
        .ok_or_else(|| StoreError::Corrupt(format!("{seconds} is no instant")))
}

pub(super) fn instant_from_millis(milliseconds: i64) -> Result<DateTime<Utc>> {
    DateTime::from_timestamp_millis(milliseconds)
        .ok_or_else(|| StoreError::Corrupt(format!("{milliseconds} is no instant")))
}

/// A set of values as the one parameter that all three databases can read as a table.
pub(super) fn json(values: &(impl Serialize + ?Sized)) -> String {
    serde_json::to_string(values).expect("plain values can be written as JSON")
}
