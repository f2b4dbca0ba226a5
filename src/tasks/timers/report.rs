//! What log, metrics and traces say about rooms that have been reset.

use crate::store::Fired;
use crate::tasks::{Lags, MAX_LOGGED, TaskContext};

/// Logs, counts and traces the rooms that have been reset.
pub(super) fn report(ctx: &TaskContext, fired: &Fired) {
    let now = ctx.clock.now();
    let number = fired.events().count();
    metrics::counter!(crate::metrics::FIRED).increment(u64::try_from(number).unwrap_or(0));
    let lags = metrics::histogram!(crate::metrics::COMMIT_LAG);
    let (is_herd, mut herd) = (number > MAX_LOGGED, Lags::default());
    for event in fired.events() {
        let lag = event.due_at.map(|due_at| (now - due_at).as_seconds_f64());
        let (room, id) = (&event.token, &event.id);
        let due_at = event.due_at.map(tracing::field::display);
        if is_herd {
            tracing::debug!(room.token = %room, event.id = %id, timer.due_at = due_at, lag_seconds = lag, "room opened");
        } else {
            tracing::info!(room.token = %room, event.id = %id, timer.due_at = due_at, lag_seconds = lag, "room opened");
        }
        // Otherwise the trace begins with the publication.
        if let (Some(due_at), Some(lag)) = (event.due_at, lag) {
            let mut span = ctx.traces.opening(event, now);
            span.set_event_id(&event.id);
            span.set("lobbyd.room.token", &event.token);
            span.set("lobbyd.timer.due_at", &due_at.format("%+"));
            lags.record(lag);
            herd.add(lag);
        }
    }
    if is_herd {
        let (median, longest) = herd.summary().unzip();
        tracing::info!(
            rooms = number,
            median_lag_seconds = median,
            longest_lag_seconds = longest,
            "rooms opened"
        );
    }
}
