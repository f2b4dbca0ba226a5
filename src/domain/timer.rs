//! What happens when a timer is due.
//!
//! Which timers are due is decided by the database: its clock, its locks and a guarded update. This
//! module decides what a reset means for the room.

use chrono::{DateTime, Utc};

use super::event::RoomUpdated;
use super::lobby::LobbyState;
use super::reason::Reason;
use super::room::{RoomId, RoomToken, RoomType, SipState, Version};

/// Identifies one timer of a room, in the order in which timers are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimerKey {
    pub due_at: DateTime<Utc>,
    pub room: RoomId,
}

impl TimerKey {
    /// The key after those of all timers that are due at `time` or before.
    pub fn last_at(time: DateTime<Utc>) -> Self {
        Self { due_at: time, room: RoomId(i64::MAX) }
    }

    /// The key right before this one.
    pub fn previous(self) -> Self {
        Self { room: RoomId(self.room.0.saturating_sub(1)), ..self }
    }
}

/// A timer that has not fired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingTimer {
    pub key: TimerKey,
    pub token: RoomToken,
}

/// The closed room of a timer that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueTimer {
    pub key: TimerKey,
    pub token: RoomToken,
    pub room_type: RoomType,
    pub version: Version,
    pub sip: SipState,
}

impl DueTimer {
    /// The room's version after its reset: the smallest newer one. A setting that was made before
    /// the reset but whose event arrives after it is still newer, and wins.
    pub fn next_version(&self) -> Version {
        self.version.next()
    }

    /// Whether the time from the due time on is lobbyd's own lag. A room whose last change is not
    /// older than its timer was overdue already when it was set.
    pub fn lag_counts(&self) -> bool {
        self.version < Version::of(self.key.due_at)
    }

    /// What is announced about the reset.
    pub fn announcement(&self, fired_at: DateTime<Utc>) -> RoomUpdated {
        RoomUpdated {
            token: self.token.as_str().to_owned(),
            room_type: self.room_type.number(),
            lobby_state: LobbyState::None.number(),
            lobby_timer: 0,
            sip_enabled: self.sip.number(),
            version: self.next_version().milliseconds(),
            reason: Reason::LobbyTimerReached,
            about: None,
            mentioned: Vec::new(),
            due_at: Some(self.key.due_at),
            fired_at: Some(fired_at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due_timer(version: Version) -> DueTimer {
        let due_at = DateTime::from_timestamp(99, 0).unwrap();
        DueTimer {
            key: TimerKey { due_at, room: RoomId(1) },
            token: RoomToken::parse("abc").unwrap(),
            room_type: RoomType::Public,
            version,
            sip: SipState::Disabled,
        }
    }

    #[test]
    fn a_reset_takes_the_next_version_and_is_announced() {
        let fired_at = DateTime::from_timestamp(100, 0).unwrap();
        let timer = due_timer(Version::stored(10));
        assert_eq!(timer.next_version(), Version::stored(11));
        let announcement = timer.announcement(fired_at);
        assert_eq!(announcement.reason, Reason::LobbyTimerReached);
        assert_eq!((announcement.version, announcement.lobby_state), (11, 0));
        assert_eq!(announcement.due_at.unwrap().timestamp(), 99);
        assert_eq!(announcement.fired_at, Some(fired_at));
    }

    #[test]
    fn the_lag_of_a_timer_that_was_overdue_when_it_was_set_does_not_count() {
        assert!(due_timer(Version::ZERO).lag_counts());
        assert!(due_timer(Version::stored(98_999)).lag_counts());
        assert!(!due_timer(Version::stored(99_000)).lag_counts());
    }

    #[test]
    fn keys_are_in_the_order_in_which_timers_are_due() {
        let key = due_timer(Version::ZERO).key;
        assert!(key.previous() < key && key < TimerKey::last_at(key.due_at));
        let later =
            TimerKey { due_at: key.due_at + chrono::TimeDelta::seconds(1), room: RoomId(0) };
        assert!(TimerKey::last_at(key.due_at) < later);
    }
}
