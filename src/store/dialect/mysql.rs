//! MariaDB and MySQL.

use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::migrate::{Migrate, MigrateError, Migrator};
use sqlx::mysql::{MySqlConnectOptions, MySqlDatabaseError, MySqlPoolOptions, MySqlSslMode};
use sqlx::{AssertSqlSafe, Error, Executor, MySql, MySqlConnection};

use super::{Dialect, Endpoint, MIGRATION_TIMEOUT, MIGRATIONS_TABLE, Verdict, run_migrations};
use crate::store::error::{Result, StoreError};
use crate::store::statements::Statement;

/// The dialect of the statements, whatever the server's default.
const SQL_MODE: &str = "SET SESSION sql_mode = \
                        'STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION'";

/// Lock waits that fit into one use of the database.
const LOCK_WAITS: u32 = 3;

impl Dialect for MySql {
    const BEGIN: &'static str = "START TRANSACTION";

    fn text(statement: Statement) -> &'static str {
        statement.mysql
    }

    fn migrator() -> Migrator {
        sqlx::migrate!("migrations/mysql")
    }

    fn connect_options(
        url: &str,
        _limit: Duration,
        _application: &str,
    ) -> Result<MySqlConnectOptions> {
        url.parse().map_err(|error| StoreError::unusable_url(&error))
    }

    fn endpoint(options: &MySqlConnectOptions) -> Option<Endpoint> {
        let (host, is_fixed) = if let Some(socket) = options.get_socket() {
            (socket.display().to_string(), true)
        } else {
            let is_verified = matches!(options.get_ssl_mode(), MySqlSslMode::VerifyIdentity);
            (options.get_host().trim_matches(['[', ']']).to_owned(), is_verified)
        };
        Some(Endpoint { host, port: options.get_port(), is_fixed })
    }

    fn with_host(options: MySqlConnectOptions, host: &str) -> MySqlConnectOptions {
        options.host(host)
    }

    async fn is_writable(connection: &mut MySqlConnection) -> sqlx::Result<bool> {
        let read_only: i64 =
            sqlx::query_scalar("SELECT @@GLOBAL.read_only").fetch_one(&mut *connection).await?;
        // A node that has lost its cluster answers the query.
        connection.execute("START TRANSACTION").await?;
        connection.execute("ROLLBACK").await?;
        Ok(read_only == 0)
    }

    fn pool_options(limit: Duration) -> MySqlPoolOptions {
        // Lock waits end early enough for another attempt. MariaDB also ends a statement that takes
        // too long, and a transaction whose client has gone silent, as PostgreSQL does, and so frees
        // their rooms; MySQL has no such settings.
        let lock_wait = whole_seconds(limit / LOCK_WAITS);
        let longest = whole_seconds(limit);
        // Statements outside of transactions commit themselves, whatever the server's default.
        // Without join buffers, the rows of a set are found by their keys. Otherwise the optimiser
        // scans a small table, and an update waits for a locked row that is not in the set.
        let settings = format!(
            "SET SESSION autocommit = 1, SESSION innodb_lock_wait_timeout = {lock_wait} \
             /*M!100300 , SESSION max_statement_time = {longest} , \
             SESSION idle_transaction_timeout = {longest} , \
             SESSION join_cache_level = 0 */ \
             /*!80000 , SESSION optimizer_switch = 'block_nested_loop=off' */"
        );
        MySqlPoolOptions::new().after_connect(move |connection, _| {
            let settings = AssertSqlSafe(settings.clone());
            Box::pin(async move {
                // With the default, repeatable read, the range of due timers would be locked
                // against the arming of new ones.
                connection
                    .execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
                    .await?;
                connection.execute(SQL_MODE).await?;
                connection.execute(settings).await.map(drop)
            })
        })
    }

    fn refuses_login(error: &dyn DatabaseError) -> bool {
        // Access denied to user, to database; unknown database; host, plugin, locked account.
        let number = error.try_downcast_ref().map_or(0, MySqlDatabaseError::number);
        matches!(number, 1044 | 1045 | 1049 | 1130 | 1698 | 3118 | 4151)
    }

    fn is_full(error: &dyn DatabaseError) -> bool {
        // Too many connections: of all, of this user, by the user's own limit.
        let number = error.try_downcast_ref().map_or(0, MySqlDatabaseError::number);
        matches!(number, 1040 | 1203 | 1226)
    }

    async fn unsuitable_setting(connection: &mut MySqlConnection) -> sqlx::Result<Option<String>> {
        let names = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('log_bin', 'binlog_format')";
        let settings: Vec<(String, String)> = sqlx::query_as(names).fetch_all(connection).await?;
        let is = |name: &str, value: &str| settings.contains(&(name.to_owned(), value.to_owned()));
        let problem = "binlog_format=STATEMENT cannot log transactions at READ COMMITTED; set it to \
                       MIXED or ROW";
        let is_unsuitable = is("log_bin", "ON") && is("binlog_format", "STATEMENT");
        Ok(is_unsuitable.then(|| problem.to_owned()))
    }

    async fn migrate_alone(
        migrator: &Migrator,
        connection: &mut MySqlConnection,
    ) -> Result<(), MigrateError> {
        connection.execute(SQL_MODE).await?;
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
        run_migrations(migrator, connection).await
    }

    fn verdict(error: &dyn DatabaseError) -> Verdict {
        let number = error.try_downcast_ref().map_or(0, MySqlDatabaseError::number);
        verdict(number, error.code().as_deref().unwrap_or_default())
    }
}

/// The verdict of an error number and its SQLSTATE. Many of the numbers have no state of their own,
/// and MariaDB and MySQL differ in them.
fn verdict(number: u16, state: &str) -> Verdict {
    match (number, state.get(..2).unwrap_or_default()) {
        // Lock wait, deadlock, NOWAIT, and a row that changed since it was read.
        (1205 | 1213 | 3572 | 1020, _) | (_, "40") => Verdict::Contended,
        // Interrupted, max_statement_time, max_execution_time.
        (1317 | 1969 | 3024, _) => Verdict::TooSlow,
        // No value, text, view with a check, trigger that reads its table, partition, CHECK. States:
        // cardinality, data, constraint, view with a check, SIGNAL.
        (1364 | 1366 | 1369 | 1442 | 1526 | 1748 | 3819 | 4025, _)
        | (_, "21" | "22" | "23" | "44" | "45") => Verdict::Rejected,
        // Disk, files and memory, connections, locks and limits of a user, a commit that failed,
        // prepared statements, read-only.
        (
            0 | 1021 | 1026 | 1030 | 1034 | 1035 | 1037 | 1038 | 1040 | 1041 | 1044 | 1049 | 1114
            | 1180 | 1194 | 1195 | 1203 | 1206 | 1223 | 1226 | 1243 | 1290 | 1461 | 1615 | 1836,
            _,
        )
        // Connection, transaction state, login, resources, operator, killed.
        | (_, "08" | "25" | "28" | "53" | "57" | "70") => Verdict::Unavailable,
        _ => Verdict::Failed,
    }
}

/// At least one: MySQL has nothing finer.
fn whole_seconds(limit: Duration) -> u64 {
    limit.as_secs().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_of_a_statement_itself_are_rejections() {
        for (number, state) in [(1644, "45000"), (1062, "23000"), (4025, "23000"), (3819, "HY000")]
        {
            assert_eq!(verdict(number, state), Verdict::Rejected, "{number}");
        }
        for (number, state) in [
            (1040, "08004"),
            (1047, "08S01"),
            (1045, "28000"),
            (1021, "HY000"),
            (1290, "HY000"),
            (1792, "25006"),
            (1927, "70100"),
        ] {
            assert_eq!(verdict(number, state), Verdict::Unavailable, "{number}");
        }
        for (number, state) in
            [(1054, "42S22"), (1142, "42000"), (1146, "42S02"), (1305, "42000"), (1429, "HY000")]
        {
            assert_eq!(verdict(number, state), Verdict::Failed, "{number}");
        }
        assert_eq!(verdict(1213, "40001"), Verdict::Contended);
        assert_eq!(verdict(1205, "HY000"), Verdict::Contended);
        assert_eq!(verdict(1969, "70100"), Verdict::TooSlow);
    }
}
