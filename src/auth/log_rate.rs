//! Bounds the log lines of one kind, of which clients can cause any number.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Lines in a period; the first line of the next one says how many were left out.
const LINES: u32 = 20;

const PERIOD: Duration = Duration::from_secs(10);

#[derive(Default)]
pub struct LogRate(Mutex<Period>);

#[derive(Default)]
struct Period {
    begin: Option<Instant>,
    lines: u32,
    omitted: u64,
}

impl LogRate {
    /// Whether a line may be logged: with the number of lines that were left out before it.
    pub fn permit(&self) -> Option<u64> {
        let mut period = self.0.lock();
        if period.begin.is_none_or(|begin| begin.elapsed() >= PERIOD) {
            *period = Period { begin: Some(Instant::now()), lines: 0, ..*period };
        }
        if period.lines >= LINES {
            period.omitted += 1;
            return None;
        }
        period.lines += 1;
        Some(std::mem::take(&mut period.omitted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn lines_beyond_the_rate_are_counted() {
        let rate = LogRate::default();
        let permitted = |number: u32| (0..number).filter_map(|_| rate.permit()).collect::<Vec<_>>();
        assert_eq!(permitted(100), [0; 20]);
        tokio::time::advance(PERIOD).await;
        assert_eq!(permitted(2), [80, 0]);
    }
}
