//! What the bus promises to the tasks, on RabbitMQ and on the bus of the simulator, which stands for it.

use std::{sync::Arc, time::Duration};

use chrono::DateTime;
use lobbyd::{
    bus::{
        self, Bus, BusOptions, Confirmation, Delivery, Destination, Message, Subscription,
        Transfer, Waited,
    },
    domain::{LOBBY_CHANGED, ROOM_UPDATED, Version},
};
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use crate::{
    simulated_world::{SimulatedBus, World},
    support::{PATIENCE, server::BROKER},
};

/// Makes each function a test per bus.
macro_rules! on_every_bus {
    ($($test:ident,)*) => {
        mod amqp {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(super::amqp()).await;
            })*
        }
        mod simulated {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::simulated()).await;
            })*
        }
    };
}

on_every_bus! {
    deliveries_come_in_order_until_they_are_acknowledged,
    what_is_not_acknowledged_is_delivered_again,
    an_event_that_waits_comes_back_after_a_second,
    a_dead_letter_does_not_come_back,
    a_listener_receives_the_updates_that_follow,
    several_consumers_share_the_deliveries,
}

/// The shared broker, with queues of its own.
fn amqp() -> Arc<dyn Bus> {
    let name = |what: &str| format!("lobbyd.contract.{}.{what}", Uuid::now_v7());
    let options = BusOptions {
        exchange: name("events"),
        queue: name("lobby-changed"),
        dead_letter_queue: name("dead-letters"),
        retry_queue: name("retry"),
        updates_exchange: name("updates"),
        required_queues: Vec::new(),
        declare: true,
        prefetch: 8,
    };
    bus::connect(&[&BROKER.url()], options).unwrap()
}

fn simulated() -> Arc<dyn Bus> {
    Arc::new(SimulatedBus(World::new(0, None)))
}

fn message(event_type: &str, routing_key: &str, text: &str) -> Message {
    Message {
        id: Uuid::now_v7().into(),
        event_type: event_type.to_owned(),
        routing_key: routing_key.to_owned(),
        body: text.as_bytes().to_vec(),
        trace: None,
    }
}

fn change(text: &str) -> Message {
    message(LOBBY_CHANGED, "lobby.changed", text)
}

async fn publish(bus: &Arc<dyn Bus>, messages: &[Message]) {
    let confirmations = bus.publish(messages).await.unwrap();
    assert_eq!(confirmations, vec![Confirmation::Confirmed; messages.len()]);
}

/// The next deliveries. There may be several.
async fn next(subscription: &mut Box<dyn Subscription>) -> Vec<Delivery> {
    timeout(PATIENCE, subscription.next()).await.expect("a delivery").unwrap()
}

/// Takes and acknowledges deliveries, and returns the first `number` of their bodies.
async fn take(subscription: &mut Box<dyn Subscription>, number: usize) -> Vec<String> {
    let mut bodies = Vec::new();
    while bodies.len() < number {
        for delivery in next(subscription).await {
            bodies.push(String::from_utf8(delivery.body).unwrap());
            subscription.acknowledge(&[delivery.tag]).await.unwrap();
        }
    }
    bodies
}

async fn deliveries_come_in_order_until_they_are_acknowledged(bus: Arc<dyn Bus>) {
    let mut subscription = bus.subscribe().await.unwrap();
    publish(&bus, &["1", "2", "3"].map(change)).await;
    assert_eq!(take(&mut subscription, 3).await, ["1", "2", "3"]);
    drop(subscription);
    let mut subscription = bus.subscribe().await.unwrap();
    publish(&bus, &[change("4")]).await;
    assert_eq!(take(&mut subscription, 1).await, ["4"]);
}

async fn what_is_not_acknowledged_is_delivered_again(bus: Arc<dyn Bus>) {
    let mut subscription = bus.subscribe().await.unwrap();
    publish(&bus, &[change("1")]).await;
    let first = next(&mut subscription).await.remove(0);
    assert!(!first.properties.redelivered);
    drop(subscription);
    let mut subscription = bus.subscribe().await.unwrap();
    let again = next(&mut subscription).await.remove(0);
    assert_eq!((again.body.as_slice(), again.properties.redelivered), (b"1".as_slice(), true));
    assert_eq!(again.properties.message_id, first.properties.message_id);
    assert_eq!(again.properties.routing_key, "lobby.changed");
}

async fn an_event_that_waits_comes_back_after_a_second(bus: Arc<dyn Bus>) {
    let mut subscription = bus.subscribe().await.unwrap();
    publish(&bus, &[change("1")]).await;
    let delivery = next(&mut subscription).await.remove(0);
    let waited = Waited {
        first_received: DateTime::from_timestamp_millis(1_767_225_600_123).unwrap(),
        version: Version::parse(7).unwrap(),
        duplicate_since: DateTime::from_timestamp_millis(1_767_225_000_456),
    };
    let begin = Instant::now();
    let transfer = Transfer { delivery: &delivery, destination: Destination::Retry(waited) };
    bus.transfer(&[transfer]).await.unwrap();
    subscription.acknowledge(&[delivery.tag]).await.unwrap();
    let again = next(&mut subscription).await.remove(0);
    assert!(begin.elapsed() >= Duration::from_secs(1));
    assert_eq!((again.body.as_slice(), again.properties.waited), (b"1".as_slice(), Some(waited)));
}

async fn a_dead_letter_does_not_come_back(bus: Arc<dyn Bus>) {
    let mut subscription = bus.subscribe().await.unwrap();
    publish(&bus, &[change("bad")]).await;
    let delivery = next(&mut subscription).await.remove(0);
    let destination =
        Destination::DeadLetters { reason: "malformed", received: DateTime::UNIX_EPOCH };
    bus.transfer(&[Transfer { delivery: &delivery, destination }]).await.unwrap();
    subscription.acknowledge(&[delivery.tag]).await.unwrap();
    publish(&bus, &[change("good")]).await;
    assert_eq!(take(&mut subscription, 1).await, ["good"]);
}

async fn a_listener_receives_the_updates_that_follow(bus: Arc<dyn Bus>) {
    let (mut one, mut other) = (bus.listen().await.unwrap(), bus.listen().await.unwrap());
    let update = |text| message(ROOM_UPDATED, "room.updated.a", text);
    publish(&bus, &["1", "2"].map(update)).await;
    for listener in [&mut one, &mut other] {
        for expected in [b"1", b"2"] {
            let body = timeout(PATIENCE, listener.next()).await.expect("an update").unwrap();
            assert_eq!(body, expected);
        }
    }
}

async fn several_consumers_share_the_deliveries(bus: Arc<dyn Bus>) {
    let mut one = bus.subscribe().await.unwrap();
    let mut other = bus.subscribe().await.unwrap();
    publish(&bus, &["1", "2"].map(change)).await;
    let mut bodies = Vec::new();
    while bodies.len() < 2 {
        let (subscription, deliveries) = tokio::select! {
            deliveries = next(&mut one) => (&mut one, deliveries),
            deliveries = next(&mut other) => (&mut other, deliveries),
        };
        for delivery in deliveries {
            bodies.push(delivery.body);
            subscription.acknowledge(&[delivery.tag]).await.unwrap();
        }
    }
    bodies.sort();
    assert_eq!(bodies, [b"1", b"2"]);
}
