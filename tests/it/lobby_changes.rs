//! How the store applies sets of lobby changes, on each database.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta};
use lobbyd::{
    domain::{Applied, ChangeOrder, DeliveryIdentity, IncomingChange, Lobby, Version},
    store::{Available, Patience, StoreError},
};

use crate::support::{
    database::Kind,
    eventually,
    fixtures::{HISTORY, StoreFixture, at, bare, change, close_until, closed_until, token},
};

on_every_database! { crate::support::fixtures::StoreFixture::new:
    a_set_of_changes_is_applied_in_order,
    settings_of_one_room_are_decided_one_after_the_other,
    each_applied_change_is_announced_and_shown_in_the_chat,
    changes_that_have_no_effect_write_nothing,
    the_events_of_a_set_can_be_claimed_with_it,
    one_refused_change_undoes_the_set,
    a_bare_event_is_newer_than_its_room,
    an_event_that_has_waited_does_not_override_the_api,
    a_repeated_delivery_changes_nothing_although_the_room_was_changed,
    equal_events_of_the_sender_both_apply,
    an_event_repeated_within_a_set_is_applied_once,
    a_stale_event_stays_stale_when_it_is_delivered_again,
    lobbyds_own_change_of_a_deleted_room_is_stale,
    identities_of_events_are_pruned,
}

const SET: Applied = Applied::Set { replaced: None };

/// The same event, delivered once more at `at(seconds)`.
fn repeated(room: &str, lobby: Lobby, seconds: i64) -> IncomingChange {
    let first = bare(room, lobby, seconds);
    let identity = first.identity.clone().map(|identity| DeliveryIdentity {
        duplicate_since: Some(at(seconds) - TimeDelta::minutes(30)),
        ..identity
    });
    IncomingChange { identity, ..first }
}

async fn a_set_of_changes_is_applied_in_order(fixture: StoreFixture) {
    fixture.database.insert_rooms("room", 3, at(50).timestamp()).await;
    fixture.database.insert_room("a").await;
    fixture.database.insert_room("b").await;
    fixture
        .database
        .execute("INSERT INTO lobbyd_rooms (token, type, name) VALUES ('one', 1, '')")
        .await;
    let changes = [
        change("b", closed_until(Some(at(10))), 5),
        change("nowhere", Lobby::OPEN, 5),
        change("one", closed_until(None), 5),
        change("a", closed_until(None), 7),
        change("room2", Lobby::OPEN, 9),
        change("room3", Lobby::OPEN, 0),
    ];
    let expected = [
        SET,
        Applied::UnknownRoom,
        Applied::LobbyNotSupported,
        SET,
        Applied::Set { replaced: Some(at(50)) },
        Applied::Stale,
    ];
    assert_eq!(fixture.apply_all(&changes, at(1)).await, expected);
    let mut lobbies = BTreeMap::new();
    for room in ["a", "b", "one", "room1", "room2", "room3"] {
        lobbies.insert(room, (fixture.lobby(room).await, fixture.version(room).await));
    }
    let timed = closed_until(Some(at(50)));
    let expected = [
        ("a", (closed_until(None), 7)),
        ("b", (closed_until(Some(at(10))), 5)),
        ("one", (Lobby::OPEN, 0)),
        ("room1", (timed, 0)),
        ("room2", (Lobby::OPEN, 9)),
        ("room3", (timed, 0)),
    ];
    assert_eq!(lobbies, BTreeMap::from(expected));
    assert_eq!(fixture.apply_all(&[], at(1)).await, []);
}

async fn settings_of_one_room_are_decided_one_after_the_other(fixture: StoreFixture) {
    fixture.database.insert_room("a").await;
    let changes = [
        change("a", closed_until(Some(at(10))), 5),
        change("a", closed_until(Some(at(20))), 7),
        change("a", Lobby::OPEN, 6),
        change("a", closed_until(Some(at(20))), 7),
        bare("a", closed_until(Some(at(30))), 1),
        bare("a", closed_until(Some(at(40))), 1),
    ];
    let replaced = |seconds| Applied::Set { replaced: Some(at(seconds)) };
    let expected = [SET, replaced(10), Applied::Stale, Applied::Stale, replaced(20), replaced(30)];
    assert_eq!(fixture.apply_all(&changes, at(1)).await, expected);
    assert_eq!(fixture.lobby("a").await, closed_until(Some(at(40))));
    assert_eq!(fixture.version("a").await, at(1).timestamp_millis() + 1);
    assert!(fixture.fire(at(39)).await.is_empty());
}

async fn each_applied_change_is_announced_and_shown_in_the_chat(fixture: StoreFixture) {
    fixture.create_room("a").await;
    let _created = fixture.events().await;
    let now = at(1).timestamp_millis();
    let changes = [
        change("a", closed_until(None), now + 1),
        change("a", closed_until(Some(at(10))), now + 2),
        change("a", Lobby::OPEN, now),
        change("a", Lobby::OPEN, now + 3),
    ];
    fixture.apply_all(&changes, at(2)).await;
    let update = |reason: &str| ("room.updated.v1".to_owned(), format!("{reason:?}"));
    let expected = ["lobby_non_moderators", "lobby_timer_changed", "lobby_none"].map(update);
    assert_eq!(fixture.events().await, expected);
    let chat = fixture.chat("a", "alice", HISTORY).await;
    assert_eq!(chat[..2], ["lobby_none", "lobby_non_moderators"]);
    // Lists of rooms that changed since some time contain it.
    let room = fixture.store.room(&token("a")).await.unwrap().unwrap();
    assert_eq!(room.changed_at, at(2).timestamp());
}

async fn changes_that_have_no_effect_write_nothing(fixture: StoreFixture) {
    fixture.database.insert_room("a").await;
    let changes = [change("a", Lobby::OPEN, 0), change("nowhere", Lobby::OPEN, 1)];
    let expected = [Applied::Stale, Applied::UnknownRoom];
    assert_eq!(fixture.apply_all(&changes, at(1)).await, expected);
    for table in ["lobbyd_outbox", "lobbyd_inbox", "lobbyd_messages", "lobbyd_room_states"] {
        let rows = fixture.database.number(&format!("SELECT count(*) FROM {table}")).await;
        assert_eq!(rows, 0, "{table}");
    }
}

async fn the_events_of_a_set_can_be_claimed_with_it(fixture: StoreFixture) {
    fixture.database.insert_room("a").await;
    fixture.database.insert_room("b").await;
    let changes = [change("a", closed_until(None), 5), change("b", closed_until(None), 5)];
    let applied = fixture.store.apply(&changes, Patience::Full, at(0), Some(at(5))).await.unwrap();
    assert_eq!(applied.results, [SET, SET]);
    let events = applied.rows.iter().flat_map(|row| &row.events);
    let rooms: Vec<&str> = events.map(|event| event.token.as_str()).collect();
    assert_eq!(rooms, ["a", "b"]);
    assert!(applied.rows.iter().all(|row| row.attempt == 1));
    for (seconds, claimed) in [(0, 0), (4, 0), (5, 2)] {
        let available = Available { after: None, now: at(seconds), except: &[] };
        let again = fixture.store.claim(available, 5, at(seconds + 5)).await.unwrap();
        assert_eq!(again.rows.len(), claimed, "after {seconds} s");
        assert!(again.rows.iter().all(|row| row.attempt == 2));
    }
}

async fn one_refused_change_undoes_the_set(fixture: StoreFixture) {
    fixture.database.insert_room("good").await;
    fixture.database.insert_room("bad").await;
    // The rule of the tables, but not that of the program, forbids such a timer.
    let refused = closed_until(DateTime::from_timestamp(-1, 0));
    let changes = [change("good", closed_until(None), 5), change("bad", refused, 5)];
    let error = fixture.store.apply(&changes, Patience::Full, at(1), None).await.unwrap_err();
    assert!(matches!(error, StoreError::Rejected(_)), "{error:?}");
    assert_eq!(fixture.lobby("good").await, Lobby::OPEN);
    assert_eq!(fixture.database.unpublished().await, 0);
    // The database may still be undoing it.
    let applied = eventually("the room to be unlocked", || async {
        Some(fixture.apply(&changes[0]).await).filter(|&applied| applied != Applied::Locked)
    })
    .await;
    assert_eq!(applied, SET);
}

async fn a_bare_event_is_newer_than_its_room(fixture: StoreFixture) {
    fixture.create_room("a").await;
    // The clock of another sender is ahead.
    let ahead = at(60).timestamp_millis();
    fixture.apply(&change("a", closed_until(None), ahead)).await;
    assert_eq!(fixture.apply(&bare("a", Lobby::OPEN, 1)).await, SET);
    assert_eq!(fixture.version("a").await, ahead + 1);
}

async fn an_event_that_has_waited_does_not_override_the_api(fixture: StoreFixture) {
    fixture.create_room("a").await;
    let waiting = bare("a", Lobby::OPEN, 0).waited(Version::ZERO);
    let by_timestamp = IncomingChange {
        order: ChangeOrder::WithinSecond {
            estimate: Version::of(at(0)),
            end: Version::of(at(0) + TimeDelta::milliseconds(999)),
        },
        ..bare("a", Lobby::OPEN, 3)
    };
    // The API closes at `at(1)`.
    fixture.change("a", "alice", close_until(50)).await;
    for late in [waiting, by_timestamp] {
        assert_eq!(fixture.apply(&late).await, Applied::Stale);
        assert_eq!(fixture.lobby("a").await, closed_until(Some(at(50))));
    }
}

/// The acknowledgement was lost, or the sender has repeated the message.
async fn a_repeated_delivery_changes_nothing_although_the_room_was_changed(fixture: StoreFixture) {
    fixture.create_room("a").await;
    let close = closed_until(None);
    assert_eq!(fixture.apply_all(&[bare("a", close, 0)], at(0)).await, [SET]);
    fixture.change("a", "alice", close_until(50)).await;
    let again = repeated("a", close, 9);
    assert_eq!(fixture.apply_all(&[again], at(9)).await, [Applied::Stale]);
    assert_eq!(fixture.lobby("a").await, closed_until(Some(at(50))));
    // Half an hour later it is another event.
    let later = repeated("a", close, 1810);
    assert_eq!(
        fixture.apply_all(&[later], at(1810)).await,
        [Applied::Set { replaced: Some(at(50)) }]
    );
}

async fn equal_events_of_the_sender_both_apply(fixture: StoreFixture) {
    fixture.create_room("a").await;
    let close = closed_until(None);
    for seconds in [2, 4] {
        assert_eq!(fixture.apply(&bare("a", close, seconds)).await, SET);
        assert_eq!(fixture.apply(&bare("a", Lobby::OPEN, seconds + 1)).await, SET);
    }
    assert_eq!(fixture.lobby("a").await, Lobby::OPEN);
}

async fn an_event_repeated_within_a_set_is_applied_once(fixture: StoreFixture) {
    fixture.database.insert_room("a").await;
    let close = closed_until(None);
    let changes = [bare("a", close, 1), bare("a", Lobby::OPEN, 2), repeated("a", close, 3)];
    assert_eq!(fixture.apply_all(&changes, at(3)).await, [SET, SET, Applied::Stale]);
    assert_eq!(fixture.lobby("a").await, Lobby::OPEN);
}

async fn a_stale_event_stays_stale_when_it_is_delivered_again(fixture: StoreFixture) {
    fixture.create_room("a").await;
    fixture.change("a", "alice", close_until(50)).await;
    let waiting = bare("a", Lobby::OPEN, 0).waited(Version::ZERO);
    assert_eq!(fixture.apply_all(&[waiting], at(5)).await, [Applied::Stale]);
    let again = repeated("a", Lobby::OPEN, 9);
    assert_eq!(fixture.apply_all(&[again], at(9)).await, [Applied::Stale]);
    assert_eq!(fixture.lobby("a").await, closed_until(Some(at(50))));
}

async fn lobbyds_own_change_of_a_deleted_room_is_stale(fixture: StoreFixture) {
    let own = IncomingChange { own: true, ..change("gone", Lobby::OPEN, 1) };
    assert_eq!(fixture.apply(&own).await, Applied::Stale);
}

async fn identities_of_events_are_pruned(fixture: StoreFixture) {
    for (room, seconds) in [("a", 1), ("b", 2), ("c", 3)] {
        fixture.database.insert_room(room).await;
        fixture.apply_all(&[bare(room, closed_until(None), seconds)], at(seconds)).await;
    }
    assert_eq!(fixture.store.prune_applied(at(3), 1).await.unwrap(), 1);
    assert_eq!(fixture.store.prune_applied(at(3), 9).await.unwrap(), 1);
    assert_eq!(fixture.database.number("SELECT count(*) FROM lobbyd_inbox").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_room_does_not_delay_others_on_postgres() {
    a_locked_room_does_not_delay_others(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_room_does_not_delay_others_on_mariadb() {
    a_locked_room_does_not_delay_others(Kind::MariaDb).await;
}

async fn a_locked_room_does_not_delay_others(kind: Kind) {
    let fixture = StoreFixture::new(kind).await;
    for room in ["held", "free"] {
        fixture.database.insert_room(room).await;
    }
    let close = closed_until(None);
    let changes =
        [change("held", close, 5), change("free", close, 5), change("held", Lobby::OPEN, 6)];
    let holder =
        fixture.database.hold("SELECT id FROM lobbyd_rooms WHERE token = 'held' FOR UPDATE").await;
    let applied = fixture.apply_all(&changes, at(1)).await;
    assert_eq!(applied, [Applied::Locked, SET, Applied::Locked]);
    drop(holder);
    let applied = eventually("the release of the lock", || async {
        let applied = fixture.apply_all(&changes, at(1)).await;
        (applied[0] != Applied::Locked).then_some(applied)
    })
    .await;
    assert_eq!(applied, [SET, Applied::Stale, SET]);
    assert_eq!(fixture.lobby("held").await, Lobby::OPEN);
}

/// A program that inserts a row with a foreign key to the room does not delay its changes.
#[tokio::test(flavor = "multi_thread")]
async fn a_reference_to_a_room_does_not_lock_it() {
    let fixture = StoreFixture::new(Kind::Postgres).await;
    fixture.database.insert_room("a").await;
    let holder = fixture.database.hold("SELECT 1 FROM lobbyd_rooms FOR KEY SHARE").await;
    assert_eq!(fixture.apply(&change("a", closed_until(None), 5)).await, SET);
    drop(holder);
}
