//! Requests that wait until a view has changed.

use std::future::Future;

use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::Result;
use super::limits::LongPoll;
use crate::cache::ChangeListener;

/// Reads until the `state` of the result is `wanted`, and waits for a change in between. Returns the
/// last result and its state at the `deadline`, which is at once for `None`, or when the process
/// stops. `begin` may refuse the wait. May be dropped at any time.
pub(super) async fn poll_until<T, S, F>(
    deadline: Option<Instant>,
    stop: &CancellationToken,
    begin: impl FnOnce() -> Result<LongPoll>,
    read: impl Fn() -> F,
    state: impl Fn(&T) -> S,
    wanted: impl Fn(&S) -> bool,
) -> Result<(T, S)>
where
    F: Future<Output = Result<(T, ChangeListener)>>,
{
    let (mut value, mut change) = read().await?;
    let mut current = state(&value);
    let Some(deadline) = deadline.filter(|_deadline| !wanted(&current)) else {
        return Ok((value, current));
    };
    let _waiting = begin()?;
    while changed_before(deadline, stop, &change).await {
        (value, change) = read().await?;
        current = state(&value);
        if wanted(&current) {
            break;
        }
    }
    Ok((value, current))
}

/// Waits for a change. False if there is none before `deadline`, or before the process stops.
async fn changed_before(
    deadline: Instant,
    stop: &CancellationToken,
    change: &ChangeListener,
) -> bool {
    let changed = stop.run_until_cancelled(timeout_at(deadline, change.changed())).await;
    changed.is_some_and(|changed| changed.is_ok())
}
