//! The loop of the instance that opens rooms, as long as it holds the lock.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::announcer::Ended;
use super::attempt::{Attempted, Means, attempt};
use super::queue::Queue;
use super::report::{Report, oldest};
use super::site::{Permission, Site};
use super::{INTERVAL, TalkContext};
use crate::clock::DatabaseClock;
use crate::domain::TalkTimer;
use crate::health::Work;
use crate::nextcloud::Trouble;
use crate::store;
use crate::store::{Leadership, StoreError};

/// Rooms that are in the queue at once, apart from those that are refused. When they are open, the
/// next ones follow.
const MAX_ROOMS: usize = 1000;

/// Timers of a leader before this one that are taken over.
const MAX_RECORDED: u32 = 10_000;

/// For how long the lock counts as held after its last check. The server ends a session that is silent
/// for ten seconds.
const MAX_UNCHECKED: Duration = Duration::from_secs(8);

/// Talk opens a room whose timer is over, not one whose timer is just due.
pub(super) const AFTER_DUE: Duration = Duration::from_millis(1);

/// How long the first attempt for a room may wait for lobbyd's own database.
const RECORD_TIMEOUT: Duration = Duration::from_millis(500);

/// Something that has ended.
enum Step {
    Checked(Box<dyn Leadership>, Result<(), StoreError>),
    Looked(Result<Look, StoreError>),
    /// With the timers that a look has found, which began then, and whether lobbyd's own database has
    /// them.
    Recorded(Vec<TalkTimer>, Instant, bool),
    /// With the timers of an earlier leader.
    TakenOver(store::Result<Vec<TalkTimer>>, Instant),
    Attempted(Attempted),
    /// A probe without any room, and when it began.
    Probed(Result<Option<String>, Trouble>, Instant),
}

struct Look {
    begun_at: Instant,
    clock: DatabaseClock,
    found: Vec<TalkTimer>,
    is_complete: bool,
}

pub(super) struct Leader {
    pub(super) ctx: TalkContext,
    concurrency: usize,
    /// By Talk's database, from the last look.
    pub(super) clock: Option<DatabaseClock>,
    pub(super) queue: Queue,
    pub(super) site: Site,
    steps: FuturesUnordered<BoxFuture<'static, Step>>,
    pub(super) announcements: mpsc::UnboundedSender<Ended>,
    /// Attempts under way, and those among them for rooms that failed before.
    attempts: usize,
    retries: usize,
    is_looking: bool,
    is_probing: bool,
    /// Whether the timers of an earlier leader are in the queue.
    has_taken_over: bool,
    lock: Option<Box<dyn Leadership>>,
    /// When the lock was last known to be held.
    checked_at: Instant,
    /// The version of the secret that Talk has refused.
    pub(super) refused_secret: u64,
    pub(super) report: Report,
}

impl Leader {
    pub(super) fn new(
        ctx: TalkContext,
        concurrency: NonZeroUsize,
        announcements: mpsc::UnboundedSender<Ended>,
    ) -> Self {
        Self {
            ctx,
            concurrency: concurrency.get(),
            clock: None,
            queue: Queue::default(),
            site: Site::default(),
            steps: FuturesUnordered::new(),
            announcements,
            attempts: 0,
            retries: 0,
            is_looking: false,
            is_probing: false,
            has_taken_over: false,
            lock: None,
            checked_at: Instant::now(),
            refused_secret: 0,
            report: Report::default(),
        }
    }

    /// Runs until `end`, or until the lock may be lost, which is an error. After `end`, what is under
    /// way is finished. What is known of Talk and its rooms stays for the next time.
    pub(super) async fn run(
        &mut self,
        lock: Box<dyn Leadership>,
        end: &CancellationToken,
    ) -> store::Result<()> {
        (self.lock, self.checked_at) = (Some(lock), Instant::now());
        let ended = self.lead(end).await;
        // Without the lock no request may be sent, and none of those under way is awaited.
        self.lock = None;
        self.steps.clear();
        (self.attempts, self.retries, self.clock) = (0, 0, None);
        (self.is_looking, self.is_probing, self.has_taken_over) = (false, false, false);
        self.queue.put_all_back(Instant::now());
        self.report.flush(&self.queue);
        ended
    }

    async fn lead(&mut self, end: &CancellationToken) -> store::Result<()> {
        let mut tick = interval(INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_stopping = end.is_cancelled();
            if is_stopping && self.attempts == 0 {
                return Ok(());
            }
            if !is_stopping {
                self.begin_attempts();
            }
            let wake_at = self.wake_at();
            tokio::select! {
                biased;
                Some(step) = self.steps.next() => self.finish(step)?,
                _ = tick.tick() => self.tick(),
                () = sleep_until(wake_at), if !is_stopping => {}
                () = end.cancelled(), if !is_stopping => {}
            }
        }
    }

    /// When to look at the queue again, if nothing else happens.
    fn wake_at(&self) -> Instant {
        let now = Instant::now();
        let may_retry = self.retries < self.retry_slots();
        let room = match self.site.permission(now) {
            _ if self.attempts >= self.concurrency => None,
            Permission::All => self.queue.next_at(now, may_retry),
            Permission::New | Permission::NewAndProbe => self.queue.next_at(now, false),
            Permission::Probe | Permission::Nothing => None,
        };
        let probe = self.site.retry_at().filter(|at| *at > now);
        [room, probe].into_iter().flatten().fold(now + INTERVAL, Instant::min)
    }

    /// Rooms that failed leave slots to others.
    fn retry_slots(&self) -> usize {
        (self.concurrency / 2).max(1)
    }

    /// Begins the attempts that may be made now.
    fn begin_attempts(&mut self) {
        // After a freeze of this process, another instance may have the lock.
        while self.attempts < self.concurrency && self.checked_at.elapsed() < MAX_UNCHECKED {
            let now = Instant::now();
            let may_retry = self.retries < self.retry_slots();
            let begun = match self.site.permission(now) {
                Permission::All => self.queue.begin(now, may_retry),
                Permission::New => self.queue.begin(now, false),
                Permission::NewAndProbe => {
                    let new = self.queue.begin(now, false);
                    if new.is_none() && may_retry { self.probe(now) } else { new }
                }
                Permission::Probe if self.attempts == 0 && !self.is_probing => {
                    let probe = self.probe(now);
                    if probe.is_none() {
                        self.probe_without_room(now);
                    }
                    probe
                }
                Permission::Probe | Permission::Nothing => None,
            };
            let Some((timer, means, is_retry)) = begun else { return };
            self.attempts += 1;
            self.retries += usize::from(is_retry);
            let (rooms, client) = (Arc::clone(&self.ctx.rooms), Arc::clone(&self.ctx.client));
            self.steps.push(Box::pin(async move {
                Step::Attempted(attempt(rooms, client, timer, means, is_retry).await)
            }));
        }
    }

    fn probe(&mut self, now: Instant) -> Option<(TalkTimer, Means, bool)> {
        let probe = self.queue.begin_probe(now)?;
        self.site.probing(now);
        Some(probe)
    }

    /// Nothing is due: only whether the site is there can be asked.
    fn probe_without_room(&mut self, now: Instant) {
        match self.site.trouble() {
            // Over, as far as anybody knows.
            Some(Trouble::Blocked(_) | Trouble::Missing(_)) => self.works(now),
            Some(Trouble::Unauthorized) | None => {}
            Some(
                Trouble::Maintenance
                | Trouble::Redirected(_)
                | Trouble::Unreachable(_)
                | Trouble::Failing(_),
            ) => {
                self.site.probing(now);
                self.probe_site();
            }
        }
    }

    fn probe_site(&mut self) {
        if !std::mem::replace(&mut self.is_probing, true) {
            let client = Arc::clone(&self.ctx.client);
            let now = Instant::now();
            self.steps.push(Box::pin(async move { Step::Probed(client.check().await, now) }));
        }
    }

    /// Takes over what another leader has recorded and did not announce.
    fn take_over(&mut self) {
        if !self.has_taken_over {
            let database = Arc::clone(&self.ctx.database);
            self.steps.push(Box::pin(async move {
                let begun_at = Instant::now();
                Step::TakenOver(database.recorded_talk_timers(MAX_RECORDED).await, begun_at)
            }));
        }
    }

    /// Checks the lock and looks at the table, unless the last ones still do so.
    fn tick(&mut self) {
        if let Some(mut lock) = self.lock.take() {
            self.steps.push(Box::pin(async move {
                let checked = lock.check().await;
                Step::Checked(lock, checked)
            }));
        }
        if !std::mem::replace(&mut self.is_looking, true) {
            let rooms = Arc::clone(&self.ctx.rooms);
            let limit = MAX_ROOMS + self.queue.refused();
            let groups = self.ctx.client.has_secret();
            self.steps.push(Box::pin(async move {
                let begun_at = Instant::now();
                let looking = async {
                    let clock = DatabaseClock::new(rooms.now().await?);
                    let found = rooms.upcoming(groups, limit).await?;
                    let is_complete = found.len() < limit;
                    Ok(Look { begun_at, clock, found, is_complete })
                };
                Step::Looked(looking.await)
            }));
        }
        if self.site.trouble() == Some(&Trouble::Unauthorized)
            && self.ctx.client.secret_version() != self.refused_secret
        {
            self.works(Instant::now());
        }
        self.report.flush(&self.queue);
    }

    fn finish(&mut self, step: Step) -> Result<(), StoreError> {
        match step {
            Step::Checked(_lock, Err(error)) => return Err(error),
            Step::Checked(lock, Ok(())) => {
                (self.lock, self.checked_at) = (Some(lock), Instant::now());
            }
            Step::Looked(look) => {
                self.is_looking = false;
                self.looked(look?);
            }
            Step::Recorded(timers, looked_at, is_recorded) => {
                self.add(&timers, looked_at, is_recorded);
            }
            Step::TakenOver(recorded, begun_at) => {
                if let Ok(timers) = recorded {
                    self.has_taken_over = timers.len() < usize::try_from(MAX_RECORDED).unwrap_or(0);
                    self.add(&timers, begun_at, true);
                }
            }
            Step::Attempted(attempted) => {
                self.attempts -= 1;
                self.retries -= usize::from(attempted.is_retry);
                self.attempted(attempted);
            }
            Step::Probed(answer, begun_at) => {
                self.is_probing = false;
                match answer {
                    Ok(_date) => self.works(begun_at),
                    Err(trouble) => self.stopped(trouble),
                }
            }
        }
        Ok(())
    }

    fn looked(&mut self, Look { begun_at, clock, found, is_complete }: Look) {
        let now = Instant::now();
        if is_complete {
            for timer in self.queue.retain(&found, now) {
                self.announce(timer, None, true);
            }
        }
        let unknown = self.queue.unknown(&found, begun_at);
        if !unknown.is_empty() {
            let database = Arc::clone(&self.ctx.database);
            self.steps.push(Box::pin(async move {
                let recorded = timeout(RECORD_TIMEOUT, database.record_talk_timers(&unknown)).await;
                let is_recorded = matches!(recorded, Ok(Ok(())));
                Step::Recorded(unknown, begun_at, is_recorded)
            }));
        }
        let first = self.queue.oldest().map(|timer| oldest(timer, clock.now()));
        self.ctx.health.set_oldest(Work::Talk, first);
        if self.clock.replace(clock).is_none() {
            tracing::info!(url = self.ctx.client.url(), "opening the rooms of Talk");
            self.probe_site();
        }
        self.take_over();
        if !self.queue.has_failing()
            && let Some(since) = self.site.has_no_failing_room(now)
        {
            self.resume(since);
        }
        self.show_site();
    }

    /// Adds timers to the queue.
    fn add(&mut self, timers: &[TalkTimer], looked_at: Instant, is_recorded: bool) {
        let Some(clock) = &self.clock else { return };
        let timers = self.queue.unknown(timers, looked_at);
        let until = |due_at| clock.until(due_at + AFTER_DUE);
        for timer in self.queue.add(timers, is_recorded, until, Instant::now()) {
            self.announce(timer, None, true);
        }
    }
}
