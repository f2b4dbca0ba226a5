//! What the store promises about timers and the outbox, on each database, and on that of the simulator.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use lobbyd::{
    domain::{Applied, EventId, Lobby, RoomType, commands::NewRoom},
    store::{Available, Backlog, CommandError, DueBatch, NotFired, StoreError},
};

use crate::{
    simulated_world::{Obstacle, SimulatedStore, World},
    support::{
        database::{Database, Kind},
        eventually,
        fixtures::{
            OtherProgram, StoreFixture, at, available, bare, caller, change, closed_until,
            new_room, token,
        },
    },
};

on_every_database! { crate::support::fixtures::StoreFixture::new:
    every_statement_can_be_prepared,
    migrating_twice_changes_nothing,
    the_store_returns_the_time_of_the_database,
    a_change_arms_moves_and_disarms_a_timer,
    a_change_that_is_not_newer_is_stale,
    a_change_of_an_unknown_room_creates_nothing,
    a_room_without_lobby_support_stays_open,
    a_redelivered_event_does_not_reset_a_room_twice,
    a_due_timer_fires_once,
    a_timer_never_fires_early,
    a_superseded_timer_never_fires,
    a_row_written_by_another_program_is_a_timer,
    the_timer_of_an_open_room_never_fires_and_is_cleared,
    timers_are_searched_by_their_key,
    a_timer_that_was_set_late_has_no_lag,
    a_batch_that_is_refused_is_named,
    a_timer_of_a_room_without_lobby_support_never_fires,
    a_batch_fires_the_longest_overdue_timers_first,
    tokens_are_case_sensitive,
    the_last_second_of_the_year_9999_is_stored,
    the_next_due_time_is_that_of_the_earliest_timer,
    a_claim_is_exclusive_until_it_expires,
    a_released_event_can_be_claimed_again,
    a_published_event_is_kept_as_history,
    events_can_be_claimed_by_the_worker_that_fired_them,
    the_oldest_unpublished_event_is_known,
    a_claim_leaves_events_out,
    claims_that_end_too_late_are_ended,
    old_rows_are_pruned,
    pruning_respects_its_limit,
    the_backlog_is_counted,
    a_new_url_is_tried_before_it_is_used,
    a_room_is_created_once,
    a_closed_store_is_unavailable_at_once,
}

on_the_simulated_database! { simulated:
    migrating_twice_changes_nothing,
    a_change_arms_moves_and_disarms_a_timer,
    a_change_that_is_not_newer_is_stale,
    a_change_of_an_unknown_room_creates_nothing,
    a_redelivered_event_does_not_reset_a_room_twice,
    a_due_timer_fires_once,
    a_timer_never_fires_early,
    a_superseded_timer_never_fires,
    a_row_written_by_another_program_is_a_timer,
    a_timer_that_was_set_late_has_no_lag,
    a_batch_that_is_refused_is_named,
    a_batch_fires_the_longest_overdue_timers_first,
    tokens_are_case_sensitive,
    the_last_second_of_the_year_9999_is_stored,
    the_next_due_time_is_that_of_the_earliest_timer,
    a_claim_is_exclusive_until_it_expires,
    a_released_event_can_be_claimed_again,
    a_published_event_is_kept_as_history,
    events_can_be_claimed_by_the_worker_that_fired_them,
    the_oldest_unpublished_event_is_known,
    claims_that_end_too_late_are_ended,
    old_rows_are_pruned,
    pruning_respects_its_limit,
    the_backlog_is_counted,
}

/// The database of the simulator, which stands for the real ones.
fn simulated() -> StoreFixture<SimulatedStore> {
    let database = SimulatedStore(World::new(0, None));
    let store = Arc::new(database.clone());
    StoreFixture { owner: Arc::<SimulatedStore>::clone(&store), store, database }
}

impl OtherProgram for SimulatedStore {
    async fn insert_room(&self, token: &str) {
        self.0.state.lock().tables.insert_room(token, Lobby::OPEN);
    }

    async fn insert_rooms(&self, prefix: &str, number: u32, timer: i64) {
        let lobby = closed_until(DateTime::from_timestamp(timer, 0));
        for index in 1..=number {
            self.0.state.lock().tables.insert_room(&format!("{prefix}{index}"), lobby);
        }
    }

    async fn refuse_reset(&self, room: &str) {
        let rooms = &mut self.0.state.lock().tables.rooms;
        rooms.get_mut(&token(room)).unwrap().obstacle = Some(Obstacle::Refused);
    }
}

async fn every_statement_can_be_prepared(fixture: StoreFixture) {
    fixture.store.prepare_all().await.unwrap();
    // Connections on which statements were prepared without values must still run them.
    a_due_timer_fires_once(fixture).await;
}

async fn migrating_twice_changes_nothing(fixture: StoreFixture<impl OtherProgram>) {
    fixture.database.insert_room("a").await;
    fixture.owner.migrate().await.unwrap();
    assert_eq!(fixture.lobby("a").await, Lobby::OPEN);
}

async fn the_store_returns_the_time_of_the_database(fixture: StoreFixture) {
    let before = fixture.database.now_millis().await;
    let now = fixture.store.now().await.unwrap().timestamp_millis();
    let after = fixture.database.now_millis().await;
    assert!((before..=after).contains(&now), "{before} {now} {after}");
}

async fn a_change_arms_moves_and_disarms_a_timer(fixture: StoreFixture<impl OtherProgram>) {
    fixture.database.insert_room("a").await;
    let armed = closed_until(Some(at(10)));
    let applied = fixture.apply(&change("a", armed, 1)).await;
    assert_eq!(applied, Applied::Set { replaced: None });
    assert_eq!(fixture.lobby("a").await, armed);

    let moved = closed_until(Some(at(20)));
    let applied = fixture.apply(&change("a", moved, 2)).await;
    assert_eq!(applied, Applied::Set { replaced: Some(at(10)) });
    assert_eq!(fixture.lobby("a").await, moved);

    let applied = fixture.apply(&change("a", closed_until(None), 3)).await;
    assert_eq!(applied, Applied::Set { replaced: Some(at(20)) });
    assert_eq!(fixture.lobby("a").await, closed_until(None));

    let applied = fixture.apply(&change("a", Lobby::OPEN, 4)).await;
    assert_eq!(applied, Applied::Set { replaced: None });
    assert_eq!(fixture.lobby("a").await, Lobby::OPEN);
    assert_eq!(fixture.version("a").await, 4);
}

async fn a_change_that_is_not_newer_is_stale(fixture: StoreFixture<impl OtherProgram>) {
    fixture.database.insert_room("a").await;
    let lobby = closed_until(Some(at(10)));
    fixture.apply(&change("a", lobby, 5)).await;
    for version in [5, 4] {
        let stale = change("a", Lobby::OPEN, version);
        assert_eq!(fixture.apply(&stale).await, Applied::Stale);
    }
    assert_eq!(fixture.lobby("a").await, lobby);
    assert_eq!(fixture.version("a").await, 5);
}

async fn a_change_of_an_unknown_room_creates_nothing(fixture: StoreFixture<impl OtherProgram>) {
    let applied = fixture.apply(&change("nowhere", closed_until(None), 1)).await;
    assert_eq!(applied, Applied::UnknownRoom);
    assert_eq!(fixture.store.room(&token("nowhere")).await.unwrap(), None);
}

async fn a_room_without_lobby_support_stays_open(fixture: StoreFixture) {
    let insert = "INSERT INTO lobbyd_rooms (token, type, name, object_type) VALUES";
    fixture
        .database
        .execute(&format!("{insert} ('one', 1, '', ''), ('file', 3, '', 'file')"))
        .await;
    for room in ["one", "file"] {
        let applied = fixture.apply(&change(room, closed_until(None), 1)).await;
        assert_eq!(applied, Applied::LobbyNotSupported);
        assert_eq!(fixture.lobby(room).await, Lobby::OPEN);
    }
}

async fn a_redelivered_event_does_not_reset_a_room_twice(fixture: StoreFixture<impl OtherProgram>) {
    fixture.database.insert_room("a").await;
    fixture.apply(&bare("a", closed_until(Some(at(10))), 1)).await;
    assert_eq!(fixture.fire(at(10)).await, ["a"]);
    // Redelivered after a crash, the same event has a later receive time.
    let again = fixture.apply(&bare("a", closed_until(Some(at(10))), 11)).await;
    assert_eq!(again, Applied::Stale);
    assert!(fixture.fire(at(20)).await.is_empty());
}

async fn a_due_timer_fires_once(fixture: StoreFixture<impl OtherProgram>) {
    fixture.database.insert_room("a").await;
    fixture.apply(&change("a", closed_until(Some(at(10))), 7)).await;
    let now = at(10) + TimeDelta::milliseconds(3);
    let fired = fixture.store.fire_due(now, DueBatch::first(100), None).await.unwrap();
    assert_eq!(fired.events().count(), 1);
    let event = fired.events().next().unwrap();
    let data: serde_json::Value = serde_json::from_str(&event.data).unwrap();
    let expected = serde_json::json!({
        "token": "a", "type": 3, "lobbyState": 0, "lobbyTimer": 0, "sipEnabled": 0, "version": 8,
        "reason": "lobby_timer_reached", "dueAt": "2026-01-01T00:00:10Z",
        "firedAt": "2026-01-01T00:00:10.003Z",
    });
    assert_eq!(data, expected);
    assert_eq!(fixture.lobby("a").await, Lobby::OPEN);
    assert_eq!(fixture.version("a").await, 8);

    assert!(fixture.fire(at(60)).await.is_empty());
    let mut stored = fixture.claim(available(now), 100, at(60)).await.unwrap();
    stored.retain(|row| row.events[0].due_at.is_some());
    let [row] = stored.as_slice() else { panic!("{stored:?}") };
    assert_eq!((row.events.as_slice(), row.attempt), ([event.clone()].as_slice(), 1));
    assert_eq!((event.created_at, event.due_at), (now, Some(at(10))));
}

async fn a_new_url_is_tried_before_it_is_used(fixture: StoreFixture) {
    let other = Database::as_owner(fixture.database.kind).await;
    assert!(fixture.store.try_urls(&["nonsense"]).await.is_err());
    assert!(fixture.store.try_urls(&[&other.url]).await.is_err(), "it has no tables");
    other.store().await;
    other.insert_room("a").await;
    fixture.store.try_urls(&[&other.url]).await.unwrap();
    assert_eq!(fixture.store.room(&token("a")).await.unwrap(), None);
    fixture.store.use_urls(&[&other.url]).unwrap();
    assert_eq!(fixture.lobby("a").await, Lobby::OPEN);
}

async fn a_timer_never_fires_early(fixture: StoreFixture<impl OtherProgram>) {
    fixture.database.insert_room("a").await;
    fixture.apply(&change("a", closed_until(Some(at(10))), 1)).await;
    assert!(fixture.fire(at(9) + TimeDelta::milliseconds(999)).await.is_empty());
    assert_eq!(fixture.lobby("a").await, closed_until(Some(at(10))));
    assert_eq!(fixture.fire(at(10)).await, ["a"]);
}

async fn a_superseded_timer_never_fires(fixture: StoreFixture<impl OtherProgram>) {
    for room in ["moved", "removed", "opened"] {
        fixture.database.insert_room(room).await;
        fixture.apply(&change(room, closed_until(Some(at(10))), 1)).await;
    }
    fixture.apply(&change("moved", closed_until(Some(at(30))), 2)).await;
    fixture.apply(&change("removed", closed_until(None), 2)).await;
    fixture.apply(&change("opened", Lobby::OPEN, 2)).await;
    assert!(fixture.fire(at(20)).await.is_empty());
    assert_eq!(fixture.lobby("removed").await, closed_until(None));
    assert_eq!(fixture.fire(at(30)).await, ["moved"]);
    // A setting that was made before the reset and arrives after it still wins by its version.
    let late = change("moved", closed_until(Some(at(90))), 4);
    assert!(matches!(fixture.apply(&late).await, Applied::Set { .. }));
}

async fn a_row_written_by_another_program_is_a_timer(fixture: StoreFixture<impl OtherProgram>) {
    fixture.database.insert_rooms("room", 3, at(5).timestamp()).await;
    assert_eq!(
        fixture.store.next_due(None, &[]).await.unwrap().map(|timer| timer.key.due_at),
        Some(at(5))
    );
    assert!(fixture.fire(at(4)).await.is_empty());
    let mut fired = fixture.fire(at(5)).await;
    fired.sort();
    assert_eq!(fired, ["room1", "room2", "room3"]);
}

async fn the_timer_of_an_open_room_never_fires_and_is_cleared(fixture: StoreFixture) {
    fixture.database.insert_rooms("a", 3, at(5).timestamp()).await;
    fixture.database.execute("UPDATE lobbyd_rooms SET lobby_state = 0, lobby_version = 9").await;
    fixture.database.insert_rooms("closed", 1, at(50).timestamp()).await;
    assert!(fixture.fire(at(5)).await.is_empty());
    let first = fixture.store.next_due(None, &[]).await.unwrap().unwrap();
    assert_eq!(first.token, token("closed1"));
    for cleared in [2, 1, 0] {
        assert_eq!(fixture.store.clear_timers_of_open_rooms(2).await.unwrap(), cleared);
    }
    assert_eq!(fixture.lobby("a1").await, Lobby::OPEN);
    assert_eq!(fixture.version("a1").await, 9);
    assert_eq!(fixture.lobby("closed1").await, closed_until(Some(at(50))));
    assert_eq!(fixture.database.unpublished().await, 0);
}

/// A search begins after a timer, and leaves out others.
async fn timers_are_searched_by_their_key(fixture: StoreFixture) {
    fixture.database.insert_rooms("early", 2, at(5).timestamp()).await;
    fixture.database.insert_rooms("late", 2, at(9).timestamp()).await;
    let mut keys = Vec::new();
    let mut after = None;
    while let Some(timer) = fixture.store.next_due(after, &[]).await.unwrap() {
        after = Some(timer.key);
        keys.push((timer.key, timer.token.to_string()));
    }
    let tokens: Vec<&str> = keys.iter().map(|(_key, token)| token.as_str()).collect();
    assert_eq!(tokens, ["early1", "early2", "late1", "late2"]);

    let except = [keys[1].0, keys[2].0];
    let next = fixture.store.next_due(Some(keys[0].0), &except).await.unwrap().unwrap();
    assert_eq!(next.key, keys[3].0);
    let batch = DueBatch { after: Some(keys[0].0), except: &except, ..DueBatch::first(9) };
    let fired = fixture.store.fire_due(at(10), batch, None).await.unwrap();
    assert_eq!((fired.events().count(), fired.last), (1, Some(keys[3].0)));
    // Another timer of a room that is left out.
    let moved = "UPDATE lobbyd_rooms SET lobby_timer =";
    let timer = fixture.database.timestamp_sql(at(6).timestamp());
    fixture.database.execute(&format!("{moved} {timer} WHERE token = 'early2'")).await;
    let batch = DueBatch { except: &except, ..DueBatch::first(9) };
    let fired = fixture.store.fire_due(at(10), batch, None).await.unwrap();
    let tokens: Vec<&str> = fired.events().map(|event| event.token.as_str()).collect();
    assert_eq!(tokens, ["early1", "early2"]);
}

/// The lag of a timer that was overdue when it was set is not lobbyd's.
async fn a_timer_that_was_set_late_has_no_lag(fixture: StoreFixture<impl OtherProgram>) {
    for (room, version) in [("set", at(9)), ("late", at(11))] {
        fixture.database.insert_room(room).await;
        let change = change(room, closed_until(Some(at(10))), version.timestamp_millis());
        fixture.apply(&change).await;
    }
    let fired = fixture.store.fire_due(at(12), DueBatch::first(9), None).await.unwrap();
    let due: Vec<_> = fired.events().map(|event| event.due_at).collect();
    assert_eq!(due, [Some(at(10)), None]);
    assert!(fired.rows[1].events[0].data.contains(r#""dueAt":"2026-01-01T00:00:10Z""#));
    assert_eq!(fixture.store.fired_since(at(0)).await.unwrap(), 2);
}

/// An error names the timers of its batch, and nothing has happened to them.
async fn a_batch_that_is_refused_is_named(fixture: StoreFixture<impl OtherProgram>) {
    fixture.database.insert_rooms("a", 3, at(5).timestamp()).await;
    fixture.database.refuse_reset("a2").await;
    let error = fixture.store.fire_due(at(5), DueBatch::first(9), None).await.unwrap_err();
    let NotFired { due, error } = error;
    assert!(matches!(error, StoreError::Rejected(_)), "{error:?}");
    let tokens: Vec<&str> = due.iter().map(|timer| timer.token.as_str()).collect();
    assert_eq!(tokens, ["a1", "a2", "a3"]);
    for room in ["a1", "a2", "a3"] {
        assert_eq!(fixture.lobby(room).await, closed_until(Some(at(5))));
    }
    let batch = DueBatch { except: &[due[1].key], ..DueBatch::first(9) };
    assert_eq!(fixture.store.fire_due(at(5), batch, None).await.unwrap().events().count(), 2);
}

async fn a_timer_of_a_room_without_lobby_support_never_fires(fixture: StoreFixture) {
    fixture.database.insert_rooms("one", 1, at(5).timestamp()).await;
    fixture.database.execute("UPDATE lobbyd_rooms SET type = 1").await;
    fixture.database.insert_rooms("file", 1, at(5).timestamp()).await;
    fixture.database.execute("UPDATE lobbyd_rooms SET object_type = 'file' WHERE type = 3").await;
    assert!(fixture.fire(at(5)).await.is_empty());
    assert_eq!(
        fixture.store.next_due(None, &[]).await.unwrap().map(|timer| timer.key.due_at),
        None
    );
    assert_eq!(fixture.lobby("one1").await, closed_until(Some(at(5))));
    assert_eq!(fixture.store.backlog().await.unwrap().timers_pending, 0);
    assert_eq!(fixture.store.unusable_timers().await.unwrap(), 2);
}

async fn a_batch_fires_the_longest_overdue_timers_first(fixture: StoreFixture<impl OtherProgram>) {
    fixture.database.insert_rooms("late", 3, at(9).timestamp()).await;
    fixture.database.insert_rooms("early", 3, at(5).timestamp()).await;
    for expected in ["early", "late"] {
        let fired = fixture.store.fire_due(at(10), DueBatch::first(3), None).await.unwrap();
        assert_eq!(fired.events().count(), 3);
        assert!(fired.events().all(|event| event.token.as_str().starts_with(expected)));
    }
    assert!(fixture.fire(at(10)).await.is_empty());
}

async fn tokens_are_case_sensitive(fixture: StoreFixture<impl OtherProgram>) {
    fixture.database.insert_room("abc").await;
    fixture.database.insert_room("ABC").await;
    fixture.apply(&change("ABC", closed_until(None), 1)).await;
    assert_eq!(fixture.lobby("abc").await, Lobby::OPEN);
    assert_eq!(fixture.lobby("ABC").await, closed_until(None));
}

async fn the_last_second_of_the_year_9999_is_stored(fixture: StoreFixture<impl OtherProgram>) {
    fixture.database.insert_room("a").await;
    let last = DateTime::from_timestamp(253_402_300_799, 0).unwrap();
    fixture.apply(&change("a", closed_until(Some(last)), 1)).await;
    assert_eq!(fixture.lobby("a").await, closed_until(Some(last)));
    assert_eq!(
        fixture.store.next_due(None, &[]).await.unwrap().map(|timer| timer.key.due_at),
        Some(last)
    );
}

async fn the_next_due_time_is_that_of_the_earliest_timer(fixture: StoreFixture<impl OtherProgram>) {
    assert_eq!(
        fixture.store.next_due(None, &[]).await.unwrap().map(|timer| timer.key.due_at),
        None
    );
    fixture.database.insert_rooms("a", 2, at(5).timestamp()).await;
    fixture.database.insert_rooms("b", 2, at(8).timestamp()).await;
    assert_eq!(
        fixture.store.next_due(None, &[]).await.unwrap().map(|timer| timer.key.due_at),
        Some(at(5))
    );
    assert_eq!(fixture.fire(at(6)).await.len(), 2);
    assert_eq!(
        fixture.store.next_due(None, &[]).await.unwrap().map(|timer| timer.key.due_at),
        Some(at(8))
    );
    assert_eq!(fixture.fire(at(8)).await.len(), 2);
    assert_eq!(
        fixture.store.next_due(None, &[]).await.unwrap().map(|timer| timer.key.due_at),
        None
    );
}

fn after(after: DateTime<Utc>, now: DateTime<Utc>) -> Available<'static> {
    Available { after: Some(after), ..available(now) }
}

async fn a_claim_is_exclusive_until_it_expires(fixture: StoreFixture<impl OtherProgram>) {
    fixture.database.insert_rooms("a", 3, at(0).timestamp()).await;
    fixture.fire(at(0)).await;
    let claim = |now, limit| fixture.claim(available(now), limit, at(10));
    assert_eq!(claim(at(1), 2).await.unwrap().len(), 2);
    assert_eq!(claim(at(1), 2).await.unwrap().len(), 1);
    assert!(claim(at(9), 2).await.unwrap().is_empty());
    let again = claim(at(10), 5).await.unwrap();
    assert_eq!(again.len(), 3);
    assert!(again.iter().all(|event| event.attempt == 2));
}

async fn a_released_event_can_be_claimed_again(fixture: StoreFixture<impl OtherProgram>) {
    fixture.database.insert_rooms("a", 1, at(0).timestamp()).await;
    fixture.fire(at(0)).await;
    let claimed = fixture.claim(available(at(0)), 5, at(100)).await.unwrap();
    let ids = [claimed[0].id.clone()];
    fixture.store.release(&ids, at(100), at(7)).await.unwrap();
    assert!(fixture.claim(available(at(6)), 5, at(100)).await.unwrap().is_empty());
    assert!(fixture.claim(after(at(7), at(8)), 5, at(100)).await.unwrap().is_empty());
    assert_eq!(fixture.claim(after(at(6), at(7)), 5, at(90)).await.unwrap()[0].id, ids[0]);
    // A release of the first claim comes too late.
    fixture.store.release(&ids, at(100), at(7)).await.unwrap();
    assert!(fixture.claim(available(at(89)), 5, at(100)).await.unwrap().is_empty());
}

async fn a_published_event_is_kept_as_history(fixture: StoreFixture<impl OtherProgram>) {
    fixture.database.insert_rooms("a", 2, at(0).timestamp()).await;
    fixture.fire(at(0)).await;
    let claimed = fixture.claim(available(at(0)), 1, at(1)).await.unwrap();
    let ids: Vec<EventId> = claimed.into_iter().map(|event| event.id).collect();
    fixture.store.mark_published(&ids, at(2)).await.unwrap();
    // A second worker took over the claim and marks the event again; a third worker releases it
    // without having sent it. The event stays published.
    fixture.store.mark_published(&ids, at(3)).await.unwrap();
    fixture.store.release(&ids, at(1), at(0)).await.unwrap();
    assert_eq!(fixture.claim(available(at(50)), 5, at(60)).await.unwrap().len(), 1);
    assert_eq!(fixture.store.fired_since(at(0)).await.unwrap(), 2);
    assert_eq!(fixture.store.backlog().await.unwrap().outbox_pending, 1);
}

async fn events_can_be_claimed_by_the_worker_that_fired_them(
    fixture: StoreFixture<impl OtherProgram>,
) {
    fixture.database.insert_rooms("a", 1, at(0).timestamp()).await;
    let fired = fixture.store.fire_due(at(0), DueBatch::first(5), Some(at(5))).await.unwrap();
    assert_eq!(fired.rows[0].attempt, 1);
    assert!(fixture.claim(available(at(4)), 5, at(9)).await.unwrap().is_empty());
    let taken_over = fixture.claim(available(at(5)), 5, at(9)).await.unwrap();
    assert_eq!((&taken_over[0].id, taken_over[0].attempt), (&fired.rows[0].id, 2));
}

async fn the_oldest_unpublished_event_is_known(fixture: StoreFixture<impl OtherProgram>) {
    assert_eq!(fixture.store.pending(&[], 3).await.unwrap(), None);
    for (prefix, due) in [("first", 1), ("second", 2)] {
        fixture.database.insert_rooms(prefix, 1, at(due).timestamp()).await;
        fixture.fire(at(due)).await;
    }
    let pending = async || fixture.store.pending(&[], 3).await.unwrap().unwrap();
    let first = pending().await;
    assert_eq!((first.room.as_str(), first.created_at), ("first1", at(1)));
    assert_eq!((first.is_refused, first.refused, first.last_available), (false, 0, at(2)));
    for second in 1..=3 {
        let end = at(second);
        assert_eq!(fixture.claim(available(end), 1, end).await.unwrap().len(), 1);
    }
    let second = pending().await;
    assert_eq!((second.room.as_str(), second.is_refused, second.refused), ("second1", false, 1));
    fixture.store.mark_published(&[second.oldest], at(9)).await.unwrap();
    let refused = pending().await;
    assert_eq!((refused.is_refused, refused.refused), (true, 1));
    assert_eq!(refused.oldest, first.oldest);
    assert_eq!(fixture.store.pending(&[first.oldest], 3).await.unwrap(), None);
}

async fn a_claim_leaves_events_out(fixture: StoreFixture) {
    fixture.database.insert_rooms("a", 3, at(0).timestamp()).await;
    fixture.fire(at(0)).await;
    let first = fixture.store.first_available(available(at(0))).await.unwrap().unwrap();
    let others = Available { except: std::slice::from_ref(&first), ..available(at(0)) };
    let second = fixture.store.first_available(others).await.unwrap().unwrap();
    assert_ne!(second, first);
    let claimed = fixture.claim(others, 5, at(9)).await.unwrap();
    assert_eq!(claimed.len(), 2);
    assert_eq!(claimed[0].id, second);
    assert_eq!(fixture.store.first_available(others).await.unwrap(), None);
    if fixture.database.kind != Kind::Sqlite {
        // Another transaction may just be claiming it.
        let lock = format!("SELECT id FROM lobbyd_outbox WHERE id = '{first}' FOR UPDATE");
        let _held = fixture.database.hold(&lock).await;
        assert_eq!(fixture.store.first_available(available(at(0))).await.unwrap(), None);
    }
    // The server may not have noticed yet that the holder has gone.
    let claimed = eventually("the row to be free", || async {
        fixture.claim(available(at(0)), 5, at(9)).await.unwrap().pop()
    });
    assert_eq!(claimed.await.id, first);
}

async fn claims_that_end_too_late_are_ended(fixture: StoreFixture<impl OtherProgram>) {
    fixture.database.insert_rooms("a", 4, at(0).timestamp()).await;
    fixture.fire(at(0)).await;
    for (number, until) in [(1, at(100)), (3, at(500))] {
        let claimed = fixture.claim(available(at(0)), number, until).await.unwrap();
        assert_eq!(claimed.len(), usize::try_from(number).unwrap());
    }
    for expected in [2, 1, 0] {
        assert_eq!(fixture.store.end_claims(at(10), at(130), 2).await.unwrap(), expected);
    }
    assert_eq!(fixture.claim(available(at(10)), 5, at(20)).await.unwrap().len(), 3);
}

async fn old_rows_are_pruned(fixture: StoreFixture<impl OtherProgram>) {
    for (prefix, due) in [("old", 0), ("new", 100)] {
        fixture.database.insert_rooms(prefix, 2, at(due).timestamp()).await;
        let fired = fixture.store.fire_due(at(due), DueBatch::first(5), None).await.unwrap();
        let published = [fired.rows[0].id.clone()];
        fixture.store.mark_published(&published, at(due)).await.unwrap();
    }
    assert_eq!(fixture.store.prune_published(at(50), 10).await.unwrap(), 1);
    assert_eq!(fixture.store.prune_dead(at(50), 10).await.unwrap(), 1);
    assert_eq!(fixture.store.prune_published(at(100), 10).await.unwrap(), 0);
    assert_eq!(fixture.store.prune_dead(at(100), 10).await.unwrap(), 0);
    assert_eq!(fixture.store.fired_since(at(0)).await.unwrap(), 2);
}

async fn pruning_respects_its_limit(fixture: StoreFixture<impl OtherProgram>) {
    fixture.database.insert_rooms("dead", 5, at(0).timestamp()).await;
    fixture.fire(at(0)).await;
    for expected in [3, 2, 0] {
        assert_eq!(fixture.store.prune_dead(at(1), 3).await.unwrap(), expected);
    }
}

async fn the_backlog_is_counted(fixture: StoreFixture<impl OtherProgram>) {
    assert_eq!(fixture.store.backlog().await.unwrap(), Backlog::default());
    fixture.database.insert_rooms("due", 2, at(3).timestamp()).await;
    fixture.database.insert_rooms("later", 3, at(50).timestamp()).await;
    fixture.fire(at(3)).await;
    let counted = fixture.store.backlog().await.unwrap();
    assert_eq!(counted, Backlog { timers_pending: 3, outbox_pending: 2 });
    assert_eq!(fixture.store.fired_since(at(3)).await.unwrap(), 2);
    assert_eq!(fixture.store.fired_since(at(4)).await.unwrap(), 0);
}

async fn a_room_is_created_once(fixture: StoreFixture) {
    fixture.account("alice").await;
    let create = async |new: NewRoom, room| {
        fixture.store.create(&token(room), &caller("alice"), &new, at(0)).await
    };
    assert!(create(new_room(), "a").await.unwrap().is_some());
    assert!(create(new_room(), "a").await.unwrap().is_none());
    let room = fixture.store.room(&token("a")).await.unwrap().unwrap();
    assert_eq!((room.room_type, room.lobby), (RoomType::Public, Lobby::OPEN));
    let unknown_type = create(NewRoom { room_type: RoomType::Other(9), ..new_room() }, "b").await;
    assert!(
        matches!(unknown_type, Err(CommandError::Store(StoreError::Rejected(_)))),
        "{unknown_type:?}"
    );
    // The pool still works.
    for _ in 0..20 {
        tokio::time::timeout(Duration::from_secs(20), fixture.store.now()).await.unwrap().unwrap();
    }
}

async fn a_closed_store_is_unavailable_at_once(fixture: StoreFixture) {
    fixture.store.now().await.unwrap();
    fixture.store.close().await;
    let refused = fixture.store.now().await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
}
