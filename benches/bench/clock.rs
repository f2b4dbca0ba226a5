//! The time. The servers run on this machine, so its clock is theirs.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Unix seconds.
#[expect(clippy::disallowed_methods, reason = "it is the clock of the database as well")]
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// Unix seconds, rounded down: timers are whole seconds.
#[expect(clippy::cast_possible_truncation, reason = "the seconds of this century fit")]
pub fn second() -> i64 {
    now() as i64
}

/// Sleeps until this time.
pub async fn sleep_until(time: f64) {
    tokio::time::sleep(Duration::from_secs_f64((time - now()).max(0.0))).await;
}
