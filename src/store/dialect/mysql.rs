//! MariaDB and MySQL.

use std::time::Duration;

use sqlx::migrate::{Migrate, MigrateError, Migrator};
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sqlx::{AssertSqlSafe, Error, Executor, MySql, MySqlConnection};

use super::{Dialect, MIGRATION_TIMEOUT, MIGRATIONS_TABLE};
use crate::store::error::{Result, StoreError};
use crate::store::statements::Statement;

impl Dialect for MySql {
    const BEGIN: &'static str = "START TRANSACTION";

    fn text(statement: Statement) -> &'static str {
        statement.mysql
    }

    fn migrator() -> Migrator {
        sqlx::migrate!("migrations/mysql")
    }

    fn connect_options(url: &str, _limit: Duration) -> Result<MySqlConnectOptions> {
        url.parse().map_err(|error| StoreError::unusable_url(&error))
    }

    fn pool_options(limit: Duration) -> MySqlPoolOptions {
        // Lock waits end before the use of the connection does. MariaDB also ends a transaction
        // whose client has gone silent, as PostgreSQL does, and so frees its rooms for the other
        // workers; MySQL has no such setting.
        let seconds = lock_wait_seconds(limit);
        let lock_wait = format!(
            "SET SESSION innodb_lock_wait_timeout = {seconds} \
             /*M!100300 , SESSION idle_transaction_timeout = {seconds} */"
        );
        MySqlPoolOptions::new().after_connect(move |connection, _| {
            let lock_wait = AssertSqlSafe(lock_wait.clone());
            Box::pin(async move {
                // With the default, repeatable read, the range of due timers would be locked
                // against the arming of new ones.
                connection
                    .execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
                    .await?;
                connection.execute(lock_wait).await.map(drop)
            })
        })
    }

    async fn migrate_alone(
        migrator: &Migrator,
        connection: &mut MySqlConnection,
    ) -> Result<(), MigrateError> {
        // A lock of the session, among those of the whole server.
        let lock = "SELECT GET_LOCK(CONCAT('lobbyd_migrations ', DATABASE()), ?)";
        let locked: Option<i64> = sqlx::query_scalar(lock)
            .bind(MIGRATION_TIMEOUT.as_secs())
            .fetch_one(&mut *connection)
            .await?;
        if locked != Some(1) {
            return Err(
                Error::Protocol("migration lock not released by another process".into()).into()
            );
        }
        // A migration that was interrupted has done some of its work, because MySQL commits every
        // change of a table at once. All of them can be repeated.
        connection.ensure_migrations_table(MIGRATIONS_TABLE).await?;
        connection.execute("DELETE FROM lobbyd_migrations WHERE success = FALSE").await?;
        migrator.run_direct(None, connection, false).await
    }
}

/// Whole seconds, at least one: MySQL has nothing finer.
fn lock_wait_seconds(limit: Duration) -> u64 {
    limit.as_secs().saturating_sub(1).max(1)
}
