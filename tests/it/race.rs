//! Many at once: workers, timers, and settings that race with them.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use lobbyd::{
    domain::{Applied, Version},
    store::{Database as Stored, LockPolicy, StoreError},
};
use tokio::{sync::Barrier, task::JoinSet, time::sleep};

use crate::support::{
    amqp::Published,
    cluster::TestCluster,
    database::{Database, Kind},
    fixtures::{change, closed_until},
};

on_every_database! { std::future::ready:
    two_workers_open_each_room_once,
    a_new_setting_races_with_the_reset,
    three_workers_migrate_at_once,
}

/// P2 and P3: 2,000 timers due in the same second, two workers.
async fn two_workers_open_each_room_once(kind: Kind) {
    const ROOMS: u32 = 2000;
    let cluster = TestCluster::new(kind).await;
    let client = cluster.client().await;
    let workers = [cluster.worker().await, cluster.worker().await];
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
    // Announced once: nobody crashed, so there is no second publication either.
    sleep(Duration::from_secs(1)).await;
    assert!(client.take_rest(&cluster.updates).await.is_empty());
    let mut fired = 0;
    for worker in &workers {
        fired += worker.metric("lobbyd_timers_fired_total").await.unwrap();
    }
    assert_eq!(fired, u64::from(ROOMS));
}

/// P4: whichever comes first, the outcome is that of one of the two orders.
async fn a_new_setting_races_with_the_reset(kind: Kind) {
    const ROOMS: u32 = 300;
    let database = Database::create(kind).await;
    let store = database.store().await;
    let due = store.now().await.unwrap().timestamp() - 10;
    database.insert_rooms("room", ROOMS, due).await;

    let start = Arc::new(Barrier::new(4));
    let mut firing = JoinSet::new();
    for _ in 0..2 {
        firing.spawn(fire_all(Arc::clone(&store), Arc::clone(&start)));
    }
    let mut setting = JoinSet::new();
    for half in 0..2 {
        setting.spawn(move_all(Arc::clone(&store), Arc::clone(&start), half, ROOMS));
    }
    let moved: Vec<(String, bool)> = setting.join_all().await.into_iter().flatten().collect();
    let rounds: u32 = firing.join_all().await.into_iter().sum();
    assert!(rounds > 0, "every attempt to fire failed");

    let fired = database.texts("SELECT token FROM lobbyd_outbox ORDER BY token").await;
    for (token, replaced_the_due_timer) in &moved {
        let resets = fired.iter().filter(|other| *other == token).count();
        assert_eq!(resets, usize::from(!replaced_the_due_timer), "{token}");
    }
    // In both orders the new timer stands.
    assert_eq!(database.closed_rooms().await, i64::from(ROOMS));
    let now = store.now().await.unwrap();
    assert!(
        store.fire_due(now, 1000, LockPolicy::SkipLocked, None).await.unwrap().events.is_empty()
    );
}

/// Fires in many rounds of few rooms, so that settings come in between. Returns how many rounds
/// succeeded: a deadlock is an error that is answered by another round, as the loop does.
async fn fire_all(store: Arc<dyn Stored>, start: Arc<Barrier>) -> u32 {
    start.wait().await;
    let now = store.now().await.unwrap();
    let mut succeeded = 0;
    for _ in 0..100 {
        succeeded += u32::from(store.fire_due(now, 5, LockPolicy::SkipLocked, None).await.is_ok());
        sleep(Duration::from_millis(2)).await;
    }
    succeeded
}

/// Moves every second room's timer; says for each whether its due timer was superseded.
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
    // From the end, while the reset comes from the beginning.
    for index in (1..=rooms).rev().filter(|index| index % 2 == half) {
        let token = format!("room{index}");
        let change = change(&token, later, now.timestamp_millis());
        let applied = loop {
            match store.apply(&change, Version::ZERO).await {
                Ok(applied) => break applied,
                Err(error) => assert!(!matches!(error, StoreError::Rejected(_)), "{error}"),
            }
        };
        let Applied::Set { replaced, .. } = applied else { panic!("{applied:?}") };
        moved.push((token, replaced.is_some()));
    }
    moved
}

/// Somebody's transaction stays open, longer than any use of the database may take.
#[tokio::test]
async fn a_room_that_is_held_delays_no_other() {
    let cluster = TestCluster::new(Kind::Postgres).await;
    let client = cluster.client().await;
    let _worker = cluster.worker().await;
    let now = cluster.database.now().await;
    cluster.database.insert_rooms("held", 1, now + 2).await;
    cluster.database.insert_rooms("free", 10, now + 9).await;
    let token = cluster.database.texts("SELECT token FROM lobbyd_rooms ORDER BY id LIMIT 1").await;
    let holder = Database::hold_room(&cluster.database.url, &token[0]).await;
    client.take_ids(&cluster.updates, 10).await;
    assert_eq!(cluster.database.closed_rooms().await, 1);
    drop(holder);
    cluster.database.all_open().await;
}

async fn three_workers_migrate_at_once(kind: Kind) {
    let cluster = TestCluster::new(kind).await;
    let workers = [(), (), ()].map(|()| crate::support::daemon::Daemon::start(&cluster.settings));
    for worker in &workers {
        worker.ready().await;
    }
}
