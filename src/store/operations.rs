//! What administrators see of rooms, timers and history, and whether a room could be reset.
//!
//! The command line uses it, and the page of the ops listener. It changes nothing, and every answer is
//! bounded: beside a worker it must not delay a timer.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::connection::Transaction;
use super::dialect::{Columns, Dialect, values};
use super::error::{Result, StoreError};
use super::pool::SqlStore;
use super::rows::{self, to_json};
use super::statements::operations as statements;
use super::timers::of_these_rows;
use super::{DueBatch, LockPolicy, Patience};
use crate::domain::{EventId, OutboxEvent, Reason, Room, RoomToken, RoomUpdated, TimerKey};

/// So many of the newest rooms are compared with a token that does not exist.
const COMPARED_ROOMS: u32 = 1000;

/// So many rows are searched for the last opening of a room: one may be about other rooms only.
const SEARCHED_ROWS: u32 = 20;

/// A room in a list. What is kept of it besides its own row is not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedRoom {
    pub room: Room,
    pub participants: u64,
}

/// Which resets of the history are wanted.
#[derive(Debug, Clone, Copy)]
pub struct HistoryFilter<'a> {
    /// Only those that fired at this time or later.
    pub since: DateTime<Utc>,
    /// Only those of this room.
    pub room: Option<&'a RoomToken>,
}

/// A reset of a room by its timer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastReset {
    pub event: EventId,
    pub token: RoomToken,
    pub due_at: DateTime<Utc>,
    pub fired_at: DateTime<Utc>,
    pub published_at: Option<DateTime<Utc>>,
    /// How often its publication was tried.
    pub attempts: u32,
    /// Whether the timer was set before it was due.
    pub lag_counts: bool,
}

/// What was last announced of a room that is open: its timer was reached, or somebody opened it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    pub event: EventId,
    pub by_timer: bool,
    pub opened_at: DateTime<Utc>,
    pub published_at: Option<DateTime<Utc>>,
    /// How often its publication was tried.
    pub attempts: u32,
}

/// What would happen if a timer that is due fired now.
#[derive(Debug)]
pub enum ResetTrial {
    Possible,
    /// Another transaction has locked the room.
    Locked,
    /// The database refuses the reset.
    Refused(StoreError),
}

#[async_trait]
pub trait Operations: Send + Sync + 'static {
    /// Those of these rooms that exist.
    async fn rooms_by_token(&self, tokens: &[RoomToken]) -> Result<Vec<ListedRoom>>;

    /// The rooms that were created last.
    async fn newest_rooms(&self, limit: u32) -> Result<Vec<ListedRoom>>;

    /// The rooms whose timer can fire, in the order in which they are due.
    async fn scheduled_rooms(&self, limit: u32) -> Result<Vec<ListedRoom>>;

    /// Counts the timers that are due and have not fired, up to `limit`.
    async fn count_due(&self, now: DateTime<Utc>, limit: u32) -> Result<u64>;

    /// Tokens among which one may be that was meant by `token`, which does not exist.
    async fn nearby_tokens(&self, token: &RoomToken) -> Result<Vec<RoomToken>>;

    /// The last resets, the newest first.
    async fn past_resets(&self, filter: HistoryFilter<'_>, limit: u32) -> Result<Vec<PastReset>>;

    /// How the room was last opened, as far as the history goes back.
    async fn last_opening(&self, room: &RoomToken) -> Result<Option<Opening>>;

    /// Resets the room of a timer that is due, in a transaction that is rolled back.
    async fn try_reset(&self, timer: TimerKey, now: DateTime<Utc>) -> Result<ResetTrial>;
}

#[async_trait]
impl<D: Dialect> Operations for SqlStore<D> {
    async fn rooms_by_token(&self, tokens: &[RoomToken]) -> Result<Vec<ListedRoom>> {
        self.fetch_all(statements::ROOMS_BY_TOKEN, values![&to_json(tokens)], listed_room).await
    }

    async fn newest_rooms(&self, limit: u32) -> Result<Vec<ListedRoom>> {
        self.fetch_all(statements::NEWEST_ROOMS, values![limit], listed_room).await
    }

    async fn scheduled_rooms(&self, limit: u32) -> Result<Vec<ListedRoom>> {
        self.fetch_all(statements::TIMERS, values![limit], listed_room).await
    }

    async fn count_due(&self, now: DateTime<Utc>, limit: u32) -> Result<u64> {
        let values = values![now.timestamp(), limit];
        let due = self.fetch_one(statements::COUNT_DUE, values, |row| row.int("number")).await?;
        Ok(due.unsigned_abs())
    }

    async fn nearby_tokens(&self, token: &RoomToken) -> Result<Vec<RoomToken>> {
        let values = values![COMPARED_ROOMS, token, token];
        self.fetch_all(statements::NEARBY_TOKENS, values, rows::token).await
    }

    async fn past_resets(&self, filter: HistoryFilter<'_>, limit: u32) -> Result<Vec<PastReset>> {
        let part = filter.room.map(of_room).unwrap_or_default();
        let values = values![filter.since.timestamp_millis(), &part, limit];
        let row = |row: &D::Row| Ok((EventId::stored(row.text("id")?), row.int("events")?));
        let mut connection = self.acquire().await?;
        let found = connection.fetch_all(statements::RESETS, values, row).await?;
        // Rows may have thousands of events, so only as many are read as are wanted.
        let (mut ids, mut events) = (Vec::new(), 0);
        for (id, number) in found {
            if events >= i64::from(limit) {
                break;
            }
            events += if filter.room.is_some() { 1 } else { number };
            ids.push(id);
        }
        let mut rows = connection.past_events(&ids).await?;
        connection.release();
        rows.sort_by(|(one, _), (other, _)| other.id.cmp(&one.id));
        let mut resets = Vec::new();
        for (row, published_at) in rows {
            let attempts = row.attempt.saturating_sub(1);
            let events = row.events.into_iter().rev();
            resets.extend(events.filter_map(|event| past_reset(event, published_at, attempts)));
        }
        resets.retain(|reset| filter.room.is_none_or(|token| reset.token == *token));
        resets.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(resets)
    }

    async fn last_opening(&self, room: &RoomToken) -> Result<Option<Opening>> {
        let part = of_room(room);
        let values = values![&part, SEARCHED_ROWS];
        let id = |row: &D::Row| Ok(EventId::stored(row.text("id")?));
        let mut connection = self.acquire().await?;
        let ids = connection.fetch_all(statements::OPENINGS, values, id).await?;
        let rows = connection.past_events(&ids).await?;
        connection.release();
        let openings = rows.into_iter().flat_map(|(row, published_at)| {
            let attempts = row.attempt.saturating_sub(1);
            let events = row.events.into_iter().filter(|event| event.token == *room);
            events.filter_map(move |event| opening(event, published_at, attempts))
        });
        Ok(openings.max_by_key(|(version, _)| *version).map(|(_, opening)| opening))
    }

    async fn try_reset(&self, timer: TimerKey, now: DateTime<Utc>) -> Result<ResetTrial> {
        // On SQLite it waits for the lock, perhaps for as long as a use of the database may take.
        let is_lock =
            |error: &StoreError| error.is_contention() || D::SINGLE_WRITER && error.is_timeout();
        let mut transaction = match self.begin().await {
            Err(error) if is_lock(&error) => return Ok(ResetTrial::Locked),
            begun => begun?,
        };
        match transaction.try_reset(timer, now).await {
            Ok(trial) => transaction.roll_back().await.map(|()| trial),
            Err(error) => {
                transaction.undo(&error).await;
                if error.is_contention() {
                    Ok(ResetTrial::Locked)
                } else if error.is_refusal() || error.is_timeout() {
                    Ok(ResetTrial::Refused(error))
                } else {
                    Err(error)
                }
            }
        }
    }
}

impl<D: Dialect> Transaction<D> {
    async fn try_reset(&mut self, timer: TimerKey, now: DateTime<Utc>) -> Result<ResetTrial> {
        let batch = DueBatch {
            after: Some(timer.previous()),
            except: &[],
            limit: 1,
            locked: LockPolicy::SkipLocked,
            patience: Patience::Full,
        };
        match self.lock_due(now, batch).await?.pop() {
            Some((locked, due)) if locked.key == timer => {
                let fired = self.fire(vec![due], batch.patience, now, None).await;
                fired.map_err(of_these_rows::<D>).map(|_rows| ResetTrial::Possible)
            }
            // A locked room was skipped.
            Some(_) | None => Ok(ResetTrial::Locked),
        }
    }
}

fn listed_room(row: &impl Columns) -> Result<ListedRoom> {
    let participants = row.int("participants")?.unsigned_abs();
    Ok(ListedRoom { room: rows::room_without_state(row)?, participants })
}

/// The part of an event's data that names its room.
fn of_room(token: &RoomToken) -> String {
    format!("\"token\":{}", to_json(token))
}

/// The opening that an event announces, if it does, and the room's version after it.
fn opening(
    event: OutboxEvent,
    published_at: Option<DateTime<Utc>>,
    attempts: u32,
) -> Option<(i64, Opening)> {
    let update: RoomUpdated = serde_json::from_str(&event.data).ok()?;
    let by_timer = update.reason == Reason::LobbyTimerReached;
    if !by_timer && update.reason != Reason::LobbyNone {
        return None;
    }
    let opened_at = update.fired_at.unwrap_or(event.created_at);
    let opening = Opening { event: event.id, by_timer, opened_at, published_at, attempts };
    Some((update.version, opening))
}

/// The reset that an event announces, if it does.
fn past_reset(
    event: OutboxEvent,
    published_at: Option<DateTime<Utc>>,
    attempts: u32,
) -> Option<PastReset> {
    let update: RoomUpdated = serde_json::from_str(&event.data).ok()?;
    if update.reason != Reason::LobbyTimerReached {
        return None;
    }
    Some(PastReset {
        event: event.id,
        token: event.token,
        due_at: update.due_at?,
        fired_at: update.fired_at.unwrap_or(event.created_at),
        published_at,
        attempts,
        lag_counts: event.due_at.is_some(),
    })
}
