//! Whether Talk can be asked at present: one answer may stand for all requests.

use std::time::Duration;

use tokio::time::Instant;

use crate::domain::RoomId;
use crate::talk::Trouble;

/// Waits between probes of a Talk that is not there, each twice as long as the one before. The rooms
/// that are due open so soon after its return.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Wait after a refused secret. Ten of them within half an hour lock the address out.
const UNAUTHORIZED_WAIT: Duration = Duration::from_mins(5);

/// Wait while the address is locked out, unless Talk says how long that lasts.
const BLOCKED_WAIT: Duration = Duration::from_mins(1);
const LONGEST_BLOCKED_WAIT: Duration = Duration::from_mins(10);

/// After so many failures in a row, of more than one room, all rooms fail.
const FAILURES: u32 = 4;

/// What may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Permission {
    All,
    /// New rooms, and one of those that failed.
    NewAndProbe,
    /// Only rooms that did not fail before.
    New,
    /// One room.
    Probe,
    Nothing,
}

#[derive(Debug, Default)]
pub(super) struct Site {
    stop: Option<Stop>,
    /// Failures since the last success, and the room of the last one.
    failures: u32,
    last_failed: Option<RoomId>,
    /// When the first of these failures happened.
    failing_since: Option<Instant>,
}

#[derive(Debug)]
struct Stop {
    trouble: Trouble,
    wait: Duration,
    retry_at: Instant,
}

impl Site {
    pub(super) fn permission(&self, now: Instant) -> Permission {
        match &self.stop {
            None => Permission::All,
            Some(stop) => match (&stop.trouble, now >= stop.retry_at) {
                (Trouble::Failing(_), true) => Permission::NewAndProbe,
                (Trouble::Failing(_), false) => Permission::New,
                (_, true) => Permission::Probe,
                (_, false) => Permission::Nothing,
            },
        }
    }

    /// When a probe may be sent, if one has to be.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.stop.as_ref().map(|stop| stop.retry_at)
    }

    /// Counts a probe that is sent now.
    pub(super) fn probing(&mut self, now: Instant) {
        if let Some(stop) = &mut self.stop {
            stop.wait = longer(&stop.trouble, stop.wait);
            stop.retry_at = now + stop.wait;
        }
    }

    pub(super) fn trouble(&self) -> Option<&Trouble> {
        self.stop.as_ref().map(|stop| &stop.trouble)
    }

    /// Records an answer that stands for all requests. Returns whether it is news.
    pub(super) fn refused(&mut self, trouble: Trouble, now: Instant) -> bool {
        match &mut self.stop {
            Some(stop) if is_same(&stop.trouble, &trouble) => {
                stop.trouble = trouble;
                false
            }
            _ => {
                let wait = first(&trouble);
                self.stop = Some(Stop { trouble, wait, retry_at: now + wait });
                true
            }
        }
    }

    /// Records that Talk failed for a room. Returns whether it fails for all of them since now.
    pub(super) fn failed(&mut self, room: RoomId, problem: &str, now: Instant) -> bool {
        let is_another = self.last_failed.is_some_and(|last| last != room);
        self.failures += 1;
        self.last_failed = Some(room);
        self.failing_since.get_or_insert(now);
        let stands_for_all = self.failures >= FAILURES && is_another;
        match &self.stop {
            Some(Stop { trouble: Trouble::Failing(_), .. }) => false,
            None if !stands_for_all => false,
            // Talk answers again, though it fails.
            Some(_other) if !stands_for_all => {
                self.stop = None;
                false
            }
            _ => self.refused(Trouble::Failing(problem.to_owned()), now),
        }
    }

    /// Records that Talk works. Returns since when it did not, if that is news.
    pub(super) fn works(&mut self) -> Option<Instant> {
        let since = self.failing_since.take();
        (self.failures, self.last_failed) = (0, None);
        self.stop.take().map(|stop| since.unwrap_or(stop.retry_at))
    }
}

fn is_same(one: &Trouble, other: &Trouble) -> bool {
    std::mem::discriminant(one) == std::mem::discriminant(other)
}

fn first(trouble: &Trouble) -> Duration {
    match trouble {
        Trouble::Unauthorized => UNAUTHORIZED_WAIT,
        Trouble::Blocked(wait) => wait.unwrap_or(BLOCKED_WAIT).min(LONGEST_BLOCKED_WAIT),
        Trouble::Maintenance
        | Trouble::Redirected(_)
        | Trouble::Unreachable(_)
        | Trouble::Failing(_) => FIRST_WAIT,
    }
}

fn longer(trouble: &Trouble, wait: Duration) -> Duration {
    match trouble {
        Trouble::Unauthorized | Trouble::Blocked(_) => first(trouble),
        Trouble::Maintenance
        | Trouble::Redirected(_)
        | Trouble::Unreachable(_)
        | Trouble::Failing(_) => (wait * 2).min(LONGEST_WAIT),
    }
}
