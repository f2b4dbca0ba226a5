//! Workers that are killed with SIGKILL, at random and at chosen points. No event may be lost, and
//! none published with two ids.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::sleep;

use crate::support::{
    cluster::TestCluster,
    daemon::Daemon,
    database::{Database, Kind},
    eventually,
    proxy::{Mode, Proxy},
    server::{BROKER, POSTGRES, amqp_url},
};

/// Rooms whose timers become due while workers are killed.
const ROOMS: u32 = 300;

/// Workers that are killed in one test.
const KILLS: u32 = 12;

on_every_database! { crate::support::cluster::TestCluster::new:
    workers_killed_at_random_lose_and_duplicate_nothing,
}

async fn workers_killed_at_random_lose_and_duplicate_nothing(cluster: TestCluster) {
    let client = cluster.client().await;
    drop(cluster.worker().await);
    cluster.arm_by_events(&client, "room", ROOMS, 2..10).await;
    for _ in 0..KILLS {
        let worker = Daemon::start(&cluster.settings);
        eventually("the process to run", || worker.get("/livez")).await;
        // The random delay is the fault: it decides what the worker is doing when it is killed.
        sleep(Duration::from_millis(rand::random_range(0..800))).await;
        drop(worker);
    }

    let _last = cluster.worker().await;
    cluster.all_done(&client, ROOMS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_worker_killed_before_the_confirm_are_published_again() {
    let proxy = Proxy::to(BROKER.server.port).await;
    let mut cluster = TestCluster::new(Kind::Postgres).await;
    let client = cluster.client().await;
    cluster.set("EVENTS__URL", &amqp_url(proxy.port));
    let worker = cluster.worker().await;
    // The broker receives the events, but its confirms do not reach the worker.
    proxy.set(Mode::FreezeResponses);
    let database = &cluster.database;
    database.insert_rooms("room", 10, database.now().await).await;
    let first = client.take_ids(&cluster.updates, 10).await;
    assert_eq!(database.unpublished().await, 10);
    drop(worker);

    cluster.set("EVENTS__URL", &BROKER.url());
    let _next = cluster.worker().await;
    let second = client.take_ids(&cluster.updates, 10).await;
    assert!(first.keys().eq(second.keys()), "the events have new ids");
    cluster.each_announced(&client, second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn timers_of_a_worker_killed_inside_a_transaction_fire_in_the_next_worker() {
    let proxy = Proxy::to(POSTGRES.port).await;
    let mut cluster = TestCluster::new(Kind::Postgres).await;
    let client = cluster.client().await;
    let direct = cluster.database.url.clone();
    cluster.set("DATABASE__URL", &cluster.database.url_through(proxy.port));
    cluster.database.store().await;
    cluster.database.insert_rooms("room", 10, cluster.database.now().await).await;
    // A lock of another transaction stops the worker inside its own.
    let holder = Database::hold_rooms(&direct).await;
    let worker = Daemon::start(&cluster.settings);
    eventually("the worker to wait for the lock", || async {
        let waiting = "SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";
        (cluster.database.number(waiting).await > 0).then_some(())
    })
    .await;
    proxy.set(Mode::Freeze);
    drop(worker);
    drop(holder);
    proxy.set(Mode::Pass);

    let _next = cluster.worker().await;
    cluster.all_done(&client, 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_flushes_its_outbox_before_it_stops() {
    let proxy = Proxy::to(BROKER.server.port).await;
    let mut cluster = TestCluster::new(Kind::Postgres).await;
    let client = cluster.client().await;
    cluster.set("EVENTS__URL", &amqp_url(proxy.port));
    // On a busy machine the flush may take longer than the default.
    cluster.set("SHUTDOWN__GRACE", "3m");
    let mut worker = cluster.worker().await;
    proxy.set(Mode::Freeze);
    cluster.database.insert_rooms("room", 3000, cluster.database.now().await).await;
    cluster.database.all_open().await;
    assert_eq!(cluster.database.unpublished().await, 3000);
    worker.signal(Signal::SIGTERM);
    worker.logs("stopping, ").await;
    assert_eq!(cluster.database.unpublished().await, 3000);
    proxy.set(Mode::Pass);
    assert!(worker.ended().await.success());
    assert_eq!(cluster.database.unpublished().await, 0);
    cluster.all_done(&client, 3000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_closes_every_connection_to_the_broker() {
    let cluster = TestCluster::new(Kind::Postgres).await;
    let client = cluster.client().await;
    let stopped = Daemon::start_as("run", &cluster.settings);
    stopped.ready().await;
    // A dead letter, so that it has every kind of connection.
    client.publish_bytes(b"{", "application/json").await;
    eventually("the dead letter", || client.take(&cluster.dead_letters)).await;
    let mut stopped = stopped;
    assert!(stopped.stop().await.success());
    let killed = cluster.worker().await;
    let (stopped, killed_process) = (stopped.process(), killed.process());
    drop(killed);
    // The broker warns of connections that end without a close, in their order.
    let lost = |process: u32| {
        let process = format!("process {process},");
        BROKER.log().lines().any(|line| line.contains("[warning]") && line.contains(&process))
    };
    eventually("the broker to miss the killed process", || async {
        lost(killed_process).then_some(())
    })
    .await;
    assert!(!lost(stopped), "the broker lost a connection of the stopped process");
}

/// What a lost connection has delivered is delivered again, so it is not applied from memory as well.
#[tokio::test(flavor = "multi_thread")]
async fn events_that_are_delivered_again_are_applied_once() {
    let proxy = Proxy::to(BROKER.server.port).await;
    let mut cluster = TestCluster::new(Kind::Postgres).await;
    let client = cluster.client().await;
    cluster.set("EVENTS__URL", &amqp_url(proxy.port));
    cluster.set("DATABASE__TIMEOUT", "1s");
    let worker = cluster.worker().await;
    cluster.database.open_rooms("room", 20).await;
    let holder = Database::hold_rooms(&cluster.database.url).await;
    for room in 1..=20 {
        client.publish(&json!({"token": format!("room{room}"), "state": 1})).await;
    }
    worker.logs("each room is tried alone").await;
    proxy.set(Mode::Cut);
    worker.logs("consumer disconnected").await;
    proxy.set(Mode::Pass);
    eventually("the consumer to connect again", || async {
        (worker.log().matches("consumer connected").count() == 2).then_some(())
    })
    .await;
    drop(holder);
    eventually("every event to be applied", || async {
        (cluster.database.closed_rooms().await == 20).then_some(())
    })
    .await;
    eventually("every event to be acknowledged", || async {
        let age = worker.gauge("lobbyd_delivery_oldest_age_seconds").await?;
        (age == 0.0).then_some(())
    })
    .await;
    let outcome = |name| format!("lobbyd_events_received_total{{outcome=\"{name}\"}}");
    assert_eq!(worker.metric(&outcome("applied")).await, Some(20));
    assert_eq!(worker.metric(&outcome("stale")).await, Some(0));
}
