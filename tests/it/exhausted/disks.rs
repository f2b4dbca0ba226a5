//! Disks without space, of the database or of the broker.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use nix::unistd::getuid;
use rlimit::Resource;
use tokio::time::Instant;

use super::{EVENTS, Site};
use crate::support::{
    cluster::TestCluster,
    daemon::{Daemon, program, text},
    database::{Database, Kind},
    eventually,
    server::{BROKER, Broker, folder, start_mariadb_in, start_postgres_in},
};

/// A write beyond the limit of the process fails as on a full disk, also one to the log.
#[tokio::test(flavor = "multi_thread")]
async fn sqlite_survives_a_limit_of_files() {
    let cluster = TestCluster::new(Kind::Sqlite).await;
    let plain = program(&cluster.settings);
    // Otherwise the signal that comes with the error would end the process.
    let mut run = Command::new("sh");
    run.args(["-c", r#"trap "" XFSZ; exec "$@""#, "sh"]).arg(plain.get_program());
    run.env_clear().envs(plain.get_envs().filter_map(|(key, value)| Some((key, value?))));
    run.current_dir(plain.get_current_dir().unwrap());
    let mut site = Site::spawn(cluster, run).await;
    site.survives(
        "files",
        &["disk I/O error", "database or disk is full"],
        async |site| site.limit(Resource::FSIZE, 0),
        async |site| site.limit(Resource::FSIZE, u64::MAX),
    )
    .await;
    site.all_done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_survives_a_full_disk() {
    let Some(disk) = disk("8m", "sqlite_survives_a_full_disk") else { return };
    let database = Database::in_file(&disk.join("rooms.db"));
    survives_a_full_disk(database, &disk, &["database or disk is full"]).await;
}

/// The files of tables cannot grow, while the log has space: without that the server ends.
#[tokio::test(flavor = "multi_thread")]
async fn postgres_survives_a_full_disk() {
    let Some(disk) = disk("256m", "postgres_survives_a_full_disk") else { return };
    let server = start_postgres_in(disk.clone(), &["autovacuum=off".to_owned()]);
    let database = Database::create_on(Kind::Postgres, server.port).await;
    // Each row needs a page of its own then, and no page becomes free again.
    let site = "ADD COLUMN site text NOT NULL DEFAULT repeat('x', 1000), SET (fillfactor = 10)";
    database.execute(&format!("ALTER TABLE lobbyd_outbox {site}")).await;
    database.execute("SELECT pg_switch_wal()").await;
    database.execute("CHECKPOINT").await;
    survives_a_full_disk(database, &disk, &["No space left on device"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_survives_a_full_disk() {
    let Some(disk) = disk("512m", "mariadb_survives_a_full_disk") else { return };
    let server = start_mariadb_in(disk.clone(), &[]);
    let database = Database::create_on(Kind::MariaDb, server.port).await;
    survives_a_full_disk(database, &disk, &["is full", "No space left on device"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_without_disk_still_delivers_and_receives_all_events_later() {
    let broker = Broker::start();
    let cluster = TestCluster::on(Database::create(Kind::Postgres).await, &broker.url());
    let client = cluster.client().await;
    let run = Daemon::start_as("run", &cluster.settings);
    run.ready().await;
    cluster.database.open_rooms("event", EVENTS).await;
    client.publish_bytes(b"malformed", "application/json").await;
    eventually("the dead letter", || client.take(&cluster.dead_letters)).await;
    // These wait in the queue while the alarm begins.
    run.signal(nix::sys::signal::Signal::SIGSTOP);
    cluster.close_by_events(&client, "event", EVENTS, 0..3).await;
    client.publish_bytes(b"malformed too", "application/json").await;
    broker.control(&["set_disk_free_limit", "1000000GB"]);
    run.signal(nix::sys::signal::Signal::SIGCONT);
    let now = cluster.database.now().await;
    cluster.database.insert_rooms("row", EVENTS, now).await;

    run.unready_with("publisher: broker blocked the connection").await;
    cluster.database.all_open().await;
    run.unready_with("1 dead letters are not stored").await;
    // Long enough for several tries.
    eventually("the dead letter to wait", || async {
        run.gauge("lobbyd_delivery_oldest_age_seconds").await.filter(|age| *age > 20.0)
    })
    .await;
    assert_eq!(run.get("/livez").await.unwrap().0, 200);
    assert!(cluster.database.unpublished().await >= i64::from(2 * EVENTS));
    assert_eq!(client.count(&cluster.dead_letters).await, 0);

    broker.control(&["set_disk_free_limit", "50MB"]);
    let begin = Instant::now();
    run.ready().await;
    println!("disk of the broker: ready after {:?}", begin.elapsed());
    // The broker may still take what it did not confirm, and that is sent again.
    let mut letters = client.take_rest(&cluster.dead_letters).await;
    println!("{} dead letters", letters.len());
    assert!((1..=2).contains(&letters.len()), "{letters:?}");
    assert!(letters.drain(..).all(|letter| letter.body == b"malformed too"));
    cluster.all_done(&client, 2 * EVENTS).await;
}

async fn survives_a_full_disk(database: Database, disk: &Path, reasons: &[&str]) {
    let filler = disk.join("filler");
    let mut site = Site::new(TestCluster::on(database, &BROKER.url())).await;
    site.survives(
        "disk",
        reasons,
        async |site| {
            fill(&filler);
            if site.cluster.database.kind != Kind::Sqlite {
                fill_outbox(&site.cluster.database, reasons).await;
            }
        },
        async |_site| fs::remove_file(&filler).unwrap(),
    )
    .await;
    site.all_done().await;
}

/// Takes the pages that the server has added to the table in advance, with events that are published.
/// The ids ascend, as those of later events do.
async fn fill_outbox(database: &Database, reasons: &[&str]) {
    let now = "CURRENT_TIMESTAMP(3)";
    let insert = "INSERT INTO lobbyd_outbox (id, type, token, data, created_at, available_at,
                                             attempts, published_at)";
    for (number, length) in [(100, 1000), (1, 1000), (1, 1)] {
        let data = "x".repeat(length);
        let row = |_index| {
            let id = uuid::Uuid::now_v7();
            format!("('{id}', 'test', 'test', '\"{data}\"', {now}, {now}, 1, {now})")
        };
        loop {
            let rows: Vec<String> = (0..number).map(row).collect();
            let inserted =
                database.try_execute(&format!("{insert} VALUES {}", rows.join(","))).await;
            if let Err(error) = inserted {
                let text = error.to_string();
                assert!(reasons.iter().any(|reason| text.contains(reason)), "{text}");
                break;
            }
        }
    }
}

/// Mounts a small disk, which the sandbox unmounts. Without the right to do so, runs the test again in a
/// user namespace, which has that, and returns nothing.
fn disk(size: &str, test: &str) -> Option<PathBuf> {
    const DISK: &str = "LOBBYD_TEST_DISK";
    const MOUNT: &str = r#"mount -t tmpfs -o "size=$1" lobbyd-test "$2"; shift 2; exec "$@""#;
    if let Some(disk) = env::var_os(DISK) {
        return Some(disk.into());
    }
    let disk = folder("disk-");
    let mount = ["-ec", MOUNT, "mount", size, disk.to_str().unwrap()];
    let mounted = Command::new("sh").args(mount).arg("true").output().unwrap();
    if mounted.status.success() {
        return Some(disk);
    }
    let mut again = Command::new("unshare");
    again.args(["--user", "--map-root-user", "--mount", "sh"]).args(mount);
    again.args(["unshare", "--user", &format!("--map-user={}", getuid())]);
    again.arg(env::current_exe().unwrap());
    again.args(["--exact", "--nocapture", &format!("exhausted::disks::{test}")]).env(DISK, &disk);
    let output = again.output().unwrap();
    let (printed, errors) = (text(&output.stdout), text(&output.stderr));
    let has_passed = output.status.success() && printed.contains(" 1 passed;");
    let needs = "this test has to mount a disk, as root or in a user namespace";
    assert!(has_passed, "{needs}: {}\n{printed}\n{errors}", text(&mounted.stderr));
    None
}

/// Writes to a file until the disk is full.
fn fill(path: &Path) {
    use std::io::Write;
    let mut file = fs::File::create(path).unwrap();
    for size in [64 * 1024, 512] {
        while file.write(&vec![0; size]).is_ok_and(|written| written > 0) {}
    }
}
