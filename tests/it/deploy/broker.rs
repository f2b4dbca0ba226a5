//! The definitions for RabbitMQ: what an operator imports, and what lobbyd may do then.

use lapin::{Connection, ConnectionProperties, options::QueueDeclareOptions, types::FieldTable};
use serde_json::json;

use crate::support::{
    amqp::Client,
    daemon::Daemon,
    database::{Database, Kind},
    eventually,
    server::Broker,
    tools::file,
};

#[tokio::test(flavor = "multi_thread")]
async fn the_definitions_give_lobbyd_what_it_needs_and_no_more() {
    let broker = Broker::start();
    let definitions = file("deploy/rabbitmq/definitions.json");
    broker.control(&["import_definitions", definitions.to_str().unwrap()]);
    let url = |user: &str| format!("amqp://{user}@127.0.0.1:{}/lobbyd", broker.server.port);
    // Before it is given a password nobody is let in.
    let locked = url("lobbyd:");
    assert!(Connection::connect(&locked, ConnectionProperties::default()).await.is_err());
    broker.control(&["change_password", "lobbyd", "secret"]);
    broker.control(&["set_permissions", "--vhost", "lobbyd", "guest", ".*", ".*", ".*"]);

    let database = Database::create(Kind::Sqlite).await;
    let settings = [
        ("DATABASE__URL", database.url.clone()),
        ("EVENTS__URL", url("lobbyd:secret")),
        ("EVENTS__DECLARE", "false".to_owned()),
    ]
    .map(|(key, value)| (format!("LOBBYD__{key}"), value));
    let mut program = Daemon::start_as("run", &settings.to_vec());
    program.ready().await;
    let client = Client::connect(&url("guest:guest"), "lobbyd.events").await;
    client.record("updates").await;

    database.insert_room("webinar").await;
    let timer = database.now().await + 1;
    client.publish(&json!({"token": "webinar", "state": 1, "timer": timer})).await;
    client.take_ids("updates", 1).await;
    client.publish_bytes(b"nonsense", "application/json").await;
    let letter = eventually("the dead letter", || client.take("lobbyd.dead-letters")).await;
    assert!(letter.headers["lobbyd-reason"].contains("cannot be read"), "{letter:?}");
    assert!(program.stop().await.success());

    let policies = broker.report(&["list_queues", "--vhost", "lobbyd", "name", "policy"]);
    assert!(policies.contains("lobbyd.lobby-changed\tlobbyd-lobby-changed"), "{policies}");
    assert!(policies.contains("lobbyd.dead-letters\tlobbyd-dead-letters"), "{policies}");
    let unlocked = url("lobbyd:secret");
    let connection = Connection::connect(&unlocked, ConnectionProperties::default()).await;
    let channel = connection.unwrap().create_channel().await.unwrap();
    let options = QueueDeclareOptions::default();
    let refused = channel.queue_declare("other".into(), options, FieldTable::default()).await;
    assert!(refused.unwrap_err().to_string().contains("ACCESS_REFUSED"));
}

/// What lobbyd declares by itself and what an operator imports is named and limited alike.
#[test]
fn the_definitions_agree_with_the_defaults() {
    let text = std::fs::read_to_string(file("deploy/rabbitmq/definitions.json")).unwrap();
    let definitions: serde_json::Value = serde_json::from_str(&text).unwrap();
    let events = lobbyd::config::Config::defaults().events;
    assert_eq!(definitions["exchanges"][0]["name"], events.exchange);
    assert_eq!(definitions["queues"][0]["name"], events.queue);
    assert_eq!(definitions["queues"][1]["name"], events.dead_letter_queue);
    assert_eq!(definitions["bindings"][0]["destination"], events.queue);
    let policy = &definitions["policies"][0]["definition"];
    assert_eq!(policy["dead-letter-routing-key"], events.dead_letter_queue);
    let topology = std::fs::read_to_string(file("src/events/amqp/topology.rs")).unwrap();
    let limit = format!("DELIVERY_LIMIT: i32 = {};", policy["delivery-limit"]);
    assert!(topology.contains(&limit), "{limit}");
}
