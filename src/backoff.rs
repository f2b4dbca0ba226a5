//! Waits between attempts at something that is unavailable.
//!
//! Tasks use it for the database and the broker. It never gives up; the caller decides when to stop,
//! by dropping the future.

use std::time::Duration;

use tokio::time::sleep;

/// Exponential back-off with full jitter: a random time up to a bound that doubles with each failure,
/// so that workers do not all reconnect at the same moment.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// For tasks: the first retry is soon, and a peer that returns is found within 2 seconds.
    pub const TASKS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

    /// Begins with waits of up to `first` and ends with waits of up to `longest`.
    pub fn new((first, longest): (Duration, Duration)) -> Self {
        Self { first, longest, failures: 0 }
    }

    /// Counts a failure, and returns how long to wait after it.
    pub fn next_wait(&mut self) -> Duration {
        let bound = self.bound();
        self.failures = self.failures.saturating_add(1);
        bound.mul_f64(rand::random::<f64>())
    }

    /// Whether the next failure is the first one since the last success, and worth a log line.
    pub fn is_first_failure(&self) -> bool {
        self.failures == 0
    }

    pub fn reset(&mut self) {
        self.failures = 0;
    }

    fn bound(&self) -> Duration {
        let factor = 2_u32.checked_pow(self.failures).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.longest)
    }
}

/// Repeats `attempt` until it succeeds, however long that takes. Only the first failure is reported.
pub async fn retry<T, E, F>(
    waits: (Duration, Duration),
    report: impl Fn(&E),
    mut attempt: impl FnMut() -> F,
) -> T
where
    F: Future<Output = Result<T, E>>,
{
    let mut backoff = Backoff::new(waits);
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) if backoff.is_first_failure() => report(&error),
            Err(_repeated) => {}
        }
        sleep(backoff.next_wait()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_doubles_up_to_the_longest_wait() {
        let mut backoff = Backoff::new(Backoff::TASKS);
        let mut bounds = Vec::new();
        for _ in 0..60 {
            let bound = backoff.bound();
            assert!(backoff.next_wait() <= bound);
            bounds.push(bound.as_millis());
        }
        assert_eq!(bounds[..6], [100, 200, 400, 800, 1600, 2000]);
        assert_eq!(bounds.last(), Some(&2000));
        backoff.reset();
        assert_eq!(backoff.bound().as_millis(), 100);
    }
}
