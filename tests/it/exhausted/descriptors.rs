//! Processes that may open no more files and connections.

use std::{fs, process::Command};

use rlimit::Resource;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep},
};

use super::{EVENTS, Site};
use crate::support::{
    cluster::TestCluster,
    daemon::program,
    database::Kind,
    eventually,
    proxy::{Mode, Proxy},
    server::{BROKER, POSTGRES, amqp_url},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_descriptors_says_so_and_recovers() {
    let (rows, broker) = (Proxy::to(POSTGRES.port).await, Proxy::to(BROKER.server.port).await);
    let mut cluster = TestCluster::new(Kind::Postgres).await;
    cluster.set("DATABASE__URL", &cluster.database.url_through(rows.port));
    cluster.set("EVENTS__URL", &amqp_url(broker.port));
    let mut site = Site::new(cluster).await;
    let since = site.cluster.database.now().await;
    site.load("files").await;
    site.cluster.database.lobby_becomes("files0x1", 0).await;
    site.limit(Resource::NOFILE, 4);
    for proxy in [&rows, &broker] {
        proxy.set(Mode::Cut);
        sleep(std::time::Duration::from_millis(100)).await;
        proxy.set(Mode::Pass);
    }
    site.run.unready_with("Too many open files").await;
    for part in ["database", "consumer", "publisher"] {
        site.run.unready_with(&format!("{part}: ")).await;
    }
    site.cluster.close_by_events(&site.events, "filesevent", EVENTS, 0..3).await;
    site.all_due(since).await;
    for _ in 0..20 {
        assert_eq!(site.run.get("/livez").await.unwrap().0, 200);
    }
    assert_eq!(site.unacknowledged(), EVENTS);

    let begin = Instant::now();
    eventually("the program to be ready", || async {
        // It sets the limit itself for moments, and may just have done so.
        site.limit(Resource::NOFILE, u64::MAX);
        site.run.get("/readyz").await.filter(|(status, _)| *status == 200)
    })
    .await;
    println!("descriptors: ready after {:?}", begin.elapsed());
    let log = site.run.log();
    assert_eq!(log.matches("connections cannot be accepted").count(), 1, "{log}");
    site.all_done().await;
}

/// Clients cannot take those that database, broker and probes need.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_take_all_descriptors_delay_no_timer() {
    let cluster = TestCluster::new(Kind::Postgres).await;
    let plain = program(&cluster.settings);
    let mut run = Command::new("sh");
    run.args(["-c", r#"ulimit -n 200; exec "$@""#, "sh"]).arg(plain.get_program());
    run.env_clear().envs(plain.get_envs().filter_map(|(key, value)| Some((key, value?))));
    run.current_dir(plain.get_current_dir().unwrap());
    let mut site = Site::spawn(cluster, run).await;
    let mut clients = Vec::new();
    for _ in 0..300 {
        clients.push(TcpStream::connect(("127.0.0.1", site.run.http_port)).await.unwrap());
    }
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
               WHERE datname = current_database() AND application_name LIKE 'lobbyd%'";
    assert!(site.cluster.database.number(end).await > 0);
    site.load("clients").await;
    site.cluster.close_by_events(&site.events, "clientsevent", EVENTS, 0..3).await;
    site.cluster.database.all_open().await;
    site.undelayed("clients").await;
    site.run.ready().await;
    let open = fs::read_dir(format!("/proc/{}/fd", site.run.process())).unwrap().count();
    println!("{open} of 200 descriptors with {} clients", clients.len());
    assert!(open < 150, "{open} descriptors");
    site.all_done().await;
}
