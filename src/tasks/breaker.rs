//! Whether a destination takes what is sent to it: queues of the broker, or a signaling server.
//!
//! Something that a destination does not take says something about the destination: repeating it and
//! all others would cost more with each of them. So after a batch of which nothing was taken, it is
//! set back, and only probes of it are sent: a few, less and less often. When one of a probe is taken,
//! all are sent again. What is new is sent as ever: queues may be bound to some rooms only, and
//! those must not wait for the others.

use std::time::Duration;

use tokio::time::Instant;

/// Delay before the first probe; it doubles with each further one.
const FIRST_DELAY: Duration = Duration::from_secs(1);

/// Longest delay between two probes.
const LONGEST_DELAY: Duration = Duration::from_mins(1);

#[derive(Debug, Default)]
pub(super) struct Breaker(Option<Open>);

#[derive(Debug)]
struct Open {
    probe_at: Instant,
    delay: Duration,
    /// Whether others were taken meanwhile.
    takes_others: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Opened,
    Closed,
}

impl Breaker {
    pub(super) fn is_open(&self) -> bool {
        self.0.is_some()
    }

    /// Begins a probe if one is due. The next one is due after twice the delay, whatever comes of
    /// this one.
    pub(super) fn begin_probe(&mut self) -> bool {
        let now = Instant::now();
        let Some(open) = self.0.as_mut().filter(|open| open.probe_at <= now) else { return false };
        open.delay = (open.delay * 2).min(LONGEST_DELAY);
        open.probe_at = now + open.delay;
        true
    }

    /// Takes back a probe for which nothing was found: the next one is due at once.
    pub(super) fn take_back_probe(&mut self) {
        if let Some(open) = &mut self.0 {
            open.delay = (open.delay / 2).max(FIRST_DELAY);
            open.probe_at = Instant::now();
        }
    }

    /// Has the next probe begin at once.
    pub(super) fn probe_now(&mut self) {
        if let Some(open) = &mut self.0 {
            open.probe_at = Instant::now();
        }
    }

    /// Whether nothing at all was taken since it opened.
    pub(super) fn takes_nothing(&self) -> bool {
        self.0.as_ref().is_some_and(|open| !open.takes_others)
    }

    /// Records how many of a batch were taken and returned.
    pub(super) fn record(&mut self, probe: bool, taken: usize, returned: usize) -> Option<Change> {
        match &mut self.0 {
            None if taken == 0 && returned > 0 => {
                self.0 = Some(Open {
                    probe_at: Instant::now() + FIRST_DELAY,
                    delay: FIRST_DELAY,
                    takes_others: false,
                });
                Some(Change::Opened)
            }
            Some(_open) if probe && taken > 0 => {
                self.0 = None;
                Some(Change::Closed)
            }
            Some(open) => {
                open.takes_others |= taken > 0;
                None
            }
            None => None,
        }
    }

    /// Closes it, because nothing waits any longer.
    pub(super) fn reset(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn probes_become_rare_until_one_is_taken() {
        let mut breaker = Breaker::default();
        assert_eq!(breaker.record(false, 1, 9), None);
        assert_eq!(breaker.record(false, 0, 10), Some(Change::Opened));
        assert_eq!(breaker.record(false, 0, 10), None);
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            advance(Duration::from_millis(seconds * 1000 - 1)).await;
            assert!(!breaker.begin_probe());
            advance(Duration::from_millis(1)).await;
            assert!(breaker.begin_probe());
            assert!(!breaker.begin_probe());
            assert_eq!(breaker.record(true, 0, 1), None);
        }
        assert!(breaker.takes_nothing());
        assert_eq!(breaker.record(true, 1, 5), Some(Change::Closed));
        assert!(!breaker.is_open() && !breaker.takes_nothing());
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_event_that_is_taken_leaves_it_open() {
        let mut breaker = Breaker::default();
        breaker.record(false, 0, 1);
        assert_eq!(breaker.record(false, 1, 0), None);
        assert!(breaker.is_open() && !breaker.takes_nothing());
    }
}
