//! The database's time between two samples of it.
//!
//! The database's clock alone decides what is due: the timer task samples it before it fires, and
//! fires only what is due at the sample. Code that needs the time in between (a lag, the end of a
//! claim) carries the last sample forward with the monotonic clock of this machine, so that a wrong
//! or stepping wall clock does no harm. No timer fires by a time that was carried forward.

use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::store;
use crate::store::Admin;

/// The one clock of a process.
#[derive(Debug)]
pub struct DatabaseClock(Source);

#[derive(Debug)]
enum Source {
    /// The last sample, and when it was taken.
    Sample(Mutex<(DateTime<Utc>, Instant)>),
    Manual(watch::Receiver<DateTime<Utc>>),
}

impl DatabaseClock {
    /// Starts with a sample that has just been taken.
    pub fn new(sample: DateTime<Utc>) -> Self {
        Self(Source::Sample(Mutex::new((sample, Instant::now()))))
    }

    /// A clock that a test sets by hand. It stands still in between, and never asks the database.
    pub fn manual(time: watch::Receiver<DateTime<Utc>>) -> Self {
        Self(Source::Manual(time))
    }

    /// Takes a new sample, and returns it in whole milliseconds, as the database stores times. The
    /// time that its answer needed makes it early, never late; an answer that was held back does not
    /// set this clock back.
    pub async fn sample(&self, database: &dyn Admin) -> store::Result<DateTime<Utc>> {
        match &self.0 {
            Source::Sample(last) => {
                let asked_at = Instant::now();
                let sample = database.now().await?;
                let mut last = last.lock();
                let answered_at = Instant::now();
                let carried = last.0 + answered_at.duration_since(last.1);
                *last = (latest(carried, sample, answered_at - asked_at), answered_at);
                Ok(sample.trunc_subsecs(3))
            }
            Source::Manual(time) => Ok(*time.borrow()),
        }
    }

    /// The database's time now, or slightly before.
    pub fn now(&self) -> DateTime<Utc> {
        match &self.0 {
            Source::Sample(last) => {
                let (sample, taken_at) = *last.lock();
                sample + taken_at.elapsed()
            }
            Source::Manual(time) => *time.borrow(),
        }
    }

    /// How long it is until `time`; zero for a past one.
    pub fn until(&self, time: DateTime<Utc>) -> Duration {
        (time - self.now()).to_std().unwrap_or_default()
    }
}

/// The database's time when it has answered: at least the sample, at most that and the time that the
/// answer `took`. What was carried forward is better if it lies between them; else that clock was set.
fn latest(carried: DateTime<Utc>, sample: DateTime<Utc>, took: Duration) -> DateTime<Utc> {
    if carried > sample && carried <= sample + took { carried } else { sample }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_was_held_back_does_not_set_the_clock_back() {
        let at = |milliseconds| DateTime::from_timestamp_millis(milliseconds).unwrap();
        let held_back = Duration::from_secs(5);
        assert_eq!(latest(at(14_900), at(10_000), held_back), at(14_900));
        assert_eq!(latest(at(9_900), at(10_000), held_back), at(10_000), "it was behind");
        assert_eq!(latest(at(15_001), at(10_000), held_back), at(10_000), "the clock was set back");
    }

    #[tokio::test(start_paused = true)]
    async fn a_sample_is_carried_forward_by_the_monotonic_clock() {
        let sample = DateTime::from_timestamp(1_767_225_600, 0).unwrap();
        let clock = DatabaseClock::new(sample);
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(clock.now(), sample + Duration::from_secs(3));
        assert_eq!(clock.until(sample + Duration::from_secs(5)), Duration::from_secs(2));
        assert_eq!(clock.until(sample), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_manual_clock_moves_only_by_hand() {
        let start = DateTime::from_timestamp(1_767_225_600, 0).unwrap();
        let (time, set) = watch::channel(start);
        let clock = DatabaseClock::manual(set);
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(clock.now(), start);
        time.send_replace(start + Duration::from_secs(5));
        assert_eq!(clock.now(), start + Duration::from_secs(5));
    }
}
