//! Viewers who follow a room: what an event stream shows, one view after another.
//!
//! It waits as a [`long_poll`](super::long_poll) does, but goes on after each change. Changes that
//! come fast are taken together, so that many followers of a busy room cost little.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::limits::{ClientKey, LongPoll};
use super::{Result, RoomError, RoomService};
use crate::cache::{ChangeListener, View};
use crate::domain::{Caller, RoomToken, Version};
use crate::logging;

/// Shortest time between two looks of a follower at the room.
const PAUSE: Duration = Duration::from_millis(200);

/// How long a follower waits for a version that another process has shown it. Then the database is asked,
/// so this also bounds how often a client with an invented version can cause that.
const CATCH_UP: Duration = Duration::from_secs(2);

/// Longest time between two looks.
const LOOK_INTERVAL: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(15)];

/// After this time a stream ends, so that its client logs in again. Random, as all times here at which
/// many followers would do something at the same moment.
const LIFETIME: [Duration; 2] = [Duration::from_mins(50), Duration::from_hours(1)];

/// Delay after the database did not answer.
const RETRY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];

/// A viewer who follows a room. Counts as a request that waits until it is dropped.
pub struct Follower {
    service: Arc<RoomService>,
    token: RoomToken,
    caller: Option<Caller>,
    is_member: bool,
    /// The changes after the last look; `None` before the first one.
    change: Option<ChangeListener>,
    /// When it may look again.
    look_at: Instant,
    ends_at: Instant,
    _place: LongPoll,
}

/// What has become of the room.
pub enum Followed {
    /// It may have changed.
    View(View),
    /// It was deleted, or the viewer was removed from it.
    Gone,
}

impl RoomService {
    /// Follows a room that the caller can see. If they have seen the version `known` of it, waits a
    /// moment until this process has it as well, and reads the room again if it does not learn of it.
    pub async fn follow(
        self: &Arc<Self>,
        token: RoomToken,
        caller: Option<Caller>,
        from: IpAddr,
        known: Option<Version>,
    ) -> Result<Follower> {
        let deadline = known.map(|_version| Instant::now() + CATCH_UP);
        // The time must not tell a non-member which versions there are.
        let is_known =
            |view: &View| view.attendee().is_none() || Some(view.overview().room.version) >= known;
        let found = self.view_when(&token, caller.as_ref(), from, deadline, is_known, |it| *it);
        let (mut view, is_known) = found.await?;
        if !is_known {
            // The broker may not take the update now.
            self.cache.catch_up(&token).await?;
            view = self.view(&token, caller.as_ref()).await?;
        }
        let place = self.long_polls.begin_stream(ClientKey::of(caller.as_ref(), from))?;
        let now = Instant::now();
        Ok(Follower {
            service: Arc::clone(self),
            token,
            is_member: view.attendee().is_some(),
            caller,
            change: None,
            look_at: now,
            ends_at: now + random(LIFETIME),
            _place: place,
        })
    }
}

impl Follower {
    pub fn caller(&self) -> Option<&Caller> {
        self.caller.as_ref()
    }

    /// The room as it is, then the room after each change. `None` when the client should connect
    /// again: after an hour, or because the process stops.
    pub async fn next(&mut self) -> Option<Followed> {
        let (service, ends_at) = (Arc::clone(&self.service), self.ends_at);
        tokio::select! {
            biased;
            () = service.stop.cancelled() => None,
            () = sleep_until(ends_at) => None,
            followed = self.look_after_change() => Some(followed),
        }
    }

    async fn look_after_change(&mut self) -> Followed {
        if let Some(change) = &self.change {
            // Not listening yet: each change would wake it.
            sleep_until(self.look_at).await;
            // A look also records the viewer as active, and keeps the room cached.
            timeout(random(LOOK_INTERVAL), change.changed()).await.ok();
        }
        loop {
            // Boxed, because the stream would otherwise keep the space of a look while it waits.
            match Box::pin(self.service.look_up(&self.token, self.caller.as_ref())).await {
                Ok((view, _change)) if self.is_member && view.attendee().is_none() => {
                    return Followed::Gone;
                }
                Ok((view, change)) => {
                    self.saw(&view, change);
                    return Followed::View(view);
                }
                Err(RoomError::Refused(_)) => return Followed::Gone,
                Err(
                    error @ (RoomError::Unavailable(_)
                    | RoomError::Internal(_)
                    | RoomError::Limited { .. }
                    | RoomError::Throttled(_)),
                ) => {
                    let error = logging::causes(&error);
                    tracing::debug!(room.token = %self.token, error, "followed room not read");
                    sleep(random(RETRY)).await;
                }
            }
        }
    }

    fn saw(&mut self, view: &View, change: ChangeListener) {
        self.is_member = view.attendee().is_some();
        self.change = Some(change);
        self.look_at = Instant::now() + PAUSE;
    }
}

fn random([least, most]: [Duration; 2]) -> Duration {
    rand::random_range(least..=most)
}
