//! One bounded use of a pooled connection, and a transaction on it.
//!
//! sqlx 0.9 loses a pool's permits forever when a connection whose peer died silently is returned
//! (its issue 4349). So a connection is returned only after it has answered every statement, and
//! returning it is bounded too. One that timed out, failed, or whose future was dropped is closed
//! instead, and the database rolls back its transaction. Every method of the store uses this.

use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{Connection as _, Pool};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use super::acquire::made_or_returned;
use super::commits::CommitGate;
use super::dialect::{ConnectOptions, Dialect, Value, Verdict};
use super::error::{CommandError, Result, StoreError};
use super::no_signaling::NoSignaling;
use super::servers::Servers;
use super::statements::{Statement, inbox};
use crate::failpoints::{self, Point};

/// Bound of a connection that is made only to learn why the pool has none.
const REASON_TIMEOUT: Duration = Duration::from_millis(500);

/// One at a time: many requests that find the pool busy must not all connect at once.
static REASON: Semaphore = Semaphore::const_new(1);

/// By when a use of the database has to end.
#[derive(Clone, Copy)]
struct Deadline {
    at: Instant,
    limit: Duration,
}

impl Deadline {
    fn after(limit: Duration) -> Self {
        Self { at: Instant::now() + limit, limit }
    }

    async fn bound<D: Dialect, T>(self, work: impl Future<Output = sqlx::Result<T>>) -> Result<T> {
        match timeout_at(self.at, work).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(sqlx::Error::PoolTimedOut)) | Err(_) => Err(StoreError::TimedOut(self.limit)),
            Ok(Err(error)) => Err(match error.as_database_error().map(D::verdict) {
                Some(Verdict::Contended) => StoreError::Contended(error),
                Some(Verdict::TooSlow) => StoreError::TimedOut(self.limit),
                Some(Verdict::Rejected) => StoreError::Rejected(error),
                Some(Verdict::Failed | Verdict::Unavailable) | None => {
                    StoreError::Unavailable(error)
                }
            }),
        }
    }
}

/// A connection of the pool, until its deadline. Dropped, it is closed; see
/// [`release`](Self::release).
pub(super) struct Connection<D: Dialect> {
    /// `None` once it is being returned.
    inner: Option<PoolConnection<D>>,
    deadline: Deadline,
    servers: Arc<Servers<D>>,
}

impl<D: Dialect> Connection<D> {
    /// Takes a connection from the pool, to the server that can write. All that is done with it has to
    /// be done within `limit`.
    pub(super) async fn acquire(
        pool: &Pool<D>,
        servers: &Arc<Servers<D>>,
        limit: Duration,
    ) -> Result<Self> {
        let deadline = Deadline::after(limit);
        let acquiring = async {
            servers.settle(pool).await;
            let mut acquiring = Box::pin(made_or_returned(pool));
            if servers.are_several() {
                let waited = timeout(servers.attempt, &mut acquiring).await;
                if let Ok(Ok(connection)) = waited {
                    return Ok(connection);
                }
                if servers.replace_silent(pool).await || waited.is_ok() {
                    acquiring = Box::pin(made_or_returned(pool));
                }
            }
            acquiring.await
        };
        let acquired = deadline.bound::<D, _>(acquiring).await;
        if acquired.is_err() {
            servers.suspect();
        }
        match acquired {
            Ok(connection) => {
                let servers = Arc::clone(servers);
                Ok(Self { inner: Some(connection), deadline, servers })
            }
            // The pool has tried again and again, and does not tell the reason.
            Err(StoreError::TimedOut(_)) => match REASON.try_acquire() {
                Ok(_permit) => Err(connect(pool, REASON_TIMEOUT)
                    .await
                    .map_or_else(|reason| reason, |_connection| StoreError::TimedOut(limit))),
                Err(_taken) => Err(StoreError::TimedOut(limit)),
            },
            Err(error) => Err(error),
        }
    }

    pub(super) async fn fetch_all<T>(
        &mut self,
        statement: Statement,
        values: &[Value<'_>],
        from_row: impl Fn(&D::Row) -> Result<T> + Send,
    ) -> Result<Vec<T>> {
        let deadline = self.deadline;
        let fetch = D::fetch_all(self.connection(), D::text(statement), values);
        let rows = deadline.bound::<D, _>(fetch).await;
        self.judged(rows)?.iter().map(from_row).collect()
    }

    /// Fetches the only row of a result that has at most one.
    pub(super) async fn fetch_optional<T>(
        &mut self,
        statement: Statement,
        values: &[Value<'_>],
        from_row: impl Fn(&D::Row) -> Result<T> + Send,
    ) -> Result<Option<T>> {
        Ok(self.fetch_all(statement, values, from_row).await?.pop())
    }

    /// Fetches the only row of a result that always has one.
    pub(super) async fn fetch_one<T>(
        &mut self,
        statement: Statement,
        values: &[Value<'_>],
        from_row: impl Fn(&D::Row) -> Result<T> + Send,
    ) -> Result<T> {
        let row = self.fetch_optional(statement, values, from_row).await?;
        row.ok_or(StoreError::Unreadable(sqlx::Error::RowNotFound))
    }

    /// Has the database parse and plan the statement without running it.
    pub(super) async fn prepare(&mut self, statement: Statement) -> Result<()> {
        let deadline = self.deadline;
        let prepare = D::prepare(self.connection(), D::text(statement));
        let prepared = deadline.bound::<D, _>(prepare).await;
        self.judged(prepared)
    }

    /// Fails if the server is not set up as lobbyd needs it.
    pub(super) async fn check_settings(&mut self) -> Result<()> {
        let deadline = self.deadline;
        match deadline.bound::<D, _>(D::unsuitable_setting(self.connection())).await? {
            Some(problem) => Err(StoreError::Unsuitable(problem)),
            None => Ok(()),
        }
    }

    /// Begins a new use of the connection.
    pub(super) fn restart_deadline(&mut self) {
        self.deadline = Deadline::after(self.deadline.limit);
    }

    /// Returns the connection to the pool.
    #[expect(
        clippy::disallowed_methods,
        reason = "sqlx itself spawns the return, but without a bound; this one ends within `limit`"
    )]
    pub(super) fn release(mut self) {
        if let Some(mut connection) = self.inner.take() {
            let limit = self.deadline.limit;
            let returned = timeout(limit, async move { connection.return_to_pool().await });
            drop(tokio::spawn(returned));
        }
    }

    /// Releases the connection after a query, a refused one included.
    pub(super) fn end<T>(self, outcome: Result<T, CommandError>) -> Result<T, CommandError> {
        if !matches!(outcome, Err(CommandError::Store(_))) {
            self.release();
        }
        outcome
    }

    /// Runs a statement of transaction control, which MySQL does not prepare.
    async fn control(&mut self, sql: &'static str) -> Result<()> {
        let deadline = self.deadline;
        let executed = deadline.bound::<D, _>(D::execute_unprepared(self.connection(), sql)).await;
        self.judged(executed)
    }

    /// Has another server looked for if this one failed.
    fn judged<T>(&self, outcome: Result<T>) -> Result<T> {
        if let Err(StoreError::Unavailable(_) | StoreError::TimedOut(_)) = &outcome {
            self.servers.suspect();
        }
        outcome
    }

    fn connection(&mut self) -> &mut D::Connection {
        self.inner.as_mut().expect("a connection is used only before its release")
    }
}

impl<D: Dialect> Drop for Connection<D> {
    /// Closes a connection that was not released: its state is not known.
    fn drop(&mut self) {
        if let Some(connection) = self.inner.take() {
            drop(connection.detach());
        }
    }
}

/// A transaction that will write. Dropped, it is rolled back by closing the connection.
pub(super) struct Transaction<D: Dialect> {
    connection: Connection<D>,
    pool: Pool<D>,
    commits: CommitGate,
    pub(super) no_signaling: NoSignaling,
    _turn: Option<OwnedSemaphorePermit>,
}

impl<D: Dialect> Transaction<D> {
    /// Begins on a connection of `pool`. `turn` is held until the end.
    pub(super) async fn begin(
        mut connection: Connection<D>,
        pool: Pool<D>,
        commits: CommitGate,
        no_signaling: NoSignaling,
        turn: Option<OwnedSemaphorePermit>,
    ) -> Result<Self> {
        connection.control(D::BEGIN).await?;
        Ok(Self { connection, pool, commits, no_signaling, _turn: turn })
    }

    /// Returns the number of rows that the statement matched.
    pub(super) async fn execute(
        &mut self,
        statement: Statement,
        values: &[Value<'_>],
    ) -> Result<u64> {
        let deadline = self.deadline;
        let execute = D::execute(self.connection.connection(), D::text(statement), values);
        let executed = deadline.bound::<D, _>(execute).await;
        self.connection.judged(executed)
    }

    pub(super) async fn commit(self) -> Result<()> {
        failpoints::reach(Point::BeforeCommit);
        let Self { mut connection, pool, commits, _turn, .. } = self;
        let (deadline, servers) = (connection.deadline, Arc::clone(&connection.servers));
        let mut committing = Box::pin(async move {
            let answer = D::execute_unprepared(connection.connection(), "COMMIT").await;
            (connection, answer)
        });
        let Ok((connection, answer)) = timeout_at(deadline.at, &mut committing).await else {
            servers.suspect();
            let changes = Arc::clone(&servers);
            let committed = async { matches!(committing.await, (_connection, Ok(()))) };
            let probe = move || {
                let (pool, servers) = (pool.clone(), Arc::clone(&servers));
                async move {
                    servers.settle(&pool).await;
                    probe_commit::<D>(&pool.connect_options(), deadline.limit).await.is_ok()
                }
            };
            commits.keep(committed, probe, move || changes.changes());
            return Err(StoreError::TimedOut(deadline.limit));
        };
        let committed = deadline.bound::<D, _>(std::future::ready(answer)).await;
        connection.judged(committed)?;
        failpoints::reach(Point::AfterCommit);
        connection.release();
        Ok(())
    }

    pub(super) async fn shorten_lock_waits(&mut self) -> Result<()> {
        self.set(D::SHORT_LOCK_WAITS).await
    }

    pub(super) async fn shorten_statements(&mut self) -> Result<()> {
        self.set(D::SHORT_STATEMENTS).await
    }

    async fn set(&mut self, setting: Option<&'static str>) -> Result<()> {
        match setting {
            Some(sql) => self.connection.control(sql).await,
            None => Ok(()),
        }
    }

    pub(super) async fn roll_back(mut self) -> Result<()> {
        self.connection.control("ROLLBACK").await?;
        self.connection.release();
        Ok(())
    }

    /// Rolls back after an error. The connection is worth keeping if the database answered.
    pub(super) async fn undo(self, error: &StoreError) {
        if (error.is_refusal() || error.is_contention())
            && let Err(error) = self.roll_back().await
        {
            tracing::debug!(%error, "connection closed, its transaction could not be rolled back");
        }
    }

    /// Commits the work of a command, or rolls back a refused one.
    pub(super) async fn end<T>(self, outcome: Result<T, CommandError>) -> Result<T, CommandError> {
        match &outcome {
            Ok(_done) => self.commit().await?,
            Err(CommandError::Refused(_)) => self.roll_back().await?,
            Err(CommandError::Store(error)) => self.undo(error).await,
        }
        outcome
    }
}

impl<D: Dialect> Deref for Transaction<D> {
    type Target = Connection<D>;

    fn deref(&self) -> &Self::Target {
        &self.connection
    }
}

impl<D: Dialect> DerefMut for Transaction<D> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.connection
    }
}

/// Checks that a guarded statement matched exactly the rows that were locked for it. Anything else
/// undoes the transaction.
pub(super) fn expect_rows(rows: u64, expected: usize, table: &'static str) -> Result<()> {
    if usize::try_from(rows) == Ok(expected) {
        return Ok(());
    }
    Err(StoreError::Conflict { table, rows, expected })
}

/// Makes a connection that is not one of the pool's.
pub(super) async fn connect<D: Dialect>(pool: &Pool<D>, limit: Duration) -> Result<D::Connection> {
    connect_by::<D>(&pool.connect_options(), limit).await
}

/// Makes a connection in another way than the pool, and has it run a statement without values.
pub(super) async fn probe<D: Dialect>(
    options: &ConnectOptions<D>,
    limit: Duration,
    statement: Statement,
) -> Result<()> {
    let mut connection = connect_by::<D>(options, limit).await?;
    let run = D::execute_unprepared(&mut connection, D::text(statement));
    Deadline::after(limit).bound::<D, _>(run).await
}

/// Has another connection commit a row of its own, however long that takes. Only connecting is
/// bounded.
async fn probe_commit<D: Dialect>(
    options: &ConnectOptions<D>,
    limit: Duration,
) -> Result<(), StoreError> {
    let mut connection = connect_by::<D>(options, limit).await?;
    let written = D::execute_unprepared(&mut connection, D::text(inbox::PROBE)).await;
    written.map_err(StoreError::Unavailable)
}

async fn connect_by<D: Dialect>(
    options: &ConnectOptions<D>,
    limit: Duration,
) -> Result<D::Connection> {
    Deadline::after(limit).bound::<D, _>(D::Connection::connect_with(options)).await
}
