//! Outages of broker and database: they delay, they do not lose (P7).

use std::{collections::BTreeSet, time::Duration};

use nix::sys::signal::Signal;
use serde_json::json;
use tokio::{
    io::AsyncReadExt,
    net::TcpListener,
    time::{Instant, sleep, timeout},
};

use crate::support::{
    amqp::{Client, Published},
    cluster::TestCluster,
    daemon::Daemon,
    database::{Database, Kind},
    eventually,
    proxy::{Mode, Proxy},
    server::{BROKER, Broker, POSTGRES, Server, amqp_url, start_mariadb, start_postgres},
};

/// Rooms that come due one after another, from before an outage until after it.
const ROOMS: u32 = 200;

/// Timers in every one of ten seconds.
async fn insert_load(cluster: &TestCluster, first_in: i64) {
    let now = cluster.database.now().await;
    for second in 0..10 {
        let prefix = format!("at{second}x");
        cluster.database.insert_rooms(&prefix, ROOMS / 10, now + first_in + second).await;
    }
}

#[tokio::test]
async fn a_broker_that_is_killed_and_comes_back_gets_every_event() {
    let mut broker = Broker::start();
    let cluster = TestCluster::on(Database::create(Kind::Postgres).await, &broker.url());
    let client = cluster.client().await;
    let worker = cluster.worker().await;
    insert_load(&cluster, 2).await;
    sleep(Duration::from_secs(4)).await;
    broker.server.kill();

    // Without the broker, rooms are opened on time.
    sleep(Duration::from_secs(3)).await;
    let overdue = "SELECT count(*) FROM lobbyd_rooms WHERE lobby_timer < now() - interval '1.5 s'";
    assert_eq!(cluster.database.number(overdue).await, 0);
    let problems = worker.unready().await;
    assert!(problems.contains("consumer: ") && problems.contains("publisher: "), "{problems}");
    assert_eq!(worker.get("/livez").await.unwrap().0, 200);

    broker.server.start();
    drop(client);
    let client = Client::connect(&broker.url(), &cluster.exchange).await;
    let begin = Instant::now();
    worker.ready().await;
    println!("broker back, worker ready after {:?}", begin.elapsed());
    cluster.all_done(&client, ROOMS).await;

    // Events come in again as well.
    cluster.database.insert_room("after").await;
    let timer = cluster.database.now().await + 1;
    client.publish(&json!({"token": "after", "state": 1, "timer": timer})).await;
    let update = eventually("the next update", || client.take(&cluster.updates)).await;
    assert_eq!(update.token(), "after");
}

#[tokio::test]
async fn a_postgres_that_is_killed_and_comes_back_goes_on() {
    kill_database(Kind::Postgres, start_postgres()).await;
}

#[tokio::test]
async fn a_mariadb_that_is_killed_and_comes_back_goes_on() {
    kill_database(Kind::MariaDb, start_mariadb()).await;
}

async fn kill_database(kind: Kind, mut server: Server) {
    let cluster = TestCluster::on(Database::create_on(kind, server.port).await, &BROKER.url());
    let client = cluster.client().await;
    let worker = cluster.worker().await;
    cluster.database.insert_room("changed").await;
    insert_load(&cluster, 2).await;
    sleep(Duration::from_secs(4)).await;
    server.kill();

    worker.unready().await;
    assert_eq!(worker.get("/livez").await.unwrap().0, 200);
    // What comes in meanwhile waits at the broker.
    client.publish(&json!({"token": "changed", "state": 1})).await;
    sleep(Duration::from_secs(1)).await;

    server.start();
    let begin = Instant::now();
    worker.ready().await;
    println!("{kind:?} back, worker ready after {:?}", begin.elapsed());
    cluster.database.lobby_becomes("changed", 1).await;
    cluster.database.execute("DELETE FROM lobbyd_rooms WHERE token = 'changed'").await;
    cluster.all_done(&client, ROOMS).await;
}

#[tokio::test]
async fn a_database_that_freezes_costs_no_connection() {
    let proxy = Proxy::to(POSTGRES.port).await;
    let mut cluster = TestCluster::new(Kind::Postgres).await;
    let client = cluster.client().await;
    let url = cluster.database.url_through(proxy.port);
    cluster.set("DATABASE__URL", &url);
    cluster.set("DATABASE__TIMEOUT", "1s");
    cluster.set("DATABASE__MAX_CONNECTIONS", "3");
    let worker = cluster.worker().await;
    cluster.database.insert_room("changed").await;
    for round in 0..4 {
        proxy.set(Mode::Freeze);
        client.publish(&json!({"token": "changed", "state": round % 2})).await;
        worker.unready().await;
        // Long enough for every connection of the pool to be lost.
        sleep(Duration::from_secs(3)).await;
        proxy.set(Mode::Pass);
        worker.ready().await;
        let prefix = format!("room{round}x");
        cluster.database.insert_rooms(&prefix, 5, cluster.database.now().await).await;
        cluster.database.lobby_becomes("changed", round % 2).await;
    }
    cluster.database.execute("DELETE FROM lobbyd_rooms WHERE token = 'changed'").await;
    cluster.all_done(&client, 20).await;
}

#[tokio::test]
async fn a_broker_that_freezes_holds_back_no_reset() {
    let proxy = Proxy::to(BROKER.server.port).await;
    let mut cluster = TestCluster::new(Kind::MariaDb).await;
    let client = cluster.client().await;
    cluster.set("EVENTS__URL", &amqp_url(proxy.port));
    let worker = cluster.worker().await;
    proxy.set(Mode::Freeze);
    cluster.database.insert_rooms("room", 50, cluster.database.now().await + 1).await;
    let database = &cluster.database;
    database.all_open().await;
    worker.unready().await;
    assert_eq!(database.unpublished().await, 50);
    proxy.set(Mode::Pass);
    cluster.all_done(&client, 50).await;
}

#[tokio::test]
async fn connections_that_are_cut_again_and_again_lose_nothing() {
    let (events, rows) = (Proxy::to(BROKER.server.port).await, Proxy::to(POSTGRES.port).await);
    let mut cluster = TestCluster::new(Kind::Postgres).await;
    let client = cluster.client().await;
    let url = cluster.database.url_through(rows.port);
    cluster.set("DATABASE__URL", &url);
    cluster.set("EVENTS__URL", &amqp_url(events.port));
    let _worker = cluster.worker().await;
    insert_load(&cluster, 1).await;
    for round in 0..30 {
        let proxy = if round % 2 == 0 { &events } else { &rows };
        proxy.set(Mode::Cut);
        sleep(Duration::from_millis(50)).await;
        proxy.set(Mode::Pass);
        sleep(Duration::from_millis(rand::random_range(50..400))).await;
    }
    cluster.all_done(&client, ROOMS).await;
}

#[tokio::test]
async fn a_broker_without_memory_still_delivers_and_gets_all_events_later() {
    let broker = Broker::start();
    let cluster = TestCluster::on(Database::create(Kind::Postgres).await, &broker.url());
    let client = cluster.client().await;
    let worker = cluster.worker().await;
    cluster.database.insert_room("changed").await;
    // These wait in the queue while the alarm begins, because the worker stands still.
    worker.signal(Signal::SIGSTOP);
    for state in [1, 0, 1, 0, 1] {
        client.publish(&json!({"token": "changed", "state": state})).await;
    }
    broker.control(&["set_vm_memory_high_watermark", "absolute", "1000000"]);
    worker.signal(Signal::SIGCONT);
    eventually("five events", || async {
        let applied = r#"lobbyd_events_received_total{outcome="applied"}"#;
        worker.metric(applied).await.filter(|applied| *applied == 5)
    })
    .await;
    cluster.database.insert_rooms("room", 100, cluster.database.now().await).await;
    eventually("the resets", || async {
        let due = "SELECT count(*) FROM lobbyd_rooms WHERE lobby_timer IS NOT NULL";
        (cluster.database.number(due).await == 0).then_some(())
    })
    .await;
    eventually("that the worker notices", || async {
        worker.metric("lobbyd_broker_blocked").await.filter(|blocked| *blocked == 1)
    })
    .await;
    assert_eq!(cluster.database.unpublished().await, 100);

    broker.control(&["set_vm_memory_high_watermark", "0.4"]);
    let updates = client.take_ids(&cluster.updates, 100).await;
    assert_eq!(updates.len(), 100);
    worker.ready().await;
}

#[tokio::test]
async fn an_event_that_no_queue_takes_is_kept_until_one_does() {
    let cluster = TestCluster::new(Kind::Sqlite).await;
    let client = Client::connect(&cluster.amqp_url, &cluster.exchange).await;
    let worker = cluster.worker().await;
    cluster.database.insert_rooms("room", 3, cluster.database.now().await).await;
    let refused = r#"lobbyd_events_published_total{outcome="refused"}"#;
    eventually("that it comes back", || async {
        worker.metric(refused).await.filter(|times| *times > 0)
    })
    .await;
    assert_eq!(cluster.database.closed_rooms().await, 0);
    assert_eq!(cluster.database.unpublished().await, 3);
    client.record(&cluster.updates).await;
    cluster.all_done(&client, 3).await;
}

#[tokio::test]
async fn of_a_batch_only_what_a_queue_takes_is_published() {
    let cluster = TestCluster::new(Kind::Postgres).await;
    let client = Client::connect(&cluster.amqp_url, &cluster.exchange).await;
    // Every second room has a queue of its own, the others have none.
    let keys: Vec<String> = (1..=100).step_by(2).map(|i| format!("room.updated.room{i}")).collect();
    client.record_keys(&cluster.updates, &keys).await;
    let worker = cluster.worker().await;
    for _ in 0..3 {
        cluster.database.execute("DELETE FROM lobbyd_rooms").await;
        cluster.database.execute("DELETE FROM lobbyd_outbox").await;
        cluster.database.insert_rooms("room", 100, cluster.database.now().await).await;
        let updates = client.take_ids(&cluster.updates, 50).await;
        let tokens: BTreeSet<String> = updates.values().map(Published::token).collect();
        assert_eq!(tokens.len(), 50);
        eventually("fifty events that wait", || async {
            (cluster.database.unpublished().await == 50).then_some(())
        })
        .await;
        let waiting = "SELECT token FROM lobbyd_outbox WHERE published_at IS NULL";
        for token in cluster.database.texts(waiting).await {
            assert!(!tokens.contains(&token), "{token} was published and still waits");
        }
    }
    worker.ready().await;
}

#[tokio::test]
async fn a_broker_that_accepts_and_says_nothing_costs_no_descriptors() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let mut cluster = TestCluster::new(Kind::Sqlite).await;
    cluster.set("EVENTS__URL", &amqp_url(listener.local_addr().unwrap().port()));
    let worker = Daemon::start(&cluster.settings);
    let mut accepted = Vec::new();
    while accepted.len() < 8 {
        accepted.push(listener.accept().await.unwrap().0);
    }
    let problems = worker.unready().await;
    assert!(problems.contains("broker did not accept a connection within 5s"), "{problems}");
    let mut open = 0;
    for stream in &mut accepted {
        let mut heard = Vec::new();
        let closed = timeout(Duration::from_millis(10), stream.read_to_end(&mut heard)).await;
        open += u32::from(closed.is_err());
    }
    // Two that lapin tried, and two that are asked now.
    assert!(open <= 4, "{open} of 8 connections are still open");
}

#[tokio::test]
async fn a_queue_that_is_deleted_is_declared_again() {
    let cluster = TestCluster::new(Kind::Sqlite).await;
    let client = cluster.client().await;
    let worker = cluster.worker().await;
    client.delete_queue(&cluster.queue).await;
    cluster.database.insert_room("webinar").await;
    // The connection lives on; what ended is the consumer.
    eventually("a new consumer", || async {
        worker.log().contains("consumer disconnected").then_some(())
    })
    .await;
    worker.ready().await;
    client.publish(&json!({"token": "webinar", "state": 1})).await;
    cluster.database.lobby_becomes("webinar", 1).await;
}

#[tokio::test]
async fn a_worker_that_starts_first_waits_for_database_and_broker() {
    let proxies = [Proxy::to(POSTGRES.port).await, Proxy::to(BROKER.server.port).await];
    let mut cluster = TestCluster::new(Kind::Postgres).await;
    let client = cluster.client().await;
    for proxy in &proxies {
        proxy.set(Mode::Cut);
    }
    let url = cluster.database.url_through(proxies[0].port);
    cluster.set("DATABASE__URL", &url);
    cluster.set("EVENTS__URL", &amqp_url(proxies[1].port));
    let worker = Daemon::start(&cluster.settings);
    let problems = worker.unready().await;
    assert!(problems.contains("database: "), "{problems}");
    for proxy in &proxies {
        sleep(Duration::from_secs(1)).await;
        proxy.set(Mode::Pass);
    }
    worker.ready().await;
    cluster.database.insert_rooms("room", 1, cluster.database.now().await).await;
    cluster.all_done(&client, 1).await;
}
