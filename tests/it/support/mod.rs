//! What the tests stand on: private servers, the real program, and clients that know nothing of
//! its code.

pub mod amqp;
pub mod app;
pub mod cluster;
pub mod daemon;
pub mod database;
pub mod fixtures;
pub mod http;
pub mod participants;
pub mod proxy;
pub mod server;
pub mod tools;

use std::{future::Future, time::Duration};

use tokio::time::{Instant, sleep};

/// Longest wait for something that has to happen. Generous, because the machine may be busy: it
/// only decides how soon a failure is reported.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Waits until `probe` has an answer.
pub async fn eventually<T, F>(what: &str, mut probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let begin = Instant::now();
    loop {
        if let Some(answer) = probe().await {
            return answer;
        }
        assert!(begin.elapsed() < PATIENCE, "waited in vain for: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}
