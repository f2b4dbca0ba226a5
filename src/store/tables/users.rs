//! Users and their groups.

use crate::domain::User;
use crate::store::connection::{Connection, Transaction};
use crate::store::dialect::{Columns, Dialect, values};
use crate::store::error::Result;
use crate::store::statements::users as statements;

impl<D: Dialect> Connection<D> {
    /// Reads a user and the hash of the password.
    pub(crate) async fn user(&mut self, id: &str) -> Result<Option<(User, String)>> {
        let row = |row: &D::Row| {
            Ok((row.text("id")?, row.text("display_name")?, row.text("password_hash")?))
        };
        let found = self.fetch_optional(statements::USER, values![id], row).await?;
        // MySQL ignores spaces at the end.
        let Some((id, display_name, password_hash)) = found.filter(|(found, ..)| found == id)
        else {
            return Ok(None);
        };
        let groups = self.groups(&id).await?;
        Ok(Some((User { id, display_name, groups }, password_hash)))
    }

    pub(crate) async fn users(&mut self) -> Result<Vec<User>> {
        let user = |row: &D::Row| {
            let (id, display_name) = (row.text("id")?, row.text("display_name")?);
            Ok(User { id, display_name, groups: Vec::new() })
        };
        let mut users = self.fetch_all(statements::USERS, values![], user).await?;
        for user in &mut users {
            user.groups = self.groups(&user.id).await?;
        }
        Ok(users)
    }

    async fn groups(&mut self, user: &str) -> Result<Vec<String>> {
        self.fetch_all(statements::GROUPS, values![user], |row| row.text("name")).await
    }
}

impl<D: Dialect> Transaction<D> {
    /// Whether there is an account of this user, which stays until the transaction ends.
    pub(crate) async fn lock_account(&mut self, id: &str) -> Result<bool> {
        self.fetch_one(statements::LOCK_VERSION, values![], |row| row.int("users_version")).await?;
        Ok(self.user(id).await?.is_some())
    }

    /// Announces to all processes that logins have to be verified again.
    pub(crate) async fn renew_version(&mut self) -> Result<()> {
        self.execute(statements::NEXT_VERSION, values![]).await.map(drop)
    }

    pub(crate) async fn insert_user(&mut self, user: &User, password_hash: &str) -> Result<()> {
        let values = values![&user.id, &user.display_name, password_hash];
        self.execute(statements::INSERT, values).await.map(drop)
    }

    pub(crate) async fn insert_group(&mut self, user: &str, group: &str) -> Result<()> {
        self.execute(statements::INSERT_GROUP, values![user, group]).await.map(drop)
    }

    /// Returns the number of users of this id: 0 or 1.
    pub(crate) async fn delete_user(&mut self, id: &str) -> Result<u64> {
        self.execute(statements::DELETE_GROUPS, values![id]).await?;
        self.execute(statements::DELETE, values![id]).await
    }
}
