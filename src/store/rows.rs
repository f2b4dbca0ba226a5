//! How rows and the database's types become those of the domain, and back.
//!
//! The order of the columns is that of `Statements`.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{ColumnIndex, Decode, Row, Type};

use super::{Result, StoreError, dialect::Dialect};
use crate::domain::{
    EventId, Lobby, LobbyState, Outgoing, ROOM_UPDATED, Room, RoomId, RoomToken, RoomUpdated,
    Version,
};

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
    /// Reads a row of `Statements::due`.
    pub(super) fn of<D>(row: &D::Row) -> Result<Self>
    where
        D: Dialect,
        for<'v> i64: Decode<'v, D> + Type<D>,
        for<'v> String: Decode<'v, D> + Type<D>,
        usize: ColumnIndex<D::Row>,
    {
        let read = || -> sqlx::Result<_> {
            Ok((
                row.try_get(0)?,
                row.try_get(1)?,
                row.try_get(2)?,
                row.try_get::<i64, _>(3)?,
                row.try_get(4)?,
                row.try_get(5)?,
                row.try_get(6)?,
            ))
        };
        let (id, token, room_type, state, timer, version, sip_enabled) =
            read().map_err(|error| StoreError::unreadable(&error))?;
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
    /// it, is still newer, and wins (P4). A room that is only tidied keeps its version.
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
    pub(super) fn event(&self, fired_at: DateTime<Utc>, attempt: u32) -> Result<Option<Outgoing>> {
        if self.state == LobbyState::None {
            return Ok(None);
        }
        let data = RoomUpdated::timer_reached(
            &self.token,
            self.room_type,
            self.sip_enabled,
            self.next_version(),
            self.timer,
            fired_at,
        );
        Ok(Some(Outgoing {
            id: EventId::new(),
            event_type: ROOM_UPDATED.to_owned(),
            token: self.token.clone(),
            data: json(&data)?,
            created_at: fired_at,
            due_at: Some(self.timer),
            attempt,
        }))
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

/// Reads a row of `Statements::room`: id, token, type, object type, state, timer, version, timer
/// reached, SIP.
pub(super) fn room_of<D>(row: &D::Row) -> Result<Room>
where
    D: Dialect,
    for<'v> i64: Decode<'v, D> + Type<D>,
    for<'v> String: Decode<'v, D> + Type<D>,
    usize: ColumnIndex<D::Row>,
{
    let read = || -> sqlx::Result<_> {
        Ok((
            row.try_get(0)?,
            row.try_get(1)?,
            row.try_get(2)?,
            row.try_get(3)?,
            row.try_get::<i64, _>(4)?,
            row.try_get::<Option<i64>, _>(5)?,
            row.try_get(6)?,
            row.try_get::<Option<i64>, _>(7)?,
            row.try_get(8)?,
        ))
    };
    let (id, token, room_type, object_type, state, timer, version, timer_reached, sip_enabled) =
        read().map_err(|error| StoreError::unreadable(&error))?;
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

/// Reads a row of `Statements::available`: id, type, token, data, created at, due at, attempts so
/// far.
pub(super) fn outgoing_of<D>(row: &D::Row) -> Result<Outgoing>
where
    D: Dialect,
    for<'v> i64: Decode<'v, D> + Type<D>,
    for<'v> String: Decode<'v, D> + Type<D>,
    usize: ColumnIndex<D::Row>,
{
    let read = || -> sqlx::Result<_> {
        Ok((
            row.try_get(0)?,
            row.try_get(1)?,
            row.try_get(2)?,
            row.try_get(3)?,
            row.try_get(4)?,
            row.try_get::<Option<i64>, _>(5)?,
            row.try_get::<i64, _>(6)?,
        ))
    };
    let (id, event_type, token, data, created_at, due_at, attempts) =
        read().map_err(|error| StoreError::unreadable(&error))?;
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
pub(super) fn json(values: &(impl Serialize + ?Sized)) -> Result<String> {
    serde_json::to_string(values)
        .map_err(|error| StoreError::Corrupt(format!("cannot be written as JSON: {error}")))
}
