//! Databases that have no connection left, or fewer than lobbyd may open.

use futures_util::future::join_all;
use sqlx::{Connection, MySqlConnection, PgConnection};
use tokio::time::Instant;

use super::{EVENTS, Site, ordinary_site, ordinary_user};
use crate::support::{
    database::{Database, Kind},
    server::{start_mariadb, start_postgres, start_postgres_with},
};

#[tokio::test(flavor = "multi_thread")]
async fn postgres_may_be_out_of_connections_for_a_while() {
    let limits = ["max_connections=40", "superuser_reserved_connections=15"].map(str::to_owned);
    let server = start_postgres_with(&limits);
    let (site, url) = ordinary_site(Kind::Postgres, &server).await;
    out_of_connections(site, &url, &["connection slots are reserved", "too many clients"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_may_be_out_of_connections_for_a_while() {
    let server = start_mariadb();
    let (site, url) = ordinary_site(Kind::MariaDb, &server).await;
    site.cluster.database.execute("SET GLOBAL max_connections = 30").await;
    out_of_connections(site, &url, &["Too many connections"]).await;
}

async fn out_of_connections(mut site: Site, url: &str, reasons: &[&str]) {
    let held = tokio::sync::Mutex::new(Vec::new());
    site.survives(
        "connections",
        reasons,
        async |site| *held.lock().await = take_connections(site, url).await,
        async |_site| held.lock().await.clear(),
    )
    .await;
    site.all_done().await;
}

/// Of a role that may have none for a while, and then fewer than lobbyd may open.
#[tokio::test(flavor = "multi_thread")]
async fn few_connections_are_enough() {
    let server = start_postgres();
    let (mut site, _url) = ordinary_site(Kind::Postgres, &server).await;
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
               WHERE usename = 'ordinary'";
    site.survives(
        "role",
        &["too many connections for role"],
        async |site| {
            site.execute("ALTER ROLE ordinary CONNECTION LIMIT 0").await;
            assert!(site.cluster.database.number(end).await > 0);
        },
        async |site| {
            site.execute("ALTER ROLE ordinary CONNECTION LIMIT -1").await;
        },
    )
    .await;
    site.execute("ALTER ROLE ordinary CONNECTION LIMIT 3").await;
    site.cluster.database.number(end).await;
    let since = site.cluster.database.now().await;
    site.load("few").await;
    site.cluster.close_by_events(&site.events, "fewevent", EVENTS, 0..3).await;
    site.all_due(since).await;
    let begin = Instant::now();
    site.cluster.database.all_open().await;
    println!("3 connections: all open {:?} after the last timer", begin.elapsed());
    site.undelayed("few").await;
    site.all_done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn uses_share_the_connections_that_postgres_has() {
    let server = start_postgres();
    let (database, url) = ordinary_user(Kind::Postgres, &server).await;
    uses_share(&database, &url, "ALTER ROLE ordinary CONNECTION LIMIT 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn uses_share_the_connections_that_mariadb_has() {
    let server = start_mariadb();
    let (database, url) = ordinary_user(Kind::MariaDb, &server).await;
    let limit = "ALTER USER ordinary@'127.0.0.1' WITH MAX_USER_CONNECTIONS 1";
    uses_share(&database, &url, limit).await;
}

/// A use that cannot make a connection waits for one that another use returns.
async fn uses_share(database: &Database, url: &str, limit: &str) {
    let store = Database::open(database.kind, url.to_owned()).store().await;
    database.execute(limit).await;
    for answer in join_all((0..100).map(|_| store.now())).await {
        answer.unwrap();
    }
}

/// A connection that only takes its place.
enum Held {
    Postgres(#[expect(dead_code, reason = "held")] PgConnection),
    MariaDb(#[expect(dead_code, reason = "held")] MySqlConnection),
}

impl Held {
    async fn open(kind: Kind, url: &str) -> Option<Self> {
        match kind {
            Kind::Postgres => PgConnection::connect(url).await.map(Self::Postgres).ok(),
            Kind::MariaDb => MySqlConnection::connect(url).await.map(Self::MariaDb).ok(),
            Kind::Sqlite => unreachable!("SQLite has no connections"),
        }
    }
}

/// Takes all connections that the server has for an ordinary user, also those of lobbyd.
async fn take_connections(site: &Site, url: &str) -> Vec<Held> {
    let database = &site.cluster.database;
    let (kill, count) = match database.kind {
        Kind::Postgres => (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'ordinary'",
            "SELECT count(*) FROM pg_stat_activity WHERE usename = 'ordinary'",
        ),
        Kind::MariaDb => (
            "KILL USER ordinary",
            "SELECT count(*) FROM information_schema.processlist WHERE user = 'ordinary'",
        ),
        Kind::Sqlite => unreachable!("SQLite has no connections"),
    };
    let mut held = Vec::new();
    loop {
        while Held::open(database.kind, url).await.is_some() {
            held.extend(Held::open(database.kind, &database.url).await);
        }
        if database.number(count).await == 0 {
            return held;
        }
        database.execute(kill).await;
    }
}
