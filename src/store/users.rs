//! The users of this server.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::contention::retry_contended;
use super::dialect::{Dialect, values};
use super::error::{CommandError, Result};
use super::pool::SqlStore;
use super::statements::users as statements;
use super::{Rooms, Users};
use crate::domain::commands::Command;
use crate::domain::{Actor, Caller, User};

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
        // Where the rules allow it the user leaves, and that is announced. The last moderator of a
        // room is removed as well.
        let user = Caller {
            actor: Actor::user(id),
            client: None,
            display_name: id.to_owned(),
            may_enable_sip: false,
        };
        for token in self.rooms_of(id).await? {
            match self.change(&token, &user, &Command::RemoveSelf, now).await {
                Ok(_) | Err(CommandError::Refused(_)) => {}
                Err(CommandError::Store(error)) => return Err(error),
            }
        }
        let delete = || async {
            let mut transaction = self.begin().await?;
            transaction.delete_attendees_of(id).await?;
            let removed = transaction.delete_user(id).await?;
            transaction.commit().await?;
            Ok(removed > 0)
        };
        retry_contended(self.limit, delete).await
    }

    async fn set_user_password(&self, id: &str, password_hash: &str) -> Result<bool> {
        let values = values![password_hash, id];
        Ok(self.execute(statements::SET_PASSWORD, values).await? > 0)
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
