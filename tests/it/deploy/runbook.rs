//! The runbook: its statements run, its commands are understood, and what it quotes exists.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use serde_json::json;

use crate::support::{
    cluster::TestCluster,
    daemon::{Settings, program},
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
fn every_link_of_the_runbook_leads_somewhere() {
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

/// The blocks of the runbook: what they hold (`sh`, `sql`, `sql mariadb`), and their text.
fn blocks(runbook: &str) -> Vec<(&str, &str)> {
    let fences: Vec<&str> = runbook.split("```").collect();
    assert_eq!(fences.len() % 2, 1, "a block has no end");
    fences.into_iter().skip(1).step_by(2).map(|block| block.split_once('\n').unwrap()).collect()
}

fn statements(runbook: &str, kind: Kind) -> Vec<&str> {
    let dialect = if kind == Kind::Postgres { "sql postgresql" } else { "sql mariadb" };
    let blocks = blocks(runbook);
    let sql = blocks.into_iter().filter(|(holds, _)| *holds == "sql" || *holds == dialect);
    sql.flat_map(|(_holds, block)| block.split(';').map(str::trim))
        .filter(|statement| !statement.is_empty())
        .collect()
}

#[tokio::test]
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

#[tokio::test]
async fn a_room_is_opened_by_hand_and_announced_again() {
    let runbook = text(RUNBOOK);
    let statements = statements(&runbook, Kind::Postgres);
    let with = |part: &str| *statements.iter().find(|sql| sql.contains(part)).unwrap();
    let cluster = TestCluster::new(Kind::Postgres).await;
    let client = cluster.client().await;
    let _worker = cluster.worker().await;
    cluster.database.insert_room("webinar").await;
    cluster.database.execute("UPDATE lobbyd_rooms SET lobby_state = 1").await;

    cluster.database.execute(with("lobby_timer = CURRENT_TIMESTAMP")).await;
    cluster.database.lobby_becomes("webinar", 0).await;
    let first = client.take_ids(&cluster.updates, 1).await.into_values().next().unwrap();
    assert_eq!(first.token(), "webinar");
    cluster.database.all_published().await;

    cluster.database.execute(with("SET published_at = NULL")).await;
    let again = client.take_ids(&cluster.updates, 1).await.into_values().next().unwrap();
    assert_eq!((again.message_id, again.body), (first.message_id, first.body));
}

/// The words of a command, without quotes and the comment at its end.
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

/// What stands between backticks in the text, without the blocks.
fn quoted(runbook: &str) -> Vec<String> {
    let prose = runbook.split("```").step_by(2);
    let spans = prose.flat_map(|prose| prose.split('`').skip(1).step_by(2));
    spans.map(|span| span.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// The commands of the runbook that begin with this word, in blocks and in the text.
fn commands(runbook: &str, word: &str) -> Vec<Vec<String>> {
    let blocks = blocks(runbook);
    let in_blocks =
        blocks.iter().filter(|(holds, _)| *holds == "sh").flat_map(|(_, sh)| sh.lines());
    let in_text = quoted(runbook);
    let commands = in_blocks.chain(in_text.iter().map(String::as_str)).map(words);
    commands.filter(|words| words.len() > 1 && words[0] == word).collect()
}

#[test]
fn what_the_runbook_quotes_exists() {
    let (runbook, configuration) = (text(RUNBOOK), text("config/lobbyd.toml"));
    let sections: BTreeMap<&str, &str> = configuration
        .split("\n[")
        .skip(1)
        .map(|section| section.split_once("]\n").unwrap())
        .collect();
    let sources: String = ["timers", "lobby_consumer", "outbox_relay"]
        .map(|name| text(&format!("src/tasks/{name}.rs")))
        .into_iter()
        .chain(["src/auth/mod.rs", "src/app/reload.rs"].map(text))
        .collect();
    let mut found = (0, 0);
    for quote in quoted(&runbook) {
        let key = quote.split_once('.').filter(|(section, _key)| sections.contains_key(section));
        if let Some((section, key)) = key {
            let key = key.split(' ').next().unwrap();
            let named =
                |line: &str| line.trim_start_matches("# ").starts_with(&format!("{key} = "));
            assert!(sections[section].lines().any(named), "{quote}");
            found.0 += 1;
        }
        // Of several words that are no command: a line of the log.
        let plain = |c: char| c.is_ascii_lowercase() || " -".contains(c) || quote.contains("JSON");
        let command =
            ["lobbyd", "kubectl", "systemctl", "kill"].map(|word| quote.starts_with(word));
        if quote.contains(' ') && quote.chars().all(plain) && !command.contains(&true) {
            assert!(sources.contains(&quote), "nothing logs {quote:?}");
            found.1 += 1;
        }
    }
    assert!(found.0 > 10 && found.1 > 5, "{found:?}");
}

#[test]
fn every_command_of_the_runbook_is_understood() {
    let runbook = text(RUNBOOK);
    let commands = commands(&runbook, "lobbyd");
    for expected in ["config", "health", "migrate", "publish", "user", "worker"] {
        assert!(commands.iter().any(|words| words[1] == expected), "{expected} in {commands:?}");
    }
    let understood = |words: &[String]| {
        let mut command = program(&Settings::new());
        command.args(&words[1..]).arg("--help").output().unwrap().status.success()
    };
    for command in commands {
        assert!(understood(&command), "{command:?}");
    }
    assert!(!understood(&words("lobbyd publish webinar --state 7")));
    assert!(!understood(&words("lobbyd letters list")));
}

#[tokio::test]
async fn dead_letters_are_put_back_as_the_runbook_says() {
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
    let dead_letters = async |number| {
        eventually("dead letters", || async {
            worker.metric(unknown).await.filter(|dead_letters| *dead_letters == number)
        })
        .await;
    };
    dead_letters(2).await;
    cluster.database.insert_room("webinar").await;

    broker.enable("rabbitmq_shovel");
    for command in commands(&text(RUNBOOK), "rabbitmqctl") {
        broker.control(&command[1..].iter().map(String::as_str).collect::<Vec<_>>());
    }
    cluster.database.lobby_becomes("webinar", 1).await;
    dead_letters(3).await;
    let dead_letter = eventually("what came back", || client.take(&cluster.dead_letters)).await;
    assert_eq!(dead_letter.json()["token"], "nowhere");
    assert_eq!(dead_letter.headers["lobbyd-reason"], "no room nowhere, not even 100ms later");
}
