//! Events that wait for their publication, and published ones as history.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;

use crate::domain::{EventId, OutboxEvent, RoomToken};
use crate::store::Available;
use crate::store::connection::{Transaction, expect_rows};
use crate::store::dialect::{Dialect, values};
use crate::store::error::Result;
use crate::store::rows;
use crate::store::rows::to_json;
use crate::store::statements::outbox as statements;

const TABLE: &str = "lobbyd_outbox";

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
        created_at: now,
        due_at: None,
        attempt: 0,
    }
}

impl<D: Dialect> Transaction<D> {
    /// Stores events that may be claimed from `available_at` on.
    pub(crate) async fn insert_events(
        &mut self,
        events: &[OutboxEvent],
        available_at: DateTime<Utc>,
    ) -> Result<()> {
        let row = |event: &OutboxEvent| {
            json!({
                "id": event.id,
                "type": event.event_type,
                "token": event.token,
                "data": event.data,
                "created_at": event.created_at.timestamp_millis(),
                "due_at": event.due_at.map(|due_at| due_at.timestamp()),
                "available_at": available_at.timestamp_millis(),
                "attempts": event.attempt,
            })
        };
        let rows: Vec<_> = events.iter().map(row).collect();
        let inserted = self.execute(statements::INSERT, values![&to_json(&rows)]).await?;
        expect_rows(inserted, rows.len(), TABLE)
    }

    /// Locks unpublished events that nothing has claimed.
    pub(crate) async fn lock_available(
        &mut self,
        available: Available<'_>,
        limit: u32,
    ) -> Result<Vec<OutboxEvent>> {
        let Available { after, now, except } = available;
        let after = after.unwrap_or(DateTime::UNIX_EPOCH).timestamp_millis();
        let except = to_json(except);
        let values = values![after, now.timestamp_millis(), &except, limit];
        self.fetch_all(statements::AVAILABLE, values, rows::outbox_event).await
    }

    pub(crate) async fn claim_events(
        &mut self,
        events: &[OutboxEvent],
        until: DateTime<Utc>,
    ) -> Result<()> {
        let ids: Vec<&EventId> = events.iter().map(|event| &event.id).collect();
        let json = to_json(&ids);
        let values = values![&json, until.timestamp_millis()];
        let claimed = self.execute(statements::CLAIM, values).await?;
        expect_rows(claimed, ids.len(), TABLE)
    }
}
