//! The users of this server.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::{
    ColumnIndex, Decode, Encode, Executor, IntoArguments, Type, error::DatabaseError,
    migrate::Migrate,
};

use super::{
    Result, Rooms, StoreError, Users, dialect::Dialect, engine::SqlStore, session::Session,
};
use crate::domain::{Actor, Caller, User, commands::Command};

#[async_trait]
impl<D> Users for SqlStore<D>
where
    D: Dialect,
    for<'c> &'c mut D::Connection: Executor<'c, Database = D>,
    D::Connection: Migrate,
    D::Arguments: IntoArguments<D>,
    for<'v> i64: Encode<'v, D> + Decode<'v, D> + Type<D>,
    for<'v> Option<i64>: Encode<'v, D>,
    for<'v> String: Encode<'v, D> + Decode<'v, D> + Type<D>,
    for<'v> Option<String>: Encode<'v, D>,
    usize: ColumnIndex<D::Row>,
    for<'n> &'n str: ColumnIndex<D::Row>,
{
    async fn add_user(&self, user: &User, password_hash: &str) -> Result<bool> {
        let mut session = Session::<D>::open(&self.pool, self.limit).await?;
        session.begin().await?;
        let add = sqlx::query(D::shared().add_user)
            .bind(user.id.clone())
            .bind(user.display_name.clone())
            .bind(password_hash.to_owned());
        match session.execute(add).await {
            Ok(_one) => {}
            Err(StoreError::Rejected(error)) if is_taken(&error) => {
                session.roll_back().await?;
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        for group in &user.groups {
            let add = sqlx::query(D::shared().add_group).bind(user.id.clone()).bind(group.clone());
            session.execute(add).await?;
        }
        session.commit().await?;
        Ok(true)
    }

    async fn remove_user(&self, id: &str, now: DateTime<Utc>) -> Result<bool> {
        // Where the rules let him go he goes, and that is announced. The last moderator goes too.
        let himself =
            Caller { actor: Actor::user(id), display_name: id.to_owned(), may_enable_sip: false };
        for token in self.rooms_of(id).await? {
            drop(self.change(&token, &himself, &Command::RemoveSelf, now).await?);
        }
        let mut session = Session::<D>::open(&self.pool, self.limit).await?;
        session.begin().await?;
        for sql in [D::shared().remove_groups, D::shared().remove_from_rooms] {
            session.execute(sqlx::query(sql).bind(id.to_owned())).await?;
        }
        let removed =
            session.execute(sqlx::query(D::shared().remove_user).bind(id.to_owned())).await?;
        session.commit().await?;
        Ok(removed > 0)
    }

    async fn set_user_password(&self, id: &str, password_hash: &str) -> Result<bool> {
        let mut session = Session::<D>::open(&self.pool, self.limit).await?;
        let set = sqlx::query(D::shared().set_user_password)
            .bind(password_hash.to_owned())
            .bind(id.to_owned());
        let changed = session.execute(set).await?;
        session.finish();
        Ok(changed > 0)
    }

    async fn user(&self, id: &str) -> Result<Option<(User, String)>> {
        let mut session = Session::<D>::open(&self.pool, self.limit).await?;
        let read = sqlx::query(D::shared().user).bind(id.to_owned());
        let row: Option<(String, String, String)> = session.fetch_optional(read).await?;
        let user = match row.filter(|(found, ..)| found == id) {
            None => None,
            Some((_id, display_name, password_hash)) => {
                let groups = session.groups(id).await?;
                Some((User { id: id.to_owned(), display_name, groups }, password_hash))
            }
        };
        session.finish();
        Ok(user)
    }

    async fn users(&self) -> Result<Vec<User>> {
        let mut session = Session::<D>::open(&self.pool, self.limit).await?;
        let rows: Vec<(String, String)> = session.fetch_all(sqlx::query(D::shared().users)).await?;
        let mut users = Vec::with_capacity(rows.len());
        for (id, display_name) in rows {
            let groups = session.groups(&id).await?;
            users.push(User { id, display_name, groups });
        }
        session.finish();
        Ok(users)
    }
}

impl<D> Session<D>
where
    D: Dialect,
    for<'c> &'c mut D::Connection: Executor<'c, Database = D>,
    D::Arguments: IntoArguments<D>,
    for<'v> String: Encode<'v, D> + Decode<'v, D> + Type<D>,
    usize: ColumnIndex<D::Row>,
{
    async fn groups(&mut self, user: &str) -> Result<Vec<String>> {
        let read = sqlx::query(D::shared().groups).bind(user.to_owned());
        let groups: Vec<(String,)> = self.fetch_all(read).await?;
        Ok(groups.into_iter().map(|(name,)| name).collect())
    }
}

/// Whether the error is that a name is taken.
pub(super) fn is_taken(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(DatabaseError::is_unique_violation)
}
