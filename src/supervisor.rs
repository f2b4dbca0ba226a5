//! Runs the tasks of the process, and ends it: by a signal, or because a task failed.
//!
//! Nothing is spawned that the shutdown does not wait for. A task that ends before the stop, by an
//! error, a panic or an early return, ends the process, so that the service manager starts it again.
//! `app` spawns the tasks; `cli` listens to the signals.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// Exit status after a second signal, as shells report an interrupted command.
const EXIT_SIGINT: i32 = 130;

/// Name and outcome of a task.
type Ended = (&'static str, anyhow::Result<()>);

/// What a task ends with: nothing, or perhaps an error.
pub trait Outcome {
    fn into_result(self) -> anyhow::Result<()>;
}

impl Outcome for () {
    fn into_result(self) -> anyhow::Result<()> {
        Ok(self)
    }
}

impl Outcome for anyhow::Result<()> {
    fn into_result(self) -> anyhow::Result<()> {
        self
    }
}

#[derive(Debug)]
pub struct Supervisor {
    tasks: JoinSet<Ended>,
    stop: CancellationToken,
}

impl Supervisor {
    /// The tasks have to end soon after `stop` is cancelled.
    pub fn new(stop: CancellationToken) -> Self {
        Self { tasks: JoinSet::new(), stop }
    }

    pub fn spawn<T: Outcome>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = T> + Send + 'static,
    ) {
        self.tasks.spawn(async move { (name, task.await.into_result()) });
    }

    /// Spawns a task on another runtime than the one that supervises it.
    pub fn spawn_on<T: Outcome>(
        &mut self,
        runtime: &Handle,
        name: &'static str,
        task: impl Future<Output = T> + Send + 'static,
    ) {
        self.tasks.spawn_on(async move { (name, task.await.into_result()) }, runtime);
    }

    /// Waits for a task to end, which is a failure before the stop. May be dropped while it waits.
    pub async fn next_failure(&mut self) -> anyhow::Error {
        match self.tasks.join_next().await {
            Some(ended) => failure(ended),
            None => std::future::pending().await,
        }
    }

    /// Waits until the stop token is cancelled or a task fails, then up to `grace` for the other
    /// tasks. Those that are left are aborted, which is safe at any point. Returns the first failure.
    pub async fn run(mut self, grace: Duration) -> anyhow::Result<()> {
        let mut outcome = Ok(());
        let stop = self.stop.clone();
        tokio::select! {
            // In this order: a task that ends because of the stop has not failed.
            biased;
            () = stop.cancelled() => {}
            error = self.next_failure() => outcome = Err(error),
        }
        stop.cancel();

        let deadline = Instant::now() + grace;
        loop {
            match timeout_at(deadline, self.tasks.join_next()).await {
                Ok(None) => return outcome,
                Ok(Some(Ok((_name, Ok(()))))) => {}
                Ok(Some(ended)) => outcome = outcome.and(Err(failure(ended))),
                Err(_elapsed) => {
                    tracing::warn!(
                        unfinished = self.tasks.len(),
                        "shutdown grace period expired, unfinished work remains in the database"
                    );
                    self.tasks.shutdown().await;
                    return outcome;
                }
            }
        }
    }
}

fn failure(ended: Result<Ended, JoinError>) -> anyhow::Error {
    match ended {
        Ok((name, Ok(()))) => anyhow!("the {name} ended before the stop"),
        Ok((name, Err(error))) => error.context(format!("the {name} failed")),
        Err(error) => anyhow::Error::new(error).context("a task panicked"),
    }
}

/// Cancels `stop` at the first SIGTERM or SIGINT; a second one ends the process immediately. Never
/// returns otherwise, so the caller drops it after the shutdown.
pub async fn on_signal(stop: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = stop.cancelled() => {}
    }
    tracing::info!("stopping, the outbox is flushed");
    stop.cancel();
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::warn!("second signal received, exiting immediately");
    std::process::exit(EXIT_SIGINT);
}

/// The requests to reload the configuration. From now on SIGHUP does not end the process.
pub fn hangups() -> anyhow::Result<Signal> {
    signal(SignalKind::hangup()).context("SIGHUP")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_task_that_fails_panics_or_returns_ends_the_others_with_an_error() {
        for fault in ["error", "panic", "return"] {
            let stop = CancellationToken::new();
            let mut supervisor = Supervisor::new(stop.clone());
            supervisor.spawn("good task", stop.clone().cancelled_owned());
            supervisor.spawn("bad task", async move {
                match fault {
                    "error" => Err(anyhow!("out of luck")),
                    "panic" => panic!("out of luck"),
                    _return => Ok(()),
                }
            });
            let outcome = supervisor.run(GRACE).await;
            assert!(outcome.is_err(), "{fault}");
            assert!(stop.is_cancelled());
        }
    }

    #[tokio::test]
    async fn a_task_that_ends_at_the_stop_has_not_failed() {
        for _ in 0..100 {
            let stop = CancellationToken::new();
            let mut supervisor = Supervisor::new(stop.clone());
            supervisor.spawn("good task", stop.clone().cancelled_owned());
            stop.cancel();
            tokio::task::yield_now().await;
            supervisor.run(GRACE).await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_end_is_aborted_after_the_grace_period() {
        let stop = CancellationToken::new();
        let mut supervisor = Supervisor::new(stop.clone());
        supervisor.spawn("stuck task", std::future::pending::<()>());
        let begin = Instant::now();
        stop.cancel();
        supervisor.run(GRACE).await.unwrap();
        assert_eq!(begin.elapsed(), GRACE);
    }
}
