//! The table of rooms of a Nextcloud Talk, which lobbyd reads and never writes.
//!
//! It belongs to another program, so nothing is migrated, locked or created here: six columns are
//! read, and an advisory lock of a session chooses the leader among several instances.

mod statements;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::{MySql, Postgres};
use tokio::sync::Mutex;
use tokio::time::timeout;

use self::statements::{TalkDialect, TalkStatements};
use super::connection::connect;
use super::dialect::{Columns, Dialect, explain_failed, values};
use super::error::{Result, StoreError};
use super::pool::SqlStore;
use super::rows::{time_from_millis, time_from_seconds};
use super::statements::admin;
use super::{Admin, PoolGroup, PoolOptions, rows};
use crate::domain::{RoomId, RoomToken, RoomType, TalkLobby, TalkTimer};
use crate::logging;

/// Connections to Talk's database, without the one that holds the lock of the leader.
const MAX_CONNECTIONS: u32 = 3;

/// Bound of one use of Talk's database.
const LIMIT: Duration = Duration::from_secs(5);

/// Bound of a check of the leader's lock.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// The columns that lobbyd reads.
pub const TALK_COLUMNS: &str = "id, token, type, lobby_state, lobby_timer, remote_server";

/// The row of a room, and the time of the database when it was read.
#[derive(Debug, Clone, Copy)]
pub struct TalkRow {
    /// `None` if there is no such row.
    pub lobby: Option<TalkLobby>,
    pub read_at: DateTime<Utc>,
}

/// Talk's rooms, read only.
#[async_trait]
pub trait TalkRooms: Send + Sync + 'static {
    /// The database's time, which decides what is due.
    async fn now(&self) -> Result<DateTime<Utc>>;

    /// The timers of closed rooms of this server that are due within some seconds or overdue, those
    /// that are due first, at most `limit`. Without `groups`, those of public rooms only.
    async fn upcoming(&self, groups: bool, limit: usize) -> Result<Vec<TalkTimer>>;

    /// The lobby of a room now.
    async fn lobby(&self, room: RoomId) -> Result<TalkRow>;

    /// A room of this server that can have a lobby: the one with this token, otherwise a new one whose
    /// timer is not due soon. Without `groups` a public one, otherwise preferably another one.
    async fn sample(
        &self,
        token: Option<&RoomToken>,
        groups: bool,
    ) -> Result<Option<(RoomToken, RoomType)>>;

    /// Tries to become the one instance that acts on these rooms. `None` if another one is.
    async fn lead(&self) -> Result<Option<Box<dyn Leadership>>>;

    /// Checks whether one of these URLs leads to a database.
    async fn try_urls(&self, urls: &[&str]) -> Result<()>;

    /// Connects by these URLs from now on.
    fn use_urls(&self, urls: &[&str]) -> Result<()>;

    /// Closes the connections, and waits for that only briefly.
    async fn close(&self);
}

/// The lock of the leader. Dropped, it is released, and the server releases it when it loses the
/// connection.
#[async_trait]
pub trait Leadership: Send {
    /// Fails if the lock may be lost. Has to be called every few seconds: the server ends a session
    /// that is silent for longer.
    async fn check(&mut self) -> Result<()>;
}

/// Opens Talk's table `table` in the database that the URLs name. Connects when it is first used.
pub fn connect_talk(urls: &[&str], table: &str) -> Result<Arc<dyn TalkRooms>> {
    let all = |schemes: &[&str]| {
        let is_one = |url: &&str| url.split_once(':').is_some_and(|(it, _)| schemes.contains(&it));
        !urls.is_empty() && urls.iter().all(is_one)
    };
    Ok(if all(&["postgres", "postgresql"]) {
        Arc::new(TalkTable::<Postgres>::open(urls, table)?)
    } else if all(&["mysql", "mariadb"]) {
        Arc::new(TalkTable::<MySql>::open(urls, table)?)
    } else {
        return Err(StoreError::Url("expected postgres: or mysql:".to_owned()));
    })
}

/// Whether this can be the name of a table, perhaps with that of its schema.
pub fn is_table_name(name: &str) -> bool {
    let is_name = |part: &str| {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '$';
        (1..=63).contains(&part.len()) && part.chars().all(is_word)
    };
    name.split('.').count() <= 2 && name.split('.').all(is_name)
}

struct TalkTable<D: TalkDialect> {
    store: SqlStore<D>,
    table: String,
    statements: TalkStatements,
    /// The connection on which the lock is tried again and again, and which server it leads to.
    candidate: Mutex<Option<(D::Connection, u64)>>,
}

impl<D: TalkDialect> TalkTable<D> {
    fn open(urls: &[&str], table: &str) -> Result<Self> {
        let options = PoolOptions {
            max_connections: MAX_CONNECTIONS,
            timeout: LIMIT,
            application: "lobbyd talk",
            group: PoolGroup::default(),
        };
        let store = SqlStore::open(urls, options)?;
        let statements = TalkStatements::of::<D>(table);
        let table =
            Self { store, table: table.to_owned(), statements, candidate: Mutex::default() };
        table.use_urls(urls)?;
        Ok(table)
    }

    async fn try_lead(&self) -> Result<Option<Lock<D>>> {
        let mut candidate = self.candidate.lock().await;
        self.store.servers.settle(&self.store.pool).await;
        let changes = self.store.servers.changes();
        let mut connection = match candidate.take() {
            Some((connection, of)) if of == changes => connection,
            Some(_) | None => {
                let mut connection = connect(&self.store.pool, LIMIT).await?;
                D::limit_silence(&mut connection).await.map_err(StoreError::Unavailable)?;
                connection
            }
        };
        let taking = timeout(LIMIT, D::try_lock(&mut connection, &self.table)).await;
        let taken = taking.map_err(|_elapsed| StoreError::TimedOut(LIMIT))?;
        if taken.map_err(StoreError::Unavailable)? {
            let servers = Arc::clone(&self.store.servers);
            let is_current = Box::new(move || servers.changes() == changes);
            return Ok(Some(Lock { connection, is_current }));
        }
        *candidate = Some((connection, changes));
        Ok(None)
    }

    /// Says which rights are missing.
    fn explain(&self, error: StoreError) -> StoreError {
        let error = explain_failed::<D>(error, StoreError::Unprepared);
        let StoreError::Unprepared(cause) = &error else { return error };
        StoreError::Unsuitable(format!(
            "cannot read talk.table {}: {}; the login needs GRANT SELECT ({TALK_COLUMNS})",
            self.table,
            logging::causes(cause),
        ))
    }
}

#[async_trait]
impl<D: TalkDialect> TalkRooms for TalkTable<D> {
    async fn now(&self) -> Result<DateTime<Utc>> {
        Admin::now(&self.store).await
    }

    async fn upcoming(&self, groups: bool, limit: usize) -> Result<Vec<TalkTimer>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let values = values![i64::from(groups), limit];
        let found = self.store.fetch_all(self.statements.upcoming, values, rows::talk_timer).await;
        found.map_err(|error| self.explain(error))
    }

    async fn lobby(&self, room: RoomId) -> Result<TalkRow> {
        let row = |row: &D::Row| {
            let lobby = match row.int_or_null("lobby_state")? {
                None => None,
                Some(state) => {
                    let timer = row.int_or_null("due_at")?;
                    let timer = timer.map(time_from_seconds).transpose()?;
                    Some(TalkLobby { is_closed: state != 0, timer })
                }
            };
            Ok(TalkRow { lobby, read_at: time_from_millis(row.int("now")?)? })
        };
        let found = self.store.fetch_one(self.statements.lobby, values![room], row).await;
        found.map_err(|error| self.explain(error))
    }

    async fn sample(
        &self,
        token: Option<&RoomToken>,
        groups: bool,
    ) -> Result<Option<(RoomToken, RoomType)>> {
        let room = |row: &D::Row| Ok((rows::token(row)?, RoomType::from(row.int("room_type")?)));
        let token = token.map_or("", RoomToken::as_str);
        let found = self
            .store
            .fetch_all(self.statements.sample, values![i64::from(groups), token, token], room)
            .await;
        Ok(found.map_err(|error| self.explain(error))?.pop())
    }

    async fn lead(&self) -> Result<Option<Box<dyn Leadership>>> {
        Ok(match self.store.unless_refused(self.try_lead()).await? {
            Some(lock) => Some(Box::new(lock)),
            None => None,
        })
    }

    async fn try_urls(&self, urls: &[&str]) -> Result<()> {
        self.store.try_urls_with(urls, admin::NOW).await
    }

    fn use_urls(&self, urls: &[&str]) -> Result<()> {
        let options = self.store.connect_options(urls)?;
        self.store.set_options(options.into_iter().map(D::of_talk).collect());
        Ok(())
    }

    async fn close(&self) {
        self.store.close_pool().await;
    }
}

struct Lock<D: Dialect> {
    connection: D::Connection,
    /// Whether the server is still the one that the others use.
    is_current: Box<dyn Fn() -> bool + Send>,
}

#[async_trait]
impl<D: TalkDialect> Leadership for Lock<D> {
    async fn check(&mut self) -> Result<()> {
        let answer =
            timeout(CHECK_TIMEOUT, D::execute_unprepared(&mut self.connection, "SELECT 1"));
        match answer.await {
            Ok(Ok(())) if (self.is_current)() => Ok(()),
            Ok(Ok(())) => Err(StoreError::Unsuitable("another server is used now".to_owned())),
            Ok(Err(error)) => Err(StoreError::Unavailable(error)),
            Err(_elapsed) => Err(StoreError::TimedOut(CHECK_TIMEOUT)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_may_have_a_schema() {
        for name in ["oc_talk_rooms", "nextcloud.oc_talk_rooms", "Talk$1"] {
            assert!(is_table_name(name), "{name}");
        }
        for name in ["", "a b", "a;b", "a.b.c", "a.", "\"a\"", "ä"] {
            assert!(!is_table_name(name), "{name}");
        }
    }
}
