//! One bounded use of a pooled connection.
//!
//! sqlx 0.9 loses a pool's permits for ever when a connection whose peer died silently is given
//! back (its issue 4349). So a connection goes back only after it has answered everything that it
//! was asked, and going back is bounded too. One that timed out, failed, or whose future was
//! dropped is closed instead, and the database rolls back what it had open.

use std::{future::Future, time::Duration};

use sqlx::{
    Connection, Database, Executor, FromRow, IntoArguments, Pool, pool::PoolConnection,
    query::Query,
};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout, timeout_at},
};

use super::{Result, StoreError, dialect::Dialect};

/// How long a connection may take that is only made to learn why there is none.
const REASON_TIMEOUT: Duration = Duration::from_millis(500);

/// One at a time: a crowd that finds the pool busy must not ask the database all at once.
static REASON: Semaphore = Semaphore::const_new(1);

/// A statement with its values.
pub(super) type Statement<D> = Query<'static, D, <D as Database>::Arguments>;

/// A connection on loan, until its deadline.
pub(super) struct Session<D: Dialect> {
    /// `None` once it is on its way back to the pool.
    connection: Option<PoolConnection<D>>,
    deadline: Instant,
    limit: Duration,
}

impl<D> Session<D>
where
    D: Dialect,
    for<'c> &'c mut D::Connection: Executor<'c, Database = D>,
    D::Arguments: IntoArguments<D>,
{
    /// Borrows a connection. All that is done with it has to be done within `limit`.
    pub(super) async fn open(pool: &Pool<D>, limit: Duration) -> Result<Self> {
        let deadline = Instant::now() + limit;
        match bounded::<D, _>(deadline, limit, pool.acquire()).await {
            Ok(connection) => Ok(Self { connection: Some(connection), deadline, limit }),
            // The pool has tried again and again, and keeps the reason to itself.
            Err(StoreError::TimedOut(_)) => match REASON.try_acquire() {
                Ok(_alone) => Err(connect(pool, REASON_TIMEOUT)
                    .await
                    .map_or_else(|reason| reason, |_connection| StoreError::TimedOut(limit))),
                Err(_asked_already) => Err(StoreError::TimedOut(limit)),
            },
            Err(error) => Err(error),
        }
    }

    pub(super) async fn begin(&mut self) -> Result<()> {
        self.control(D::STATEMENTS.begin).await
    }

    /// Makes the changes durable and gives the connection back.
    pub(super) async fn commit(mut self) -> Result<()> {
        self.control("COMMIT").await?;
        self.finish();
        Ok(())
    }

    /// Undoes the changes and gives the connection back.
    pub(super) async fn roll_back(mut self) -> Result<()> {
        self.control("ROLLBACK").await?;
        self.finish();
        Ok(())
    }

    pub(super) async fn fetch_all<T>(&mut self, statement: Statement<D>) -> Result<Vec<T>>
    where
        T: for<'r> FromRow<'r, D::Row>,
    {
        let (deadline, limit) = (self.deadline, self.limit);
        let rows = bounded::<D, _>(deadline, limit, statement.fetch_all(self.connection())).await?;
        rows.iter().map(|row| T::from_row(row).map_err(StoreError::Unreadable)).collect()
    }

    pub(super) async fn fetch_optional<T>(&mut self, statement: Statement<D>) -> Result<Option<T>>
    where
        T: for<'r> FromRow<'r, D::Row>,
    {
        let (deadline, limit) = (self.deadline, self.limit);
        let row =
            bounded::<D, _>(deadline, limit, statement.fetch_optional(self.connection())).await?;
        row.map(|row| T::from_row(&row).map_err(StoreError::Unreadable)).transpose()
    }

    pub(super) async fn fetch_one<T>(&mut self, statement: Statement<D>) -> Result<T>
    where
        T: for<'r> FromRow<'r, D::Row>,
    {
        let (deadline, limit) = (self.deadline, self.limit);
        let row = bounded::<D, _>(deadline, limit, statement.fetch_one(self.connection())).await?;
        T::from_row(&row).map_err(StoreError::Unreadable)
    }

    /// Returns the number of rows that the statement matched.
    pub(super) async fn execute(&mut self, statement: Statement<D>) -> Result<u64> {
        let (deadline, limit) = (self.deadline, self.limit);
        let done = bounded::<D, _>(deadline, limit, statement.execute(self.connection())).await?;
        Ok(D::rows_affected(&done))
    }

    /// Runs a statement of transaction control, which MySQL does not prepare.
    async fn control(&mut self, sql: &'static str) -> Result<()> {
        let (deadline, limit) = (self.deadline, self.limit);
        bounded::<D, _>(deadline, limit, self.connection().execute(sql)).await.map(|_done| ())
    }

    /// Has the database parse the statement without running it.
    pub(super) async fn prepare(&mut self, sql: &'static str) -> Result<()> {
        let (deadline, limit) = (self.deadline, self.limit);
        let sql = sqlx::SqlSafeStr::into_sql_str(sql);
        bounded::<D, _>(deadline, limit, self.connection().prepare(sql)).await.map(|_statement| ())
    }

    /// Gives the connection back to the pool.
    #[expect(
        clippy::disallowed_methods,
        reason = "sqlx itself spawns the return, but without a bound; this one ends within `limit`"
    )]
    pub(super) fn finish(mut self) {
        if let Some(mut connection) = self.connection.take() {
            let back = timeout(self.limit, async move { connection.return_to_pool().await });
            drop(tokio::spawn(back));
        }
    }

    fn connection(&mut self) -> &mut D::Connection {
        self.connection.as_mut().expect("a session has its connection until it is finished")
    }
}

impl<D: Dialect> Drop for Session<D> {
    /// Closes a connection that was not finished: its state is not known.
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            drop(connection.detach());
        }
    }
}

/// Makes a connection beside the pool.
pub(super) async fn connect<D: Dialect>(pool: &Pool<D>, limit: Duration) -> Result<D::Connection> {
    connect_by::<D>(&pool.connect_options(), limit).await
}

/// Makes a connection in another way than the pool, and has it run a statement.
pub(super) async fn probe<D>(
    options: &<D::Connection as Connection>::Options,
    limit: Duration,
    sql: &'static str,
) -> Result<()>
where
    D: Dialect,
    for<'c> &'c mut D::Connection: Executor<'c, Database = D>,
{
    let mut connection = connect_by::<D>(options, limit).await?;
    bounded::<D, _>(Instant::now() + limit, limit, connection.execute(sql)).await.map(|_done| ())
}

async fn connect_by<D: Dialect>(
    options: &<D::Connection as Connection>::Options,
    limit: Duration,
) -> Result<D::Connection> {
    let connecting = D::Connection::connect_with(options);
    bounded::<D, _>(Instant::now() + limit, limit, connecting).await
}

async fn bounded<D: Dialect, T>(
    deadline: Instant,
    limit: Duration,
    work: impl Future<Output = sqlx::Result<T>>,
) -> Result<T> {
    match timeout_at(deadline, work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(sqlx::Error::PoolTimedOut)) | Err(_) => Err(StoreError::TimedOut(limit)),
        Ok(Err(error)) if D::refuses_values(&error) => Err(StoreError::Rejected(error)),
        Ok(Err(error)) => Err(StoreError::Unavailable(error)),
    }
}

/// Closes the pool, but waits no longer than `limit` for its connections to say goodbye.
pub(super) async fn close<D: Database>(pool: &Pool<D>, limit: Duration)
where
    D::Connection: Connection,
{
    if timeout(limit, pool.close()).await.is_err() {
        tracing::debug!("database connections dropped without a close handshake");
    }
}
