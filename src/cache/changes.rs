//! The changes of something that is cached: their number, and the requests that wait for the next.
//!
//! Most polls are answered without waiting, so they only note the number. A request that waits
//! begins to listen then, and finds what has changed since.

use std::sync::Arc;

use tokio::sync::watch;

/// Counts changes, and wakes the requests that wait for one.
#[derive(Default)]
pub(super) struct Changes(Arc<watch::Sender<u64>>);

/// The changes that a request has seen.
pub(super) struct Seen {
    changes: Arc<watch::Sender<u64>>,
    generation: u64,
}

impl Changes {
    pub(super) fn generation(&self) -> u64 {
        *self.0.borrow()
    }

    pub(super) fn add(&self) {
        self.0.send_modify(|generation| *generation += 1);
    }

    pub(super) fn seen(&self) -> Seen {
        Seen { changes: Arc::clone(&self.0), generation: self.generation() }
    }

    pub(super) fn are_awaited(&self) -> bool {
        self.0.receiver_count() > 0
    }
}

impl Seen {
    /// Waits for a change after those that were seen.
    pub(super) async fn next(&self) {
        let mut receiver = self.changes.subscribe();
        let next = receiver.wait_for(|generation| *generation != self.generation).await;
        drop(next.expect("the sender is kept here"));
    }
}
