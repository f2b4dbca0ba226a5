//! Processes that abort between two steps, at each point of src/failpoints.rs and on each database.
//! What a crash leaves there is completed by the next process, without anybody's help. The points of
//! Talk and of signaling servers are in the modules of these; here are those of workers, and in [`api`]
//! those of a request.

mod api;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde_json::json;

use crate::support::{
    amqp::{Client, Published},
    cluster::TestCluster,
    daemon::Daemon,
    database::{Database, Kind},
    eventually,
};

/// Rooms of each round that are closed by events.
const BY_EVENTS: u32 = 20;

/// Rooms of each round that are closed by SQL. They are due at once, in several batches.
const BY_ROWS: u32 = 40;

on_every_database! { crate::support::cluster::TestCluster::new:
    nothing_is_lost_inside_a_reset,
    nothing_is_lost_inside_the_inbox,
    nothing_is_lost_before_a_commit,
    nothing_is_lost_after_a_commit,
    nothing_is_lost_between_commit_and_acknowledgement,
    nothing_is_lost_between_transfer_and_acknowledgement,
    nothing_is_lost_after_a_claim,
    nothing_is_lost_between_commit_and_publication,
    nothing_is_lost_between_publication_and_confirm,
    nothing_is_lost_between_confirm_and_mark,
    nothing_is_lost_after_a_mark,
    nothing_is_lost_between_two_migrations,
}

async fn nothing_is_lost_inside_a_reset(cluster: TestCluster) {
    survives(cluster, "inside-reset", 4).await;
}

async fn nothing_is_lost_inside_the_inbox(cluster: TestCluster) {
    survives_first(cluster, "inside-inbox", 4).await;
}

async fn nothing_is_lost_before_a_commit(cluster: TestCluster) {
    survives(cluster, "before-commit", 8).await;
}

async fn nothing_is_lost_after_a_commit(cluster: TestCluster) {
    survives(cluster, "after-commit", 8).await;
}

async fn nothing_is_lost_between_commit_and_acknowledgement(cluster: TestCluster) {
    survives_first(cluster, "after-commit-before-ack", 4).await;
}

async fn nothing_is_lost_after_a_claim(cluster: TestCluster) {
    survives(cluster, "after-claim", 4).await;
}

async fn nothing_is_lost_between_commit_and_publication(cluster: TestCluster) {
    survives(cluster, "after-commit-before-publish", 4).await;
}

async fn nothing_is_lost_between_publication_and_confirm(cluster: TestCluster) {
    survives(cluster, "after-publish-before-confirm", 4).await;
}

async fn nothing_is_lost_between_confirm_and_mark(cluster: TestCluster) {
    survives(cluster, "after-confirm-before-mark", 4).await;
}

async fn nothing_is_lost_after_a_mark(cluster: TestCluster) {
    survives(cluster, "after-mark", 4).await;
}

/// Has workers abort when they reach a point for the first time, the second time, and so on, each with
/// rooms that are due and events that arrive. The next worker completes all of it.
async fn survives(cluster: TestCluster, point: &str, aborts: u32) {
    survives_from(cluster, point, aborts, |round| round).await;
}

/// As [`survives`], at the first time in each round: the events that wait may come as one set.
async fn survives_first(cluster: TestCluster, point: &str, aborts: u32) {
    survives_from(cluster, point, aborts, |_round| 1).await;
}

async fn survives_from(
    mut cluster: TestCluster,
    point: &str,
    aborts: u32,
    times: impl Fn(u32) -> u32,
) {
    // So that a round has several transactions and several publications.
    cluster.set("TIMERS__BATCH", "10");
    let client = cluster.client().await;
    drop(cluster.worker().await);
    for round in 1..=aborts {
        client.consumer_ends(&cluster.queue).await;
        let now = cluster.database.now().await;
        cluster.database.insert_rooms(&format!("row{round}x"), BY_ROWS, now).await;
        cluster.arm_by_events(&client, &format!("event{round}x"), BY_EVENTS, 0..3).await;
        Daemon::start_to_abort("worker", &cluster.settings, point, times(round)).aborts().await;
    }
    client.consumer_ends(&cluster.queue).await;
    completes(&cluster, &client, aborts * (BY_ROWS + BY_EVENTS)).await;
    println!("{point} on {:?}: {aborts} aborts", cluster.database.kind);
}

/// Starts a worker that does not abort, and waits until it has reset this many rooms, each of them
/// once, not early and with one id.
async fn completes(cluster: &TestCluster, client: &Client, rooms: u32) {
    let _worker = cluster.worker().await;
    // It comes behind all events that are delivered again.
    cluster.arm_by_events(client, "last", 1, 0..1).await;
    eventually("the reset of the last room", || async {
        let resets = cluster.database.resets().await;
        resets.values().any(|reset| reset.token == "last1").then_some(())
    })
    .await;
    client.drained(&cluster.retry_queue).await;
    cluster.all_done(client, rooms + 1).await;
}

/// An event is in the queue of dead letters or the retry queue then, and in its own.
async fn nothing_is_lost_between_transfer_and_acknowledgement(mut cluster: TestCluster) {
    cluster.set("EVENTS__UNKNOWN_ROOM_GRACE", "10m");
    let client = cluster.client().await;
    drop(cluster.worker().await);
    let abort = async || {
        let settings = &cluster.settings;
        Daemon::start_to_abort("worker", settings, "after-transfer-before-ack", 1).aborts().await;
        client.consumer_ends(&cluster.queue).await;
    };
    for round in 1..=4 {
        client.publish_bytes(format!("malformed {round}").as_bytes(), "application/json").await;
        abort().await;
    }
    for round in 1..=4 {
        let (room, now) = (format!("late{round}"), cluster.database.now().await);
        let mut change = json!({"token": room, "state": 1, "timer": now + 1});
        if round % 2 == 0 {
            change["version"] = json!(1);
        }
        client.publish(&change).await;
        abort().await;
    }
    cluster.database.open_rooms("late", 4).await;
    let _worker = cluster.worker().await;
    let sent = (1..=4).map(|round| format!("malformed {round}").into_bytes());
    let (sent, mut dead): (BTreeSet<Vec<u8>>, _) = (sent.collect(), BTreeSet::new());
    while dead.len() < sent.len() {
        let letter = eventually("a dead letter", || client.take(&cluster.dead_letters)).await;
        assert!(sent.contains(&letter.body), "{letter:?}");
        dead.insert(letter.body);
    }
    completes(&cluster, &client, 4).await;
}

async fn nothing_is_lost_between_two_migrations(cluster: TestCluster) {
    const POINT: &str = "mid-migration";
    let mut cluster = TestCluster::as_owner(cluster.database.kind).await;
    let client = cluster.client().await;
    // It declares the queues, so that events can wait there.
    let database = cluster.setting("DATABASE__URL");
    cluster.set("DATABASE__URL", &Database::create(Kind::Sqlite).await.url);
    drop(cluster.worker().await);
    cluster.set("DATABASE__URL", &database);

    Daemon::start_to_abort("worker", &cluster.settings, POINT, 1).aborts().await;
    cluster.database.migrate_to(1).await;
    let now = cluster.database.now().await;
    cluster.database.insert_rooms("row", BY_ROWS, now).await;
    cluster.arm_by_events(&client, "event", BY_EVENTS, 0..3).await;
    let applied = async || {
        let applied = "SELECT version FROM lobbyd_migrations ORDER BY version";
        cluster.database.numbers(applied).await
    };
    let latest = fs::read_dir(file("migrations/sqlite")).unwrap().count();
    let latest = i64::try_from(latest).unwrap();
    for version in 2..=latest {
        // The other databases undo all of them together.
        let (missing, last) =
            if cluster.database.kind == Kind::MariaDb { (1, version) } else { (version - 1, 1) };
        let times = u32::try_from(missing).unwrap();
        Daemon::start_to_abort("worker", &cluster.settings, POINT, times).aborts().await;
        assert_eq!(applied().await, (1..=last).collect::<Vec<i64>>());
    }
    client.consumer_ends(&cluster.queue).await;
    completes(&cluster, &client, BY_ROWS + BY_EVENTS).await;
    assert_eq!(applied().await, (1..=latest).collect::<Vec<i64>>());
}

/// Otherwise the point would not be between publication and confirm.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_without_confirm_has_reached_the_broker() {
    let cluster = TestCluster::new(Kind::Postgres).await;
    let client = cluster.client().await;
    drop(cluster.worker().await);
    cluster.database.insert_rooms("room", 5, cluster.database.now().await).await;
    let settings = &cluster.settings;
    Daemon::start_to_abort("worker", settings, "after-publish-before-confirm", 5).aborts().await;
    let first = eventually("an update", || client.take(&cluster.updates)).await;
    assert!(first.is_reset());
    assert_eq!(cluster.database.unpublished().await, 5);
    let _worker = cluster.worker().await;
    let again = client.take_resets(&cluster.updates, 5).await;
    assert!(again.values().any(|update: &Published| update.message_id == first.message_id));
    cluster.each_announced(&client, again).await;
}

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn every_point_has_a_test() {
    let source = fs::read_to_string(file("src/failpoints.rs")).unwrap();
    let (_before, points) = source.split_once("enum Point {").unwrap();
    let (points, _after) = points.split_once("\n}").unwrap();
    let tests = ["failpoints/mod.rs", "talk/failpoints.rs", "signaling/failpoints.rs"]
        .map(|test| fs::read_to_string(file("tests/it").join(test)).unwrap())
        .concat();
    let points: Vec<&str> =
        points.lines().map(|line| line.trim().trim_end_matches(',')).filter(is_name).collect();
    assert!(points.contains(&"AfterClaim"), "{points:?}");
    for point in points {
        let mut name = String::new();
        for letter in point.chars() {
            if letter.is_uppercase() && !name.is_empty() {
                name.push('-');
            }
            name.extend(letter.to_lowercase());
        }
        assert!(tests.contains(&format!("\"{name}\"")), "no test reaches {name}");
    }
}

fn is_name(line: &&str) -> bool {
    !line.is_empty() && line.chars().all(char::is_alphanumeric)
}

/// The arguments of each `cargo build` in a file, in alphabetical order.
fn builds(text: &str) -> Vec<Vec<&str>> {
    let commands = text.lines().flat_map(|line| line.split("&&"));
    commands
        .filter_map(|command| {
            let (cargo, arguments) = command.split_once(" build ")?;
            let mut arguments: Vec<&str> = arguments.split_whitespace().collect();
            arguments.retain(|argument| *argument != "\\");
            arguments.sort_unstable();
            cargo.trim().to_lowercase().contains("cargo").then_some(arguments)
        })
        .collect()
}

#[test]
fn no_release_has_the_points() {
    let read = |path| fs::read_to_string(file(path)).unwrap();
    let manifest = read("Cargo.toml");
    assert!(!manifest.contains("\ndefault = "), "the default features may have them");
    assert!(manifest.contains("\nfeatures = [\"otlp\"]\n"), "the Debian package may have them");
    let otlp = manifest.lines().find(|line| line.starts_with("otlp = ")).unwrap();
    assert!(!otlp.contains("failpoints"), "{otlp}");
    for (path, commands) in [("Makefile", 1), ("deploy/container/Dockerfile", 2)] {
        let text = read(path);
        let release = vec!["--features", "--locked", "--release", "otlp"];
        assert_eq!(builds(&text), vec![release; commands], "{path}");
        let check = "! grep --quiet LOBBYD_FAILPOINT target/release/lobbyd\n";
        assert!(text.contains(check), "{path} does not look for the points in the program");
    }
}
