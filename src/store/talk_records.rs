//! What lobbyd keeps about the rooms of a Nextcloud Talk: timers, recorded before the rooms open, so
//! that each opening is announced exactly once, also after a crash; and the versions of lobbies that
//! events have set, because Talk has none.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::json;

use super::connection::{Connection, Transaction};
use super::dialect::{Columns, Dialect, values};
use super::error::Result;
use super::pool::SqlStore;
use super::rows::to_json;
use super::statements::talk as statements;
use super::tables::outbox::{Progress, new_event};
use super::{Admin, rows};
use crate::domain::{
    IncomingChange, OutboxEvent, ROOM_UPDATED, RoomToken, RoomUpdated, TalkTimer, Version,
};

/// What lobbyd keeps about the rooms of a Nextcloud Talk.
#[async_trait]
pub trait TalkRecords: Send + Sync + 'static {
    /// Records timers that are about to be due.
    async fn record_talk_timers(&self, timers: &[TalkTimer]) -> Result<()>;

    /// The timers that are recorded, those first that are due first, at most `limit`.
    async fn recorded_talk_timers(&self, limit: u32) -> Result<Vec<TalkTimer>>;

    /// Ends a recorded timer, and stores the event that announces its room, if that is open. Returns
    /// false if the timer is not recorded, because it has ended before: then nothing is stored.
    async fn end_talk_timer(&self, timer: &TalkTimer, update: Option<&RoomUpdated>)
    -> Result<bool>;

    /// The version that a change of a lobby gets in Talk; `None` if it is stale or a repetition.
    async fn talk_lobby_version(&self, change: &IncomingChange) -> Result<Option<Version>>;

    /// Records that Talk has the lobby of this change, and stores the event that announces it.
    async fn talk_lobby_set(&self, change: &IncomingChange, update: &RoomUpdated) -> Result<()>;
}

#[async_trait]
impl<D: Dialect> TalkRecords for SqlStore<D> {
    async fn record_talk_timers(&self, timers: &[TalkTimer]) -> Result<()> {
        let row = |timer: &TalkTimer| {
            json!({
                "room": timer.room,
                "token": timer.token,
                "type": timer.room_type.number(),
                "due_at": timer.due_at.timestamp(),
            })
        };
        let rows: Vec<_> = timers.iter().map(row).collect();
        self.execute(statements::RECORD, values![&to_json(&rows)]).await.map(drop)
    }

    async fn recorded_talk_timers(&self, limit: u32) -> Result<Vec<TalkTimer>> {
        self.fetch_all(statements::RECORDED, values![limit], rows::talk_timer).await
    }

    async fn end_talk_timer(
        &self,
        timer: &TalkTimer,
        update: Option<&RoomUpdated>,
    ) -> Result<bool> {
        let now = Admin::now(self).await?;
        let mut transaction = self.begin().await?;
        match transaction.end_talk_timer(timer, update, now).await {
            Ok(true) => transaction.commit().await.map(|()| true),
            Ok(false) => transaction.roll_back().await.map(|()| false),
            Err(error) => {
                transaction.undo(&error).await;
                Err(error)
            }
        }
    }

    async fn talk_lobby_version(&self, change: &IncomingChange) -> Result<Option<Version>> {
        let mut connection = self.acquire().await?;
        let version = connection.talk_lobby_version(&change.token).await?;
        let keys = change.identity.iter().map(|identity| identity.key.as_str()).collect();
        let applied_at = connection.applied_at(&keys).await?.into_values().next();
        connection.release();
        let is_new = !change.is_repeated(applied_at);
        Ok(change.order.after(version).filter(|_version| is_new))
    }

    async fn talk_lobby_set(&self, change: &IncomingChange, update: &RoomUpdated) -> Result<()> {
        let now = Admin::now(self).await?;
        let event = new_event(ROOM_UPDATED, &change.token, update, now);
        let mut transaction = self.begin().await?;
        let setting = async {
            let values = values![&change.token, update.version];
            transaction.execute(statements::SET_LOBBY_VERSION, values).await?;
            if let Some(identity) = &change.identity {
                transaction.record_applied(&[identity.key.clone()].into(), now).await?;
            }
            transaction.insert_events(vec![event], Progress::available_at(now)).await
        };
        match setting.await {
            Ok(_rows) => transaction.commit().await,
            Err(error) => {
                transaction.undo(&error).await;
                Err(error)
            }
        }
    }
}

impl<D: Dialect> Connection<D> {
    async fn talk_lobby_version(&mut self, token: &RoomToken) -> Result<Version> {
        let version = |row: &D::Row| row.int("version").map(Version::stored);
        let found = self.fetch_optional(statements::LOBBY_VERSION, values![token], version).await?;
        Ok(found.unwrap_or(Version::ZERO))
    }
}

impl<D: Dialect> Transaction<D> {
    async fn end_talk_timer(
        &mut self,
        timer: &TalkTimer,
        update: Option<&RoomUpdated>,
        now: DateTime<Utc>,
    ) -> Result<bool> {
        let values = values![timer.room, timer.due_at.timestamp()];
        if self.execute(statements::DELETE, values).await? == 0 {
            return Ok(false);
        }
        if let Some(update) = update {
            // Newer than the lobby that an event has set, also if the clock of its sender is ahead.
            let set = self.talk_lobby_version(&timer.token).await?;
            let version = update.version.max(set.next().milliseconds());
            let update = RoomUpdated { version, ..update.clone() };
            let event = OutboxEvent {
                due_at: Some(timer.due_at),
                ..new_event(ROOM_UPDATED, &timer.token, &update, now)
            };
            self.insert_events(vec![event], Progress::available_at(now)).await?;
        }
        Ok(true)
    }
}
