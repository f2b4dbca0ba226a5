//! SIGHUP: which settings the running program adopts, and which need a restart.

use std::{fs, path::PathBuf};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::{
    cluster::TestCluster,
    daemon::{Daemon, program},
    database::{Database, Kind},
    eventually,
    server::{BROKER, folder},
};

/// A worker on a SQLite file, with a configuration file.
struct Configured {
    worker: Daemon,
    database: Database,
    file: PathBuf,
}

impl Configured {
    async fn start(configuration: &str) -> Self {
        let database = Database::create(Kind::Sqlite).await;
        let file = folder("config-").join("lobbyd.toml");
        fs::write(&file, configuration).unwrap();
        let settings = database.settings();
        let worker = Daemon::spawn(program(&settings).arg("worker").arg("--config").arg(&file));
        worker.ready().await;
        Self { worker, database, file }
    }

    /// Changes the configuration, and waits until the log reports this outcome.
    async fn reload(&self, configuration: &str, outcome: &str) {
        let before = self.worker.log().matches(outcome).count();
        fs::write(&self.file, configuration).unwrap();
        self.worker.signal(Signal::SIGHUP);
        eventually(outcome, || async {
            (self.worker.log().matches(outcome).count() > before).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_level_can_be_reloaded() {
    let configured = Configured::start("[log]\nlevel = \"error\"\n").await;
    assert_eq!(configured.worker.log(), "");
    configured.reload("[log]\nlevel = \"info\"\n", "configuration reloaded").await;
    assert!(configured.worker.log().contains("setting taken over key=\"log.level\""));
    configured.reload("[log]\nlevel = \"debug,sqlx=trace\"\n", "DEBUG").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn schedules_can_be_reloaded() {
    let configured = Configured::start("[housekeeping]\nsummary = \"0 0 0 1 1 *\"\n").await;
    let often = "[housekeeping]\nsummary = \"* * * * * *\"\n";
    configured.reload(often, "daily summary").await;
    configured.reload("", "configuration reloaded").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_configuration_changes_nothing() {
    let mut configured = Configured::start("").await;
    for wrong in ["[housekeeping]\nprune = \"often\"\n", "[timers]\nbatches = 3\n", "no TOML"] {
        let wrong = &format!("{wrong}\n[log]\nlevel = \"trace\"\n");
        configured.reload(wrong, "configuration invalid, reload skipped").await;
    }
    let reload_ok = "lobbyd_config_reload_ok";
    configured.worker.metric_becomes(reload_ok, 0).await;
    configured.reload("[log]\nlevel = \"a=b=c\"\n", "log.level: ").await;
    assert!(!configured.worker.log().contains("DEBUG"));
    configured
        .reload("[timers]\nbatch = 7\n[log]\nformat = \"json\"\n", "configuration reloaded in part")
        .await;
    let log = configured.worker.log();
    for key in ["key=\"timers.batch\"", "key=\"log.format\""] {
        assert!(log.contains(key), "no {key} in {log}");
    }
    assert!(log.contains("undone=\"restart required for log.format, timers.batch\""), "{log}");
    configured.worker.metric_becomes(reload_ok, 1).await;
    configured.database.insert_rooms("room", 1, configured.database.now().await).await;
    configured.database.all_open().await;
    assert!(configured.worker.stop().await.success());
}

/// Kubernetes renews a mounted secret in place, and signals nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_renewed_is_taken_over_without_a_signal_if_the_old_one_is_refused() {
    let cluster = TestCluster::new(Kind::Postgres).await;
    let user = cluster.exchange.replace(['.', '-'], "_");
    let secrets = folder("secrets-");
    let (database_url, events_url) = (secrets.join("database-url"), secrets.join("events-url"));
    fs::write(&database_url, cluster.database.url.replace("//lobbyd@", &format!("//{user}@")))
        .unwrap();
    let login = format!("//{user}:wrong@");
    fs::write(&events_url, cluster.amqp_url.replace("//guest:guest@", &login)).unwrap();
    let mut settings = cluster.settings.clone();
    settings.retain(|(key, _)| {
        !["LOBBYD__DATABASE__URL", "LOBBYD__EVENTS__URL"].contains(&key.as_str())
    });
    for (key, file) in [("DATABASE__URL_FILE", &database_url), ("EVENTS__URL_FILE", &events_url)] {
        settings.push((format!("LOBBYD__{key}"), file.display().to_string()));
    }
    let worker = Daemon::start(&settings);
    worker.unready_with("database refuses the login").await;
    fs::write(&database_url, &cluster.database.url).unwrap();
    worker.unready_with("consumer: broker refuses the login").await;
    fs::write(&events_url, cluster.setting("EVENTS__URL")).unwrap();
    worker.ready().await;
    for key in ["database.url", "events.url"] {
        worker.logs(&format!("setting taken over key=\"{key}\"")).await;
    }
}

/// After the rotation of a password, the old one is no longer valid.
#[tokio::test(flavor = "multi_thread")]
async fn new_secrets_of_database_and_broker_can_be_reloaded() {
    let cluster = TestCluster::new(Kind::Postgres).await;
    let client = cluster.client().await;
    let database = &cluster.database;
    let name = cluster.exchange.replace(['.', '-'], "_");
    let (old, new) = (format!("{name}_old"), format!("{name}_new"));
    for user in [&old, &new] {
        database.execute(&format!("CREATE ROLE {user} LOGIN IN ROLE lobbyd")).await;
        BROKER.add_user(user, "secret");
    }
    let secrets = folder("secrets-");
    let (database_url, events_url) = (secrets.join("database-url"), secrets.join("events-url"));
    let write = |user: &str, password: &str| {
        fs::write(&database_url, database.url.replace("//lobbyd@", &format!("//{user}@"))).unwrap();
        let login = format!("//{user}:{password}@");
        fs::write(&events_url, cluster.amqp_url.replace("//guest:guest@", &login)).unwrap();
    };
    write(&old, "secret");
    let mut settings = cluster.settings.clone();
    settings.retain(|(key, _)| {
        !["LOBBYD__DATABASE__URL", "LOBBYD__EVENTS__URL"].contains(&key.as_str())
    });
    for (key, file) in [("DATABASE__URL_FILE", &database_url), ("EVENTS__URL_FILE", &events_url)] {
        settings.push((format!("LOBBYD__{key}"), file.display().to_string()));
    }
    // Worker and API in one process, so that it has every kind of connection.
    let mut program = Daemon::start_as("run", &settings);
    program.ready().await;

    write("nobody", "wrong");
    program.signal(Signal::SIGHUP);
    for key in ["database.url", "events.url"] {
        let error = format!("{key} does not work, keeping the previous URL");
        eventually(&error, || async { program.log().contains(&error).then_some(()) }).await;
    }
    program.metric_becomes("lobbyd_config_reload_ok", 0).await;
    write(&new, "secret");
    program.signal(Signal::SIGHUP);
    eventually("the new connections", || async {
        let connections = BROKER.report(&["list_connections", "user"]);
        let of = |user: &String| connections.lines().filter(|line| line == user).count();
        (of(&old) == 0 && of(&new) == 3).then_some(())
    })
    .await;
    let of = async |user: &str| {
        let count = "SELECT count(*) FROM pg_stat_activity WHERE usename";
        database.number(&format!("{count} = '{user}'")).await
    };
    eventually("connections of the new user alone", || async {
        (of(&old).await == 0 && of(&new).await > 0).then_some(())
    })
    .await;

    program.metric_becomes("lobbyd_config_reload_ok", 1).await;
    for key in ["database.url", "events.url"] {
        let line = format!("setting taken over key=\"{key}\"");
        assert!(program.log().contains(&line), "{}", program.log());
    }
    BROKER.control(&["delete_user", &old]);
    database.execute(&format!("ALTER ROLE {old} NOLOGIN")).await;
    database.insert_room("webinar").await;
    let timer = database.now().await + 1;
    client.publish(&json!({"token": "webinar", "state": 1, "timer": timer})).await;
    client.take_reset(&cluster.updates).await;
    assert!(program.stop().await.success());
}
