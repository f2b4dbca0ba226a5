//! Waits between attempts at something that is unavailable.
//!
//! Tasks use it for the database and the broker. It never gives up; the caller decides when to stop,
//! by dropping the future.

use std::cell::RefCell;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, sleep};

/// Waits after a login was refused: an operator has to act, and servers log each try.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// How often the log repeats that the login is refused.
const REMINDER: Duration = Duration::from_mins(1);

thread_local! {
    static JITTER: RefCell<Option<StdRng>> = const { RefCell::new(None) };
}

/// Makes all jitter on this thread follow from a seed, so that a simulation can be repeated.
pub fn seed_jitter(seed: u64) {
    JITTER.set(Some(StdRng::seed_from_u64(seed)));
}

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
        bound.mul_f64(
            JITTER.with_borrow_mut(|jitter| {
                jitter.as_mut().map_or_else(rand::random, RngExt::random)
            }),
        )
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

/// Slows down the tries at servers that refuse the login.
#[derive(Debug, Default)]
pub struct RefusalGate(Mutex<Option<Refusal>>);

#[derive(Debug)]
struct Refusal {
    reason: String,
    wait: Duration,
    retry_at: Instant,
    logged_at: Instant,
}

impl RefusalGate {
    /// Why the login was refused, if it is too early for another try.
    pub fn check(&self) -> Option<String> {
        let refusal = self.0.lock();
        let refusal = refusal.as_ref().filter(|refusal| Instant::now() < refusal.retry_at)?;
        Some(refusal.reason.clone())
    }

    /// Records a refusal. Returns whether the log should repeat it.
    pub fn refused(&self, reason: &str) -> bool {
        let (mut refusal, now) = (self.0.lock(), Instant::now());
        let Some(refusal) = refusal.as_mut() else {
            *refusal = Some(Refusal {
                reason: reason.to_owned(),
                wait: FIRST_WAIT,
                retry_at: now + FIRST_WAIT,
                logged_at: now,
            });
            return false;
        };
        reason.clone_into(&mut refusal.reason);
        // Of several tries at once, one counts.
        if refusal.retry_at <= now {
            refusal.wait = (refusal.wait * 2).min(LONGEST_WAIT);
            refusal.retry_at = now + refusal.wait;
        }
        let is_due = now - refusal.logged_at >= REMINDER;
        if is_due {
            refusal.logged_at = now;
        }
        is_due
    }

    /// Records that the login was accepted, or is another one.
    pub fn reset(&self) {
        *self.0.lock() = None;
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

    #[tokio::test(start_paused = true)]
    async fn a_refused_login_is_tried_at_a_slow_pace_and_logged_once_a_minute() {
        let gate = RefusalGate::default();
        let (begin, mut tries, mut lines) = (Instant::now(), Vec::new(), Vec::new());
        while begin.elapsed() < Duration::from_mins(3) {
            if gate.check().is_none() {
                tries.push(begin.elapsed().as_secs());
                if gate.refused("wrong password") {
                    lines.push(begin.elapsed().as_secs());
                }
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(tries, [0, 1, 3, 7, 15, 31, 61, 91, 121, 151]);
        assert_eq!(lines, [61, 121]);
        assert_eq!(gate.check().as_deref(), Some("wrong password"));
        gate.reset();
        assert_eq!(gate.check(), None);
    }
}
