//! Parts of batches that failed. Sweeps leave them out, and each is tried by itself.

use std::collections::VecDeque;

use crate::domain::{PendingTimer, TimerKey};

/// Bound of the suspects, in batches. Each statement of a sweep names all of them.
const BATCHES: u32 = 4;

/// How many isolated timers a try leaves out, those that follow next. It meets them only if a suspect
/// is locked or gone, and each of them makes every try slower.
const NEAR: usize = 100;

/// Parts, each in the order of its timers.
#[derive(Debug, Default)]
pub(super) struct Suspects(VecDeque<Vec<PendingTimer>>);

impl Suspects {
    /// Adds parts of this size. The next sweep finds those again that are too many.
    pub(super) fn add(&mut self, due: &[PendingTimer], part: usize, batch: u32) {
        let known: u32 = self.0.iter().map(|suspects| size(suspects)).sum();
        if known + size(due) <= batch.saturating_mul(BATCHES) {
            self.0.extend(due.chunks(part).map(<[_]>::to_vec));
        }
    }

    pub(super) fn take(&mut self) -> Option<Vec<PendingTimer>> {
        self.0.pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn timers(&self) -> impl Iterator<Item = &PendingTimer> {
        self.0.iter().flatten()
    }
}

/// Those of isolated timers that a try may meet.
pub(super) fn near(mut isolated: Vec<TimerKey>) -> Vec<TimerKey> {
    isolated.sort_unstable();
    isolated.truncate(NEAR);
    isolated
}

pub(super) fn size(timers: &[PendingTimer]) -> u32 {
    u32::try_from(timers.len()).unwrap_or(u32::MAX)
}
