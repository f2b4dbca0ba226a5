//! kill -9, at random and at chosen points: nothing is lost, nothing is doubled.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::sleep;

use crate::support::{
    cluster::TestCluster,
    daemon::Daemon,
    database::{Database, Kind},
    proxy::{Mode, Proxy},
    server::{BROKER, POSTGRES, amqp_url},
};

/// Rooms whose timers come due while the workers die.
const ROOMS: u32 = 300;

/// Workers that die in one test.
const KILLS: u32 = 12;

on_every_database! { crate::support::cluster::TestCluster::new:
    workers_that_die_at_random_lose_and_double_nothing,
}

async fn workers_that_die_at_random_lose_and_double_nothing(cluster: TestCluster) {
    let client = cluster.client().await;
    drop(cluster.worker().await);
    for index in 0..ROOMS {
        cluster.database.insert_room(&format!("room{index}")).await;
    }

    // Half the events have a version, half are what any script sends.
    let now = cluster.database.now().await;
    for index in 0..ROOMS {
        let timer = now + 2 + i64::from(index % 8);
        let mut change = json!({"token": format!("room{index}"), "state": 1, "timer": timer});
        if index % 2 == 0 {
            change["version"] = json!(1);
        }
        client.publish(&change).await;
    }
    for _ in 0..KILLS {
        let worker = Daemon::start(&cluster.settings);
        let life = Duration::from_millis(rand::random_range(50..900));
        sleep(life).await;
        drop(worker);
    }

    let _last = cluster.worker().await;
    cluster.all_done(&client, ROOMS).await;
}

#[tokio::test]
async fn a_worker_that_dies_before_the_confirm_has_its_event_published_again() {
    let proxy = Proxy::to(BROKER.server.port).await;
    let mut cluster = TestCluster::new(Kind::Postgres).await;
    let client = cluster.client().await;
    cluster.set("EVENTS__URL", &amqp_url(proxy.port));
    let worker = cluster.worker().await;
    let timer = cluster.database.now().await + 2;
    cluster.database.insert_rooms("room", 10, timer).await;
    // The bytes stop just before the timers are due: committed, sent, and never confirmed.
    sleep(Duration::from_secs(1)).await;
    proxy.set(Mode::Freeze);
    let database = &cluster.database;
    database.all_open().await;
    assert_eq!(database.unpublished().await, 10);
    drop(worker);

    cluster.set("EVENTS__URL", &BROKER.url());
    let _next = cluster.worker().await;
    cluster.all_done(&client, 10).await;
}

#[tokio::test]
async fn a_worker_that_dies_inside_a_transaction_leaves_the_timer_to_the_next() {
    let proxy = Proxy::to(POSTGRES.port).await;
    let mut cluster = TestCluster::new(Kind::Postgres).await;
    let client = cluster.client().await;
    let direct = cluster.database.url.clone();
    cluster.set("DATABASE__URL", &cluster.database.url_through(proxy.port));
    let worker = cluster.worker().await;
    let timer = cluster.database.now().await + 2;
    cluster.database.insert_rooms("room", 10, timer).await;
    // Somebody else's lock holds the worker up inside its transaction.
    let holder = Database::hold_rooms(&direct).await;
    sleep(Duration::from_millis(2500)).await;
    proxy.set(Mode::Freeze);
    drop(worker);
    drop(holder);
    proxy.set(Mode::Pass);

    let _next = cluster.worker().await;
    cluster.all_done(&client, 10).await;
}

#[tokio::test]
async fn a_worker_that_stops_flushes_its_outbox() {
    let proxy = Proxy::to(BROKER.server.port).await;
    let mut cluster = TestCluster::new(Kind::Postgres).await;
    let client = cluster.client().await;
    cluster.set("EVENTS__URL", &amqp_url(proxy.port));
    let mut worker = cluster.worker().await;
    proxy.set(Mode::Freeze);
    cluster.database.insert_rooms("room", 3000, cluster.database.now().await).await;
    cluster.database.all_open().await;
    assert_eq!(cluster.database.unpublished().await, 3000);
    worker.signal(Signal::SIGTERM);
    sleep(Duration::from_millis(500)).await;
    assert_eq!(cluster.database.unpublished().await, 3000);
    proxy.set(Mode::Pass);
    assert!(worker.ended().await.success());
    assert_eq!(cluster.database.unpublished().await, 0);
    cluster.all_done(&client, 3000).await;
}
