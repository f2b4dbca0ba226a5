//! The pages for readers: their links lead to files, and their events and commands work.

use std::{fs, path::PathBuf, process::Stdio};

use lobbyd::domain::RoomUpdated;
use serde_json::{Value, json};

use crate::support::{
    daemon::{Daemon, add_user},
    database::{Database, Kind},
    eventually,
    fixtures::parse,
    http::Api,
    server::folder,
    tools::{debian, file, printed},
};

const README: &str = "README.md";
const WEBINAR: &str = "deploy/WEBINAR.md";

fn text(path: &str) -> String {
    fs::read_to_string(file(path)).unwrap()
}

/// The Markdown pages at the top level, in `deploy` and in its directories.
fn pages() -> Vec<PathBuf> {
    let mut pages = Vec::new();
    let mut directories = vec![file("deploy")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    pages.extend([README, "CHANGELOG.md", "CONTRIBUTING.md"].map(file));
    pages
}

#[test]
fn every_link_leads_to_a_file() {
    let pages = pages();
    assert!(pages.len() > 10, "{pages:?}");
    for page in pages {
        let directory = page.parent().unwrap();
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1) {
            let target = link.split([')', '#']).next().unwrap();
            if !target.starts_with("https://") {
                assert!(directory.join(target).exists(), "{target} in {}", page.display());
            }
        }
    }
}

/// The indented blocks of code in a page.
fn blocks(page: &str) -> Vec<String> {
    let mut blocks = vec![String::new()];
    for line in page.lines() {
        match line.strip_prefix("    ") {
            Some(code) => blocks.last_mut().unwrap().extend([code, "\n"]),
            None => blocks.push(String::new()),
        }
    }
    blocks.retain(|block| !block.is_empty());
    blocks
}

#[test]
fn the_events_of_the_readme_are_those_of_the_program() {
    let blocks = blocks(&text(README));
    let events: Vec<&String> = blocks.iter().filter(|block| block.starts_with('{')).collect();
    let [received, published] = events.as_slice() else { panic!("{events:?}") };

    let change = parse(received.as_bytes(), "application/json");
    assert_eq!(change.token.as_str(), "webinar");
    let published: Value = serde_json::from_str(published).unwrap();
    let update: RoomUpdated = serde_json::from_value(published.clone()).unwrap();
    assert_eq!(serde_json::to_value(&update).unwrap(), published);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_webinar_page_work() {
    let database = Database::create(Kind::Sqlite).await;
    let settings = database.settings();
    let program = Daemon::start_as("run", &settings);
    program.ready().await;
    add_user(&settings, "alice", "secret", &[]);
    let home = folder("webinar-");
    let shell = |script: String| {
        let script = script.replace("localhost:8080", &format!("127.0.0.1:{}", program.http_port));
        let mut shell = debian("sh");
        shell.arg("-ec").arg(script).current_dir(&home).stdout(Stdio::piped());
        shell
    };
    let answers = |output: &str| -> Vec<Value> {
        serde_json::Deserializer::from_str(output).into_iter().map(Result::unwrap).collect()
    };
    let status = |answer: &Value| answer["ocs"]["meta"]["statuscode"].as_u64().unwrap();

    // The first block builds and starts lobbyd.
    let blocks = blocks(&text(WEBINAR));
    let [_start, create, close, join, poll] = blocks.as_slice() else { panic!("{blocks:?}") };
    let (create, _token) = create.split_once("room=").unwrap();
    let created = answers(&printed(&mut shell(create.to_owned())));
    let token = created[0]["ocs"]["data"]["token"].as_str().unwrap().to_owned();
    let api = create.lines().next().unwrap();
    let variables = format!("{api}\nroom={token}\n");

    let closed = answers(&printed(&mut shell(format!("{variables}{close}"))));
    assert_eq!(closed[0]["ocs"]["data"]["lobbyState"], 1);
    let joined = answers(&printed(&mut shell(format!("{variables}{join}"))));
    assert_eq!(joined.iter().map(status).collect::<Vec<_>>(), [200, 412]);

    // Alice removes the lobby while the guest's request is waiting.
    let polling = shell(format!("{variables}{poll}")).spawn().unwrap();
    eventually("the long poll", || async {
        program.metric("lobbyd_http_long_polls").await.filter(|waiting| *waiting == 1)
    })
    .await;
    let alice = Api::new(program.http_port).user("alice", "secret");
    alice.put(&format!("/room/{token}/webinar/lobby"), json!({"state": 0})).await.expect(200);
    let polled = String::from_utf8(polling.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(answers(&polled)[0]["ocs"]["data"]["lobbyState"], 0);
}
