//! PostgreSQL.

use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Executor, PgConnection, Postgres};

use super::Dialect;
use crate::store::error::{Result, StoreError};
use crate::store::statements::Statement;

impl Dialect for Postgres {
    const BEGIN: &'static str = "BEGIN";

    fn text(statement: Statement) -> &'static str {
        statement.postgres
    }

    fn migrator() -> Migrator {
        sqlx::migrate!("migrations/postgres")
    }

    fn connect_options(url: &str, limit: Duration) -> Result<PgConnectOptions> {
        let connect: PgConnectOptions =
            url.parse().map_err(|error| StoreError::unusable_url(&error))?;
        // The server gives up as well, so that a statement whose client is gone holds no lock.
        let limit = limit.as_millis().to_string();
        Ok(connect.application_name("lobbyd").options([
            ("statement_timeout", limit.as_str()),
            ("idle_in_transaction_session_timeout", limit.as_str()),
        ]))
    }

    async fn migrate_alone(
        migrator: &Migrator,
        connection: &mut PgConnection,
    ) -> Result<(), MigrateError> {
        // A lock of the session. The number is "lobbyd" in ASCII: no other program takes it.
        connection
            .execute("SET statement_timeout = 0; SELECT pg_advisory_lock(x'6c6f62627964'::bigint)")
            .await?;
        migrator.run_direct(None, connection, false).await
    }
}
