//! Commits that the database does not answer.
//!
//! A commit may wait at the server without end, for a synchronous standby that is gone. Closing the
//! connection does not end that wait, so every further try would leave one more connection behind.
//! Therefore the connection of an unanswered commit is kept, in its place of the pool, and no
//! transaction begins until the database has answered a commit: the one that was kept, or a probe.
//! Only [`Transaction`](super::connection::Transaction) uses this.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::error::{Result, StoreError};

/// Time before the next probe after one that failed.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// How long a probe is waited for before another one begins beside it: the connection of the first
/// may be dead.
const PROBE_PATIENCE: Duration = Duration::from_secs(20);

/// Probes that wait at the server at a time. The server keeps the connection of one that is given up.
const MAX_PROBES: usize = 3;

/// How long as many probes wait as may.
const PROBES_GIVEN_UP_AFTER: Duration = Duration::from_mins(5);

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
    /// committed. `changes` counts how often the server was changed.
    #[expect(
        clippy::disallowed_methods,
        reason = "nobody waits for the answer; it ends with the pool at the latest"
    )]
    pub(super) fn keep<F>(
        &self,
        committing: impl Future<Output = bool> + Send + 'static,
        probe: impl Fn() -> F + Send + Sync + 'static,
        changes: impl Fn() -> u64 + Send + Sync + 'static,
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
            tokio::select! {
                () = answered.cancelled() => {}
                () = kept => gate.open(),
                () = until_probed(probe, changes), if is_first => gate.open(),
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

/// Probes until the database has committed one. A probe that has no answer stays, and another one
/// begins beside it, because its connection may be dead. Those to another server than the one in use
/// are given up, and in the end all are: the server may have lost its address to another.
async fn until_probed<F: Future<Output = bool>>(probe: impl Fn() -> F, changes: impl Fn() -> u64) {
    let mut probes = FuturesUnordered::new();
    let (mut server, mut full_since) = (changes(), Instant::now());
    loop {
        sleep(PROBE_INTERVAL).await;
        if changes() != server || full_since.elapsed() > PROBES_GIVEN_UP_AFTER {
            probes.clear();
            server = changes();
        }
        if probes.len() < MAX_PROBES {
            probes.push(probe());
            full_since = Instant::now();
        }
        if let Ok(Some(true)) = timeout(PROBE_PATIENCE, probes.next()).await {
            return;
        }
    }
}
