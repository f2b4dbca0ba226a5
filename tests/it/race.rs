//! Races: several workers, many timers, and lobby changes at the same time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use lobbyd::{
    domain::Applied,
    store::{Database as Stored, DueBatch, LockPolicy, NotFired, Patience, StoreError},
};
use sqlx::{Connection, Executor, MySqlConnection, PgConnection};
use tokio::{
    sync::Barrier,
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::support::{
    amqp::Published,
    app::TestApp,
    cluster::TestCluster,
    daemon::Daemon,
    database::{Database, Kind},
    eventually,
    fixtures::{StoreFixture, at, change, close_until, closed_until},
};

on_every_database! { std::future::ready:
    two_workers_open_each_room_once,
    a_lobby_change_races_with_the_reset,
    three_workers_start_on_an_empty_database_at_once,
}

/// Promises P2 and P3, with 2,000 timers that are due in the same second.
async fn two_workers_open_each_room_once(kind: Kind) {
    const ROOMS: u32 = 2000;
    let cluster = TestCluster::new(kind).await;
    let client = cluster.client().await;
    let mut workers = [cluster.worker().await, cluster.worker().await];
    let timer = cluster.database.now().await + 3;
    cluster.database.insert_rooms("room", ROOMS, timer).await;

    let updates = client.take_ids(&cluster.updates, 2000).await;
    let mut tokens: Vec<String> = updates.values().map(Published::token).collect();
    tokens.sort();
    tokens.dedup();
    assert_eq!(tokens.len(), 2000);
    for update in updates.values() {
        let fired_at: DateTime<Utc> =
            update.json()["data"]["firedAt"].as_str().unwrap().parse().unwrap();
        assert!(fired_at.timestamp() >= timer, "early: {fired_at}");
    }
    assert_eq!(cluster.database.closed_rooms().await, 0);
    cluster.database.all_published().await;
    assert_eq!(cluster.database.resets().await.len(), 2000);
    let mut fired = 0;
    for worker in &workers {
        fired += worker.metric("lobbyd_timers_fired_total").await.unwrap();
    }
    assert_eq!(fired, u64::from(ROOMS));
    // Workers that have stopped publish nothing more. No worker crashed, so an event was published
    // twice only if a busy broker did not confirm it in time, and then with the same id.
    let mut unconfirmed = 0;
    for worker in &mut workers {
        let metric = "lobbyd_events_published_total{outcome=\"unconfirmed\"}";
        unconfirmed += worker.metric(metric).await.unwrap();
        assert!(worker.stop().await.success());
    }
    let rest = client.take_rest(&cluster.updates).await;
    assert!(u64::try_from(rest.len()).unwrap() <= unconfirmed, "{} duplicates", rest.len());
    assert!(rest.iter().all(|update| updates.contains_key(&update.message_id)), "an id is new");
}

/// Promise P4: in whatever order reset and lobby change are committed, the result is that of one of
/// the two orders.
async fn a_lobby_change_races_with_the_reset(kind: Kind) {
    const ROOMS: u32 = 300;
    let database = Database::create(kind).await;
    let store = database.store().await;
    let due = store.now().await.unwrap().timestamp() - 10;
    database.insert_rooms("room", ROOMS, due).await;

    let start = Arc::new(Barrier::new(4));
    let moved_all = CancellationToken::new();
    let mut firing = JoinSet::new();
    for _ in 0..2 {
        firing.spawn(fire_all(Arc::clone(&store), Arc::clone(&start), moved_all.clone()));
    }
    let mut setting = JoinSet::new();
    for half in 0..2 {
        setting.spawn(move_all(Arc::clone(&store), Arc::clone(&start), half, ROOMS));
    }
    let moved: Vec<(String, bool)> = setting.join_all().await.into_iter().flatten().collect();
    moved_all.cancel();
    let rounds: u32 = firing.join_all().await.into_iter().sum();
    assert!(rounds > 0, "every attempt to fire failed");

    let fired = database.resets().await;
    for (token, replaced_the_due_timer) in &moved {
        let resets = fired.values().filter(|reset| reset.token == *token).count();
        assert_eq!(resets, usize::from(!replaced_the_due_timer), "{token}");
    }
    // In both orders the new timer is set.
    assert_eq!(database.closed_rooms().await, i64::from(ROOMS));
    let now = store.now().await.unwrap();
    assert!(store.fire_due(now, DueBatch::first(1000), None).await.unwrap().rows.is_empty());
}

/// Fires few timers per transaction, so that changes are committed in between, until all rooms were
/// moved. Returns the number of transactions that succeeded: a deadlock is an error, and the next
/// transaction tries again, as the timer task does.
async fn fire_all(
    store: Arc<dyn Stored>,
    start: Arc<Barrier>,
    moved_all: CancellationToken,
) -> u32 {
    start.wait().await;
    let now = store.now().await.unwrap();
    let mut succeeded = 0;
    while !moved_all.is_cancelled() {
        succeeded += u32::from(store.fire_due(now, DueBatch::first(5), None).await.is_ok());
    }
    succeeded
}

/// Moves the timer of every second room. Returns for each whether its due timer was superseded.
async fn move_all(
    store: Arc<dyn Stored>,
    start: Arc<Barrier>,
    half: u32,
    rooms: u32,
) -> Vec<(String, bool)> {
    start.wait().await;
    let now = store.now().await.unwrap();
    let later = closed_until(DateTime::from_timestamp(now.timestamp() + 3600, 0));
    let mut moved = Vec::new();
    // From the last room on; the resets begin with the first one.
    for index in (1..=rooms).rev().filter(|index| index % 2 == half) {
        let token = format!("room{index}");
        let change = change(&token, later, now.timestamp_millis());
        let applied = loop {
            match store
                .apply(std::slice::from_ref(&change), Patience::Full, now, None)
                .await
                .map(|it| it.results[0])
            {
                Ok(Applied::Locked) => {}
                Ok(applied) => break applied,
                Err(error) => assert!(!matches!(error, StoreError::Rejected(_)), "{error}"),
            }
        };
        let Applied::Set { replaced, .. } = applied else { panic!("{applied:?}") };
        moved.push((token, replaced.is_some()));
    }
    moved
}

/// The transactions of other programs stay open for longer than the database timeout. They delay
/// neither rooms that are free nor a room that is locked again and again for a moment.
#[tokio::test(flavor = "multi_thread")]
async fn locked_rooms_delay_no_other_room() {
    let mut cluster = TestCluster::new(Kind::Postgres).await;
    cluster.set("DATABASE__TIMEOUT", "2s");
    cluster.set("OPS__OVERDUE_AFTER", "1s");
    let client = cluster.client().await;
    let database = &cluster.database;
    database.store().await;
    for prefix in ["held", "idle", "busy"] {
        database.insert_rooms(prefix, 1, database.now().await).await;
    }
    let holders = [
        Database::hold_room(&database.url, "held1").await,
        Database::hold_room(&database.url, "idle1").await,
    ];
    let mut guests = JoinSet::new();
    for _ in 0..4 {
        guests.spawn(lock_often(database.url.clone(), "busy1"));
    }
    let worker = Daemon::start(&cluster.settings);
    database.lobby_becomes("busy1", 0).await;
    guests.shutdown().await;
    database.insert_rooms("free", 10, database.now().await).await;
    client.take_ids(&cluster.updates, 11).await;
    assert_eq!(database.closed_rooms().await, 2);
    worker.logs("due room is locked by another transaction room.token=held1").await;
    worker.unready_with("room held1 is due").await;
    drop(holders);
    database.all_open().await;
    worker.ready().await;
}

/// Locks a room for some milliseconds, and again at once, as joining guests do.
async fn lock_often(url: String, room: &'static str) {
    loop {
        let holder = Database::hold_room(&url, room).await;
        sleep(Duration::from_millis(30)).await;
        drop(holder);
    }
}

/// A wait for a locked room ends soon, so that the next one can be awaited.
#[tokio::test(flavor = "multi_thread")]
async fn a_wait_for_a_locked_room_ends_after_a_second() {
    for kind in [Kind::Postgres, Kind::MariaDb] {
        let StoreFixture { database, store, .. } = StoreFixture::new(kind).await;
        database.insert_rooms("held", 1, at(0).timestamp()).await;
        let lock = "SELECT id FROM lobbyd_rooms WHERE token = 'held1' FOR UPDATE";
        let batch = DueBatch { locked: LockPolicy::Wait, ..DueBatch::first(1) };
        let begin = Instant::now();
        let refused = match kind {
            Kind::Postgres => {
                let mut holder = PgConnection::connect(&database.url).await.unwrap();
                holder.execute("BEGIN").await.unwrap();
                holder.execute(lock).await.unwrap();
                store.fire_due(at(1), batch, None).await
            }
            Kind::MariaDb => {
                let mut holder = MySqlConnection::connect(&database.url).await.unwrap();
                holder.execute("START TRANSACTION").await.unwrap();
                holder.execute(lock).await.unwrap();
                store.fire_due(at(1), batch, None).await
            }
            Kind::Sqlite => unreachable!("SQLite has no locks of rows"),
        };
        let NotFired { due, error } = refused.unwrap_err();
        assert!(due.is_empty() && error.is_contention(), "{error:?}");
        // The time that a use of the database has is 20 s.
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
        database.execute("UPDATE lobbyd_rooms SET name = 'unlocked'").await;
        assert_eq!(store.fire_due(at(1), batch, None).await.unwrap().rows.len(), 1);
    }
}

/// A room that stays locked costs some statements a second, not fifty.
#[tokio::test(flavor = "multi_thread")]
async fn a_locked_room_costs_few_transactions() {
    let cluster = TestCluster::new(Kind::Postgres).await;
    let database = &cluster.database;
    database.store().await;
    database.insert_rooms("held", 1, database.now().await).await;
    let _holder = Database::hold_room(&database.url, "held1").await;
    let _worker = cluster.worker().await;
    eventually("the worker to wait for the lock", || async {
        let waiting = "SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";
        (database.number(waiting).await > 0).then_some(())
    })
    .await;
    let transactions = "SELECT xact_commit + xact_rollback FROM pg_stat_database
                        WHERE datname = current_database()";
    let (begin, before) = (Instant::now(), database.number(transactions).await);
    sleep(Duration::from_secs(4)).await;
    let number = database.number(transactions).await - before;
    let per_second = f64::from(i32::try_from(number).unwrap()) / begin.elapsed().as_secs_f64();
    println!("{per_second} transactions a second");
    assert!(per_second < 30.0, "{per_second} transactions a second");
}

/// Only the key of the room is locked by it.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_insert_with_a_foreign_key_does_not_keep_a_room_closed() {
    let cluster = TestCluster::new(Kind::Postgres).await;
    let database = &cluster.database;
    database.store().await;
    database.execute("CREATE TABLE slides (room BIGINT REFERENCES lobbyd_rooms (id))").await;
    database.insert_rooms("room", 1, database.now().await).await;
    let mut other = <PgConnection as Connection>::connect(&database.url).await.unwrap();
    other.execute("BEGIN; INSERT INTO slides SELECT id FROM lobbyd_rooms").await.unwrap();
    let _worker = cluster.worker().await;
    database.all_open().await;
    drop(other);
}

/// The defaults of a server must not make requests fail that run at the same time.
#[tokio::test(flavor = "multi_thread")]
async fn guests_join_at_once_whatever_the_isolation_level_of_the_server() {
    let mut app = TestApp::new(Kind::Postgres).await;
    let name = app.database.texts("SELECT current_database()::text").await.remove(0);
    let set = format!("ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'");
    app.database.execute(&set).await;
    // They wait for each other, on a busy machine for long.
    app.set("DATABASE__TIMEOUT", "1m");
    app.restart().await;
    let alice = app.user("alice").await;
    let room = alice.room(3).await;
    let mut joining = JoinSet::new();
    for _ in 0..16 {
        let (guest, room) = (app.api.guest(), room.clone());
        joining.spawn(async move { guest.join(&room).await });
    }
    assert_eq!(joining.join_all().await.len(), 16);
}

/// Galera finds conflicts at the commit.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_repeated_when_its_commit_meets_a_conflict() {
    let fixture = StoreFixture::new(Kind::Postgres).await;
    fixture.create_room("a").await;
    fixture.database.execute("CREATE SEQUENCE attempts").await;
    fixture
        .database
        .execute(
            "CREATE FUNCTION conflict() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF nextval('attempts') = 1 THEN
                     RAISE EXCEPTION 'conflict' USING ERRCODE = 'serialization_failure';
                 END IF;
                 RETURN NULL; END $$",
        )
        .await;
    fixture
        .database
        .execute(
            "CREATE CONSTRAINT TRIGGER conflict AFTER UPDATE ON lobbyd_rooms
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION conflict()",
        )
        .await;
    let changed = fixture.change("a", "alice", close_until(50)).await;
    assert!(changed.update.is_some());
    assert_eq!(fixture.lobby("a").await, closed_until(Some(at(50))));
    assert_eq!(fixture.database.number("SELECT last_value FROM attempts").await, 2);
}

async fn three_workers_start_on_an_empty_database_at_once(kind: Kind) {
    let cluster = TestCluster::as_owner(kind).await;
    let workers = [(), (), ()].map(|()| Daemon::start(&cluster.settings));
    for worker in &workers {
        worker.ready().await;
    }
}

/// SQLite has one writer at a time, and lets those that wait poll for their turn.
#[tokio::test(flavor = "multi_thread")]
async fn writers_to_sqlite_come_in_turn() {
    const WRITERS: usize = 24;
    let StoreFixture { database, store, .. } = StoreFixture::new(Kind::Sqlite).await;
    database.insert_rooms("room", 100, at(0).timestamp()).await;
    let written = Arc::new(AtomicUsize::new(0));
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let (store, written) = (Arc::clone(&store), Arc::clone(&written));
        writers.spawn(async move {
            loop {
                store.prune_dead(at(0), 1).await.unwrap();
                written.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    eventually("every writer to be busy", || async {
        (written.load(Ordering::Relaxed) > 10 * WRITERS).then_some(())
    })
    .await;
    for _ in 0..100 {
        let before = written.load(Ordering::Relaxed);
        store.fire_due(at(0), DueBatch::first(1), None).await.unwrap();
        let meanwhile = written.load(Ordering::Relaxed) - before;
        assert!(meanwhile <= 3 * WRITERS, "{meanwhile} others wrote first");
    }
    assert_eq!(database.closed_rooms().await, 0);
}
