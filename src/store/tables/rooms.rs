//! Rooms, their states, and their timers.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;

use crate::domain::commands::{NewRoom, RoomSettings, Target};
use crate::domain::{
    Actor, DueTimer, Lobby, Message, PendingTimer, Room, RoomId, RoomOverview, RoomToken, TimerKey,
    Version,
};
use crate::store::connection::{Connection, Transaction, expect_rows};
use crate::store::dialect::{Columns, Dialect, values};
use crate::store::error::Result;
use crate::store::rows::to_json;
use crate::store::statements::{lobby_changes, rooms as statements};
use crate::store::{DueBatch, LockPolicy, Patience, rows};

const TABLE: &str = "lobbyd_rooms";

/// A row of [`UPDATE_LOBBIES`](lobby_changes::UPDATE_LOBBIES).
#[derive(Serialize)]
struct LobbyRow {
    id: RoomId,
    state: i64,
    timer: Option<i64>,
    version: Version,
    before: Version,
}

/// A row of [`RESET`](statements::RESET).
#[derive(Serialize)]
struct ResetRow {
    id: RoomId,
    timer: i64,
    version: Version,
}

impl<D: Dialect> Connection<D> {
    pub(crate) async fn room(&mut self, token: &RoomToken) -> Result<Option<Room>> {
        self.fetch_optional(statements::ROOM, values![token], rows::room).await
    }

    /// Reads what all participants see of a room, besides the room itself.
    pub(crate) async fn overview(&mut self, room: Room) -> Result<RoomOverview> {
        let last_message = self.last_message(room.id).await?.map(Message::preview);
        let (moderators, users) = self.count_users(room.id).await?;
        let mut one_to_one = Vec::new();
        for id in room.one_to_one_members() {
            let user = Actor::user(id);
            let attendee = self.attendee(room.id, Target::Actor(&user)).await?;
            let name = attendee.map_or_else(|| user.id.clone(), |attendee| attendee.display_name);
            one_to_one.push((user, name));
        }
        Ok(RoomOverview { room, last_message, moderators, is_single_user: users < 2, one_to_one })
    }
}

impl<D: Dialect> Transaction<D> {
    /// Locks a room until the transaction ends, and reads it then: a read that waits for the lock
    /// would see the other tables as they were before it waited.
    pub(crate) async fn lock_room(&mut self, token: &RoomToken) -> Result<Option<Room>> {
        let locked =
            self.fetch_optional(statements::LOCK, values![token], |row| row.int("id")).await?;
        match locked {
            Some(_id) => self.room(token).await,
            None => Ok(None),
        }
    }

    /// Locks rooms until the transaction ends, except those that another one has locked, and reads
    /// their own rows.
    pub(crate) async fn lock_rooms(&mut self, tokens: &BTreeSet<&RoomToken>) -> Result<Vec<Room>> {
        let room = |row: &D::Row| rows::room_without_state(row);
        self.fetch_all(lobby_changes::LOCK, values![&to_json(tokens)], room).await
    }

    /// Those of the rooms that have a call.
    pub(crate) async fn in_call(&mut self, rooms: &[RoomId]) -> Result<Vec<RoomId>> {
        let id = |row: &D::Row| row.int("id").map(RoomId);
        self.fetch_all(lobby_changes::IN_CALL, values![&to_json(rooms)], id).await
    }

    /// Those of the rooms that exist, locked or not.
    pub(crate) async fn existing(
        &mut self,
        tokens: &BTreeSet<&RoomToken>,
    ) -> Result<BTreeSet<RoomToken>> {
        let token = |row: &D::Row| rows::token(row);
        let found = self.fetch_all(statements::VERSIONS, values![&to_json(tokens)], token).await?;
        Ok(found.into_iter().collect())
    }

    pub(crate) async fn insert_room(
        &mut self,
        token: &RoomToken,
        new: &NewRoom,
        version: Version,
    ) -> Result<()> {
        let values = values![
            token,
            new.room_type.number(),
            &new.name,
            &new.description,
            &new.object_type,
            &new.object_id,
            version.milliseconds(),
        ];
        self.execute(statements::INSERT, values).await.map(drop)
    }

    pub(crate) async fn update_version(&mut self, before: &Room, version: Version) -> Result<()> {
        let values = values![version.milliseconds(), before.id, before.version.milliseconds()];
        expect_rows(self.execute(statements::UPDATE_VERSION, values).await?, 1, TABLE)
    }

    pub(crate) async fn update_settings(
        &mut self,
        before: &Room,
        settings: &RoomSettings,
        version: Version,
    ) -> Result<()> {
        let values = values![
            settings.room_type.number(),
            &settings.name,
            &settings.description,
            settings.sip.number(),
            version.milliseconds(),
            before.id,
            before.version.milliseconds(),
        ];
        expect_rows(self.execute(statements::UPDATE_SETTINGS, values).await?, 1, TABLE)
    }

    pub(crate) async fn update_lobby(
        &mut self,
        before: &Room,
        lobby: Lobby,
        version: Version,
    ) -> Result<()> {
        let values = values![
            lobby.state.number(),
            lobby.timer.map(|timer| timer.timestamp()),
            version.milliseconds(),
            before.id,
            before.version.milliseconds(),
        ];
        expect_rows(self.execute(statements::UPDATE_LOBBY, values).await?, 1, TABLE)
    }

    /// Writes the lobbies of rooms, each as it was before and as it is now.
    pub(crate) async fn update_lobbies(
        &mut self,
        rooms: &[(&Room, &Room)],
        patience: Patience,
    ) -> Result<()> {
        let row = |(before, after): &(&Room, &Room)| LobbyRow {
            id: after.id,
            state: after.lobby.state.number(),
            timer: after.lobby.timer.map(|timer| timer.timestamp()),
            version: after.version,
            before: before.version,
        };
        let rows: Vec<_> = rooms.iter().map(row).collect();
        let statement = match patience {
            Patience::Short => lobby_changes::UPDATE_LOBBIES_SHORT,
            Patience::Full => lobby_changes::UPDATE_LOBBIES,
        };
        let updated = self.execute(statement, values![&to_json(&rows)]).await?;
        expect_rows(updated, rows.len(), TABLE)
    }

    pub(crate) async fn write_changed_at(
        &mut self,
        rooms: impl Iterator<Item = &Room> + Send,
    ) -> Result<()> {
        let row = |room: &Room| json!({ "room_id": room.id, "changed_at": room.changed_at });
        let rows: Vec<_> = rooms.map(row).collect();
        if rows.is_empty() {
            return Ok(());
        }
        self.execute(lobby_changes::SET_CHANGED_AT, values![&to_json(&rows)]).await.map(drop)
    }

    /// Writes what is kept of a room besides its own row.
    pub(crate) async fn write_state(&mut self, room: &Room) -> Result<()> {
        let values = values![
            &room.password_hash,
            room.call.map_or(0, |call| call.started_at),
            room.call.map_or(0, |call| call.flags.bits()),
            room.default_permissions.bits(),
            i64::from(room.read_only),
            room.comments,
            room.changed_at,
            room.id,
        ];
        if self.execute(statements::UPDATE_STATE, values).await? == 0 {
            self.execute(statements::INSERT_STATE, values).await?;
        }
        Ok(())
    }

    /// Deletes the room's own rows.
    pub(crate) async fn delete_room(&mut self, room: RoomId) -> Result<()> {
        self.execute(statements::DELETE_STATE, values![room]).await?;
        expect_rows(self.execute(statements::DELETE, values![room]).await?, 1, TABLE)
    }

    /// Locks the rooms whose timer is due, the longest overdue first. A row that cannot be read is
    /// still known as a timer.
    pub(crate) async fn lock_due(
        &mut self,
        now: DateTime<Utc>,
        batch: DueBatch<'_>,
    ) -> Result<Vec<(PendingTimer, Result<DueTimer>)>> {
        let statement = match batch.locked {
            LockPolicy::SkipLocked => statements::DUE,
            LockPolicy::Wait => {
                self.shorten_lock_waits().await?;
                statements::DUE_WAITING
            }
        };
        let [from, again, room] = rows::key_values(batch.after);
        let except = rows::exceptions(batch.except);
        let values = values![from, again, room, &except, now.timestamp(), batch.limit];
        let timer = |row: &D::Row| Ok((rows::pending_timer(row)?, rows::due_timer(row)));
        self.fetch_all(statement, values, timer).await
    }

    /// Resets locked rooms.
    pub(crate) async fn reset_rooms(&mut self, due: &[DueTimer], patience: Patience) -> Result<()> {
        let row = |timer: &DueTimer| {
            let TimerKey { due_at, room: id } = timer.key;
            ResetRow { id, timer: due_at.timestamp(), version: timer.next_version() }
        };
        let resets: Vec<_> = due.iter().map(row).collect();
        let statement = match patience {
            Patience::Short => statements::RESET_SHORT,
            Patience::Full => statements::RESET,
        };
        let reset = self.execute(statement, values![&to_json(&resets)]).await?;
        expect_rows(reset, due.len(), TABLE)
    }
}
