//! How soon a waiting audience is told that its room is open, and what a poll costs: `make bench`.
//!
//! The real program in its release build, against private servers on this machine, which runs the
//! clients too. Beside the rate of polls stands that of the ops listener's `/livez` in the same run:
//! an answer that needs no thought, from the same HTTP library.

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
const AUDIENCE: usize = 2000;

/// How many of them join at once.
const DOORS: usize = 20;

/// Seconds in which those who joined begin to wait.
const SETTLING: i64 = 20;

/// Connections that poll one request after the other, and for how long.
const POLLERS: usize = 16;
const POLLING: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() {
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    println!("PostgreSQL and RabbitMQ, worker and API in processes of their own");
    for processes in [1, 2] {
        audience(processes).await;
    }
    rates().await;
}

async fn cluster() -> (TestCluster, Daemon) {
    let cluster = TestCluster::new(Kind::Postgres).await;
    let worker = cluster.worker().await;
    add_user(&cluster.settings, "owner", PASSWORD, &[]);
    (cluster, worker)
}

/// Prints how long after its instant the reset of a room has reached each of those who wait.
async fn audience(processes: usize) {
    let (cluster, _worker) = cluster().await;
    let mut apis = Vec::new();
    for _ in 0..processes {
        apis.push(cluster.api().await);
    }
    let owner = Api::new(apis[0].http_port).user("owner", PASSWORD);
    let room = owner.room(3).await;
    let path = format!("/room/{room}");
    let guests = joined(&apis, &room).await;
    let timer = cluster.database.now().await + SETTLING;
    let lobby = json!({"state": 1, "timer": timer});
    owner.put(&format!("{path}/webinar/lobby"), lobby).await.expect(200);
    for api in &apis {
        let owner = Api::new(api.http_port).user("owner", PASSWORD);
        eventually("that each process has heard of the lobby", || async {
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
            let told = guest.header("prefer", "wait=60").get(&path).await.expect(200);
            let at = Instant::now();
            assert_eq!(told.data()["lobbyState"], 0);
            at
        });
    }
    eventually("an audience that waits", || async {
        (sum(&apis, "lobbyd_http_long_polls").await == AUDIENCE).then_some(())
    })
    .await;
    let left = timer * 1000 - cluster.database.now_millis().await;
    let left = Duration::from_millis(left.try_into().expect("the audience came too late"));
    let due = Instant::now() + left;
    let reading = r#"lobbyd_cache_loads_total{what="room"}"#;
    let before = sum(&apis, reading).await;
    let told = waiting.join_all().await;
    let mut delays: Vec<Duration> = told.into_iter().map(|at| at - due).collect();
    let readings = sum(&apis, reading).await - before;
    delays.sort();
    let at = |percent: usize| delays[(delays.len() - 1) * percent / 100].as_secs_f64() * 1000.0;
    println!(
        "  {AUDIENCE} held clients of {processes} API process(es): told after the instant p50 {:.0} \
         ms, p99 {:.0} ms, max {:.0} ms; the room was read {readings} time(s) for it",
        at(50),
        at(99),
        at(100)
    );
}

/// An audience that took its seats, spread over these processes.
async fn joined(apis: &[Daemon], room: &str) -> Vec<Client> {
    let servers: Vec<Api> = apis.iter().map(|api| Api::new(api.http_port)).collect();
    let mut doors = JoinSet::new();
    for door in 0..DOORS {
        let mine = (door..AUDIENCE).step_by(DOORS);
        let guests: Vec<Client> =
            mine.map(|index| servers[index % servers.len()].guest()).collect();
        let room = room.to_owned();
        doors.spawn(async move {
            for guest in &guests {
                guest.join(&room).await;
            }
            guests
        });
    }
    doors.join_all().await.concat()
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
