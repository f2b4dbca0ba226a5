//! Checks whether the database can be written, also while nothing is due: a file that belongs to
//! another user, a full disk or a standby answers queries. `app` runs it in every process, on the
//! pool of the API, so that it delays no task.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::health::Health;
use crate::logging;
use crate::store::Database;

/// Time between two checks. Each commits a row.
const INTERVAL: Duration = Duration::from_secs(5);

/// So many checks in a row have to fail: a server that is being stopped answers in the same way, and
/// its outage is reported as such.
const FAILURES: u32 = 2;

pub struct WriteCheck {
    database: Arc<dyn Database>,
    health: Arc<Health>,
}

impl WriteCheck {
    pub fn new(database: Arc<dyn Database>, health: Arc<Health>) -> Self {
        Self { database, health }
    }

    pub async fn run(self, stop: CancellationToken) {
        let mut failures = 0;
        while stop.run_until_cancelled(sleep(INTERVAL)).await.is_some() {
            match stop.run_until_cancelled(self.database.check_writable()).await {
                None => return,
                Some(Ok(())) => {
                    failures = 0;
                    if self.health.set_unwritable(None) {
                        tracing::info!("database can be written again");
                    }
                }
                Some(Err(error)) if error.is_answer() => {
                    failures += 1;
                    if failures >= FAILURES {
                        self.report(&logging::causes(&error));
                    }
                }
                // Another component reports an outage.
                Some(Err(_outage)) => failures = 0,
            }
        }
    }

    fn report(&self, problem: &str) {
        if self.health.set_unwritable(Some(problem.to_owned())) {
            tracing::warn!(error = problem, "database cannot be written");
        }
    }
}
