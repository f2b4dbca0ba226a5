//! Due rooms that the database refuses to reset.
//!
//! The timer task leaves them out, so that they delay no other room, and each is tried again at a
//! slow pace. They are remembered by their timer: another setting of the room is tried at once.

use std::collections::BTreeMap;
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
    state: Mutex<State>,
    /// Wakes the task that waits for the next retry.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    timers: BTreeMap<TimerKey, Refusal>,
    /// Since when there are more than can be remembered.
    overflowed_at: Option<Instant>,
}

#[derive(Debug)]
struct Refusal {
    token: RoomToken,
    since: Instant,
    retry_at: Instant,
    delay: Duration,
}

impl RefusedTimers {
    /// Remembers a timer, or doubles the delay before its next retry.
    pub(super) fn add(&self, timer: &PendingTimer, error: &StoreError) {
        let mut state = self.state.lock();
        let (token, now) = (&timer.token, Instant::now());
        let error = logging::causes(error);
        if let Some(refusal) = state.timers.get_mut(&timer.key) {
            tracing::debug!(room.token = %token, error, "room is still refused");
            refusal.delay = (refusal.delay * 2).min(LONGEST_DELAY);
            refusal.retry_at = now + refusal.delay;
        } else if state.timers.len() < CAPACITY {
            tracing::warn!(
                room.token = %token,
                timer.due_at = %timer.key.due_at,
                error,
                "room cannot be opened, the database refuses it"
            );
            let (retry_at, delay) = (now + FIRST_DELAY, FIRST_DELAY);
            let refusal = Refusal { token: token.clone(), since: now, retry_at, delay };
            state.timers.insert(timer.key, refusal);
            self.update(&mut state);
        } else if state.overflowed_at.is_none() {
            tracing::warn!(rooms = CAPACITY, "more rooms are refused, they are not logged");
            state.overflowed_at = Some(now);
        }
    }

    /// Puts off the next retry of a timer that could not be tried.
    pub(super) fn defer(&self, key: TimerKey) {
        if let Some(refusal) = self.state.lock().timers.get_mut(&key) {
            refusal.retry_at = Instant::now() + refusal.delay;
        }
    }

    /// Forgets a timer that fired, or that is not due any longer.
    pub(super) fn remove(&self, key: TimerKey) {
        let mut state = self.state.lock();
        state.timers.remove(&key);
        self.update(&mut state);
    }

    /// Ends all delays: what was in the way of one room may have been in the way of all.
    pub(super) fn retry_all(&self) {
        for refusal in self.state.lock().timers.values_mut() {
            refusal.retry_at = Instant::now();
        }
    }

    pub(super) fn keys(&self) -> Vec<TimerKey> {
        self.state.lock().timers.keys().copied().collect()
    }

    /// The longest overdue timer that makes the process unready, of `others` and those that have not
    /// been refused for long. After an overflow `others` may be refused as well.
    pub(super) fn first_unready(
        &self,
        others: impl Iterator<Item = PendingTimer>,
    ) -> Option<PendingTimer> {
        let state = self.state.lock();
        let refused = state.timers.iter().find(|(_, each)| each.since.elapsed() < UNREADY);
        let refused =
            refused.map(|(key, each)| PendingTimer { key: *key, token: each.token.clone() });
        let others = others
            .filter(|_timer| state.overflowed_at.is_none_or(|since| since.elapsed() < UNREADY));
        others.chain(refused).min_by_key(|timer| timer.key)
    }

    /// Waits until one of them should be tried again.
    pub(super) async fn next_retry(&self) -> TimerKey {
        loop {
            let Some((retry_at, key)) = self.state.lock().first_retry() else {
                self.changed.notified().await;
                continue;
            };
            tokio::select! {
                biased;
                () = sleep_until(retry_at) => return key,
                () = self.changed.notified() => {}
            }
        }
    }

    #[expect(clippy::cast_precision_loss, clippy::as_conversions, reason = "a gauge is a float")]
    fn update(&self, state: &mut State) {
        if state.timers.len() < CAPACITY / 2 {
            state.overflowed_at = None;
        }
        metrics::gauge!(crate::metrics::TIMERS_REFUSED).set(state.timers.len() as f64);
        self.changed.notify_one();
    }
}

impl State {
    fn first_retry(&self) -> Option<(Instant, TimerKey)> {
        self.timers.iter().map(|(key, each)| (each.retry_at, *key)).min()
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
            assert_eq!(key, timer(1).key);
            // It was not tried.
            refused.defer(key);
            refused.next_retry().await;
            assert_eq!(begin.elapsed().as_secs(), delays.last().unwrap() * 2);
            refuse(&refused, 1);
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
        let first_unready = |other| refused.first_unready(other);
        assert_eq!(first_unready(None.into_iter()), Some(timer(1)));
        tokio::time::advance(UNREADY / 2).await;
        assert_eq!(first_unready(None.into_iter()), Some(timer(2)));
        assert_eq!(first_unready(Some(timer(0)).into_iter()), Some(timer(0)));
        tokio::time::advance(UNREADY / 2).await;
        assert_eq!(first_unready(None.into_iter()), None);
        assert_eq!(first_unready(Some(timer(3)).into_iter()), Some(timer(3)));
        assert_eq!(refused.keys().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_refused_timers_are_remembered() {
        let refused = RefusedTimers::default();
        for room in 0..10_010 {
            refuse(&refused, room);
        }
        assert_eq!(refused.keys().len(), CAPACITY);
        let other = timer(10_010);
        let first_unready = || refused.first_unready([other.clone()].into_iter());
        assert_eq!(first_unready(), Some(timer(0)));
        tokio::time::advance(UNREADY).await;
        assert_eq!(first_unready(), None, "the other one may be refused as well");
        for room in 0..10_000 {
            refused.remove(timer(room).key);
        }
        assert_eq!(first_unready(), Some(other));
    }
}
