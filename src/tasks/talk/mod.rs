//! Has a Nextcloud Talk open its rooms on time, by being the reader that it lacks.
//!
//! Talk resets a room when somebody reads it. Every second this task reads from Talk's table which
//! timers will be due within seconds, sleeps until each of them by the clock of Talk's database, and
//! reads the room through Talk's API. It writes nothing into Talk's database, and judges by the row,
//! never by the status of an answer. One instance does so at a time, the *leader*, which holds an
//! advisory lock in Talk's database; the others look for overdue rooms only.
//!
//! A timer is recorded in lobbyd's own database before its room is asked for, and the announcement of
//! the room ends the record. A database of lobbyd that is unavailable delays announcements, and no
//! room.

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

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use self::leader::Leader;
pub use self::lobbies::TalkLobbies;
use crate::backoff::Backoff;
use crate::health::{Component, Health, Oldest, Work};
use crate::logging;
use crate::relay::RelayHandle;
use crate::store::{Database, StoreError, TalkRooms};
use crate::talk::TalkClient;

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
    /// Whether no other task of this process reports whether lobbyd's own database is available.
    is_alone: bool,
}

impl TalkTask {
    /// Sends at most `concurrency` requests at a time.
    pub fn new(ctx: TalkContext, concurrency: NonZeroUsize) -> Self {
        Self { ctx, concurrency, is_alone: false }
    }

    /// Has the task report whether lobbyd's own database is available.
    pub fn alone(self) -> Self {
        Self { is_alone: true, ..self }
    }

    /// Runs until `stop`. Requests that have been sent are awaited.
    pub async fn run(self, stop: CancellationToken) {
        tokio::join!(self.take_turns(&stop), self.watch_database(&stop));
        self.ctx.rooms.close().await;
    }

    /// Leads, or waits to lead.
    async fn take_turns(&self, stop: &CancellationToken) {
        let mut backoff = Backoff::new(Backoff::TASKS);
        let mut was_standby = false;
        while !stop.is_cancelled() {
            let Some(taken) = stop.run_until_cancelled(self.ctx.rooms.lead()).await else { return };
            let wait = match taken {
                Ok(Some(lock)) => {
                    backoff.reset();
                    was_standby = false;
                    tracing::info!(url = self.ctx.client.url(), "opening the rooms of Talk");
                    metrics::gauge!(crate::metrics::TALK_LEADER).set(1);
                    let ended =
                        Leader::new(self.ctx.clone(), self.concurrency).run(lock, stop).await;
                    metrics::gauge!(crate::metrics::TALK_LEADER).set(0);
                    if let Err(error) = ended {
                        self.report_down(&error);
                    }
                    Backoff::TASKS.0
                }
                Ok(None) => {
                    if !std::mem::replace(&mut was_standby, true) {
                        tracing::info!("another instance opens the rooms of Talk, standing by");
                    }
                    match self.look().await {
                        Ok(()) => {
                            backoff.reset();
                            INTERVAL
                        }
                        Err(error) => self.wait_after(&error, &mut backoff),
                    }
                }
                Err(error) => self.wait_after(&error, &mut backoff),
            };
            stop.run_until_cancelled(sleep(wait)).await;
        }
    }

    /// Reports the oldest overdue room, while another instance leads.
    async fn look(&self) -> Result<(), StoreError> {
        let (rooms, health) = (&self.ctx.rooms, &self.ctx.health);
        let (now, first) =
            (rooms.now().await?, rooms.upcoming(self.ctx.client.has_secret(), 1).await?);
        health.set_oldest(Work::Talk, first.first().map(|timer| report::oldest(timer, now)));
        if health.set_up(Component::Talk) {
            tracing::info!("database of Talk available");
        }
        Ok(())
    }

    fn wait_after(&self, error: &StoreError, backoff: &mut Backoff) -> Duration {
        self.report_down(error);
        backoff.next_wait()
    }

    fn report_down(&self, error: &StoreError) {
        let problem = format!("database of Talk: {}", logging::causes(error));
        if self.ctx.health.set_down(Component::Talk, problem.as_str()) {
            tracing::warn!(error = problem, "rooms of Talk cannot be opened");
        }
        self.ctx.health.set_oldest(Work::Talk, None::<Oldest>);
    }

    /// Reports whether lobbyd's own database is available, if no other task does.
    async fn watch_database(&self, stop: &CancellationToken) {
        if !self.is_alone {
            return;
        }
        let TalkContext { database, health, .. } = &self.ctx;
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
                            "database unavailable, openings of Talk are announced later"
                        );
                    }
                }
            }
            stop.run_until_cancelled(sleep(INTERVAL)).await;
        }
    }
}
