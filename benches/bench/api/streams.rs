//! Event streams beside requests that are held: how soon all of them learn that their room is open.

use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    runtime,
    sync::oneshot,
    task::{JoinSet, LocalSet, spawn_blocking},
};

use super::{Guest, Server, held};
use crate::{
    clock,
    options::{Options, Section},
    report::{Figure, Goal, Report, Unit},
    stats,
};

/// Event streams of one room. The guests have several each.
const STREAMS: usize = 5_000;

/// Seconds from the closing of the room to its timer, in which all polls are sent.
const PREPARATION: i64 = 8;

const SECTION: Section = Section::Streams;

/// What one run showed.
struct Told {
    /// Milliseconds from the due time until each client has the open room.
    streams: Vec<f64>,
    polls: Vec<f64>,
    /// KiB that each stream takes.
    memory: f64,
}

pub(super) async fn run(server: &Server, guests: &[Guest], options: &Options, report: &mut Report) {
    // Each guest is in the cache once, however many streams they have.
    held::requests(server, guests).await;
    let mut runs = Vec::new();
    for _ in 0..options.long_runs() {
        runs.push(tell(server, guests).await);
    }
    let mut add = |name: &str, goal: Option<Goal>, value: &dyn Fn(&Told) -> f64| {
        let values: Vec<f64> = runs.iter().map(value).collect();
        let figure = Figure::new(SECTION, name, Unit::Milliseconds, &values);
        report.add(if let Some(goal) = goal { figure.goal(goal) } else { figure });
    };
    let second = Some(Goal::Below(1000.0));
    let streams = "5,000 event streams beside 2,000 held polls, told after the due time";
    add(&format!("{streams}, p50"), None, &|told| stats::median(&told.streams));
    add(&format!("{streams}, p99"), None, &|told| stats::percentile(&told.streams, 99));
    add(&format!("{streams}, last"), second, &|told| stats::max(&told.streams));
    let polls = "2,000 held polls beside them, told";
    add(&format!("{polls}, p50"), None, &|told| stats::median(&told.polls));
    add(&format!("{polls}, last"), second, &|told| stats::max(&told.polls));
    // Later runs reuse the memory of the first.
    let memory = Figure::new(SECTION, "an event stream", Unit::Kibibytes, &[runs[0].memory]);
    report.add(memory.goal(Goal::Below(20.0)));
}

async fn tell(server: &Server, guests: &[Guest]) -> Told {
    let (port, before) = (server.api.http_port, server.api.memory());
    let requests: Vec<String> =
        guests.iter().cycle().take(STREAMS).map(|guest| request(server, guest)).collect();
    let (closed, timer) = oneshot::channel();
    let streams = spawn_blocking(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, follow(port, requests, timer))
    });
    server.api.event_streams_become(STREAMS as u64).await;
    tokio::time::sleep(held::SETTLING).await;
    let used = server.api.memory().saturating_sub(before);
    let timer = clock::second() + PREPARATION;
    server.close_until(timer).await;
    closed.send(timer).unwrap();
    let requests = held::requests(server, guests).await;
    let polls = spawn_blocking(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, held::wait(port, requests))
    });
    server.api.long_polls_become(guests.len() as u64).await;
    assert!(clock::now() < timer as f64, "the guests began to wait too late");
    let late = |at: Vec<f64>| at.into_iter().map(|at| (at - timer as f64) * 1000.0).collect();
    let (polls, streams) = (late(polls.await.unwrap()), late(streams.await.unwrap()));
    server.api.event_streams_become(0).await;
    Told { streams, polls, memory: used as f64 / 1024.0 / STREAMS as f64 }
}

fn request(server: &Server, guest: &Guest) -> String {
    format!(
        "GET /ocs/v2.php/apps/spreed/api/v4{}/events HTTP/1.1\r\nHost: localhost\r\nCookie: {}\r\n\r\n",
        server.path(),
        guest.cookie
    )
}

/// Opens the streams, and returns when each of them has shown the open room after the timer is known.
async fn follow(port: u16, requests: Vec<String>, timer: oneshot::Receiver<i64>) -> Vec<f64> {
    let mut streams = Vec::new();
    for request in requests {
        streams.push(held::sent(port, &request).await);
    }
    // Meanwhile the system keeps the first events.
    let marker = format!("\"lobbyTimer\":{},", timer.await.unwrap());
    let mut following = JoinSet::new();
    for stream in streams {
        following.spawn_local(opening(stream, marker.clone()));
    }
    // They are closed when all have learned of it: closing costs the server time.
    following.join_all().await.into_iter().map(|(at, _stream)| at).collect()
}

/// Reads until the room is open again after it had this timer.
async fn opening(mut stream: TcpStream, timer: String) -> (f64, TcpStream) {
    let (mut text, mut was_closed) = (Vec::new(), false);
    loop {
        assert!(stream.read_buf(&mut text).await.unwrap() > 0, "the stream ended");
        let at = clock::now();
        while let Some(end) = text.windows(2).position(|pair| pair == b"\n\n") {
            let event: Vec<u8> = text.drain(..end + 2).collect();
            let event = String::from_utf8(event).unwrap();
            if event.contains(&timer) {
                was_closed = true;
            } else if was_closed && event.contains("\"lobbyState\":0") {
                return (at, stream);
            }
        }
    }
}
