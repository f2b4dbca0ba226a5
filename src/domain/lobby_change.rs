//! A lobby change that is received as an event, and whether it applies to a room.
//!
//! [`decide_lobby_change`] is pure, so the rule is tested without a database and the transaction
//! without the rule.

use chrono::{DateTime, Utc};

use super::lobby::{Lobby, LobbyState};
use super::room::{Room, RoomToken, Version};

/// A lobby change that arrived as an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncomingChange {
    pub token: RoomToken,
    /// Has a timer only together with a lobby.
    pub lobby: Lobby,
    pub order: ChangeOrder,
    /// Recognises a repeated delivery of an event that does not say when the change was made.
    pub identity: Option<DeliveryIdentity>,
    /// Whether lobbyd published it, after its own change of the room.
    pub own: bool,
}

/// When a change was made, compared with the other changes of its room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeOrder {
    /// The event or the broker says so, or it has waited since it was received.
    Version(Version),
    /// The sender names only the second, and it has just been received: newer than what was made
    /// before its `end`. `estimate` is in its first half, so that later ones of the second follow.
    WithinSecond { estimate: Version, end: Version },
    /// Nothing says so, and it has just been received: newer than the room.
    ReceivedNow(Version),
}

/// Recognises a repeated delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryIdentity {
    /// The same for each delivery of the event.
    pub key: String,
    /// This delivery repeats an event of this key that was applied at this time or later. `None`
    /// if it is the first one: the sender may publish equal events.
    pub duplicate_since: Option<DateTime<Utc>>,
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
    /// Nothing changed: another transaction has locked the room.
    Locked,
}

impl IncomingChange {
    /// The change, after it has waited: the room may have changed since it was received. It stays
    /// newer than `earlier` changes of the room that wait as well.
    pub fn waited(self, earlier: Version) -> Self {
        let version = self.order.after(earlier).unwrap_or_else(|| self.order.version());
        Self { order: ChangeOrder::Version(version), ..self }
    }

    /// Whether it repeats an event that was applied; `applied_at` is when one of its identity was.
    pub fn is_repeated(&self, applied_at: Option<DateTime<Utc>>) -> bool {
        let since = self.identity.as_ref().and_then(|identity| identity.duplicate_since);
        since.zip(applied_at).is_some_and(|(since, applied_at)| applied_at >= since)
    }

    /// The result if there is no such room. That of lobbyd's own change has been deleted since.
    pub fn without_room(&self) -> Applied {
        if self.own { Applied::Stale } else { Applied::UnknownRoom }
    }
}

impl ChangeOrder {
    /// When the change was made, as far as that is known.
    pub fn version(self) -> Version {
        match self {
            Self::Version(version)
            | Self::WithinSecond { estimate: version, .. }
            | Self::ReceivedNow(version) => version,
        }
    }

    /// The version that a room of this version takes, if the change is newer.
    pub fn after(self, room: Version) -> Option<Version> {
        match self {
            Self::Version(version) => (version > room).then_some(version),
            Self::WithinSecond { estimate, end } => (end > room).then(|| estimate.max(room.next())),
            Self::ReceivedNow(version) => Some(version.max(room.next())),
        }
    }
}

/// Compares a change with the room. `applied_at` is when an event of the same identity was last
/// applied.
pub fn decide_lobby_change(
    room: &Room,
    change: &IncomingChange,
    applied_at: Option<DateTime<Utc>>,
) -> Decision {
    if change.is_repeated(applied_at) || had_its_effect(room, change) {
        return Decision::Stale;
    }
    let Some(version) = change.order.after(room.version) else {
        return Decision::Stale;
    };
    match change.lobby.state {
        LobbyState::NonModerators if !room.can_have_lobby() => Decision::LobbyNotSupported,
        LobbyState::NonModerators | LobbyState::None => Decision::Set(version),
    }
}

/// An event that does not say when the change was made, and whose timer is not after the one that
/// last reset the room, is a repetition: one setting of a timer resets its room at most once.
fn had_its_effect(room: &Room, change: &IncomingChange) -> bool {
    change.identity.is_some()
        && change.lobby.timer.is_some_and(|timer| Some(timer) <= room.timer_reached)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::RoomType;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn change(state: LobbyState, timer: Option<i64>, order: ChangeOrder) -> IncomingChange {
        IncomingChange {
            token: RoomToken::parse("abc").unwrap(),
            lobby: Lobby { state, timer: timer.map(at) },
            order,
            identity: match order {
                ChangeOrder::Version(_) => None,
                ChangeOrder::WithinSecond { .. } | ChangeOrder::ReceivedNow(_) => {
                    Some(DeliveryIdentity { key: "key".to_owned(), duplicate_since: None })
                }
            },
            own: false,
        }
    }

    fn closing(order: ChangeOrder) -> IncomingChange {
        change(LobbyState::NonModerators, None, order)
    }

    fn version(version: i64) -> ChangeOrder {
        ChangeOrder::Version(Version::stored(version))
    }

    fn received_now(version: i64) -> ChangeOrder {
        ChangeOrder::ReceivedNow(Version::stored(version))
    }

    fn decide(change: &IncomingChange) -> Decision {
        decide_lobby_change(&Room::example(), change, None)
    }

    fn set(version: i64) -> Decision {
        Decision::Set(Version::stored(version))
    }

    #[test]
    fn only_a_newer_version_applies() {
        assert_eq!(decide(&closing(version(11))), set(11));
        for old in [9, 10] {
            assert_eq!(decide(&closing(version(old))), Decision::Stale);
        }
    }

    #[test]
    fn a_change_without_version_is_newer_than_the_room_when_it_is_received() {
        assert_eq!(decide(&closing(received_now(15))), set(15));
        assert_eq!(decide(&closing(received_now(7))), set(11), "a room ahead of the clock");
    }

    #[test]
    fn a_change_that_has_waited_does_not_override_a_newer_one() {
        let waited = |order| decide(&closing(order).waited(Version::ZERO));
        assert_eq!(waited(received_now(15)), set(15));
        assert_eq!(waited(received_now(10)), Decision::Stale);
        assert_eq!(waited(second(15, 20)), set(15));
        assert_eq!(waited(second(5, 20)), Decision::Stale);
    }

    #[test]
    fn changes_that_wait_stay_in_the_order_of_their_receipt() {
        let after_20 = |order| closing(order).waited(Version::stored(20)).order;
        assert_eq!(after_20(received_now(20)), version(21));
        assert_eq!(after_20(received_now(25)), version(25));
        assert_eq!(after_20(second(15, 30)), version(21));
        assert_eq!(after_20(second(15, 20)), version(15));
        assert_eq!(after_20(version(15)), version(15));
    }

    fn second(estimate: i64, end: i64) -> ChangeOrder {
        ChangeOrder::WithinSecond { estimate: Version::stored(estimate), end: Version::stored(end) }
    }

    #[test]
    fn a_change_within_a_second_is_newer_than_what_was_before_its_end() {
        assert_eq!(decide(&closing(second(15, 20))), set(15));
        assert_eq!(decide(&closing(second(5, 20))), set(11), "a second one within the second");
        assert_eq!(decide(&closing(second(5, 10))), Decision::Stale);
    }

    #[test]
    fn a_repeated_delivery_changes_nothing() {
        let mut repeated = closing(received_now(50));
        let applied_at = Some(at(40));
        assert_eq!(decide_lobby_change(&Room::example(), &repeated, applied_at), set(50));
        for (since, expected) in [(39, Decision::Stale), (40, Decision::Stale), (41, set(50))] {
            repeated.identity.as_mut().unwrap().duplicate_since = Some(at(since));
            let decision = decide_lobby_change(&Room::example(), &repeated, applied_at);
            assert_eq!(decision, expected, "since {since}");
            assert_eq!(decide(&repeated), set(50), "never applied");
        }
    }

    #[test]
    fn a_timer_that_was_reached_is_not_armed_again() {
        let closed = Lobby { state: LobbyState::NonModerators, timer: None };
        for lobby in [Lobby::OPEN, closed] {
            let reached = Room { timer_reached: Some(at(99)), lobby, ..Room::example() };
            let decide = |timer, order| {
                let change = change(LobbyState::NonModerators, Some(timer), order);
                decide_lobby_change(&reached, &change, None)
            };
            assert_eq!(decide(99, received_now(500)), Decision::Stale);
            assert_eq!(decide(98, received_now(500)), Decision::Stale);
            assert_eq!(decide(100, received_now(500)), set(500));
            assert_eq!(decide(99, version(500)), set(500), "intended");
        }
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
            let close = closing(version(11));
            assert_eq!(decide_lobby_change(&room, &close, None), Decision::LobbyNotSupported);
            let open = change(LobbyState::None, None, version(11));
            assert!(matches!(decide_lobby_change(&room, &open, None), Decision::Set(..)));
        }
    }

    #[test]
    fn lobbyds_own_change_of_a_deleted_room_is_stale() {
        let own = IncomingChange { own: true, ..closing(version(11)) };
        assert_eq!(own.without_room(), Applied::Stale);
        assert_eq!(closing(version(11)).without_room(), Applied::UnknownRoom);
    }

    fn any_order() -> impl Strategy<Value = ChangeOrder> {
        let version = || (0..LATEST).prop_map(Version::stored);
        prop_oneof![
            version().prop_map(ChangeOrder::Version),
            version().prop_map(ChangeOrder::ReceivedNow),
            (0..LATEST, 0_i64..1000).prop_map(|(end, before)| ChangeOrder::WithinSecond {
                estimate: Version::stored(end.saturating_sub(before)),
                end: Version::stored(end),
            }),
        ]
    }

    /// The latest version that the parser accepts.
    const LATEST: i64 = 1000;

    fn apply(room: Room, change: &IncomingChange) -> Room {
        match decide_lobby_change(&room, change, None) {
            Decision::Set(version) => Room { lobby: change.lobby, version, ..room },
            Decision::Stale | Decision::LobbyNotSupported => room,
        }
    }

    proptest! {
        /// The newest change wins, in whatever order and however often changes with versions arrive.
        #[test]
        fn the_newest_change_wins(versions in prop::collection::vec(11_i64..40, 1..60)) {
            let mut room = Room::example();
            for &number in &versions {
                let timer = Some(number * 100);
                room = apply(room, &change(LobbyState::NonModerators, timer, version(number)));
            }
            let newest = versions.iter().copied().max().unwrap();
            prop_assert_eq!(room.version, Version::stored(newest));
            prop_assert_eq!(room.lobby.timer, Some(at(newest * 100)));
        }

        /// Versions grow, and no sequence of changes locks a room: afterwards it is ahead of the
        /// latest version by less than the number of changes, and takes what is received next.
        #[test]
        fn no_sequence_of_changes_locks_a_room(
            orders in prop::collection::vec(any_order(), 0..60),
        ) {
            let mut room = Room::example();
            for &order in &orders {
                let version = room.version;
                let changed = apply(room.clone(), &closing(order));
                prop_assert!(changed.version > version || changed == room);
                room = changed;
            }
            let bound = LATEST + i64::try_from(orders.len()).unwrap();
            prop_assert!(room.version.milliseconds() <= bound);
            let open = change(LobbyState::None, None, received_now(0));
            let decision = decide_lobby_change(&room, &open, None);
            prop_assert_eq!(decision, Decision::Set(room.version.next()));
        }

        /// The last of the changes that have waited together counts, and each is stale when it is
        /// applied again, because the outcome of the first try is not known.
        #[test]
        fn changes_that_have_waited_apply_once(
            orders in prop::collection::vec(
                prop_oneof![
                    (0..LATEST).prop_map(|ms| ChangeOrder::ReceivedNow(Version::stored(ms))),
                    Just(second(500, 5 * LATEST)),
                ],
                1..60,
            ),
        ) {
            let mut latest = Version::ZERO;
            let waited: Vec<_> = (1_i64..).zip(orders).map(|(timer, order)| {
                let change = change(LobbyState::NonModerators, Some(timer), order).waited(latest);
                latest = change.order.version();
                change
            }).collect();
            let room = Room { version: Version::ZERO, ..Room::example() };
            let applied = waited.iter().fold(room, apply);
            prop_assert_eq!(applied.lobby, waited.last().unwrap().lobby);
            prop_assert_eq!(&waited.iter().fold(applied.clone(), apply), &applied);
        }

        /// Every change of a burst applies, in the order of its delivery, although their senders
        /// name only the second.
        #[test]
        fn changes_of_one_second_apply_in_the_order_of_their_delivery(
            timers in prop::collection::vec(1_i64..1000, 1..60),
        ) {
            let second = second(5500, 5999);
            let mut room = Room::example();
            for &timer in &timers {
                room = apply(room, &change(LobbyState::NonModerators, Some(timer), second));
                prop_assert_eq!(room.lobby.timer, Some(at(timer)));
            }
        }
    }
}
