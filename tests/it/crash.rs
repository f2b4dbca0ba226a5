//! kill -9, at random and at chosen points: nothing is lost, nothing is doubled.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::sleep;

use crate::support::{
    daemon::Daemon,
    database::{Database, Kind},
    proxy::{Mode, Proxy},
    server::{BROKER, POSTGRES, amqp_url},
    site::Site,
};

/// Rooms whose timers come due while the workers die.
const ROOMS: u32 = 300;

/// Workers that die in one test.
const KILLS: u32 = 12;

on_every_database! { crate::support::site::Site::new:
    workers_that_die_at_random_lose_and_double_nothing,
}

async fn workers_that_die_at_random_lose_and_double_nothing(site: Site) {
    let client = site.client().await;
    drop(site.worker().await);
    for index in 0..ROOMS {
        site.database.insert_room(&format!("room{index}")).await;
    }

    // Half the events have a version, half are what any script sends.
    let now = site.database.now().await;
    for index in 0..ROOMS {
        let timer = now + 2 + i64::from(index % 8);
        let mut change = json!({"token": format!("room{index}"), "state": 1, "timer": timer});
        if index % 2 == 0 {
            change["version"] = json!(1);
        }
        client.publish(&change).await;
    }
    for _ in 0..KILLS {
        let worker = Daemon::start(&site.settings);
        let life = Duration::from_millis(rand::random_range(50..900));
        sleep(life).await;
        drop(worker);
    }

    let _last = site.worker().await;
    site.all_done(&client, ROOMS).await;
}

#[tokio::test]
async fn a_worker_that_dies_before_the_confirm_has_its_event_published_again() {
    let proxy = Proxy::to(BROKER.server.port).await;
    let mut site = Site::new(Kind::Postgres).await;
    let client = site.client().await;
    site.set("EVENTS__URL", &amqp_url(proxy.port));
    let worker = site.worker().await;
    let timer = site.database.now().await + 2;
    site.database.insert_rooms("room", 10, timer).await;
    // The bytes stop just before the timers are due: committed, sent, and never confirmed.
    sleep(Duration::from_secs(1)).await;
    proxy.set(Mode::Freeze);
    let database = &site.database;
    database.all_open().await;
    assert_eq!(database.unpublished().await, 10);
    drop(worker);

    site.set("EVENTS__URL", &BROKER.url());
    let _next = site.worker().await;
    site.all_done(&client, 10).await;
}

#[tokio::test]
async fn a_worker_that_dies_inside_a_transaction_leaves_the_timer_to_the_next() {
    let proxy = Proxy::to(POSTGRES.port).await;
    let mut site = Site::new(Kind::Postgres).await;
    let client = site.client().await;
    let direct = site.database.url.clone();
    site.set("DATABASE__URL", &site.database.url_through(proxy.port));
    let worker = site.worker().await;
    let timer = site.database.now().await + 2;
    site.database.insert_rooms("room", 10, timer).await;
    // Somebody else's lock holds the worker up inside its transaction.
    let holder = Database::hold_rooms(&direct).await;
    sleep(Duration::from_millis(2500)).await;
    proxy.set(Mode::Freeze);
    drop(worker);
    drop(holder);
    proxy.set(Mode::Pass);

    let _next = site.worker().await;
    site.all_done(&client, 10).await;
}

#[tokio::test]
async fn a_worker_that_stops_flushes_its_outbox() {
    let proxy = Proxy::to(BROKER.server.port).await;
    let mut site = Site::new(Kind::Postgres).await;
    let client = site.client().await;
    site.set("EVENTS__URL", &amqp_url(proxy.port));
    let mut worker = site.worker().await;
    proxy.set(Mode::Freeze);
    site.database.insert_rooms("room", 3000, site.database.now().await).await;
    site.database.all_open().await;
    assert_eq!(site.database.unpublished().await, 3000);
    worker.signal(Signal::SIGTERM);
    sleep(Duration::from_millis(500)).await;
    assert_eq!(site.database.unpublished().await, 3000);
    proxy.set(Mode::Pass);
    assert!(worker.ended().await.success());
    assert_eq!(site.database.unpublished().await, 0);
    site.all_done(&client, 3000).await;
}
