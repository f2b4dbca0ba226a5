//! Which sessions have been active lately.
//!
//! Every request of a client with a session counts as activity. It is collected here and
//! written to the database in batches, so that a poll costs no statement. Housekeeping ends the
//! sessions without activity. `app` runs one [`PresenceRecorder`] beside each API.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::clock::DatabaseClock;
use crate::domain::{Attendee, ClientId};
use crate::store::Database;
use crate::{logging, store};

/// How often activity is written: much more often than sessions expire.
const INTERVAL: Duration = Duration::from_secs(30);

/// Sessions that one statement updates.
const BATCH: usize = 200;

/// Collects the activity of sessions.
pub struct PresenceRecorder {
    database: Arc<dyn Database>,
    clock: Arc<DatabaseClock>,
    /// Sorted, so that concurrent processes lock rows in the same order.
    active: Mutex<BTreeSet<String>>,
}

impl PresenceRecorder {
    pub(super) fn new(database: Arc<dyn Database>, clock: Arc<DatabaseClock>) -> Self {
        Self { database, clock, active: Mutex::default() }
    }

    /// Records activity of a viewer's client, if it has a session.
    pub(super) fn record(&self, viewer: Option<&Attendee>, client: Option<&ClientId>) {
        if let Some(session) = viewer.and_then(|attendee| attendee.session(client)) {
            let mut active = self.active.lock();
            if !active.contains(&session.id) {
                active.insert(session.id.clone());
            }
        }
    }

    /// Writes the activity regularly, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        stop.run_until_cancelled(self.flush_regularly()).await;
    }

    async fn flush_regularly(&self) {
        let mut tick = interval(INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if let Err(error) = self.flush().await {
                tracing::debug!(error = logging::causes(&error), "presence could not be recorded");
            }
        }
    }

    /// Activity that could not be written is kept for the next time.
    async fn flush(&self) -> store::Result<()> {
        let mut active: Vec<_> = std::mem::take(&mut *self.active.lock()).into_iter().collect();
        while !active.is_empty() {
            let batch = active.split_off(active.len().saturating_sub(BATCH));
            if let Err(error) = self.database.touch(&batch, self.clock.now()).await {
                self.active.lock().extend(active.into_iter().chain(batch));
                return Err(error);
            }
        }
        Ok(())
    }
}
