//! The gauges of pending timers and events, counted when the metrics are scraped.
//!
//! The count is bounded, and is done by the pool of the API, so that a scrape delays no task. `app`
//! gives it to the ops listener.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::logging;
use crate::metrics::Collect;
use crate::store::{Backlog, Database};

/// How long a count is used for further scrapes.
const MAX_AGE: Duration = Duration::from_secs(5);

/// Bound of a count: a scrape has to be answered while the database is unavailable.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Sets the gauges of the backlog. They are NaN while it cannot be counted.
pub struct BacklogGauges {
    database: Arc<dyn Database>,
    counted_at: Mutex<Option<Instant>>,
}

impl BacklogGauges {
    pub fn new(database: Arc<dyn Database>) -> Self {
        Self { database, counted_at: Mutex::default() }
    }
}

#[async_trait]
impl Collect for BacklogGauges {
    async fn collect(&self) {
        let mut counted_at = self.counted_at.lock().await;
        if counted_at.is_some_and(|counted_at| counted_at.elapsed() < MAX_AGE) {
            return;
        }
        match timeout(TIMEOUT, self.database.backlog()).await {
            Ok(Ok(backlog)) => set(Some(backlog)),
            Ok(Err(error)) => {
                tracing::debug!(error = logging::causes(&error), "backlog could not be counted");
                set(None);
            }
            Err(_elapsed) => set(None),
        }
        *counted_at = Some(Instant::now());
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::as_conversions,
    reason = "a gauge is a float; counts lose nothing below 2^53"
)]
fn set(backlog: Option<Backlog>) {
    let value = |count: fn(Backlog) -> u64| backlog.map_or(f64::NAN, |each| count(each) as f64);
    metrics::gauge!(crate::metrics::TIMERS_PENDING).set(value(|each| each.timers_pending));
    metrics::gauge!(crate::metrics::OUTBOX_PENDING).set(value(|each| each.outbox_pending));
}
