//! The program as an administrator runs it: signals, supervision, logs, memory.

use std::{
    fs,
    os::unix::{fs::MetadataExt, net::UnixDatagram},
    sync::{Arc, Mutex},
};

use lobbyd::store::Backlog;
use nix::sys::signal::Signal;

use crate::support::{
    PATIENCE,
    cluster::TestCluster,
    daemon::{Daemon, Settings, program, run, settings, text},
    database::{Database, Kind},
    eventually,
    server::{folder, free_port},
};

#[tokio::test(flavor = "multi_thread")]
async fn an_unavailable_database_is_reported_as_the_reason() {
    let url = format!("postgres://lobbyd:marker-secret@127.0.0.1:{}/lobbyd", free_port());
    for migrate in ["true", "false"] {
        let worker = Daemon::start(&settings(&[
            ("LOBBYD__DATABASE__URL", &url),
            ("LOBBYD__DATABASE__TIMEOUT", "1s"),
            ("LOBBYD__DATABASE__MIGRATE", migrate),
        ]));
        eventually("the reason", || async {
            let log = worker.log();
            (log.contains("waiting for the database") && log.contains("Connection refused"))
                .then_some(())
        })
        .await;
        worker.unready_with("Connection refused").await;
        assert!(!worker.log().contains("marker-secret"));
    }
}

/// Settings of an installation that consists of a SQLite file.
async fn sqlite_settings() -> (Database, Settings) {
    let database = Database::create(Kind::Sqlite).await;
    let settings = database.settings();
    (database, settings)
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_open_without_any_server() {
    let (database, settings) = sqlite_settings().await;
    let mut worker = Daemon::start_ready(&settings).await;
    database.insert_rooms("room", 3, database.now().await + 1).await;
    database.all_open().await;
    database.all_published().await;
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        worker.signal(signal);
        assert!(worker.ended().await.success());
        worker = Daemon::start_ready(&settings).await;
    }
    assert_eq!(worker.get("/livez").await, Some((200, "ok\n".to_owned())));
    assert_eq!(worker.get("/nonsense").await.unwrap().0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_worker_on_the_same_address_fails() {
    let (_database, settings) = sqlite_settings().await;
    let worker = Daemon::start_ready(&settings).await;
    let listen = format!("127.0.0.1:{}", worker.ops_port);
    let output =
        program(&settings).arg("worker").env("LOBBYD__OPS__LISTEN", &listen).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(error.contains(&format!("ops.listen: cannot listen on {listen}")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_metrics_exist_from_the_start() {
    let (_database, settings) = sqlite_settings().await;
    let worker = Daemon::start_ready(&settings).await;
    let (_status, metrics) = worker.get("/metrics").await.unwrap();
    for line in [
        "# TYPE lobbyd_timers_fired_total counter",
        "lobbyd_timers_fired_total 0",
        "lobbyd_timers_superseded_total 0",
        "lobbyd_broker_blocked 0",
        "lobbyd_config_reload_ok 1",
        "lobbyd_connected{part=\"database\"} 1",
        "lobbyd_connected{part=\"consumer\"} 1",
        "lobbyd_connected{part=\"publisher\"} 1",
    ] {
        assert!(metrics.contains(line), "no {line} in {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn housekeeping_continues_after_the_wall_clock_steps_back() {
    let (_database, mut settings) = sqlite_settings().await;
    let directory = tempfile::tempdir().unwrap();
    let offset = directory.path().join("offset");
    fs::write(&offset, "+0").unwrap();
    for (name, value) in [
        // The loader replaces $LIB by the folder of libraries of this machine.
        ("LD_PRELOAD", "/usr/$LIB/faketime/libfaketimeMT.so.1"),
        ("FAKETIME_TIMESTAMP_FILE", offset.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("LOBBYD__HOUSEKEEPING__SUMMARY", "* * * * * *"),
    ] {
        settings.push((name.to_owned(), value.to_owned()));
    }
    let worker = Daemon::start_ready(&settings).await;
    worker.logs("daily summary").await;
    fs::write(&offset, "-2h").unwrap();
    worker.logs("wall clock stepped").await;
    let before = worker.log().matches("daily summary").count();
    eventually("the next summaries", || async {
        (worker.log().matches("daily summary").count() > before + 2).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn housekeeping_counts_and_prunes() {
    let (database, mut settings) = sqlite_settings().await;
    settings.push(("LOBBYD__HOUSEKEEPING__SUMMARY".to_owned(), "* * * * * *".to_owned()));
    let worker = Daemon::start_ready(&settings).await;
    database.insert_rooms("due", 3, database.now().await).await;
    database.insert_rooms("later", 2, database.now().await + 1000).await;
    worker.logs("timers.fired=3 timers.pending=2").await;
    worker.metric_becomes("lobbyd_timers_pending", 2).await;
    database.all_published().await;
    drop(worker);

    settings.push(("LOBBYD__HOUSEKEEPING__PRUNE".to_owned(), "* * * * * *".to_owned()));
    settings.push(("LOBBYD__OUTBOX__HISTORY".to_owned(), "1s".to_owned()));
    let _worker = Daemon::start_ready(&settings).await;
    eventually("the pruning", || async {
        (database.number("SELECT count(*) FROM lobbyd_outbox").await == 0).then_some(())
    })
    .await;
}

/// Receives what a program tells systemd, until it stops.
struct Notified {
    received: Arc<Mutex<String>>,
    systemd: std::thread::JoinHandle<()>,
}

impl Notified {
    /// Adds the socket to the environment of the program.
    fn by(settings: &mut Settings) -> Self {
        let socket = folder("notify-").join("socket");
        let listener = UnixDatagram::bind(&socket).unwrap();
        listener.set_read_timeout(Some(PATIENCE)).unwrap();
        settings.push(("NOTIFY_SOCKET".to_owned(), socket.display().to_string()));
        let notifications = Arc::new(Mutex::new(String::new()));
        let received = Arc::clone(&notifications);
        let systemd = std::thread::spawn(move || {
            while !notifications.lock().unwrap().contains("STOPPING=1") {
                let mut buffer = [0; 4096];
                let length = listener.recv(&mut buffer).unwrap();
                let text = std::str::from_utf8(&buffer[..length]).unwrap();
                notifications.lock().unwrap().push_str(text);
            }
        });
        Self { received, systemd }
    }

    fn text(&self) -> String {
        self.received.lock().unwrap().clone()
    }

    async fn becomes(&self, text: &str) {
        eventually(&format!("{text:?} for systemd"), || async {
            self.text().contains(text).then_some(())
        })
        .await;
    }
}

/// An unavailable database must not hold up a boot, or the installation of a package.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_a_database_is_reported_as_done_with_what_is_missing() {
    let url = format!("postgres://lobbyd@127.0.0.1:{}/lobbyd", free_port());
    let mut settings =
        settings(&[("LOBBYD__DATABASE__URL", &url), ("LOBBYD__DATABASE__TIMEOUT", "1s")]);
    let notified = Notified::by(&mut settings);
    let mut worker = Daemon::start(&settings);
    notified.becomes("READY=1\n").await;
    let (before, _ready) =
        notified.text().split_once("READY=1\n").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    assert!(before.contains("STATUS=database: "), "{before}");
    worker.unready_with("database: ").await;
    assert!(!worker.log().contains(" ready"), "{}", worker.log());
    assert!(worker.stop().await.success());
    notified.systemd.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_what_was_read_when_it_is_ready_and_what_is_left() {
    let (_database, mut settings) = sqlite_settings().await;
    let file = folder("config-").join("lobbyd.toml");
    fs::write(&file, "").unwrap();
    let mut worker = Daemon::spawn(program(&settings).arg("worker").arg("--config").arg(&file));
    worker.logs(" ready after_seconds=").await;
    let log = worker.log();
    assert!(log.contains(&format!("configuration read files=[\"{}\"]", file.display())), "{log}");
    assert!(log.contains("no event can reach a worker whose events.url is memory:"), "{log}");
    let (_status, metrics) = worker.get("/metrics").await.unwrap();
    let kinds = "database=\"sqlite\",events=\"memory\"";
    assert!(
        metrics.lines().any(|line| line.starts_with("lobbyd_build_info{") && line.contains(kinds)),
        "{metrics}"
    );
    assert!(worker.stop().await.success());
    assert!(worker.log().contains("stopped outbox.pending=0"), "{}", worker.log());

    settings.push(("LOBBYD__EVENTS__URL".to_owned(), "memory:".to_owned()));
    let run = Daemon::start_as("run", &settings);
    run.logs(" ready after_seconds=").await;
    assert!(!run.log().contains("WARN"), "{}", run.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cannot_be_written_is_not_ready() {
    let (database, mut settings) = sqlite_settings().await;
    drop(database.store().await);
    settings.retain(|(key, _)| key != "LOBBYD__DATABASE__URL");
    let url = database.url.replace("mode=rwc", "mode=ro");
    settings.push(("LOBBYD__DATABASE__URL".to_owned(), url));
    for migrate in ["true", "false"] {
        let mut settings = settings.clone();
        settings.push(("LOBBYD__DATABASE__MIGRATE".to_owned(), migrate.to_owned()));
        let run = Daemon::start_as("run", &settings);
        run.unready_with("database: database unavailable: ").await;
        run.unready_with("attempt to write a readonly database").await;
    }

    let cluster = TestCluster::new(Kind::Postgres).await;
    let api = cluster.api().await;
    let database = &cluster.database;
    let connections = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'lobbyd api'";
    let name = database.texts("SELECT current_database()::text").await.remove(0);
    let read_only = format!("ALTER DATABASE {name} SET default_transaction_read_only");
    database.execute(&format!("{read_only} = on")).await;
    assert!(database.number(connections).await > 0, "connections of the API have its name");
    api.unready_with("database: cannot be written: ").await;
    assert_eq!(api.metric("lobbyd_connected{part=\"database\"}").await, Some(0));
    let writable = "SET default_transaction_read_only = off;";
    database.execute(&format!("{writable} {read_only} = off")).await;
    database.number(connections).await;
    api.ready().await;
    assert!(api.log().contains("database can be written again"), "{}", api.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_is_notified() {
    let (_database, mut settings) = sqlite_settings().await;
    let notified = Notified::by(&mut settings);
    settings.push(("WATCHDOG_USEC".to_owned(), "200000".to_owned()));
    let mut worker = Daemon::start(&settings);
    notified.becomes("READY=1\n").await;
    notified.becomes("STATUS=ready\n").await;
    eventually("three notifications of the watchdog", || async {
        (notified.text().matches("WATCHDOG=1").count() >= 3).then_some(())
    })
    .await;
    worker.signal(Signal::SIGHUP);
    worker.logs("configuration reloaded").await;
    assert!(worker.stop().await.success());
    let received = Arc::clone(&notified.received);
    notified.systemd.join().unwrap();
    let notified = received.lock().unwrap().clone();
    let (started, reloaded) = notified.split_once("RELOADING=1\nMONOTONIC_USEC=").unwrap();
    assert_eq!(started.matches("READY=1\n").count(), 1, "{notified}");
    assert_eq!(reloaded.matches("READY=1\n").count(), 1, "{notified}");
}

/// sd-daemon(3) describes the format.
#[tokio::test(flavor = "multi_thread")]
async fn lines_for_the_journal_have_a_priority() {
    let (_database, settings) = sqlite_settings().await;
    for format in ["text", "json"] {
        let file = folder("journal-").join("log");
        let log = fs::File::create(&file).unwrap();
        let stream = log.metadata().unwrap();
        let mut worker = program(&settings)
            .arg("run")
            .env("LOBBYD__HTTP__LISTEN", format!("127.0.0.1:{}", free_port()))
            .env("LOBBYD__LOG__FORMAT", format)
            .env("LOBBYD__OPS__LISTEN", format!("127.0.0.1:{}", free_port()))
            .env("JOURNAL_STREAM", format!("{}:{}", stream.dev(), stream.ino()))
            .stderr(log)
            .spawn()
            .unwrap();
        eventually("lines in the journal", || async {
            fs::read_to_string(&file).unwrap().contains("consumer connected").then_some(())
        })
        .await;
        worker.kill().unwrap();
        worker.wait().unwrap();
        for line in fs::read_to_string(&file).unwrap().lines() {
            let message = line.strip_prefix("<6>").unwrap_or_else(|| panic!("{line}"));
            if format == "json" {
                let entry: serde_json::Value = serde_json::from_str(message).expect(line);
                assert!(entry["message"].is_string() && entry["timestamp"].is_null(), "{line}");
            } else {
                assert!(!message.starts_with(|c: char| c.is_ascii_digit()), "{line}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_health_check_reports_unavailable_components() {
    let mut cluster = TestCluster::new(Kind::Sqlite).await;
    cluster.set("EVENTS__URL", &format!("amqp://lobbyd:lobbyd@127.0.0.1:{}/%2f", free_port()));
    let worker = Daemon::start(&cluster.settings);
    eventually("the errors", || async {
        let (_, problems) = worker.get("/readyz").await?;
        let broker_alone = !problems.contains("database");
        (broker_alone && problems.matches("Connection refused").count() == 2).then_some(())
    })
    .await;
    cluster.set("OPS__LISTEN", &format!("127.0.0.1:{}", worker.ops_port));
    let check = |settings: &Settings, arguments: &[&str]| {
        let output = run(settings, arguments);
        (output.status.code(), text(&output.stderr), text(&output.stdout))
    };
    let (status, _) = worker.get("/readyz?part=database").await.unwrap();
    assert_eq!(status, 200, "only the database was checked");
    let (status, problems) = worker.get("/readyz?part=database&part=publisher").await.unwrap();
    assert!(status == 503 && !problems.contains("consumer"), "{problems}");
    let (status, error, _) = check(&cluster.settings, &["health"]);
    assert_eq!(status, Some(1));
    assert!(error.contains("consumer: ") && error.lines().count() == 1, "{error}");
    let (status, _, answer) = check(&cluster.settings, &["health", "--live"]);
    assert_eq!((status, answer.as_str()), (Some(0), "ok\n"));
    // A container listens on all addresses.
    cluster.set("OPS__LISTEN", &format!("0.0.0.0:{}", worker.ops_port));
    assert_eq!(check(&cluster.settings, &["health", "--live"]).0, Some(0));
    drop(worker);
    let (status, error, _) = check(&cluster.settings, &["health", "--live"]);
    assert_eq!(status, Some(1));
    assert!(error.contains("ops.listen: no answer from 127.0.0.1:"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_can_be_json_and_never_show_a_password() {
    let mut cluster = TestCluster::new(Kind::Postgres).await;
    let _client = cluster.client().await;
    let marked = cluster.database.url.replace("lobbyd@", "lobbyd:marker-secret@");
    cluster.set("DATABASE__URL", &marked);
    cluster.set("LOG__FORMAT", "json");
    cluster.set("LOG__LEVEL", "trace,lapin=trace,sqlx=trace");
    let mut worker = cluster.worker().await;
    cluster.database.insert_rooms("room", 1, cluster.database.now().await).await;
    worker.logs("event published").await;
    assert!(worker.stop().await.success());
    let log = worker.log();
    assert!(!log.contains("marker-secret"));
    for line in log.lines() {
        let entry: serde_json::Value = serde_json::from_str(line).expect(line);
        assert!(entry["level"].is_string(), "{line}");
    }
    let file = folder("config-").join("bad.toml");
    fs::write(&file, "[database]\nurl = \"postgres://u:marker-secret@db/x\n").unwrap();
    for (environment, arguments) in [
        (vec![("LOBBYD__DATABASE", "postgres://u:marker-secret@db/x")], vec!["run"]),
        (vec![("LOBBYD__EVENTS__URL", "amqp:u:marker-secret@mq")], vec!["run"]),
        (vec![], vec!["--config", file.to_str().unwrap(), "run"]),
    ] {
        let output = run(&settings(&environment), &arguments);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{error}");
        assert!(!error.contains("marker-secret"), "{error}");
    }
    let wrong = format!("amqp://guest:marker-secret@127.0.0.1:{}/%2f", free_port());
    cluster.set("EVENTS__URL", &wrong);
    let worker = Daemon::start(&cluster.settings);
    worker.logs("consumer disconnected").await;
    assert!(!worker.log().contains("marker-secret"));
}

/// Promise P8: pending timers cost no memory.
#[tokio::test(flavor = "multi_thread")]
async fn memory_does_not_grow_with_pending_timers() {
    for kind in [Kind::Sqlite, Kind::Postgres, Kind::MariaDb] {
        let mut memory = Vec::new();
        for pending in [100, 100_000] {
            let database = Database::create(kind).await;
            database.store().await;
            database.insert_rooms("room", pending, database.now().await + 100_000).await;
            let settings = database.settings();
            let worker = Daemon::start_ready(&settings).await;
            eventually("the timers to be counted", || async {
                let counted = worker.metric("lobbyd_timers_pending").await?;
                (counted == u64::from(pending.min(Backlog::LIMIT))).then_some(())
            })
            .await;
            // Some of the timers fire.
            database.insert_rooms("due", 100, database.now().await + 1).await;
            eventually("the resets", || async {
                (worker.metric("lobbyd_timers_fired_total").await? == 100).then_some(())
            })
            .await;
            memory.push(worker.memory());
        }
        println!("{kind:?}: {memory:?} bytes with 100 and 100,000 pending timers");
        assert!(memory[1] <= memory[0] + 5 * 1024 * 1024, "{kind:?}: {memory:?}");
    }
}
