//! The users of this server.

use std::collections::BTreeSet;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::contention::retry_contended;
use super::dialect::{Columns, Dialect, values};
use super::error::{CommandError, Result};
use super::pool::SqlStore;
use super::statements::{bans, messages, rooms as room_statements, users as statements};
use super::{Rooms, Users, rows};
use crate::domain::commands::Command;
use crate::domain::{Actor, Caller, RoomToken, User};

#[async_trait]
impl<D: Dialect> Users for SqlStore<D> {
    async fn add_user(&self, user: &User, password_hash: &str) -> Result<bool> {
        let mut transaction = self.begin().await?;
        match transaction.insert_user(user, password_hash).await {
            Ok(()) => {}
            Err(error) if error.is_unique_violation() => {
                transaction.roll_back().await?;
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        for group in &user.groups {
            transaction.insert_group(&user.id, group).await?;
        }
        transaction.commit().await?;
        Ok(true)
    }

    async fn remove_user(&self, id: &str, now: DateTime<Utc>) -> Result<bool> {
        let display_name = match self.user(id).await? {
            Some((user, _hash)) => user.display_name,
            None => id.to_owned(),
        };
        let user =
            Caller { actor: Actor::user(id), client: None, display_name, may_enable_sip: false };
        for token in self.rooms_to_leave(id).await? {
            // Authors may delete their messages, and a later user of this id is another person.
            self.execute(messages::FORGET_AUTHOR, values![&token, id]).await?;
            match self.change(&token, &user, &Command::RemoveAccount, now).await {
                Ok(_) | Err(CommandError::Refused(_)) => {}
                Err(CommandError::Store(error)) => return Err(error),
            }
        }
        let delete = || async {
            let mut transaction = self.begin().await?;
            transaction.renew_version().await?;
            let removed = transaction.delete_user(id).await?;
            transaction.delete_attendees_of(id).await?;
            transaction.execute(bans::DELETE_OF_USER, values![id]).await?;
            transaction.commit().await?;
            Ok(removed > 0)
        };
        retry_contended(self.limit, delete).await
    }

    async fn set_user_password(&self, id: &str, password_hash: &str) -> Result<bool> {
        let mut transaction = self.begin().await?;
        transaction.renew_version().await?;
        let values = values![password_hash, id];
        let changed = transaction.execute(statements::SET_PASSWORD, values).await?;
        transaction.commit().await?;
        Ok(changed > 0)
    }

    async fn users_version(&self) -> Result<i64> {
        self.fetch_one(statements::VERSION, values![], |row| row.int("users_version")).await
    }

    async fn client_key(&self, proposed: &str) -> Result<String> {
        self.execute(statements::INIT_CLIENT_KEY, values![proposed]).await?;
        self.fetch_one(statements::CLIENT_KEY, values![], |row| row.text("client_key")).await
    }

    async fn user(&self, id: &str) -> Result<Option<(User, String)>> {
        let mut connection = self.acquire().await?;
        let user = connection.user(id).await?;
        connection.release();
        Ok(user)
    }

    async fn users(&self) -> Result<Vec<User>> {
        let mut connection = self.acquire().await?;
        let users = connection.users().await?;
        connection.release();
        Ok(users)
    }
}

impl<D: Dialect> SqlStore<D> {
    /// The rooms in which a user takes part, and the one-to-one rooms to which they could return.
    async fn rooms_to_leave(&self, id: &str) -> Result<BTreeSet<RoomToken>> {
        let mut rooms: BTreeSet<RoomToken> = self.rooms_of(id).await?.into_iter().collect();
        let quoted = serde_json::Value::from(id).to_string();
        let token = |row: &D::Row| rows::token(row);
        rooms
            .extend(self.fetch_all(room_statements::ONE_TO_ONE_OF, values![&quoted], token).await?);
        Ok(rooms)
    }
}
