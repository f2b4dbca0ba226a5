//! Clients of the API that come and go, and a publisher that closes their rooms.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use rand::RngExt;
use serde_json::json;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::support::{
    amqp,
    http::{Api, Client},
};

pub const ROOMS: u32 = 60;

/// The rooms that are closed again and again. The others never change.
const CHANGING: u32 = 50;

/// Longest time between two visits of a client.
const REST: Duration = Duration::from_secs(6);

/// How many answers the clients got, by what they were.
#[derive(Debug, Default)]
pub struct Answers {
    /// A room, at once.
    read: AtomicU64,
    /// A room that has changed, after a wait.
    changed: AtomicU64,
    /// 304 after a wait.
    unchanged: AtomicU64,
    /// Event streams.
    opened: AtomicU64,
    /// Blocks of event streams.
    streamed: AtomicU64,
    /// Not by the API: clients that left before it answered, or in the middle of a stream.
    left: AtomicU64,
    /// 503, while a connection to the database was lost.
    unavailable: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
enum Visit {
    Read,
    /// With long polls of so many seconds.
    Wait {
        seconds: u64,
    },
    Follow,
}

impl Answers {
    /// Counts an answer to a request, with `ok` if it is 200.
    fn count(&self, status: u16, ok: &AtomicU64) {
        let counter = match status {
            200 => ok,
            304 => &self.unchanged,
            503 => &self.unavailable,
            other => panic!("status {other}"),
        };
        counter.fetch_add(1, Relaxed);
    }

    /// The smallest of the numbers that a run cannot do without.
    pub fn least(&self) -> u64 {
        let Self { read, changed, unchanged, opened, streamed, left, unavailable: _ } = self;
        [read, changed, unchanged, opened, streamed, left]
            .map(|count| count.load(Relaxed))
            .into_iter()
            .min()
            .unwrap()
    }
}

/// A client that reads rooms, waits for changes or follows a room, and leaves in the middle of that; a few
/// stay for long.
pub async fn come_and_go(port: u16, answers: &Answers) {
    loop {
        let (room, patience, kind) = {
            let mut rng = rand::rng();
            let kinds = [Visit::Read, Visit::Wait { seconds: 1 }, Visit::Follow];
            let (kind, patience) = if rng.random_bool(0.03) {
                (Visit::Wait { seconds: 30 }, 60_000)
            } else {
                (kinds[rng.random_range(0..kinds.len())], rng.random_range(500..6000))
            };
            (rng.random_range(1..=ROOMS), Duration::from_millis(patience), kind)
        };
        // With a connection of its own.
        let client = Api::new(port).guest();
        if timeout(patience, visit(&client, room, kind, answers)).await.is_err() {
            answers.left.fetch_add(1, Relaxed);
        }
        drop(client);
        sleep(patience.min(REST)).await;
    }
}

async fn visit(client: &Client, room: u32, kind: Visit, answers: &Answers) {
    let path = format!("/room/room{room}");
    match kind {
        Visit::Read => drop(poll(client, &path, &answers.read, answers).await),
        Visit::Wait { seconds } => {
            let wait = format!("wait={seconds}");
            let mut known = poll(client, &path, &answers.read, answers).await;
            while let Some(tag) = known {
                let waiting = client.header("if-none-match", &tag).header("prefer", &wait);
                known = poll(&waiting, &path, &answers.changed, answers).await;
            }
        }
        Visit::Follow => {
            let mut stream = client.try_follow(&format!("room{room}")).await;
            answers.count(stream.status, &answers.opened);
            while stream.status == 200 && stream.block().await.is_some() {
                answers.streamed.fetch_add(1, Relaxed);
            }
        }
    }
}

/// Reads a room, and returns its tag unless it is unavailable.
async fn poll(client: &Client, path: &str, read: &AtomicU64, answers: &Answers) -> Option<String> {
    let response = client.get(path).await;
    answers.count(response.status, read);
    response.header("etag").map(str::to_owned)
}

/// Closes rooms for a second or two, again and again until `stop`. Returns how often.
pub async fn publish(client: amqp::Client, now: i64, stop: CancellationToken) -> u64 {
    let begin = Instant::now();
    let mut published = 0;
    for room in (1..=CHANGING).cycle() {
        if stop.is_cancelled() {
            break;
        }
        let second = now + i64::try_from(begin.elapsed().as_secs()).unwrap();
        let token = format!("room{room}");
        client.publish(&json!({"token": token, "state": 1, "timer": second + 2})).await;
        published += 1;
        sleep(Duration::from_millis(50)).await;
    }
    published
}
