//! How soon waiting clients receive the reset of a room, and the cost of a poll: `make bench`.
//!
//! It runs the release build against private servers on this machine, which runs the clients too.
//! For comparison it prints the request rate of the ops listener's `/livez` in the same run: a
//! constant response from the same HTTP library.

#![expect(
    dead_code,
    unreachable_pub,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a benchmark fails by panicking, and borrows a part of the tests' support"
)]

#[path = "../tests/it/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use support::{
    app::PASSWORD,
    cluster::TestCluster,
    daemon::{Daemon, add_user},
    database::Kind,
    eventually,
    http::{Api, Client},
};

/// Guests who wait for one room.
const GUESTS: usize = 2000;

/// How many of them join at the same time.
const JOINERS: usize = 20;

/// Seconds from the closing of the lobby to its timer, in which all guests begin to wait.
const WAITING: i64 = 20;

/// Connections that send one request after the other, and for how long.
const POLLERS: usize = 16;
const POLLING: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() {
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    println!("PostgreSQL and RabbitMQ, worker and API as separate processes");
    for processes in [1, 2] {
        waiting_guests(processes).await;
    }
    rates().await;
}

async fn cluster() -> (TestCluster, Daemon) {
    let cluster = TestCluster::new(Kind::Postgres).await;
    let worker = cluster.worker().await;
    add_user(&cluster.settings, "owner", PASSWORD, &[]);
    (cluster, worker)
}

/// Prints how long after the due time each waiting guest has received the reset.
async fn waiting_guests(processes: usize) {
    let (cluster, _worker) = cluster().await;
    let mut apis = Vec::new();
    for _ in 0..processes {
        apis.push(cluster.api().await);
    }
    let owner = Api::new(apis[0].http_port).user("owner", PASSWORD);
    let room = owner.room(3).await;
    let path = format!("/room/{room}");
    let guests = joined(&apis, &room).await;
    let timer = cluster.database.now().await + WAITING;
    let lobby = json!({"state": 1, "timer": timer});
    owner.put(&format!("{path}/webinar/lobby"), lobby).await.expect(200);
    for api in &apis {
        let owner = Api::new(api.http_port).user("owner", PASSWORD);
        eventually("each process to show the lobby", || async {
            (owner.get(&path).await.data()["lobbyState"] == 1).then_some(())
        })
        .await;
    }
    let mut waiting = JoinSet::new();
    for guest in guests {
        let path = path.clone();
        waiting.spawn(async move {
            let known = guest.get(&path).await.expect(200);
            assert_eq!(known.data()["lobbyState"], 1);
            let guest = guest.header("if-none-match", known.header("etag").unwrap());
            let opened = guest.header("prefer", "wait=60").get(&path).await.expect(200);
            let at = Instant::now();
            assert_eq!(opened.data()["lobbyState"], 0);
            at
        });
    }
    eventually("all guests to wait", || async {
        (sum(&apis, "lobbyd_http_long_polls").await == GUESTS).then_some(())
    })
    .await;
    let left = timer * 1000 - cluster.database.now_millis().await;
    let left = Duration::from_millis(left.try_into().expect("the guests began to wait too late"));
    let due = Instant::now() + left;
    let loads_metric = r#"lobbyd_cache_loads_total{what="room"}"#;
    let before = sum(&apis, loads_metric).await;
    let received = waiting.join_all().await;
    let mut delays: Vec<Duration> = received.into_iter().map(|at| at - due).collect();
    let loads = sum(&apis, loads_metric).await - before;
    delays.sort();
    let at = |percent: usize| delays[(delays.len() - 1) * percent / 100].as_secs_f64() * 1000.0;
    println!(
        "  {GUESTS} waiting clients of {processes} API process(es): answered after the due time p50 \
         {:.0} ms, p99 {:.0} ms, max {:.0} ms; the room was loaded {loads} time(s)",
        at(50),
        at(99),
        at(100)
    );
}

/// Guests who have joined the room, spread over these processes.
async fn joined(apis: &[Daemon], room: &str) -> Vec<Client> {
    let servers: Vec<Api> = apis.iter().map(|api| Api::new(api.http_port)).collect();
    let mut joiners = JoinSet::new();
    for joiner in 0..JOINERS {
        let mine = (joiner..GUESTS).step_by(JOINERS);
        let guests: Vec<Client> =
            mine.map(|index| servers[index % servers.len()].guest()).collect();
        let room = room.to_owned();
        joiners.spawn(async move {
            for guest in &guests {
                guest.join(&room).await;
            }
            guests
        });
    }
    joiners.join_all().await.concat()
}

async fn sum(daemons: &[Daemon], metric: &str) -> usize {
    let mut sum = 0;
    for daemon in daemons {
        sum += daemon.metric(metric).await.unwrap_or_default();
    }
    sum.try_into().unwrap()
}

/// Prints how many polls a second are answered with 304, beside `/livez`.
async fn rates() {
    let (cluster, _worker) = cluster().await;
    let api = cluster.api().await;
    let server = Api::new(api.http_port);
    let owner = server.user("owner", PASSWORD);
    let room = owner.room(3).await;
    let known = owner.get(&format!("/room/{room}")).await.expect(200);
    let login = STANDARD.encode(format!("owner:{PASSWORD}"));
    let poll = format!(
        "GET /ocs/v2.php/apps/spreed/api/v4/room/{room} HTTP/1.1\r\nHost: localhost\r\n\
         Accept: application/json\r\nAuthorization: Basic {login}\r\nIf-None-Match: {}\r\n\r\n",
        known.header("etag").unwrap()
    );
    let livez = "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let livez = rate(api.ops_port, livez, "200").await;
    let polls = rate(api.http_port, &poll, "304").await;
    println!("  /livez                   {livez:>8.0} requests/s");
    println!(
        "  polls, nothing changed   {polls:>8.0} requests/s; {:.0} % of it",
        polls / livez * 100.0
    );
}

/// Answers per second to this request, each of which has this status.
async fn rate(port: u16, request: &str, status: &str) -> f64 {
    let begin = Instant::now();
    let mut pollers = JoinSet::new();
    for _ in 0..POLLERS {
        let (request, expected) = (request.to_owned(), format!("HTTP/1.1 {status} "));
        pollers.spawn(async move {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let mut answers = 0_u32;
            while begin.elapsed() < POLLING {
                stream.write_all(request.as_bytes()).await.unwrap();
                let answer = answer(&mut stream).await;
                assert!(answer.starts_with(&expected), "{answer}");
                answers += 1;
            }
            answers
        });
    }
    let answers: u32 = pollers.join_all().await.into_iter().sum();
    f64::from(answers) / begin.elapsed().as_secs_f64()
}

/// One answer, with its body if it says that it has one.
async fn answer(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer).await.unwrap();
        assert!(count > 0, "hung up after {text}");
        text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
            return text;
        }
    }
}
