//! Races: several workers, many timers, and lobby changes at the same time.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use lobbyd::{
    domain::Applied,
    store::{Database as Stored, LockPolicy, StoreError},
};
use tokio::{sync::Barrier, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::support::{
    amqp::Published,
    cluster::TestCluster,
    daemon::Daemon,
    database::{Database, Kind},
    fixtures::{change, closed_until},
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
    assert_eq!(cluster.database.number("SELECT count(*) FROM lobbyd_outbox").await, 2000);
    let mut fired = 0;
    for worker in &workers {
        fired += worker.metric("lobbyd_timers_fired_total").await.unwrap();
    }
    assert_eq!(fired, u64::from(ROOMS));
    // No worker crashed, so no event is published twice. Workers that have stopped publish nothing
    // more.
    for worker in &mut workers {
        assert!(worker.stop().await.success());
    }
    assert!(client.take_rest(&cluster.updates).await.is_empty());
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

    let fired = database.texts("SELECT token FROM lobbyd_outbox WHERE due_at IS NOT NULL").await;
    for (token, replaced_the_due_timer) in &moved {
        let resets = fired.iter().filter(|other| *other == token).count();
        assert_eq!(resets, usize::from(!replaced_the_due_timer), "{token}");
    }
    // In both orders the new timer is set.
    assert_eq!(database.closed_rooms().await, i64::from(ROOMS));
    let now = store.now().await.unwrap();
    assert!(
        store.fire_due(now, 1000, LockPolicy::SkipLocked, None).await.unwrap().events.is_empty()
    );
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
        succeeded += u32::from(store.fire_due(now, 5, LockPolicy::SkipLocked, None).await.is_ok());
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
            match store.apply(std::slice::from_ref(&change), now).await.map(|applied| applied[0]) {
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

/// The transaction of another program stays open for longer than the database timeout.
#[tokio::test(flavor = "multi_thread")]
async fn a_locked_room_does_not_delay_other_rooms() {
    let mut cluster = TestCluster::new(Kind::Postgres).await;
    cluster.set("DATABASE__TIMEOUT", "1s");
    let client = cluster.client().await;
    cluster.database.store().await;
    cluster.database.insert_rooms("held", 1, cluster.database.now().await).await;
    let holder = Database::hold_room(&cluster.database.url, "held1").await;
    let worker = cluster.worker().await;
    worker.logs("locked due room could not be reset").await;
    cluster.database.insert_rooms("free", 10, cluster.database.now().await).await;
    client.take_ids(&cluster.updates, 10).await;
    assert_eq!(cluster.database.closed_rooms().await, 1);
    drop(holder);
    cluster.database.all_open().await;
}

async fn three_workers_start_on_an_empty_database_at_once(kind: Kind) {
    let cluster = TestCluster::new(kind).await;
    let workers = [(), (), ()].map(|()| Daemon::start(&cluster.settings));
    for worker in &workers {
        worker.ready().await;
    }
}
