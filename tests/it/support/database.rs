//! A new database for each test, and plain SQL to read and change it.
//!
//! It stands for the programs that share the database with lobbyd, so it must not use the store,
//! except to create the tables.

use std::{
    any::Any,
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use lobbyd::{domain::RoomUpdated, store};
use serde_json::Value;
use sqlx::{
    AssertSqlSafe, Connection, Executor, MySqlPool, PgConnection, PgPool, Row, SqlitePool,
    migrate::Migrator,
};

use super::{
    daemon::Settings,
    eventually, roles,
    server::{MARIADB, POSTGRES, folder},
};

/// A kind of database that lobbyd supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Sqlite,
    Postgres,
    MariaDb,
}

/// A database of a test.
pub struct Database {
    pub kind: Kind,
    /// With this, programs use it.
    pub url: String,
    /// With this, the test uses it: as other programs, and as the administrator.
    pub admin_url: String,
    /// Whether it has no tables of lobbyd at first, so that programs create them.
    is_empty: bool,
    sql: Sql,
}

enum Sql {
    Sqlite(SqlitePool),
    Postgres(PgPool),
    MariaDb(MySqlPool),
}

impl Database {
    /// Creates a database on the shared server. It has lobbyd's tables, and programs use it with the
    /// rights that `deploy/sql` gives to workers and APIs.
    pub async fn create(kind: Kind) -> Self {
        match port(kind) {
            None => Self::in_file(&folder("sqlite-").join("rooms.db")),
            Some(port) => Self::create_on(kind, port).await,
        }
    }

    /// Creates a database without tables. Programs use it as the owner of the tables, and create them.
    pub async fn as_owner(kind: Kind) -> Self {
        match port(kind) {
            None => Self::create(kind).await,
            Some(port) => Self::as_owner_on(kind, port).await,
        }
    }

    /// Creates the database of another program, which has no roles of lobbyd.
    pub async fn of_another(kind: Kind) -> Self {
        match port(kind) {
            None => Self::create(kind).await,
            Some(port) => Self::of_another_on(kind, port).await,
        }
    }

    pub fn in_file(path: &Path) -> Self {
        Self::open(Kind::Sqlite, format!("sqlite://{}?mode=rwc", path.display()))
    }

    /// As [`create`](Self::create), on the server at `port`.
    pub async fn create_on(kind: Kind, port: u16) -> Self {
        let name = new_name();
        roles::create(kind, port, &name, true).await;
        let url = roles::url(kind, roles::RUNTIME, port, &name);
        let admin_url = roles::url(kind, roles::ADMIN, port, &name);
        Self { url, is_empty: false, ..Self::open(kind, admin_url) }
    }

    /// As [`as_owner`](Self::as_owner), on the server at `port`.
    pub async fn as_owner_on(kind: Kind, port: u16) -> Self {
        let name = new_name();
        roles::create(kind, port, &name, false).await;
        let url = roles::url(kind, roles::OWNER, port, &name);
        Self { url, ..Self::open(kind, roles::url(kind, roles::ADMIN, port, &name)) }
    }

    /// As [`of_another`](Self::of_another), on the server at `port`.
    pub async fn of_another_on(kind: Kind, port: u16) -> Self {
        let name = new_name();
        let server = if kind == Kind::Postgres { "postgres" } else { "mysql" };
        let server = Self::open(kind, roles::url(kind, roles::ADMIN, port, server));
        eventually("the database server to accept connections", || async {
            server.try_execute(&format!("CREATE DATABASE {name}")).await.ok()
        })
        .await;
        Self::open(kind, roles::url(kind, roles::ADMIN, port, &name))
    }

    /// Uses a database with the rights of this URL alone.
    pub fn open(kind: Kind, url: String) -> Self {
        let sql = match kind {
            Kind::Sqlite => Sql::Sqlite(SqlitePool::connect_lazy(&url).unwrap()),
            Kind::Postgres => Sql::Postgres(PgPool::connect_lazy(&url).unwrap()),
            Kind::MariaDb => Sql::MariaDb(MySqlPool::connect_lazy(&url).unwrap()),
        };
        Self { kind, admin_url: url.clone(), url, is_empty: true, sql }
    }

    /// With this, programs use it.
    pub fn settings(&self) -> Settings {
        let mut settings = vec![("LOBBYD__DATABASE__URL".to_owned(), self.url.clone())];
        if !self.is_empty {
            settings.push(("LOBBYD__DATABASE__MIGRATE".to_owned(), "false".to_owned()));
        }
        settings
    }

    /// The program's own store, after it has created its tables if there are none.
    pub async fn store(&self) -> Arc<dyn store::Database> {
        let store = Self::connect(&self.url);
        if self.is_empty {
            store.migrate().await.unwrap();
        }
        store
    }

    /// The program's own store as the owner of the tables uses it.
    pub fn owner_store(&self) -> Arc<dyn store::Database> {
        Self::connect(&roles::as_owner(&self.url))
    }

    fn connect(url: &str) -> Arc<dyn store::Database> {
        let options = store::PoolOptions {
            max_connections: 5,
            timeout: std::time::Duration::from_secs(20),
            application: "lobbyd test",
            group: store::PoolGroup::default(),
        };
        store::connect(&[url], options).unwrap()
    }

    /// Applies the migrations up to a version, as an older release has, as the owner of the tables.
    pub async fn migrate_to(&self, version: i64) {
        let folder = match self.kind {
            Kind::Sqlite => "migrations/sqlite",
            Kind::Postgres => "migrations/postgres",
            Kind::MariaDb => "migrations/mysql",
        };
        let files = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let mut migrator = Migrator::new(files).await.unwrap();
        migrator.dangerous_set_table_name("lobbyd_migrations");
        let owner = Self::open(self.kind, roles::as_owner(&self.url));
        match &owner.sql {
            Sql::Sqlite(pool) => migrator.run_to(version, pool).await.unwrap(),
            Sql::Postgres(pool) => migrator.run_to(version, pool).await.unwrap(),
            Sql::MariaDb(pool) => migrator.run_to(version, pool).await.unwrap(),
        }
    }

    /// Locks the table of rooms of a PostgreSQL database against writers until the connection drops.
    pub async fn hold_rooms(url: &str) -> PgConnection {
        let mut holder = <PgConnection as Connection>::connect(url).await.unwrap();
        holder.execute("BEGIN; LOCK TABLE lobbyd_rooms IN SHARE MODE").await.unwrap();
        holder
    }

    /// Locks all rooms of a PostgreSQL database, each one by itself, until the connection drops.
    pub async fn hold_each_room(url: &str) -> PgConnection {
        let mut holder = <PgConnection as Connection>::connect(url).await.unwrap();
        holder.execute("BEGIN; SELECT 1 FROM lobbyd_rooms FOR UPDATE").await.unwrap();
        holder
    }

    /// Locks a room of a PostgreSQL database until the connection drops.
    pub async fn hold_room(url: &str, token: &str) -> PgConnection {
        let mut holder = <PgConnection as Connection>::connect(url).await.unwrap();
        holder.execute("BEGIN").await.unwrap();
        let lock = sqlx::query("SELECT 1 FROM lobbyd_rooms WHERE token = $1 FOR UPDATE");
        lock.bind(token.to_owned()).execute(&mut holder).await.unwrap();
        holder
    }

    /// Runs a statement in a transaction that stays open until the result is dropped.
    pub async fn hold(&self, sql: &str) -> Box<dyn Any + Send> {
        self.try_hold(sql).await.unwrap()
    }

    pub async fn try_hold(&self, sql: &str) -> sqlx::Result<Box<dyn Any + Send>> {
        let sql = AssertSqlSafe(sql.to_owned());
        Ok(match &self.sql {
            Sql::Sqlite(pool) => {
                let mut transaction = pool.begin().await?;
                transaction.execute(sql).await?;
                Box::new(transaction)
            }
            Sql::Postgres(pool) => {
                let mut transaction = pool.begin().await?;
                transaction.execute(sql).await?;
                Box::new(transaction)
            }
            Sql::MariaDb(pool) => {
                let mut transaction = pool.begin().await?;
                transaction.execute(sql).await?;
                Box::new(transaction)
            }
        })
    }

    /// Commits the transaction of [`hold`](Self::hold).
    pub async fn commit(&self, held: Box<dyn Any + Send>) {
        match &self.sql {
            Sql::Sqlite(_) => transaction::<sqlx::Sqlite>(held).commit().await.unwrap(),
            Sql::Postgres(_) => transaction::<sqlx::Postgres>(held).commit().await.unwrap(),
            Sql::MariaDb(_) => transaction::<sqlx::MySql>(held).commit().await.unwrap(),
        }
    }

    /// Runs a statement, as another program that shares the database may do.
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

    /// The first column as integers.
    pub async fn numbers(&self, sql: &str) -> Vec<i64> {
        let sql = AssertSqlSafe(sql.to_owned());
        match &self.sql {
            Sql::Sqlite(pool) => rows(&pool.fetch_all(sql).await.unwrap(), |row| row.get(0)),
            Sql::Postgres(pool) => rows(&pool.fetch_all(sql).await.unwrap(), |row| row.get(0)),
            Sql::MariaDb(pool) => rows(&pool.fetch_all(sql).await.unwrap(), |row| row.get(0)),
        }
    }

    /// The only integer that the query returns.
    pub async fn number(&self, sql: &str) -> i64 {
        self.numbers(sql).await[0]
    }

    /// The first column as texts.
    pub async fn texts(&self, sql: &str) -> Vec<String> {
        let sql = AssertSqlSafe(sql.to_owned());
        match &self.sql {
            Sql::Sqlite(pool) => rows(&pool.fetch_all(sql).await.unwrap(), |row| row.get(0)),
            Sql::Postgres(pool) => rows(&pool.fetch_all(sql).await.unwrap(), |row| row.get(0)),
            Sql::MariaDb(pool) => rows(&pool.fetch_all(sql).await.unwrap(), |row| row.get(0)),
        }
    }

    /// Inserts a room with the columns that lobbyd requires of other programs.
    pub async fn insert_room(&self, token: &str) {
        let insert = "INSERT INTO lobbyd_rooms (token, type, name) VALUES";
        self.execute(&format!("{insert} ('{token}', 3, 'Webinar')")).await;
    }

    /// Inserts open rooms PREFIX1, PREFIX2, …
    pub async fn open_rooms(&self, prefix: &str, number: u32) {
        let values: Vec<String> =
            (1..=number).map(|index| format!("('{prefix}{index}', 3, 'Webinar')")).collect();
        let insert = "INSERT INTO lobbyd_rooms (token, type, name) VALUES";
        self.execute(&format!("{insert} {}", values.join(","))).await;
    }

    /// Inserts rooms PREFIX1, PREFIX2, … with a lobby until `timer` (Unix seconds).
    pub async fn insert_rooms(&self, prefix: &str, number: u32, timer: i64) {
        let timer = self.timestamp_sql(timer);
        for first in (1..=number).step_by(5000) {
            let last = number.min(first + 4999);
            let values: Vec<String> = (first..=last)
                .map(|index| format!("('{prefix}{index}', 3, 'Webinar', 1, {timer})"))
                .collect();
            let insert = "INSERT INTO lobbyd_rooms (token, type, name, lobby_state, lobby_timer)";
            self.execute(&format!("{insert} VALUES {}", values.join(","))).await;
        }
    }

    /// Makes the database refuse to open these rooms (a pattern), until
    /// [`allow_reset`](Self::allow_reset): a trigger of the site raises an error.
    pub async fn refuse_reset(&self, tokens: &str) {
        match self.kind {
            Kind::Sqlite => {
                self.execute(&format!(
                    "CREATE TRIGGER archived BEFORE UPDATE ON lobbyd_rooms WHEN OLD.token LIKE '{tokens}'
                     AND NEW.lobby_state = 0
                     BEGIN SELECT RAISE(ABORT, 'conversation is archived'); END"
                ))
                .await;
            }
            Kind::Postgres => {
                self.execute(
                    "CREATE FUNCTION archived() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                         RAISE EXCEPTION 'conversation is archived'; END $$",
                )
                .await;
                self.execute(&format!(
                    "CREATE TRIGGER archived BEFORE UPDATE ON lobbyd_rooms FOR EACH ROW
                     WHEN (OLD.token LIKE '{tokens}' AND NEW.lobby_state = 0)
                     EXECUTE FUNCTION archived()"
                ))
                .await;
            }
            Kind::MariaDb => {
                self.execute(&format!(
                    "CREATE TRIGGER archived BEFORE UPDATE ON lobbyd_rooms FOR EACH ROW
                     IF OLD.token LIKE '{tokens}' AND NEW.lobby_state = 0 THEN
                         SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'conversation is archived';
                     END IF"
                ))
                .await;
            }
        }
    }

    pub async fn allow_reset(&self) {
        self.execute(match self.kind {
            Kind::Postgres => "DROP TRIGGER archived ON lobbyd_rooms",
            Kind::Sqlite | Kind::MariaDb => "DROP TRIGGER archived",
        })
        .await;
    }

    /// A time in Unix seconds as an SQL expression.
    pub fn timestamp_sql(&self, seconds: i64) -> String {
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

    pub async fn lobby_state(&self, token: &str) -> i64 {
        let column = match self.kind {
            Kind::Postgres => "lobby_state::bigint",
            Kind::Sqlite => "lobby_state",
            Kind::MariaDb => "CAST(lobby_state AS SIGNED)",
        };
        self.number(&format!("SELECT {column} FROM lobbyd_rooms WHERE token = '{token}'")).await
    }

    /// The URL of the same database by another port.
    pub fn url_through(&self, port: u16) -> String {
        at_port(&self.url, port)
    }

    /// The same database by another port.
    pub fn through(&self, port: u16) -> Self {
        let admin = Self::open(self.kind, at_port(&self.admin_url, port));
        Self { url: at_port(&self.url, port), is_empty: self.is_empty, ..admin }
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
        eventually("every room to open", || async {
            (self.closed_rooms().await == 0).then_some(())
        })
        .await;
    }

    /// Waits until every event in the outbox has its publisher confirm.
    pub async fn all_published(&self) {
        eventually("every publisher confirm", || async {
            (self.unpublished().await == 0).then_some(())
        })
        .await;
    }

    /// The number of rooms with a lobby or a timer.
    pub async fn closed_rooms(&self) -> i64 {
        self.number(
            "SELECT count(*) FROM lobbyd_rooms WHERE lobby_state <> 0 OR lobby_timer IS NOT NULL",
        )
        .await
    }

    /// The number of events in the outbox without publisher confirm.
    pub async fn unpublished(&self) -> i64 {
        let integer = if self.kind == Kind::MariaDb { "SIGNED" } else { "BIGINT" };
        self.number(&format!(
            "SELECT CAST(coalesce(sum(events), 0) AS {integer}) FROM lobbyd_outbox
             WHERE published_at IS NULL"
        ))
        .await
    }

    /// The announcements of resets, by the ids of their events.
    pub async fn resets(&self) -> BTreeMap<String, RoomUpdated> {
        let events = self.events("data LIKE '%lobby_timer_reached%'").await;
        let reset = |event: Event| (event.id, serde_json::from_str(&event.data).unwrap());
        events.into_iter().map(reset).collect()
    }

    /// The rooms of events without publisher confirm.
    pub async fn waiting(&self) -> Vec<String> {
        let events = self.events("published_at IS NULL").await;
        events.into_iter().map(|event| event.token).collect()
    }

    /// The events in the rows of the outbox that meet the condition.
    async fn events(&self, condition: &str) -> Vec<Event> {
        let column = |name: &str| {
            let sql = format!(
                "SELECT {name} FROM lobbyd_outbox WHERE ({condition}) AND events {{}} ORDER BY id"
            );
            move |events: &str| sql.replace("{}", events)
        };
        let (ids, tokens, data) = (column("id"), column("token"), column("data"));
        let mut found = Vec::new();
        for several in self.texts(&data("> 1")).await {
            let several: Vec<Value> = serde_json::from_str(&several).unwrap();
            found.extend(several.iter().map(|event| Event {
                id: event["id"].as_str().unwrap().to_owned(),
                token: event["token"].as_str().unwrap().to_owned(),
                data: event["data"].to_string(),
            }));
        }
        let ids = self.texts(&ids("= 1")).await.into_iter();
        let (tokens, data) = (self.texts(&tokens("= 1")).await, self.texts(&data("= 1")).await);
        let events = ids.zip(tokens).zip(data);
        found.extend(events.map(|((id, token), data)| Event { id, token, data }));
        found
    }
}

/// An event of the outbox.
struct Event {
    id: String,
    token: String,
    data: String,
}

/// The shared server, of a kind that has servers.
fn port(kind: Kind) -> Option<u16> {
    match kind {
        Kind::Sqlite => None,
        Kind::Postgres => Some(POSTGRES.port),
        Kind::MariaDb => Some(MARIADB.port),
    }
}

fn at_port(url: &str, port: u16) -> String {
    let (start, end) = url.split_once("127.0.0.1:").unwrap();
    let (_port, name) = end.split_once('/').unwrap();
    format!("{start}127.0.0.1:{port}/{name}")
}

fn new_name() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(1);
    format!("lobbyd_{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

fn rows<R, T>(rows: &[R], read: impl Fn(&R) -> T) -> Vec<T> {
    rows.iter().map(read).collect()
}

fn transaction<D: sqlx::Database>(held: Box<dyn Any + Send>) -> sqlx::Transaction<'static, D> {
    *held.downcast().expect("a transaction of this database")
}
