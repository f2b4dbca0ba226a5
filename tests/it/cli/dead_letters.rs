//! `lobbyd dead-letters`: nothing is lost, whatever interrupts it.

use std::{
    collections::BTreeSet,
    process::{Child, Stdio},
};

use lapin::{BasicProperties, types::AMQPValue};
use serde_json::{Value, json};

use super::{cells, failure, json as shown, printed};
use crate::support::{
    amqp::Client,
    cluster::TestCluster,
    daemon::{Daemon, program},
    database::Kind,
    eventually,
    server::BROKER,
    terminal::Terminal,
};

/// A cluster in which a worker has dead-lettered these events.
struct Fixture {
    cluster: TestCluster,
    client: Client,
}

impl Fixture {
    async fn new(events: &[Value]) -> Self {
        let mut cluster = TestCluster::new(Kind::Sqlite).await;
        cluster.set("EVENTS__UNKNOWN_ROOM_GRACE", "100ms");
        let client = cluster.client().await;
        let mut worker = cluster.worker().await;
        for event in events {
            client.publish(event).await;
        }
        let fixture = Self { cluster, client };
        fixture.dead_letters_become(events.len()).await;
        assert!(worker.stop().await.success());
        fixture
    }

    /// A queue that has these bodies, and RabbitMQ 4's default limit: it drops a message after twenty
    /// deliveries.
    async fn plain(bodies: [String; 3]) -> Self {
        let mut cluster = TestCluster::new(Kind::Sqlite).await;
        drop(cluster.database.store().await);
        cluster.set("EVENTS__DECLARE", "false");
        let client = Client::connect(&cluster.amqp_url, "").await;
        let queue = cluster.dead_letters.clone();
        let limit = r#"{"delivery-limit": 20}"#;
        BROKER.control(&[
            "set_policy",
            &queue,
            &format!("^{queue}$"),
            limit,
            "--apply-to",
            "queues",
        ]);
        client.declare_quorum_queue(&queue).await;
        for body in bodies {
            client.send(&queue, body.as_bytes(), "application/json").await.await.unwrap();
        }
        Self { cluster, client }
    }

    async fn dead_letters_become(&self, number: usize) {
        eventually(&format!("{number} dead letters"), || async {
            let count = self.client.count(&self.cluster.dead_letters).await;
            (usize::try_from(count).unwrap() == number).then_some(())
        })
        .await;
    }

    fn json(&self, arguments: &[&str]) -> Value {
        shown(&self.cluster.settings, &[&["dead-letters"], arguments].concat())
    }

    /// The rooms of the dead letters, in their order.
    fn rooms(&self) -> Vec<String> {
        let list = self.json(&["list", "--limit", "1000"]);
        let letters = list["deadLetters"].as_array().unwrap();
        letters.iter().map(|letter| letter["token"].as_str().unwrap().to_owned()).collect()
    }

    async fn rooms_become(&self, expected: &[&str]) {
        // What a command has read returns to the queue a moment after its end.
        eventually(&format!("{expected:?}"), || async { (self.rooms() == expected).then_some(()) })
            .await;
    }

    fn spawn(&self, arguments: &[&str]) -> Child {
        let mut command = program(&self.cluster.settings);
        command.arg("dead-letters").args(arguments);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }
}

fn ids(list: &Value) -> Vec<String> {
    let letters = list["deadLetters"].as_array().unwrap();
    letters.iter().map(|letter| letter["id"].to_string()).collect()
}

fn closing(token: &str) -> Value {
    json!({"token": token, "state": 1})
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_and_shown_with_their_reasons() {
    let malformed = json!({"token": "bad", "state": 7});
    let fixture = Fixture::new(&[closing("nowhere"), malformed]).await;
    let settings = &fixture.cluster.settings;
    let list = fixture.json(&["list"]);
    assert_eq!(list["total"], 2);
    let letters = list["deadLetters"].as_array().unwrap();
    let by_room = |room: &str| letters.iter().find(|letter| letter["token"] == room).unwrap();
    let unknown = by_room("nowhere");
    assert_eq!(unknown["reason"], "unknown room nowhere (waited 100ms)");
    assert_eq!(unknown["routingKey"], "lobby.changed");
    assert_eq!(unknown["exchange"], *fixture.cluster.exchange);
    assert!((0..600).contains(&unknown["ageSeconds"].as_i64().unwrap()), "{unknown}");
    assert_eq!(unknown["body"], closing("nowhere").to_string());
    assert_eq!(unknown["size"], closing("nowhere").to_string().len());

    let table = cells(&printed(settings, &["dead-letters", "list", "--reason", "UNKNOWN ROOM"]));
    assert_eq!(table[0], ["No.", "Id", "Reason", "Routing key", "Age", "Size", "Body"]);
    assert_eq!(table[1][2], "unknown room nowhere (waited 100ms)");
    assert_eq!(table[2], ["1 of 2 dead letters"]);
    for (option, number) in [("1h", 0), ("0s", 2)] {
        let list = fixture.json(&["list", "--older-than", option]);
        assert_eq!(list["deadLetters"].as_array().unwrap().len(), number, "{option}");
    }
    let id = unknown["id"].as_str().unwrap();
    for wanted in [id, &unknown["number"].to_string()] {
        let whole = fixture.json(&["show", wanted]);
        assert_eq!(whole["headers"]["lobbyd-reason"], unknown["reason"]);
        assert_eq!(whole["wholeBody"], unknown["body"]);
        let text = printed(settings, &["dead-letters", "show", wanted]);
        assert!(text.contains("unknown room nowhere"), "{text}");
        assert!(text.ends_with(&format!("\n\n{}\n", closing("nowhere"))), "{text}");
    }
    let error = failure(settings, &["dead-letters", "show", "none"]);
    assert!(error.contains("there is no dead letter none"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_keeps_the_order_and_does_not_use_up_the_delivery_limit() {
    let fixture = Fixture::new(&[closing("a"), closing("b"), closing("c")]).await;
    let order = fixture.rooms();
    let order: Vec<&str> = order.iter().map(String::as_str).collect();
    let plain = Fixture::plain(["a", "b", "c"].map(|token| closing(token).to_string())).await;
    let first = ids(&plain.json(&["list"]));
    for _ in 0..45 {
        fixture.json(&["show", "1"]);
        fixture.json(&["list", "--limit", "2"]);
        fixture.rooms_become(&order).await;
        plain.rooms_become(&["a", "b", "c"]).await;
    }
    assert_eq!(ids(&plain.json(&["list"])), first, "a copy has the same id");
}

/// More than is kept in memory to be renewed.
#[tokio::test(flavor = "multi_thread")]
async fn reading_large_dead_letters_does_not_use_up_the_delivery_limit() {
    let plain = Fixture::plain(["a", "b", "c"].map(|letter| letter.repeat(3 << 20))).await;
    let first = ids(&plain.json(&["list"]));
    assert_eq!(first.len(), 3);
    for _ in 0..25 {
        plain.dead_letters_become(3).await;
        assert_eq!(ids(&plain.json(&["list"])), first);
    }
}

fn bounded<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&["dead-letters"], arguments, &["--max-read", "1"]].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_that_is_reached_is_named() {
    let plain = Fixture::plain(["a", "b", "c"].map(|token| closing(token).to_string())).await;
    let settings = &plain.cluster.settings;
    let list = shown(settings, &bounded(&["list"]));
    assert_eq!((&list["total"], &list["unread"], ids(&list).len()), (&json!(3), &json!(2), 1));
    plain.dead_letters_become(3).await;
    let list = printed(settings, &bounded(&["list", "--token", "b"]));
    let bound = "the last 2 were not looked at, --max-read reads more";
    assert_eq!(list, format!("None of 3 dead letters; {bound}.\n"));
    plain.dead_letters_become(3).await;
    let error = failure(settings, &bounded(&["show", "2"]));
    assert!(error.contains("dead letter 2 is not among the first 1 of 3; --max-read"), "{error}");
    for command in [["replay", "--token", "b"].as_slice(), &["drop", "--token", "b", "--yes"]] {
        plain.dead_letters_become(3).await;
        let error = failure(settings, &bounded(command));
        assert!(error.contains("2 dead letters were not looked at"), "{error}");
    }
    // What leaves the queue does not count.
    plain.dead_letters_become(3).await;
    assert_eq!(printed(settings, &bounded(&["drop", "--yes"])), "3 of 3 dropped\n");
    plain.dead_letters_become(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_asks_on_a_terminal() {
    let plain = Fixture::plain(["a", "b", "c"].map(|token| closing(token).to_string())).await;
    let settings = &plain.cluster.settings;
    for (command, question) in [
        ("drop", "Drop 3 of 3 dead letters? [y/N]"),
        ("drop --token b", "Drop 1 of 3 dead letters? [y/N]"),
    ] {
        let mut terminal = Terminal::run(settings, &format!("lobbyd dead-letters {command}"));
        terminal.shows(question).await;
        terminal.press(b"\n");
        assert!(!terminal.ended().await.success());
        assert!(terminal.sent().contains("nothing was dropped"), "{}", terminal.sent());
        plain.rooms_become(&["a", "b", "c"]).await;
        plain.dead_letters_become(3).await;
    }
    let mut terminal = Terminal::run(settings, "lobbyd dead-letters drop --token b");
    terminal.shows("[y/N]").await;
    terminal.press(b"y\n");
    assert_eq!(terminal.ended().await.code(), Some(0));
    assert!(terminal.sent().contains("1 of 3 dropped"), "{}", terminal.sent());
    plain.rooms_become(&["a", "c"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_shows_its_progress_on_a_terminal() {
    let plain = Fixture::plain(["a", "b", "c"].map(|token| closing(token).to_string())).await;
    plain.client.declare_quorum_queue(&plain.cluster.queue).await;
    let mut terminal = Terminal::run(&plain.cluster.settings, "lobbyd dead-letters replay");
    assert_eq!(terminal.ended().await.code(), Some(0));
    let sent = terminal.sent();
    assert!(sent.contains("/3") && sent.contains("3 of 3 replayed"), "{sent}");
}

#[tokio::test(flavor = "multi_thread")]
async fn replayed_events_are_applied_as_their_sender_published_them() {
    let mut events = vec![closing("nowhere")];
    events.extend((1..=3).map(|number| closing(&format!("room{number}"))));
    let fixture = Fixture::new(&events).await;
    let Fixture { cluster, client } = &fixture;
    let database = &cluster.database;
    let settings = &cluster.settings;
    // Another program receives what is published to the exchange.
    client.record_keys("others", &["lobby.changed".to_owned()]).await;
    database.open_rooms("room", 3).await;
    let worker = Daemon::start(settings);
    worker.ready().await;

    let one = fixture.json(&["replay", "--token", "room1"]);
    assert_eq!(one, json!({"replayed": 1}));
    database.lobby_becomes("room1", 1).await;
    assert_eq!(database.lobby_state("room2").await, 0);
    fixture.dead_letters_become(3).await;
    let list = fixture.json(&["list", "--token", "room2"]);
    fixture.dead_letters_become(3).await;
    let id = list["deadLetters"][0]["id"].as_str().unwrap();
    assert_eq!(printed(settings, &["dead-letters", "replay", id]), "1 of 3 replayed\n");
    database.lobby_becomes("room2", 1).await;
    fixture.dead_letters_become(2).await;
    fixture.json(&["replay"]);
    database.lobby_becomes("room3", 1).await;
    // What still cannot be applied comes back.
    fixture.dead_letters_become(1).await;
    assert_eq!(fixture.rooms(), ["nowhere"]);
    assert_eq!(client.count("others").await, 0, "nobody else receives them again");
    let error = failure(settings, &["dead-letters", "replay", "no-such-id"]);
    assert!(error.contains("no dead letter has this id"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_event_keeps_its_properties() {
    let fixture = Fixture::new(&[]).await;
    let Fixture { cluster, client } = &fixture;
    let mut headers = lapin::types::FieldTable::default();
    headers.insert("mine".into(), AMQPValue::LongInt(7));
    let properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_message_id("message-1".into())
        .with_timestamp(1_700_000_000)
        .with_headers(headers);
    let mut worker = cluster.worker().await;
    client.publish_with(closing("nowhere").to_string().as_bytes(), properties).await;
    fixture.dead_letters_become(1).await;
    assert!(worker.stop().await.success());
    let list = fixture.json(&["list"]);
    assert_eq!(list["deadLetters"][0]["id"], "message-1");
    eventually("the replay", || async {
        (fixture.json(&["replay", "message-1"])["replayed"] == 1).then_some(())
    })
    .await;
    let delivery = eventually("the event", || client.take_delivery(&cluster.queue)).await;
    let properties = &delivery.properties;
    assert_eq!(properties.message_id().as_ref().unwrap().as_str(), "message-1");
    assert_eq!(properties.timestamp(), &Some(1_700_000_000));
    assert_eq!(delivery.data, closing("nowhere").to_string().as_bytes());
    let headers = properties.headers().as_ref().unwrap();
    assert_eq!(headers.inner()["mine"], AMQPValue::LongInt(7));
    let text = |name: &str| headers.inner()[name].as_long_string().unwrap().to_string();
    assert_eq!(text("lobbyd-exchange"), cluster.exchange);
    assert_eq!(text("lobbyd-routing-key"), "lobby.changed");
    for gone in ["lobbyd-reason", "lobbyd-dead-lettered"] {
        assert!(!headers.contains_key(gone), "{gone}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_replay_loses_no_event() {
    let number = 200;
    let events: Vec<Value> = (0..number).map(|room| closing(&format!("room{room}"))).collect();
    let fixture = Fixture::new(&events).await;
    let Fixture { cluster, client } = &fixture;
    let mut kills = 0;
    // Killed at its start, and after each further part.
    for part in (0..number).step_by(20) {
        let mut command = fixture.spawn(&["replay"]);
        eventually("some replayed events", || async {
            let replayed = client.count(&cluster.queue).await;
            let has_ended = client.count(&cluster.dead_letters).await == 0;
            (usize::try_from(replayed).unwrap() >= part || has_ended).then_some(())
        })
        .await;
        command.kill().unwrap();
        command.wait().unwrap();
        kills += 1;
        // What it held goes back when the broker notices its end.
        eventually("all events", || async {
            let total =
                client.count(&cluster.queue).await + client.count(&cluster.dead_letters).await;
            (usize::try_from(total).unwrap() >= number).then_some(())
        })
        .await;
    }
    eventually("an empty queue of dead letters", || async {
        fixture.json(&["replay"]);
        (client.count(&cluster.dead_letters).await == 0).then_some(())
    })
    .await;
    let replayed = client.take_rest(&cluster.queue).await;
    let rooms: BTreeSet<String> = replayed
        .iter()
        .map(|message| message.json()["token"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(rooms.len(), number);
    assert!(replayed.len() <= number + kills, "{} events after {kills} kills", replayed.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_agreed_to_is_dropped() {
    let fixture = Fixture::new(&[closing("a"), closing("b")]).await;
    let settings = &fixture.cluster.settings;
    let order = fixture.rooms();
    fixture.dead_letters_become(2).await;
    let error = failure(settings, &["dead-letters", "drop"]);
    assert!(error.contains("2 of 2 would be dropped; confirm with --yes"), "{error}");
    fixture.rooms_become(&[&order[0], &order[1]]).await;
    fixture.dead_letters_become(2).await;
    let error = failure(settings, &["dead-letters", "drop", "1", "--yes"]);
    assert!(error.contains("use the ids"), "{error}");
    fixture.dead_letters_become(2).await;
    assert_eq!(fixture.json(&["drop", "--token", "a", "--yes"]), json!({"dropped": 1}));
    fixture.rooms_become(&["b"]).await;
    fixture.dead_letters_become(1).await;
    let all = printed(settings, &["dead-letters", "drop", "--yes"]);
    assert_eq!(all, "1 of 1 dropped\n");
    assert_eq!(printed(settings, &["dead-letters", "list"]), "None of 0 dead letters.\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_the_broker_names_it_and_what_to_do() {
    let mut cluster = TestCluster::new(Kind::Sqlite).await;
    cluster.set("EVENTS__DEAD_LETTER_QUEUE", "no-such-queue");
    let (host, _vhost) = cluster
        .setting("EVENTS__URL")
        .rsplit_once('/')
        .map(|(host, vhost)| (host.to_owned(), vhost.to_owned()))
        .unwrap();
    let list = |cluster: &TestCluster| failure(&cluster.settings, &["dead-letters", "list"]);
    let error = list(&cluster);
    assert!(
        error.contains("there is no queue no-such-queue; a worker or `lobbyd run` creates"),
        "{error}"
    );
    assert!(error.contains("amqp://") && !error.contains("unavailable"), "{error}");
    cluster.set("EVENTS__URL", &format!("{host}/nowhere"));
    let error = list(&cluster);
    assert!(error.contains("/nowhere: the virtual host is what follows"), "{error}");
    cluster.set("EVENTS__URL", "amqp://lobbyd:marker@127.0.0.1:1");
    let error = list(&cluster);
    assert!(error.contains("amqp://lobbyd:***@127.0.0.1:1: broker unavailable"), "{error}");
    assert!(error.contains("`lobbyd config check --connect` tries the servers"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_shown_as_it_came() {
    let body = r#"{"token":"webinar","token":"other","state":1}"#;
    let plain = Fixture::plain([body, "b", "c"].map(str::to_owned)).await;
    let shown = printed(&plain.cluster.settings, &["dead-letters", "show", "1"]);
    assert!(shown.ends_with(&format!("\n\n{body}\n")), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_may_not_read_the_queue_is_told_what_to_set() {
    let mut fixture = Fixture::new(&[closing("nowhere")]).await;
    BROKER.control(&["add_user", "blind", "secret"]);
    BROKER.control(&["set_permissions", "blind", ".*", ".*", "^$"]);
    let (_, host) = fixture.cluster.amqp_url.split_once("127.0.0.1").unwrap();
    let url = format!("amqp://blind:secret@127.0.0.1{host}");
    fixture.cluster.set("EVENTS__URL", &url);
    let error = failure(&fixture.cluster.settings, &["dead-letters", "list"]);
    let queue = &fixture.cluster.dead_letters;
    for part in [
        &format!("need to read the queue {queue}"),
        "write to the exchange amq.default",
        "set LOBBYD__EVENTS__URL to the URL of a user who may",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    fixture.cluster.set("EVENTS__URL", &url.replace("secret", "wrong"));
    let error = failure(&fixture.cluster.settings, &["dead-letters", "list"]);
    assert!(error.contains("the broker knows no user with this password"), "{error}");
    assert!(!error.contains("wrong@"), "{error}");
}
