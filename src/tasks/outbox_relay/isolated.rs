//! Rows of the outbox that the database refuses to claim.
//!
//! A claim leaves them out, and tries each again at a growing interval.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::{EventId, OutboxRow};

const FIRST_DELAY: Duration = Duration::from_secs(1);

const LONGEST_DELAY: Duration = Duration::from_mins(1);

#[derive(Debug, Default)]
pub(super) struct Isolated(BTreeMap<EventId, Wait>);

#[derive(Debug)]
struct Wait {
    until: Instant,
    delay: Duration,
}

impl Isolated {
    pub(super) fn add(&mut self, id: EventId) {
        let delay = self.0.get(&id).map_or(FIRST_DELAY, |wait| wait.delay * 2).min(LONGEST_DELAY);
        self.0.insert(id, Wait { until: Instant::now() + delay, delay });
    }

    pub(super) fn all(&self) -> Vec<EventId> {
        self.0.keys().cloned().collect()
    }

    /// Those that a claim leaves out now.
    pub(super) fn waiting(&self) -> Vec<EventId> {
        let now = Instant::now();
        let waiting = self.0.iter().filter(|(_id, wait)| wait.until > now);
        waiting.map(|(id, _wait)| id.clone()).collect()
    }

    /// Forgets rows that were claimed. If the claim had room for more, those that it did not leave
    /// out do not exist any longer.
    pub(super) fn claimed(&mut self, rows: &[OutboxRow], is_full: bool) {
        let now = Instant::now();
        self.0.retain(|id, wait| {
            let is_waiting = wait.until > now || is_full;
            is_waiting && !rows.iter().any(|row| row.id == *id)
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_event_is_tried_again_at_a_growing_interval() {
        let mut isolated = Isolated::default();
        let id = EventId::from(uuid::Uuid::nil());
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            isolated.add(id.clone());
            advance(Duration::from_millis(seconds * 1000 - 1)).await;
            assert_eq!(isolated.waiting(), std::slice::from_ref(&id));
            advance(Duration::from_millis(1)).await;
            assert!(isolated.waiting().is_empty());
            isolated.claimed(&[], true);
        }
        isolated.claimed(&[], false);
        assert!(isolated.all().is_empty());
    }
}
