//! The claim of a batch, and how it ends.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

use crate::domain::{EventId, OutboxEvent};
use crate::logging;
use crate::tasks::TaskContext;

/// Longest delay before an event that the broker refused is published again.
pub(super) const LONGEST_DELAY: TimeDelta = TimeDelta::minutes(1);

/// The claim of a batch.
pub(super) struct Claim<'a> {
    pub(super) ctx: &'a TaskContext,
    pub(super) until: DateTime<Utc>,
}

impl Claim<'_> {
    /// Lets events be claimed again after `delay`, or before all others if it is negative. If that
    /// fails, their claim ends by itself.
    pub(super) async fn release(&self, ids: Vec<EventId>, delay: TimeDelta) {
        if ids.is_empty() {
            return;
        }
        let available_at = self.ctx.clock.now() + delay;
        if let Err(error) = self.ctx.database.release(&ids, self.until, available_at).await {
            let error = logging::causes(&error);
            tracing::debug!(error, "claim could not be released, it will expire");
        }
    }

    /// Lets each event be claimed again after a delay that grows with its attempts.
    pub(super) async fn delay(&self, ids: Vec<EventId>, attempts: &BTreeMap<EventId, u32>) {
        let mut delays: BTreeMap<TimeDelta, Vec<EventId>> = BTreeMap::new();
        for id in ids {
            let attempt = attempts.get(&id).copied().unwrap_or(1);
            delays.entry(refusal_delay(attempt)).or_default().push(id);
        }
        for (delay, ids) in delays {
            self.release(ids, delay).await;
        }
    }
}

/// The delay before an event is published again: one second, doubling.
fn refusal_delay(attempt: u32) -> TimeDelta {
    let seconds = 2_i64.checked_pow(attempt.saturating_sub(1)).unwrap_or(i64::MAX);
    LONGEST_DELAY.min(TimeDelta::try_seconds(seconds).unwrap_or(LONGEST_DELAY))
}

pub(super) fn ids(events: &[OutboxEvent]) -> Vec<EventId> {
    events.iter().map(|event| event.id.clone()).collect()
}
