//! Bans.

use chrono::{DateTime, Utc};

use crate::domain::commands::BanChange;
use crate::domain::{Actor, Ban, RoomId};
use crate::store::connection::{Connection, Transaction, expect_rows};
use crate::store::dialect::{Columns, Dialect, values};
use crate::store::error::Result;
use crate::store::rows;
use crate::store::statements::bans as statements;

impl<D: Dialect> Connection<D> {
    pub(crate) async fn bans(&mut self, room: RoomId) -> Result<Vec<Ban>> {
        self.fetch_all(statements::OF_ROOM, values![room], rows::ban).await
    }

    /// How many other actors are banned.
    pub(crate) async fn count_other_bans(&mut self, room: RoomId, actor: &Actor) -> Result<i64> {
        let values = values![room, actor.kind.name(), &actor.id];
        self.fetch_one(statements::COUNT_OF_OTHERS, values, |row| row.int("number")).await
    }

    pub(crate) async fn is_banned(&mut self, room: RoomId, actor: &Actor) -> Result<bool> {
        let values = values![room, actor.kind.name(), &actor.id];
        let number = self.fetch_one(statements::COUNT, values, |row| row.int("number")).await?;
        Ok(number > 0)
    }
}

impl<D: Dialect> Transaction<D> {
    /// Writes a change that a moderator makes.
    pub(crate) async fn change_ban(
        &mut self,
        room: RoomId,
        moderator: (&Actor, &str),
        change: &BanChange,
        now: DateTime<Utc>,
    ) -> Result<()> {
        match change {
            BanChange::Add { actor, name, note } => {
                let key = values![room, actor.kind.name(), &actor.id];
                self.execute(statements::DELETE_OF_ACTOR, key).await?;
                let values = values![
                    room,
                    actor.kind.name(),
                    &actor.id,
                    name,
                    &moderator.0.id,
                    moderator.1,
                    note,
                    now.timestamp(),
                ];
                self.execute(statements::INSERT, values).await?;
            }
            BanChange::Remove(id) => {
                let deleted = self.execute(statements::DELETE, values![room, *id]).await?;
                expect_rows(deleted, 1, "lobbyd_bans")?;
            }
        }
        Ok(())
    }

    pub(crate) async fn delete_bans(&mut self, room: RoomId) -> Result<()> {
        self.execute(statements::DELETE_OF_ROOM, values![room]).await.map(drop)
    }
}
