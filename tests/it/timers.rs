//! The rules of timers, with the tasks of a worker in the test process and a manual clock, on each
//! database.

use std::time::Duration;

use chrono::{SecondsFormat, TimeDelta};
use serde_json::{Value, json};

use crate::support::{
    fixtures::at,
    timers::{BATCH, TimerFixture},
};

on_every_database! { crate::support::timers::TimerFixture::new:
    a_room_opens_at_its_time_and_is_announced_once,
    the_newest_setting_wins,
    a_timer_without_an_event_fires,
    a_sweep_fires_two_batches_at_once,
    a_room_that_falls_due_in_a_sweep_opens_before_its_end,
    a_tick_returns_the_delay_until_the_next_timer,
}

/// Rooms and due times of updates.
fn due(updates: &[Value]) -> Vec<(&str, &str)> {
    assert!(updates.iter().all(|update| update["reason"] == "lobby_timer_reached"));
    updates
        .iter()
        .map(|update| (update["token"].as_str().unwrap(), update["dueAt"].as_str().unwrap()))
        .collect()
}

fn rfc3339(seconds: i64) -> String {
    at(seconds).to_rfc3339_opts(SecondsFormat::Secs, true)
}

async fn a_room_opens_at_its_time_and_is_announced_once(mut fixture: TimerFixture) {
    fixture.database.insert_room("webinar").await;
    let timer = at(10).timestamp();
    let change = json!({"token": "webinar", "version": 7, "state": 1, "timer": timer});
    fixture.apply(&[change]).await;
    fixture.set_time(at(10) - TimeDelta::milliseconds(1));
    fixture.timers.tick().await.unwrap();
    assert_eq!(fixture.database.lobby_state("webinar").await, 1);

    let updates = fixture.fire_at(10).await;
    let expected = json!({
        "token": "webinar", "type": 3, "lobbyState": 0, "lobbyTimer": 0, "sipEnabled": 0,
        "version": 8, "reason": "lobby_timer_reached", "dueAt": rfc3339(10),
        "firedAt": updates[0]["firedAt"],
    });
    assert_eq!(updates, [expected]);
    assert_eq!(fixture.database.lobby_state("webinar").await, 0);
    for later in [10, 11, 1000] {
        assert_eq!(fixture.fire_at(later).await, [Value::Null; 0]);
    }
}

async fn the_newest_setting_wins(mut fixture: TimerFixture) {
    let now = at(0).timestamp();
    let steps: [(&str, &[Value]); 8] = [
        ("moved", &[json!([1, 1, now + 2]), json!([2, 1, now + 4])]),
        ("cancelled", &[json!([1, 1, now + 2]), json!([2, 0, null])]),
        ("untimed", &[json!([1, 1, now + 2]), json!([2, 1, null])]),
        ("rearmed", &[json!([1, 1, now + 2]), json!([2, 0, null]), json!([3, 1, now + 3])]),
        ("past", &[json!([1, 1, now - 10])]),
        ("duplicate", &[json!([1, 1, now + 3]), json!([1, 1, now + 3]), json!([1, 1, now + 3])]),
        ("stale", &[json!([9, 1, now + 3]), json!([8, 1, now + 1]), json!([7, 0, null])]),
        ("withtimer0", &[json!([1, 1, 0])]),
    ];
    let mut changes = Vec::new();
    for (token, settings) in &steps {
        fixture.database.insert_room(token).await;
        changes.extend(settings.iter().map(|setting| {
            json!({"token": token, "version": setting[0], "state": setting[1], "timer": setting[2]})
        }));
    }
    fixture.apply(&changes).await;

    assert_eq!(due(&fixture.fire_at(0).await), [("past", rfc3339(-10).as_str())]);
    assert_eq!(due(&fixture.fire_at(1).await), []);
    assert_eq!(due(&fixture.fire_at(2).await), []);
    let three = rfc3339(3);
    let expected = ["duplicate", "rearmed", "stale"].map(|token| (token, three.as_str()));
    assert_eq!(due(&fixture.fire_at(3).await), expected);
    assert_eq!(due(&fixture.fire_at(4).await), [("moved", rfc3339(4).as_str())]);

    // Duplicates that arrive after the reset change nothing either, whether they have a version or
    // not: without one, the room remembers the timer that was reached.
    let versioned = json!({"token": "duplicate", "version": 1, "state": 1, "timer": now + 3});
    let unversioned = json!({"token": "moved", "state": 1, "timer": now + 4});
    fixture.apply(&[versioned, unversioned]).await;
    assert_eq!(due(&fixture.fire_at(1000).await), []);
    for (token, _settings) in steps {
        let closed = i64::from(["untimed", "withtimer0"].contains(&token));
        assert_eq!(fixture.database.lobby_state(token).await, closed, "{token}");
    }
}

/// The row is the schedule, whichever program writes it.
async fn a_timer_without_an_event_fires(mut fixture: TimerFixture) {
    fixture.database.insert_rooms("row", 3, at(2).timestamp()).await;
    assert_eq!(due(&fixture.fire_at(1).await), []);
    let two = rfc3339(2);
    let expected = ["row1", "row2", "row3"].map(|token| (token, two.as_str()));
    assert_eq!(due(&fixture.fire_at(2).await), expected);
}

async fn a_sweep_fires_two_batches_at_once(mut fixture: TimerFixture) {
    fixture.database.insert_rooms("row", BATCH * 4 + 1, at(0).timestamp()).await;
    assert_eq!(fixture.timers.tick().await.unwrap(), Duration::ZERO);
    assert_eq!(fixture.database.closed_rooms().await, i64::from(BATCH * 3 + 1));
    assert_eq!(fixture.timers.tick().await.unwrap(), Duration::ZERO);
    // Each may have skipped what the other had locked for a moment.
    assert!(fixture.database.closed_rooms().await < i64::from(BATCH * 3 + 1));
    assert_eq!(fixture.fire_at(0).await.len(), 21);
}

async fn a_room_that_falls_due_in_a_sweep_opens_before_its_end(mut fixture: TimerFixture) {
    fixture.database.insert_rooms("row", BATCH * 10, at(0).timestamp()).await;
    fixture.database.insert_rooms("late", 1, at(2).timestamp()).await;
    for _ in 0..3 {
        fixture.timers.tick().await.unwrap();
    }
    assert_eq!(fixture.database.lobby_state("late1").await, 1);
    fixture.set_time(at(2));
    for _ in 0..2 {
        fixture.timers.tick().await.unwrap();
    }
    assert_eq!(fixture.database.lobby_state("late1").await, 0);
    assert!(fixture.database.closed_rooms().await > 0);
    assert_eq!(fixture.fire_at(2).await.len(), 51);
}

async fn a_tick_returns_the_delay_until_the_next_timer(mut fixture: TimerFixture) {
    let second = Duration::from_secs(1);
    assert_eq!(fixture.timers.tick().await.unwrap(), second, "no timer");
    fixture.database.insert_rooms("row", 1, at(10).timestamp()).await;
    for (before, delay) in [(5000, second), (1000, second), (300, Duration::from_millis(300))] {
        fixture.set_time(at(10) - TimeDelta::milliseconds(before));
        assert_eq!(fixture.timers.tick().await.unwrap(), delay, "{before} ms before the timer");
    }
}
