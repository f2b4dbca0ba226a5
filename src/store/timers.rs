//! Timers of rooms: setting them, and firing what is due.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::changes::Author;
use super::connection::Transaction;
use super::dialect::{Columns, Dialect, values};
use super::error::Result;
use super::pool::SqlStore;
use super::rows::time_from_seconds;
use super::statements::rooms;
use super::tables::outbox::new_event;
use super::{Fired, LockPolicy, Timers};
use crate::domain::commands::lobby_changes;
use crate::domain::{
    Applied, Decision, DueTimer, IncomingChange, OutboxEvent, ROOM_UPDATED, Reset,
    decide_lobby_change,
};

#[async_trait]
impl<D: Dialect> Timers for SqlStore<D> {
    async fn apply(&self, changes: &[IncomingChange], now: DateTime<Utc>) -> Result<Vec<Applied>> {
        let mut transaction = self.begin().await?;
        let mut applied = Vec::new();
        for change in changes {
            applied.push(transaction.apply(change, now).await?);
        }
        transaction.commit().await?;
        Ok(applied)
    }

    async fn fire_due(
        &self,
        now: DateTime<Utc>,
        limit: u32,
        locked: LockPolicy,
        claimed_until: Option<DateTime<Utc>>,
    ) -> Result<Fired> {
        let mut transaction = self.begin().await?;
        let due = transaction.lock_due(now, limit, locked).await?;
        let fired = if due.is_empty() {
            Fired::default()
        } else {
            transaction.fire(&due, now, claimed_until).await?
        };
        transaction.commit().await?;
        Ok(fired)
    }

    async fn next_due(&self) -> Result<Option<DateTime<Utc>>> {
        let due_at = |row: &D::Row| time_from_seconds(row.int("due_at")?);
        Ok(self.fetch_all(rooms::NEXT_DUE, values![], due_at).await?.pop())
    }
}

impl<D: Dialect> Transaction<D> {
    async fn apply(&mut self, change: &IncomingChange, now: DateTime<Utc>) -> Result<Applied> {
        let Some(room) = self.lock_room(&change.token).await? else {
            return Ok(change.without_room());
        };
        match decide_lobby_change(&room, change, None) {
            Decision::Stale => Ok(Applied::Stale),
            Decision::LobbyNotSupported => Ok(Applied::LobbyNotSupported),
            Decision::Set(version) => {
                let changes = lobby_changes(&room, change.lobby, version, now);
                self.write(&room, &changes, &Author::system(), now).await?;
                self.announce(&changes, now).await?;
                Ok(Applied::Set { replaced: room.lobby.scheduled() })
            }
        }
    }

    /// Resets rooms that are locked, and stores an event for each that was closed.
    async fn fire(
        &mut self,
        due: &[DueTimer],
        now: DateTime<Utc>,
        claimed_until: Option<DateTime<Utc>>,
    ) -> Result<Fired> {
        let resets: Vec<(&DueTimer, Reset)> =
            due.iter().map(|timer| (timer, timer.reset(now))).collect();
        self.reset_rooms(&resets).await?;

        let attempt = u32::from(claimed_until.is_some());
        let event = |(timer, reset): &(&DueTimer, Reset)| {
            let announcement = reset.announcement.as_ref()?;
            let event = new_event(ROOM_UPDATED, &timer.token, announcement, now);
            Some(OutboxEvent { due_at: Some(timer.due_at), attempt, ..event })
        };
        let events: Vec<OutboxEvent> = resets.iter().filter_map(event).collect();
        if !events.is_empty() {
            let announced = resets.iter().filter(|(_timer, reset)| reset.announcement.is_some());
            self.insert_reset_messages(announced.map(|(timer, _reset)| timer.room), now).await?;
            self.insert_events(&events, claimed_until.unwrap_or(now)).await?;
        }
        Ok(Fired { cleared_timers: due.len() - events.len(), events })
    }
}
