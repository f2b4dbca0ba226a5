//! Order and identity of events, through the broker: whatever is delivered late or again, a newer
//! setting stays (promises P2, P4 and P5).

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use serde_json::{Value, json};

use crate::support::{
    cluster::TestCluster,
    daemon::{Daemon, run},
    database::{Database, Kind},
    eventually,
    proxy::{Mode, Proxy},
    server::{BROKER, amqp_url},
};

/// The events that workers of this process have found stale.
async fn stale(worker: &Daemon, number: u64) {
    worker.metric_becomes(r#"lobbyd_events_received_total{outcome="stale"}"#, number).await;
}

/// Sets the lobby as a moderator does: with a newer version.
async fn set(cluster: &TestCluster, state: i64) {
    let now = cluster.database.now_millis().await;
    let sql = format!(
        "UPDATE lobbyd_rooms SET lobby_state = {state}, lobby_timer = NULL,
         lobby_version = GREATEST(lobby_version + 1, {now})"
    );
    assert_eq!(cluster.database.execute(&sql).await, 1);
}

/// A worker applies an event, and is killed before its acknowledgement reaches the broker. Meanwhile
/// the room is set to `newer`.
async fn an_event_is_applied_and_not_acknowledged(change: Value, applied: i64, newer: i64) {
    let proxy = Proxy::to(BROKER.server.port).await;
    let mut cluster = TestCluster::new(Kind::Postgres).await;
    let client = cluster.client().await;
    cluster.set("EVENTS__URL", &amqp_url(proxy.port));
    let worker = cluster.worker().await;
    cluster.database.insert_room("a").await;
    proxy.set(Mode::FreezeRequests);
    client.publish(&change).await;
    eventually("the effect of the event", || async {
        let messages = "SELECT count(*) FROM lobbyd_messages";
        let is_done = cluster.database.lobby_state("a").await == applied;
        (is_done && cluster.database.number(messages).await > 0).then_some(())
    })
    .await;
    drop(worker);
    proxy.set(Mode::Cut);
    set(&cluster, newer).await;

    cluster.set("EVENTS__URL", &BROKER.url());
    let next = cluster.worker().await;
    stale(&next, 1).await;
    assert_eq!(cluster.database.lobby_state("a").await, newer);
    let timers = "SELECT count(*) FROM lobbyd_rooms WHERE lobby_timer IS NOT NULL";
    assert_eq!(cluster.database.number(timers).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unacknowledged_event_does_not_undo_a_newer_setting() {
    let change = json!({"token": "a", "state": 1});
    an_event_is_applied_and_not_acknowledged(change, 1, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unacknowledged_timer_that_has_fired_does_not_open_the_room_again() {
    // It is due at once.
    let change = json!({"token": "a", "state": 1, "timer": 1_767_225_600});
    an_event_is_applied_and_not_acknowledged(change, 0, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_message_id_changes_nothing() {
    let cluster = TestCluster::new(Kind::Postgres).await;
    let client = cluster.client().await;
    let worker = cluster.worker().await;
    cluster.database.insert_room("a").await;
    let body = br#"{"token":"a","state":1}"#;
    let named = |id: &str| BasicProperties::default().with_message_id(id.into());
    client.publish_with(body, named("1")).await;
    cluster.database.lobby_becomes("a", 1).await;
    set(&cluster, 0).await;
    client.publish_with(body, named("1")).await;
    stale(&worker, 1).await;
    assert_eq!(cluster.database.lobby_state("a").await, 0);
    client.publish_with(body, named("2")).await;
    cluster.database.lobby_becomes("a", 1).await;
}

/// An equal event that was applied before is another one.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_waits_at_the_broker_repeats_no_earlier_one() {
    let cluster = TestCluster::new(Kind::Postgres).await;
    let client = cluster.client().await;
    let worker = cluster.worker().await;
    cluster.database.insert_room("a").await;
    let close = json!({"token": "a", "state": 1});
    client.publish(&close).await;
    cluster.database.lobby_becomes("a", 1).await;
    drop(worker);
    client.consumer_ends(&cluster.queue).await;
    set(&cluster, 0).await;
    let holder = Database::hold_room(&cluster.database.url, "a").await;
    client.publish(&close).await;
    let _worker = cluster.worker().await;
    let retry = cluster.setting("EVENTS__RETRY_QUEUE");
    eventually("the event in the retry queue", || async {
        (client.count(&retry).await > 0).then_some(())
    })
    .await;
    drop(holder);
    cluster.database.lobby_becomes("a", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_events_that_wait_at_the_broker_are_applied_each() {
    let mut cluster = TestCluster::new(Kind::Postgres).await;
    let client = cluster.client().await;
    // The worker has no place for an event that waits.
    cluster.set("EVENTS__PREFETCH", "1");
    let worker = cluster.worker().await;
    cluster.database.insert_room("a").await;
    let holder = Database::hold_room(&cluster.database.url, "a").await;
    for state in [1, 0, 1] {
        client.publish(&json!({"token": "a", "state": state})).await;
    }
    let retry = cluster.setting("EVENTS__RETRY_QUEUE");
    eventually("the events in the retry queue", || async {
        (client.count(&retry).await == 3).then_some(())
    })
    .await;
    drop(holder);
    worker.metric_becomes(r#"lobbyd_events_received_total{outcome="applied"}"#, 3).await;
    assert_eq!(cluster.database.lobby_state("a").await, 1);
}

/// The sender or the broker says when an event was sent that waits while no worker runs.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_waited_does_not_override_a_newer_setting() {
    let cluster = TestCluster::new(Kind::Postgres).await;
    let client = cluster.client().await;
    drop(cluster.worker().await);
    cluster.database.insert_room("a").await;
    let sent = cluster.database.now_millis().await - 2000;
    let by_sender = BasicProperties::default().with_timestamp(u64::try_from(sent / 1000).unwrap());
    let mut headers = FieldTable::default();
    headers.insert("timestamp_in_ms".into(), AMQPValue::LongLongInt(sent));
    let by_broker = BasicProperties::default().with_headers(headers);
    for properties in [by_sender, by_broker] {
        client.publish_with(br#"{"token":"a","state":0}"#, properties).await;
    }
    set(&cluster, 1).await;
    let worker = cluster.worker().await;
    stale(&worker, 2).await;
    assert_eq!(cluster.database.lobby_state("a").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_from_the_future_locks_no_room() {
    let cluster = TestCluster::new(Kind::Postgres).await;
    let client = cluster.client().await;
    let _worker = cluster.worker().await;
    cluster.database.insert_room("a").await;
    let tomorrow = cluster.database.now_millis().await + 24 * 60 * 60 * 1000;
    client.publish(&json!({"token": "a", "state": 1, "version": tomorrow})).await;
    let letter = eventually("the dead letter", || client.take(&cluster.dead_letters)).await;
    let reason = &letter.headers["lobbyd-reason"];
    assert!(reason.starts_with("event from the future: version "), "{reason}");
    assert_eq!(cluster.database.lobby_state("a").await, 0);

    // A clock that is ahead within the bound does not lock it either.
    let ahead = cluster.database.now_millis().await + 50_000;
    client.publish(&json!({"token": "a", "state": 1, "version": ahead})).await;
    cluster.database.lobby_becomes("a", 1).await;
    client.publish(&json!({"token": "a", "state": 0})).await;
    cluster.database.lobby_becomes("a", 0).await;
    let published = run(&cluster.settings, &["publish", "a", "--state", "1"]);
    assert!(published.status.success(), "{published:?}");
    assert_eq!(cluster.database.lobby_state("a").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn lobbyds_own_change_of_a_deleted_room_is_no_dead_letter() {
    let cluster = TestCluster::new(Kind::Postgres).await;
    let client = cluster.client().await;
    let worker = cluster.worker().await;
    let event = json!({
        "specversion": "1.0", "id": "1", "source": "lobbyd", "type": "lobby.changed.v1",
        "data": {"token": "gone", "state": 1, "version": 7},
    });
    client.publish(&event).await;
    stale(&worker, 1).await;
    assert!(client.take(&cluster.dead_letters).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_publish_command_says_what_has_become_of_the_change() {
    let cluster = TestCluster::new(Kind::Postgres).await;
    cluster.client().await;
    let said = |arguments: &[&str]| {
        let output = run(&cluster.settings, &[&["publish"], arguments].concat());
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let worker = cluster.worker().await;
    cluster.database.insert_room("a").await;
    assert_eq!(said(&["a", "--state", "1"]), (Some(0), "a: lobby state 1\n".to_owned()));
    let (status, text) = said(&["a", "--state", "1", "--in", "1h"]);
    assert_eq!((status, text.starts_with("a: lobby until 20")), (Some(0), true), "{text}");
    let (status, text) = said(&["nowhere", "--state", "1"]);
    assert_eq!((status, text.as_str()), (Some(1), "lobbyd: there is no room nowhere\n"));
    cluster.database.execute("UPDATE lobbyd_rooms SET lobby_version = 99999999999999").await;
    let (status, text) = said(&["a", "--state", "0"]);
    assert_eq!(status, Some(1));
    assert!(text.contains("has version 99999999999999, far ahead"), "{text}");
    cluster.database.execute("UPDATE lobbyd_rooms SET lobby_version = 0").await;

    // The same setting is made once more before the command looks.
    cluster
        .database
        .execute(
            "CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN NEW.lobby_version := NEW.lobby_version + 1; RETURN NEW; END'",
        )
        .await;
    cluster
        .database
        .execute(
            "CREATE TRIGGER again BEFORE UPDATE ON lobbyd_rooms
             FOR EACH ROW EXECUTE FUNCTION again()",
        )
        .await;
    assert_eq!(said(&["a", "--state", "0"]), (Some(0), "a: lobby state 0\n".to_owned()));

    drop(worker);
    let (status, text) = said(&["a", "--state", "0"]);
    assert_eq!(status, Some(0));
    assert_eq!(text, "a: published, no worker has applied it yet\n");
}
