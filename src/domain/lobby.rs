//! The lobby: its state and timer, and which change applies to which room.
//!
//! [`decide`] is pure, so the rule is tested without a database and the transaction without the
//! rule. What a timer that is due does is in [`timer`](super::timer).

use chrono::{DateTime, Utc};
use num_enum::{IntoPrimitive, TryFromPrimitive};
use serde::Serialize;

use super::room::{Room, RoomToken, Version};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, IntoPrimitive, TryFromPrimitive, Serialize)]
#[repr(i64)]
pub enum LobbyState {
    /// The room is open.
    None = 0,
    /// Participants wait, except moderators and those with the permission to ignore the lobby.
    NonModerators = 1,
}

impl LobbyState {
    pub fn from_number(number: i64) -> Option<Self> {
        number.try_into().ok()
    }

    /// Talk's number.
    pub fn number(self) -> i64 {
        self.into()
    }
}

/// A lobby state, and the time at which the room is reset to no lobby.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Lobby {
    pub state: LobbyState,
    /// UTC, in whole seconds.
    pub timer: Option<DateTime<Utc>>,
}

impl Lobby {
    /// No lobby and no timer.
    pub const OPEN: Self = Self { state: LobbyState::None, timer: None };

    /// 9999-12-31T23:59:59Z, the last second that every database can hold.
    const LAST_TIMER: i64 = 253_402_300_799;

    /// Reads Talk's number of the state, and a timer in Unix seconds, 0 for none. A timer without
    /// a lobby is dropped, because there is nothing to reset.
    pub fn parse(LobbyRequest { state, timer }: LobbyRequest) -> Result<Self, InvalidLobby> {
        let state = LobbyState::from_number(state).ok_or(InvalidLobby::State(state))?;
        let timer = match timer {
            None | Some(0) => None,
            Some(seconds) if (0..=Self::LAST_TIMER).contains(&seconds) => {
                DateTime::from_timestamp(seconds, 0)
            }
            Some(seconds) => return Err(InvalidLobby::Timer(seconds)),
        };
        Ok(match state {
            LobbyState::None => Self::OPEN,
            LobbyState::NonModerators => Self { state, timer },
        })
    }

    /// The timer, if it is scheduled: the timer of an open room resets nothing.
    pub fn scheduled(&self) -> Option<DateTime<Utc>> {
        match self.state {
            LobbyState::None => None,
            LobbyState::NonModerators => self.timer,
        }
    }
}

/// A lobby as a client or sender writes it, not yet checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LobbyRequest {
    /// Talk's number.
    pub state: i64,
    /// Unix seconds; `None` or 0 for no timer.
    pub timer: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLobby {
    #[error("state {0} is unknown, expected 0 (no lobby) or 1 (non-moderators wait)")]
    State(i64),
    /// Before 1970 or after the year 9999.
    #[error("timer {0} is out of range, expected seconds since 1970")]
    Timer(i64),
}

/// A lobby change that arrived as an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LobbyChange {
    pub token: RoomToken,
    /// Has a timer only together with a lobby.
    pub lobby: Lobby,
    /// When the change was made; `None` if the sender does not say so.
    pub version: Option<Version>,
}

/// What a change means for a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The room takes the change's lobby and this version.
    Set(Version),
    /// The change is older than the room, or repeats one that has had its effect.
    Stale,
    /// Rooms of this type or object cannot have a lobby.
    LobbyNotSupported,
}

/// The result of applying a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    Set {
        /// The timer that was scheduled before.
        replaced: Option<DateTime<Utc>>,
    },
    /// Nothing changed: the change is older than the room, or a duplicate.
    Stale,
    /// Nothing changed.
    LobbyNotSupported,
    /// There is no such room, or not yet.
    UnknownRoom,
}

/// Compares a change with the room. `received` is the version of a change that has none.
pub fn decide(room: &Room, change: &LobbyChange, received: Version) -> Decision {
    let version = change.version.unwrap_or(received);
    if version <= room.version || repeats_reached_timer(room, change) {
        return Decision::Stale;
    }
    match change.lobby.state {
        LobbyState::NonModerators if !room.can_have_lobby() => Decision::LobbyNotSupported,
        LobbyState::NonModerators | LobbyState::None => Decision::Set(version),
    }
}

/// A change without a version that arms exactly the timer that last reset the room is a
/// redelivery. Its receive time is new, but one setting of a timer resets its room at most once.
fn repeats_reached_timer(room: &Room, change: &LobbyChange) -> bool {
    change.version.is_none()
        && room.lobby == Lobby::OPEN
        && change.lobby.timer.is_some()
        && change.lobby.timer == room.timer_reached
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::RoomType;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn change(state: LobbyState, timer: Option<i64>, version: Option<i64>) -> LobbyChange {
        LobbyChange {
            token: RoomToken::parse("abc").unwrap(),
            lobby: Lobby { state, timer: timer.map(at) },
            version: version.map(Version::stored),
        }
    }

    const RECEIVED: Version = Version::ZERO;

    #[test]
    fn only_a_newer_version_applies() {
        let newer = change(LobbyState::NonModerators, Some(99), Some(11));
        let decision = decide(&Room::example(), &newer, RECEIVED);
        assert_eq!(decision, Decision::Set(Version::stored(11)));
        for version in [9, 10] {
            let old = change(LobbyState::NonModerators, Some(99), Some(version));
            assert_eq!(decide(&Room::example(), &old, RECEIVED), Decision::Stale);
        }
    }

    #[test]
    fn a_change_without_version_takes_that_of_its_receipt() {
        let bare = change(LobbyState::None, None, None);
        let received = Version::stored(11);
        assert_eq!(decide(&Room::example(), &bare, received), Decision::Set(received));
        assert_eq!(decide(&Room::example(), &bare, Version::stored(10)), Decision::Stale);
    }

    #[test]
    fn a_redelivered_timer_that_was_reached_is_not_armed_again() {
        let reached = Room { timer_reached: Some(at(99)), ..Room::example() };
        let received = Version::stored(500);
        let same = change(LobbyState::NonModerators, Some(99), None);
        assert_eq!(decide(&reached, &same, received), Decision::Stale);
        let other = change(LobbyState::NonModerators, Some(98), None);
        assert_eq!(decide(&reached, &other, received), Decision::Set(received));
        let intended = change(LobbyState::NonModerators, Some(99), Some(500));
        assert!(matches!(decide(&reached, &intended, received), Decision::Set(..)));
    }

    #[test]
    fn a_room_that_cannot_have_a_lobby_can_still_be_opened() {
        for (room_type, object_type) in [
            (RoomType::OneToOne, ""),
            (RoomType::NoteToSelf, ""),
            (RoomType::Public, "file"),
            (RoomType::Group, "share:password"),
        ] {
            let room = Room { room_type, object_type: object_type.to_owned(), ..Room::example() };
            let close = change(LobbyState::NonModerators, None, Some(11));
            assert_eq!(decide(&room, &close, RECEIVED), Decision::LobbyNotSupported);
            let open = change(LobbyState::None, None, Some(11));
            assert!(matches!(decide(&room, &open, RECEIVED), Decision::Set(..)));
        }
    }

    proptest! {
        /// The newest change wins, in whatever order and however often changes with versions arrive.
        #[test]
        fn the_newest_change_wins(versions in prop::collection::vec(11_i64..40, 1..60)) {
            let mut room = Room::example();
            for &version in &versions {
                let change = change(LobbyState::NonModerators, Some(version * 100), Some(version));
                if let Decision::Set(version) = decide(&room, &change, RECEIVED) {
                    room = Room { lobby: change.lobby, version, ..room };
                }
            }
            let newest = versions.iter().copied().max().unwrap();
            prop_assert_eq!(room.version, Version::stored(newest));
            prop_assert_eq!(room.lobby.timer, Some(at(newest * 100)));
        }
    }
}
