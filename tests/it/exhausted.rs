//! Resources that are used up, while timers are due and events arrive: disk, connections, descriptors,
//! the right to write. Readiness names what is missing, nothing is acknowledged that is not stored,
//! and all of it is done when the resource is back, without a restart (promises P6, P7 and P10).
//!
//! `outage` has the broker without memory, `failover` a standby that becomes writable, and `lifecycle`
//! an idle API on a database that cannot be written.

use std::{
    env, fs,
    ops::AsyncFnOnce,
    path::{Path, PathBuf},
    process::Command,
};

use chrono::TimeDelta;
use nix::unistd::getuid;
use rlimit::Resource;
use serde_json::json;
use sqlx::{Connection, MySqlConnection, PgConnection};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep},
};

use crate::support::{
    amqp,
    app::PASSWORD,
    cluster::TestCluster,
    daemon::{Daemon, add_user, program, text},
    database::{Database, Kind},
    eventually,
    http::{Api, Client, Response},
    proxy::{Mode, Proxy},
    server::{
        BROKER, Broker, POSTGRES, Server, amqp_url, folder, start_mariadb, start_mariadb_in,
        start_postgres, start_postgres_in, start_postgres_with,
    },
};

/// Events that are sent while a resource is used up.
const EVENTS: u32 = 20;

/// Rooms that become due in each second, and seconds.
const HERD: (u32, i64) = (5, 10);

/// Longest lag of a timer on a busy machine. A wait for what somebody else does not give back takes longer.
const UNDELAYED: TimeDelta = TimeDelta::seconds(60);

/// Worker and API in one process.
struct Site {
    cluster: TestCluster,
    events: amqp::Client,
    run: Daemon,
    owner: Client,
    room: String,
    /// Rooms that have to be reset.
    rooms: u32,
}

impl Site {
    async fn new(cluster: TestCluster) -> Self {
        let run = program(&cluster.settings);
        Self::spawn(cluster, run).await
    }

    async fn spawn(cluster: TestCluster, mut run: Command) -> Self {
        let events = cluster.client().await;
        let run = Daemon::spawn(run.arg("run"));
        run.ready().await;
        add_user(&cluster.settings, "owner", PASSWORD, &[]);
        let owner = Api::new(run.http_port).user("owner", PASSWORD);
        let room = owner.room(3).await;
        Self { cluster, events, run, owner, room, rooms: 0 }
    }

    async fn set_lobby(&self, state: u32) -> Response {
        let path = format!("/room/{}/webinar/lobby", self.room);
        self.owner.put(&path, json!({ "state": state })).await
    }

    async fn execute(&self, sql: &str) {
        self.cluster.database.execute(sql).await;
    }

    /// Events in the queue, also those that the worker has and did not acknowledge.
    fn unacknowledged(&self) -> u32 {
        let report = BROKER.report(&["list_queues", "name", "messages"]);
        let mut queues = report.lines().filter_map(|line| line.split_once('\t'));
        let (_name, messages) = queues.find(|(name, _)| *name == self.cluster.queue).unwrap();
        messages.trim().parse().unwrap()
    }

    /// Inserts rooms that become due from now on, and open ones for events.
    async fn load(&mut self, what: &str) {
        let database = &self.cluster.database;
        let (now, (number, seconds)) = (database.now().await, HERD);
        for second in 0..seconds {
            database.insert_rooms(&format!("{what}{second}x"), number, now + second).await;
        }
        database.open_rooms(&format!("{what}event"), EVENTS).await;
        self.rooms += load_size();
    }

    /// Waits until the last of the rooms is due.
    async fn all_due(&self, since: i64) {
        eventually("every timer to be due", || async {
            (self.cluster.database.now().await > since + HERD.1).then_some(())
        })
        .await;
    }

    /// Has the database fail in some way, for reasons of which readiness has to name one, and recover.
    async fn survives(
        &mut self,
        what: &str,
        reasons: &[&str],
        exhaust: impl AsyncFnOnce(&Self),
        restore: impl AsyncFnOnce(&Self),
    ) {
        let since = self.cluster.database.now().await;
        self.load(what).await;
        self.cluster.database.lobby_becomes(&format!("{what}0x1"), 0).await;
        exhaust(self).await;
        let problems = eventually("the reason from /readyz", || async {
            let (status, problems) = self.run.get("/readyz?part=database").await?;
            let is_named = reasons.iter().any(|reason| problems.contains(reason));
            (status == 503 && is_named).then_some(problems)
        })
        .await;
        let prefix = format!("{what}event");
        self.cluster.close_by_events(&self.events, &prefix, EVENTS, 0..3).await;
        let refused = self.set_lobby(1).await;
        assert!(refused.status >= 500, "{refused:?}");
        self.all_due(since).await;
        let (status, _problems) = self.run.get("/readyz").await.unwrap();
        assert_eq!(status, 503);
        assert_eq!(self.run.get("/livez").await.unwrap().0, 200);
        assert_eq!(self.unacknowledged(), EVENTS);

        restore(self).await;
        let begin = Instant::now();
        self.run.ready().await;
        println!("{what}: {}, ready after {:?}", problems.trim(), begin.elapsed());
        assert_eq!(self.cluster.database.lobby_state(&self.room).await, 0);
        self.set_lobby(1).await.expect(200);
        self.set_lobby(0).await.expect(200);
        self.cluster.database.all_open().await;
    }

    /// Checks that no timer of these rooms was late.
    async fn undelayed(&self, what: &str) {
        // Rooms whose events are not applied yet are open as well.
        let lag = eventually("every reset", || async {
            let resets = self.cluster.database.resets().await.into_values();
            let resets = resets.filter(|reset| reset.token.starts_with(what));
            let lag = resets.map(|reset| reset.fired_at.unwrap() - reset.due_at.unwrap());
            let lag: Vec<TimeDelta> = lag.collect();
            (u32::try_from(lag.len()).unwrap() == load_size()).then_some(lag)
        })
        .await;
        let longest = lag.into_iter().max().unwrap();
        println!("{what}: timers at most {} ms late", longest.num_milliseconds());
        assert!(longest < UNDELAYED, "a timer of {what} was {longest} late");
    }

    async fn all_done(self) {
        self.cluster.all_done(&self.events, self.rooms).await;
    }

    /// Sets the limit of a resource for the process.
    fn limit(&self, resource: Resource, soft: u64) {
        let process = i32::try_from(self.run.process()).unwrap();
        let (mut before, mut hard) = (0, 0);
        rlimit::prlimit(process, resource, None, Some((&mut before, &mut hard))).unwrap();
        rlimit::prlimit(process, resource, Some((soft.min(hard), hard)), None).unwrap();
    }
}

/// Rooms of a load.
fn load_size() -> u32 {
    let (number, seconds) = HERD;
    number * u32::try_from(seconds).unwrap() + EVENTS
}

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
    again.args(["--exact", "--nocapture", &format!("exhausted::{test}")]).env(DISK, &disk);
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

/// Sessions that exist, and those that begin meanwhile and stay read-only.
#[tokio::test(flavor = "multi_thread")]
async fn postgres_may_be_read_only_for_a_while() {
    let server = start_postgres();
    let database = Database::create_on(Kind::Postgres, server.port).await;
    let mut site = Site::new(TestCluster::on(database, &BROKER.url())).await;
    let reasons = ["read-only transaction"];
    let reload = "SELECT pg_reload_conf()";
    site.survives(
        "system",
        &reasons,
        async |site| {
            let database = &site.cluster.database;
            database.execute("ALTER SYSTEM SET default_transaction_read_only = on").await;
            database.execute(reload).await;
        },
        async |site| {
            let database = &site.cluster.database;
            database.execute("ALTER SYSTEM RESET default_transaction_read_only").await;
            database.execute(reload).await;
        },
    )
    .await;
    let name = site.cluster.database.texts("SELECT current_database()::text").await.remove(0);
    site.survives(
        "database",
        &reasons,
        async |site| {
            let database = &site.cluster.database;
            let set = "SET default_transaction_read_only = on";
            database.execute(&format!("ALTER DATABASE {name} {set}")).await;
            let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                       WHERE application_name LIKE 'lobbyd%'";
            assert!(database.number(end).await > 0);
        },
        async |site| {
            let reset = "RESET default_transaction_read_only";
            let reset = format!("SET transaction_read_only = off; ALTER DATABASE {name} {reset}");
            site.cluster.database.execute(&reset).await;
        },
    )
    .await;
    site.all_done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_may_be_read_only_for_a_while() {
    let server = start_mariadb();
    let (mut site, _url) = ordinary_user(Kind::MariaDb, &server).await;
    site.survives(
        "readonly",
        &["--read-only option"],
        async |site| site.execute("SET GLOBAL read_only = 1").await,
        async |site| site.execute("SET GLOBAL read_only = 0").await,
    )
    .await;
    site.all_done().await;
}

/// lobbyd on a server of its own, as a user without special rights, and the URL of that user.
async fn ordinary_user(kind: Kind, server: &Server) -> (Site, String) {
    let database = Database::create_on(kind, server.port).await;
    let (start, name) = database.url.rsplit_once('/').unwrap();
    let scheme = start.split_once("://").unwrap().0;
    let url = format!("{scheme}://ordinary:secret@127.0.0.1:{}/{name}", server.port);
    if kind == Kind::Postgres {
        database.execute("CREATE ROLE ordinary LOGIN PASSWORD 'secret'").await;
        database.execute("GRANT lobbyd, lobbyd_owner TO ordinary").await;
    } else {
        database.execute("CREATE USER ordinary@'127.0.0.1' IDENTIFIED BY 'secret'").await;
        database.execute(&format!("GRANT ALL ON {name}.* TO ordinary@'127.0.0.1'")).await;
    }
    let mut cluster = TestCluster::on(database, &BROKER.url());
    cluster.set("DATABASE__URL", &url);
    (Site::new(cluster).await, url)
}

/// A connection that only takes its place.
enum Held {
    Postgres(#[expect(dead_code, reason = "held")] PgConnection),
    MariaDb(#[expect(dead_code, reason = "held")] MySqlConnection),
}

impl Held {
    async fn open(kind: Kind, url: &str) -> Option<Self> {
        match kind {
            Kind::Postgres => PgConnection::connect(url).await.map(Self::Postgres).ok(),
            Kind::MariaDb => MySqlConnection::connect(url).await.map(Self::MariaDb).ok(),
            Kind::Sqlite => unreachable!("SQLite has no connections"),
        }
    }
}

/// Takes all connections that the server has for an ordinary user, also those of lobbyd.
async fn take_connections(site: &Site, url: &str) -> Vec<Held> {
    let database = &site.cluster.database;
    let (kill, count) = match database.kind {
        Kind::Postgres => (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'ordinary'",
            "SELECT count(*) FROM pg_stat_activity WHERE usename = 'ordinary'",
        ),
        Kind::MariaDb => (
            "KILL USER ordinary",
            "SELECT count(*) FROM information_schema.processlist WHERE user = 'ordinary'",
        ),
        Kind::Sqlite => unreachable!("SQLite has no connections"),
    };
    let mut held = Vec::new();
    loop {
        while Held::open(database.kind, url).await.is_some() {
            held.extend(Held::open(database.kind, &database.url).await);
        }
        if database.number(count).await == 0 {
            return held;
        }
        database.execute(kill).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_may_be_out_of_connections_for_a_while() {
    let limits = ["max_connections=40", "superuser_reserved_connections=15"].map(str::to_owned);
    let server = start_postgres_with(&limits);
    let (site, url) = ordinary_user(Kind::Postgres, &server).await;
    out_of_connections(site, &url, &["connection slots are reserved", "too many clients"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_may_be_out_of_connections_for_a_while() {
    let server = start_mariadb();
    let (site, url) = ordinary_user(Kind::MariaDb, &server).await;
    site.cluster.database.execute("SET GLOBAL max_connections = 30").await;
    out_of_connections(site, &url, &["Too many connections"]).await;
}

async fn out_of_connections(mut site: Site, url: &str, reasons: &[&str]) {
    let held = tokio::sync::Mutex::new(Vec::new());
    site.survives(
        "connections",
        reasons,
        async |site| *held.lock().await = take_connections(site, url).await,
        async |_site| held.lock().await.clear(),
    )
    .await;
    site.all_done().await;
}

/// Of a role that may have none for a while, and then fewer than lobbyd may open.
#[tokio::test(flavor = "multi_thread")]
async fn few_connections_are_enough() {
    let server = start_postgres();
    let (mut site, _url) = ordinary_user(Kind::Postgres, &server).await;
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
               WHERE usename = 'ordinary'";
    site.survives(
        "role",
        &["too many connections for role"],
        async |site| {
            site.execute("ALTER ROLE ordinary CONNECTION LIMIT 0").await;
            assert!(site.cluster.database.number(end).await > 0);
        },
        async |site| {
            site.execute("ALTER ROLE ordinary CONNECTION LIMIT -1").await;
        },
    )
    .await;
    site.execute("ALTER ROLE ordinary CONNECTION LIMIT 3").await;
    site.cluster.database.number(end).await;
    let since = site.cluster.database.now().await;
    site.load("few").await;
    site.cluster.close_by_events(&site.events, "fewevent", EVENTS, 0..3).await;
    site.all_due(since).await;
    let begin = Instant::now();
    site.cluster.database.all_open().await;
    println!("3 connections: all open {:?} after the last timer", begin.elapsed());
    site.undelayed("few").await;
    site.all_done().await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_descriptors_says_so_and_recovers() {
    let (rows, broker) = (Proxy::to(POSTGRES.port).await, Proxy::to(BROKER.server.port).await);
    let mut cluster = TestCluster::new(Kind::Postgres).await;
    cluster.set("DATABASE__URL", &cluster.database.url_through(rows.port));
    cluster.set("EVENTS__URL", &amqp_url(broker.port));
    let mut site = Site::new(cluster).await;
    let since = site.cluster.database.now().await;
    site.load("files").await;
    site.cluster.database.lobby_becomes("files0x1", 0).await;
    site.limit(Resource::NOFILE, 4);
    for proxy in [&rows, &broker] {
        proxy.set(Mode::Cut);
        sleep(std::time::Duration::from_millis(100)).await;
        proxy.set(Mode::Pass);
    }
    site.run.unready_with("Too many open files").await;
    for part in ["database", "consumer", "publisher"] {
        site.run.unready_with(&format!("{part}: ")).await;
    }
    site.cluster.close_by_events(&site.events, "filesevent", EVENTS, 0..3).await;
    site.all_due(since).await;
    for _ in 0..20 {
        assert_eq!(site.run.get("/livez").await.unwrap().0, 200);
    }
    assert_eq!(site.unacknowledged(), EVENTS);

    let begin = Instant::now();
    eventually("the program to be ready", || async {
        // It sets the limit itself for moments, and may just have done so.
        site.limit(Resource::NOFILE, u64::MAX);
        site.run.get("/readyz").await.filter(|(status, _)| *status == 200)
    })
    .await;
    println!("descriptors: ready after {:?}", begin.elapsed());
    let log = site.run.log();
    assert_eq!(log.matches("connections cannot be accepted").count(), 1, "{log}");
    site.all_done().await;
}

/// Clients cannot take those that database, broker and probes need.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_take_all_descriptors_delay_no_timer() {
    let cluster = TestCluster::new(Kind::Postgres).await;
    let plain = program(&cluster.settings);
    let mut run = Command::new("sh");
    run.args(["-c", r#"ulimit -n 200; exec "$@""#, "sh"]).arg(plain.get_program());
    run.env_clear().envs(plain.get_envs().filter_map(|(key, value)| Some((key, value?))));
    run.current_dir(plain.get_current_dir().unwrap());
    let mut site = Site::spawn(cluster, run).await;
    let mut clients = Vec::new();
    for _ in 0..300 {
        clients.push(TcpStream::connect(("127.0.0.1", site.run.http_port)).await.unwrap());
    }
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
               WHERE datname = current_database() AND application_name LIKE 'lobbyd%'";
    assert!(site.cluster.database.number(end).await > 0);
    site.load("clients").await;
    site.cluster.close_by_events(&site.events, "clientsevent", EVENTS, 0..3).await;
    site.cluster.database.all_open().await;
    site.undelayed("clients").await;
    site.run.ready().await;
    let open = fs::read_dir(format!("/proc/{}/fd", site.run.process())).unwrap().count();
    println!("{open} of 200 descriptors with {} clients", clients.len());
    assert!(open < 150, "{open} descriptors");
    site.all_done().await;
}
