//! From the event to the update, end to end: the real program, a real broker, each database.
//!
//! Here the tests wait for timers in real time. The rules of timers are tested with a manual clock
//! in `timers`.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::json;

use crate::support::{cluster::TestCluster, daemon::run, eventually};

on_every_database! { crate::support::cluster::TestCluster::new:
    a_room_opens_at_its_time_and_one_update_arrives,
    events_that_cannot_be_applied_become_dead_letters,
    an_event_that_arrives_before_its_room_is_applied,
    events_of_unknown_rooms_do_not_delay_other_events,
    the_publish_command_changes_a_lobby,
}

async fn a_room_opens_at_its_time_and_one_update_arrives(cluster: TestCluster) {
    let client = cluster.client().await;
    let mut worker = cluster.worker().await;
    let database = &cluster.database;
    database.insert_room("webinar").await;
    let timer = database.now().await + 3;
    client.publish(&json!({"token": "webinar", "state": 1, "timer": timer})).await;

    eventually("the reset", || async {
        let resets = "SELECT count(*) FROM lobbyd_outbox WHERE data LIKE '%lobby_timer_reached%'";
        (database.number(resets).await == 1).then_some(())
    })
    .await;
    // The reset was committed before this reading of the clock.
    assert!(database.now().await >= timer, "opened early");
    assert_eq!(database.lobby_state("webinar").await, 0);

    let armed = eventually("the update of the event", || client.take(&cluster.updates)).await;
    let data = &armed.json()["data"];
    assert_eq!(
        (&data["reason"], &data["lobbyTimer"]),
        (&json!("lobby_non_moderators"), &json!(timer))
    );
    let update = eventually("the update of the reset", || client.take(&cluster.updates)).await;
    let event = update.json();
    assert_eq!(update.routing_key, "room.updated.webinar");
    assert_eq!(update.content_type, "application/cloudevents+json");
    assert_eq!(update.delivery_mode, 2);
    assert_eq!(event["id"], update.message_id.as_str());
    assert_eq!(event["specversion"], "1.0");
    assert_eq!(event["type"], "room.updated.v1");
    let data = &event["data"];
    let version = database.number("SELECT lobby_version FROM lobbyd_rooms").await;
    let expected = json!({
        "token": "webinar", "type": 3, "lobbyState": 0, "lobbyTimer": 0, "sipEnabled": 0,
        "version": version, "reason": "lobby_timer_reached", "dueAt": rfc3339(timer),
        "firedAt": data["firedAt"],
    });
    assert_eq!(*data, expected);
    let fired_at: DateTime<Utc> = data["firedAt"].as_str().unwrap().parse().unwrap();
    assert!(fired_at.timestamp() >= timer, "{data}");

    worker.metric_becomes("lobbyd_timer_lag_seconds_count", 1).await;
    assert_eq!(worker.metric("lobbyd_timers_fired_total").await, Some(1));
    assert!(cluster.updates_before_sentinel(&client).await.is_empty(), "a second update");
    database.all_published().await;
    // A worker that has stopped publishes nothing more.
    assert!(worker.stop().await.success());
    assert!(client.take_rest(&cluster.updates).await.is_empty());
}

async fn events_that_cannot_be_applied_become_dead_letters(cluster: TestCluster) {
    let client = cluster.client().await;
    let worker = cluster.worker().await;
    cluster
        .database
        .execute("INSERT INTO lobbyd_rooms (token, type, name) VALUES ('one', 1, '')")
        .await;
    let event = |kind: &str| {
        json!({"specversion": "1.0", "id": "1", "source": "test", "type": kind,
               "data": {"token": "late", "state": 1}})
        .to_string()
        .into_bytes()
    };
    let cases: [(Vec<u8>, &str, &str); 9] = [
        (b"".to_vec(), "application/json", "body cannot be parsed"),
        (b"{\"token\":".to_vec(), "application/json", "body cannot be parsed"),
        (vec![0xff, 0x00, 0xfe], "application/json", "body cannot be parsed"),
        (b"{\"token\":\"a\",\"state\":7}".to_vec(), "application/json", "state 7 is unknown"),
        (vec![b'['; 10_000], "application/json", "nested more than"),
        (vec![b' '; 1_000_000], "application/json", "body has 1000000 bytes"),
        (event("lobby.changed.v2"), "application/cloudevents+json", "\"lobby.changed.v2\" is not"),
        (b"<xml/>".to_vec(), "application/xml", "content type application/xml is not supported"),
        (
            b"{\"token\":\"one\",\"state\":1}".to_vec(),
            "application/json",
            "room one is of a type or object without lobby",
        ),
    ];
    for (body, content_type, _reason) in &cases {
        client.publish_bytes(body, content_type).await;
    }
    client.publish(&json!({"token": "nowhere", "state": 1})).await;

    let mut dead_letters = Vec::new();
    while dead_letters.len() < cases.len() + 1 {
        let dead_letter = eventually("a dead letter", || client.take(&cluster.dead_letters)).await;
        dead_letters.push(dead_letter);
    }
    for (body, content_type, reason) in &cases {
        let dead_letter = dead_letters
            .iter()
            .find(|dead_letter| {
                body.starts_with(&dead_letter.body)
                    && dead_letter.body.len() == body.len().min(64 * 1024)
                    && dead_letter.content_type == *content_type
            })
            .unwrap_or_else(|| panic!("no dead letter for {reason}"));
        assert!(dead_letter.headers["lobbyd-reason"].contains(reason), "{:?}", dead_letter.headers);
        assert_eq!(dead_letter.headers["lobbyd-exchange"], cluster.exchange);
        assert_eq!(dead_letter.headers["lobbyd-routing-key"], "lobby.changed");
    }
    let unknown = dead_letters
        .iter()
        .find(|dead_letter| dead_letter.body.starts_with(b"{\"state\":1,\"token\":\"nowhere\""));
    assert_eq!(unknown.unwrap().headers["lobbyd-reason"], "unknown room nowhere (waited 2s)");

    // Only a later dead letter can show that there is no other one.
    client.publish_bytes(b"sentinel", "application/json").await;
    let sentinel = eventually("the sentinel", || client.take(&cluster.dead_letters)).await;
    assert_eq!(sentinel.body, b"sentinel");
    let malformed = r#"lobbyd_events_received_total{outcome="malformed"}"#;
    worker.metric_becomes(malformed, 9).await;
}

/// An event can arrive before the commit that creates its room.
async fn an_event_that_arrives_before_its_room_is_applied(mut cluster: TestCluster) {
    cluster.set("EVENTS__UNKNOWN_ROOM_GRACE", "10m");
    let client = cluster.client().await;
    let worker = cluster.worker().await;
    let event = json!({"specversion": "1.0", "id": "1", "source": "test",
                       "type": "lobby.changed.v1", "data": {"token": "late", "state": 1}});
    client.publish_bytes(event.to_string().as_bytes(), "application/cloudevents+json").await;
    // The worker consumes events in their order, so the event waits for its room by now.
    client.publish_bytes(b"sentinel", "application/json").await;
    worker.metric_becomes(r#"lobbyd_events_received_total{outcome="malformed"}"#, 1).await;
    cluster.database.insert_room("late").await;
    cluster.database.lobby_becomes("late", 1).await;
    worker.metric_becomes(r#"lobbyd_events_received_total{outcome="applied"}"#, 1).await;
}

async fn events_of_unknown_rooms_do_not_delay_other_events(cluster: TestCluster) {
    let client = cluster.client().await;
    let worker = cluster.worker().await;
    cluster.database.insert_room("known").await;
    for index in 0..40 {
        client.publish(&json!({"token": format!("unknown{index}"), "state": 1})).await;
        client.publish(&json!({"token": "known", "state": index % 2})).await;
        client.publish_bytes(b"garbage", "application/json").await;
    }
    for (outcome, expected) in [("applied", 40), ("malformed", 40), ("unknown_room", 40)] {
        let counter = format!("lobbyd_events_received_total{{outcome=\"{outcome}\"}}");
        worker.metric_becomes(&counter, expected).await;
    }
    let timer = cluster.database.now().await;
    cluster.database.insert_rooms("due", 1, timer).await;
    assert_eq!(client.take_reset(&cluster.updates).await.token(), "due1");
}

async fn the_publish_command_changes_a_lobby(cluster: TestCluster) {
    let client = cluster.client().await;
    let _worker = cluster.worker().await;
    cluster.database.insert_room("webinar").await;
    let published = run(&cluster.settings, &["publish", "webinar", "--state", "1", "--in", "1s"]);
    assert!(published.status.success(), "{published:?}");
    assert_eq!(client.take_reset(&cluster.updates).await.token(), "webinar");

    let at = rfc3339(cluster.database.now().await + 3600);
    for (arguments, state) in
        [(["--state", "1", "--at", &at].as_slice(), 1), (&["--state", "0"], 0)]
    {
        let published = run(&cluster.settings, &[&["publish", "webinar"], arguments].concat());
        assert!(published.status.success(), "{published:?}");
        cluster.database.lobby_becomes("webinar", state).await;
    }
}

fn rfc3339(seconds: i64) -> String {
    DateTime::from_timestamp(seconds, 0).unwrap().to_rfc3339_opts(SecondsFormat::Secs, true)
}
