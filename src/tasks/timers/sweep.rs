//! A sweep through the due timers that takes several batches.

use chrono::{DateTime, SubsecRound, Utc};
use tokio::time::Instant;

use crate::domain::TimerKey;

/// A sweep of which more is due than one batch can take.
#[derive(Debug)]
pub(super) struct Sweep {
    pub(super) began_at: Instant,
    /// The last timer that fired.
    pub(super) after: Option<TimerKey>,
    /// The last of those that have become due since it began. They take turns with the others.
    pub(super) newest: TimerKey,
    pub(super) is_turn_of_newest: bool,
}

impl Sweep {
    pub(super) fn begin(now: DateTime<Utc>) -> Self {
        let newest = TimerKey::last_at(now);
        Self { began_at: Instant::now(), after: None, newest, is_turn_of_newest: false }
    }

    /// After which timer the newest ones follow, if it is their turn.
    pub(super) fn turn_of_newest(&mut self, now: DateTime<Utc>) -> Option<TimerKey> {
        // Timers are whole seconds.
        let can_be_due = self.newest < TimerKey::last_at(now.trunc_subsecs(0));
        (std::mem::take(&mut self.is_turn_of_newest) && can_be_due).then_some(self.newest)
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[tokio::test]
    async fn the_newest_timers_take_turns_with_the_others() {
        let begin = DateTime::from_timestamp(100, 0).unwrap() + TimeDelta::milliseconds(7);
        let mut sweep = Sweep::begin(begin);
        sweep.is_turn_of_newest = true;
        assert_eq!(sweep.turn_of_newest(begin + TimeDelta::milliseconds(900)), None);
        sweep.is_turn_of_newest = true;
        let later = begin + TimeDelta::seconds(1);
        assert_eq!(sweep.turn_of_newest(later), Some(TimerKey::last_at(begin)));
        assert_eq!(sweep.turn_of_newest(later), None, "the others come next");
        sweep.newest = TimerKey::last_at(later);
        sweep.is_turn_of_newest = true;
        assert_eq!(sweep.turn_of_newest(later), None, "none is due after these");
    }
}
