//! What the page of the ops listener shows of database and broker.
//!
//! Many browsers may ask for it, so it is read once in a while, in bounded time, and by the pool of the
//! API: it delays no task.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::bus::{Bus, QueueDepth};
use crate::http::ops::{Outlook, Queue, UpcomingTimer};
use crate::store::Database;

/// Timers that are shown.
const TIMERS: u32 = 50;

/// How long what was read is shown.
const MAX_AGE: Duration = Duration::from_secs(1);

/// The depths of queues need a connection of their own, so they are read less often.
const MAX_QUEUES_AGE: Duration = Duration::from_secs(10);

/// Bound of a reading: the page has to show that a server is unavailable.
const TIMEOUT: Duration = Duration::from_secs(2);

/// What was read last, and when.
type Last<T> = Mutex<Option<(Instant, Option<Vec<T>>)>>;

pub(super) struct ReadOutlook {
    database: Arc<dyn Database>,
    bus: Arc<dyn Bus>,
    timers: Last<UpcomingTimer>,
    queues: Last<Queue>,
}

impl ReadOutlook {
    pub(super) fn new(database: &Arc<dyn Database>, bus: &Arc<dyn Bus>) -> Self {
        let (database, bus) = (Arc::clone(database), Arc::clone(bus));
        Self { database, bus, timers: Mutex::default(), queues: Mutex::default() }
    }
}

#[async_trait]
impl Outlook for ReadOutlook {
    async fn timers(&self) -> Option<Vec<UpcomingTimer>> {
        let read = async {
            let rooms = self.database.scheduled_rooms(TIMERS).await.ok()?.into_iter();
            let timers = rooms.filter_map(|listed| {
                let due_at = listed.room.lobby.timer?.timestamp();
                Some(UpcomingTimer { token: listed.room.token.to_string(), due_at })
            });
            Some(timers.collect())
        };
        recent(&self.timers, MAX_AGE, read).await
    }

    async fn queues(&self) -> Option<Vec<Queue>> {
        let read = async {
            let depths = self.bus.queue_depths().await.ok()?.into_iter();
            let queue = |depth: QueueDepth| Queue {
                name: depth.queue,
                messages: depth.content.map(|content| content.messages.into()),
            };
            Some(depths.map(queue).collect())
        };
        recent(&self.queues, MAX_QUEUES_AGE, read).await
    }
}

/// What was read last, or is read now.
async fn recent<T: Clone>(
    last: &Last<T>,
    max_age: Duration,
    read: impl Future<Output = Option<Vec<T>>>,
) -> Option<Vec<T>> {
    let mut last = last.lock().await;
    if let Some((read_at, known)) = &*last
        && read_at.elapsed() < max_age
    {
        return known.clone();
    }
    let known = timeout(TIMEOUT, read).await.ok().flatten();
    *last = Some((Instant::now(), known.clone()));
    known
}
