//! What log and metrics say about the rooms of Talk.

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::queue::Queue;
use crate::domain::TalkTimer;
use crate::health::Oldest;
use crate::tasks::{Lags, MAX_LOGGED};

/// A timer as the oldest item of work.
pub(super) fn oldest(timer: &TalkTimer, now: DateTime<Utc>) -> Oldest {
    Oldest { item: format!("room {} of Talk is due", timer.token), age: now - timer.due_at }
}

pub(super) fn count_request(outcome: &'static str) {
    metrics::counter!(crate::metrics::TALK_REQUESTS, "outcome" => outcome).increment(1);
}

/// The rooms that were opened since the last line about them.
#[derive(Default)]
pub(super) struct Report(Vec<Opened>);

struct Opened {
    timer: TalkTimer,
    lag: f64,
    /// Whether lobbyd has asked for the room.
    is_ours: bool,
}

impl Report {
    /// Counts a room that was seen open at `read_at`.
    pub(super) fn opened(&mut self, timer: &TalkTimer, read_at: DateTime<Utc>, is_ours: bool) {
        let lag = (read_at - timer.due_at).as_seconds_f64();
        let by = if is_ours { "lobbyd" } else { "other" };
        metrics::counter!(crate::metrics::TALK_OPENED, "by" => by).increment(1);
        metrics::histogram!(crate::metrics::TALK_LAG).record(lag);
        self.0.push(Opened { timer: timer.clone(), lag, is_ours });
    }

    /// Logs the rooms, one by one or as one line, and sets the gauges.
    pub(super) fn flush(&mut self, queue: &Queue) {
        let (due, refused) = (queue.due(Instant::now()), queue.refused());
        for (name, number) in
            [(crate::metrics::TALK_DUE, due), (crate::metrics::TALK_REFUSED, refused)]
        {
            metrics::gauge!(name).set(u32::try_from(number).unwrap_or(u32::MAX));
        }
        let opened = std::mem::take(&mut self.0);
        let is_herd = opened.len() > MAX_LOGGED;
        let mut herd = Lags::default();
        for Opened { timer, lag, is_ours } in &opened {
            let (token, due_at) = (&timer.token, &timer.due_at);
            herd.add(*lag);
            if is_herd {
                tracing::debug!(room.token = %token, timer.due_at = %due_at, lag_seconds = lag, requested = is_ours, "room of Talk opened");
            } else {
                tracing::info!(room.token = %token, timer.due_at = %due_at, lag_seconds = lag, requested = is_ours, "room of Talk opened");
            }
        }
        if is_herd {
            let (median, longest) = herd.summary().unzip();
            tracing::info!(
                rooms = opened.len(),
                median_lag_seconds = median,
                longest_lag_seconds = longest,
                "rooms of Talk opened"
            );
        }
    }
}
