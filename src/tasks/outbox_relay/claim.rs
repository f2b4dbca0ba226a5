//! The claim of a batch, and how it ends.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

use super::outcome::Outcome;
use crate::domain::{EventId, OutboxRow};
use crate::logging;
use crate::store::Division;
use crate::tasks::TaskContext;

/// Longest delay before an event that the broker refused is published again.
pub(super) const LONGEST_DELAY: TimeDelta = TimeDelta::minutes(1);

/// Events per probe of a destination that takes none.
pub(super) const PROBE: u32 = 50;

/// How far events are set back that wait for probes. No other event is as old, so the index tells
/// them apart, and a probe begins with those that wait longest.
const SET_BACK: TimeDelta = TimeDelta::days(10 * 365);

/// Which events are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Selection {
    /// Any, those first that became available first.
    All,
    /// Any that do not wait for probes.
    Others,
    /// A few of those that do.
    Probe,
}

/// After which time events of a batch can be claimed again that were not confirmed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Delays {
    /// Whether those that were refused wait for probes.
    is_set_back: bool,
    /// That of events of a row that were not sent or not answered, while others of it were.
    others: TimeDelta,
}

impl Delays {
    /// Those after a batch of which this many events were taken.
    pub(super) fn after(selection: Selection, taken: usize) -> Self {
        let is_set_back = taken == 0 || selection == Selection::Others;
        let others = if taken == 0 && selection == Selection::Probe {
            // The next probe begins with what this one did not reach.
            -SET_BACK - TimeDelta::milliseconds(1)
        } else {
            TimeDelta::zero()
        };
        Self { is_set_back, others }
    }

    pub(super) fn of_refused(self, attempt: u32) -> TimeDelta {
        if self.is_set_back { -SET_BACK } else { refusal_delay(attempt) }
    }
}

/// The claim of a batch.
pub(super) struct Claim<'a> {
    pub(super) ctx: &'a TaskContext,
    pub(super) until: DateTime<Utc>,
}

impl Claim<'_> {
    /// Lets rows be claimed again after `delay`, or before all others if it is negative. If that
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

    /// Lets each row be claimed again after its delay.
    pub(super) async fn delay(&self, rows: Vec<(EventId, TimeDelta)>) {
        let mut delays: BTreeMap<TimeDelta, Vec<EventId>> = BTreeMap::new();
        for (id, delay) in rows {
            delays.entry(delay).or_default().push(id);
        }
        for (delay, ids) in delays {
            self.release(ids, delay).await;
        }
    }

    /// Stores the events of a row apart from each other. If that fails, the claim ends by itself, and
    /// all of them are published again.
    pub(super) async fn divide(&self, outcome: Outcome, delays: Delays) {
        let Outcome { id, attempt, confirmed, refused, others, .. } = outcome;
        let now = self.ctx.clock.now();
        let (retry_at, others_at) = (now + delays.of_refused(attempt), now + delays.others);
        let attempts = attempt;
        let division = Division { confirmed, refused, others, attempts, now, retry_at, others_at };
        if let Err(error) = self.ctx.database.divide(&id, self.until, division).await {
            let error_text = logging::causes(&error);
            tracing::debug!(error = error_text, "events published in part could not be stored");
            if error.is_refusal() {
                self.release(vec![id], refusal_delay(attempt)).await;
            }
        }
    }
}

/// The delay before an event is published again: one second, doubling.
pub(super) fn refusal_delay(attempt: u32) -> TimeDelta {
    let seconds = 2_i64.checked_pow(attempt.saturating_sub(1)).unwrap_or(i64::MAX);
    LONGEST_DELAY.min(TimeDelta::try_seconds(seconds).unwrap_or(LONGEST_DELAY))
}

pub(super) fn ids(rows: &[OutboxRow]) -> Vec<EventId> {
    rows.iter().map(|row| row.id.clone()).collect()
}
