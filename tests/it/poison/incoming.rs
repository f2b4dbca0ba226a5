//! Faults at the head of the queue of lobby changes: messages that cannot be parsed, events that
//! cannot be applied or whose room is locked or unknown, and workers that are killed while they hold
//! healthy events.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use serde_json::json;

use crate::support::{
    amqp::Client,
    cluster::TestCluster,
    daemon::Daemon,
    database::{Database, Kind},
    eventually,
    raw_amqp::{
        RawPublisher, content_type, entry, headers, kind, long, message_id, nested_arrays, short,
    },
    server::BROKER,
};

const KEY: &[u8] = b"lobby.changed";
const JSON: &[u8] = b"application/json";
/// A delivery limit below that of the README, and above what healthy events can get: they are
/// delivered together with a culprit, or to workers that are killed, four times before each of them is
/// delivered alone.
const LOW_LIMIT: u32 = 6;
const ASIDE: &str = "lobbyd_deliveries_aside";

/// A cluster with tables and a queue of lobby changes, in which no worker runs.
async fn stopped_cluster(kind: Kind) -> (TestCluster, Client) {
    let mut cluster = TestCluster::new(kind).await;
    cluster.set("OPS__OVERDUE_AFTER", "1s");
    let client = cluster.client().await;
    let mut worker = cluster.worker().await;
    assert!(worker.stop().await.success());
    (cluster, client)
}

/// The broker removes a message from this queue after so many deliveries.
fn limit_deliveries(queue: &str, limit: u32) {
    let pattern = format!("^{}$", queue.replace('.', r"\."));
    let definition = format!(r#"{{"delivery-limit": {limit}}}"#);
    let policy = ["--priority", "1", "--apply-to", "queues", queue, &pattern, &definition];
    BROKER.control(&[&["set_policy"], &policy[..]].concat());
}

fn closing(token: &str) -> Vec<u8> {
    json!({"token": token, "state": 1}).to_string().into_bytes()
}

impl TestCluster {
    async fn closed(&self, rooms: i64) {
        eventually(&format!("{rooms} rooms to be closed"), || async {
            (self.database.closed_rooms().await == rooms).then_some(())
        })
        .await;
    }

    async fn dead_lettered(&self, client: &Client, number: u32) {
        eventually(&format!("{number} dead letters"), || async {
            (client.count(&self.dead_letters).await == number).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_cannot_be_parsed_is_dead_lettered_alone() {
    let (cluster, client) = stopped_cluster(Kind::Postgres).await;
    cluster.database.open_rooms("room", 300).await;
    let mut publisher = RawPublisher::connect(BROKER.server.port).await;
    let odd = b"caf\xe9";
    let header = headers(&entry(odd, b"t\x01"));
    let culprits = [
        (KEY, content_type(b"application/json; who=caf\xe9")),
        (KEY, message_id(odd)),
        (KEY, kind(odd)),
        (KEY, header),
        (b"lobby.changed.caf\xe9".as_slice(), content_type(JSON)),
    ];
    for (part, (key, property)) in (0_u32..).zip(&culprits) {
        let property = std::slice::from_ref(property);
        publisher.publish(&cluster.exchange, key, property, &closing("room1")).await;
        for room in part * 60 + 1..=part * 60 + 60 {
            client.publish(&json!({"token": format!("room{room}"), "state": 1})).await;
        }
    }
    let worker = Daemon::start(&cluster.settings);
    let problems = worker.unready_with("cannot be parsed").await;
    assert!(problems.contains(&cluster.queue), "{problems}");
    cluster.closed(300).await;
    cluster.dead_lettered(&client, 5).await;
    worker.ready().await;
    assert_eq!(client.count(&cluster.queue).await, 0);
    assert_eq!(client.count(&cluster.dead_letters).await, 5);
    // One line per change, however often the connection was lost.
    let lines = worker.log().matches("consumer disconnected").count();
    assert!(lines <= 2 * culprits.len(), "{lines} lines");
}

/// Events that have to wait are in front of each culprit, and are not counted with it.
#[tokio::test(flavor = "multi_thread")]
async fn events_around_a_culprit_are_not_dead_lettered() {
    let (mut cluster, client) = stopped_cluster(Kind::Postgres).await;
    limit_deliveries(&cluster.queue, LOW_LIMIT);
    cluster.set("EVENTS__UNKNOWN_ROOM_GRACE", "10m");
    cluster.database.open_rooms("room", 252).await;
    cluster.database.insert_room("locked").await;
    let holder = Database::hold_room(&cluster.database.url, "locked").await;
    let mut publisher = RawPublisher::connect(BROKER.server.port).await;
    let odd = [content_type(b"caf\xe9")];
    for (part, waiting) in (0_u32..).zip(["unknown", "locked"]) {
        client.publish(&json!({"token": waiting, "state": 1})).await;
        publisher.publish(&cluster.exchange, KEY, &odd, &closing("room1")).await;
        for room in part * 126 + 1..=part * 126 + 126 {
            client.publish(&json!({"token": format!("room{room}"), "state": 1})).await;
        }
    }
    let worker = Daemon::start(&cluster.settings);
    cluster.closed(252).await;
    drop(holder);
    cluster.database.insert_room("unknown").await;
    cluster.closed(254).await;
    cluster.dead_lettered(&client, 2).await;
    worker.ready().await;
    client.drained(&cluster.queue).await;
}

/// Promise P9, also when workers are killed again and again: what one had is not applied one by one
/// by the next.
#[tokio::test(flavor = "multi_thread")]
async fn events_of_killed_workers_are_applied_in_sets() {
    let (cluster, client) = stopped_cluster(Kind::Postgres).await;
    cluster.database.open_rooms("room", 301).await;
    let publish = async |room: u32| {
        client.publish(&json!({"token": format!("room{room}"), "state": 1})).await;
    };
    let mut room = 1;
    for _ in 0..2 {
        let worker = cluster.worker().await;
        // The first new event ends the careful pace.
        publish(room).await;
        cluster.database.lobby_becomes(&format!("room{room}"), 1).await;
        let holder = Database::hold_rooms(&cluster.database.url).await;
        for further in room + 1..=room + 149 {
            publish(further).await;
        }
        room += 150;
        client.drained(&cluster.queue).await;
        drop(worker);
        client.consumer_ends(&cluster.queue).await;
        drop(holder);
    }
    publish(301).await;
    let worker = cluster.worker().await;
    cluster.closed(301).await;
    let alone = worker.log().matches("lobby set").count();
    assert!(alone < 100, "{alone} events were applied one by one");
}

/// Without a delivery limit the message stays at the head. The operator is told what to do.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_delivery_limit_readiness_says_what_to_do() {
    let (mut cluster, client) = stopped_cluster(Kind::Sqlite).await;
    // The policy of the tests does not match this name.
    cluster.queue = cluster.queue.replace("lobby-changed", "unlimited");
    cluster.set("EVENTS__QUEUE", &cluster.queue.clone());
    cluster.set("EVENTS__RETRY_QUEUE", &format!("{}.retry", cluster.queue));
    let limit = |limit: i32| {
        let policy =
            [&format!("^{}$", cluster.queue), &format!(r#"{{"delivery-limit": {limit}}}"#)];
        BROKER.control(&["set_policy", "--apply-to", "queues", "unlimited", policy[0], policy[1]]);
    };
    // RabbitMQ 4 has a default limit; 3 has none, and understands no negative one.
    if !BROKER.report(&["version"]).starts_with('3') {
        limit(-1);
    }
    drop(cluster.worker().await);
    cluster.database.insert_room("webinar").await;
    let mut publisher = RawPublisher::connect(BROKER.server.port).await;
    let odd = [content_type(b"caf\xe9")];
    publisher.publish(&cluster.exchange, KEY, &odd, &closing("webinar")).await;
    client.publish(&json!({"token": "webinar", "state": 1})).await;
    let worker = Daemon::start(&cluster.settings);
    let problems = worker.unready_with("set a delivery limit").await;
    assert!(
        problems.contains("rabbitmqctl set_policy --vhost '/' --apply-to queues"),
        "{problems}"
    );
    worker.logs("does not remove it").await;
    limit(20);
    cluster.database.lobby_becomes("webinar", 1).await;
    worker.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deeply_nested_headers_stop_no_process() {
    let (cluster, client) = stopped_cluster(Kind::Postgres).await;
    cluster.database.open_rooms("room", 3).await;
    let mut publisher = RawPublisher::connect(BROKER.server.port).await;
    let nested = headers(&entry(b"nested", &nested_arrays(2000)));
    let properties = [content_type(JSON), nested];
    let (worker, api) = (cluster.worker().await, cluster.api().await);
    for (room, body) in [("room1", closing("room1")), ("room2", b"{".to_vec())] {
        publisher.publish(&cluster.exchange, KEY, &properties, &body).await;
        // API processes do not receive it, whatever key it has.
        let key = format!("room.updated.{room}");
        publisher.publish(&cluster.exchange, key.as_bytes(), &properties, &body).await;
    }
    client.publish(&json!({"token": "room3", "state": 1})).await;
    cluster.closed(2).await;
    cluster.dead_lettered(&client, 1).await;
    worker.ready().await;
    api.ready().await;
    let letter = client.take(&cluster.dead_letters).await.unwrap();
    assert_eq!(letter.headers["lobbyd-omitted-headers"], "nested");
}

/// Every type of a field, in an event that is applied and in a dead letter, which keeps all.
#[tokio::test(flavor = "multi_thread")]
async fn headers_of_every_type_are_kept_in_dead_letters() {
    let (cluster, client) = stopped_cluster(Kind::Sqlite).await;
    cluster.database.insert_room("webinar").await;
    let nested = [b"F".as_slice(), &long(&entry(b"inner", b"t\x01"))].concat();
    let text = [b"S".as_slice(), &long("x".repeat(5000).as_bytes())].concat();
    let fields: [(&[u8], &[u8]); 17] = [
        (b"t", b"t\x01"),
        (b"b", b"b\xff"),
        (b"B", b"B\xff"),
        (b"s", b"s\xff\xff"),
        (b"u", b"u\xff\xff"),
        (b"I", b"I\xff\xff\xff\xff"),
        (b"i", b"i\xff\xff\xff\xff"),
        (b"l", b"l\xff\xff\xff\xff\xff\xff\xff\xff"),
        (b"f", b"f\x3f\x80\x00\x00"),
        (b"d", b"d\x3f\xf0\x00\x00\x00\x00\x00\x00"),
        (b"D", b"D\x02\x00\x00\x00\x7b"),
        (b"S", &text),
        (b"A", b"A\x00\x00\x00\x02t\x01"),
        (b"T", b"T\x00\x00\x00\x00\x65\x00\x00\x00"),
        (b"F", &nested),
        (b"x", b"x\x00\x00\x00\x02\xff\xfe"),
        (b"V", b"V"),
    ];
    let table: Vec<u8> = fields.iter().flat_map(|(name, value)| entry(name, value)).collect();
    let properties = [
        content_type(JSON),
        headers(&table),
        (14, short(b"identity")),
        (11, vec![7]),
        (10, short(b"correlation")),
        (9, short(b"answers")),
        (8, short(b"600000")),
        (6, 1_700_000_000_u64.to_be_bytes().to_vec()),
        message_id(b"m1"),
        kind(b"lobby.changed.v1"),
        (4, short(b"guest")),
        (3, short(b"shop")),
    ];
    let mut publisher = RawPublisher::connect(BROKER.server.port).await;
    publisher.publish(&cluster.exchange, KEY, &properties, b"{").await;
    let _worker = cluster.worker().await;
    publisher.publish(&cluster.exchange, KEY, &properties[..2], &closing("webinar")).await;
    cluster.database.lobby_becomes("webinar", 1).await;
    let letter =
        eventually("the dead letter", || client.take_delivery(&cluster.dead_letters)).await;
    let kept = &letter.properties;
    let text = |value: &str| Some(lapin::types::ShortString::from(value));
    assert_eq!(*kept.content_type(), text("application/json"));
    assert_eq!(*kept.content_encoding(), text("identity"));
    assert_eq!(*kept.priority(), Some(7));
    assert_eq!(*kept.correlation_id(), text("correlation"));
    assert_eq!(*kept.reply_to(), text("answers"));
    assert_eq!(*kept.timestamp(), Some(1_700_000_000));
    assert_eq!(*kept.message_id(), text("m1"));
    assert_eq!(*kept.kind(), text("lobby.changed.v1"));
    assert_eq!(*kept.app_id(), text("shop"));
    assert_eq!((kept.expiration(), kept.user_id()), (&None, &None));
    let headers = kept.headers().as_ref().unwrap().inner();
    for (name, _value) in fields {
        let name = std::str::from_utf8(name).unwrap();
        assert!(headers.contains_key(name), "{name} of {headers:?}");
    }
    assert_eq!(headers["t"], AMQPValue::Boolean(true));
    assert_eq!(headers["lobbyd-expiration"], AMQPValue::LongString("600000".into()));
    assert_eq!(headers["lobbyd-user-id"], AMQPValue::LongString("guest".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_killed_workers_are_not_dead_lettered() {
    let (cluster, client) = stopped_cluster(Kind::Postgres).await;
    limit_deliveries(&cluster.queue, LOW_LIMIT);
    cluster.database.open_rooms("room", 20).await;
    let holder = Database::hold_each_room(&cluster.database.url).await;
    for room in 1..=20 {
        client.publish(&json!({"token": format!("room{room}"), "state": 1})).await;
    }
    for _ in 0..8 {
        let worker = Daemon::start(&cluster.settings);
        worker.metric_becomes(ASIDE, 20).await;
        drop(worker);
    }
    drop(holder);
    let worker = cluster.worker().await;
    cluster.closed(20).await;
    worker.metric_becomes(ASIDE, 0).await;
    assert_eq!(client.count(&cluster.dead_letters).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_room_delays_only_its_own_events() {
    let (cluster, client) = stopped_cluster(Kind::Postgres).await;
    let database = &cluster.database;
    database.open_rooms("room", 50).await;
    database.insert_room("locked").await;
    let worker = cluster.worker().await;
    let holder = Database::hold_room(&database.url, "locked").await;
    client.publish(&json!({"token": "locked", "state": 1})).await;
    let problems = worker.unready_with("event of room locked").await;
    assert!(problems.contains("event of room locked"), "{problems}");
    let age = worker.gauge("lobbyd_delivery_oldest_age_seconds").await.unwrap();
    assert!(age > 1.0, "{age}");
    worker.metric_becomes(ASIDE, 1).await;
    // More than a quarter of the prefetch.
    for _ in 0..140 {
        client.publish(&json!({"token": "locked", "state": 1})).await;
    }
    for room in 1..=50 {
        client.publish(&json!({"token": format!("room{room}"), "state": 1})).await;
    }
    cluster.closed(50).await;
    assert_eq!(worker.get("/readyz").await.unwrap().0, 503);
    drop(holder);
    cluster.closed(51).await;
    worker.ready().await;
    worker.metric_becomes(ASIDE, 0).await;
    let age = worker.gauge("lobbyd_delivery_oldest_age_seconds").await.unwrap();
    assert!(age < 1.0, "{age}");
    assert_eq!(client.count(&cluster.dead_letters).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_room_delays_only_its_own_events() {
    let (mut cluster, client) = stopped_cluster(Kind::Postgres).await;
    cluster.set("DATABASE__TIMEOUT", "2s");
    let database = &cluster.database;
    database.open_rooms("room", 300).await;
    database.insert_room("slow").await;
    let wait = "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
                'BEGIN PERFORM pg_sleep(600); RETURN NEW; END'";
    database.execute(wait).await;
    let trigger = "CREATE TRIGGER wait BEFORE UPDATE ON lobbyd_rooms FOR EACH ROW
                   WHEN (OLD.token = 'slow') EXECUTE FUNCTION wait()";
    database.execute(trigger).await;
    let publish = async |state: i64| {
        for room in 1..=300 {
            client.publish(&json!({"token": format!("room{room}"), "state": state})).await;
            if room == 200 {
                client.publish(&json!({"token": "slow", "state": 1})).await;
            }
        }
    };
    publish(1).await;
    let worker = Daemon::start(&cluster.settings);
    cluster.closed(300).await;
    worker.unready_with("event of room slow, which takes the database too long").await;
    for state in [0, 1, 0] {
        publish(state).await;
        cluster.closed(300 * state).await;
    }
    let divided = worker.log().matches("each room is tried alone").count();
    assert_eq!(divided, 1, "no other set contains the room");
    database.execute("DROP TRIGGER wait ON lobbyd_rooms").await;
    database.lobby_becomes("slow", 1).await;
    worker.ready().await;
    assert_eq!(client.count(&cluster.dead_letters).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_unknown_rooms_do_not_fill_the_queue() {
    let (mut cluster, client) = stopped_cluster(Kind::Postgres).await;
    // They are still waiting when the test ends.
    cluster.set("EVENTS__UNKNOWN_ROOM_GRACE", "10m");
    cluster.database.insert_room("webinar").await;
    let mut confirms = Vec::new();
    for room in 1..=2000 {
        // The key names the room, and is kept while the event waits.
        let (key, body) = (format!("lobby.changed.x{room}"), closing(&format!("x{room}")));
        confirms.push(client.send(&key, &body, "application/json").await);
    }
    for confirm in confirms {
        confirm.await.unwrap();
    }
    client.publish(&json!({"token": "webinar", "state": 1})).await;
    let worker = cluster.worker().await;
    cluster.database.lobby_becomes("webinar", 1).await;
    // They wait at the broker, and are still applied.
    let retry = cluster.setting("EVENTS__RETRY_QUEUE");
    eventually("events in the retry queue", || async {
        (client.count(&retry).await > 0).then_some(())
    })
    .await;
    cluster.database.insert_room("x1000").await;
    cluster.database.lobby_becomes("x1000", 1).await;
    let aside = worker.metric(ASIDE).await.unwrap();
    assert!(aside <= 512, "{aside}");
    assert_eq!(client.count(&cluster.dead_letters).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_without_their_queue_delay_no_other_event() {
    let (mut cluster, client) = stopped_cluster(Kind::Sqlite).await;
    // Otherwise it declares the queue again.
    cluster.set("EVENTS__DECLARE", "false");
    cluster.database.insert_room("webinar").await;
    let worker = cluster.worker().await;
    client.delete_queue(&cluster.dead_letters).await;
    client.publish_bytes(b"{", "application/json").await;
    client.publish_bytes(b"}", "application/json").await;
    client.publish(&json!({"token": "webinar", "state": 1})).await;
    cluster.database.lobby_becomes("webinar", 1).await;
    worker.unready_with("2 dead letters are not stored").await;
    let lines = worker.log().matches("dead letters cannot be stored").count();
    assert_eq!(lines, 1, "it is logged once");
    client.declare_quorum_queue(&cluster.dead_letters).await;
    cluster.dead_lettered(&client, 2).await;
    worker.ready().await;
}

/// Without the queue in which they would wait, events of unknown rooms wait in the worker.
#[tokio::test(flavor = "multi_thread")]
async fn events_wait_without_the_retry_queue() {
    let (mut cluster, client) = stopped_cluster(Kind::Sqlite).await;
    cluster.set("EVENTS__DECLARE", "false");
    cluster.set("EVENTS__UNKNOWN_ROOM_GRACE", "10m");
    let retry = cluster.setting("EVENTS__RETRY_QUEUE");
    client.delete_queue(&retry).await;
    cluster.database.insert_room("webinar").await;
    let worker = cluster.worker().await;
    client.publish(&json!({"token": "late", "state": 1})).await;
    worker.logs("events that wait cannot be stored").await;
    client.publish(&json!({"token": "webinar", "state": 1})).await;
    cluster.database.lobby_becomes("webinar", 1).await;
    cluster.database.insert_room("late").await;
    cluster.database.lobby_becomes("late", 1).await;
    worker.metric_becomes(ASIDE, 0).await;
    assert_eq!(client.count(&cluster.dead_letters).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_the_database_refuses_is_dead_lettered_alone() {
    for kind in [Kind::Sqlite, Kind::Postgres, Kind::MariaDb] {
        let (cluster, client) = stopped_cluster(kind).await;
        let tomorrow = cluster.database.now().await + 86_400;
        cluster.database.insert_rooms("room", 100, tomorrow).await;
        cluster.database.refuse_reset("room50").await;
        for room in 1..=100 {
            client.publish(&json!({"token": format!("room{room}"), "state": 0})).await;
        }
        let worker = cluster.worker().await;
        cluster.closed(1).await;
        cluster.dead_lettered(&client, 1).await;
        let letter = client.take(&cluster.dead_letters).await.unwrap();
        assert_eq!(letter.json()["token"], "room50");
        assert!(letter.headers["lobbyd-reason"].contains("archived"), "{:?}", letter.headers);
        worker.metric_becomes(r#"lobbyd_events_received_total{outcome="rejected"}"#, 1).await;
        worker.ready().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_messages_do_not_fill_the_memory() {
    let (cluster, client) = stopped_cluster(Kind::Sqlite).await;
    cluster.database.insert_room("webinar").await;
    let body = vec![b' '; 16 * 1024 * 1024];
    for _ in 0..40 {
        client.publish_bytes(&body, "application/json").await;
    }
    client.publish(&json!({"token": "webinar", "state": 1})).await;
    let worker = cluster.worker().await;
    cluster.database.lobby_becomes("webinar", 1).await;
    cluster.dead_lettered(&client, 40).await;
    let peak = worker.peak_memory() / 1024 / 1024;
    println!("peak of the worker's memory: {peak} MiB");
    assert!(peak < 128, "{peak} MiB");
    let letter = client.take_delivery(&cluster.dead_letters).await.unwrap();
    assert_eq!(letter.data.len(), 64 * 1024);
    let headers = letter.properties.headers().as_ref().unwrap().inner();
    assert_eq!(headers["lobbyd-body-length"], AMQPValue::LongLongInt(16 * 1024 * 1024));
}

/// CC would send a dead letter to other queues, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_goes_to_its_queue_only() {
    let (cluster, client) = stopped_cluster(Kind::Sqlite).await;
    let copies = vec![AMQPValue::LongString(cluster.updates.as_str().into())];
    let mut headers = FieldTable::default();
    headers.insert("CC".into(), AMQPValue::FieldArray(copies.into()));
    let _worker = cluster.worker().await;
    client.publish_with(b"{", BasicProperties::default().with_headers(headers)).await;
    let letter =
        eventually("the dead letter", || client.take_delivery(&cluster.dead_letters)).await;
    let kept = letter.properties.headers().as_ref().unwrap().inner();
    assert!(kept.contains_key("lobbyd-cc") && !kept.contains_key("CC"), "{kept:?}");
    assert_eq!(client.count(&cluster.updates).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_updates_do_not_reach_an_api() {
    let (cluster, client) = stopped_cluster(Kind::Postgres).await;
    cluster.database.insert_room("webinar").await;
    let api = cluster.api().await;
    let mut publisher = RawPublisher::connect(BROKER.server.port).await;
    let odd = [content_type(b"caf\xe9")];
    for key in [b"room.updated.webinar".as_slice(), b"lobby.changed.webinar"] {
        publisher.publish(&cluster.exchange, key, &odd, b"{}").await;
    }
    let _worker = cluster.worker().await;
    client.publish(&json!({"token": "webinar", "state": 1})).await;
    cluster.database.lobby_becomes("webinar", 1).await;
    cluster.database.all_published().await;
    api.ready().await;
    assert!(!api.log().contains("disconnected"), "{}", api.log());
}
