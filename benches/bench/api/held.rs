//! Requests that wait for their room to change.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime,
    task::{JoinSet, LocalSet},
};

use super::{Guest, Server};
use crate::{
    clock,
    options::{Options, Section},
    report::{Figure, Goal, Report, Unit},
    stats,
};

/// Requests that are held while memory is read, and while a timer falls due.
pub(super) const HELD: usize = 10_000;
pub(super) const TOLD: usize = 2_000;

/// Guests who hold the requests while memory is read, each with as many connections.
const HOLDERS: usize = 100;

/// Seconds from the closing of the room to its timer, in which all requests are sent.
const PREPARATION: i64 = 6;

/// Requests that are prepared at the same time.
const AT_ONCE: usize = 20;

/// How long memory is left to settle.
pub(super) const SETTLING: Duration = Duration::from_millis(500);

/// How late waiting clients receive the opening of their room.
pub(super) async fn told(
    server: &Server,
    guests: &[Guest],
    options: &Options,
    report: &mut Report,
) {
    let (mut half, mut all) = (Vec::new(), Vec::new());
    for _ in 0..options.long_runs() {
        let late = told_once(server, guests).await;
        half.push(stats::median(&late));
        all.push(stats::max(&late));
    }
    for (name, values, goal) in [("p50", &half, 60.0), ("longest", &all, 100.0)] {
        let name = format!("2,000 held polls told after the due time, {name}");
        let figure = Figure::new(Section::Api, name, Unit::Milliseconds, values);
        report.add(figure.goal(Goal::AtMost(goal)));
    }
}

/// Milliseconds from the due time until each client has the answer.
async fn told_once(server: &Server, guests: &[Guest]) -> Vec<f64> {
    let timer = clock::second() + PREPARATION;
    server.close_until(timer).await;
    let requests = requests(server, guests).await;
    let port = server.api.http_port;
    let waiting = tokio::task::spawn_blocking(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, wait(port, requests))
    });
    server.api.long_polls_become(guests.len() as u64).await;
    assert!(clock::now() < timer as f64, "the guests began to wait too late");
    let received = waiting.await.unwrap();
    received.into_iter().map(|at| (at - timer as f64) * 1000.0).collect()
}

/// Sends the requests, each on a connection of its own, and returns when each is answered.
pub(super) async fn wait(port: u16, requests: Vec<String>) -> Vec<f64> {
    let mut waiting = JoinSet::new();
    for request in requests {
        let mut stream = sent(port, &request).await;
        waiting.spawn_local(async move {
            let mut buffer = vec![0; 4096];
            let size = stream.read(&mut buffer).await.unwrap();
            let at = clock::now();
            buffer.truncate(size);
            // It is closed when all have their answer: closing costs the server time.
            (at, buffer, stream)
        });
    }
    let answers = waiting.join_all().await;
    answers
        .into_iter()
        .map(|(at, answer, _stream)| {
            let answer = String::from_utf8(answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"lobbyState\":0"));
            at
        })
        .collect()
}

/// How much memory a held request takes: the first of a connection, and the second.
pub(super) async fn memory(server: &Server, guests: &[Guest], report: &mut Report) {
    let guests = &guests[..HOLDERS];
    let (first, port) = (requests(server, guests).await, server.api.http_port);
    server.api.long_polls_become(0).await;
    tokio::time::sleep(SETTLING).await;
    let before = server.api.memory();
    let mut connections = Vec::new();
    for request in first.iter().cycle().take(HELD) {
        connections.push(sent(port, request).await);
    }
    add_memory(server, before, "10,000 held polls, each", report).await;
    let news = json!({"description": "news"});
    server.owner.put(&format!("{}/description", server.path()), news).await.expect(200);
    for connection in &mut connections {
        assert!(connection.read(&mut [0; 4096]).await.unwrap() > 0);
    }
    let second = requests(server, guests).await;
    for (connection, request) in connections.iter_mut().zip(second.iter().cycle()) {
        connection.write_all(request.as_bytes()).await.unwrap();
    }
    add_memory(server, before, "10,000 held polls, each the second of its connection", report)
        .await;
}

async fn add_memory(server: &Server, before: u64, name: &str, report: &mut Report) {
    server.api.long_polls_become(HELD as u64).await;
    tokio::time::sleep(SETTLING).await;
    let used = server.api.memory().saturating_sub(before);
    let each = [used as f64 / 1024.0 / HELD as f64];
    let figure = Figure::new(Section::Api, name, Unit::Kibibytes, &each);
    report.add(figure.goal(Goal::Below(20.0)));
}

pub(super) async fn requests(server: &Server, guests: &[Guest]) -> Vec<String> {
    let mut requests = Vec::new();
    for guests in guests.chunks(AT_ONCE) {
        requests.extend(
            join_all(guests.iter().map(|guest| async {
                let headers = format!("\r\nCookie: {}\r\nPrefer: wait=60", guest.cookie);
                server.request(&guest.client, &headers).await
            }))
            .await,
        );
    }
    requests
}

pub(super) async fn sent(port: u16, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}
