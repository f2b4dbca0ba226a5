//! Repeats a use case when another transaction was in the way: a deadlock, or a conflict that Galera
//! finds at the commit. Only where a person waits for it; the tasks come back by themselves.

use std::time::Duration;

use tokio::time::Instant;

use super::error::{CommandError, StoreError};

const ATTEMPTS: u32 = 3;

pub(super) trait MayBeContended {
    fn is_contention(&self) -> bool;
}

impl MayBeContended for StoreError {
    fn is_contention(&self) -> bool {
        Self::is_contention(self)
    }
}

impl MayBeContended for CommandError {
    fn is_contention(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_contention())
    }
}

/// Begins another attempt only within half of `limit`, so that all of them end soon after it.
pub(super) async fn retry_contended<T, E, F>(
    limit: Duration,
    mut attempt: impl FnMut() -> F,
) -> Result<T, E>
where
    E: MayBeContended,
    F: Future<Output = Result<T, E>>,
{
    let begin = Instant::now();
    let mut attempts = 1;
    loop {
        match attempt().await {
            Err(error)
                if error.is_contention() && attempts < ATTEMPTS && begin.elapsed() < limit / 2 =>
            {
                attempts += 1;
            }
            outcome => return outcome,
        }
    }
}
