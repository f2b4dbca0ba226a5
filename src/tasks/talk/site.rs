//! Whether Talk can be asked at present: one answer may stand for all requests.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::RoomId;
use crate::nextcloud::Trouble;

/// Waits between probes of a Talk that is not there, each twice as long as the one before. The rooms
/// that are due open so soon after its return.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Wait after a refused secret, and after rooms that Talk does not show. Ten of these within half an
/// hour lock the address out.
const REFUSED_WAIT: Duration = Duration::from_mins(5);

/// Wait while the address is locked out, unless Talk says how long that lasts.
const BLOCKED_WAIT: Duration = Duration::from_mins(1);

/// After so many failures in a row, of more than one room, all rooms fail.
const FAILURES: usize = 4;

/// After so many rooms in a row that Talk does not show, it shows none.
const HIDDEN: usize = 3;

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
    /// Failures in a row, with their rooms, and when the first of them happened.
    failures: usize,
    failed: HashSet<RoomId>,
    /// Rooms in a row that Talk does not show.
    hidden: HashSet<RoomId>,
    since: Option<Instant>,
}

#[derive(Debug)]
struct Stop {
    trouble: Trouble,
    /// The last answer that says so.
    answered_at: Instant,
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
        let wait = first(&trouble);
        self.since.get_or_insert(now);
        match &mut self.stop {
            Some(stop) if is_same(&stop.trouble, &trouble) => {
                stop.answered_at = now;
                if wait > FIRST_WAIT {
                    stop.retry_at = stop.retry_at.max(now + wait);
                }
                stop.trouble = trouble;
                false
            }
            _ => {
                self.stop = Some(Stop { trouble, answered_at: now, wait, retry_at: now + wait });
                true
            }
        }
    }

    /// Records that Talk failed for a room, after a request that was begun then. Returns whether it
    /// fails for all of them since now.
    pub(super) fn failed(
        &mut self,
        room: RoomId,
        problem: &str,
        begun_at: Instant,
        now: Instant,
    ) -> bool {
        if self.is_before_stop(begun_at) {
            return false;
        }
        self.failures += 1;
        self.failed.insert(room);
        self.since.get_or_insert(now);
        let stands_for_all = self.failures >= FAILURES && self.failed.len() > 1;
        match &self.stop {
            Some(Stop { trouble: Trouble::Failing(_), .. }) => false,
            _ if stands_for_all => self.refused(Trouble::Failing(problem.to_owned()), now),
            // Talk answers again, though it fails.
            _ => {
                self.stop = None;
                false
            }
        }
    }

    /// Records that Talk does not show a room. Returns whether it shows none since now.
    pub(super) fn hid(&mut self, room: RoomId, status: u16, now: Instant) -> bool {
        self.hidden.insert(room);
        self.since.get_or_insert(now);
        self.hidden.len() >= HIDDEN && self.refused(Trouble::Missing(status), now)
    }

    /// Records that Talk has answered a request that was begun then. Returns since when it did not, if
    /// that is news. An answer to a request from before a stop does not end it.
    pub(super) fn works(&mut self, begun_at: Instant) -> Option<Instant> {
        if self.is_before_stop(begun_at) {
            return None;
        }
        let since = self.since.take();
        self.failures = 0;
        self.failed.clear();
        self.hidden.clear();
        self.stop.take().and(since)
    }

    /// Whether the answer to a request that was begun then says nothing about the present stop.
    fn is_before_stop(&self, begun_at: Instant) -> bool {
        self.stop.as_ref().is_some_and(|stop| begun_at < stop.answered_at)
    }

    /// Ends the stop by failing rooms, when none of them is left.
    pub(super) fn has_no_failing_room(&mut self, now: Instant) -> Option<Instant> {
        let is_failing = matches!(self.trouble(), Some(Trouble::Failing(_)));
        if is_failing { self.works(now) } else { None }
    }
}

fn is_same(one: &Trouble, other: &Trouble) -> bool {
    std::mem::discriminant(one) == std::mem::discriminant(other)
}

fn first(trouble: &Trouble) -> Duration {
    match trouble {
        Trouble::Unauthorized | Trouble::Missing(_) => REFUSED_WAIT,
        Trouble::Blocked(wait) => wait.unwrap_or(BLOCKED_WAIT),
        Trouble::Maintenance
        | Trouble::Redirected(_)
        | Trouble::Unreachable(_)
        | Trouble::Failing(_) => FIRST_WAIT,
    }
}

fn longer(trouble: &Trouble, wait: Duration) -> Duration {
    match trouble {
        Trouble::Unauthorized | Trouble::Missing(_) | Trouble::Blocked(_) => first(trouble),
        Trouble::Maintenance
        | Trouble::Redirected(_)
        | Trouble::Unreachable(_)
        | Trouble::Failing(_) => (wait * 2).min(LONGEST_WAIT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn several_rooms_that_fail_in_a_row_stand_for_all() {
        let (mut site, now) = (Site::default(), Instant::now());
        for _ in 0..10 {
            assert!(!site.failed(RoomId(1), "status 500", now, now));
        }
        assert_eq!(site.permission(now), Permission::All);
        assert!(site.failed(RoomId(2), "status 500", now, now + SECOND));
        assert_eq!(site.permission(now + SECOND), Permission::New);
        assert_eq!(site.permission(now + SECOND * 2), Permission::NewAndProbe);
        assert_eq!(site.works(now + SECOND * 2), Some(now));
        assert_eq!(site.permission(now), Permission::All);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_from_before_a_stop_does_not_end_it() {
        let (mut site, now) = (Site::default(), Instant::now());
        assert!(site.refused(Trouble::Unauthorized, now + SECOND));
        assert!(!site.refused(Trouble::Unauthorized, now + SECOND));
        assert_eq!(site.works(now), None);
        assert!(!site.failed(RoomId(1), "status 500", now, now + SECOND));
        assert_eq!(site.permission(now + SECOND * 200), Permission::Nothing);
        assert_eq!(site.permission(now + SECOND * 302), Permission::Probe);
        assert_eq!(site.works(now + SECOND * 302), Some(now + SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_that_talk_asks_for_is_kept() {
        let (mut site, now) = (Site::default(), Instant::now());
        site.refused(Trouble::Blocked(Some(SECOND * 10)), now);
        site.refused(Trouble::Blocked(Some(SECOND * 3600)), now);
        assert_eq!(site.retry_at(), Some(now + SECOND * 3600));
    }

    #[tokio::test(start_paused = true)]
    async fn three_rooms_that_are_not_shown_stand_for_all() {
        let (mut site, now) = (Site::default(), Instant::now());
        assert!(!site.hid(RoomId(1), 404, now));
        assert!(!site.hid(RoomId(2), 404, now));
        assert!(site.hid(RoomId(3), 404, now));
        assert_eq!(site.permission(now + SECOND), Permission::Nothing);
    }
}
