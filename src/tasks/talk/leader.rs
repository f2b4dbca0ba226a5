//! The loop of the instance that opens rooms, as long as it holds the lock.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::attempt::{Attempted, RECORD_TIMEOUT, attempt};
use super::queue::Queue;
use super::report::{Report, oldest};
use super::site::{Permission, Site};
use super::{INTERVAL, TalkContext};
use crate::clock::DatabaseClock;
use crate::domain::TalkTimer;
use crate::health::Work;
use crate::store::{Leadership, StoreError};
use crate::talk::Trouble;

/// Rooms that are in the queue at once, apart from those that are refused. When they are open, the
/// next ones follow.
const MAX_ROOMS: usize = 1000;

/// Timers of a leader before this one that are taken over.
const MAX_RECORDED: u32 = 10_000;

/// Talk opens a room whose timer is over, not one whose timer is just due.
pub(super) const AFTER_DUE: Duration = Duration::from_millis(1);

/// Something that has ended.
enum Step {
    Checked(Box<dyn Leadership>, Result<(), StoreError>),
    Looked(Result<Look, StoreError>),
    /// With the timers that lobbyd's own database may have, and whether it has them.
    Recorded(Vec<TalkTimer>, bool),
    /// With whether the room had failed before.
    Attempted(Attempted, bool),
    /// A probe without any room.
    Probed(Result<Option<String>, Trouble>),
}

struct Look {
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
    pub(super) announcements: FuturesUnordered<BoxFuture<'static, ()>>,
    /// Attempts under way, and those among them for rooms that failed before.
    attempts: usize,
    retries: usize,
    is_looking: bool,
    is_probing: bool,
    lock: Option<Box<dyn Leadership>>,
    /// The version of the secret that Talk has refused.
    pub(super) refused_secret: u64,
    pub(super) report: Report,
}

impl Leader {
    pub(super) fn new(ctx: TalkContext, concurrency: NonZeroUsize) -> Self {
        Self {
            ctx,
            concurrency: concurrency.get(),
            clock: None,
            queue: Queue::default(),
            site: Site::default(),
            steps: FuturesUnordered::new(),
            announcements: FuturesUnordered::new(),
            attempts: 0,
            retries: 0,
            is_looking: false,
            is_probing: false,
            lock: None,
            refused_secret: 0,
            report: Report::default(),
        }
    }

    /// Runs until `end`, or until the lock may be lost, which is an error. After `end`, what is under
    /// way is finished.
    pub(super) async fn run(
        mut self,
        lock: Box<dyn Leadership>,
        end: &CancellationToken,
    ) -> Result<(), StoreError> {
        self.lock = Some(lock);
        self.probe_site();
        let mut tick = interval(INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ended = loop {
            let is_stopping = end.is_cancelled();
            if is_stopping && self.attempts == 0 {
                break Ok(());
            }
            if !is_stopping {
                self.begin_attempts();
            }
            let wake_at = self.wake_at();
            tokio::select! {
                biased;
                Some(step) = self.steps.next() => {
                    if let Err(error) = self.finish(step) {
                        break Err(error);
                    }
                }
                Some(()) = self.announcements.next() => self.ctx.relay.wake(),
                _ = tick.tick() => self.tick(),
                () = sleep_until(wake_at), if !is_stopping => {}
                () = end.cancelled(), if !is_stopping => {}
            }
        };
        // Without the lock no request may be sent, and none of those under way is awaited.
        self.steps.clear();
        self.report.flush(&self.queue);
        while self.announcements.next().await.is_some() {
            self.ctx.relay.wake();
        }
        ended
    }

    /// When to look at the queue again, if nothing else happens.
    fn wake_at(&self) -> Instant {
        let now = Instant::now();
        let far = now + INTERVAL;
        let is_free = self.attempts < self.concurrency && self.retries < self.retry_slots();
        let next = match self.site.permission(now) {
            Permission::All | Permission::New | Permission::NewAndProbe if is_free => {
                self.queue.next_at()
            }
            Permission::Nothing => self.site.retry_at(),
            Permission::All | Permission::New | Permission::NewAndProbe | Permission::Probe => None,
        };
        // Rooms that may not be asked for now are ready all the time.
        next.filter(|next| *next > now).map_or(far, |next| next.min(far))
    }

    /// Rooms that failed leave slots to others.
    fn retry_slots(&self) -> usize {
        (self.concurrency / 2).max(1)
    }

    /// Begins the attempts that may be made now.
    fn begin_attempts(&mut self) {
        while self.attempts < self.concurrency {
            let now = Instant::now();
            let may_retry = self.retries < self.retry_slots();
            let begun = match self.site.permission(now) {
                Permission::All => self.queue.begin(now, may_retry),
                Permission::New => self.queue.begin(now, false),
                Permission::NewAndProbe => self.queue.begin(now, false).or_else(|| {
                    self.site.probing(now);
                    self.queue.begin_probe(now).map(|timer| (timer, true))
                }),
                Permission::Probe if self.attempts == 0 && !self.is_probing => {
                    self.site.probing(now);
                    let probe = self.queue.begin_probe(now).map(|timer| (timer, true));
                    if probe.is_none() {
                        self.probe_without_room();
                    }
                    probe
                }
                Permission::Probe | Permission::Nothing => None,
            };
            let Some((timer, is_retry)) = begun else { return };
            self.attempts += 1;
            self.retries += usize::from(is_retry);
            let (rooms, client) = (Arc::clone(&self.ctx.rooms), Arc::clone(&self.ctx.client));
            self.steps.push(Box::pin(async move {
                Step::Attempted(attempt(rooms, client, timer).await, is_retry)
            }));
        }
    }

    /// Nothing is due: only whether the site is there can be asked.
    fn probe_without_room(&mut self) {
        match self.site.trouble() {
            // Over, as far as anybody knows.
            Some(Trouble::Blocked(_)) => self.works(),
            Some(Trouble::Unauthorized) | None => {}
            Some(
                Trouble::Maintenance
                | Trouble::Redirected(_)
                | Trouble::Unreachable(_)
                | Trouble::Failing(_),
            ) => self.probe_site(),
        }
    }

    fn probe_site(&mut self) {
        if !std::mem::replace(&mut self.is_probing, true) {
            let client = Arc::clone(&self.ctx.client);
            self.steps.push(Box::pin(async move { Step::Probed(client.check().await) }));
        }
    }

    /// Takes over what another leader has recorded and did not announce.
    fn take_over(&mut self) {
        let database = Arc::clone(&self.ctx.database);
        self.steps.push(Box::pin(async move {
            let recorded = database.recorded_talk_timers(MAX_RECORDED).await;
            Step::Recorded(recorded.unwrap_or_default(), true)
        }));
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
                let looking = async {
                    let clock = DatabaseClock::new(rooms.now().await?);
                    let found = rooms.upcoming(groups, limit).await?;
                    let is_complete = found.len() < limit;
                    Ok(Look { clock, found, is_complete })
                };
                Step::Looked(looking.await)
            }));
        }
        if self.site.trouble() == Some(&Trouble::Unauthorized)
            && self.ctx.client.secret_version() != self.refused_secret
        {
            self.works();
        }
        self.report.flush(&self.queue);
    }

    fn finish(&mut self, step: Step) -> Result<(), StoreError> {
        match step {
            Step::Checked(_lock, Err(error)) => return Err(error),
            Step::Checked(lock, Ok(())) => self.lock = Some(lock),
            Step::Looked(look) => {
                self.is_looking = false;
                self.looked(look?);
            }
            Step::Recorded(timers, is_recorded) => self.add(&timers, is_recorded),
            Step::Attempted(attempted, is_retry) => {
                self.attempts -= 1;
                self.retries -= usize::from(is_retry);
                self.attempted(attempted);
            }
            Step::Probed(answer) => {
                self.is_probing = false;
                match answer {
                    Ok(_date) => self.works(),
                    Err(trouble) => self.stopped(trouble),
                }
            }
        }
        Ok(())
    }

    fn looked(&mut self, Look { clock, found, is_complete }: Look) {
        let now = Instant::now();
        if is_complete {
            for timer in self.queue.retain(&found, now) {
                self.announce(timer, None, true);
            }
        }
        let unknown = self.queue.unknown(&found);
        if !unknown.is_empty() {
            let database = Arc::clone(&self.ctx.database);
            self.steps.push(Box::pin(async move {
                let recorded = timeout(RECORD_TIMEOUT, database.record_talk_timers(&unknown)).await;
                let is_recorded = matches!(recorded, Ok(Ok(())));
                Step::Recorded(unknown, is_recorded)
            }));
        }
        let first = self.queue.oldest().map(|timer| oldest(timer, clock.now()));
        self.ctx.health.set_oldest(Work::Talk, first);
        if self.clock.replace(clock).is_none() {
            self.take_over();
        }
        self.show_site();
    }

    /// Adds timers to the queue.
    fn add(&mut self, timers: &[TalkTimer], is_recorded: bool) {
        let Some(clock) = &self.clock else { return };
        let timers = self.queue.unknown(timers);
        let until = |due_at| clock.until(due_at + AFTER_DUE);
        self.queue.add(timers, is_recorded, until, Instant::now());
    }
}
