//! Sleeping until a due time, to a fraction of a millisecond.
//!
//! If several workers woke at that moment, each would slow down the one that opens the room. So a
//! worker that came too late last time wakes a little later. It opens what the other has left, and
//! is the first again when the other is gone.

use std::thread;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::POLL_INTERVAL;

/// How much longer than asked for the runtime's timers take: they count in milliseconds, and round up
/// twice.
const TIMER_SLACK: Duration = Duration::from_millis(2);

/// How much later than another worker this one wakes. Until then a room has been opened and its update
/// confirmed.
const BEHIND: Duration = Duration::from_millis(10);

#[derive(Debug, Default)]
pub(super) struct Punctuality {
    /// Whether the last sleep ended at a due time.
    is_due: bool,
    /// Whether another worker was first at the last due time.
    is_behind: bool,
    /// Whether only the runtime's timers are used.
    is_coarse: bool,
}

impl Punctuality {
    /// Sleeps by the runtime's timers alone: its time may be another than the system's.
    pub(super) fn coarse() -> Self {
        Self { is_coarse: true, ..Self::default() }
    }

    /// Sleeps, exactly if the delay ends at a due time. May be dropped while it sleeps.
    pub(super) async fn sleep(&mut self, delay: Duration) {
        self.is_due = false;
        if delay >= POLL_INTERVAL {
            return sleep(delay).await;
        }
        if self.is_behind {
            sleep(delay + BEHIND).await;
        } else if self.is_coarse {
            sleep(delay).await;
        } else {
            sleep_exactly(delay).await;
        }
        self.is_due = true;
    }

    /// Learns whether rooms were due.
    pub(super) fn found(&mut self, any: bool) {
        if std::mem::take(&mut self.is_due) {
            self.is_behind = !any;
        }
    }
}

/// The last part of the time is left to the system's own timer.
async fn sleep_exactly(delay: Duration) {
    let end = Instant::now() + delay;
    let rough = delay.saturating_sub(TIMER_SLACK);
    // Even the shortest sleep takes a millisecond.
    if !rough.is_zero() {
        sleep(rough).await;
    }
    let rest = end.saturating_duration_since(Instant::now());
    spawn_blocking(move || thread::sleep(rest)).await.ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn slept(punctuality: &mut Punctuality, delay: Duration) -> Duration {
        let begin = Instant::now();
        punctuality.sleep(delay).await;
        begin.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_came_too_late_wakes_behind_the_other() {
        let mut punctuality = Punctuality::default();
        let delay = Duration::from_millis(100);
        assert!(slept(&mut punctuality, delay).await <= delay);
        punctuality.found(false);
        assert!(slept(&mut punctuality, delay).await > delay, "the other one was first");
        punctuality.found(true);
        punctuality.found(false);
        assert!(slept(&mut punctuality, delay).await <= delay, "the other one is gone");
        punctuality.found(true);
        slept(&mut punctuality, POLL_INTERVAL).await;
        punctuality.found(false);
        assert!(slept(&mut punctuality, delay).await <= delay, "nothing was due");
    }
}
