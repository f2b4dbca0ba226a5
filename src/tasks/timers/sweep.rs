//! A sweep through the due timers that takes several batches, and what sweeps leave behind.

use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};
use tokio::time::Instant;

use super::POLL_INTERVAL;
use crate::domain::TimerKey;
use crate::relay::RelayHandle;

/// Delay before due rooms that are locked are tried again: a join or a chat message locks one for
/// some milliseconds. It doubles up to [`POLL_INTERVAL`].
const LOCKED_DELAY: Duration = Duration::from_millis(20);

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

/// Announcements that wait for a sweep.
#[derive(Debug, Default)]
pub(super) struct Hold {
    since: Option<Instant>,
    /// When they may wait again.
    again_at: Option<Instant>,
}

impl Hold {
    /// Lets announcements wait, unless they have just done so.
    pub(super) fn begin(&mut self, relay: &RelayHandle) {
        let now = Instant::now();
        if self.since.is_none() && self.again_at.is_none_or(|again_at| again_at <= now) {
            self.since = Some(now);
            relay.hold(true);
        }
    }

    /// Lets announcements go on, for at least as long as they waited.
    pub(super) fn end(&mut self, relay: &RelayHandle) {
        if let Some(since) = self.since.take() {
            self.again_at = Some(Instant::now() + since.elapsed());
            relay.hold(false);
        }
    }
}

/// Due rooms that sweeps left behind because they were locked.
#[derive(Debug, Default)]
pub(super) struct LockedRooms {
    first: Option<TimerKey>,
    /// The first timer that was not due yet.
    upcoming: Option<DateTime<Utc>>,
    pub(super) sweeps: u32,
    delay: Duration,
}

impl LockedRooms {
    /// Counts a sweep that left `first` behind, and returns the delay until the next one. It is
    /// short again with other rooms: a lock is short as a rule.
    pub(super) fn next_delay(
        &mut self,
        first: TimerKey,
        upcoming: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> Duration {
        let same = self.first == Some(first) && self.upcoming.is_none_or(|due_at| due_at > now);
        self.delay = if same { (self.delay * 2).min(POLL_INTERVAL) } else { LOCKED_DELAY };
        (self.first, self.upcoming) = (Some(first), upcoming);
        self.sweeps += 1;
        self.delay
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
