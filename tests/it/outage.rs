//! Outages of broker and database: they delay resets and updates, and lose none (promise P7).

use std::{collections::BTreeSet, io::ErrorKind, time::Duration};

use nix::sys::signal::Signal;
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, sleep},
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

/// Rooms whose timers become due one after another, from before an outage until after it.
const ROOMS: u32 = 200;

/// Inserts timers that are due in each of the next ten seconds.
async fn insert_load(cluster: &TestCluster) {
    let now = cluster.database.now().await;
    for second in 0..10 {
        let prefix = format!("at{second}x");
        cluster.database.insert_rooms(&prefix, ROOMS / 10, now + 1 + second).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_restarts_receives_every_event() {
    let mut broker = Broker::start();
    let cluster = TestCluster::on(Database::create(Kind::Postgres).await, &broker.url());
    let client = cluster.client().await;
    let worker = cluster.worker().await;
    insert_load(&cluster).await;
    // The broker needs some seconds of life: a RabbitMQ that is killed just after it has declared a
    // queue refuses that queue forever.
    eventually("the updates of the first seconds", || async {
        let published = "SELECT count(*) FROM lobbyd_outbox WHERE published_at IS NOT NULL";
        (cluster.database.number(published).await >= i64::from(ROOMS / 10 * 4)).then_some(())
    })
    .await;
    broker.server.kill();

    // Without the broker, rooms open too.
    cluster.database.all_open().await;
    assert!(cluster.database.unpublished().await > 0);
    worker.unready_with("consumer: ").await;
    worker.unready_with("publisher: ").await;
    assert_eq!(worker.get("/livez").await.unwrap().0, 200);

    broker.server.start();
    drop(client);
    let client = Client::connect(&cluster.amqp_url, &cluster.exchange).await;
    let begin = Instant::now();
    worker.ready().await;
    println!("broker restarted, worker ready after {:?}", begin.elapsed());
    cluster.all_done(&client, ROOMS).await;

    // Events are received again, too.
    cluster.database.insert_room("after").await;
    let timer = cluster.database.now().await + 1;
    client.publish(&json!({"token": "after", "state": 1, "timer": timer})).await;
    assert_eq!(client.take_reset(&cluster.updates).await.token(), "after");
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_continue_after_a_restart_of_postgres() {
    restart_database(Kind::Postgres, start_postgres()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_continue_after_a_restart_of_mariadb() {
    restart_database(Kind::MariaDb, start_mariadb()).await;
}

async fn restart_database(kind: Kind, mut server: Server) {
    let cluster = TestCluster::on(Database::create_on(kind, server.port).await, &BROKER.url());
    let client = cluster.client().await;
    let worker = cluster.worker().await;
    cluster.database.insert_room("changed").await;
    insert_load(&cluster).await;
    eventually("the first reset", || async {
        (cluster.database.number("SELECT count(*) FROM lobbyd_outbox").await > 0).then_some(())
    })
    .await;
    server.kill();

    worker.unready().await;
    assert_eq!(worker.get("/livez").await.unwrap().0, 200);
    // Events that are sent meanwhile wait at the broker.
    client.publish(&json!({"token": "changed", "state": 1})).await;
    eventually("a timer to be overdue", || async {
        worker.gauge("lobbyd_timer_overdue_seconds").await.filter(|overdue| *overdue > 0.0)
    })
    .await;

    server.start();
    let begin = Instant::now();
    worker.ready().await;
    println!("{kind:?} restarted, worker ready after {:?}", begin.elapsed());
    cluster.database.lobby_becomes("changed", 1).await;
    cluster.database.execute("DELETE FROM lobbyd_rooms WHERE token = 'changed'").await;
    cluster.all_done(&client, ROOMS).await;
}

/// PostgreSQL waits with every commit for a synchronous standby, however long there is none.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_answers_no_commit_is_not_ready_and_keeps_few_connections() {
    let server = start_postgres();
    let database = Database::create_on(Kind::Postgres, server.port).await;
    let mut cluster = TestCluster::on(database, &BROKER.url());
    cluster.set("DATABASE__TIMEOUT", "1s");
    let worker = cluster.worker().await;
    let api = cluster.api().await;
    let now = cluster.database.now().await;
    for second in 3..23 {
        cluster.database.insert_rooms(&format!("at{second}x"), 1, now + second).await;
    }
    let client = cluster.client().await;
    cluster.database.execute("ALTER SYSTEM SET synchronous_standby_names = 'gone'").await;
    cluster.database.execute("SELECT pg_reload_conf()").await;

    worker.unready_with("database: database has not answered a commit for ").await;
    eventually("every timer to be due while no commit is answered", || async {
        let overdue = worker.gauge("lobbyd_timer_overdue_seconds").await?;
        (overdue > 20.0).then_some(())
    })
    .await;
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    let waiting = cluster.database.number(waiting).await;
    assert!((1..=5).contains(&waiting), "{waiting} connections wait with a commit");
    assert_eq!(worker.get("/readyz").await.unwrap().0, 503);

    cluster.database.execute("ALTER SYSTEM RESET synchronous_standby_names").await;
    cluster.database.execute("SELECT pg_reload_conf()").await;
    worker.ready().await;
    cluster.all_done(&client, 20).await;
    drop(api);
}

/// Queries are answered meanwhile, so the event seems to be slow. A slow one rests for 45 seconds.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_commit_had_no_answer_is_applied_soon_after_the_outage() {
    let server = start_postgres();
    let database = Database::create_on(Kind::Postgres, server.port).await;
    let mut cluster = TestCluster::on(database, &BROKER.url());
    cluster.set("EVENTS__PREFETCH", "20");
    cluster.set("OPS__OVERDUE_AFTER", "1s");
    let worker = cluster.worker().await;
    let client = cluster.client().await;
    // After these, more than one delivery may be unacknowledged, and the event waits in the process.
    cluster.database.open_rooms("room", 50).await;
    for room in 1..=50 {
        client.publish(&json!({"token": format!("room{room}"), "state": 1})).await;
    }
    eventually("every event to be applied", || async {
        (cluster.database.closed_rooms().await == 50).then_some(())
    })
    .await;
    cluster.database.insert_room("webinar").await;
    cluster.database.execute("ALTER SYSTEM SET synchronous_standby_names = 'gone'").await;
    cluster.database.execute("SELECT pg_reload_conf()").await;
    // The server reads it a moment later.
    let setting = "SELECT count(*) FROM pg_settings
                   WHERE name = 'synchronous_standby_names' AND setting = 'gone'";
    eventually("the setting", || async {
        (cluster.database.number(setting).await == 1).then_some(())
    })
    .await;
    client.publish(&json!({"token": "webinar", "state": 1})).await;
    worker.unready_with("database has not answered a commit for ").await;
    worker.metric_becomes("lobbyd_deliveries_aside", 1).await;

    cluster.database.execute("ALTER SYSTEM RESET synchronous_standby_names").await;
    cluster.database.execute("SELECT pg_reload_conf()").await;
    let begin = Instant::now();
    worker.ready().await;
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(30), "the event was not applied for {took:?}");
    cluster.database.lobby_becomes("webinar", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_database_is_logged_once_in_every_process() {
    let mut server = start_postgres();
    let database = Database::create_on(Kind::Postgres, server.port).await;
    let mut cluster = TestCluster::on(database, &BROKER.url());
    cluster.set("DATABASE__TIMEOUT", "1s");
    let mut processes = Vec::new();
    for command in ["worker", "api", "run"] {
        let process = Daemon::start_as(command, &cluster.settings);
        process.ready().await;
        processes.push((command, process));
    }
    for outage in 1..=2 {
        server.kill();
        for (_command, process) in &processes {
            process.unready_with("database: ").await;
        }
        server.start();
        for (command, process) in &processes {
            process.ready().await;
            let logged = |text: &str| process.log().matches(text).count();
            // It is logged at the start, too.
            eventually("the recovery in the log", || async {
                (logged("database available, ") == outage + 1).then_some(())
            })
            .await;
            let warnings = logged("database unavailable, ");
            assert_eq!(warnings, outage, "{command}:\n{}", process.log());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_freezes_leaves_no_connection_lost() {
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
        // Each new connection replaces one that timed out: all three of the pool do.
        proxy.accepts(3).await;
        proxy.set(Mode::Pass);
        worker.ready().await;
        let prefix = format!("room{round}x");
        cluster.database.insert_rooms(&prefix, 5, cluster.database.now().await).await;
        cluster.database.lobby_becomes("changed", round % 2).await;
    }
    cluster.database.execute("DELETE FROM lobbyd_rooms WHERE token = 'changed'").await;
    cluster.all_done(&client, 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_freezes_does_not_delay_resets() {
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

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_cut_repeatedly_lose_nothing() {
    let (events, rows) = (Proxy::to(BROKER.server.port).await, Proxy::to(POSTGRES.port).await);
    let mut cluster = TestCluster::new(Kind::Postgres).await;
    let client = cluster.client().await;
    let url = cluster.database.url_through(rows.port);
    cluster.set("DATABASE__URL", &url);
    cluster.set("EVENTS__URL", &amqp_url(events.port));
    let _worker = cluster.worker().await;
    insert_load(&cluster).await;
    for round in 0..30 {
        let proxy = if round % 2 == 0 { &events } else { &rows };
        proxy.set(Mode::Cut);
        proxy.accepts(1).await;
        proxy.set(Mode::Pass);
        // The random delay is the fault: it decides what the next cut interrupts.
        sleep(Duration::from_millis(rand::random_range(50..400))).await;
    }
    cluster.all_done(&client, ROOMS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_without_memory_still_delivers_and_receives_all_events_later() {
    let broker = Broker::start();
    let cluster = TestCluster::on(Database::create(Kind::Postgres).await, &broker.url());
    let client = cluster.client().await;
    let worker = cluster.worker().await;
    cluster.database.insert_room("changed").await;
    // The worker is stopped, so these wait in the queue while the alarm begins.
    worker.signal(Signal::SIGSTOP);
    for state in [1, 0, 1, 0, 1] {
        client.publish(&json!({"token": "changed", "state": state})).await;
    }
    broker.control(&["set_vm_memory_high_watermark", "absolute", "1000000"]);
    worker.signal(Signal::SIGCONT);
    worker.metric_becomes(r#"lobbyd_events_received_total{outcome="applied"}"#, 5).await;
    cluster.database.insert_rooms("room", 100, cluster.database.now().await).await;
    eventually("the resets", || async {
        let due = "SELECT count(*) FROM lobbyd_rooms WHERE lobby_timer IS NOT NULL";
        (cluster.database.number(due).await == 0).then_some(())
    })
    .await;
    worker.metric_becomes("lobbyd_broker_blocked", 1).await;
    assert!(cluster.database.unpublished().await >= 100);

    broker.control(&["set_vm_memory_high_watermark", "0.4"]);
    assert_eq!(client.take_resets(&cluster.updates, 100).await.len(), 100);
    worker.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_without_a_queue_is_kept_until_there_is_one() {
    let cluster = TestCluster::new(Kind::Sqlite).await;
    let client = Client::connect(&cluster.amqp_url, &cluster.exchange).await;
    let worker = cluster.worker().await;
    cluster.database.insert_rooms("room", 3, cluster.database.now().await).await;
    let refused = r#"lobbyd_events_published_total{outcome="refused"}"#;
    eventually("the broker to return an event", || async {
        worker.metric(refused).await.filter(|times| *times > 0)
    })
    .await;
    assert_eq!(cluster.database.closed_rooms().await, 0);
    assert_eq!(cluster.database.unpublished().await, 3);
    client.record(&cluster.updates).await;
    cluster.all_done(&client, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_batch_only_events_with_a_queue_are_published() {
    let cluster = TestCluster::new(Kind::Postgres).await;
    let client = Client::connect(&cluster.amqp_url, &cluster.exchange).await;
    // There is a queue for the updates of every second room.
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
        eventually("fifty events to wait", || async {
            (cluster.database.unpublished().await == 50).then_some(())
        })
        .await;
        for token in cluster.database.waiting().await {
            assert!(!tokens.contains(&token), "{token} was published and still waits");
        }
    }
    worker.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_accepts_without_answering_leaves_no_open_connections() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let mut cluster = TestCluster::new(Kind::Sqlite).await;
    cluster.set("EVENTS__URL", &amqp_url(listener.local_addr().unwrap().port()));
    let worker = Daemon::start(&cluster.settings);
    let mut accepted: Vec<TcpStream> = Vec::new();
    while accepted.len() < 8 {
        accepted.push(listener.accept().await.unwrap().0);
    }
    worker.unready_with("broker did not accept a connection within 5s").await;
    // Two that lapin opened, and two on which the worker probes the handshake.
    eventually("at most 4 of 8 connections to be open", || async {
        (accepted.iter().filter(|stream| is_open(stream)).count() <= 4).then_some(())
    })
    .await;
}

fn is_open(stream: &TcpStream) -> bool {
    loop {
        match stream.try_read(&mut [0; 256]) {
            Ok(0) => return false,
            Ok(_request) => {}
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_deleted_is_declared_again() {
    let cluster = TestCluster::new(Kind::Sqlite).await;
    let client = cluster.client().await;
    let worker = cluster.worker().await;
    client.delete_queue(&cluster.queue).await;
    cluster.database.insert_room("webinar").await;
    // The connection stays open; only the consumer has ended.
    worker.logs("consumer disconnected").await;
    worker.ready().await;
    client.publish(&json!({"token": "webinar", "state": 1})).await;
    cluster.database.lobby_becomes("webinar", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
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
    worker.unready_with("database: ").await;
    proxies[0].set(Mode::Pass);
    eventually("the broker to be the only problem", || async {
        let (_status, problems) = worker.get("/readyz").await?;
        (problems.contains("publisher: ") && !problems.contains("database: ")).then_some(())
    })
    .await;
    proxies[1].set(Mode::Pass);
    worker.ready().await;
    cluster.database.insert_rooms("room", 1, cluster.database.now().await).await;
    cluster.all_done(&client, 1).await;
}

/// An operator has to act, and servers log each try.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login_is_reported_once_and_tried_again() {
    let mut cluster = TestCluster::new(Kind::Postgres).await;
    let user = cluster.exchange.replace(['.', '-'], "_");
    let database = cluster.database.url.replace("//lobbyd@", &format!("//{user}@"));
    let events = cluster.amqp_url.replace("//guest:guest@", &format!("//{user}:marker-secret@"));
    cluster.set("DATABASE__URL", &database);
    cluster.set("EVENTS__URL", &events);
    let worker = Daemon::start(&cluster.settings);
    worker.unready_with("database refuses the login: ").await;
    cluster.database.execute(&format!("CREATE ROLE {user} LOGIN IN ROLE lobbyd")).await;
    worker.unready_with("consumer: broker refuses the login: ").await;
    worker.unready_with("publisher: broker refuses the login: ").await;
    eventually("several refusals", || async {
        (BROKER.log().matches(&format!("user '{user}'")).count() >= 3).then_some(())
    })
    .await;
    let log = worker.log();
    for line in ["waiting for the database", "consumer disconnected", "publisher disconnected"] {
        assert_eq!(log.matches(line).count(), 1, "{line}: {log}");
    }
    assert!(!log.contains("marker-secret"), "{log}");
    BROKER.add_user(&user, "marker-secret");
    worker.ready().await;
}

/// Only an operator can change that. With the outbox, the stop would take the grace period.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_servers_that_refuse_the_login() {
    let mut cluster = TestCluster::new(Kind::Postgres).await;
    let user = cluster.exchange.replace(['.', '-'], "_");
    let database = &cluster.database;
    database.execute(&format!("CREATE ROLE {user} LOGIN IN ROLE lobbyd")).await;
    BROKER.add_user(&user, "secret");
    let database_url = database.url.replace("//lobbyd@", &format!("//{user}@"));
    let login = format!("//{user}:secret@");
    cluster.set("DATABASE__URL", &database_url);
    cluster.set("EVENTS__URL", &cluster.amqp_url.replace("//guest:guest@", &login));
    cluster.set("SHUTDOWN__GRACE", "10m");
    let mut worker = cluster.worker().await;
    BROKER.control(&["delete_user", &user]);
    worker.unready_with("publisher: broker refuses the login").await;
    let database = &cluster.database;
    database.insert_rooms("room", 1, database.now().await).await;
    database.lobby_becomes("room1", 0).await;
    database.execute(&format!("ALTER ROLE {user} NOLOGIN")).await;
    let terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename";
    database.execute(&format!("{terminate} = '{user}'")).await;
    worker.unready_with("database: database refuses the login").await;
    assert!(worker.stop().await.success());
    assert_eq!(database.unpublished().await, 1);
}

/// Somebody has declared it before, or an earlier version did.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_with_other_arguments_is_used_as_it_is() {
    let cluster = TestCluster::new(Kind::Sqlite).await;
    let client = cluster.client().await;
    for queue in [&cluster.queue, &cluster.dead_letters] {
        client.declare_quorum_queue(queue).await;
    }
    let worker = cluster.worker().await;
    cluster.database.insert_room("webinar").await;
    let timer = cluster.database.now().await;
    client.publish(&json!({"token": "webinar", "state": 1, "timer": timer})).await;
    client.take_reset(&cluster.updates).await;
    client.publish(&json!({"token": "unknown", "state": 1})).await;
    eventually("the dead letter", || client.take(&cluster.dead_letters)).await;
    for queue in [&cluster.queue, &cluster.dead_letters] {
        let line = format!("it is used as it is name=\"{queue}\"");
        assert_eq!(worker.log().matches(&line).count(), 1, "{}", worker.log());
    }
}

/// Otherwise the broker logs a warning at each restart.
#[tokio::test(flavor = "multi_thread")]
async fn all_connections_to_the_broker_are_closed_at_the_end() {
    let broker = Broker::start();
    let cluster = TestCluster::on(Database::create(Kind::Sqlite).await, &broker.url());
    let mut run = Daemon::start_as("run", &cluster.settings);
    run.ready().await;
    assert!(run.stop().await.success());
    let of = |role: &str| format!("lobbyd {role}, process {}", run.process());
    for role in ["consumer", "publisher", "listener"] {
        eventually("the end of the connection in the log", || async {
            let log = broker.log();
            let mut lines = log.lines().filter(|line| line.contains(&of(role)));
            lines.find(|line| line.contains("closing AMQP connection")).map(drop)
        })
        .await;
    }
    assert!(!broker.log().contains("unexpectedly closed"), "{}", broker.log());
}
