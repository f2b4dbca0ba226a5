//! SQLite.

use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{Connection, Sqlite, SqliteConnection};

use super::{Dialect, Verdict, run_migrations};
use crate::store::error::{Result, StoreError};
use crate::store::file::foreign_file;
use crate::store::statements::Statement;

/// How long a writer waits for another one, as a fraction of the time that one use may take: the rest
/// is for the work itself.
const BUSY_SHARE: f64 = 0.8;

/// Page cache of one connection: 512 KiB. Due timers are close together in a few pages of the
/// index, and the system's own cache holds the others, so that memory does not grow with the rooms.
const CACHE_SIZE: &str = "-512";

/// Rows that sqlx's thread of a connection may be ahead of its reader: those of a batch, so that
/// neither waits for the other.
const ROW_BUFFER_SIZE: usize = 512;

impl Dialect for Sqlite {
    const SINGLE_WRITER: bool = true;

    // A transaction that reads first and then writes fails at once if another one wrote in
    // between, whatever the busy timeout, unless it takes the write lock at its beginning.
    const BEGIN: &'static str = "BEGIN IMMEDIATE";

    fn text(statement: Statement) -> &'static str {
        statement.sqlite
    }

    fn migrator() -> Migrator {
        sqlx::migrate!("migrations/sqlite")
    }

    fn connect_options(
        url: &str,
        limit: Duration,
        _application: &str,
    ) -> Result<SqliteConnectOptions> {
        if url.contains(":memory:") || url.contains("mode=memory") {
            return Err(StoreError::Url(
                "a database in memory would be another one for each connection; name a file"
                    .to_owned(),
            ));
        }
        let connect: SqliteConnectOptions =
            url.parse().map_err(|error| StoreError::unusable_url(&error))?;
        Ok(connect
            .journal_mode(SqliteJournalMode::Wal)
            // An event is acknowledged after its effect is durable, also through a loss of power.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs_f64(limit.as_secs_f64() * BUSY_SHARE))
            .row_buffer_size(ROW_BUFFER_SIZE)
            .pragma("cache_size", CACHE_SIZE))
    }

    fn foreign_file(options: &SqliteConnectOptions) -> Option<String> {
        foreign_file(options.get_filename())
    }

    async fn is_writable(_connection: &mut SqliteConnection) -> sqlx::Result<bool> {
        Ok(true)
    }

    async fn migrate_alone(
        migrator: &Migrator,
        connection: &mut SqliteConnection,
    ) -> Result<(), MigrateError> {
        // The write lock, in one transaction around all of them.
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
        run_migrations(migrator, &mut *transaction).await?;
        Ok(transaction.commit().await?)
    }

    fn verdict(error: &dyn DatabaseError) -> Verdict {
        let code = error.code().and_then(|code| code.parse().ok());
        verdict(code.unwrap_or_default())
    }
}

/// The verdict of a result code. Its low byte is the primary code.
fn verdict(code: u32) -> Verdict {
    match code & 0xff {
        // BUSY, LOCKED.
        5 | 6 => Verdict::Contended,
        // INTERRUPT.
        9 => Verdict::TooSlow,
        // TOOBIG, CONSTRAINT (RAISE in a trigger included), MISMATCH.
        18..=20 => Verdict::Rejected,
        // ERROR: no such table, or a function that a trigger called with a bad value.
        1 => Verdict::Failed,
        _ => Verdict::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_of_a_statement_itself_are_rejections() {
        // CHECK, UNIQUE, RAISE.
        for code in [275, 2067, 1811] {
            assert_eq!(verdict(code), Verdict::Rejected, "{code}");
        }
        // READONLY, IOERR, CORRUPT, FULL, CANTOPEN, NOTADB.
        for code in [8, 10, 11, 13, 14, 26] {
            assert_eq!(verdict(code), Verdict::Unavailable, "{code}");
        }
        assert_eq!(verdict(1), Verdict::Failed);
        // BUSY, BUSY_SNAPSHOT.
        for code in [5, 517] {
            assert_eq!(verdict(code), Verdict::Contended, "{code}");
        }
    }
}
