//! The background tasks of a worker, and the relay that every process runs.
//!
//! [`LobbyConsumer`] applies lobby changes from the bus, [`TimerTask`] resets rooms at their time,
//! [`OutboxRelay`] publishes what the outbox holds, [`SignalingTask`] tells Talk's signaling servers
//! of changed rooms, [`Housekeeping`](housekeeping::Housekeeping) prunes and counts. `app` starts each
//! of them with a [`TaskContext`]. The stop token ends them, except the relay, which ends after the
//! last [`RelayHandle`](crate::relay::RelayHandle) is dropped. They meet in three places only: the
//! consumer wakes the timer task, the timer task passes the events of reset rooms to the relay, and
//! what stores events wakes the signaling task. All of these only save time; the state is in the
//! database.

mod backlog;
mod breaker;
pub mod housekeeping;
mod lobby_consumer;
mod outbox_relay;
mod receipt;
mod signaling;
mod talk;
mod timers;
mod write_check;

use std::sync::Arc;

use chrono::{DateTime, Utc};

pub use backlog::BacklogGauges;
pub use lobby_consumer::LobbyConsumer;
pub use outbox_relay::OutboxRelay;
pub use signaling::SignalingTask;
pub use talk::{TalkContext, TalkLobbies, TalkTask, watch_database};
pub use timers::{TimerTask, TimerWaker};
pub use write_check::WriteCheck;

use crate::bus::Bus;
use crate::clock::DatabaseClock;
use crate::health::Health;
use crate::store;
use crate::store::Database;
use crate::traces::Traces;

/// Of so many rooms or events at once, the log names each. Of more, it says how many there are.
const MAX_LOGGED: usize = 64;

/// The lags of events that are logged as one line.
#[derive(Default)]
struct Lags(Vec<f64>);

impl Lags {
    fn add(&mut self, seconds: f64) {
        self.0.push(seconds);
    }

    /// The median and the longest one.
    fn summary(&mut self) -> Option<(f64, f64)> {
        self.0.sort_unstable_by(f64::total_cmp);
        Some((*self.0.get(self.0.len() / 2)?, *self.0.last()?))
    }
}

/// What every task works with. Each task has a clone.
#[derive(Clone)]
pub struct TaskContext {
    pub database: Arc<dyn Database>,
    pub bus: Arc<dyn Bus>,
    pub clock: Arc<DatabaseClock>,
    pub health: Arc<Health>,
    pub traces: Traces,
}

impl TaskContext {
    /// The database's time, by a new sample.
    async fn sample_time(&self) -> store::Result<DateTime<Utc>> {
        self.clock.sample(&*self.database).await
    }
}
