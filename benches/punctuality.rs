//! How late timers fire, and how many per second: `make bench`.
//!
//! It runs the release build against private servers on this machine. For comparison it measures, in
//! the same run, two things that lobbyd cannot be faster than: a loop of set-based SQL, and
//! publishing with confirms.

#![expect(
    dead_code,
    unreachable_pub,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::as_conversions,
    reason = "a benchmark fails by panicking, and borrows a part of the tests' support"
)]

#[path = "../tests/it/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use lapin::Confirmation;
use serde_json::{Value, json};
use tokio::time::sleep;

use support::{
    cluster::TestCluster,
    daemon::{Daemon, Settings},
    database::{Database, Kind},
    eventually,
};

/// Single timers, one per second: timers are whole seconds.
const SINGLE: u32 = 100;

/// Timers that are due in the same second.
const BURST: u32 = 20_000;

/// Rows per transaction and messages per round of confirms, as in lobbyd's defaults.
const BATCH: u32 = 500;

#[tokio::main]
async fn main() {
    println!("PostgreSQL and RabbitMQ");
    let mut cluster = TestCluster::new(Kind::Postgres).await;
    cluster.set("LOG__FORMAT", "json");
    let client = cluster.client().await;
    single(&cluster.database, &cluster.settings).await;
    let drained = burst(&cluster.database, &cluster.settings).await;
    client.delete_queue(&cluster.updates).await;
    let bare = bare_sql(Kind::Postgres).await;
    let published = bare_publishing(&cluster).await;
    let both = 1.0 / (1.0 / bare + 1.0 / published);
    println!("  bare SQL loop            {bare:>8.0} rooms/s");
    println!("  bare confirmed publish   {published:>8.0} events/s");
    println!(
        "  one after the other      {both:>8.0} rooms/s; lobbyd: {:.0} % of it",
        drained / both * 100.0
    );

    println!("SQLite and the in-process bus");
    let database = Database::create(Kind::Sqlite).await;
    let settings: Settings = vec![
        ("LOBBYD__DATABASE__URL".to_owned(), database.url.clone()),
        ("LOBBYD__LOG__FORMAT".to_owned(), "json".to_owned()),
    ];
    single(&database, &settings).await;
    let drained = burst(&database, &settings).await;
    let bare = bare_sql(Kind::Sqlite).await;
    println!(
        "  bare SQL loop            {bare:>8.0} rooms/s; lobbyd: {:.0} % of it",
        drained / bare * 100.0
    );
}

/// Prints the lag of timers that are due one at a time, from the due time to the confirm.
async fn single(database: &Database, settings: &Settings) {
    let worker = Daemon::start_ready(settings).await;
    let first = database.now().await + 2;
    for index in 0..SINGLE {
        database.insert_rooms(&format!("single{index}x"), 1, first + i64::from(index)).await;
    }
    confirmed(&worker, SINGLE).await;
    let mut lags = lags(&worker, "event published");
    assert_eq!(lags.len(), SINGLE as usize, "{}", worker.log());
    lags.sort_by(f64::total_cmp);
    let at = |percent: usize| lags[(lags.len() - 1) * percent / 100] * 1000.0;
    println!(
        "  {SINGLE} single timers: lag to the confirm p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
        at(50),
        at(99),
        at(100)
    );
}

/// Prints how long a burst takes from its due time to the last confirm. Returns rooms per second.
async fn burst(database: &Database, settings: &Settings) -> f64 {
    let worker = Daemon::start_ready(settings).await;
    database.insert_rooms("burst", BURST, database.now().await + 5).await;
    confirmed(&worker, BURST).await;
    let last = |lags: Vec<f64>| lags.into_iter().fold(0.0, f64::max);
    let opened = last(lags(&worker, "room opened"));
    let published = last(lags(&worker, "event published"));
    let rate = f64::from(BURST) / published;
    println!(
        "  {BURST} timers due at once: all rooms open after {opened:.2} s, all confirmed after \
         {published:.2} s"
    );
    println!("  lobbyd, to the confirm   {rate:>8.0} rooms/s");
    rate
}

/// Waits until so many events have their publisher confirm. It asks seldom, to disturb little.
async fn confirmed(worker: &Daemon, number: u32) {
    eventually("the last confirm", || async {
        sleep(Duration::from_millis(500)).await;
        let confirmed = r#"lobbyd_events_published_total{outcome="confirmed"}"#;
        worker.metric(confirmed).await.filter(|confirmed| *confirmed >= u64::from(number))
    })
    .await;
}

/// The lags that the worker logged with this message, in seconds.
fn lags(worker: &Daemon, message: &str) -> Vec<f64> {
    let entry = |line: &str| serde_json::from_str::<Value>(line).ok();
    let log = worker.log();
    log.lines()
        .filter_map(entry)
        .filter(|entry| entry["message"] == message)
        .filter_map(|entry| entry["lag_seconds"].as_f64())
        .collect()
}

/// Rooms per second of SQL that only resets rooms and writes outbox rows, in batches.
async fn bare_sql(kind: Kind) -> f64 {
    let database = Database::create(kind).await;
    database.store().await;
    let due = database.now().await - 1;
    database.insert_rooms("bare", BURST, due).await;
    let begin = Instant::now();
    for _ in 0..BURST / BATCH {
        match kind {
            Kind::Postgres => database.execute(&postgres_batch()).await,
            Kind::Sqlite => database.execute(&sqlite_batch()).await,
            Kind::MariaDb => unreachable!("not measured"),
        };
    }
    let rate = f64::from(BURST) / begin.elapsed().as_secs_f64();
    assert_eq!(database.closed_rooms().await, 0);
    assert_eq!(database.unpublished().await, i64::from(BURST));
    rate
}

fn postgres_batch() -> String {
    format!(
        "WITH due AS (
             SELECT id FROM lobbyd_rooms WHERE lobby_timer <= now()
             ORDER BY lobby_timer, id LIMIT {BATCH} FOR UPDATE SKIP LOCKED
         ), reset AS (
             UPDATE lobbyd_rooms AS room
             SET lobby_state = 0, lobby_timer = NULL, lobby_version = lobby_version + 1
             FROM due WHERE room.id = due.id RETURNING room.token
         )
         INSERT INTO lobbyd_outbox (id, type, token, data, created_at, available_at)
         SELECT gen_random_uuid(), 'room.updated.v1', token, repeat('x', 200), now(), now()
         FROM reset"
    )
}

fn sqlite_batch() -> String {
    let due = format!(
        "SELECT id FROM lobbyd_rooms WHERE lobby_timer <= datetime('now')
         ORDER BY lobby_timer, id LIMIT {BATCH}"
    );
    format!(
        "BEGIN IMMEDIATE;
         INSERT INTO lobbyd_outbox (id, type, token, data, created_at, available_at)
         SELECT hex(randomblob(16)), 'room.updated.v1', token, hex(zeroblob(100)),
                datetime('now'), datetime('now')
         FROM lobbyd_rooms WHERE id IN ({due});
         UPDATE lobbyd_rooms
         SET lobby_state = 0, lobby_timer = NULL, lobby_version = lobby_version + 1
         WHERE id IN ({due});
         COMMIT"
    )
}

/// Events per second of one channel that publishes batches and waits for their confirms.
async fn bare_publishing(cluster: &TestCluster) -> f64 {
    let client = cluster.client().await;
    let body = json!({"data": "x".repeat(400)}).to_string();
    let begin = Instant::now();
    for _ in 0..BURST / BATCH {
        let mut confirms = Vec::new();
        for index in 0..BATCH {
            let key = format!("room.updated.{index}");
            confirms.push(client.send(&key, body.as_bytes(), "application/json").await);
        }
        for confirm in confirms {
            assert_eq!(confirm.await.unwrap(), Confirmation::Ack(None));
        }
    }
    f64::from(BURST) / begin.elapsed().as_secs_f64()
}
