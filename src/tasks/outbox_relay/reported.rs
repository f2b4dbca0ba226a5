//! What the log says about events: their publication, and the trouble with a row once.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use parking_lot::Mutex;

use super::outcome::{Outcome, REFUSED_ATTEMPTS};
use crate::domain::EventId;
use crate::tasks::{Lags, MAX_LOGGED};

/// Rows whose trouble is remembered.
const MAX_REPORTED: usize = 10_000;

/// Rows whose trouble was logged.
#[derive(Default)]
pub(super) struct Reported(Mutex<BTreeSet<EventId>>);

impl Reported {
    /// Whether the trouble with this row was not logged yet.
    pub(super) fn is_news(&self, id: &EventId) -> bool {
        let mut reported = self.0.lock();
        reported.len() < MAX_REPORTED && reported.insert(id.clone())
    }

    pub(super) fn forget(&self, ids: &[EventId]) {
        let mut reported = self.0.lock();
        if !reported.is_empty() {
            reported.retain(|id| !ids.contains(id));
        }
    }

    /// Logs the events that were confirmed at `now`, and records their lag. Rows with trouble are
    /// published again and again, and count once.
    pub(super) fn confirmed(&self, outcomes: &[Outcome], now: DateTime<Utc>) {
        let reported = self.0.lock();
        let news = || outcomes.iter().filter(|outcome| !reported.contains(&outcome.id));
        let number: usize = news().map(|outcome| outcome.confirmed.len()).sum();
        let (is_herd, mut herd) = (number > MAX_LOGGED, Lags::default());
        let lags = metrics::histogram!(crate::metrics::LAG);
        for outcome in news() {
            for event in &outcome.confirmed {
                let lag = event.due_at.map(|due_at| (now - due_at).as_seconds_f64());
                if let Some(lag) = lag {
                    lags.record(lag);
                    herd.add(lag);
                }
                let (room, id, attempt) = (&event.token, &event.id, outcome.attempt);
                if is_herd {
                    tracing::debug!(room.token = %room, event.id = %id, attempt, lag_seconds = lag, "event published");
                } else {
                    tracing::info!(room.token = %room, event.id = %id, attempt, lag_seconds = lag, "event published");
                }
            }
        }
        if is_herd {
            let (median, longest) = herd.summary().unzip();
            tracing::info!(
                events = number,
                median_lag_seconds = median,
                longest_lag_seconds = longest,
                "events published"
            );
        }
    }
}

/// Logs which rows were refused, as a warning when they `can_be_long` refused and have been so for a
/// minute.
pub(super) fn report_refused(outcomes: &[Outcome], can_be_long: bool) {
    for outcome in outcomes {
        let Some((event, why)) = outcome.refused.first().zip(outcome.refusal.as_ref()) else {
            continue;
        };
        let (id, room, attempt) = (&event.id, &event.token, outcome.attempt);
        let events = outcome.refused.len();
        if can_be_long && attempt == REFUSED_ATTEMPTS {
            tracing::warn!(event.id = %id, room.token = %room, events, attempt, why, "event still refused");
        } else {
            tracing::debug!(event.id = %id, room.token = %room, events, attempt, why, "event refused");
        }
    }
}
