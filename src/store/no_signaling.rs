//! That there is no signaling server, as the pools of a process have found it lately.
//!
//! Otherwise each transaction that changes rooms would need one more statement.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How long it is assumed. Another process may add the first server meanwhile.
const LATELY: Duration = Duration::from_secs(1);

/// When it was found last.
#[derive(Debug, Clone, Default)]
pub(super) struct NoSignaling(Arc<Mutex<Option<Instant>>>);

impl NoSignaling {
    pub(super) fn is_assumed(&self) -> bool {
        self.0.lock().is_some_and(|found_at| found_at.elapsed() < LATELY)
    }

    pub(super) fn found(&self) {
        *self.0.lock() = Some(Instant::now());
    }

    /// There is one.
    pub(super) fn reset(&self) {
        *self.0.lock() = None;
    }
}
