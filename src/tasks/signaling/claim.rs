//! What becomes of a room that is claimed for a server.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::{Instant, timeout_at};

use crate::clock::DatabaseClock;
use crate::domain::SignalingUpdate;
use crate::failpoints::{self, Point};
use crate::logging;
use crate::nextcloud::{SignalingClient, SignalingFault};
use crate::store;
use crate::store::{Database, StoreError};

/// How long a claim holds: one request, and some time to read the room. What a crashed process has
/// claimed waits for as long.
const CLAIM: Duration = Duration::from_secs(13);

/// Time of a claim that is left for its end.
const CLAIM_END: Duration = Duration::from_secs(1);

/// The number of failures of a room that the server refuses. One that it failed to take has one.
pub(super) const REFUSED: u32 = 2;

/// Longest time until a refused room is tried again.
const LONGEST_DELAY: TimeDelta = TimeDelta::minutes(1);

#[derive(Debug, Clone, Copy)]
pub(super) struct Claim {
    pub(super) limit: usize,
    pub(super) until: DateTime<Utc>,
    expires_at: Instant,
    /// The secret that requests are signed with, by how often it had been replaced.
    pub(super) secret_version: u64,
}

impl Claim {
    pub(super) fn new(now: DateTime<Utc>, limit: usize, secret_version: u64) -> Self {
        let (until, expires_at) = (now + CLAIM, Instant::now() + CLAIM);
        Self { limit, until, expires_at, secret_version }
    }
}

/// A claimed room.
pub(super) struct Claimed {
    pub(super) update: SignalingUpdate,
    pub(super) claim: Claim,
}

/// What became of a claimed room.
pub(super) enum Told {
    Answered(Result<(), SignalingFault>),
    /// There is no such room now.
    NoRoom,
    /// The database refuses to read it.
    Unreadable,
    /// Not, or not to all users: the claim was over, the secret is refused, or the process stops.
    NotSent,
    /// The database did not answer: the claim ends by itself.
    NotRead,
}

impl Claimed {
    pub(super) fn is_retry(&self) -> bool {
        self.update.failures > 0
    }

    /// Tells the room as it is now, unless the claim is nearly over.
    pub(super) async fn tell(
        &mut self,
        database: &dyn Database,
        clock: &DatabaseClock,
        server: &SignalingClient,
    ) -> store::Result<Told> {
        let Some((room, users)) = database.room_with_users(&self.update.token).await? else {
            return Ok(Told::NoRoom);
        };
        let mut outcome = Ok(());
        for (number, message) in SignalingClient::messages(&room, &users).into_iter().enumerate() {
            // A slow server has as much time for each request.
            if number > 0 && !self.extend(database, clock.now(), server).await {
                return Ok(Told::NotSent);
            }
            let latest = self.claim.expires_at - CLAIM_END;
            if Instant::now() >= latest {
                return Ok(Told::NotSent);
            }
            outcome = timeout_at(latest, server.tell(&room.token, message))
                .await
                .unwrap_or(Err(SignalingFault::Unanswered));
            if outcome.is_err() {
                break;
            }
        }
        failpoints::reach(Point::AfterTellBeforeMark);
        Ok(Told::Answered(outcome))
    }

    /// Extends the claim by its whole length. Returns whether it holds.
    async fn extend(
        &mut self,
        database: &dyn Database,
        now: DateTime<Utc>,
        server: &SignalingClient,
    ) -> bool {
        let Self { update, claim } = self;
        let next = Claim::new(now, claim.limit, server.secret_version());
        let (token, url) = (&update.token, server.url());
        match database.extend_signaling(url, token, claim.until, next.until).await {
            Ok(true) => {
                *claim = next;
                true
            }
            Ok(false) => false,
            Err(error) => {
                let error = logging::causes(&error);
                tracing::debug!(room.token = %token, error, "claim of a room not extended");
                false
            }
        }
    }

    /// What an error says about a room that could not be read.
    pub(super) fn not_read(&self, error: &StoreError) -> Told {
        let Self { update, .. } = self;
        let (token, problem) = (&update.token, logging::causes(error));
        if !error.is_refusal() {
            tracing::debug!(room.token = %token, error = problem, "room for a signaling server not read");
            return Told::NotRead;
        }
        if update.failures < REFUSED {
            tracing::warn!(
                room.token = %token,
                error = problem,
                "the database refuses to read a room for a signaling server"
            );
        }
        Told::Unreadable
    }

    pub(super) async fn end(
        &self,
        database: &dyn Database,
        now: DateTime<Utc>,
        server: &SignalingClient,
        told: &Told,
    ) -> store::Result<()> {
        let Self { update, claim } = self;
        let (failures, available_at) = match told {
            Told::NoRoom | Told::Answered(Ok(())) => {
                return database.signaling_told(server.url(), update, claim.until, now).await;
            }
            Told::NotRead => return Ok(()),
            Told::NotSent | Told::Answered(Err(SignalingFault::Stop(_))) => (update.failures, now),
            Told::Answered(Err(SignalingFault::Failing(_) | SignalingFault::Unanswered)) => {
                (update.failures.max(1), now)
            }
            Told::Unreadable | Told::Answered(Err(SignalingFault::Refused(_))) => {
                let failures = update.failures.saturating_add(1).max(REFUSED);
                (failures, now + delay(failures))
            }
        };
        let update = SignalingUpdate { failures, ..update.clone() };
        database.release_signaling(server.url(), &update, claim.until, available_at).await
    }
}

/// The time until a refused room is tried again: two seconds, doubling.
fn delay(failures: u32) -> TimeDelta {
    let seconds = 2_i64.checked_pow(failures.saturating_sub(1)).unwrap_or(i64::MAX);
    LONGEST_DELAY.min(TimeDelta::try_seconds(seconds).unwrap_or(LONGEST_DELAY))
}
