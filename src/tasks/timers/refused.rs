//! Due rooms that the database refuses to reset.
//!
//! The timer task leaves them out, so that they delay no other room, and each is tried again at a
//! slow pace. They are remembered by their timer: another setting of the room is tried at once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::domain::{PendingTimer, RoomToken, TimerKey};
use crate::logging;
use crate::store::StoreError;

/// Bound of memory, and of what a search has to leave out. More of them are found by each sweep
/// again, one by one.
const CAPACITY: usize = 10_000;

/// The delay before the first retry. It doubles up to the longest one.
const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_mins(1);

/// For how long a refused room makes the process unready. Afterwards only its gauge shows it:
/// restarting or replacing the process does not help.
const UNREADY: Duration = Duration::from_mins(1);

#[derive(Debug, Default)]
pub(super) struct RefusedTimers {
    timers: Mutex<BTreeMap<TimerKey, Refusal>>,
    /// Wakes the task that waits for the next retry.
    changed: Notify,
    overflowed: AtomicBool,
}

#[derive(Debug)]
struct Refusal {
    token: RoomToken,
    since: Instant,
    retry_at: Instant,
    delay: Duration,
}

impl RefusedTimers {
    /// Remembers a timer, or postpones its next retry.
    pub(super) fn add(&self, timer: &PendingTimer, error: &StoreError) {
        let (token, due_at) = (&timer.token, timer.key.due_at);
        let error = logging::causes(error);
        if self.postpone(timer.key) {
            tracing::debug!(room.token = %token, error, "room is still refused");
        } else if self.insert(timer) {
            tracing::warn!(
                room.token = %token,
                timer.due_at = %due_at,
                error,
                "room cannot be opened, the database refuses it"
            );
        } else if !self.overflowed.swap(true, Ordering::Relaxed) {
            tracing::warn!(rooms = CAPACITY, "more rooms are refused, they are not logged");
        }
    }

    /// Doubles the delay before the next retry. Returns whether the timer is known.
    pub(super) fn postpone(&self, key: TimerKey) -> bool {
        let mut timers = self.timers.lock();
        let Some(refusal) = timers.get_mut(&key) else { return false };
        refusal.delay = (refusal.delay * 2).min(LONGEST_DELAY);
        refusal.retry_at = Instant::now() + refusal.delay;
        true
    }

    fn insert(&self, timer: &PendingTimer) -> bool {
        let mut timers = self.timers.lock();
        if timers.len() >= CAPACITY {
            return false;
        }
        let (token, now) = (timer.token.clone(), Instant::now());
        let (retry_at, delay) = (now + FIRST_DELAY, FIRST_DELAY);
        timers.insert(timer.key, Refusal { token, since: now, retry_at, delay });
        self.update(&timers);
        true
    }

    /// Forgets a timer that fired, or that is not due any longer.
    pub(super) fn remove(&self, key: TimerKey) {
        let mut timers = self.timers.lock();
        timers.remove(&key);
        self.update(&timers);
    }

    /// Ends all delays: what was in the way of one room may have been in the way of all.
    pub(super) fn retry_all(&self) {
        for refusal in self.timers.lock().values_mut() {
            refusal.retry_at = Instant::now();
        }
    }

    pub(super) fn keys(&self) -> Vec<TimerKey> {
        self.timers.lock().keys().copied().collect()
    }

    /// The longest overdue one of those that still make the process unready.
    pub(super) fn first_unready(&self) -> Option<PendingTimer> {
        let timers = self.timers.lock();
        let (key, refusal) = timers.iter().find(|(_, each)| each.since.elapsed() < UNREADY)?;
        Some(PendingTimer { key: *key, token: refusal.token.clone() })
    }

    /// Waits until one of them should be tried again.
    pub(super) async fn next_retry(&self) -> TimerKey {
        loop {
            let next = self.timers.lock().iter().map(|(key, each)| (each.retry_at, *key)).min();
            let Some((retry_at, key)) = next else {
                self.changed.notified().await;
                continue;
            };
            tokio::select! {
                () = sleep_until(retry_at) => return key,
                () = self.changed.notified() => {}
            }
        }
    }

    #[expect(clippy::cast_precision_loss, clippy::as_conversions, reason = "a gauge is a float")]
    fn update(&self, timers: &BTreeMap<TimerKey, Refusal>) {
        metrics::gauge!(crate::metrics::TIMERS_REFUSED).set(timers.len() as f64);
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::domain::RoomId;

    fn timer(room: i64) -> PendingTimer {
        let due_at = DateTime::from_timestamp(1_767_225_600, 0).unwrap();
        let token = RoomToken::stored(format!("room{room}"));
        PendingTimer { key: TimerKey { due_at, room: RoomId(room) }, token }
    }

    fn refuse(refused: &RefusedTimers, room: i64) {
        refused.add(&timer(room), &StoreError::Corrupt("odd".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_timer_is_tried_again_at_a_slow_pace() {
        let refused = RefusedTimers::default();
        refuse(&refused, 1);
        let mut delays = Vec::new();
        for _ in 0..8 {
            let begin = Instant::now();
            let key = refused.next_retry().await;
            delays.push(begin.elapsed().as_secs());
            assert!(refused.postpone(key));
        }
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60]);
        refused.retry_all();
        let begin = Instant::now();
        refused.next_retry().await;
        assert_eq!(begin.elapsed(), Duration::ZERO);
        refused.remove(timer(1).key);
        assert!(refused.keys().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_timer_makes_the_process_unready_for_a_minute() {
        let refused = RefusedTimers::default();
        refuse(&refused, 1);
        tokio::time::advance(UNREADY / 2).await;
        refuse(&refused, 2);
        assert_eq!(refused.first_unready(), Some(timer(1)));
        tokio::time::advance(UNREADY / 2).await;
        assert_eq!(refused.first_unready(), Some(timer(2)));
        tokio::time::advance(UNREADY / 2).await;
        assert_eq!(refused.first_unready(), None);
        assert_eq!(refused.keys().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_refused_timers_are_remembered() {
        let refused = RefusedTimers::default();
        for room in 0..10_010 {
            refuse(&refused, room);
        }
        assert_eq!(refused.keys().len(), CAPACITY);
    }
}
