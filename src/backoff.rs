//! The wait between attempts.

use std::time::Duration;

use tokio::time::sleep;

/// Exponential back-off with full jitter: a random time up to a bound that doubles with each
/// failure. All loops use it, so that a broker or database that comes back is not met by all
/// workers at once.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// For the loops: a lost peer is asked again soon, and found within 2 seconds of its return.
    pub const LOOPS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

    /// Starts with waits of up to `first`, and ends with waits of up to `longest`.
    pub fn new((first, longest): (Duration, Duration)) -> Self {
        Self { first, longest, failures: 0 }
    }

    /// The time to wait after one more failure.
    pub fn next_wait(&mut self) -> Duration {
        let bound = self.bound();
        self.failures = self.failures.saturating_add(1);
        bound.mul_f64(rand::random::<f64>())
    }

    /// Whether there was no failure yet, or a success since: time to say that there is one.
    pub fn is_fresh(&self) -> bool {
        self.failures == 0
    }

    /// Forgets the failures, after a success.
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
            Err(error) if backoff.is_fresh() => report(&error),
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
        let mut backoff = Backoff::new(Backoff::LOOPS);
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
