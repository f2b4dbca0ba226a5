//! A lobby change that is received as an event, and whether it applies to a room.
//!
//! [`decide_lobby_change`] is pure, so the rule is tested without a database and the transaction
//! without the rule.

use chrono::{DateTime, Utc};

use super::lobby::{Lobby, LobbyState};
use super::room::{Room, RoomToken, Version};

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
pub fn decide_lobby_change(room: &Room, change: &LobbyChange, received: Version) -> Decision {
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
        let decision = decide_lobby_change(&Room::example(), &newer, RECEIVED);
        assert_eq!(decision, Decision::Set(Version::stored(11)));
        for version in [9, 10] {
            let old = change(LobbyState::NonModerators, Some(99), Some(version));
            assert_eq!(decide_lobby_change(&Room::example(), &old, RECEIVED), Decision::Stale);
        }
    }

    #[test]
    fn a_change_without_version_takes_that_of_its_receipt() {
        let bare = change(LobbyState::None, None, None);
        let received = Version::stored(11);
        assert_eq!(decide_lobby_change(&Room::example(), &bare, received), Decision::Set(received));
        assert_eq!(
            decide_lobby_change(&Room::example(), &bare, Version::stored(10)),
            Decision::Stale
        );
    }

    #[test]
    fn a_redelivered_timer_that_was_reached_is_not_armed_again() {
        let reached = Room { timer_reached: Some(at(99)), ..Room::example() };
        let received = Version::stored(500);
        let same = change(LobbyState::NonModerators, Some(99), None);
        assert_eq!(decide_lobby_change(&reached, &same, received), Decision::Stale);
        let other = change(LobbyState::NonModerators, Some(98), None);
        assert_eq!(decide_lobby_change(&reached, &other, received), Decision::Set(received));
        let intended = change(LobbyState::NonModerators, Some(99), Some(500));
        assert!(matches!(decide_lobby_change(&reached, &intended, received), Decision::Set(..)));
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
            assert_eq!(decide_lobby_change(&room, &close, RECEIVED), Decision::LobbyNotSupported);
            let open = change(LobbyState::None, None, Some(11));
            assert!(matches!(decide_lobby_change(&room, &open, RECEIVED), Decision::Set(..)));
        }
    }

    proptest! {
        /// The newest change wins, in whatever order and however often changes with versions arrive.
        #[test]
        fn the_newest_change_wins(versions in prop::collection::vec(11_i64..40, 1..60)) {
            let mut room = Room::example();
            for &version in &versions {
                let change = change(LobbyState::NonModerators, Some(version * 100), Some(version));
                if let Decision::Set(version) = decide_lobby_change(&room, &change, RECEIVED) {
                    room = Room { lobby: change.lobby, version, ..room };
                }
            }
            let newest = versions.iter().copied().max().unwrap();
            prop_assert_eq!(room.version, Version::stored(newest));
            prop_assert_eq!(room.lobby.timer, Some(at(newest * 100)));
        }
    }
}
