//! Applies the migrations: one process at a time, also after a crash midway.
//!
//! sqlx applies them. Its own lock does nothing on SQLite and on MariaDB, so each dialect takes one
//! of its own.

use std::time::Duration;

use sqlx::migrate::MigrateError;
use sqlx::{Connection, Pool};
use tokio::time::timeout;

use super::connection;
use super::dialect::{Dialect, MIGRATION_TIMEOUT, MIGRATIONS_TABLE};
use super::error::{Result, StoreError};

pub(super) async fn migrate<D: Dialect>(pool: &Pool<D>, limit: Duration) -> Result<()> {
    // A connection that is closed afterwards, and with it every setting.
    let mut connection = connection::connect(pool, limit).await?;
    let unsuitable = D::unsuitable_setting(&mut connection).await;
    if let Some(problem) = unsuitable.map_err(StoreError::Unavailable)? {
        return Err(StoreError::Unsuitable(problem));
    }
    let migrating = async {
        let mut migrator = D::migrator();
        migrator.dangerous_set_table_name(MIGRATIONS_TABLE);
        // A newer version may have been here: an older one works on its tables too.
        migrator.set_locking(false).set_ignore_missing(true);
        D::migrate_alone(&migrator, &mut connection).await?;
        connection.close().await?;
        Ok(())
    };
    match timeout(MIGRATION_TIMEOUT, migrating).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(MigrateError::Execute(cause))) => Err(StoreError::Unavailable(cause)),
        // The connection was lost: the statement itself is not to blame.
        Ok(Err(MigrateError::ExecuteMigration(cause @ sqlx::Error::Io(_), _version))) => {
            Err(StoreError::Unavailable(cause))
        }
        Ok(Err(other)) => Err(StoreError::Migration(other)),
        Err(_elapsed) => Err(StoreError::TimedOut(MIGRATION_TIMEOUT)),
    }
}
