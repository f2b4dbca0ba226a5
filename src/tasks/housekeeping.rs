//! What is done now and then: pruning, gauges, the daily summary, the end of sessions.
//!
//! Only here is tokio-cron-scheduler used. Its jobs may be late, skipped, or stop for good when
//! the wall clock steps, so nothing punctual hangs on them.

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context;
use tokio::{sync::watch, time::Instant};
use tokio_cron_scheduler::{Job, JobScheduler};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::DatabaseClock,
    domain::{Caller, commands::Command},
    logging,
    store::{self, Database},
};

/// What the summary looks back on.
const DAY: Duration = Duration::from_hours(24);

/// Rows that one transaction deletes: a few ten milliseconds, so that it holds nobody up.
const PRUNE_BATCH: u32 = 5000;

/// Sessions that end in one round.
const SESSION_BATCH: u32 = 2000;

/// When to do what: second, minute, hour, day of month, month, day of week; UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedules {
    /// Deletes old rows of the outbox.
    pub prune: String,
    /// Counts what waits.
    pub gauges: String,
    /// Logs a line about the last day.
    pub summary: String,
    /// Ends sessions of those who are not there any more.
    pub sessions: String,
}

/// How old things get: rows of the outbox, and sessions.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// Published ones.
    pub history: Duration,
    /// Ones that were never confirmed.
    pub dead_after: Duration,
    /// How long a session lasts without a sign of life.
    pub session: Duration,
}

/// The jobs.
#[derive(Clone)]
pub struct Housekeeping {
    store: Arc<dyn Database>,
    clock: Arc<DatabaseClock>,
    retention: Retention,
    /// Since when signs of life can be noted.
    noted_since: Arc<Mutex<Instant>>,
}

/// Checks a schedule, before anything is started with it.
///
/// # Errors
///
/// What is wrong with it.
pub fn check_schedule(schedule: &str) -> Result<(), String> {
    match Job::new(schedule, |_id, _scheduler| {}) {
        Ok(_job) => Ok(()),
        Err(_cause) => Err(format!(
            "{schedule:?} is no schedule of second, minute, hour, day of month, month and day of \
             week, such as \"0 30 6 * * *\""
        )),
    }
}

impl Housekeeping {
    /// Keeps this store.
    pub fn new(store: Arc<dyn Database>, clock: Arc<DatabaseClock>, retention: Retention) -> Self {
        let noted_since = Arc::new(Mutex::new(Instant::now()));
        Self { store, clock, retention, noted_since }
    }

    /// Runs the jobs at their times, which may change meanwhile, until `stop`.
    ///
    /// # Errors
    ///
    /// A schedule cannot be read, or the scheduler does not start.
    pub async fn run(
        self,
        mut schedules: watch::Receiver<Schedules>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        // Until the first one by schedule the gauges would say that nothing waits.
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            counted = self.clone().gauges() => counted?,
        }
        loop {
            let current = schedules.borrow_and_update().clone();
            let mut cron = self.start(&current).await?;
            let changed = tokio::select! {
                () = stop.cancelled() => false,
                Ok(()) = schedules.changed() => true,
            };
            cron.shutdown().await.context("scheduler")?;
            if !changed {
                return Ok(());
            }
        }
    }

    async fn start(&self, schedules: &Schedules) -> anyhow::Result<JobScheduler> {
        let cron = JobScheduler::new().await.context("scheduler")?;
        for job in [
            self.job(&schedules.prune, "pruning", Self::prune),
            self.job(&schedules.gauges, "counting", Self::gauges),
            self.job(&schedules.summary, "summary", Self::summary),
            self.job(&schedules.sessions, "ending sessions", Self::end_sessions),
        ] {
            cron.add(job.context("schedule")?).await.context("job")?;
        }
        cron.start().await.context("scheduler")?;
        Ok(cron)
    }

    fn job<F>(
        &self,
        schedule: &str,
        name: &'static str,
        work: fn(Self) -> F,
    ) -> Result<Job, tokio_cron_scheduler::JobSchedulerError>
    where
        F: Future<Output = store::Result<()>> + Send + 'static,
    {
        let this = self.clone();
        Job::new_async(schedule, move |_id, _scheduler| {
            let work = work(this.clone());
            Box::pin(async move {
                if let Err(error) = work.await {
                    tracing::warn!(
                        error = logging::causes(&error),
                        "{name} failed, will run again at the next scheduled time"
                    );
                }
            })
        })
    }

    async fn prune(self) -> store::Result<()> {
        let now = self.clock.now();
        let (published, made) = (now - self.retention.history, now - self.retention.dead_after);
        let store = &self.store;
        let history = in_batches(|| store.prune_published(published, PRUNE_BATCH)).await?;
        let dead = in_batches(|| store.prune_dead(made, PRUNE_BATCH)).await?;
        metrics::counter!(crate::metrics::PRUNED, "kind" => "history").increment(history);
        metrics::counter!(crate::metrics::PRUNED, "kind" => "dead").increment(dead);
        if history > 0 {
            tracing::info!(rows = history, "history pruned");
        }
        if dead > 0 {
            tracing::warn!(rows = dead, "unconfirmed events discarded");
        }
        Ok(())
    }

    /// Whoever closed the window without a word leaves the room, as if by himself. After an outage
    /// of the database, or of this process, everybody has the whole time again to come back.
    async fn end_sessions(self) -> store::Result<()> {
        let since = self.clock.now() - self.retention.session;
        let unseen = self.store.unseen_since(since, SESSION_BATCH).await.inspect_err(|_away| {
            *self.noted_since() = Instant::now();
        })?;
        if self.noted_since().elapsed() < self.retention.session {
            return Ok(());
        }
        for (room, actor, session) in unseen {
            let caller = Caller { actor, display_name: String::new(), may_enable_sip: false };
            let end = Command::EndSession(session);
            let actor = &caller.actor.id;
            match self.store.change(&room, &caller, &end, self.clock.now()).await {
                Ok(Ok(ended)) if ended.update.is_some() => {
                    tracing::info!(room.token = %room, actor, "inactive session ended");
                }
                // There is a newer one, or none any more.
                Ok(_changed_meanwhile) => {}
                Err(error) => {
                    let error = logging::causes(&error);
                    tracing::warn!(room.token = %room, actor, error, "inactive session could not be ended");
                }
            }
        }
        Ok(())
    }

    fn noted_since(&self) -> MutexGuard<'_, Instant> {
        self.noted_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next round is soon, so one that fails is not worth a line.
    async fn gauges(self) -> store::Result<()> {
        if let Err(error) = self.count().await {
            tracing::debug!(error = logging::causes(&error), "backlog could not be counted");
        }
        Ok(())
    }

    async fn summary(self) -> store::Result<()> {
        let fired = self.store.fired_since(self.clock.now() - DAY).await?;
        let backlog = self.count().await?;
        tracing::info!(
            timers.fired = fired,
            timers.pending = backlog.timers_pending,
            timers.unusable = backlog.timers_unusable,
            outbox.pending = backlog.outbox_pending,
            "daily summary"
        );
        Ok(())
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::as_conversions,
        reason = "a gauge is a float; counts lose nothing below 2^53"
    )]
    async fn count(&self) -> store::Result<store::Backlog> {
        let backlog = self.store.backlog().await?;
        let age = backlog
            .outbox_oldest
            .map_or(0.0, |oldest| (self.clock.now() - oldest).as_seconds_f64().max(0.0));
        metrics::gauge!(crate::metrics::TIMERS_PENDING).set(backlog.timers_pending as f64);
        metrics::gauge!(crate::metrics::TIMERS_UNUSABLE).set(backlog.timers_unusable as f64);
        metrics::gauge!(crate::metrics::OUTBOX_PENDING).set(backlog.outbox_pending as f64);
        metrics::gauge!(crate::metrics::OUTBOX_OLDEST).set(age);
        Ok(backlog)
    }
}

/// Deletes batch after batch until one comes back short. Returns the number of rows.
async fn in_batches<F>(delete: impl Fn() -> F) -> store::Result<u64>
where
    F: Future<Output = store::Result<u64>>,
{
    let mut total = 0;
    loop {
        let rows = delete().await?;
        total += rows;
        if rows < u64::from(PRUNE_BATCH) {
            return Ok(total);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_schedule_is_refused() {
        assert_eq!(check_schedule("0 11 * * * *"), Ok(()));
        assert_eq!(check_schedule("*/15 * * * * *"), Ok(()));
        assert!(check_schedule("every now and then").unwrap_err().contains("is no schedule"));
    }
}
