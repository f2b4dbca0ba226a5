//! `deploy/rabbitmq/definitions.json`: what an operator imports suffices, and grants no more.

use std::{collections::BTreeMap, fs, sync::LazyLock};

use lapin::{
    Connection, ConnectionProperties,
    options::{BasicGetOptions, BasicRejectOptions, QueueDeclareOptions},
    types::FieldTable,
};
use serde_json::{Value, json};

use crate::support::{
    amqp::Client,
    cluster::TestCluster,
    daemon::Daemon,
    database::{Database, Kind},
    eventually,
    server::Broker,
    tools::file,
};

const DEFINITIONS: &str = "deploy/rabbitmq/definitions.json";

/// A broker with the definitions and a password, as the README of that folder has it.
static BROKER: LazyLock<Broker> = LazyLock::new(|| {
    let broker = Broker::start();
    broker.control(&["import_definitions", file(DEFINITIONS).to_str().unwrap()]);
    for guess in ["", "lobbyd"] {
        let login = broker.report(&["authenticate_user", "lobbyd", guess]);
        assert_eq!(login, "", "lobbyd could log in before it was given a password");
    }
    broker.control(&["change_password", "lobbyd", "secret"]);
    // The tests look from the side of another program.
    broker.control(&["set_permissions", "-p", "lobbyd", "guest", ".*", ".*", ".*"]);
    broker
});

fn url(user: &str) -> String {
    format!("amqp://{user}@127.0.0.1:{}/lobbyd", BROKER.server.port)
}

/// What `rabbitmqctl` lists in the vhost, as JSON.
fn listed(arguments: &[&str]) -> Vec<Value> {
    let text = BROKER.report(&[arguments, &["-p", "lobbyd", "--formatter", "json"]].concat());
    serde_json::from_str(&text).unwrap()
}

fn definitions() -> Value {
    serde_json::from_str(&fs::read_to_string(file(DEFINITIONS)).unwrap()).unwrap()
}

fn policy() -> BTreeMap<String, Value> {
    serde_json::from_value(definitions()["policies"][0]["definition"].clone()).unwrap()
}

async fn connect(url: String) -> lapin::Result<Connection> {
    Connection::connect(&url, ConnectionProperties::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_and_api_run_with_the_definitions() {
    let mut cluster =
        TestCluster::on(Database::create(Kind::Postgres).await, &url("lobbyd:secret"));
    cluster.amqp_url = url("guest:guest");
    cluster.exchange = "lobbyd.events".to_owned();
    cluster.dead_letters = "lobbyd.dead-letters".to_owned();
    cluster.set("EVENTS__EXCHANGE", "lobbyd.events");
    cluster.set("EVENTS__QUEUE", "lobbyd.lobby-changed");
    cluster.set("EVENTS__DEAD_LETTER_QUEUE", "lobbyd.dead-letters");
    cluster.set("EVENTS__DECLARE", "false");
    let client = cluster.client().await;
    let worker = cluster.worker().await;
    // It is ready only while it hears the updates of others.
    let mut api = cluster.api().await;

    cluster.database.insert_room("webinar").await;
    let timer = cluster.database.now().await + 1;
    client.publish(&json!({"token": "webinar", "state": 1, "timer": timer})).await;
    cluster.all_done(&client, 1).await;
    client.publish_bytes(b"garbage", "application/json").await;
    let dead_letter = eventually("the dead letter", || client.take("lobbyd.dead-letters")).await;
    assert!(dead_letter.headers["lobbyd-reason"].starts_with("body cannot be read"));
    worker.ready().await;
    assert!(api.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_user_can_declare_nothing_but_queues_to_listen() {
    let connection = connect(url("lobbyd:secret")).await.unwrap();
    let own = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    for (name, allowed) in [
        ("lobbyd.events.api.one", true),
        ("lobbyd.mine", false),
        ("lobbyd.events.apis", false),
        ("mine", false),
    ] {
        let channel = connection.create_channel().await.unwrap();
        let declaring = channel.queue_declare(name.into(), own, FieldTable::default());
        match declaring.await {
            Ok(_queue) => assert!(allowed, "{name} was declared"),
            Err(error) => {
                assert!(!allowed, "{name}: {error}");
                assert!(error.to_string().contains("ACCESS_REFUSED"), "{name}: {error}");
            }
        }
    }
    // It may move dead letters into the queue of dead letters, not read them.
    let channel = connection.create_channel().await.unwrap();
    let reading = channel.basic_get("lobbyd.dead-letters".into(), BasicGetOptions::default());
    assert!(reading.await.unwrap_err().to_string().contains("ACCESS_REFUSED"));

    let elsewhere = format!("amqp://lobbyd:secret@127.0.0.1:{}/%2f", BROKER.server.port);
    let error = connect(elsewhere).await.unwrap_err().to_string();
    assert!(error.contains("NOT_ALLOWED"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_is_in_force_and_moves_dead_letters() {
    let queues = listed(&["list_queues", "name", "policy", "type"]);
    let queue = |name: &str| queues.iter().find(|queue| queue["name"] == name).unwrap();
    assert_eq!(queue("lobbyd.lobby-changed")["policy"], "lobbyd-lobby-changed");
    assert_eq!(queue("lobbyd.lobby-changed")["type"], "quorum");
    assert_eq!(queue("lobbyd.dead-letters")["policy"], "lobbyd-dead-letters");
    assert_eq!(queue("lobbyd.dead-letters")["type"], "quorum");

    // A queue of the same policy, so that no worker takes the event first.
    let (pattern, queue) = (r"^lobbyd\.policy-test$", "lobbyd.policy-test");
    let definition = serde_json::to_string(&policy()).unwrap();
    let dead_letters = "lobbyd.policy-test-dead-letters";
    let definition = definition.replace("lobbyd.dead-letters", dead_letters);
    let set = ["set_policy", "-p", "lobbyd", "--apply-to", "queues", "test", pattern, &definition];
    BROKER.control(&set);
    let connection = connect(url("guest:guest")).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    for name in [dead_letters, queue] {
        let mut quorum = FieldTable::default();
        quorum.insert("x-queue-type".into(), lapin::types::AMQPValue::LongString("quorum".into()));
        channel.queue_declare(name.into(), durable, quorum).await.unwrap();
    }
    let client = Client::connect(&url("guest:guest"), "").await;
    client.send(queue, b"poison", "text/plain").await.await.unwrap();
    let poison = eventually("the event", || async {
        channel.basic_get(queue.into(), BasicGetOptions::default()).await.unwrap()
    })
    .await;
    poison.delivery.acker.reject(BasicRejectOptions { requeue: false }).await.unwrap();
    let dead_letter = eventually("the dead letter", || client.take(dead_letters)).await;
    assert_eq!(dead_letter.body, b"poison");
}

/// The one who lets lobbyd declare gets the same queue as the one who imports.
#[tokio::test(flavor = "multi_thread")]
async fn the_policy_says_what_lobbyd_would_declare() {
    let cluster = TestCluster::on(Database::create(Kind::Sqlite).await, &url("guest:guest"));
    let worker = Daemon::start(&cluster.settings);
    worker.ready().await;
    let queues = listed(&["list_queues", "name", "arguments"]);
    let declared = queues.iter().find(|queue| queue["name"] == cluster.queue.as_str()).unwrap();
    let mut arguments = BTreeMap::new();
    for argument in declared["arguments"].as_array().unwrap() {
        let name = argument[0].as_str().unwrap().trim_start_matches("x-").to_owned();
        arguments.insert(name, argument[2].clone());
    }
    assert_eq!(arguments.remove("queue-type"), Some(json!("quorum")));
    assert_eq!(arguments.remove("dead-letter-routing-key"), Some(json!(cluster.dead_letters)));
    let mut policy = policy();
    assert_eq!(policy.remove("dead-letter-routing-key"), Some(json!("lobbyd.dead-letters")));
    assert_eq!(arguments, policy);
}

#[test]
fn the_definitions_have_the_names_of_the_defaults() {
    let (definitions, events) = (definitions(), lobbyd::config::Config::defaults().events);
    assert_eq!(definitions["exchanges"][0]["name"], events.exchange);
    assert_eq!(definitions["queues"][0]["name"], events.queue);
    assert_eq!(definitions["queues"][1]["name"], events.dead_letter_queue);
    assert_eq!(definitions["bindings"][0]["destination"], events.queue);
}
