//! Tells one server of the rooms that have changed.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::gate::{Gate, Kind, News, UnderWay};
use super::report::{Report, count};
use crate::clock::DatabaseClock;
use crate::domain::SignalingUpdate;
use crate::logging;
use crate::nextcloud::{SignalingClient, SignalingFault};
use crate::store;
use crate::store::Database;

/// How often it is looked for what can be tried again, and reported what is left.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long a claim holds: one request, and some time to read the room. What a crashed process has
/// claimed waits for as long.
const CLAIM: Duration = Duration::from_secs(13);

/// Time of a claim that is left for its end.
const CLAIM_END: Duration = Duration::from_secs(1);

/// Time for requests under way when the process stops.
const DRAIN: Duration = Duration::from_secs(1);

/// The number of failures of a room that the server refuses. One that it failed to take has one.
const REFUSED: u32 = 2;

/// Longest time until a refused room is tried again.
const LONGEST_DELAY: TimeDelta = TimeDelta::minutes(1);

pub(super) struct Delivery<'a> {
    database: Arc<dyn Database>,
    clock: Arc<DatabaseClock>,
    server: Arc<SignalingClient>,
    report: &'a Report,
    gate: Gate,
    under_way: UnderWay,
}

/// A claimed room.
struct Claimed {
    update: SignalingUpdate,
    until: DateTime<Utc>,
    expires_at: Instant,
    /// The secret that it is signed with, by how often it had been replaced.
    secret_version: u64,
}

/// What became of a claimed room.
struct Ended {
    claimed: Claimed,
    /// Of the request, if one was sent.
    outcome: Option<Result<(), SignalingFault>>,
}

impl Claimed {
    fn is_retry(&self) -> bool {
        self.update.failures > 0
    }
}

impl<'a> Delivery<'a> {
    pub(super) fn new(
        database: Arc<dyn Database>,
        clock: Arc<DatabaseClock>,
        server: Arc<SignalingClient>,
        report: &'a Report,
    ) -> Self {
        let (gate, under_way) = (Gate::default(), UnderWay::default());
        Self { database, clock, server, report, gate, under_way }
    }

    /// Runs until `stop`. `passed` wakes it when there is something new.
    pub(super) async fn run(mut self, mut passed: watch::Receiver<()>, stop: &CancellationToken) {
        let mut requests = FuturesUnordered::new();
        let mut tick = interval(INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Whether rooms that failed may be due.
        let mut failed = true;
        loop {
            self.begin(Kind::New, &mut requests).await;
            if failed {
                failed = self.begin(Kind::Failed, &mut requests).await;
            }
            tokio::select! {
                () = stop.cancelled() => break,
                Some(ended) = requests.next() => failed |= self.end(ended),
                // The sender lives as long as this.
                _ = passed.changed() => {}
                _ = tick.tick() => {
                    failed = true;
                    self.look().await;
                }
            }
        }
        let drained = async { while requests.next().await.is_some() {} };
        timeout(DRAIN, drained).await.ok();
    }

    /// Begins what may be sent of a kind. Returns whether there may be more.
    async fn begin(
        &mut self,
        kind: Kind,
        requests: &mut FuturesUnordered<BoxFuture<'static, Ended>>,
    ) -> bool {
        let version = self.server.secret_version();
        let limit = self.gate.limit(kind, self.under_way, version, Instant::now());
        if limit == 0 {
            return true;
        }
        let failures = match kind {
            Kind::New => 0..=0,
            Kind::Failed => 1..=u32::MAX,
        };
        let (now, expires_at) = (self.clock.now(), Instant::now() + CLAIM);
        let until = now + CLAIM;
        let claim =
            self.database.claim_signaling(self.server.url(), now, until, failures, limit).await;
        let updates = match claim {
            Ok(updates) => updates,
            Err(error) => {
                let error = logging::causes(&error);
                tracing::debug!(error, "rooms for a signaling server could not be claimed");
                return false;
            }
        };
        let is_full = updates.len() == limit;
        for update in updates {
            let claimed = Claimed { update, until, expires_at, secret_version: version };
            self.under_way.all += 1;
            self.under_way.retries += usize::from(claimed.is_retry());
            let (database, clock) = (Arc::clone(&self.database), Arc::clone(&self.clock));
            let server = Arc::clone(&self.server);
            requests.push(Box::pin(async move {
                let outcome = tell(&*database, &clock, &server, &claimed).await;
                let outcome = outcome.unwrap_or_else(|error| {
                    let error = logging::causes(&error);
                    tracing::debug!(
                        error,
                        "room for a signaling server could not be read or marked"
                    );
                    None
                });
                Ended { claimed, outcome }
            }));
        }
        is_full
    }

    /// Records the end of a request. Returns whether others that failed may be tried.
    fn end(&mut self, Ended { claimed, outcome }: Ended) -> bool {
        let is_retry = claimed.is_retry();
        self.under_way.all -= 1;
        self.under_way.retries -= usize::from(is_retry);
        let Some(outcome) = outcome else { return is_retry };
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
        let (version, now) = (claimed.secret_version, Instant::now());
        let news = self.gate.record(outcome.as_ref().copied(), is_retry, version, now);
        let error = self.gate.problem().unwrap_or_default();
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
        self.report.problem(server, self.gate.problem());
        is_retry
    }

    /// Reports what is left.
    async fn look(&mut self) {
        match self.database.signaling_backlog(self.server.url(), REFUSED).await {
            Ok(backlog) => {
                if backlog.pending == 0 {
                    self.gate.has_nothing_left();
                }
                let now = self.clock.now();
                self.report.backlog(self.server.url(), &backlog, now, self.gate.problem());
            }
            Err(error) => {
                let error = logging::causes(&error);
                tracing::debug!(error, "rooms for a signaling server could not be counted");
            }
        }
    }
}

/// Tells a claimed room as it is now, and ends its claim. Without a request if there is no such room,
/// or if the claim is over.
async fn tell(
    database: &dyn Database,
    clock: &DatabaseClock,
    server: &SignalingClient,
    claimed: &Claimed,
) -> store::Result<Option<Result<(), SignalingFault>>> {
    let Claimed { update, until, expires_at, .. } = claimed;
    let outcome = match database.room_with_users(&update.token).await? {
        Some((room, users)) => {
            let latest = *expires_at - CLAIM_END;
            let told = timeout_at(latest, server.tell(&room, &users)).await;
            let too_late = |_elapsed| Err(SignalingFault::Failing("no answer in time".to_owned()));
            Some(told.unwrap_or_else(too_late))
        }
        None => None,
    };
    let now = clock.now();
    let (failures, available_at) = match &outcome {
        None | Some(Ok(())) => {
            database.signaling_told(server.url(), update, *until, now).await?;
            return Ok(outcome);
        }
        Some(Err(SignalingFault::Stop(_))) => (update.failures, now),
        Some(Err(SignalingFault::Failing(_))) => (update.failures.max(1), now),
        Some(Err(SignalingFault::Refused(_))) => {
            let failures = update.failures.saturating_add(1).max(REFUSED);
            (failures, now + delay(failures))
        }
    };
    let update = SignalingUpdate { failures, ..update.clone() };
    database.release_signaling(server.url(), &update, *until, available_at).await?;
    Ok(outcome)
}

/// The time until a refused room is tried again: two seconds, doubling.
fn delay(failures: u32) -> TimeDelta {
    let seconds = 2_i64.checked_pow(failures.saturating_sub(1)).unwrap_or(i64::MAX);
    LONGEST_DELAY.min(TimeDelta::try_seconds(seconds).unwrap_or(LONGEST_DELAY))
}
