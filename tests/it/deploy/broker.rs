//! `deploy/rabbitmq/definitions.json`: lobbyd runs with the imported definitions, and its user has
//! no further permissions.

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
    daemon::{Daemon, run, settings},
    database::{Database, Kind},
    eventually,
    server::Broker,
    tools::file,
};

const DEFINITIONS: &str = "deploy/rabbitmq/definitions.json";

/// A broker with the definitions and a password, as the README in that directory describes.
static BROKER: LazyLock<Broker> = LazyLock::new(|| {
    let broker = Broker::start();
    // That of the other tests.
    broker.control(&["delete_user", "lobbyd"]);
    broker.control(&["import_definitions", file(DEFINITIONS).to_str().unwrap()]);
    for guess in ["", "lobbyd"] {
        let login = broker.report(&["authenticate_user", "lobbyd", guess]);
        assert_eq!(login, "", "lobbyd could log in before its password was set");
    }
    broker.control(&["change_password", "lobbyd", "secret"]);
    // The tests act as another program.
    broker.control(&["set_permissions", "-p", "lobbyd", "guest", ".*", ".*", ".*"]);
    broker
});

fn url(user: &str) -> String {
    format!("amqp://{user}@127.0.0.1:{}/lobbyd", BROKER.server.port)
}

/// The output of `rabbitmqctl` for the virtual host, as JSON.
fn listed(arguments: &[&str]) -> Vec<Value> {
    let text = BROKER.report(&[arguments, &["-p", "lobbyd", "--formatter", "json"]].concat());
    serde_json::from_str(&text).unwrap()
}

fn definitions() -> Value {
    serde_json::from_str(&fs::read_to_string(file(DEFINITIONS)).unwrap()).unwrap()
}

fn policy(index: usize) -> BTreeMap<String, Value> {
    serde_json::from_value(definitions()["policies"][index]["definition"].clone()).unwrap()
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
    cluster.set("EVENTS__RETRY_QUEUE", "lobbyd.retry");
    cluster.set("EVENTS__UPDATES_EXCHANGE", "lobbyd.updates");
    cluster.set("EVENTS__DECLARE", "false");
    let client = cluster.client().await;
    let worker = cluster.worker().await;
    // It is ready only while its update listener is connected.
    let mut api = cluster.api().await;

    cluster.database.insert_room("webinar").await;
    let timer = cluster.database.now().await + 1;
    client.publish(&json!({"token": "webinar", "state": 1, "timer": timer})).await;
    cluster.all_done(&client, 1).await;
    client.publish_bytes(b"garbage", "application/json").await;
    let dead_letter = eventually("the dead letter", || client.take("lobbyd.dead-letters")).await;
    assert!(dead_letter.headers["lobbyd-reason"].starts_with("body cannot be parsed"));
    // It waits in the retry queue for its room.
    client.publish(&json!({"token": "late", "state": 1})).await;
    eventually("the event to wait", || async {
        (client.count("lobbyd.retry").await > 0).then_some(())
    })
    .await;
    cluster.database.insert_room("late").await;
    cluster.database.lobby_becomes("late", 1).await;
    worker.ready().await;
    assert!(api.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_user_can_only_declare_queues_for_listening() {
    let connection = connect(url("lobbyd:secret")).await.unwrap();
    let own = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    for (name, allowed) in [
        ("lobbyd.updates.api.one", true),
        ("lobbyd.mine", false),
        ("lobbyd.updates.apis", false),
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
    // It may publish to the dead-letter queue, but not read it.
    let channel = connection.create_channel().await.unwrap();
    let reading = channel.basic_get("lobbyd.dead-letters".into(), BasicGetOptions::default());
    assert!(reading.await.unwrap_err().to_string().contains("ACCESS_REFUSED"));

    let elsewhere = format!("amqp://lobbyd:secret@127.0.0.1:{}/%2f", BROKER.server.port);
    let error = connect(elsewhere).await.unwrap_err().to_string();
    assert!(error.contains("NOT_ALLOWED"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_applies_and_moves_dead_letters() {
    let queues = listed(&["list_queues", "name", "policy", "type"]);
    let queue = |name: &str| queues.iter().find(|queue| queue["name"] == name).unwrap();
    assert_eq!(queue("lobbyd.lobby-changed")["policy"], "lobbyd-lobby-changed");
    assert_eq!(queue("lobbyd.lobby-changed")["type"], "quorum");
    assert_eq!(queue("lobbyd.dead-letters")["policy"], "lobbyd-dead-letters");
    assert_eq!(queue("lobbyd.dead-letters")["type"], "quorum");
    assert_eq!(queue("lobbyd.retry")["policy"], "lobbyd-retry");
    assert_eq!(queue("lobbyd.retry")["type"], "quorum");

    // A queue with the same policy but without workers, so that the test gets the event.
    let (pattern, queue) = (r"^lobbyd\.policy-test$", "lobbyd.policy-test");
    let definition = serde_json::to_string(&policy(0)).unwrap();
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

/// Queues that lobbyd declares have the same properties as imported ones, except the delivery limit,
/// which an operator can change only in a policy.
#[tokio::test(flavor = "multi_thread")]
async fn the_policies_are_equal_to_the_arguments_that_lobbyd_declares() {
    let mut cluster = TestCluster::on(Database::create(Kind::Sqlite).await, &url("guest:guest"));
    let retry = format!("{}.retry", cluster.queue);
    cluster.set("EVENTS__RETRY_QUEUE", &retry);
    let worker = Daemon::start(&cluster.settings);
    worker.ready().await;
    let queues = listed(&["list_queues", "name", "arguments"]);
    for (policy, queue, target) in [
        (0, &cluster.queue, ("lobbyd.dead-letters", &cluster.dead_letters)),
        (2, &retry, ("lobbyd.lobby-changed", &cluster.queue)),
    ] {
        let declared = queues.iter().find(|each| each["name"] == queue.as_str()).unwrap();
        let mut arguments = BTreeMap::new();
        for argument in declared["arguments"].as_array().unwrap() {
            let name = argument[0].as_str().unwrap().trim_start_matches("x-").to_owned();
            arguments.insert(name, argument[2].clone());
        }
        assert_eq!(arguments.remove("queue-type"), Some(json!("quorum")));
        assert_eq!(arguments.remove("dead-letter-routing-key"), Some(json!(target.1)));
        let mut policy = self::policy(policy);
        policy.remove("delivery-limit");
        assert_eq!(policy.remove("dead-letter-routing-key"), Some(json!(target.0)));
        assert_eq!(arguments, policy);
    }
}

/// The commands of the README for users of other programs.
#[tokio::test(flavor = "multi_thread")]
async fn other_programs_can_only_do_what_they_need() {
    let readme = fs::read_to_string(file("deploy/rabbitmq/README.md")).unwrap();
    for command in readme.lines().filter(|line| {
        line.starts_with("    rabbitmqctl set")
            && line.contains("-p lobbyd ")
            && !line.contains("NAME")
    }) {
        let arguments: Vec<&str> =
            command.split_whitespace().skip(1).map(|word| word.trim_matches('\'')).collect();
        if let [_permission, "-p", "lobbyd", user, ..] = arguments[..]
            && arguments[0] == "set_permissions"
        {
            BROKER.control(&["add_user", user, "secret"]);
        }
        BROKER.control(&arguments);
    }
    for (user, exchange, key, allowed) in [
        ("publisher", "lobbyd.events", "lobby.changed", true),
        ("publisher", "lobbyd.events", "lobby.changed.webinar", true),
        ("publisher", "lobbyd.events", "room.updated.webinar", false),
        ("publisher", "lobbyd.updates", "room.updated.webinar", false),
        ("publisher", "", "lobbyd.lobby-changed", false),
        ("subscriber", "lobbyd.events", "lobby.changed", false),
        ("operator", "", "lobbyd.lobby-changed", true),
        ("operator", "lobbyd.events", "lobby.changed", false),
    ] {
        let client = Client::connect(&url(&format!("{user}:secret")), exchange).await;
        let confirm = client.send(key, b"{}", "application/json").await.await;
        assert_eq!(confirm.is_ok(), allowed, "{user} to {exchange}: {confirm:?}");
    }
    let client = Client::connect(&url("subscriber:secret"), "lobbyd.events").await;
    client.bind_queue("webinars", "room.updated.#").await;
    let operator = Client::connect(&url("operator:secret"), "").await;
    operator.send("lobbyd.dead-letters", b"{}", "application/json").await.await.unwrap();
    for (user, may_read) in [("operator", true), ("lobbyd", false)] {
        let settings = settings(&[("LOBBYD__EVENTS__URL", &url(&format!("{user}:secret")))]);
        let output = run(&settings, &["dead-letters", "list"]);
        assert_eq!(output.status.success(), may_read, "{user}: {output:?}");
    }
}

#[test]
fn the_definitions_have_the_default_names() {
    let (definitions, events) = (definitions(), lobbyd::config::Config::defaults().events);
    assert_eq!(definitions["exchanges"][0]["name"], events.exchange);
    assert_eq!(definitions["queues"][0]["name"], events.queue);
    assert_eq!(definitions["exchanges"][1]["name"], events.updates_exchange);
    assert_eq!(definitions["queues"][1]["name"], events.dead_letter_queue);
    assert_eq!(definitions["queues"][2]["name"], events.retry_queue);
    assert_eq!(definitions["bindings"][0]["destination"], events.queue);
}
