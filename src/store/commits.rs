//! Commits that the database does not answer.
//!
//! A commit may wait at the server without end, for a synchronous standby that is gone. Closing the
//! connection does not end that wait, so every further try would leave one more connection behind.
//! Therefore the connection of an unanswered commit is kept, in its place of the pool, and no
//! transaction begins until the database has answered a commit: the one that was kept, or a probe.
//! Only [`Transaction`](super::connection::Transaction) uses this.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::error::{Result, StoreError};

/// Time between two probes. They write the same row: one that waits at the server holds its lock, so
/// that the next ones wait for a bounded time, and leave no connection behind.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Whether the database answers commits. The pools of a process share it.
#[derive(Debug, Clone, Default)]
pub(super) struct CommitGate(Arc<Mutex<Option<Unanswered>>>);

#[derive(Debug)]
struct Unanswered {
    since: Instant,
    /// Cancelled when the database has answered a commit.
    answered: CancellationToken,
}

impl CommitGate {
    /// Fails while a commit has no answer.
    pub(super) fn check(&self) -> Result<()> {
        match &*self.0.lock() {
            None => Ok(()),
            Some(unanswered) => Err(StoreError::CommitUnanswered(unanswered.since.elapsed())),
        }
    }

    /// Keeps a commit whose time is over, until it or a probe is answered. Both say whether they were
    /// committed.
    #[expect(
        clippy::disallowed_methods,
        reason = "nobody waits for the answer; it ends with the pool at the latest"
    )]
    pub(super) fn keep<F>(
        &self,
        committing: impl Future<Output = bool> + Send + 'static,
        probe: impl Fn() -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = bool> + Send,
    {
        let (answered, is_first) = self.close();
        let gate = self.clone();
        drop(tokio::spawn(async move {
            let kept = async {
                if !committing.await {
                    std::future::pending::<()>().await;
                }
            };
            let probed = async {
                loop {
                    sleep(PROBE_INTERVAL).await;
                    if is_first && probe().await {
                        return;
                    }
                }
            };
            tokio::select! {
                () = answered.cancelled() => {}
                () = kept => gate.open(),
                () = probed => gate.open(),
            }
        }));
    }

    /// Lets transactions begin again, and drops the commits that were kept.
    pub(super) fn open(&self) {
        if let Some(unanswered) = self.0.lock().take() {
            unanswered.answered.cancel();
        }
    }

    /// Returns the token of this outage, and whether it begins now.
    fn close(&self) -> (CancellationToken, bool) {
        let mut state = self.0.lock();
        let is_first = state.is_none();
        let unanswered = state.get_or_insert_with(|| Unanswered {
            since: Instant::now(),
            answered: CancellationToken::new(),
        });
        (unanswered.answered.clone(), is_first)
    }
}
