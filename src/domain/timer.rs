//! What happens when a timer is due.
//!
//! Which timers are due is decided by the database: its clock, its locks and a guarded update. This
//! module decides what a reset means for the room.

use chrono::{DateTime, Utc};

use super::event::RoomUpdated;
use super::lobby::LobbyState;
use super::reason::Reason;
use super::room::{RoomId, RoomToken, RoomType, SipState, Version};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueTimer {
    pub room: RoomId,
    pub token: RoomToken,
    pub room_type: RoomType,
    pub lobby_state: LobbyState,
    pub due_at: DateTime<Utc>,
    pub version: Version,
    pub sip: SipState,
}

/// The result of a timer that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reset {
    /// The room's version afterwards.
    pub version: Version,
    /// What is announced, and shown in the chat. `None` for a room that was open already and only
    /// loses its timer.
    pub announcement: Option<RoomUpdated>,
}

impl DueTimer {
    /// Resets the room at `fired_at`.
    ///
    /// The room takes the smallest newer version. A setting that was made before this reset but
    /// whose event arrives after it is still newer, and wins.
    pub fn reset(&self, fired_at: DateTime<Utc>) -> Reset {
        match self.lobby_state {
            LobbyState::None => Reset { version: self.version, announcement: None },
            LobbyState::NonModerators => {
                let version = self.version.next();
                let announcement = Some(self.announcement(version, fired_at));
                Reset { version, announcement }
            }
        }
    }

    fn announcement(&self, version: Version, fired_at: DateTime<Utc>) -> RoomUpdated {
        RoomUpdated {
            token: self.token.as_str().to_owned(),
            room_type: self.room_type.number(),
            lobby_state: LobbyState::None.number(),
            lobby_timer: 0,
            sip_enabled: self.sip.number(),
            version: version.milliseconds(),
            reason: Reason::LobbyTimerReached,
            about: None,
            due_at: Some(self.due_at),
            fired_at: Some(fired_at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due_timer(lobby_state: LobbyState) -> DueTimer {
        DueTimer {
            room: RoomId(1),
            token: RoomToken::parse("abc").unwrap(),
            room_type: RoomType::Public,
            lobby_state,
            due_at: DateTime::from_timestamp(99, 0).unwrap(),
            version: Version::stored(10),
            sip: SipState::Disabled,
        }
    }

    #[test]
    fn a_reset_takes_the_next_version_and_is_announced() {
        let fired_at = DateTime::from_timestamp(100, 0).unwrap();
        let reset = due_timer(LobbyState::NonModerators).reset(fired_at);
        assert_eq!(reset.version, Version::stored(11));
        let announcement = reset.announcement.unwrap();
        assert_eq!(announcement.reason, Reason::LobbyTimerReached);
        assert_eq!((announcement.version, announcement.lobby_state), (11, 0));
        assert_eq!(announcement.due_at.unwrap().timestamp(), 99);
        assert_eq!(announcement.fired_at, Some(fired_at));
    }

    #[test]
    fn an_open_room_only_loses_its_timer() {
        let reset = due_timer(LobbyState::None).reset(DateTime::from_timestamp(100, 0).unwrap());
        let expected = Reset { version: Version::stored(10), announcement: None };
        assert_eq!(reset, expected);
    }
}
