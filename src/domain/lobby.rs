//! The rules of the lobby: which change applies to which room.
//!
//! One pure function, so that the rule is tested without a database and the transaction without
//! the rule. What a due timer does needs no rule here: it is a guarded update in the store.

use chrono::{DateTime, Utc};

use super::room::{Lobby, LobbyState, Room, RoomToken, Version};

/// A lobby change as it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LobbyChange {
    /// The room.
    pub token: RoomToken,
    /// What it asks for; a timer only together with a closed lobby.
    pub lobby: Lobby,
    /// When the change was made; `None` if its sender does not say.
    pub version: Option<Version>,
}

/// What a change means for a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The row gets the change's lobby, and this version.
    Set(Version),
    /// The change is older than the room, or a repetition of one that has had its effect.
    Stale,
    /// This kind of room cannot have a lobby.
    LobbyNotSupported,
}

/// What became of a change that was taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// The row has the change's lobby.
    Set {
        /// The timer that was pending before and is no more.
        replaced: Option<DateTime<Utc>>,
    },
    /// Older than the room, or a duplicate: nothing changed.
    Stale,
    /// The room cannot have a lobby: nothing changed.
    LobbyNotSupported,
    /// There is no such room, or not yet.
    UnknownRoom,
}

/// Compares a change with the room. `received` stands in for the version of a change that has
/// none.
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

/// A change without a version that arms just the timer which reset the room last is a redelivery:
/// its instant of receipt is new, but one setting of a timer resets its room at most once.
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
    use crate::domain::room::RoomId;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn room() -> Room {
        Room {
            id: RoomId(1),
            token: RoomToken::parse("a").unwrap(),
            room_type: 3,
            name: String::new(),
            description: String::new(),
            object_type: String::new(),
            object_id: String::new(),
            lobby: Lobby::OPEN,
            version: Version::stored(10),
            timer_reached: None,
            sip_enabled: 0,
            password_hash: String::new(),
            call: None,
            comments: 0,
            changed_at: 0,
        }
    }

    fn change(state: LobbyState, timer: Option<i64>, version: Option<i64>) -> LobbyChange {
        LobbyChange {
            token: RoomToken::parse("a").unwrap(),
            lobby: Lobby { state, timer: timer.map(at) },
            version: version.map(Version::stored),
        }
    }

    const RECEIVED: Version = Version::ZERO;

    #[test]
    fn only_a_newer_version_applies() {
        let newer = change(LobbyState::NonModerators, Some(99), Some(11));
        let decision = decide(&room(), &newer, RECEIVED);
        assert_eq!(decision, Decision::Set(Version::stored(11)));
        for version in [9, 10] {
            let old = change(LobbyState::NonModerators, Some(99), Some(version));
            assert_eq!(decide(&room(), &old, RECEIVED), Decision::Stale);
        }
    }

    #[test]
    fn a_change_without_version_has_that_of_its_receipt() {
        let bare = change(LobbyState::None, None, None);
        let received = Version::stored(11);
        assert_eq!(decide(&room(), &bare, received), Decision::Set(received));
        assert_eq!(decide(&room(), &bare, Version::stored(10)), Decision::Stale);
    }

    #[test]
    fn a_redelivered_timer_that_was_reached_is_not_armed_again() {
        let reached = Room { timer_reached: Some(at(99)), ..room() };
        let received = Version::stored(500);
        let same = change(LobbyState::NonModerators, Some(99), None);
        assert_eq!(decide(&reached, &same, received), Decision::Stale);
        let other = change(LobbyState::NonModerators, Some(98), None);
        assert_eq!(decide(&reached, &other, received), Decision::Set(received));
        let deliberate = change(LobbyState::NonModerators, Some(99), Some(500));
        assert!(matches!(decide(&reached, &deliberate, received), Decision::Set(..)));
    }

    #[test]
    fn a_room_that_cannot_have_a_lobby_can_still_be_opened() {
        for (room_type, object_type) in [(1, ""), (6, ""), (3, "file"), (2, "share:password")] {
            let room = Room { room_type, object_type: object_type.to_owned(), ..room() };
            let close = change(LobbyState::NonModerators, None, Some(11));
            assert_eq!(decide(&room, &close, RECEIVED), Decision::LobbyNotSupported);
            let open = change(LobbyState::None, None, Some(11));
            assert!(matches!(decide(&room, &open, RECEIVED), Decision::Set(..)));
        }
    }

    proptest! {
        /// In whatever order, and however often, versioned changes arrive: the newest one stands.
        #[test]
        fn the_newest_change_stands(versions in prop::collection::vec(11_i64..40, 1..60)) {
            let mut room = room();
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
