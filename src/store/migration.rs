//! Brings a database up to date: one process at a time, and whatever a crash left halfway.
//!
//! sqlx applies the migrations. Its own lock does nothing on SQLite and on MariaDB, so the lock is
//! taken here, and its table gets a name of ours: the database may be shared with a program that
//! uses sqlx as well.

use std::time::Duration;

use sqlx::{
    Connection, Pool,
    migrate::{Migrate, MigrateError},
};
use tokio::time::timeout;

use super::{Result, StoreError, dialect::Dialect, session};

/// Bound of all migrations together, waiting for another process included. Building an index over
/// millions of rows may take minutes.
pub(super) const MIGRATION_TIMEOUT: Duration = Duration::from_mins(10);

/// What sqlx notes down.
pub(super) const MIGRATIONS: &str = "lobbyd_migrations";

pub(super) async fn migrate<D>(pool: &Pool<D>, limit: Duration) -> Result<()>
where
    D: Dialect,
    D::Connection: Migrate,
{
    // A connection that is closed afterwards, and with it every lock and setting.
    let mut connection = session::connect(pool, limit).await?;
    let migrating = async {
        let mut migrator = D::migrator();
        migrator.dangerous_set_table_name(MIGRATIONS);
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
