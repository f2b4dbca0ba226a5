//! The rooms whose timers are about to be due, or are due and not open yet.
//!
//! They are read from Talk's table every second, so that nothing is lost with this queue. It adds
//! what the table does not know: when a room is asked for next, and how often that failed.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::attempt::Means;
use crate::domain::{RoomId, RoomType, TalkTimer};

/// Waits after attempts that failed, each twice as long as the one before.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// Longest wait for a room that Talk shows and does not open: its clock may be behind.
const LONGEST_WAIT_FOR_CLOCK: Duration = Duration::from_secs(5);

/// For how long after its instant a room may wait for Talk's clock.
const PATIENCE_WITH_CLOCK: Duration = Duration::from_mins(10);

/// After so many failed attempts, within a minute, a room counts as refused.
const MAX_FAILURES: u32 = 11;

/// Wait between the attempts for a refused room.
const REFUSED_WAIT: Duration = Duration::from_mins(5);

/// Why a room did not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// Talk failed, or nobody knows.
    Failed,
    /// Talk shows the room as closed.
    StillClosed,
    /// Asking again would do harm.
    Final,
}

/// For how long timers that have ended are remembered: a look at the table that began before is over by
/// then.
const LOOK: Duration = Duration::from_secs(12);

#[derive(Debug, Default)]
pub(super) struct Queue {
    entries: HashMap<RoomId, Entry>,
    /// Timers that have ended, and when.
    settled: HashMap<(RoomId, DateTime<Utc>), Instant>,
}

#[derive(Debug)]
struct Entry {
    timer: TalkTimer,
    /// When the timer is due, by the clock of this machine.
    due_at: Instant,
    state: State,
    failures: u32,
    /// How often it was a probe.
    probes: u32,
    /// Whether it is no longer among the rooms that may be asked for.
    is_unlisted: bool,
    /// When the first failure happened.
    failed_at: Option<Instant>,
    is_refused: bool,
    /// Whether lobbyd's own database has the timer.
    is_recorded: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waits(Instant),
    Running,
    /// It is not asked for any more.
    GivenUp,
}

impl Queue {
    /// The timers that are not known yet, of those that a look found that began at `looked_at`. It may
    /// have found some that have ended since.
    pub(super) fn unknown(&mut self, found: &[TalkTimer], looked_at: Instant) -> Vec<TalkTimer> {
        self.settled.retain(|_timer, settled_at| settled_at.elapsed() < LOOK);
        let is_known = |timer: &&TalkTimer| {
            let settled_at = self.settled.get(&(timer.room, timer.due_at));
            settled_at.is_some_and(|settled_at| *settled_at >= looked_at)
                || self
                    .entries
                    .get(&timer.room)
                    .is_some_and(|entry| entry.timer.due_at == timer.due_at)
        };
        found.iter().filter(|timer| !is_known(timer)).cloned().collect()
    }

    /// Adds timers, which are due when `until` says. `is_recorded` says whether lobbyd's own database
    /// has them. Returns the timers whose place they take, or that are older than the present ones.
    pub(super) fn add(
        &mut self,
        timers: Vec<TalkTimer>,
        is_recorded: bool,
        until: impl Fn(DateTime<Utc>) -> Duration,
        now: Instant,
    ) -> Vec<TalkTimer> {
        let mut superseded = Vec::new();
        for timer in timers {
            let due_at = now + until(timer.due_at);
            match self.entries.get(&timer.room) {
                // The attempt for its other timer ends first.
                Some(entry) if entry.state == State::Running => continue,
                Some(entry) if entry.timer.due_at > timer.due_at => {
                    superseded.push(timer);
                    continue;
                }
                Some(entry) => superseded.push(entry.timer.clone()),
                None => {}
            }
            let entry = Entry {
                timer,
                due_at,
                state: State::Waits(due_at),
                failures: 0,
                probes: 0,
                is_unlisted: false,
                failed_at: None,
                is_refused: false,
                is_recorded,
            };
            self.entries.insert(entry.timer.room, entry);
        }
        superseded
    }

    /// Takes out the timers that are no longer in the table before they were due. Those that are due
    /// were perhaps opened by another reader, and are judged by their rows at once.
    pub(super) fn retain(&mut self, found: &[TalkTimer], now: Instant) -> Vec<TalkTimer> {
        let found: HashMap<RoomId, DateTime<Utc>> =
            found.iter().map(|timer| (timer.room, timer.due_at)).collect();
        let mut removed = Vec::new();
        self.entries.retain(|room, entry| {
            let is_found = found.get(room) == Some(&entry.timer.due_at);
            if entry.state == State::Running {
                return true;
            }
            entry.is_unlisted = !is_found && entry.due_at <= now;
            if entry.is_unlisted {
                entry.state = State::Waits(now);
            }
            if is_found || entry.is_unlisted {
                return true;
            }
            removed.push(entry.timer.clone());
            false
        });
        removed
    }

    /// Begins an attempt for the room that has been due for longest, public ones first. Among those
    /// that failed before, only if `retries` says so. Returns whether it had failed.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        retries: bool,
    ) -> Option<(TalkTimer, Means, bool)> {
        let is_ready = |entry: &&mut Entry| {
            matches!(entry.state, State::Waits(until) if until <= now) && entry.is_eligible(retries)
        };
        let order = |entry: &&mut Entry| {
            let is_public = entry.timer.room_type == RoomType::Public;
            (entry.failures > 0, entry.timer.due_at, !is_public, entry.timer.room)
        };
        self.entries.values_mut().filter(is_ready).min_by_key(order).map(Entry::begin)
    }

    /// Begins an attempt for the room that was a probe least often, among those that are due. One that
    /// is refused waits for its time.
    pub(super) fn begin_probe(&mut self, now: Instant) -> Option<(TalkTimer, Means, bool)> {
        let is_due = |entry: &&mut Entry| match entry.state {
            State::Waits(until) => entry.due_at <= now && (!entry.is_refused || until <= now),
            State::Running | State::GivenUp => false,
        };
        let order = |entry: &&mut Entry| (entry.probes, entry.timer.due_at, entry.timer.room);
        let entry = self.entries.values_mut().filter(is_due).min_by_key(order)?;
        entry.probes += 1;
        Some(entry.begin())
    }

    /// Ends all attempts, whose outcomes are not known.
    pub(super) fn put_all_back(&mut self, now: Instant) {
        for entry in self.entries.values_mut().filter(|entry| entry.state == State::Running) {
            entry.state = State::Waits(now);
        }
    }

    /// Ends an attempt whose timer does not stand any more. Returns whether the timer is recorded.
    pub(super) fn settled(&mut self, timer: &TalkTimer, now: Instant) -> bool {
        self.settled.insert((timer.room, timer.due_at), now);
        self.entries.remove(&timer.room).is_some_and(|entry| entry.is_recorded)
    }

    /// Ends an attempt that says nothing about the room, which is tried again at this time.
    pub(super) fn put_back(&mut self, room: RoomId, at: Instant) {
        if let Some(entry) = self.entries.get_mut(&room) {
            entry.state = State::Waits(at);
        }
    }

    /// Ends an attempt that failed. Returns whether the room counts as refused since now.
    pub(super) fn failed(&mut self, room: RoomId, failure: Failure, now: Instant) -> bool {
        let Some(entry) = self.entries.get_mut(&room) else { return false };
        entry.failures += 1;
        entry.failed_at.get_or_insert(now);
        let was_refused = entry.is_refused;
        let waits_for_clock =
            failure == Failure::StillClosed && now - entry.due_at < PATIENCE_WITH_CLOCK;
        entry.is_refused |=
            failure == Failure::Final || entry.failures >= MAX_FAILURES && !waits_for_clock;
        let doubled = FIRST_WAIT.saturating_mul(2_u32.saturating_pow(entry.failures - 1));
        let longest = match failure {
            Failure::StillClosed if waits_for_clock => LONGEST_WAIT_FOR_CLOCK,
            _ if entry.is_refused => REFUSED_WAIT,
            Failure::Failed | Failure::StillClosed | Failure::Final => LONGEST_WAIT,
        };
        entry.state = match failure {
            Failure::Final => State::GivenUp,
            Failure::Failed | Failure::StillClosed => State::Waits(now + doubled.min(longest)),
        };
        entry.is_refused && !was_refused
    }

    /// Has the rooms tried again at once that have failed only since `began_at`, once.
    pub(super) fn recover(&mut self, began_at: Instant, now: Instant) {
        for entry in self.entries.values_mut() {
            let is_new = entry.failed_at.is_some_and(|failed_at| failed_at >= began_at);
            if is_new && entry.state != State::Running {
                entry.state = State::Waits(now);
                (entry.failures, entry.is_refused) = (0, false);
            }
        }
    }

    /// When the next room is due or tried again, after `now`.
    pub(super) fn next_at(&self, now: Instant, retries: bool) -> Option<Instant> {
        let at = |entry: &Entry| match entry.state {
            State::Waits(until) if until > now && entry.is_eligible(retries) => Some(until),
            State::Waits(_) | State::Running | State::GivenUp => None,
        };
        self.entries.values().filter_map(at).min()
    }

    /// Whether a room counts as refused.
    pub(super) fn is_refused(&self, room: RoomId) -> bool {
        self.entries.get(&room).is_some_and(|entry| entry.is_refused)
    }

    /// Whether a room has failed that does not count as refused.
    pub(super) fn has_failing(&self) -> bool {
        self.entries.values().any(|entry| entry.failures > 0 && !entry.is_refused)
    }

    /// The timer that has been due for longest, without those that are refused.
    pub(super) fn oldest(&self) -> Option<&TalkTimer> {
        let known = self.entries.values().filter(|entry| !entry.is_refused);
        known.map(|entry| &entry.timer).min_by_key(|timer| timer.due_at)
    }

    /// The number of rooms that are due, with those that are refused.
    pub(super) fn due(&self, now: Instant) -> usize {
        self.entries.values().filter(|entry| entry.due_at <= now).count()
    }

    pub(super) fn refused(&self) -> usize {
        self.entries.values().filter(|entry| entry.is_refused).count()
    }
}

impl Entry {
    /// Whether it may be begun, if rooms that failed may only be with `retries`.
    fn is_eligible(&self, retries: bool) -> bool {
        retries || self.failures == 0
    }

    fn begin(&mut self) -> (TalkTimer, Means, bool) {
        self.state = State::Running;
        let means = if self.is_unlisted { Means::Read } else { Means::Ask };
        (self.timer.clone(), means, self.failures > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::RoomToken;

    fn timer(room: i64, due_at: i64) -> TalkTimer {
        TalkTimer {
            room: RoomId(room),
            token: RoomToken::parse(&format!("r{room}")).unwrap(),
            room_type: if room % 2 == 0 { RoomType::Group } else { RoomType::Public },
            due_at: DateTime::from_timestamp(due_at, 0).unwrap(),
        }
    }

    /// A queue at second 100 of the database.
    fn queue(timers: Vec<TalkTimer>) -> (Queue, Instant) {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add(timers, true, until, now);
        (queue, now)
    }

    fn until(due_at: DateTime<Utc>) -> Duration {
        Duration::from_secs(u64::try_from(due_at.timestamp() - 100).unwrap_or_default())
    }

    fn begun(queue: &mut Queue, now: Instant, retries: bool) -> Vec<i64> {
        std::iter::from_fn(|| queue.begin(now, retries))
            .map(|(timer, ..)| timer.room.number())
            .collect()
    }

    #[test]
    fn what_is_due_longest_goes_first_and_public_rooms_before_others() {
        let timers = vec![timer(2, 90), timer(3, 90), timer(4, 80), timer(5, 101)];
        let (mut queue, now) = queue(timers);
        assert_eq!(begun(&mut queue, now, true), [4, 3, 2]);
        assert_eq!(queue.next_at(now, true), Some(now + Duration::from_secs(1)));
        assert_eq!(begun(&mut queue, now + Duration::from_secs(1), true), [5]);
    }

    #[test]
    fn a_room_that_failed_goes_behind_and_waits_longer_each_time() {
        let (mut queue, mut now) = queue(vec![timer(1, 90)]);
        let mut waits = Vec::new();
        for attempt in 0..13 {
            assert_eq!(begun(&mut queue, now, attempt > 0), [1]);
            let is_news = queue.failed(RoomId(1), Failure::Failed, now);
            assert_eq!(is_news, attempt == 10, "attempt {attempt}");
            let next = queue.next_at(now, true).unwrap();
            waits.push((next - now).as_millis());
            now = next;
        }
        assert_eq!(waits[..4], [50, 100, 200, 400]);
        assert_eq!(waits[9..], [25_600, 51_200, 102_400, 204_800]);
        assert_eq!((queue.refused(), queue.oldest()), (1, None));
        queue.add(vec![timer(3, 99)], true, until, now);
        assert_eq!(begun(&mut queue, now, false), [3]);
    }

    #[test]
    fn a_room_that_talk_shows_closed_is_tried_every_five_seconds() {
        let (mut queue, mut now) = queue(vec![timer(1, 100)]);
        for _ in 0..30 {
            assert_eq!(begun(&mut queue, now, true), [1]);
            queue.failed(RoomId(1), Failure::StillClosed, now);
            let next = queue.next_at(now, true).unwrap();
            assert!(next - now <= LONGEST_WAIT_FOR_CLOCK);
            now = next;
        }
        assert_eq!(queue.refused(), 0);
    }

    #[test]
    fn a_room_that_is_given_up_is_tried_again_with_another_timer_only() {
        let (mut queue, now) = queue(vec![timer(1, 90)]);
        assert_eq!(begun(&mut queue, now, true), [1]);
        assert!(queue.failed(RoomId(1), Failure::Final, now));
        let later = now + Duration::from_hours(1);
        assert!(begun(&mut queue, later, true).is_empty());
        assert!(queue.unknown(&[timer(1, 90)], later).is_empty());
        let unknown = queue.unknown(&[timer(1, 95)], later);
        assert_eq!(queue.add(unknown, true, until, later), [timer(1, 90)]);
        assert_eq!(queue.add(vec![timer(1, 92)], true, until, later), [timer(1, 92)]);
        assert_eq!(begun(&mut queue, later, true), [1]);
    }

    #[test]
    fn a_timer_that_has_ended_is_not_added_by_a_look_that_began_before() {
        let (mut queue, now) = queue(vec![timer(1, 90)]);
        assert_eq!(begun(&mut queue, now, true), [1]);
        assert!(queue.settled(&timer(1, 90), now));
        assert!(queue.unknown(&[timer(1, 90)], now).is_empty());
        let later = now + Duration::from_millis(1);
        assert_eq!(queue.unknown(&[timer(1, 90)], later), [timer(1, 90)]);
    }

    #[test]
    fn timers_that_leave_the_table_early_are_removed_and_later_ones_are_judged() {
        let (mut queue, now) = queue(vec![timer(1, 90), timer(2, 105), timer(3, 105)]);
        begun(&mut queue, now, true);
        queue.failed(RoomId(1), Failure::Final, now);
        let removed = queue.retain(&[timer(3, 105)], now);
        assert_eq!(removed, [timer(2, 105)]);
        let begun = queue.begin(now, true).unwrap();
        assert_eq!((begun.0, begun.1), (timer(1, 90), Means::Read));
    }

    #[test]
    fn after_an_outage_only_its_own_failures_are_forgotten() {
        let (mut queue, now) = queue(vec![timer(1, 90), timer(3, 91)]);
        let outage = now + Duration::from_mins(1);
        assert_eq!(begun(&mut queue, now, true), [1, 3]);
        queue.failed(RoomId(1), Failure::Failed, now);
        for _ in 0..8 {
            queue.failed(RoomId(3), Failure::Failed, outage);
        }
        queue.failed(RoomId(1), Failure::Failed, outage);
        queue.recover(outage, outage);
        assert_eq!(begun(&mut queue, outage, true), [3]);
        // Its next failures are its own.
        let later = outage + Duration::from_mins(1);
        queue.failed(RoomId(3), Failure::Failed, later);
        queue.recover(later, later);
        assert_eq!(begun(&mut queue, later, true), [1]);
    }
}
