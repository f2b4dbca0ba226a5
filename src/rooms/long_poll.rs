//! Requests that wait until a view has changed.

use std::future::Future;

use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::Result;
use crate::cache::ChangeListener;

/// Counts a waiting request for as long as it waits.
struct LongPollGuard;

impl LongPollGuard {
    fn new() -> Self {
        metrics::gauge!(crate::metrics::LONG_POLLS).increment(1);
        Self
    }
}

impl Drop for LongPollGuard {
    fn drop(&mut self) {
        metrics::gauge!(crate::metrics::LONG_POLLS).decrement(1);
    }
}

/// Reads until the result is `wanted`, and waits for a change in between. Returns the last result at
/// the `deadline`, or when the process stops. May be dropped at any time.
pub(super) async fn poll_until<T, F>(
    deadline: Instant,
    stop: &CancellationToken,
    read: impl Fn() -> F,
    wanted: impl Fn(&T) -> bool,
) -> Result<T>
where
    F: Future<Output = Result<(T, ChangeListener)>>,
{
    let (mut value, mut change) = read().await?;
    if wanted(&value) || deadline <= Instant::now() {
        return Ok(value);
    }
    let _waiting = LongPollGuard::new();
    while changed_before(deadline, stop, &mut change).await {
        (value, change) = read().await?;
        if wanted(&value) {
            break;
        }
    }
    Ok(value)
}

/// Waits for a change. False if there is none before `deadline`, or before the process stops.
async fn changed_before(
    deadline: Instant,
    stop: &CancellationToken,
    change: &mut ChangeListener,
) -> bool {
    let changed = stop.run_until_cancelled(timeout_at(deadline, change.changed())).await;
    changed.is_some_and(|changed| changed.is_ok())
}
