//! Several servers: the one that fails, or that cannot write, is left for another (promise P7).

use std::time::Duration;

use tokio::time::Instant;

use crate::support::{
    amqp::Client,
    cluster::TestCluster,
    daemon::{Daemon, run, settings, text},
    database::{Database, Kind},
    proxy::{Mode, Proxy},
    server::{BROKER, MARIADB, POSTGRES, amqp_url},
};

/// A server that does not answer is left after it was waited for, which takes seconds.
const LEFT_WITHIN: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_the_broker_that_freezes_is_left_for_another() {
    let nodes = [Proxy::to(BROKER.server.port).await, Proxy::to(BROKER.server.port).await];
    let mut cluster = TestCluster::new(Kind::Postgres).await;
    let client = cluster.client().await;
    // Nobody listens at the first address.
    let gone = Proxy::to(1).await.port;
    let urls = [gone, nodes[0].port, nodes[1].port].map(amqp_url);
    cluster.set("EVENTS__URL", &urls.join(" "));
    let worker = cluster.worker().await;
    leave_frozen(&nodes, &cluster, &worker, &client).await;
}

/// Nothing is published meanwhile, and heartbeats would show it after twenty seconds only.
#[tokio::test(flavor = "multi_thread")]
async fn every_connection_leaves_a_node_that_freezes_without_traffic() {
    let nodes = [Proxy::to(BROKER.server.port).await, Proxy::to(BROKER.server.port).await];
    let mut cluster = TestCluster::new(Kind::Postgres).await;
    cluster.set("EVENTS__URL", &nodes.each_ref().map(|node| amqp_url(node.port)).join(" "));
    // Worker and API in one process: it has a consumer, a publisher and a listener.
    let run = Daemon::start_as("run", &cluster.settings);
    run.ready().await;
    let (begin, moved) = (Instant::now(), nodes[1].accepts(3));
    nodes[0].set(Mode::Freeze);
    moved.await;
    run.ready().await;
    println!("all connections at another node after {:?}", begin.elapsed());
    run.logs("broker node chosen").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_server_that_freezes_is_left_for_another() {
    leave_frozen_database(Kind::Postgres, POSTGRES.port, "5s").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mariadb_server_that_freezes_is_left_for_another() {
    leave_frozen_database(Kind::MariaDb, MARIADB.port, "1s").await;
}

async fn leave_frozen_database(kind: Kind, port: u16, timeout: &str) {
    let servers = [Proxy::to(port).await, Proxy::to(port).await];
    let mut cluster = TestCluster::new(kind).await;
    let client = cluster.client().await;
    let urls = servers.each_ref().map(|server| cluster.database.url_through(server.port));
    cluster.set("DATABASE__URL", &urls.join("\n"));
    cluster.set("DATABASE__TIMEOUT", timeout);
    servers[0].set(Mode::Freeze);
    let worker = cluster.worker().await;
    leave_frozen(&servers, &cluster, &worker, &client).await;
}

/// Freezes one server after the other, and waits until rooms are open and announced by the rest.
async fn leave_frozen(
    servers: &[Proxy; 2],
    cluster: &TestCluster,
    worker: &Daemon,
    client: &Client,
) {
    let mut rooms = 0;
    for frozen in [0, 1, 0] {
        servers[1 - frozen].set(Mode::Pass);
        servers[frozen].set(Mode::Freeze);
        let prefix = format!("round{rooms}x");
        cluster.database.insert_rooms(&prefix, 5, cluster.database.now().await + 1).await;
        rooms += 5;
        let begin = Instant::now();
        cluster.database.all_open().await;
        cluster.database.all_published().await;
        worker.ready().await;
        println!("left after {:?}", begin.elapsed());
        assert!(begin.elapsed() < LEFT_WITHIN);
    }
    cluster.all_done(client, rooms).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_that_can_write_is_used() {
    let mut cluster = TestCluster::new(Kind::Postgres).await;
    let client = cluster.client().await;
    let standby = Database::create(Kind::Postgres).await;
    let urls = [standby.url.clone(), cluster.database.url.clone()];
    standby.execute(&read_only(&standby, "on")).await;
    let attributes = |url: &String| format!("{url}?target_session_attrs=read-write");
    cluster.set("DATABASE__URL", &urls.each_ref().map(attributes).join(" "));
    let worker = cluster.worker().await;
    cluster.database.insert_rooms("before", 5, cluster.database.now().await + 1).await;
    cluster.all_done(&client, 5).await;

    // The roles change, as after a failover. This "standby" has no rooms but these.
    standby.execute(&read_only(&standby, "off")).await;
    cluster.database.execute(&read_only(&cluster.database, "on")).await;
    let end = "SELECT count(*) FROM (SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE datname = current_database() AND pid <> pg_backend_pid()) ended";
    cluster.database.number(end).await;
    worker.logs("database server chosen").await;
    standby.store().await;
    standby.insert_rooms("after", 5, standby.now().await).await;
    standby.all_published().await;
    worker.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_address_of_a_name_is_tried() {
    let server = Proxy::to(POSTGRES.port).await;
    let mut cluster = TestCluster::new(Kind::Postgres).await;
    let client = cluster.client().await;
    // The name has the address ::1 as well on most machines, where the proxy does not listen.
    let url = cluster.database.url_through(server.port).replace("127.0.0.1", "localhost");
    cluster.set("DATABASE__URL", &url);
    let node = Proxy::to(BROKER.server.port).await;
    cluster.set("EVENTS__URL", &amqp_url(node.port).replace("127.0.0.1", "localhost"));
    let worker = cluster.worker().await;
    for (round, mode) in [Mode::Pass, Mode::Cut, Mode::Freeze].into_iter().enumerate() {
        server.set(mode);
        node.set(mode);
        if mode != Mode::Pass {
            worker.unready().await;
            server.set(Mode::Pass);
            node.set(Mode::Pass);
        }
        let prefix = format!("round{round}x");
        cluster.database.insert_rooms(&prefix, 5, cluster.database.now().await).await;
        cluster.database.all_open().await;
        cluster.database.all_published().await;
    }
    cluster.all_done(&client, 15).await;
}

/// The statement that makes transactions of new sessions read-only, or not.
fn read_only(database: &Database, value: &str) -> String {
    let name = database.url.rsplit('/').next().unwrap();
    format!(
        "SET transaction_read_only = off; \
         ALTER DATABASE \"{name}\" SET default_transaction_read_only = {value}"
    )
}

#[test]
fn a_url_with_several_hosts_is_refused_and_shows_no_password() {
    for (key, url) in [
        ("database.url", "postgres://u:marker-secret@a:5432,b:5432/x"),
        ("database.url", "postgres://u:marker-secret@a/x,postgres://u:marker-secret@b/x"),
        ("database.url", "postgres:///x?host=a,b&user=u&password=marker-secret"),
        ("database.url", "mysql://u:marker-secret@a,b:3306/x"),
        ("database.url", "postgres://u:marker-secret@a/x?target_session_attrs=standby"),
        ("database.url", "postgres://u:marker-secret@a/x mysql://u:marker-secret@b/x"),
        ("events.url", "amqp://u:marker-secret@a,b:5672/%2f"),
        ("events.url", "amqp://u:p@a:5672/%2f,amqp://u:marker-secret@b:5672/%2f"),
        ("events.url", "amqp://u:marker-secret@a/%2f memory:"),
        ("events.url", "amqp://u:marker-secret@a/one amqp://u:marker-secret@b/two"),
    ] {
        let variable = format!("LOBBYD__{}", key.replace('.', "__").to_uppercase());
        let output = run(&settings(&[(&variable, url)]), &["worker"]);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{url}: {error}");
        assert!(error.contains(key) && !error.contains("marker-secret"), "{url}: {error}");
        let shown = run(&settings(&[(&variable, url)]), &["config", "check"]);
        let shown = text(&shown.stdout) + &text(&shown.stderr);
        assert!(!shown.contains("marker-secret"), "{url}: {shown}");
    }
}
