//! PostgreSQL.

use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgDatabaseError, PgSslMode};
use sqlx::{Connection, Executor, PgConnection, Postgres};

use super::{Dialect, Endpoint, Verdict, run_migrations};
use crate::store::error::{Result, StoreError};
use crate::store::statements::Statement;

impl Dialect for Postgres {
    // The default of the server may be stricter, and then changes of one room fail each other.
    const BEGIN: &'static str = "BEGIN ISOLATION LEVEL READ COMMITTED";

    const SHORT_LOCK_WAITS: Option<&'static str> = Some("SET LOCAL lock_timeout = '900ms'");
    const SHORT_STATEMENTS: Option<&'static str> = Some("SET LOCAL statement_timeout = '1s'");

    fn text(statement: Statement) -> &'static str {
        statement.postgres
    }

    fn migrator() -> Migrator {
        sqlx::migrate!("migrations/postgres")
    }

    fn connect_options(url: &str, limit: Duration, application: &str) -> Result<PgConnectOptions> {
        // That is what `Servers` looks for, and sqlx does not know it.
        let url = url.replace("target_session_attrs=read-write", "");
        let mut connect: PgConnectOptions =
            url.parse().map_err(|error| StoreError::unusable_url(&error))?;
        if connect.get_application_name().is_none() {
            connect = connect.application_name(application);
        }
        // The server gives up as well, so that a statement whose client is gone holds no lock.
        let limit = limit.as_millis().to_string();
        Ok(connect.options([
            ("statement_timeout", limit.as_str()),
            ("idle_in_transaction_session_timeout", limit.as_str()),
            // Statements name what they read by a key. After a burst, the statistics and the cached
            // plans are those of a nearly empty table, which would be read from end to end.
            ("enable_seqscan", "off"),
        ]))
    }

    fn endpoint(options: &PgConnectOptions) -> Option<Endpoint> {
        let (host, is_fixed) = if let Some(socket) = options.get_socket() {
            (socket.display().to_string(), true)
        } else {
            let is_verified = matches!(options.get_ssl_mode(), PgSslMode::VerifyFull);
            (options.get_host().trim_matches(['[', ']']).to_owned(), is_verified)
        };
        Some(Endpoint { host, port: options.get_port(), is_fixed })
    }

    fn with_host(options: PgConnectOptions, host: &str) -> PgConnectOptions {
        options.host(host)
    }

    async fn is_writable(connection: &mut PgConnection) -> sqlx::Result<bool> {
        let read_only: String =
            sqlx::query_scalar("SHOW transaction_read_only").fetch_one(connection).await?;
        Ok(read_only == "off")
    }

    fn refuses_login(error: &dyn DatabaseError) -> bool {
        // Classes: invalid authorization, invalid catalog name.
        error.code().is_some_and(|code| code.starts_with("28") || code.starts_with("3D"))
    }

    async fn unsuitable_setting(connection: &mut PgConnection) -> sqlx::Result<Option<String>> {
        let encoding: String =
            sqlx::query_scalar("SHOW server_encoding").fetch_one(connection).await?;
        let problem = || format!("the database has the encoding {encoding}, and lobbyd needs UTF8");
        Ok((encoding != "UTF8").then(problem))
    }

    async fn migrate_alone(
        migrator: &Migrator,
        connection: &mut PgConnection,
    ) -> Result<(), MigrateError> {
        // A lock of the transaction, because pgbouncer would keep one of the session. The number is
        // "lobbyd" in ASCII: no other program takes it.
        let mut transaction = connection.begin().await?;
        let lock = "SET LOCAL statement_timeout = 0; \
                    SELECT pg_advisory_xact_lock(x'6c6f62627964'::bigint)";
        transaction.execute(lock).await?;
        run_migrations(migrator, &mut *transaction).await?;
        Ok(transaction.commit().await?)
    }

    fn verdict(error: &dyn DatabaseError) -> Verdict {
        let routine = error.try_downcast_ref().and_then(PgDatabaseError::routine);
        verdict(error.code().as_deref().unwrap_or_default(), routine)
    }
}

/// The verdict of a SQLSTATE, which `routine` of the server has raised.
fn verdict(code: &str, routine: Option<&str>) -> Verdict {
    match (code, code.get(..2).unwrap_or_default()) {
        // Serialization failure, deadlock, lock not available.
        ("40001" | "40P01" | "55P03", _) => Verdict::Contended,
        // statement_timeout, transaction_timeout.
        ("57014" | "25P04", _) => Verdict::TooSlow,
        // Of missing rights only a row policy is about the row.
        ("42501", _) if routine == Some("ExecWithCheckOptions") => Verdict::Rejected,
        // Outcome of a commit unknown. Classes: connection, transaction state (read-only), prepared
        // statement, login, catalog, resources, operator, system, configuration.
        ("40003", _) | (_, "08" | "25" | "26" | "28" | "3D" | "53" | "57" | "58" | "F0" | "") => {
            Verdict::Unavailable
        }
        // Feature (a cached plan), schema, tables and rights, foreign data, internal error.
        (_, "0A" | "3F" | "42" | "HV" | "XX") => Verdict::Failed,
        _ => Verdict::Rejected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_of_a_statement_itself_are_rejections() {
        for code in ["22003", "23505", "23514", "44000", "P0001", "09000", "38000", "54001"] {
            assert_eq!(verdict(code, None), Verdict::Rejected, "{code}");
        }
        for code in ["08006", "25006", "28000", "53300", "57P01", "58030"] {
            assert_eq!(verdict(code, None), Verdict::Unavailable, "{code}");
        }
        for code in ["0A000", "42501", "42703", "42883", "42P01", "XX000"] {
            assert_eq!(verdict(code, None), Verdict::Failed, "{code}");
        }
        for code in ["40001", "40P01", "55P03"] {
            assert_eq!(verdict(code, None), Verdict::Contended, "{code}");
        }
        assert_eq!(verdict("57014", None), Verdict::TooSlow);
        assert_eq!(verdict("42501", Some("aclcheck_error")), Verdict::Failed);
        assert_eq!(verdict("42501", Some("ExecWithCheckOptions")), Verdict::Rejected);
    }
}
