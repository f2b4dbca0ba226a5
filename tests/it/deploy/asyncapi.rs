//! The `AsyncAPI` document: it is valid, its names are those of the program, and lobbyd consumes
//! and publishes events as it says.

use std::{collections::BTreeSet, fs};

use lobbyd::{
    bus::cloudevents::CLOUDEVENTS_JSON,
    config::Config,
    domain::{ChangeOrder, LOBBY_CHANGED, Reason, RoomUpdated},
};
use serde_json::{Value, json};

use crate::support::{
    amqp::Published,
    cluster::TestCluster,
    daemon::{Daemon, add_user},
    database::Kind,
    eventually,
    fixtures::parse,
    http::Api,
    server::folder,
    tools::{debian, file, output, printed, tool},
};

const DOCUMENT: &str = "deploy/asyncapi.yaml";

/// Prints each instance that violates its schema. `AsyncAPI` schemas extend draft 7.
const VALIDATE: &str = "\
import json, sys, jsonschema
failed = False
for name, schema, instance in json.load(open(sys.argv[1])):
    for error in jsonschema.Draft7Validator(schema).iter_errors(instance):
        failed = True
        print(f'{name}: {error.json_path}: {error.message}', file=sys.stderr)
sys.exit(failed)
";

/// The document as JSON with all references resolved, by the parser of the `AsyncAPI` project.
fn document() -> Value {
    let mut parser = debian("node");
    parser.arg(file("target/test-tools/asyncapi/validate.mjs")).arg(file(DOCUMENT));
    serde_json::from_str(&printed(&mut parser)).unwrap()
}

/// The violations among these names, schemas and instances.
fn violations(checks: &[(String, &Value, Value)]) -> String {
    let list = folder("schemas-").join("checks.json");
    fs::write(&list, json!(checks).to_string()).unwrap();
    let checked =
        output(tool("deploy/bin/python").args(["-W", "ignore", "-c", VALIDATE]).arg(list));
    let violations = String::from_utf8(checked.stderr).unwrap();
    assert_eq!(checked.status.success(), violations.is_empty(), "{violations}");
    violations
}

fn message<'a>(document: &'a Value, name: &str) -> &'a Value {
    &document["components"]["messages"][name]
}

fn examples<'a>(document: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    let examples = message(document, name)["examples"].as_array().unwrap();
    assert!(!examples.is_empty(), "{name}");
    examples.iter()
}

/// Each example of a lobby change with its content type.
fn lobby_changes(document: &Value) -> impl Iterator<Item = (&Value, &str)> {
    ["lobbyChanged", "lobbyChangedData"].into_iter().flat_map(move |name| {
        let content_type = message(document, name)["contentType"].as_str().unwrap();
        examples(document, name).map(move |example| (&example["payload"], content_type))
    })
}

#[test]
fn the_document_has_the_names_of_the_program() {
    let document = document();
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let events = Config::defaults().events;
    for (channel, address) in [
        ("lobbyChanged", "lobby.changed"),
        ("lobbyChangedOfRoom", "lobby.changed.{token}"),
        ("roomUpdated", "room.updated.{token}"),
    ] {
        let channel = &document["channels"][channel];
        assert_eq!(channel["address"], address);
        assert_eq!(channel["bindings"]["amqp"]["exchange"]["name"], events.exchange);
    }
    for (channel, queue) in
        [("lobbyChangedQueue", events.queue), ("deadLetters", events.dead_letter_queue)]
    {
        let channel = &document["channels"][channel];
        assert_eq!(channel["address"], queue);
        assert_eq!(channel["bindings"]["amqp"]["queue"]["name"], queue);
    }
    assert_eq!(message(&document, "lobbyChanged")["name"], LOBBY_CHANGED);
}

#[test]
fn the_parser_refuses_a_wrong_document() {
    let text = fs::read_to_string(file(DOCUMENT)).unwrap();
    for (right, wrong) in [
        ("is: routingKey", "is: routingKeys"),
        ("#/components/messages/deadLetter", "#/components/messages/deadLetters"),
        ("action: send", "action: publish"),
    ] {
        assert!(text.contains(right), "{right}");
        let broken = folder("asyncapi-").join("broken.yaml");
        fs::write(&broken, text.replace(right, wrong)).unwrap();
        let mut parser = debian("node");
        parser.arg(file("target/test-tools/asyncapi/validate.mjs")).arg(broken);
        assert_eq!(output(&mut parser).status.code(), Some(1), "{wrong}");
    }
}

/// Every variant of `Reason`, read from the source, so that a new one cannot be forgotten.
fn reasons() -> BTreeSet<String> {
    let source = fs::read_to_string(file("src/domain/reason.rs")).unwrap();
    let (_before, body) = source.split_once("pub enum Reason {\n").unwrap();
    let (body, _after) = body.split_once("\n}").unwrap();
    let variants = body.lines().map(str::trim).filter(|line| !line.starts_with("//"));
    variants
        .map(|line| {
            let variant = line.strip_suffix(',').unwrap();
            let mut name = String::new();
            for letter in variant.chars() {
                if letter.is_uppercase() && !name.is_empty() {
                    name.push('_');
                }
                name.extend(letter.to_lowercase());
            }
            let reason = Reason::from_name(&name).unwrap_or_else(|| panic!("no reason {name}"));
            assert_eq!(format!("{reason:?}"), variant);
            name
        })
        .collect()
}

#[test]
fn every_reason_is_documented() {
    let document = document();
    let documented = &document["components"]["schemas"]["reason"]["enum"];
    let documented: BTreeSet<String> = serde_json::from_value(documented.clone()).unwrap();
    assert_eq!(documented, reasons());
}

#[test]
fn every_example_is_valid_against_its_schema() {
    let document = document();
    let mut checks = Vec::new();
    for name in ["lobbyChanged", "lobbyChangedData", "roomUpdated", "deadLetter"] {
        for example in examples(&document, name) {
            for part in ["payload", "headers"] {
                if let Some(instance) = example.get(part) {
                    let what = format!("{name} {} {part}", example["name"]);
                    checks.push((what, &message(&document, name)[part], instance.clone()));
                }
            }
        }
    }
    assert_eq!(violations(&checks), "");

    // The check itself finds violations.
    let schema = &message(&document, "roomUpdated")["payload"];
    let valid = &examples(&document, "roomUpdated").next().unwrap()["payload"];
    for (pointer, wrong) in [
        ("/data/reason", json!("on_a_whim")),
        ("/data/reason", json!("lobby_none")),
        ("/data/version", json!("7")),
        ("/data/lobbyState", Value::Null),
        ("/specversion", json!("0.3")),
        ("/type", json!("room.updated.v2")),
        ("/source", json!("")),
    ] {
        let mut instance = valid.clone();
        *instance.pointer_mut(pointer).unwrap() = wrong.clone();
        let found = violations(&[(pointer.to_owned(), schema, instance)]);
        assert!(found.starts_with(pointer), "{pointer} accepts {wrong}");
    }
}

#[test]
fn every_example_of_an_update_has_the_format_of_the_program() {
    for example in examples(&document(), "roomUpdated") {
        let data = &example["payload"]["data"];
        let update: RoomUpdated = serde_json::from_value(data.clone()).unwrap();
        assert_eq!(serde_json::to_value(&update).unwrap(), *data);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_applies_every_example() {
    let document = document();
    let cluster = TestCluster::new(Kind::Postgres).await;
    let client = cluster.client().await;
    let worker = cluster.worker().await;
    for (payload, content_type) in lobby_changes(&document) {
        let body = payload.to_string().into_bytes();
        let change = parse(&body, content_type);
        let (token, state) = (change.token.as_str(), change.lobby.state.number());
        cluster
            .database
            .execute(&format!(
                "INSERT INTO lobbyd_rooms (token, type, name, lobby_state)
                 VALUES ('{token}', 3, 'Webinar', {})",
                1 - state
            ))
            .await;
        let key = if content_type == CLOUDEVENTS_JSON {
            format!("lobby.changed.{token}")
        } else {
            "lobby.changed".to_owned()
        };
        client.send(&key, &body, content_type).await.await.unwrap();
        cluster.database.lobby_becomes(token, state).await;

        let data = payload.get("data").unwrap_or(payload);
        let of_room =
            |what: &str| format!("SELECT {what} FROM lobbyd_rooms WHERE token = '{token}'");
        let timer = of_room("coalesce(extract(epoch FROM lobby_timer)::bigint, 0)");
        assert_eq!(cluster.database.number(&timer).await, data["timer"].as_i64().unwrap_or(0));
        if let ChangeOrder::Version(version) = change.order {
            let stored = cluster.database.number(&of_room("lobby_version")).await;
            assert_eq!(stored, version.milliseconds());
        }
    }
    let applied = r#"lobbyd_events_received_total{outcome="applied"}"#;
    let number = u64::try_from(lobby_changes(&document).count()).unwrap();
    worker.metric_becomes(applied, number).await;
    assert!(client.take_rest(&cluster.dead_letters).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_of_a_dead_letter_becomes_one() {
    let document = document();
    let mut cluster = TestCluster::new(Kind::Sqlite).await;
    cluster.set("EVENTS__UNKNOWN_ROOM_GRACE", "5s");
    let client = cluster.client().await;
    let _worker = cluster.worker().await;
    let insert = "INSERT INTO lobbyd_rooms (token, type, name) VALUES ('onetoone', 1, '')";
    cluster.database.execute(insert).await;
    for example in examples(&document, "deadLetter") {
        let (headers, body) = (&example["headers"], example["payload"].to_string());
        let key = headers["lobbyd-routing-key"].as_str().unwrap();
        client.send(key, body.as_bytes(), "application/json").await.await.unwrap();
        let mut dead_letter =
            eventually("the dead letter", || client.take(&cluster.dead_letters)).await;
        // RabbitMQ adds its own to a message that has waited in the retry queue.
        dead_letter.headers.retain(|name, _| !name.starts_with("x-"));
        assert_eq!(dead_letter.body, body.as_bytes());
        let mut expected = headers.clone();
        // The tests share a broker, so each has an exchange of its own.
        expected["lobbyd-exchange"] = cluster.exchange.as_str().into();
        assert_eq!(json!(dead_letter.headers), expected);
    }
}

/// A published message, with the schemas that it has to match.
fn checks<'a>(document: &'a Value, published: &Published) -> Vec<(String, &'a Value, Value)> {
    let event = published.json();
    let name = match event["type"].as_str().unwrap() {
        LOBBY_CHANGED => "lobbyChanged",
        _update => "roomUpdated",
    };
    let documented = message(document, name);
    assert_eq!(documented["name"], event["type"]);
    assert_eq!(documented["contentType"], published.content_type.as_str());
    assert_eq!(event["id"], published.message_id.as_str());
    let channel = if name == "lobbyChanged" { "lobbyChangedOfRoom" } else { name };
    let address = document["channels"][channel]["address"].as_str().unwrap();
    assert_eq!(published.routing_key, address.replace("{token}", &published.token()));
    let operation = if name == "lobbyChanged" { "sendLobbyChanged" } else { "sendRoomUpdated" };
    let bindings = &document["operations"][operation]["bindings"]["amqp"];
    assert_eq!(bindings["deliveryMode"], published.delivery_mode);

    // Consumers ignore unknown fields, so the schemas allow them; here, all have to be known.
    let data = if name == "lobbyChanged" { "lobbyData" } else { "roomData" };
    for (schema, object) in [("cloudEvent", &event), (data, &event["data"])] {
        let known = &document["components"]["schemas"][schema]["properties"];
        for key in object.as_object().unwrap().keys().filter(|key| *key != "data") {
            assert!(known.get(key).is_some(), "{key} of {schema} is not documented");
        }
    }
    let headers = json!(published.headers);
    vec![
        (format!("{event}"), &documented["payload"], event),
        (format!("headers {headers}"), &documented["headers"], headers),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_published_event_is_valid_against_the_document() {
    let document = document();
    let cluster = TestCluster::new(Kind::Sqlite).await;
    let client = cluster.client().await;
    client.record_keys(&cluster.updates, &["lobby.changed.#".to_owned()]).await;
    let program = Daemon::start_as("run", &cluster.settings);
    program.ready().await;
    add_user(&cluster.settings, "alice", "secret", &[]);
    add_user(&cluster.settings, "bob", "secret", &[]);
    let alice = Api::new(program.http_port).user("alice", "secret");

    let room = alice.post("/room", json!({"roomType": 3, "roomName": "Webinar"})).await;
    let token = room.expect(201).data()["token"].as_str().unwrap().to_owned();
    let lobby = format!("/room/{token}/webinar/lobby");
    alice.put(&lobby, json!({"state": 1, "timer": 4_102_509_600_i64})).await.expect(200);
    alice.put(&lobby, json!({"state": 1})).await.expect(200);
    let added = json!({"newParticipant": "bob", "source": "users"});
    alice.post(&format!("/room/{token}/participants"), added).await.expect(200);
    let now = cluster.database.now().await;
    alice.put(&lobby, json!({"state": 1, "timer": now + 5})).await.expect(200);
    cluster.database.lobby_becomes(&token, 0).await;
    cluster.database.all_published().await;

    let mut seen = BTreeSet::new();
    let mut checked = Vec::new();
    for published in client.take_rest(&cluster.updates).await {
        let event = published.json();
        let reason = event["data"]["reason"].as_str();
        seen.insert(reason.unwrap_or("lobby.changed").to_owned());
        checked.extend(checks(&document, &published));
    }
    for expected in [
        "lobby.changed",
        "conversation_created",
        "lobby_non_moderators",
        "lobby_timer_changed",
        "user_added",
        "lobby_timer_reached",
    ] {
        assert!(seen.contains(expected), "no {expected} among {seen:?}");
    }
    assert_eq!(violations(&checked), "");
}
