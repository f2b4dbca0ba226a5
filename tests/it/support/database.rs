//! A database of its own for each test, and plain SQL into it.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use lobbyd::store;
use sqlx::{AssertSqlSafe, Connection, Executor, MySqlPool, PgConnection, PgPool, Row, SqlitePool};

use super::{
    eventually,
    server::{MARIADB, POSTGRES, folder},
};

/// The kinds that lobbyd runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Sqlite,
    Postgres,
    MariaDb,
}

/// An empty database.
pub struct Database {
    pub kind: Kind,
    pub url: String,
    sql: Sql,
}

enum Sql {
    Sqlite(SqlitePool),
    Postgres(PgPool),
    MariaDb(MySqlPool),
}

impl Database {
    /// A new one on the shared server.
    pub async fn create(kind: Kind) -> Self {
        match kind {
            Kind::Sqlite => Self::in_file(&folder("sqlite-").join("rooms.db")),
            Kind::Postgres => Self::create_on(kind, POSTGRES.port).await,
            Kind::MariaDb => Self::create_on(kind, MARIADB.port).await,
        }
    }

    /// The SQLite file at this path.
    pub fn in_file(path: &Path) -> Self {
        Self::open(Kind::Sqlite, format!("sqlite://{}?mode=rwc", path.display()))
    }

    /// A new one on the server at `port`.
    pub async fn create_on(kind: Kind, port: u16) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let name = format!("lobbyd_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let create = || AssertSqlSafe(format!("CREATE DATABASE {name}"));
        let server = Self::open(
            kind,
            url(kind, port, if kind == Kind::Postgres { "postgres" } else { "mysql" }),
        );
        eventually("a database server that answers", || async {
            match &server.sql {
                Sql::Postgres(pool) => pool.execute(create()).await.map(drop),
                Sql::MariaDb(pool) => pool.execute(create()).await.map(drop),
                Sql::Sqlite(_) => unreachable!("SQLite has no server"),
            }
            .ok()
        })
        .await;
        Self::open(kind, url(kind, port, &name))
    }

    /// The one that a URL names.
    pub fn open(kind: Kind, url: String) -> Self {
        let sql = match kind {
            Kind::Sqlite => Sql::Sqlite(SqlitePool::connect_lazy(&url).unwrap()),
            Kind::Postgres => Sql::Postgres(PgPool::connect_lazy(&url).unwrap()),
            Kind::MariaDb => Sql::MariaDb(MySqlPool::connect_lazy(&url).unwrap()),
        };
        Self { kind, url, sql }
    }

    /// lobbyd's own store on it, with its tables.
    pub async fn store(&self) -> Arc<dyn store::Database> {
        let options =
            store::Options { max_connections: 5, timeout: std::time::Duration::from_secs(20) };
        let store = store::connect(&self.url, options).unwrap();
        store.migrate().await.unwrap();
        store
    }

    /// Locks the table of rooms of a PostgreSQL database against writers, until the holder drops.
    pub async fn hold_rooms(url: &str) -> PgConnection {
        let mut holder = <PgConnection as Connection>::connect(url).await.unwrap();
        holder.execute("BEGIN; LOCK TABLE lobbyd_rooms IN SHARE MODE").await.unwrap();
        holder
    }

    /// Locks a room of a PostgreSQL database, until the holder drops.
    pub async fn hold_room(url: &str, token: &str) -> PgConnection {
        let mut holder = <PgConnection as Connection>::connect(url).await.unwrap();
        holder.execute("BEGIN").await.unwrap();
        let lock = sqlx::query("SELECT 1 FROM lobbyd_rooms WHERE token = $1 FOR UPDATE");
        lock.bind(token.to_owned()).execute(&mut holder).await.unwrap();
        holder
    }

    /// Runs a statement, as anybody might who shares the database.
    pub async fn execute(&self, sql: &str) -> u64 {
        self.try_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    pub async fn try_execute(&self, sql: &str) -> sqlx::Result<u64> {
        let sql = AssertSqlSafe(sql.to_owned());
        Ok(match &self.sql {
            Sql::Sqlite(pool) => pool.execute(sql).await?.rows_affected(),
            Sql::Postgres(pool) => pool.execute(sql).await?.rows_affected(),
            Sql::MariaDb(pool) => pool.execute(sql).await?.rows_affected(),
        })
    }

    /// The integers of the first column.
    pub async fn numbers(&self, sql: &str) -> Vec<i64> {
        let sql = AssertSqlSafe(sql.to_owned());
        match &self.sql {
            Sql::Sqlite(pool) => rows(&pool.fetch_all(sql).await.unwrap(), |row| row.get(0)),
            Sql::Postgres(pool) => rows(&pool.fetch_all(sql).await.unwrap(), |row| row.get(0)),
            Sql::MariaDb(pool) => rows(&pool.fetch_all(sql).await.unwrap(), |row| row.get(0)),
        }
    }

    /// The one integer that the query answers.
    pub async fn number(&self, sql: &str) -> i64 {
        self.numbers(sql).await[0]
    }

    /// The texts of the first column.
    pub async fn texts(&self, sql: &str) -> Vec<String> {
        let sql = AssertSqlSafe(sql.to_owned());
        match &self.sql {
            Sql::Sqlite(pool) => rows(&pool.fetch_all(sql).await.unwrap(), |row| row.get(0)),
            Sql::Postgres(pool) => rows(&pool.fetch_all(sql).await.unwrap(), |row| row.get(0)),
            Sql::MariaDb(pool) => rows(&pool.fetch_all(sql).await.unwrap(), |row| row.get(0)),
        }
    }

    /// A room, with no more than the contract asks for.
    pub async fn insert_room(&self, token: &str) {
        let insert = "INSERT INTO lobbyd_rooms (token, type, name) VALUES";
        self.execute(&format!("{insert} ('{token}', 3, 'Webinar')")).await;
    }

    /// Many rooms at once: PREFIX1, PREFIX2, … with a lobby until `timer` (Unix seconds).
    pub async fn insert_rooms(&self, prefix: &str, number: u32, timer: i64) {
        let timer = self.instant(timer);
        for first in (1..=number).step_by(5000) {
            let last = number.min(first + 4999);
            let values: Vec<String> = (first..=last)
                .map(|index| format!("('{prefix}{index}', 3, 'Webinar', 1, {timer})"))
                .collect();
            let insert = "INSERT INTO lobbyd_rooms (token, type, name, lobby_state, lobby_timer)";
            self.execute(&format!("{insert} VALUES {}", values.join(","))).await;
        }
    }

    /// An instant of Unix seconds as this database writes it.
    pub fn instant(&self, seconds: i64) -> String {
        match self.kind {
            Kind::Sqlite => format!("datetime({seconds}, 'unixepoch')"),
            Kind::Postgres => format!("to_timestamp({seconds})"),
            Kind::MariaDb => format!("'1970-01-01' + INTERVAL {seconds} SECOND"),
        }
    }

    /// The database's time in milliseconds since 1970.
    pub async fn now_millis(&self) -> i64 {
        self.number(match self.kind {
            Kind::Sqlite => "SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER)",
            Kind::Postgres => "SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint",
            Kind::MariaDb => "SELECT CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)",
        })
        .await
    }

    /// The database's time in whole seconds, rounded down.
    pub async fn now(&self) -> i64 {
        self.now_millis().await / 1000
    }

    /// The lobby state of a room.
    pub async fn lobby_state(&self, token: &str) -> i64 {
        let column = match self.kind {
            Kind::Postgres => "lobby_state::bigint",
            Kind::Sqlite => "lobby_state",
            Kind::MariaDb => "CAST(lobby_state AS SIGNED)",
        };
        self.number(&format!("SELECT {column} FROM lobbyd_rooms WHERE token = '{token}'")).await
    }

    /// The URL of the same database through another port.
    pub fn url_through(&self, port: u16) -> String {
        let (start, end) = self.url.split_once("127.0.0.1:").unwrap();
        let (_port, name) = end.split_once('/').unwrap();
        format!("{start}127.0.0.1:{port}/{name}")
    }

    /// Waits until a room has this lobby state.
    pub async fn lobby_becomes(&self, token: &str, state: i64) {
        eventually(&format!("lobby state {state} of {token}"), || async {
            (self.lobby_state(token).await == state).then_some(())
        })
        .await;
    }

    /// Waits until no room has a lobby or a timer.
    pub async fn all_open(&self) {
        eventually("every reset", || async { (self.closed_rooms().await == 0).then_some(()) })
            .await;
    }

    /// Waits until no event waits for its confirm.
    pub async fn all_published(&self) {
        eventually("every confirm", || async { (self.unpublished().await == 0).then_some(()) })
            .await;
    }

    /// How many rooms have a lobby or a timer.
    pub async fn closed_rooms(&self) -> i64 {
        self.number(
            "SELECT count(*) FROM lobbyd_rooms WHERE lobby_state <> 0 OR lobby_timer IS NOT NULL",
        )
        .await
    }

    /// How many events wait for their confirm.
    pub async fn unpublished(&self) -> i64 {
        self.number("SELECT count(*) FROM lobbyd_outbox WHERE published_at IS NULL").await
    }
}

fn url(kind: Kind, port: u16, name: &str) -> String {
    match kind {
        Kind::Postgres => format!("postgres://lobbyd@127.0.0.1:{port}/{name}"),
        Kind::MariaDb => format!("mysql://lobbyd:lobbyd@127.0.0.1:{port}/{name}"),
        Kind::Sqlite => unreachable!("SQLite has no server"),
    }
}

fn rows<R, T>(rows: &[R], read: impl Fn(&R) -> T) -> Vec<T> {
    rows.iter().map(read).collect()
}
