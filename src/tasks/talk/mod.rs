//! Has a Nextcloud Talk open its rooms on time, by being the reader that it lacks.
//!
//! Talk resets a room when somebody reads it. Every second this task reads from Talk's table which
//! timers will be due within seconds, sleeps until each of them by the clock of Talk's database, and
//! reads the room through Talk's API. It writes nothing into Talk's database, and judges by the row,
//! never by the status of an answer. One instance does so at a time, the *leader*, which holds an
//! advisory lock in Talk's database; the others stand by.
//!
//! A timer is recorded in lobbyd's own database before its room is asked for, and the announcement of
//! the room ends the record. A database of lobbyd that is unavailable delays announcements, and no
//! room.

mod announcer;
mod attempt;
mod leader;
mod lobbies;
mod outcome;
mod queue;
mod report;
mod site;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use self::announcer::announce;
use self::leader::Leader;
pub use self::lobbies::TalkLobbies;
use crate::backoff::Backoff;
use crate::health::{Component, Health, Work};
use crate::logging;
use crate::nextcloud::TalkClient;
use crate::relay::RelayHandle;
use crate::store::{Database, StoreError, TalkRooms};
use crate::tasks::TaskContext;

/// Time between two looks at Talk's table.
const INTERVAL: Duration = Duration::from_secs(1);

/// What the task works with.
#[derive(Clone)]
pub struct TalkContext {
    pub rooms: Arc<dyn TalkRooms>,
    pub client: Arc<TalkClient>,
    /// lobbyd's own.
    pub database: Arc<dyn Database>,
    pub relay: RelayHandle,
    pub health: Arc<Health>,
}

pub struct TalkTask {
    ctx: TalkContext,
    concurrency: NonZeroUsize,
}

impl TalkTask {
    /// Sends at most `concurrency` requests at a time.
    pub fn new(ctx: TalkContext, concurrency: NonZeroUsize) -> Self {
        Self { ctx, concurrency }
    }

    /// Runs until `stop`. Requests that have been sent are awaited, and what they opened is announced.
    pub async fn run(self, stop: CancellationToken) {
        let (announcements, ended) = mpsc::unbounded_channel();
        let (database, relay) = (Arc::clone(&self.ctx.database), self.ctx.relay.clone());
        let leader = Leader::new(self.ctx.clone(), self.concurrency, announcements);
        tokio::join!(self.take_turns(leader, &stop), announce(ended, database, relay));
        self.ctx.rooms.close().await;
    }

    /// Leads, or waits to lead.
    async fn take_turns(&self, mut leader: Leader, stop: &CancellationToken) {
        let mut backoff = Backoff::new(Backoff::TASKS);
        let mut was_standby = false;
        while !stop.is_cancelled() {
            let Some(taken) = stop.run_until_cancelled(self.ctx.rooms.lead()).await else { return };
            let led = match taken {
                Ok(Some(lock)) => {
                    was_standby = false;
                    metrics::gauge!(crate::metrics::TALK_LEADER).set(1);
                    let led = leader.run(lock, stop).await;
                    metrics::gauge!(crate::metrics::TALK_LEADER).set(0);
                    led
                }
                Ok(None) => {
                    if !std::mem::replace(&mut was_standby, true) {
                        tracing::info!("another instance opens the rooms of Talk, standing by");
                    }
                    self.stand_by();
                    Ok(())
                }
                Err(error) => Err(error),
            };
            let wait = match led {
                Ok(()) => {
                    backoff.reset();
                    INTERVAL
                }
                Err(error) => {
                    self.report_down(&error);
                    backoff.next_wait()
                }
            };
            stop.run_until_cancelled(sleep(wait)).await;
        }
    }

    /// Another instance has the lock, and so checks it every second: it reports what is overdue.
    fn stand_by(&self) {
        let health = &self.ctx.health;
        health.set_oldest(Work::Talk, None);
        if health.set_up(Component::Talk) {
            tracing::info!("database of Talk available");
        }
    }

    /// The age of the oldest overdue room grows meanwhile.
    fn report_down(&self, error: &StoreError) {
        let problem = format!("database of Talk: {}", logging::causes(error));
        if self.ctx.health.set_down(Component::Talk, problem.as_str()) {
            tracing::warn!(error = problem, "rooms of Talk cannot be opened");
        }
    }
}

/// Reports whether lobbyd's own database is available, in a process without a timer task. Runs until
/// `stop`.
pub async fn watch_database(ctx: TaskContext, stop: CancellationToken) {
    let TaskContext { database, health, .. } = ctx;
    while let Some(answer) = stop.run_until_cancelled(database.now()).await {
        match answer {
            Ok(_now) => {
                if health.set_up(Component::Database) {
                    tracing::info!("database available");
                }
            }
            Err(error) => {
                let problem = logging::causes(&error);
                if health.set_down(Component::Database, problem.as_str()) {
                    tracing::warn!(
                        error = problem,
                        "database unavailable, rooms of Talk are announced later"
                    );
                }
            }
        }
        stop.run_until_cancelled(sleep(INTERVAL)).await;
    }
}
