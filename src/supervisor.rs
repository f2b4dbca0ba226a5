//! Signals, and how the process ends: by one of them, or because one of its loops died.
//!
//! No loop is spawned that the end does not wait for. A loop that ends before it was asked to, by
//! an error, a panic or an early return, takes the process down, so that the process's own
//! supervisor starts it anew.

use std::{future::Future, time::Duration};

use anyhow::{Context, anyhow};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

/// Status of a process that was stopped by a second signal: that of a shell's interrupted command.
const IMPATIENT: i32 = 130;

/// Holds the loops of the process.
#[derive(Debug)]
pub struct Supervisor {
    loops: JoinSet<(&'static str, anyhow::Result<()>)>,
    stop: CancellationToken,
}

impl Supervisor {
    /// Without loops yet. Cancelling `stop` ends them.
    pub fn new(stop: CancellationToken) -> Self {
        Self { loops: JoinSet::new(), stop }
    }

    /// Adds a loop, which has to end soon after the stop token is cancelled.
    pub fn start(&mut self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.start_fallible(name, async {
            work.await;
            Ok(())
        });
    }

    /// The same, with a loop that may find that it cannot go on.
    pub fn start_fallible(
        &mut self,
        name: &'static str,
        work: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        self.loops.spawn(async move { (name, work.await) });
    }

    /// Waits for a loop to end, which before the stop none should. May be dropped while it waits.
    pub async fn death(&mut self) -> anyhow::Error {
        match self.loops.join_next().await {
            Some(ended) => died(ended),
            None => std::future::pending().await,
        }
    }

    /// Waits until the stop token is cancelled or a loop dies, then up to `grace` for the others
    /// to end. What is left then is aborted: it is safe at any point, only not polite.
    ///
    /// # Errors
    ///
    /// The death of a loop.
    pub async fn run(mut self, grace: Duration) -> anyhow::Result<()> {
        let mut verdict = Ok(());
        let stop = self.stop.clone();
        tokio::select! {
            // In this order: a loop that ends because of the stop is not taken for a dead one.
            biased;
            () = stop.cancelled() => {}
            error = self.death() => verdict = Err(error),
        }
        stop.cancel();

        let deadline = Instant::now() + grace;
        loop {
            match timeout_at(deadline, self.loops.join_next()).await {
                Ok(None) => return verdict,
                Ok(Some(Ok((_name, Ok(()))))) => {}
                Ok(Some(ended)) => verdict = verdict.and(Err(died(ended))),
                Err(_elapsed) => {
                    tracing::warn!(
                        unfinished = self.loops.len(),
                        "shutdown grace period expired, unfinished work remains in the database"
                    );
                    self.loops.shutdown().await;
                    return verdict;
                }
            }
        }
    }
}

fn died(
    ended: Result<(&'static str, anyhow::Result<()>), tokio::task::JoinError>,
) -> anyhow::Error {
    match ended {
        Ok((name, Ok(()))) => anyhow!("the {name} ended before it was asked to"),
        Ok((name, Err(error))) => error.context(format!("the {name} failed")),
        Err(error) => anyhow::Error::new(error).context("a loop of the process panicked"),
    }
}

/// Cancels `stop` at the first SIGTERM or SIGINT; one that comes after the stop ends the process at
/// once. Never returns otherwise: it is dropped when the process has ended its work.
///
/// # Errors
///
/// The signals cannot be listened to.
pub async fn on_signal(stop: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = stop.cancelled() => {}
    }
    tracing::info!("stopping: consumer stopped, flushing the outbox");
    stop.cancel();
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::warn!("second signal received, exiting immediately");
    std::process::exit(IMPATIENT);
}

/// The requests to read the configuration anew. From now on SIGHUP does not end the process.
///
/// # Errors
///
/// The signal cannot be listened to.
pub fn hangups() -> anyhow::Result<Signal> {
    signal(SignalKind::hangup()).context("SIGHUP")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_fails_panics_or_returns_ends_the_others_with_an_error() {
        for fault in ["error", "panic", "return"] {
            let stop = CancellationToken::new();
            let mut supervisor = Supervisor::new(stop.clone());
            supervisor.start("good loop", stop.clone().cancelled_owned());
            supervisor.start_fallible("bad loop", async move {
                match fault {
                    "error" => Err(anyhow!("out of luck")),
                    "panic" => panic!("out of luck"),
                    _return => Ok(()),
                }
            });
            let verdict = supervisor.run(GRACE).await;
            assert!(verdict.is_err(), "{fault}");
            assert!(stop.is_cancelled());
        }
    }

    #[tokio::test]
    async fn a_loop_that_ends_at_the_stop_is_not_taken_for_a_dead_one() {
        for _ in 0..100 {
            let stop = CancellationToken::new();
            let mut supervisor = Supervisor::new(stop.clone());
            supervisor.start("good loop", stop.clone().cancelled_owned());
            stop.cancel();
            tokio::task::yield_now().await;
            supervisor.run(GRACE).await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_does_not_end_is_aborted_after_the_grace_period() {
        let stop = CancellationToken::new();
        let mut supervisor = Supervisor::new(stop.clone());
        supervisor.start("stuck loop", std::future::pending());
        let begin = Instant::now();
        stop.cancel();
        supervisor.run(GRACE).await.unwrap();
        assert_eq!(begin.elapsed(), GRACE);
    }
}
