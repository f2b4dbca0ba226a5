//! Tells one server of the rooms that have changed.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::claim::{Claim, Claimed, REFUSED, Told};
use super::gate::{Gate, Kind, News, UnderWay};
use super::report::{Report, count};
use crate::clock::DatabaseClock;
use crate::domain::{SignalingBacklog, SignalingUpdate};
use crate::logging;
use crate::nextcloud::{SignalingClient, SignalingFault};
use crate::store;
use crate::store::Database;

/// Time between two looks at what can be tried again and at what is left.
const INTERVAL: Duration = Duration::from_secs(1);

/// Time for requests under way when the process stops.
const DRAIN: Duration = Duration::from_secs(1);

pub(super) struct Delivery<'a> {
    database: Arc<dyn Database>,
    clock: Arc<DatabaseClock>,
    server: Arc<SignalingClient>,
    report: &'a Report,
    gate: Gate,
    under_way: UnderWay,
    /// Whether there may be rooms of a kind that can be claimed.
    wanted: [bool; 2],
    /// The kind that is claimed first, in turn.
    first: Kind,
    /// The steps in progress besides the requests.
    claiming: bool,
    look: Look,
    /// Whether nothing is sent any longer.
    is_ending: bool,
}

/// The loop waits for all steps at once: a claim may need the connection of a request, which would
/// otherwise stand still meanwhile.
type Steps = FuturesUnordered<BoxFuture<'static, Step>>;

enum Step {
    Claimed(Kind, Claim, store::Result<Vec<SignalingUpdate>>),
    Ended(Claimed, Told),
    Looked(store::Result<SignalingBacklog>),
}

/// A look at what is left.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    None,
    UnderWay,
    /// A request has ended meanwhile.
    Outdated,
}

impl<'a> Delivery<'a> {
    pub(super) fn new(
        database: Arc<dyn Database>,
        clock: Arc<DatabaseClock>,
        server: Arc<SignalingClient>,
        report: &'a Report,
    ) -> Self {
        Self {
            database,
            clock,
            server,
            report,
            gate: Gate::default(),
            under_way: UnderWay::default(),
            wanted: [true; 2],
            first: Kind::New,
            claiming: false,
            look: Look::None,
            is_ending: false,
        }
    }

    /// Runs until `stop`. `passed` wakes it when there is something new.
    pub(super) async fn run(mut self, mut passed: watch::Receiver<()>, stop: &CancellationToken) {
        let mut steps = Steps::new();
        let mut tick = interval(INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.begin_claim(&steps);
            tokio::select! {
                () = stop.cancelled() => break,
                Some(done) = steps.next() => self.finish(done, &steps),
                // The sender lives as long as this.
                _ = passed.changed() => *self.wants(Kind::New) = true,
                _ = tick.tick() => {
                    self.wanted = [true; 2];
                    self.begin_look(&steps);
                }
            }
        }
        self.is_ending = true;
        let drained = async {
            while (self.claiming || self.under_way.all > 0)
                && let Some(done) = steps.next().await
            {
                self.finish(done, &steps);
            }
        };
        timeout(DRAIN, drained).await.ok();
    }

    fn wants(&mut self, kind: Kind) -> &mut bool {
        let [new, failed] = &mut self.wanted;
        match kind {
            Kind::New => new,
            Kind::Failed => failed,
        }
    }

    /// Begins to claim what may be sent, unless the last claim is still in progress.
    fn begin_claim(&mut self, steps: &Steps) {
        if self.claiming {
            return;
        }
        let secret_version = self.server.secret_version();
        for kind in [self.first, self.first.other()] {
            if !*self.wants(kind) {
                continue;
            }
            let limit = self.gate.limit(kind, self.under_way, secret_version, Instant::now());
            if limit == 0 {
                continue;
            }
            let now = self.clock.now();
            let claim = Claim::new(now, limit, secret_version);
            let (database, server) = (Arc::clone(&self.database), Arc::clone(&self.server));
            steps.push(Box::pin(async move {
                let failed = kind == Kind::Failed;
                let claimed =
                    database.claim_signaling(server.url(), failed, now, claim.until, limit).await;
                Step::Claimed(kind, claim, claimed)
            }));
            self.first = kind.other();
            self.claiming = true;
            return;
        }
    }

    fn begin_look(&mut self, steps: &Steps) {
        if self.look == Look::None {
            self.look = Look::UnderWay;
            let (database, server) = (Arc::clone(&self.database), Arc::clone(&self.server));
            steps.push(Box::pin(async move {
                Step::Looked(database.signaling_backlog(server.url(), REFUSED).await)
            }));
        }
    }

    fn finish(&mut self, step: Step, steps: &Steps) {
        match step {
            Step::Claimed(kind, claim, Ok(updates)) => {
                self.claiming = false;
                *self.wants(kind) = updates.len() == claim.limit;
                if kind == Kind::Failed && updates.is_empty() {
                    self.gate.found_no_failed_room();
                }
                for update in updates {
                    self.begin(Claimed { update, claim }, steps);
                }
            }
            Step::Claimed(kind, _claim, Err(error)) => {
                self.claiming = false;
                *self.wants(kind) = false;
                if kind == Kind::Failed {
                    self.gate.found_no_failed_room();
                }
                let error = logging::causes(&error);
                tracing::debug!(error, "rooms for a signaling server could not be claimed");
            }
            Step::Ended(claimed, told) => self.end(&claimed, told),
            Step::Looked(backlog) => {
                let look = std::mem::replace(&mut self.look, Look::None);
                self.report_backlog(look, backlog);
            }
        }
    }

    /// Begins to tell a claimed room.
    fn begin(&mut self, mut claimed: Claimed, steps: &Steps) {
        self.under_way.all += 1;
        self.under_way.retries += usize::from(claimed.is_retry());
        let (database, clock) = (Arc::clone(&self.database), Arc::clone(&self.clock));
        let server = Arc::clone(&self.server);
        // The server may have refused the secret since the claim began.
        let is_stopped =
            self.is_ending || self.gate.is_stopped(claimed.claim.secret_version, Instant::now());
        steps.push(Box::pin(async move {
            let told = if is_stopped {
                Ok(Told::NotSent)
            } else {
                claimed.tell(&*database, &clock, &server).await
            };
            let told = told.unwrap_or_else(|error| claimed.not_read(&error));
            // Otherwise the claim ends by itself.
            if let Err(error) = claimed.end(&*database, clock.now(), &server, &told).await {
                let error = logging::causes(&error);
                tracing::debug!(error, "room for a signaling server could not be marked");
            }
            Step::Ended(claimed, told)
        }));
    }

    fn end(&mut self, claimed: &Claimed, told: Told) {
        let is_retry = claimed.is_retry();
        if self.look == Look::UnderWay {
            self.look = Look::Outdated;
        }
        self.under_way.all -= 1;
        self.under_way.retries -= usize::from(is_retry);
        *self.wants(Kind::Failed) |= is_retry;
        let Told::Answered(outcome) = told else { return };
        let SignalingUpdate { token, since, failures, .. } = &claimed.update;
        let server = self.server.url();
        let lag = (self.clock.now() - since).as_seconds_f64();
        count(server, outcome.as_ref().map(|()| lag));
        match &outcome {
            Ok(()) => tracing::debug!(
                room.token = %token, server, lag_seconds = lag, "room told to signaling server"
            ),
            Err(SignalingFault::Refused(status)) if *failures < REFUSED => tracing::warn!(
                room.token = %token, server, status, "signaling server refuses a room"
            ),
            Err(_reported_once_for_all) => {}
        }
        let (version, now) = (claimed.claim.secret_version, Instant::now());
        let news = self.gate.record(outcome.as_ref().copied(), is_retry, version, now);
        let error = self.problem();
        match news {
            Some(News::Stopped) => {
                tracing::error!(server, error, "signaling server is told of no room");
            }
            Some(News::Failing) => {
                tracing::warn!(server, error, "signaling server does not take rooms, they wait");
            }
            Some(News::Works) => tracing::info!(server, "signaling server takes rooms"),
            None => {}
        }
        self.report.problem(server, error);
    }

    fn problem(&self) -> Option<String> {
        self.gate.problem(self.server.secret_version())
    }

    fn report_backlog(&mut self, look: Look, backlog: store::Result<SignalingBacklog>) {
        match backlog {
            Ok(backlog) => {
                let is_current = look == Look::UnderWay;
                if is_current && !backlog.has_failed && self.under_way.retries == 0 {
                    self.gate.has_no_failed_room();
                }
                if is_current && backlog.pending == 0 {
                    self.gate.has_nothing_left(self.server.secret_version(), Instant::now());
                }
                let server = self.server.url();
                self.report.problem(server, self.problem());
                self.report.backlog(server, backlog, self.clock.now());
            }
            Err(error) => {
                let error = logging::causes(&error);
                tracing::debug!(error, "rooms for a signaling server could not be counted");
            }
        }
    }
}
