//! What the signaling servers of Talk have yet to be told.
//!
//! A transaction that changes rooms adds a row about them, which waits for no other. Workers turn these
//! rows into one row for each server and room, and claim those: so a lock of theirs never delays a
//! change, and many changes of a room are told once.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::connection::Transaction;
use super::dialect::{Columns, Dialect, values};
use super::error::Result;
use super::pool::SqlStore;
use super::rows::{time_from_millis, to_json, token};
use super::statements::signaling as statements;
use crate::domain::{OutboxEvent, Room, RoomToken, SignalingBacklog, SignalingUpdate};

/// What the signaling servers of Talk have yet to be told, for each server and room. Changes of rooms
/// are recorded with their events if there is a server.
#[async_trait]
pub trait Signaling: Send + Sync + 'static {
    /// Records that this process has these servers.
    async fn see_signaling_servers(&self, urls: &[&str], now: DateTime<Utc>) -> Result<()>;

    /// Forgets servers that no process has had since `before`, and what could have been told to any of
    /// them before that, at most `limit` rooms. Returns their number.
    async fn prune_signaling(&self, before: DateTime<Utc>, limit: u32) -> Result<u64>;

    /// Adds the rooms of some changes to what the servers have to be told. Returns the number of changes:
    /// 0 if there are none.
    async fn pass_on_changes(&self, now: DateTime<Utc>) -> Result<usize>;

    /// Claims rooms for a server that nothing else has claimed, until `until`: those that became
    /// available first, with as many failures.
    async fn claim_signaling(
        &self,
        server: &str,
        now: DateTime<Utc>,
        until: DateTime<Utc>,
        failures: RangeInclusive<u32>,
        limit: usize,
    ) -> Result<Vec<SignalingUpdate>>;

    /// Ends a claim after the server was told the room. It has to be told again if the room has changed
    /// since, or if somebody else has claimed it since, who may have told it before.
    async fn signaling_told(
        &self,
        server: &str,
        update: &SignalingUpdate,
        claimed_until: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<()>;

    /// Ends a claim; the room can be claimed again from `available_at` on. Does nothing if another
    /// process has claimed it since.
    async fn release_signaling(
        &self,
        server: &str,
        update: &SignalingUpdate,
        claimed_until: DateTime<Utc>,
        available_at: DateTime<Utc>,
    ) -> Result<()>;

    /// The room as it is now, and the ids of its users.
    async fn room_with_users(&self, token: &RoomToken) -> Result<Option<(Room, Vec<String>)>>;

    /// What a server has to be told. Rooms with so many failures count as refused.
    async fn signaling_backlog(&self, server: &str, refused: u32) -> Result<SignalingBacklog>;
}

/// Changes that are passed on at once.
const CHANGES: u32 = 16;

/// Rooms that are counted.
const BACKLOG: u32 = 10_000;

/// A change of rooms, as it is stored.
pub(super) struct SignalingChange {
    /// That of its first event.
    id: String,
    rooms: String,
}

#[derive(Serialize, Deserialize)]
struct ChangedRoom {
    token: String,
    /// Milliseconds since 1970.
    since: i64,
}

impl SignalingChange {
    /// The change that these events are about; `None` without events.
    pub(super) fn of(events: &[OutboxEvent]) -> Option<Self> {
        let room = |event: &OutboxEvent| ChangedRoom {
            token: event.token.as_str().to_owned(),
            since: event.due_at.unwrap_or(event.created_at).timestamp_millis(),
        };
        let id = events.first()?.id.as_str().to_owned();
        Some(Self { id, rooms: to_json(&events.iter().map(room).collect::<Vec<_>>()) })
    }
}

impl<D: Dialect> Transaction<D> {
    /// Has the servers be told about a change, if there are any.
    pub(super) async fn pass_to_signaling(
        &mut self,
        change: Option<SignalingChange>,
    ) -> Result<()> {
        let Some(SignalingChange { id, rooms }) = change else { return Ok(()) };
        self.execute(statements::ADD_CHANGES, values![&id, &rooms]).await.map(drop)
    }

    async fn pass_on(&mut self, now: DateTime<Utc>) -> Result<usize> {
        let row = |row: &D::Row| Ok((row.text("id")?, row.text("rooms")?));
        let changes = self.fetch_all(statements::CHANGES, values![CHANGES], row).await?;
        if changes.is_empty() {
            return Ok(0);
        }
        let mut rooms = BTreeMap::new();
        for (id, text) in &changes {
            // What nobody can read is removed with the others.
            let of_change: Vec<ChangedRoom> = serde_json::from_str(text).unwrap_or_else(|error| {
                tracing::error!(id, %error, "row of lobbyd_signaling_changes unreadable, it is removed");
                Vec::new()
            });
            for ChangedRoom { token, since } in of_change {
                rooms.entry(token).or_insert(since);
            }
        }
        let rooms: Vec<_> =
            rooms.into_iter().map(|(token, since)| ChangedRoom { token, since }).collect();
        let rooms = to_json(&rooms);
        let values = values![now.timestamp_millis(), &rooms];
        self.execute(statements::ADD_UPDATES, values).await?;
        let ids = to_json(&changes.iter().map(|(id, _rooms)| id).collect::<Vec<_>>());
        self.execute(statements::REMOVE_CHANGES, values![&ids]).await?;
        Ok(changes.len())
    }
}

#[async_trait]
impl<D: Dialect> Signaling for SqlStore<D> {
    async fn see_signaling_servers(&self, urls: &[&str], now: DateTime<Utc>) -> Result<()> {
        let now = now.timestamp_millis();
        for url in urls {
            if self.execute(statements::SEE_SERVER, values![now, *url]).await? == 0 {
                match self.execute(statements::ADD_SERVER, values![*url, now]).await {
                    // Another worker has added it meanwhile.
                    Err(error) if error.is_refusal() => {}
                    added => drop(added?),
                }
            }
        }
        Ok(())
    }

    async fn prune_signaling(&self, before: DateTime<Utc>, limit: u32) -> Result<u64> {
        let before = before.timestamp_millis();
        self.execute(statements::REMOVE_SERVERS, values![before]).await?;
        self.execute(statements::PRUNE, values![before, limit]).await
    }

    async fn pass_on_changes(&self, now: DateTime<Utc>) -> Result<usize> {
        // Without a transaction first: mostly there is none.
        let id = |row: &D::Row| row.text("id");
        if self.fetch_all(statements::FIRST_CHANGE, values![], id).await?.is_empty() {
            return Ok(0);
        }
        let mut transaction = self.begin().await?;
        match transaction.pass_on(now).await {
            Ok(0) => transaction.roll_back().await.map(|()| 0),
            Ok(number) => transaction.commit().await.map(|()| number),
            Err(error) => {
                transaction.undo(&error).await;
                Err(error)
            }
        }
    }

    async fn claim_signaling(
        &self,
        server: &str,
        now: DateTime<Utc>,
        until: DateTime<Utc>,
        failures: RangeInclusive<u32>,
        limit: usize,
    ) -> Result<Vec<SignalingUpdate>> {
        let update = |row: &D::Row| {
            Ok(SignalingUpdate {
                token: token(row)?,
                changes: row.int("changes")?,
                since: time_from_millis(row.int("since")?)?,
                failures: u32::try_from(row.int("failures")?).unwrap_or(u32::MAX),
            })
        };
        let mut transaction = self.begin().await?;
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let (fewest, most) = failures.into_inner();
        let claiming = async {
            let values = values![server, now.timestamp_millis(), fewest, most, limit];
            let claimed = transaction.fetch_all(statements::AVAILABLE, values, update).await?;
            for SignalingUpdate { token, .. } in &claimed {
                let values = values![until.timestamp_millis(), server, token];
                transaction.execute(statements::CLAIM, values).await?;
            }
            Ok(claimed)
        };
        match claiming.await {
            Ok(claimed) if claimed.is_empty() => {
                transaction.roll_back().await?;
                Ok(claimed)
            }
            Ok(claimed) => transaction.commit().await.map(|()| claimed),
            Err(error) => {
                transaction.undo(&error).await;
                Err(error)
            }
        }
    }

    async fn signaling_told(
        &self,
        server: &str,
        update: &SignalingUpdate,
        claimed_until: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<()> {
        let SignalingUpdate { token, changes, since, .. } = update;
        let (until, now) = (claimed_until.timestamp_millis(), now.timestamp_millis());
        let values = values![server, token, until, *changes];
        if self.execute(statements::REMOVE_UPDATE, values).await? > 0 {
            return Ok(());
        }
        let values = values![now, 0_u32, server, token, until];
        if self.execute(statements::RELEASE, values).await? > 0 {
            return Ok(());
        }
        let values = values![server, token, since.timestamp_millis(), now];
        self.execute(statements::ADD_UPDATE, values).await.map(drop)
    }

    async fn release_signaling(
        &self,
        server: &str,
        update: &SignalingUpdate,
        claimed_until: DateTime<Utc>,
        available_at: DateTime<Utc>,
    ) -> Result<()> {
        let SignalingUpdate { token, failures, .. } = update;
        let (until, available_at) =
            (claimed_until.timestamp_millis(), available_at.timestamp_millis());
        let values = values![available_at, *failures, server, token, until];
        self.execute(statements::RELEASE, values).await.map(drop)
    }

    async fn room_with_users(&self, token: &RoomToken) -> Result<Option<(Room, Vec<String>)>> {
        let mut connection = self.acquire().await?;
        let found = match connection.room(token).await? {
            Some(room) => {
                let user = |row: &D::Row| row.text("actor_id");
                let users = connection.fetch_all(statements::USERS, values![room.id], user).await?;
                Some((room, users))
            }
            None => None,
        };
        connection.release();
        Ok(found)
    }

    async fn signaling_backlog(&self, server: &str, refused: u32) -> Result<SignalingBacklog> {
        let backlog = |row: &D::Row| {
            Ok(SignalingBacklog {
                pending: row.int("pending")?,
                refused: row.int("refused")?,
                oldest: row.int_or_null("oldest")?.map(time_from_millis).transpose()?,
            })
        };
        let values = values![refused, refused, server, BACKLOG];
        self.fetch_one(statements::BACKLOG, values, backlog).await
    }
}
