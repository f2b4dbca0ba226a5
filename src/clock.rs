//! The database's time between two looks at it.
//!
//! Due is decided by the database's clock alone: the timer loop samples it before it fires, and
//! fires nothing that is not due at the sample. Whatever needs the time in between (a lag, the end
//! of a claim) carries the last sample forward with the monotonic clock of this machine, so that a
//! wrong or stepping wall clock harms nobody. Nobody fires by the time that is read here.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::time::Instant;

/// The last sample of the database's time, and when it came.
#[derive(Debug)]
pub struct DatabaseClock {
    sample: Mutex<(DateTime<Utc>, Instant)>,
}

impl DatabaseClock {
    /// Starts with a sample that has just come.
    pub fn new(sample: DateTime<Utc>) -> Self {
        Self { sample: Mutex::new((sample, Instant::now())) }
    }

    /// Takes a newer sample. The time that its answer needed makes it early, never late.
    pub fn observe(&self, sample: DateTime<Utc>) {
        *self.sample.lock().unwrap_or_else(PoisonError::into_inner) = (sample, Instant::now());
    }

    /// The database's time now, or slightly before.
    pub fn now(&self) -> DateTime<Utc> {
        let (sample, at) = *self.sample.lock().unwrap_or_else(PoisonError::into_inner);
        sample + at.elapsed()
    }

    /// How long it is until `instant`; zero if it is over.
    pub fn until(&self, instant: DateTime<Utc>) -> Duration {
        (instant - self.now()).to_std().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_sample_is_carried_forward_by_the_monotonic_clock() {
        let sample = DateTime::from_timestamp(1_767_225_600, 0).unwrap();
        let clock = DatabaseClock::new(sample);
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(clock.now(), sample + Duration::from_secs(3));
        assert_eq!(clock.until(sample + Duration::from_secs(5)), Duration::from_secs(2));
        assert_eq!(clock.until(sample), Duration::ZERO);

        let stepped_back = sample - Duration::from_hours(1);
        clock.observe(stepped_back);
        assert_eq!(clock.now(), stepped_back);
    }
}
