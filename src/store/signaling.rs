//! What the signaling servers of Talk have yet to be told.
//!
//! A transaction that changes rooms adds a row about them, which waits for no other. Workers turn these
//! rows into one row for each server and room, and claim those: so a lock of theirs never delays a
//! change, and many changes of a room are told once.

use std::collections::BTreeMap;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::connection::Transaction;
use super::dialect::{Columns, Dialect, values};
use super::error::Result;
use super::pool::SqlStore;
use super::rows::{time_from_millis, to_json, token};
use super::statements::signaling as statements;
use crate::domain::{OutboxEvent, Room, RoomToken, SignalingBacklog, SignalingUpdate};

/// What the signaling servers of Talk have yet to be told, for each server and room. Changes of rooms
/// are recorded with their events if there is a server; by other processes, from a second after the
/// first one was added.
#[async_trait]
pub trait Signaling: Send + Sync + 'static {
    /// Records that this process has these servers.
    async fn see_signaling_servers(&self, urls: &[&str], now: DateTime<Utc>) -> Result<()>;

    /// Gives up rooms whose last change was passed on before `before`, at most `limit`, and none that may
    /// be claimed: the end of its claim would add it again. Returns their number. Also forgets servers
    /// that no process has, and what they were to be told.
    async fn prune_signaling(
        &self,
        before: DateTime<Utc>,
        limit: u32,
        now: DateTime<Utc>,
    ) -> Result<u64>;

    /// The first change behind this one that was not passed on, and when it was made.
    async fn first_change(&self, after: &str) -> Result<Option<(String, DateTime<Utc>)>>;

    /// Adds the rooms of the first changes behind `after`, at most `limit` changes, to what the servers
    /// have to be told. Returns the number of changes: 0 if there are none.
    async fn pass_on_changes(&self, after: &str, limit: u32, now: DateTime<Utc>) -> Result<usize>;

    /// Claims rooms for a server that nothing else has claimed, until `until`: those that became
    /// available first, among those that failed or among the others.
    async fn claim_signaling(
        &self,
        server: &str,
        failed: bool,
        now: DateTime<Utc>,
        until: DateTime<Utc>,
        limit: usize,
    ) -> Result<Vec<SignalingUpdate>>;

    /// Extends a claim until `until`. Returns whether it still held.
    async fn extend_signaling(
        &self,
        server: &str,
        token: &RoomToken,
        claimed_until: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Result<bool>;

    /// Ends a claim after the server was told the room. The room has to be told again if it has changed
    /// since, if another process has claimed it since, and after a request that failed: the server may
    /// read an older request last.
    async fn signaling_told(
        &self,
        server: &str,
        update: &SignalingUpdate,
        claimed_until: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<()>;

    /// Ends a claim after a request without success; the room can be claimed again from `available_at`
    /// on. If somebody else has claimed it since, it has to be told once more: the request may arrive yet.
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

/// Rooms of the changes that are passed on at once, or of one change that has more.
const ROOMS: usize = 1000;

/// When a room is told once more after a request that failed: the server may have read that one after the
/// one that succeeded.
const LATE_REQUEST: TimeDelta = TimeDelta::seconds(5);

/// Longer than a claim holds, and than a batch takes.
const CLAIMED: TimeDelta = TimeDelta::seconds(30);

/// A server that no process had for so long is not told any more, and its changes are not recorded after
/// a day: until then its processes may be down.
const UNSEEN: TimeDelta = TimeDelta::hours(1);
const FORGOTTEN: TimeDelta = TimeDelta::days(1);

/// Rooms that are counted.
const BACKLOG: u32 = 10_000;

/// A room of a change, as it is stored.
#[derive(Serialize, Deserialize)]
struct ChangedRoom {
    token: String,
    /// Milliseconds since 1970.
    since: i64,
}

impl<D: Dialect> Transaction<D> {
    /// Records what these events are about for the servers, if there are any of both.
    pub(super) async fn pass_to_signaling(&mut self, events: &[OutboxEvent]) -> Result<()> {
        let Some(first) = events.first() else { return Ok(()) };
        if self.no_signaling.is_assumed() {
            return Ok(());
        }
        let room = |event: &OutboxEvent| ChangedRoom {
            token: event.token.as_str().to_owned(),
            since: event.due_at.unwrap_or(event.created_at).timestamp_millis(),
        };
        let rooms = to_json(&events.iter().map(room).collect::<Vec<_>>());
        let created_at = first.created_at.timestamp_millis();
        let values = values![first.id.as_str(), &rooms, created_at];
        if self.execute(statements::ADD_CHANGES, values).await? == 0 {
            self.no_signaling.found();
        }
        Ok(())
    }

    async fn pass_on(&mut self, after: &str, limit: u32, now: DateTime<Utc>) -> Result<usize> {
        let row = |row: &D::Row| Ok((row.text("id")?, row.text("rooms")?));
        let changes = self.fetch_all(statements::CHANGES, values![after, limit], row).await?;
        let (mut rooms, mut ids) = (BTreeMap::new(), Vec::new());
        for (id, text) in &changes {
            // What nobody can read is removed with the others.
            let of_row: Vec<ChangedRoom> = serde_json::from_str(text).unwrap_or_else(|error| {
                tracing::error!(id, %error, "row of lobbyd_signaling_changes unreadable, removed");
                Vec::new()
            });
            if !ids.is_empty() && rooms.len() + of_row.len() > ROOMS {
                break;
            }
            ids.push(id);
            for ChangedRoom { token, since } in of_row {
                rooms.entry(token).or_insert(since);
            }
        }
        if ids.is_empty() {
            return Ok(0);
        }
        let rooms: Vec<_> =
            rooms.into_iter().map(|(token, since)| ChangedRoom { token, since }).collect();
        let (rooms, now) = (to_json(&rooms), now.timestamp_millis());
        self.execute(statements::ADD_UPDATES, values![now, now, &rooms, now]).await?;
        self.execute(statements::REMOVE_CHANGES, values![&to_json(&ids)]).await?;
        Ok(ids.len())
    }
}

impl<D: Dialect> SqlStore<D> {
    /// Records a room as if it had changed once more.
    async fn tell_again(&self, server: &str, token: &RoomToken, now: i64) -> Result<()> {
        let values = values![server, token, now, now, now];
        self.execute(statements::ADD_UPDATE, values).await.map(drop)
    }
}

#[async_trait]
impl<D: Dialect> Signaling for SqlStore<D> {
    async fn see_signaling_servers(&self, urls: &[&str], now: DateTime<Utc>) -> Result<()> {
        let now = now.timestamp_millis();
        for url in urls {
            let see = async || self.execute(statements::SEE_SERVER, values![now, *url]).await;
            if see().await? == 0
                && let Err(error) = self.execute(statements::ADD_SERVER, values![*url, now]).await
                // Another worker may have added it meanwhile.
                && see().await? == 0
            {
                return Err(error);
            }
        }
        self.group.no_signaling.reset();
        Ok(())
    }

    async fn prune_signaling(
        &self,
        before: DateTime<Utc>,
        limit: u32,
        now: DateTime<Utc>,
    ) -> Result<u64> {
        let [before, unseen, forgotten] =
            [before, now - UNSEEN, now - FORGOTTEN].map(|time| time.timestamp_millis());
        self.execute(statements::REMOVE_SERVERS, values![forgotten]).await?;
        self.execute(statements::REMOVE_UNSEEN, values![unseen]).await?;
        self.execute(statements::PRUNE_CHANGES, values![forgotten]).await?;
        let (now, claimed) = (now.timestamp_millis(), (now + CLAIMED).timestamp_millis());
        self.execute(statements::PRUNE, values![before, now, claimed, limit]).await
    }

    async fn first_change(&self, after: &str) -> Result<Option<(String, DateTime<Utc>)>> {
        let change =
            |row: &D::Row| Ok((row.text("id")?, time_from_millis(row.int("created_at")?)?));
        Ok(self.fetch_all(statements::FIRST_CHANGE, values![after], change).await?.pop())
    }

    async fn pass_on_changes(&self, after: &str, limit: u32, now: DateTime<Utc>) -> Result<usize> {
        let mut transaction = self.begin().await?;
        match transaction.pass_on(after, limit, now).await {
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
        failed: bool,
        now: DateTime<Utc>,
        until: DateTime<Utc>,
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
        let claiming = async {
            let values = values![server, i64::from(failed), now.timestamp_millis(), limit];
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

    async fn extend_signaling(
        &self,
        server: &str,
        token: &RoomToken,
        claimed_until: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Result<bool> {
        let [until, claimed_until] = [until, claimed_until].map(|time| time.timestamp_millis());
        let values = values![until, server, token, claimed_until];
        Ok(self.execute(statements::EXTEND, values).await? > 0)
    }

    async fn signaling_told(
        &self,
        server: &str,
        update: &SignalingUpdate,
        claimed_until: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<()> {
        let SignalingUpdate { token, changes, failures, .. } = update;
        let (until, now) = (claimed_until.timestamp_millis(), now.timestamp_millis());
        let later = now + LATE_REQUEST.num_milliseconds();
        let remove = values![server, token, until, *changes];
        let at = if *failures > 0 { later } else { now };
        if *failures == 0 && self.execute(statements::REMOVE_UPDATE, remove).await? > 0
            || self.execute(statements::RESTART, values![at, server, token, until]).await? > 0
        {
            return Ok(());
        }
        self.tell_again(server, token, now).await
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
        let failed = i64::from(*failures > 0);
        let values = values![available_at, *failures, failed, server, token, until];
        if self.execute(statements::RELEASE, values).await? > 0 {
            return Ok(());
        }
        self.tell_again(server, token, available_at).await
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
                has_failed: row.int("failed")? > 0,
                oldest: row.int_or_null("oldest")?.map(time_from_millis).transpose()?,
            })
        };
        let values = values![refused, refused, server, server, BACKLOG];
        self.fetch_one(statements::BACKLOG, values, backlog).await
    }
}
