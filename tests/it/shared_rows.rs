//! What the store promises about events that share a row of the outbox, on each database.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use lobbyd::{
    domain::{OutboxEvent, OutboxRow},
    store::{Available, Backlog, ClaimedRows, Division, DueBatch},
};

use crate::support::fixtures::{StoreFixture, at, available};

on_every_database! { crate::support::fixtures::StoreFixture::new:
    the_events_of_many_rooms_share_a_row,
    the_events_of_few_rooms_have_a_row_each,
    a_claim_takes_whole_rows,
    the_events_of_a_row_are_marked_together,
    a_row_is_divided_by_what_became_of_its_events,
    a_row_that_another_process_has_claimed_is_not_divided,
    a_row_is_taken_apart,
    a_row_of_one_event_or_of_published_ones_is_not_taken_apart,
    events_are_counted_not_rows,
    a_row_that_is_no_array_of_events_is_refused,
}

/// Rooms whose events share a row.
const ROOMS: u32 = 100;

/// Events of several rows, ordered by their ids.
fn sorted(rows: &[OutboxRow]) -> Vec<OutboxEvent> {
    let mut events: Vec<_> = rows.iter().flat_map(|row| row.events.clone()).collect();
    events.sort_by(|one, other| one.id.cmp(&other.id));
    events
}

fn sizes(rows: &[OutboxRow]) -> Vec<usize> {
    rows.iter().map(|row| row.events.len()).collect()
}

/// Opens rooms PREFIX1, PREFIX2, … at `at(due)`.
async fn open(
    fixture: &StoreFixture,
    prefix: &str,
    rooms: u32,
    due: i64,
    claimed_until: Option<DateTime<Utc>>,
) -> Vec<OutboxRow> {
    fixture.database.insert_rooms(prefix, rooms, at(due).timestamp()).await;
    let batch = DueBatch::first(rooms);
    fixture.store.fire_due(at(due), batch, claimed_until).await.unwrap().rows
}

async fn claim(fixture: &StoreFixture, now: DateTime<Utc>, limit: u32) -> ClaimedRows {
    fixture.store.claim(available(now), limit, at(900)).await.unwrap()
}

async fn claim_all(fixture: &StoreFixture, now: DateTime<Utc>) -> Vec<OutboxRow> {
    claim(fixture, now, 1000).await.rows
}

async fn rows(fixture: &StoreFixture) -> i64 {
    fixture.database.number("SELECT count(*) FROM lobbyd_outbox").await
}

async fn the_events_of_many_rooms_share_a_row(fixture: StoreFixture) {
    fixture.database.insert_rooms("room", ROOMS, at(0).timestamp()).await;
    let late = fixture.database.timestamp_sql(at(1).timestamp());
    let set_late = "UPDATE lobbyd_rooms SET lobby_version = 1767225600500 WHERE token =";
    fixture.database.execute(&format!("{set_late} 'room7'")).await;
    let moved = "UPDATE lobbyd_rooms SET lobby_timer =";
    fixture.database.execute(&format!("{moved} {late} WHERE token = 'room8'")).await;
    let fired = fixture.store.fire_due(at(1), DueBatch::first(ROOMS), None).await.unwrap().rows;
    let [row] = fired.as_slice() else { panic!("{:?}", sizes(&fired)) };
    assert_eq!((&row.id, row.events.len(), row.attempt), (&row.events[0].id, 100, 0));
    assert_eq!(rows(&fixture).await, 1);
    assert_eq!(fixture.database.unpublished().await, 100);

    let claimed = claim_all(&fixture, at(1)).await;
    let [stored] = claimed.as_slice() else { panic!("{:?}", sizes(&claimed)) };
    assert_eq!((&stored.id, stored.attempt), (&row.id, 1));
    assert_eq!(stored.events, row.events);
    let ids: BTreeSet<_> = stored.events.iter().map(|event| &event.id).collect();
    assert_eq!(ids.len(), 100);
    let due = |token: &str| {
        stored.events.iter().find(|event| event.token.as_str() == token).unwrap().due_at
    };
    assert_eq!([due("room7"), due("room8"), due("room9")], [None, Some(at(1)), Some(at(0))]);
    for event in &stored.events {
        let data: serde_json::Value = serde_json::from_str(&event.data).unwrap();
        assert_eq!(data["token"], event.token.as_str());
    }
    assert!(claim_all(&fixture, at(899)).await.is_empty());
    assert_eq!(claim_all(&fixture, at(900)).await[0].attempt, 2);
}

async fn the_events_of_few_rooms_have_a_row_each(fixture: StoreFixture) {
    let fired = open(&fixture, "room", 64, 0, None).await;
    assert_eq!(sizes(&fired), [1; 64]);
    assert_eq!(rows(&fixture).await, 64);
    let fired = open(&fixture, "other", 65, 0, Some(at(5))).await;
    assert_eq!((sizes(&fired), fired[0].attempt), (vec![65], 1));
    assert_eq!(claim_all(&fixture, at(4)).await.len(), 64);
    let taken_over = claim_all(&fixture, at(5)).await;
    assert_eq!((sizes(&taken_over), taken_over[0].attempt), (vec![65], 2));
}

async fn a_claim_takes_whole_rows(fixture: StoreFixture) {
    let first = open(&fixture, "first", ROOMS, 0, None).await;
    let second = open(&fixture, "second", ROOMS, 1, None).await;
    open(&fixture, "third", 1, 2, None).await;
    let claimed = claim(&fixture, at(2), 150).await;
    assert_eq!((claimed.rows[0].id.clone(), claimed.rows.len()), (first[0].id.clone(), 1));
    assert!(claimed.is_full);
    // It has more events than the limit.
    let claimed = claim(&fixture, at(2), 10).await;
    assert_eq!(
        (claimed.rows[0].id.clone(), sizes(&claimed.rows)),
        (second[0].id.clone(), vec![100])
    );
    assert!(claimed.is_full);
    let claimed = claim(&fixture, at(2), 10).await;
    assert_eq!((sizes(&claimed.rows), claimed.is_full), (vec![1], false));
    let claimed = claim(&fixture, at(2), 10).await;
    assert!(claimed.rows.is_empty() && !claimed.is_full);
    let claimed = claim(&fixture, at(900), 1000).await;
    assert_eq!((sizes(&claimed.rows), claimed.is_full), (vec![100, 100, 1], false));
}

async fn the_events_of_a_row_are_marked_together(fixture: StoreFixture) {
    let first = open(&fixture, "first", ROOMS, 0, None).await;
    open(&fixture, "second", ROOMS, 0, None).await;
    fixture.store.mark_published(std::slice::from_ref(&first[0].id), at(1)).await.unwrap();
    assert_eq!(fixture.database.unpublished().await, 100);
    let left = claim_all(&fixture, at(900)).await;
    assert!(sorted(&left).iter().all(|event| event.token.as_str().starts_with("second")));
}

/// The first events of a row were confirmed, the next ones refused, the others not answered.
fn division(row: &OutboxRow, confirmed: usize, refused: usize) -> Division {
    let mut events = row.events.clone();
    let mut rest = events.split_off(confirmed);
    let others = rest.split_off(refused);
    Division {
        confirmed: events,
        refused: rest,
        others,
        attempts: row.attempt,
        now: at(1),
        others_at: at(10),
        retry_at: at(20),
    }
}

async fn a_row_is_divided_by_what_became_of_its_events(fixture: StoreFixture) {
    open(&fixture, "room", 150, 0, None).await;
    let claimed = claim_all(&fixture, at(0)).await;
    let row = &claimed[0];
    fixture.store.divide(&row.id, at(900), division(row, 70, 10)).await.unwrap();
    assert_eq!(fixture.database.unpublished().await, 80);
    // One with 70 events, ten with one, and one with 70.
    assert_eq!(rows(&fixture).await, 12);
    assert!(claim_all(&fixture, at(9)).await.is_empty());
    let others = claim_all(&fixture, at(10)).await;
    assert_eq!((sizes(&others), others[0].attempt), (vec![70], 2));
    assert_eq!(sorted(&others), row.events[80..]);
    assert!(claim_all(&fixture, at(19)).await.is_empty());
    let refused = claim_all(&fixture, at(20)).await;
    assert_eq!(sizes(&refused), [1; 10]);
    assert!(refused.iter().all(|row| row.attempt == 2 && row.id == row.events[0].id));
    assert_eq!(sorted(&refused), row.events[70..80]);

    let again = "UPDATE lobbyd_outbox SET published_at = NULL WHERE published_at IS NOT NULL";
    assert_eq!(fixture.database.execute(again).await, 1);
    let confirmed = claim_all(&fixture, at(20)).await;
    assert_eq!(sorted(&confirmed), row.events[..70]);
}

async fn a_row_that_another_process_has_claimed_is_not_divided(fixture: StoreFixture) {
    open(&fixture, "room", ROOMS, 0, Some(at(5))).await;
    let taken_over = claim_all(&fixture, at(5)).await;
    let row = &taken_over[0];
    fixture.store.divide(&row.id, at(5), division(row, 50, 0)).await.unwrap();
    assert_eq!((rows(&fixture).await, fixture.database.unpublished().await), (1, 100));
    fixture.store.mark_published(std::slice::from_ref(&row.id), at(6)).await.unwrap();
    fixture.store.divide(&row.id, at(900), division(row, 50, 0)).await.unwrap();
    assert_eq!((rows(&fixture).await, fixture.database.unpublished().await), (1, 0));
}

async fn a_row_is_taken_apart(fixture: StoreFixture) {
    open(&fixture, "other", ROOMS, 0, Some(at(7))).await;
    let fired = open(&fixture, "room", ROOMS, 0, Some(at(5))).await;
    assert!(fixture.store.take_apart(&fired[0].id).await.unwrap());
    assert_eq!((rows(&fixture).await, fixture.database.unpublished().await), (101, 200));
    assert!(!fixture.store.take_apart(&fired[0].id).await.unwrap(), "it has one event now");
    assert!(claim_all(&fixture, at(4)).await.is_empty());
    let claimed = claim_all(&fixture, at(5)).await;
    assert_eq!(sizes(&claimed), [1; 100]);
    assert!(claimed.iter().all(|row| row.attempt == 2 && row.id == row.events[0].id));
    assert_eq!(sorted(&claimed), fired[0].events);
}

async fn a_row_of_one_event_or_of_published_ones_is_not_taken_apart(fixture: StoreFixture) {
    let single = open(&fixture, "single", 1, 0, None).await;
    let shared = open(&fixture, "room", ROOMS, 0, None).await;
    fixture.store.mark_published(std::slice::from_ref(&shared[0].id), at(1)).await.unwrap();
    for row in [&single[0], &shared[0]] {
        assert!(!fixture.store.take_apart(&row.id).await.unwrap());
    }
    assert_eq!(rows(&fixture).await, 2);
    fixture.database.execute("DELETE FROM lobbyd_outbox").await;
    assert!(!fixture.store.take_apart(&single[0].id).await.unwrap());
}

async fn events_are_counted_not_rows(fixture: StoreFixture) {
    let shared = open(&fixture, "room", ROOMS, 3, None).await;
    open(&fixture, "single", 2, 4, None).await;
    let counted = fixture.store.backlog().await.unwrap();
    assert_eq!(counted, Backlog { timers_pending: 0, outbox_pending: 102 });
    assert_eq!(fixture.store.fired_since(at(3)).await.unwrap(), 102);
    assert_eq!(fixture.store.fired_since(at(4)).await.unwrap(), 2);
    let pending = fixture.store.pending(&[], 1).await.unwrap().unwrap();
    assert_eq!((&pending.oldest, pending.is_refused), (&shared[0].id, false));
    assert_eq!((&pending.room, pending.created_at), (&shared[0].events[0].token, at(3)));
    claim_all(&fixture, at(4)).await;
    let pending = fixture.store.pending(&[], 1).await.unwrap().unwrap();
    assert_eq!((pending.is_refused, pending.refused), (true, 102));
    let except = [shared[0].id.clone()];
    assert_eq!(fixture.store.pending(&except, 1).await.unwrap().unwrap().refused, 2);
    fixture.store.mark_published(&except, at(5)).await.unwrap();
    assert_eq!(fixture.store.backlog().await.unwrap().outbox_pending, 2);
}

async fn a_row_that_is_no_array_of_events_is_refused(fixture: StoreFixture) {
    let shared = open(&fixture, "room", ROOMS, 0, None).await;
    open(&fixture, "single", 1, 0, None).await;
    for data in
        ["", "{", "{}", "[]", "[1]", r#"[{"id":"1"}]"#, r#"[{"id":1,"token":"a","data":{}}]"#]
    {
        let sql = format!("UPDATE lobbyd_outbox SET data = '{data}' WHERE events > 1");
        assert_eq!(fixture.database.execute(&sql).await, 1);
        let error = fixture.store.claim(available(at(1)), 1000, at(2)).await.unwrap_err();
        assert!(error.is_refusal(), "{data}: {error:?}");
        assert!(fixture.store.take_apart(&shared[0].id).await.is_err(), "{data}");
    }
    let others = Available { except: std::slice::from_ref(&shared[0].id), ..available(at(1)) };
    let claimed = fixture.store.claim(others, 1000, at(2)).await.unwrap();
    assert_eq!(sizes(&claimed.rows), [1]);
}
