//! What lobbyd keeps about the rooms of a Nextcloud Talk: timers, recorded before the rooms open, so
//! that each opening is announced exactly once, also after a crash; and the versions of lobbies that
//! events have set, because Talk has none.

use async_trait::async_trait;
use serde_json::json;

use super::connection::Transaction;
use super::dialect::{Columns, Dialect, values};
use super::error::Result;
use super::pool::SqlStore;
use super::rows::to_json;
use super::statements::talk as statements;
use super::tables::outbox::{Progress, new_event};
use super::{Admin, TalkRecords, rows};
use crate::domain::{OutboxEvent, ROOM_UPDATED, RoomToken, RoomUpdated, TalkTimer, Version};

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
        let event = update.map(|update| OutboxEvent {
            due_at: Some(timer.due_at),
            ..new_event(ROOM_UPDATED, &timer.token, update, now)
        });
        let mut transaction = self.begin().await?;
        match transaction.end_talk_timer(timer, event, Progress::available_at(now)).await {
            Ok(true) => transaction.commit().await.map(|()| true),
            Ok(false) => transaction.roll_back().await.map(|()| false),
            Err(error) => {
                transaction.undo(&error).await;
                Err(error)
            }
        }
    }

    async fn talk_lobby_version(&self, token: &RoomToken) -> Result<Version> {
        let version = |row: &D::Row| row.int("version").map(Version::stored);
        let found = self.fetch_all(statements::LOBBY_VERSION, values![token], version).await?;
        Ok(found.first().copied().unwrap_or(Version::ZERO))
    }

    async fn talk_lobby_set(&self, token: &RoomToken, update: &RoomUpdated) -> Result<()> {
        let now = Admin::now(self).await?;
        let event = new_event(ROOM_UPDATED, token, update, now);
        let mut transaction = self.begin().await?;
        let setting = async {
            let values = values![token, update.version];
            transaction.execute(statements::SET_LOBBY_VERSION, values).await?;
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

impl<D: Dialect> Transaction<D> {
    async fn end_talk_timer(
        &mut self,
        timer: &TalkTimer,
        event: Option<OutboxEvent>,
        progress: Progress,
    ) -> Result<bool> {
        let values = values![timer.room, timer.due_at.timestamp()];
        if self.execute(statements::DELETE, values).await? == 0 {
            return Ok(false);
        }
        if let Some(event) = event {
            self.insert_events(vec![event], progress).await?;
        }
        Ok(true)
    }
}
