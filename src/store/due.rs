//! Batches of due timers: which ones to fire, and what has become of them.

use super::error::StoreError;
use crate::domain::{OutboxEvent, OutboxRow, PendingTimer, TimerKey};

/// What to do about a due room that another transaction has locked: of another worker, or of a
/// participant who joins or chats there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockPolicy {
    /// Leave it out: it is soon free, and others are due as well.
    SkipLocked,
    /// Wait for it, about a second: it was skipped several times.
    Wait,
}

/// How long the change of several rooms in one transaction may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// A second, where the database can be told so: one slow room keeps the others of its transaction
    /// locked, and everything that follows waits. What takes longer fails as if it had timed out.
    Short,
    /// As long as any use of the database.
    Full,
}

/// Which of the due timers to fire, in their order.
#[derive(Debug, Clone, Copy)]
pub struct DueBatch<'a> {
    /// Only those after this one.
    pub after: Option<TimerKey>,
    /// Timers to leave out.
    pub except: &'a [TimerKey],
    pub limit: u32,
    pub locked: LockPolicy,
    pub patience: Patience,
}

impl DueBatch<'_> {
    /// The longest overdue ones, except those of locked rooms.
    pub fn first(limit: u32) -> Self {
        Self {
            after: None,
            except: &[],
            limit,
            locked: LockPolicy::SkipLocked,
            patience: Patience::Full,
        }
    }
}

#[derive(Debug, Default)]
pub struct Fired {
    /// The events of the rooms that were reset, one for each.
    pub rows: Vec<OutboxRow>,
    /// The last timer that fired.
    pub last: Option<TimerKey>,
}

impl Fired {
    /// Whether fewer rooms were due than the batch could take, so that it was the last one.
    pub fn is_short_of(&self, limit: u32) -> bool {
        u64::try_from(self.events().count()).is_ok_and(|count| count < u64::from(limit))
    }

    pub fn events(&self) -> impl Iterator<Item = &OutboxEvent> {
        self.rows.iter().flat_map(|row| &row.events)
    }
}

/// Due timers that did not fire. Nothing has happened to their rooms.
#[derive(Debug)]
pub struct NotFired {
    /// The timers of the batch; none if it is not to blame.
    pub due: Vec<PendingTimer>,
    pub error: StoreError,
}

impl From<StoreError> for NotFired {
    fn from(error: StoreError) -> Self {
        Self { due: Vec::new(), error }
    }
}
