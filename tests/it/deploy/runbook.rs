//! The runbook: its statements run, lobbyd accepts its commands, and its links and keys exist.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use serde_json::json;

use crate::support::{
    amqp::Client,
    cluster::TestCluster,
    daemon::{Settings, program, run},
    database::{Database, Kind},
    eventually,
    server::Broker,
    tools::file,
};

const RUNBOOK: &str = "deploy/RUNBOOK.md";

fn text(path: &str) -> String {
    fs::read_to_string(file(path)).unwrap()
}

#[test]
fn every_link_of_the_runbook_has_a_target() {
    let runbook = text(RUNBOOK);
    let anchors: BTreeSet<String> = runbook
        .lines()
        .filter(|line| line.starts_with("##"))
        .map(|line| line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-"))
        .collect();
    for link in runbook.split("](").skip(1) {
        let target = link.split(')').next().unwrap();
        match target.strip_prefix('#') {
            Some(anchor) => assert!(anchors.contains(anchor), "{target}"),
            None => assert!(file("deploy").join(target).exists(), "{target}"),
        }
    }
}

/// The code blocks of the runbook: their language (`sh`, `sql`, `sql mariadb`) and their text.
fn blocks(runbook: &str) -> Vec<(&str, &str)> {
    let fences: Vec<&str> = runbook.split("```").collect();
    assert_eq!(fences.len() % 2, 1, "a code block is not closed");
    fences.into_iter().skip(1).step_by(2).map(|block| block.split_once('\n').unwrap()).collect()
}

fn statements(runbook: &str, kind: Kind) -> Vec<&str> {
    let dialect = if kind == Kind::Postgres { "sql postgresql" } else { "sql mariadb" };
    let blocks = blocks(runbook);
    let sql = blocks.into_iter().filter(|(language, _)| *language == "sql" || *language == dialect);
    sql.flat_map(|(_language, block)| block.split(';').map(str::trim))
        .filter(|statement| !statement.is_empty())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_statement_of_the_runbook_runs() {
    let runbook = text(RUNBOOK);
    for kind in [Kind::Postgres, Kind::MariaDb] {
        let database = Database::create(kind).await;
        drop(database.store().await);
        let statements = statements(&runbook, kind);
        assert!(statements.len() > 10, "{statements:#?}");
        for statement in statements {
            database.execute(statement).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_is_opened_and_announced_again_with_sql() {
    let runbook = text(RUNBOOK);
    let statements = statements(&runbook, Kind::Postgres);
    let containing = |part: &str| *statements.iter().find(|sql| sql.contains(part)).unwrap();
    let cluster = TestCluster::new(Kind::Postgres).await;
    let client = cluster.client().await;
    let _worker = cluster.worker().await;
    cluster.database.insert_room("webinar").await;
    cluster.database.execute("UPDATE lobbyd_rooms SET lobby_state = 1").await;

    cluster.database.execute(containing("lobby_timer = CURRENT_TIMESTAMP")).await;
    cluster.database.lobby_becomes("webinar", 0).await;
    let first = client.take_ids(&cluster.updates, 1).await.into_values().next().unwrap();
    assert_eq!(first.token(), "webinar");
    cluster.database.all_published().await;

    cluster.database.execute(containing("SET published_at = NULL")).await;
    let again = client.take_ids(&cluster.updates, 1).await.into_values().next().unwrap();
    assert_eq!((again.message_id, again.body), (first.message_id, first.body));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_is_found_among_events_that_share_a_row() {
    let runbook = text(RUNBOOK);
    let cluster = TestCluster::new(Kind::Postgres).await;
    let _client = cluster.client().await;
    let _worker = cluster.worker().await;
    let database = &cluster.database;
    let due = database.now().await + 2;
    database.insert_rooms("room", 100, due).await;
    database.insert_rooms("webinar", 1, due).await;
    database.execute("UPDATE lobbyd_rooms SET token = 'webinar' WHERE token = 'webinar1'").await;
    database.all_open().await;
    let statements = statements(&runbook, Kind::Postgres);
    let history = statements.iter().find(|sql| sql.contains("events > 1")).unwrap();
    let found = database.texts(history).await;
    assert_eq!(found, database.texts("SELECT id FROM lobbyd_outbox WHERE events = 101").await);
}

/// The words of a command, without quotes and without the comment at its end.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in command.split('\'').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
        } else {
            let (part, comment) =
                part.split_once('#').map_or((part, false), |(part, _)| (part, true));
            words.extend(part.split_whitespace().map(str::to_owned));
            if comment {
                break;
            }
        }
    }
    words
}

/// The code spans in the text outside of code blocks.
fn code_spans(runbook: &str) -> Vec<String> {
    let prose = runbook.split("```").step_by(2);
    let spans = prose.flat_map(|prose| prose.split('`').skip(1).step_by(2));
    spans.map(|span| span.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// The commands of the runbook that begin with this word, in code blocks and in the text.
fn commands(runbook: &str, word: &str) -> Vec<Vec<String>> {
    let blocks = blocks(runbook);
    let in_blocks =
        blocks.iter().filter(|(language, _)| *language == "sh").flat_map(|(_, sh)| sh.lines());
    let in_text = code_spans(runbook);
    let commands = in_blocks.chain(in_text.iter().map(String::as_str)).map(words);
    commands.filter(|words| words.len() > 1 && words[0] == word).collect()
}

#[test]
fn every_configuration_key_of_the_runbook_exists() {
    let (runbook, configuration) = (text(RUNBOOK), text("config/lobbyd.toml"));
    let sections: BTreeMap<&str, &str> = configuration
        .split("\n[")
        .skip(1)
        .map(|section| section.split_once("]\n").unwrap())
        .collect();
    let mut found = 0;
    for span in code_spans(&runbook) {
        let key = span.split_once('.').filter(|(section, _key)| sections.contains_key(section));
        let Some((section, key)) = key else { continue };
        let key = key.split(' ').next().unwrap();
        let defined = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{key} = "));
        assert!(sections[section].lines().any(defined), "{span}");
        found += 1;
    }
    assert!(found > 10, "only {found} keys");
}

#[test]
fn lobbyd_accepts_every_command_of_the_runbook() {
    let runbook = text(RUNBOOK);
    let commands = commands(&runbook, "lobbyd");
    for expected in [
        "config",
        "dead-letters",
        "health",
        "history",
        "lobby",
        "migrate",
        "rooms",
        "status",
        "timers",
        "user",
        "worker",
    ] {
        assert!(commands.iter().any(|words| words[1] == expected), "{expected} in {commands:?}");
    }
    let accepted = |words: &[String]| {
        let mut command = program(&Settings::new());
        command.args(&words[1..]).arg("--help").output().unwrap().status.success()
    };
    for command in commands {
        assert!(accepted(&command), "{command:?}");
    }
    assert!(!accepted(&words("lobbyd publish webinar --state 7")));
    assert!(!accepted(&words("lobbyd unknown list")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_runbook_returns_dead_letters_to_the_workers() {
    let broker = Broker::start();
    let mut cluster = TestCluster::on(Database::create(Kind::Sqlite).await, &broker.url());
    "lobbyd.dead-letters".clone_into(&mut cluster.dead_letters);
    cluster.set("EVENTS__QUEUE", "lobbyd.lobby-changed");
    cluster.set("EVENTS__DEAD_LETTER_QUEUE", "lobbyd.dead-letters");
    cluster.set("EVENTS__UNKNOWN_ROOM_GRACE", "100ms");
    let client = cluster.client().await;
    let worker = cluster.worker().await;
    for token in ["webinar", "nowhere"] {
        client.publish(&json!({"token": token, "state": 1})).await;
    }
    let unknown = r#"lobbyd_events_received_total{outcome="unknown_room"}"#;
    let await_dead_letters = async |number| {
        eventually("dead letters", || async {
            worker.metric(unknown).await.filter(|count| *count == number)
        })
        .await;
    };
    await_dead_letters(2).await;
    cluster.database.insert_room("webinar").await;

    for command in commands(&text(RUNBOOK), "rabbitmqctl") {
        if command[1] == "import_definitions" {
            // It reads the lines that follow it.
            continue;
        }
        broker.control(&command[1..].iter().map(String::as_str).collect::<Vec<_>>());
    }
    let dead_letters: Vec<_> = commands(&text(RUNBOOK), "lobbyd")
        .into_iter()
        .filter(|words| {
            words[1] == "dead-letters" && ["list", "show", "replay"].contains(&words[2].as_str())
        })
        .collect();
    assert!(dead_letters.len() >= 4, "{dead_letters:?}");
    for command in &dead_letters {
        let arguments: Vec<&str> = command[1..].iter().map(String::as_str).collect();
        let output = run(&cluster.settings, &arguments);
        assert!(output.status.success(), "{command:?}: {output:?}");
    }
    cluster.database.lobby_becomes("webinar", 1).await;
    await_dead_letters(3).await;
    let returned =
        eventually("the returned dead letter", || client.take(&cluster.dead_letters)).await;
    assert_eq!(returned.json()["token"], "nowhere");
    assert_eq!(returned.headers["lobbyd-reason"], "unknown room nowhere (waited 100ms)");
}

/// Without a plugin, and beside what exists.
#[tokio::test(flavor = "multi_thread")]
async fn the_runbook_binds_the_queue_of_a_subscriber() {
    let broker = Broker::start();
    let mut cluster = TestCluster::on(Database::create(Kind::Sqlite).await, &broker.url());
    cluster.exchange = "lobbyd.events".to_owned();
    cluster.set("EVENTS__EXCHANGE", "lobbyd.events");
    let worker = cluster.worker().await;
    cluster.database.insert_rooms("room", 1, cluster.database.now().await).await;
    worker.logs("events are refused").await;
    let runbook = text(RUNBOOK);
    let (_, block) = *blocks(&runbook)
        .iter()
        .find(|(_, block)| block.starts_with("rabbitmqctl import_definitions"))
        .unwrap();
    broker.shell(block);
    let client = Client::connect(&cluster.amqp_url, "lobbyd.events").await;
    assert_eq!(client.take_ids("webinars", 1).await.len(), 1);
}
