//! The pool of connections to one database.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{Connection as _, Pool};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::commits::CommitGate;
use super::connection::{Connection, Transaction, probe};
use super::dialect::{ConnectOptions, Dialect, Value};
use super::error::{Result, StoreError};
use super::no_signaling::NoSignaling;
use super::servers::Servers;
use super::statements::Statement;
use crate::backoff::RefusalGate;
use crate::logging;

/// Bound of the test of an idle connection: it may have died without a sign.
const PING_TIMEOUT: Duration = Duration::from_secs(1);

/// Short, because each idle connection that died costs a [`PING_TIMEOUT`].
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);

/// A connection that was used within this time is not tested: the test takes as long as a statement.
const RECENTLY_USED: Duration = Duration::from_secs(1);

/// Bound of the close handshakes at the end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub struct PoolOptions {
    /// Upper bound of open connections.
    pub max_connections: u32,
    /// Longest time that one use of the database may take, waiting for a connection included.
    pub timeout: Duration,
    /// The name under which the database lists the connections.
    pub application: &'static str,
    pub group: PoolGroup,
}

/// What the pools of a process have in common.
#[derive(Debug, Clone)]
pub struct PoolGroup {
    commits: CommitGate,
    pub(super) no_signaling: NoSignaling,
    refusals: Arc<RefusalGate>,
    /// Held while a transaction writes to SQLite. SQLite itself lets writers poll for its lock, and
    /// any of them may come last again and again; here they come in turn.
    writer: Arc<Semaphore>,
}

impl Default for PoolGroup {
    fn default() -> Self {
        Self {
            commits: CommitGate::default(),
            no_signaling: NoSignaling::default(),
            refusals: Arc::default(),
            writer: Arc::new(Semaphore::new(1)),
        }
    }
}

/// The store on one kind of database.
pub(super) struct SqlStore<D: Dialect> {
    pub(super) pool: Pool<D>,
    /// Longest time that one use of the database may take.
    pub(super) limit: Duration,
    application: &'static str,
    pub(super) servers: Arc<Servers<D>>,
    pub(super) group: PoolGroup,
}

impl<D: Dialect> SqlStore<D> {
    /// Connects when it is first used. There is at least one URL.
    pub(super) fn open(urls: &[&str], options: PoolOptions) -> Result<Self> {
        let limit = options.timeout;
        let by_url = connect_options::<D>(urls, limit, options.application)?;
        let first = by_url.first().cloned();
        let first = first.ok_or_else(|| StoreError::Url("expected a URL".to_owned()))?;
        let servers = Arc::new(Servers::new(by_url, limit));
        let current = Arc::clone(&servers);
        let pool = D::pool_options(limit)
            .max_connections(options.max_connections)
            .acquire_timeout(limit)
            .idle_timeout(IDLE_TIMEOUT)
            // sqlx's own test of an idle connection has no bound.
            .test_before_acquire(false)
            .before_acquire(move |connection, metadata| {
                let outdated = current.outdate(metadata.age, limit);
                Box::pin(async move {
                    if outdated {
                        return Ok(false);
                    }
                    if metadata.idle_for > RECENTLY_USED {
                        let alive = timeout(PING_TIMEOUT, connection.ping()).await;
                        alive.map_err(|_elapsed| sqlx::Error::PoolTimedOut)??;
                    }
                    Ok(true)
                })
            })
            .connect_lazy_with(first);
        let PoolOptions { application, group, .. } = options;
        Ok(Self { pool, limit, application, servers, group })
    }

    pub(super) async fn acquire(&self) -> Result<Connection<D>> {
        self.unless_refused(Connection::acquire(&self.pool, &self.servers, self.limit)).await
    }

    /// Connects, unless the login was refused a short time ago and no connection is left.
    pub(super) async fn unless_refused<T>(
        &self,
        connecting: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let refusals = &self.group.refusals;
        if self.pool.num_idle() == 0
            && let Some(reason) = refusals.check()
        {
            return Err(StoreError::LoginRefused(reason));
        }
        match connecting.await {
            Ok(connected) => {
                refusals.reset();
                Ok(connected)
            }
            Err(StoreError::Unavailable(error))
                if error.as_database_error().is_some_and(D::refuses_login) =>
            {
                let reason = logging::causes(&error);
                if refusals.refused(&reason) {
                    tracing::warn!(error = reason, "database still refuses the login");
                }
                Err(StoreError::LoginRefused(reason))
            }
            Err(error) => Err(self.explained(error)),
        }
    }

    /// Says whose a file is that may be the cause.
    pub(super) fn explained(&self, error: StoreError) -> StoreError {
        let foreign = matches!(error, StoreError::Unavailable(_))
            .then(|| D::foreign_file(&self.pool.connect_options()))
            .flatten();
        foreign.map_or(error, StoreError::NotOwned)
    }

    pub(super) async fn begin(&self) -> Result<Transaction<D>> {
        self.check_commits()?;
        let turn = if D::SINGLE_WRITER { Some(self.turn().await?) } else { None };
        let PoolGroup { commits, no_signaling, .. } = self.group.clone();
        let pool = self.pool.clone();
        Transaction::begin(self.acquire().await?, pool, commits, no_signaling, turn).await
    }

    /// Waits until no other transaction of this process writes.
    async fn turn(&self) -> Result<OwnedSemaphorePermit> {
        let turn = timeout(self.limit, Arc::clone(&self.group.writer).acquire_owned()).await;
        let turn = turn.map_err(|_elapsed| StoreError::TimedOut(self.limit))?;
        Ok(turn.expect("the semaphore is never closed"))
    }

    /// Fails while the database has not answered a commit.
    pub(super) fn check_commits(&self) -> Result<()> {
        self.group.commits.check()
    }

    /// Runs a use case of one statement.
    pub(super) async fn fetch_all<T>(
        &self,
        statement: Statement,
        values: &[Value<'_>],
        from_row: impl Fn(&D::Row) -> Result<T> + Send,
    ) -> Result<Vec<T>> {
        let mut connection = self.acquire().await?;
        let rows = connection.fetch_all(statement, values, from_row).await?;
        connection.release();
        Ok(rows)
    }

    /// Runs a use case of one statement, whose result always has one row.
    pub(super) async fn fetch_one<T>(
        &self,
        statement: Statement,
        values: &[Value<'_>],
        from_row: impl Fn(&D::Row) -> Result<T> + Send,
    ) -> Result<T> {
        let row = self.fetch_all(statement, values, from_row).await?.pop();
        row.ok_or(StoreError::Unreadable(sqlx::Error::RowNotFound))
    }

    /// Runs a use case of one statement. Returns the number of rows that it matched.
    pub(super) async fn execute(&self, statement: Statement, values: &[Value<'_>]) -> Result<u64> {
        let mut transaction = self.begin().await?;
        let rows = match transaction.execute(statement, values).await {
            Ok(rows) => rows,
            Err(error) => {
                transaction.undo(&error).await;
                return Err(error);
            }
        };
        if rows == 0 {
            transaction.roll_back().await?;
        } else {
            transaction.commit().await?;
        }
        Ok(rows)
    }

    /// How this store connects by URLs.
    pub(super) fn connect_options(&self, urls: &[&str]) -> Result<Vec<ConnectOptions<D>>> {
        connect_options::<D>(urls, self.limit, self.application)
    }

    /// Checks whether a server of these URLs runs a statement without values.
    pub(super) async fn try_urls_with(&self, urls: &[&str], statement: Statement) -> Result<()> {
        let mut outcome = Ok(());
        for options in self.connect_options(urls)? {
            outcome = probe::<D>(&options, self.limit, statement).await;
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    /// Connects by these URLs from now on.
    pub(super) fn set_urls(&self, urls: &[&str]) -> Result<()> {
        self.set_options(self.connect_options(urls)?);
        Ok(())
    }

    /// Connects in these ways from now on.
    pub(super) fn set_options(&self, options: Vec<ConnectOptions<D>>) {
        self.servers.replace(&self.pool, options);
        self.group.refusals.reset();
    }

    pub(super) async fn close_pool(&self) {
        self.group.commits.open();
        if timeout(CLOSE_TIMEOUT, self.pool.close()).await.is_err() {
            tracing::debug!("database connections dropped without a close handshake");
        }
    }
}

fn connect_options<D: Dialect>(
    urls: &[&str],
    limit: Duration,
    application: &str,
) -> Result<Vec<ConnectOptions<D>>> {
    urls.iter().map(|url| D::connect_options(url, limit, application)).collect()
}
