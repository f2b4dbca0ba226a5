//! The test environment: private servers, the real program as a process, and clients of its own.
//!
//! Clients and databases here know nothing of the program's code, so that a fault in it cannot hide
//! itself; only `fixtures` uses its types. A test waits for a condition with [`eventually`],
//! never for an amount of time, because the machine may be busy.

pub mod amqp;
pub mod app;
pub mod browser;
pub mod cluster;
pub mod daemon;
pub mod database;
pub mod event_stream;
pub mod fixtures;
pub mod http;
pub mod machine;
pub mod participants;
pub mod proxy;
pub mod raw_amqp;
pub mod roles;
pub mod root;
pub mod server;
pub mod signaling;
pub mod table;
pub mod terminal;
pub mod timers;
pub mod tools;

use std::{future::Future, time::Duration};

use tokio::time::{Instant, sleep};

/// Longest wait for a condition. It only decides how soon a failure is reported, so it leaves room
/// for a busy machine.
pub const PATIENCE: Duration = Duration::from_mins(3);

/// Waits until `probe` returns a value.
pub async fn eventually<T, F>(what: &str, mut probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let begin = Instant::now();
    loop {
        if let Some(answer) = probe().await {
            return answer;
        }
        assert!(begin.elapsed() < PATIENCE, "timed out waiting for: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}
