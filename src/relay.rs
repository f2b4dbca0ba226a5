//! The queue between the code that writes events to the outbox and the task that publishes them.
//!
//! The timer task hands over batches that it has claimed already, and so does the consumer, whose
//! batches go behind; the rooms behind the API only wake the relay. All of these are shortcuts: the relay also searches the outbox by itself, so nothing is
//! lost with a handle. The relay stops after the last handle is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::bus::PUBLISH_TIMEOUT;
use crate::domain::OutboxRow;

/// How long a claim holds: one round of publishing, and some time to wait for it. The events of a
/// crashed process stay claimed for as long, so it is short.
pub const CLAIM: Duration = PUBLISH_TIMEOUT.saturating_add(Duration::from_secs(2));

/// Batches that may wait for the relay. More would only wait until their claims end.
const MAX_BATCHES: usize = 4;

/// Batches of changes that may wait behind those.
const MAX_CHANGES: usize = 2;

/// Handle by which tasks and rooms pass events to the relay.
#[derive(Debug, Clone)]
pub struct RelayHandle {
    batches: mpsc::Sender<Batch>,
    changes: mpsc::Sender<Batch>,
    wake: Arc<Notify>,
    stored: Arc<Notify>,
    open: Arc<AtomicBool>,
    held: Arc<AtomicBool>,
}

/// The relay's end of the queue.
#[derive(Debug)]
pub struct RelayQueue {
    pub(crate) batches: mpsc::Receiver<Batch>,
    /// What goes behind the others.
    pub(crate) changes: mpsc::Receiver<Batch>,
    pub(crate) wake: Arc<Notify>,
    open: Arc<AtomicBool>,
    held: Arc<AtomicBool>,
}

/// A place in the queue.
#[derive(Debug)]
pub struct BatchPermit<'a> {
    permit: mpsc::Permit<'a, Batch>,
    claimed_until: DateTime<Utc>,
    expires_at: Instant,
}

/// Rows of the outbox that are claimed for this process.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) rows: Vec<OutboxRow>,
    /// The end of the claim, by the database's clock.
    pub(crate) claimed_until: DateTime<Utc>,
    /// The same moment, or slightly before.
    pub(crate) expires_at: Instant,
}

pub fn channel() -> (RelayHandle, RelayQueue) {
    let (sender, batches) = mpsc::channel(MAX_BATCHES);
    let (changes_sender, changes) = mpsc::channel(MAX_CHANGES);
    let wake = Arc::new(Notify::new());
    let open = Arc::new(AtomicBool::new(false));
    let held = Arc::new(AtomicBool::new(false));
    let handle = RelayHandle {
        batches: sender,
        changes: changes_sender,
        wake: Arc::clone(&wake),
        stored: Arc::default(),
        open: Arc::clone(&open),
        held: Arc::clone(&held),
    };
    (handle, RelayQueue { batches, changes, wake, open, held })
}

impl RelayHandle {
    /// A place for a batch whose claim begins now, at `now` by the database's clock. `None` while
    /// the relay cannot publish or does not keep up: events then stay in the outbox, unclaimed.
    pub fn reserve(&self, now: DateTime<Utc>) -> Option<BatchPermit<'_>> {
        self.reserve_in(&self.batches, now)
    }

    /// As [`reserve`](Self::reserve), for changes that came in: they go behind what has fired. `None`
    /// also while the outbox is left alone.
    pub fn reserve_behind(&self, now: DateTime<Utc>) -> Option<BatchPermit<'_>> {
        if self.held.load(Ordering::Relaxed) { None } else { self.reserve_in(&self.changes, now) }
    }

    fn reserve_in<'a>(
        &self,
        batches: &'a mpsc::Sender<Batch>,
        now: DateTime<Utc>,
    ) -> Option<BatchPermit<'a>> {
        if !self.open.load(Ordering::Relaxed) {
            return None;
        }
        let permit = batches.try_reserve().ok()?;
        let expires_at = Instant::now() + CLAIM;
        Some(BatchPermit { permit, claimed_until: now + CLAIM, expires_at })
    }

    /// Leaves the outbox alone, or searches it again: opening many rooms goes before announcing
    /// them. What is passed on meanwhile is published.
    pub fn hold(&self, hold: bool) {
        if self.held.swap(hold, Ordering::Relaxed) && !hold {
            self.wake();
        }
    }

    /// Passes on rows of the outbox: with a permit as a claimed batch, otherwise by waking the relay.
    pub fn pass(&self, permit: Option<BatchPermit<'_>>, rows: Vec<OutboxRow>) {
        self.stored.notify_one();
        match permit {
            _ if rows.is_empty() => {}
            Some(BatchPermit { permit, claimed_until, expires_at }) => {
                permit.send(Batch { rows, claimed_until, expires_at });
            }
            None => self.wake(),
        }
    }

    /// Wakes the relay after events were written to the outbox, unclaimed.
    pub fn wake(&self) {
        self.stored.notify_one();
        self.wake.notify_one();
    }

    /// Wakes one task after this process has written events to the outbox. It does not keep the relay
    /// running.
    pub fn stored(&self) -> Arc<Notify> {
        Arc::clone(&self.stored)
    }
}

impl RelayQueue {
    /// Whether the outbox is left alone.
    pub(crate) fn is_held(&self) -> bool {
        self.held.load(Ordering::Relaxed)
    }

    /// Whether batches are published when they arrive.
    pub(crate) fn set_open(&self, open: bool) {
        self.open.store(open, Ordering::Relaxed);
    }
}

impl Batch {
    /// Takes away the rows after those that have `limit` events in all, or after a single one that
    /// has more.
    pub(crate) fn split_off(&mut self, limit: usize) -> Self {
        let mut events = 0;
        let fits = |row: &&OutboxRow| {
            let is_first = events == 0;
            events += row.events.len();
            events <= limit || is_first && limit > 0
        };
        let number = self.rows.iter().take_while(fits).count();
        Self { rows: self.rows.split_off(number), ..*self }
    }
}

impl BatchPermit<'_> {
    /// The end of the claim, by the database's clock.
    pub fn claimed_until(&self) -> DateTime<Utc> {
        self.claimed_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_leave_the_places_of_what_fires() {
        let (relay, queue) = channel();
        let now = DateTime::UNIX_EPOCH;
        assert!(relay.reserve_behind(now).is_none(), "nothing can be published");
        queue.set_open(true);
        let changes: Vec<_> = std::iter::from_fn(|| relay.reserve_behind(now)).collect();
        assert_eq!(changes.len(), MAX_CHANGES);
        let fired: Vec<_> = std::iter::from_fn(|| relay.reserve(now)).collect();
        assert_eq!(fired.len(), MAX_BATCHES);
    }

    #[test]
    fn a_hold_keeps_changes_in_the_outbox() {
        let (relay, queue) = channel();
        let now = DateTime::UNIX_EPOCH;
        queue.set_open(true);
        relay.hold(true);
        assert!(relay.reserve_behind(now).is_none() && relay.reserve(now).is_some());
        relay.hold(false);
        assert!(relay.reserve_behind(now).is_some());
    }
}
