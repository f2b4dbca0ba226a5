//! When an event was received.
//!
//! Other workers are told by the database's clock. How long ago it was is measured by the monotonic clock
//! of this machine: somebody may step the database's while the event waits.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

/// The first receipt of an event, by any worker. Earlier ones are less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Receipt {
    since: Instant,
    at: DateTime<Utc>,
}

impl Receipt {
    /// Of an event that is delivered at `now`, and was received before at `first`.
    pub(super) fn new(first: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Self {
        let at = first.map_or(now, |first| first.min(now));
        let age = (now - at).to_std().unwrap_or_default();
        let since = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
        Self { since, at }
    }

    /// By the database's clock.
    pub(super) fn at(self) -> DateTime<Utc> {
        self.at
    }

    /// How long ago it was.
    pub(super) fn age(self) -> Duration {
        self.since.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_age_does_not_depend_on_steps_of_the_databases_clock() {
        let now = DateTime::from_timestamp(1_767_225_600, 0).unwrap();
        let first = Receipt::new(Some(now - TimeDelta::seconds(3)), now);
        assert_eq!(
            (first.at(), first.age()),
            (now - TimeDelta::seconds(3), Duration::from_secs(3))
        );
        advance(Duration::from_secs(2)).await;
        // Meanwhile the clock was stepped back: what was received before seems to be in the future.
        let again = Receipt::new(Some(first.at()), now - TimeDelta::hours(1));
        assert_eq!((again.at(), again.age()), (now - TimeDelta::hours(1), Duration::ZERO));
        assert!(first < again && first.age() == Duration::from_secs(5));
    }
}
