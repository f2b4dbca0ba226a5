//! Scheduled work: pruning, the daily summary, the end of inactive sessions.
//!
//! The only module that uses tokio-cron-scheduler. Its jobs may be late or be skipped, so nothing
//! time-critical and no gauge depends on them. The scheduler computes its next run from the wall
//! clock, and would wait for hours after a step back, so it is replaced when that clock steps.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_cron_scheduler::{Job, JobScheduler};
use tokio_util::sync::CancellationToken;

use super::TaskContext;
use crate::clock::DatabaseClock;
use crate::domain::Caller;
use crate::domain::commands::Command;
use crate::logging;
use crate::store::{self, CommandError, Database, InactiveSession};

/// Period of the daily summary.
const DAY: Duration = Duration::from_hours(24);

/// How long identities of events are kept: as long as a message id identifies one.
const IDENTITIES: Duration = DAY;

/// Rows that one transaction deletes: a few tens of milliseconds, so that it delays no other.
const PRUNE_BATCH: u32 = 5000;

/// Batches of one round: five million rows.
const MAX_BATCHES: u32 = 1000;

/// Sessions that one round ends.
const SESSION_BATCH: u32 = 2000;

/// How often the wall clock is compared with the monotonic clock.
const CLOCK_INTERVAL: Duration = Duration::from_secs(1);

/// By how much the wall clock may differ within that time before it counts as a step.
const MAX_DRIFT: Duration = Duration::from_secs(2);

/// When each job runs: second, minute, hour, day of month, month, day of week; UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedules {
    pub prune: String,
    pub summary: String,
    pub sessions: String,
}

/// How long rows of the outbox and sessions are kept.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// How long published events are kept.
    pub history: Duration,
    /// How long events are kept that were never confirmed.
    pub dead_after: Duration,
    /// How long sessions without activity last.
    pub session: Duration,
    /// How long signaling servers are tried to be told a room.
    pub signaling: Duration,
}

#[derive(Clone)]
pub struct Housekeeping {
    // Not a whole TaskContext: the scheduler keeps its jobs after its shutdown, and the exporter of
    // traces ends only after the last handle to them is dropped.
    database: Arc<dyn Database>,
    clock: Arc<DatabaseClock>,
    retention: Retention,
    /// Since when activity could be recorded without interruption.
    recorded_since: Arc<Mutex<Instant>>,
}

/// Checks a schedule, before anything is started with it.
pub fn check_schedule(schedule: &str) -> Result<(), String> {
    match Job::new(schedule, |_id, _scheduler| {}) {
        Ok(_job) => Ok(()),
        Err(_cause) => Err(format!(
            "{schedule:?} is not a valid schedule; expected second, minute, hour, day of month, \
             month and day of week, such as \"0 30 6 * * *\""
        )),
    }
}

impl Housekeeping {
    pub fn new(ctx: &TaskContext, retention: Retention) -> Self {
        let recorded_since = Arc::new(Mutex::new(Instant::now()));
        let (database, clock) = (Arc::clone(&ctx.database), Arc::clone(&ctx.clock));
        Self { database, clock, retention, recorded_since }
    }

    /// Runs the jobs by their schedules, which may change meanwhile, until `stop`.
    pub async fn run(
        self,
        mut schedules: watch::Receiver<Schedules>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        loop {
            let current = schedules.borrow_and_update().clone();
            let mut cron = self.start(&current).await?;
            let stopped = tokio::select! {
                () = stop.cancelled() => true,
                Ok(()) = schedules.changed() => false,
                () = wall_clock_stepped() => {
                    tracing::warn!("wall clock stepped, schedules are computed again");
                    false
                }
            };
            cron.shutdown().await.context("scheduler")?;
            if stopped {
                return Ok(());
            }
        }
    }

    async fn start(&self, schedules: &Schedules) -> anyhow::Result<JobScheduler> {
        let cron = JobScheduler::new().await.context("scheduler")?;
        for job in [
            self.job(&schedules.prune, "pruning history", Self::prune_history),
            self.job(&schedules.prune, "discarding unconfirmed events", Self::prune_dead),
            self.job(&schedules.prune, "pruning identities", Self::prune_identities),
            self.job(&schedules.prune, "giving up old signaling", Self::prune_signaling),
            self.job(&schedules.summary, "summary", Self::summary),
            self.job(
                &schedules.summary,
                "removing timers of open rooms",
                Self::clear_timers_of_open_rooms,
            ),
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

    async fn prune_history(self) -> store::Result<()> {
        let before = self.clock.now() - self.retention.history;
        let rows = in_batches(|| self.database.prune_published(before, PRUNE_BATCH)).await?;
        metrics::counter!(crate::metrics::PRUNED, "kind" => "history").increment(rows);
        if rows > 0 {
            tracing::info!(rows, "history pruned");
        }
        Ok(())
    }

    async fn prune_dead(self) -> store::Result<()> {
        let before = self.clock.now() - self.retention.dead_after;
        let rows = in_batches(|| self.database.prune_dead(before, PRUNE_BATCH)).await?;
        metrics::counter!(crate::metrics::PRUNED, "kind" => "dead").increment(rows);
        if rows > 0 {
            tracing::warn!(rows, "unconfirmed events discarded");
        }
        Ok(())
    }

    async fn prune_identities(self) -> store::Result<()> {
        let before = self.clock.now() - IDENTITIES;
        in_batches(|| self.database.prune_applied(before, PRUNE_BATCH)).await.map(drop)
    }

    async fn prune_signaling(self) -> store::Result<()> {
        let before = self.clock.now() - self.retention.signaling;
        let batch = || self.database.prune_signaling(before, PRUNE_BATCH, self.clock.now());
        let rooms = in_batches(batch).await?;
        metrics::counter!(crate::metrics::SIGNALING_DROPPED).increment(rooms);
        if rooms > 0 {
            tracing::warn!(rooms, "rooms given up that signaling servers were not told");
        }
        Ok(())
    }

    /// The search reads all rooms, and such a timer only shows in its room, so once a day is enough.
    async fn clear_timers_of_open_rooms(self) -> store::Result<()> {
        let rooms = in_batches(|| self.database.clear_timers_of_open_rooms(PRUNE_BATCH)).await?;
        if rooms > 0 {
            tracing::info!(rooms, "timers of open rooms removed");
        }
        Ok(())
    }

    /// Ends the sessions of clients that disconnected without leaving, as if they had left. After an
    /// outage of the database, or of this process, clients have the whole timeout again to return.
    async fn end_sessions(self) -> store::Result<()> {
        let since = self.clock.now() - self.retention.session;
        let inactive = self.database.inactive_since(since, SESSION_BATCH).await;
        let inactive = inactive.inspect_err(|_unavailable| {
            *self.recorded_since.lock() = Instant::now();
        })?;
        if self.recorded_since.lock().elapsed() < self.retention.session {
            return Ok(());
        }
        for InactiveSession { room, actor, session_id } in inactive {
            let caller =
                Caller { actor, client: None, display_name: String::new(), may_enable_sip: false };
            let end = Command::EndSession(session_id);
            let actor = &caller.actor.id;
            match self.database.change(&room, &caller, &end, self.clock.now()).await {
                Ok(ended) if ended.update.is_some() => {
                    tracing::info!(room.token = %room, actor, "inactive session ended");
                }
                // It has ended meanwhile.
                Ok(_) | Err(CommandError::Refused(_)) => {}
                Err(CommandError::Store(error)) => {
                    let error = logging::causes(&error);
                    tracing::warn!(
                        room.token = %room,
                        actor,
                        error,
                        "inactive session could not be ended"
                    );
                }
            }
        }
        Ok(())
    }

    async fn summary(self) -> store::Result<()> {
        let fired = self.database.fired_since(self.clock.now() - DAY).await?;
        let backlog = self.database.backlog().await?;
        let unusable = self.database.unusable_timers().await?;
        tracing::info!(
            timers.fired = fired,
            timers.pending = backlog.timers_pending,
            timers.unusable = unusable,
            outbox.pending = backlog.outbox_pending,
            "daily summary"
        );
        if unusable > 0 {
            tracing::warn!(
                timers.unusable = unusable,
                "timers of rooms that cannot have a lobby, they never fire"
            );
        }
        Ok(())
    }
}

/// Returns when the wall clock has stepped, by comparing it with the monotonic clock.
#[expect(clippy::disallowed_methods, reason = "the scheduler goes by the wall clock")]
async fn wall_clock_stepped() {
    let mut last = (SystemTime::now(), Instant::now());
    loop {
        sleep(CLOCK_INTERVAL).await;
        let next = (SystemTime::now(), Instant::now());
        let expected = last.0 + (next.1 - last.1);
        if distance(next.0, expected) > MAX_DRIFT {
            return;
        }
        last = next;
    }
}

fn distance(a: SystemTime, b: SystemTime) -> Duration {
    a.duration_since(b).unwrap_or_else(|later| later.duration())
}

/// Changes batch after batch until one is not full. Returns the number of rows. A trigger may undo
/// each change, so the number of batches is bounded.
async fn in_batches<F>(change: impl Fn() -> F) -> store::Result<u64>
where
    F: Future<Output = store::Result<u64>>,
{
    let mut total = 0;
    for _ in 0..MAX_BATCHES {
        let rows = change().await?;
        total += rows;
        if rows < u64::from(PRUNE_BATCH) {
            break;
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_schedule_is_refused() {
        assert_eq!(check_schedule("0 11 * * * *"), Ok(()));
        assert_eq!(check_schedule("*/15 * * * * *"), Ok(()));
        assert!(
            check_schedule("every now and then").unwrap_err().contains("is not a valid schedule")
        );
    }
}
