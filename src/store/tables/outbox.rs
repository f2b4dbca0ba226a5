//! Events that wait for their publication, and published ones as history.

use std::borrow::Cow;
use std::fmt::Display;

use chrono::{DateTime, SubsecRound, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use crate::domain::{EventId, OutboxEvent, OutboxRow, RoomToken};
use crate::store::Available;
use crate::store::connection::{Connection, Transaction, expect_rows};
use crate::store::dialect::{Columns, Dialect, values};
use crate::store::error::{Result, StoreError};
use crate::store::rows;
use crate::store::rows::{time_from_millis, time_from_seconds, to_json};
use crate::store::statements::operations::HISTORY_ROWS;
use crate::store::statements::outbox as statements;

const TABLE: &str = "lobbyd_outbox";

/// So many events get a row each, where an administrator finds them by id or token. More than that
/// share a row, because writing the rows would take longer than opening their rooms.
const MAX_ROWS: usize = 64;

/// How far the publication of events is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Progress {
    /// How often they were claimed.
    pub(crate) attempts: u32,
    /// When they can be claimed.
    pub(crate) available_at: DateTime<Utc>,
    pub(crate) published_at: Option<DateTime<Utc>>,
}

impl Progress {
    /// That of new events, which may be claimed from `available_at` on.
    pub(crate) fn available_at(available_at: DateTime<Utc>) -> Self {
        Self { attempts: 0, available_at, published_at: None }
    }

    /// That of new events, which may be claimed from `now` on, or are claimed already.
    pub(crate) fn of_new(now: DateTime<Utc>, claimed_until: Option<DateTime<Utc>>) -> Self {
        match claimed_until {
            Some(until) => Self { attempts: 1, ..Self::available_at(until) },
            None => Self::available_at(now),
        }
    }
}

/// One of several events in a row.
#[derive(Serialize, Deserialize)]
struct Shared<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    token: Cow<'a, str>,
    #[serde(borrow)]
    data: &'a RawValue,
    /// Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    due_at: Option<i64>,
}

/// An event about a change that was made at `now`.
pub(crate) fn new_event(
    event_type: &str,
    token: &RoomToken,
    data: &impl Serialize,
    now: DateTime<Utc>,
) -> OutboxEvent {
    OutboxEvent {
        // Ids grow with time, so that rows of the same time are neighbours in the index.
        id: uuid::Uuid::now_v7().into(),
        event_type: event_type.to_owned(),
        token: token.clone(),
        data: to_json(data),
        // As it is stored, so that each publication says the same.
        created_at: now.trunc_subsecs(3),
        due_at: None,
    }
}

/// Events of one type that were made at the same time, as they will be stored.
pub(crate) struct NewEvents {
    events: Vec<OutboxEvent>,
    progress: Progress,
    /// The data of the row that they share, if they do.
    shared: Option<String>,
}

impl NewEvents {
    pub(crate) fn encode(events: Vec<OutboxEvent>, progress: Progress) -> Result<Self> {
        let shared = (events.len() > MAX_ROWS).then(|| to_array(&events)).transpose()?;
        Ok(Self { events, progress, shared })
    }

    pub(crate) fn events(&self) -> &[OutboxEvent] {
        &self.events
    }
}

impl<D: Dialect> Connection<D> {
    /// Reads rows with their events, and when they were published.
    pub(crate) async fn past_events(
        &mut self,
        ids: &[EventId],
    ) -> Result<Vec<(OutboxRow, Option<DateTime<Utc>>)>> {
        let row = |row: &D::Row| {
            let published_at =
                row.int_or_null("published_at")?.map(time_from_millis).transpose()?;
            let (events, _available_at) = outbox_row(row)?;
            Ok((events, published_at))
        };
        self.fetch_all(HISTORY_ROWS, values![&to_json(ids)], row).await
    }
}

impl<D: Dialect> Transaction<D> {
    /// Stores events of one type that were made at the same time. Returns their rows.
    pub(crate) async fn insert_events(
        &mut self,
        events: Vec<OutboxEvent>,
        progress: Progress,
    ) -> Result<Vec<OutboxRow>> {
        self.insert_encoded(NewEvents::encode(events, progress)?).await
    }

    /// Stores events. Returns their rows.
    pub(crate) async fn insert_encoded(&mut self, new: NewEvents) -> Result<Vec<OutboxRow>> {
        let NewEvents { events, progress, shared } = new;
        let rows = if let Some(data) = shared {
            self.insert_together(&events, &data, progress).await?;
            vec![events]
        } else {
            self.insert_each(&events, progress).await?;
            events.into_iter().map(|event| vec![event]).collect()
        };
        let attempt = progress.attempts;
        let row = |events: Vec<OutboxEvent>| {
            let id = events.first()?.id.clone();
            Some(OutboxRow { id, events, attempt })
        };
        Ok(rows.into_iter().filter_map(row).collect())
    }

    /// Stores events with a row each.
    pub(crate) async fn insert_each(
        &mut self,
        events: &[OutboxEvent],
        progress: Progress,
    ) -> Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        let row = |event: &OutboxEvent| {
            json!({
                "id": event.id,
                "type": event.event_type,
                "token": event.token,
                "data": event.data,
                "created_at": event.created_at.timestamp_millis(),
                "due_at": event.due_at.map(|due_at| due_at.timestamp()),
                "available_at": progress.available_at.timestamp_millis(),
                "attempts": progress.attempts,
                "published_at": progress.published_at.map(|time| time.timestamp_millis()),
            })
        };
        let rows: Vec<_> = events.iter().map(row).collect();
        let inserted = self.execute(statements::INSERT, values![&to_json(&rows)]).await?;
        expect_rows(inserted, rows.len(), TABLE)
    }

    async fn insert_together(
        &mut self,
        events: &[OutboxEvent],
        data: &str,
        progress: Progress,
    ) -> Result<()> {
        let Some(first) = events.first() else { return Ok(()) };
        let values = values![
            first.id.as_str(),
            &first.event_type,
            &first.token,
            data,
            i64::try_from(events.len()).unwrap_or(i64::MAX),
            first.created_at.timestamp_millis(),
            progress.available_at.timestamp_millis(),
            progress.attempts,
            progress.published_at.map(|time| time.timestamp_millis()),
        ];
        expect_rows(self.execute(statements::INSERT_TOGETHER, values).await?, 1, TABLE)
    }

    /// Locks unpublished rows that nothing has claimed, those first that became available first:
    /// with `limit` events in all, or a single row that has more. Returns their ids, and whether
    /// there may be more of them.
    pub(crate) async fn lock_available(
        &mut self,
        available: Available<'_>,
        limit: u32,
    ) -> Result<(Vec<EventId>, bool)> {
        let Available { after, now, except } = available;
        let after = after.unwrap_or(DateTime::UNIX_EPOCH).timestamp_millis();
        let except = to_json(except);
        let values = values![after, now.timestamp_millis(), &except, limit];
        let row = |row: &D::Row| Ok((EventId::stored(row.text("id")?), row.int("events")?));
        let locked = self.fetch_all(statements::AVAILABLE, values, row).await?;
        let (mut ids, mut events, limit) = (Vec::new(), 0, i64::from(limit));
        let (number, mut is_cut) = (locked.len(), false);
        for (id, size) in locked {
            is_cut = !ids.is_empty() && events + size > limit;
            if is_cut {
                break;
            }
            events += size;
            ids.push(id);
        }
        let is_full = i64::try_from(number).is_ok_and(|number| number >= limit);
        Ok((ids, is_cut || is_full))
    }

    /// Reads rows with their events, and until when each is claimed.
    pub(crate) async fn outbox_rows(
        &mut self,
        ids: &[EventId],
    ) -> Result<Vec<(OutboxRow, DateTime<Utc>)>> {
        self.fetch_all(statements::ROWS, values![&to_json(ids)], outbox_row).await
    }

    /// Claims rows, and returns them in the order in which they became available.
    pub(crate) async fn claim_rows(
        &mut self,
        ids: &[EventId],
        until: DateTime<Utc>,
    ) -> Result<Vec<OutboxRow>> {
        let mut rows = self.outbox_rows(ids).await?;
        rows.sort_by(|(one, first), (other, second)| (first, &one.id).cmp(&(second, &other.id)));
        let json = to_json(ids);
        let values = values![&json, until.timestamp_millis()];
        let claimed = self.execute(statements::CLAIM, values).await?;
        expect_rows(claimed, ids.len(), TABLE)?;
        Ok(rows.into_iter().map(|(row, _available_at)| row).collect())
    }

    /// Deletes an unpublished row whose claim ends at this time. Returns whether there was one.
    pub(crate) async fn delete_claimed(
        &mut self,
        id: &EventId,
        claimed_until: DateTime<Utc>,
    ) -> Result<bool> {
        let values = values![id.as_str(), claimed_until.timestamp_millis()];
        Ok(self.execute(statements::DELETE_CLAIMED, values).await? > 0)
    }
}

/// Serialises events that share a row.
fn to_array(events: &[OutboxEvent]) -> Result<String> {
    let shared = |event| shared(event).map_err(|error| corrupt(&error));
    Ok(to_json(&events.iter().map(shared).collect::<Result<Vec<_>>>()?))
}

fn shared(event: &OutboxEvent) -> serde_json::Result<Shared<'_>> {
    Ok(Shared {
        id: event.id.as_str().into(),
        token: event.token.as_str().into(),
        data: serde_json::from_str(&event.data)?,
        due_at: event.due_at.map(|due_at| due_at.timestamp()),
    })
}

fn outbox_row(row: &impl Columns) -> Result<(OutboxRow, DateTime<Utc>)> {
    let id = EventId::stored(row.text("id")?);
    let event = OutboxEvent {
        id: id.clone(),
        event_type: row.text("event_type")?,
        token: rows::token(row)?,
        data: row.text("data")?,
        created_at: time_from_millis(row.int("created_at")?)?,
        due_at: row.int_or_null("due_at")?.map(time_from_seconds).transpose()?,
    };
    let events = if row.int("events")? == 1 { vec![event] } else { from_array(&event)? };
    let attempt = u32::try_from(row.int("attempts")?).unwrap_or(u32::MAX).saturating_add(1);
    let claimed_until = time_from_millis(row.int("available_at")?)?;
    Ok((OutboxRow { id, events, attempt }, claimed_until))
}

/// The events of a row. What they have in common is taken from `row`.
fn from_array(row: &OutboxEvent) -> Result<Vec<OutboxEvent>> {
    let shared: Vec<Shared<'_>> =
        serde_json::from_str(&row.data).map_err(|error| corrupt(&error))?;
    if shared.is_empty() {
        return Err(corrupt(&"there is none"));
    }
    let event = |shared: Shared<'_>| {
        Ok(OutboxEvent {
            id: EventId::stored(shared.id.into_owned()),
            event_type: row.event_type.clone(),
            token: RoomToken::stored(shared.token.into_owned()),
            data: shared.data.get().to_owned(),
            created_at: row.created_at,
            due_at: shared.due_at.map(time_from_seconds).transpose()?,
        })
    };
    shared.into_iter().map(event).collect()
}

fn corrupt(error: &impl Display) -> StoreError {
    StoreError::Corrupt(format!("events of an outbox row: {error}"))
}
