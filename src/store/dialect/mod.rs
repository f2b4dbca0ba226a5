//! What differs between the databases, apart from the text of the statements.
//!
//! Only four types of value cross to a database and back, so everything above this module is free
//! of sqlx's generic bounds.

mod mysql;
mod postgres;
mod sqlite;

use std::fmt;
use std::future::Future;
use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::migrate::{Migrate, MigrateError, Migrator};
use sqlx::mysql::MySqlRow;
use sqlx::pool::PoolOptions;
use sqlx::postgres::PgRow;
use sqlx::query::Query;
use sqlx::sqlite::SqliteRow;
use sqlx::{Connection, Database, Executor, MySql, Postgres, Row, SqlSafeStr, Sqlite};

use super::error::{Result, StoreError};
use super::statements::Statement;
use crate::domain::{AttendeeId, RoomId, RoomToken};
use crate::failpoints::{self, Point};

/// The table in which sqlx records the migrations that were applied. sqlx's own name may belong to
/// another program that shares the database.
pub(super) const MIGRATIONS_TABLE: &str = "lobbyd_migrations";

/// Bound of all migrations together, waiting for another process included. Building an index over
/// millions of rows may take minutes.
pub(super) const MIGRATION_TIMEOUT: Duration = Duration::from_mins(10);

/// A value that is bound to a placeholder.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    Int(Option<i64>),
    Text(Option<&'a str>),
}

/// The values of a statement, in the order of its placeholders.
macro_rules! values {
    ($($value:expr),* $(,)?) => {
        &[$(crate::store::dialect::Value::from($value)),*]
    };
}
pub(super) use values;

macro_rules! into_value {
    ($($from:ty: |$value:pat_param| $into:expr;)*) => {
        $(impl<'a> From<$from> for Value<'a> {
            fn from($value: $from) -> Self {
                $into
            }
        })*
    };
}

into_value! {
    i64: |number| Self::Int(Some(number));
    u32: |number| Self::Int(Some(number.into()));
    Option<i64>: |number| Self::Int(number);
    RoomId: |RoomId(number)| Self::Int(Some(number));
    AttendeeId: |AttendeeId(number)| Self::Int(Some(number));
    &'a str: |text| Self::Text(Some(text));
    &'a String: |text| Self::Text(Some(text));
    Option<&'a str>: |text| Self::Text(text);
    &'a RoomToken: |token| Self::Text(Some(token.as_str()));
}

/// A host name, an address or the path of a socket, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct Endpoint {
    pub(in crate::store) host: String,
    pub(in crate::store) port: u16,
    /// Whether it cannot be replaced by an address: a socket, or a name that the certificate has to
    /// match.
    pub(in crate::store) is_fixed: bool,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// A row of a result, read by the names of its columns.
pub(super) trait Columns {
    fn int(&self, column: &str) -> Result<i64>;
    fn int_or_null(&self, column: &str) -> Result<Option<i64>>;
    fn text(&self, column: &str) -> Result<String>;
    fn text_or_null(&self, column: &str) -> Result<Option<String>>;
}

/// The primitives of sqlx's driver for a database.
pub(super) trait Driver: Database<Row: Columns, Connection: Migrate> {
    fn fetch_all(
        connection: &mut Self::Connection,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> impl Future<Output = sqlx::Result<Vec<Self::Row>>> + Send;

    /// Returns the number of rows that the statement matched.
    fn execute(
        connection: &mut Self::Connection,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> impl Future<Output = sqlx::Result<u64>> + Send;

    /// Runs a statement that MySQL cannot prepare.
    fn execute_unprepared(
        connection: &mut Self::Connection,
        sql: &'static str,
    ) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Has the database parse and plan a statement without running it.
    fn prepare(
        connection: &mut Self::Connection,
        sql: &'static str,
    ) -> impl Future<Output = sqlx::Result<()>> + Send;
}

/// Implements the driver for each database. sqlx's traits could be generic over them only with bounds
/// that every caller would have to repeat.
macro_rules! driver {
    ($database:ty, $row:ty) => {
        impl Columns for $row {
            fn int(&self, column: &str) -> Result<i64> {
                self.try_get(column).map_err(StoreError::Unreadable)
            }

            fn int_or_null(&self, column: &str) -> Result<Option<i64>> {
                self.try_get(column).map_err(StoreError::Unreadable)
            }

            fn text(&self, column: &str) -> Result<String> {
                self.try_get(column).map_err(StoreError::Unreadable)
            }

            fn text_or_null(&self, column: &str) -> Result<Option<String>> {
                self.try_get(column).map_err(StoreError::Unreadable)
            }
        }

        impl Driver for $database {
            fn fetch_all(
                connection: &mut Self::Connection,
                sql: &'static str,
                values: &[Value<'_>],
            ) -> impl Future<Output = sqlx::Result<Vec<Self::Row>>> + Send {
                bind!($database, sql, values).fetch_all(connection)
            }

            async fn execute(
                connection: &mut Self::Connection,
                sql: &'static str,
                values: &[Value<'_>],
            ) -> sqlx::Result<u64> {
                let done = bind!($database, sql, values).execute(connection).await?;
                Ok(done.rows_affected())
            }

            async fn execute_unprepared(
                connection: &mut Self::Connection,
                sql: &'static str,
            ) -> sqlx::Result<()> {
                Executor::execute(connection, sql).await.map(drop)
            }

            async fn prepare(
                connection: &mut Self::Connection,
                sql: &'static str,
            ) -> sqlx::Result<()> {
                Executor::prepare(connection, sql.into_sql_str()).await.map(drop)
            }
        }
    };
}

macro_rules! bind {
    ($database:ty, $sql:expr, $values:expr) => {{
        let query: Query<'_, $database, _> = sqlx::query($sql);
        $values.iter().fold(query, |query, value| match *value {
            Value::Int(number) => query.bind(number),
            Value::Text(text) => query.bind(text),
        })
    }};
}

driver!(Postgres, PgRow);
driver!(MySql, MySqlRow);
driver!(Sqlite, SqliteRow);

/// How to connect to a database by its driver.
pub(super) type ConnectOptions<D> = <<D as Database>::Connection as Connection>::Options;

/// What an error with which a database answers a statement says about a retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The database cannot do its work now.
    Unavailable,
    /// The database cannot run this statement: a table is missing, or a trigger needs one for some
    /// rows.
    Failed,
    /// The server itself ended the statement at the limit.
    TooSlow,
    /// Another transaction was in the way.
    Contended,
    /// It concerns this statement alone.
    Rejected,
}

/// Says more about an error if the database is available and cannot run a statement.
pub(super) fn explain_failed<D: Dialect>(
    error: StoreError,
    explain: fn(sqlx::Error) -> StoreError,
) -> StoreError {
    let StoreError::Unavailable(error) = error else { return error };
    match error.as_database_error().map(D::verdict) {
        Some(Verdict::Failed) => explain(error),
        Some(_) | None => StoreError::Unavailable(error),
    }
}

/// Applies the migrations that are missing. On tables that exist, one of them may take minutes, so the log
/// says which one it is.
async fn run_migrations<C: Migrate>(
    migrator: &Migrator,
    connection: &mut C,
) -> Result<(), MigrateError> {
    connection.ensure_migrations_table(MIGRATIONS_TABLE).await?;
    let applied = connection.list_applied_migrations(MIGRATIONS_TABLE).await?;
    let is_missing = |version| applied.iter().all(|applied| applied.version != version);
    let missing: Vec<_> =
        migrator.iter().filter(|migration| is_missing(migration.version)).collect();
    let total = missing.len();
    for (migration, number) in missing.into_iter().zip(1..) {
        if !applied.is_empty() {
            let name = &migration.description;
            tracing::info!("applying migration {number} of {total}: {name}");
        }
        migrator.run_direct(Some(migration.version), connection, false).await?;
        failpoints::reach(Point::MidMigration);
    }
    migrator.run_direct(None, connection, false).await
}

/// A database that lobbyd runs on.
pub(super) trait Dialect: Driver {
    /// Whether a transaction that writes locks the whole database.
    const SINGLE_WRITER: bool = false;

    /// Begins a transaction that will write.
    const BEGIN: &'static str;

    /// Shortens the lock waits of a transaction to about a second, where its statements cannot.
    const SHORT_LOCK_WAITS: Option<&'static str> = None;

    /// Shortens the statements of a transaction to a second, where they cannot say so themselves.
    const SHORT_STATEMENTS: Option<&'static str> = None;

    fn text(statement: Statement) -> &'static str;

    fn migrator() -> Migrator;

    /// How to connect by a URL, for uses that may take up to `limit`. The database lists the
    /// connections under the name `application`, if it can and the URL has none.
    fn connect_options(
        url: &str,
        limit: Duration,
        application: &str,
    ) -> Result<ConnectOptions<Self>>;

    /// The server to which these options lead; `None` for a file.
    fn endpoint(_options: &ConnectOptions<Self>) -> Option<Endpoint> {
        None
    }

    /// The same options for another host.
    fn with_host(options: ConnectOptions<Self>, _host: &str) -> ConnectOptions<Self> {
        options
    }

    /// Whether the server is not a standby, nor made read-only.
    fn is_writable(
        connection: &mut Self::Connection,
    ) -> impl Future<Output = sqlx::Result<bool>> + Send;

    /// Whether the server does not accept this user, or not for this database.
    fn refuses_login(_error: &dyn DatabaseError) -> bool {
        false
    }

    /// Whether the server has no connection left, for this user or for all, and the pool does not try
    /// again by itself.
    fn is_full(_error: &dyn DatabaseError) -> bool {
        false
    }

    /// A file of the database that this user may not write, and whose it is.
    fn foreign_file(_options: &ConnectOptions<Self>) -> Option<String> {
        None
    }

    /// What has to be changed at the server before lobbyd can run on it.
    fn unsuitable_setting(
        _connection: &mut Self::Connection,
    ) -> impl Future<Output = sqlx::Result<Option<String>>> + Send {
        std::future::ready(Ok(None))
    }

    /// How to set up connections for uses that may take up to `limit`.
    fn pool_options(_limit: Duration) -> PoolOptions<Self> {
        PoolOptions::new()
    }

    /// Runs the migrations while no other connection does.
    fn migrate_alone(
        migrator: &Migrator,
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<(), MigrateError>> + Send;

    /// What the database's answer to a statement means for a retry of it.
    fn verdict(error: &dyn DatabaseError) -> Verdict;
}
