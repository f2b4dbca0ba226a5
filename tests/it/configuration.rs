//! The configuration as an administrator sees it: what is refused, and which layer wins.

use std::{
    fs::{self, Permissions},
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
};

use nix::unistd::getuid;

use crate::support::{
    daemon::{Daemon, Settings, add_user, program, run, settings, text},
    server::{BROKER, folder, free_port},
};

/// Environment, arguments, and the key that the error names.
type BadConfiguration<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str], &'a str);

#[test]
fn an_invalid_configuration_ends_with_status_78_and_one_line_that_names_the_key() {
    let file = folder("config-").join("bad.toml");
    fs::write(&file, "[database]\nurls = \"x\"\n").unwrap();
    let cases: [BadConfiguration; 24] = [
        (&[("LOBBYD__DATABASE__URL", "oracle://x")], &["worker"], "database.url"),
        (&[("LOBBYD__DATABASE__URL", "sqlite::memory:")], &["worker"], "database.url"),
        (&[("LOBBYD__EVENTS__URL", "kafka://x")], &["worker"], "events.url"),
        (&[("LOBBYD__EVENTS__URL", "amqp://[")], &["worker"], "events.url"),
        (&[("LOBBYD__EVENTS__URL_FILE", "/nowhere")], &["worker"], "events.url_file"),
        (&[("LOBBYD__DATABASE__MAX_CONNECTIONS", "0")], &["config", "check"], "max_connections"),
        (&[("LOBBYD__DATABASE__MAX_CONNECTIONS", "1")], &["run"], "at least 2"),
        (&[("LOBBYD__DATABASE__MAX_CONNECTIONS", "1001")], &["config", "check"], "at most 1000"),
        (&[("LOBBYD__TIMERS__BATCH", "10001")], &["config", "check"], "at most 10000"),
        (&[("LOBBYD__DATABASE__TIMEOUT", "soon")], &["config", "check"], "timeout"),
        (&[("LOBBYD__DATABASE__TIMEOUT", "0s")], &["config", "check"], "database.timeout"),
        (&[("LOBBYD__OUTBOX__HISTORY", "9999years")], &["config", "check"], "outbox.history"),
        (&[("LOBBYD__OPS__LISTEN", "here")], &["config", "check"], "listen"),
        (
            &[("LOBBYD__OPS__LISTNE", "here")],
            &["config", "check"],
            "LOBBYD__OPS__LISTNE: ops: unknown",
        ),
        (&[("LOBBYD__FOO", "1")], &["config", "check"], "LOBBYD__FOO: unknown field `foo`"),
        (&[("LOBBYD__HOUSEKEEPING__PRUNE", "often")], &["run"], "housekeeping.prune"),
        (&[("LOBBYD__HTTP__LISTEN", "here")], &["config", "check"], "listen"),
        (&[("LOBBYD__HTTP__TRUSTED_PROXIES", "10.0.0.0/99")], &["config", "check"], "proxies"),
        (&[("LOBBYD__HTTP__USER_HEADER", "a b")], &["config", "check"], "http.user_header"),
        (&[("LOBBYD__HTTP__ALLOWED_ORIGINS", "*")], &["run"], "http.allowed_origins"),
        (&[("LOBBYD__HTTP__JOIN_URL", "//evil.example/{token}")], &["run"], "http.join_url"),
        (&[("LOBBYD__SIP__SHARED_SECRET_FILE", "/nowhere")], &["run"], "sip.shared_secret_file"),
        (&[("LOBBYD__LOG__LEVEL", "a=b=c")], &["worker"], "log.level"),
        (&[], &["--config", file.to_str().unwrap(), "config", "check"], "urls"),
    ];
    for (environment, arguments, key) in cases {
        let output = run(&settings(environment), arguments);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{key}: {error}");
        assert!(error.contains(key), "{key}: {error}");
        assert_eq!(error.lines().count(), 1, "{key}: {error}");
    }
    let missing = run(&settings(&[]), &["--config", "/nowhere.toml", "run"]);
    assert_eq!(missing.status.code(), Some(78), "{missing:?}");
}

#[test]
fn the_environment_wins_over_the_file_and_secrets_stay_hidden() {
    let folder = folder("config-");
    let (file, secret) = (folder.join("lobbyd.toml"), folder.join("secret"));
    fs::write(&file, "[timers]\nbatch = 7\n[log]\nformat = \"json\"\n").unwrap();
    fs::write(&secret, "amqps://lobbyd:marker-secret@mq/%2f\n").unwrap();
    let environment = settings(&[
        ("LOBBYD__TIMERS__BATCH", "8"),
        ("LOBBYD__DATABASE__URL", "postgres://lobbyd:marker-secret@db/lobbyd"),
        ("LOBBYD__EVENTS__URL_FILE", secret.to_str().unwrap()),
        ("LOBBYD_PORT", "tcp://10.0.0.1:80"),
    ]);
    let output = run(&environment, &["--config", file.to_str().unwrap(), "config", "check"]);
    let shown = text(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    for line in [
        "batch = 8  # environment\n",
        &format!("format = \"json\"  # {}\n", file.display()),
        "url = \"postgres://lobbyd:***@db/lobbyd\"  # environment\n",
        &format!("url = \"amqps://lobbyd:***@mq/%2f\"  # {}\n", secret.display()),
        "level = \"info\"  # default\n",
    ] {
        assert!(shown.contains(line), "no {line} in {shown}");
    }
    assert!(!shown.contains("marker-secret") && output.stderr.is_empty());
}

#[test]
fn a_url_in_the_environment_wins_over_a_url_file() {
    let folder = folder("config-");
    let (file, secret) = (folder.join("lobbyd.toml"), folder.join("secret"));
    fs::write(&file, format!("[database]\nurl_file = \"{}\"\n", secret.display())).unwrap();
    fs::write(&secret, "postgres://production/lobbyd").unwrap();
    let shown = |environment: &Settings| {
        text(&run(environment, &["--config", file.to_str().unwrap(), "config", "check"]).stdout)
    };
    assert!(shown(&settings(&[])).contains("postgres://production/lobbyd"));
    let trial = settings(&[("LOBBYD__DATABASE__URL", "sqlite://trial.db")]);
    assert!(shown(&trial).contains("sqlite://trial.db"));
}

#[test]
fn credentials_of_systemd_win_over_the_file_and_lose_to_the_environment() {
    let folder = folder("credentials-");
    fs::write(folder.join("database-url"), "postgres://lobbyd:marker-secret@credential/db\n")
        .unwrap();
    let file = folder.join("lobbyd.toml");
    fs::write(&file, "[database]\nurl = \"postgres://file/db\"\n[events]\nurl = \"amqp://file\"\n")
        .unwrap();
    let mut environment = settings(&[("CREDENTIALS_DIRECTORY", folder.to_str().unwrap())]);
    let check = |environment: &Settings| {
        let output = run(environment, &["--config", file.to_str().unwrap(), "config", "check"]);
        text(&output.stdout)
    };
    let shown = check(&environment);
    let line = format!(
        "url = \"postgres://lobbyd:***@credential/db\"  # credential {}/database-url\n",
        folder.display()
    );
    assert!(shown.contains(&line), "{shown}");
    assert!(shown.contains("url = \"amqp://file\""), "{shown}");
    environment.extend(settings(&[("LOBBYD__DATABASE__URL", "postgres://environment/db")]));
    let shown = check(&environment);
    assert!(shown.contains("url = \"postgres://environment/db\""), "{shown}");
}

#[test]
fn a_quiet_check_prints_errors_only() {
    let output = run(&settings(&[]), &["config", "check", "--quiet"]);
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    let wrong = settings(&[("LOBBYD__TIMERS__BATCH", "many")]);
    let output = run(&wrong, &["config", "check", "--quiet"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output.stderr).contains("timers.batch"), "{output:?}");
}

#[test]
fn an_error_in_a_file_names_its_absolute_path() {
    let file = folder("config-").join("lobbyd.toml");
    let folder = file.parent().unwrap();
    let name = file.file_name().unwrap().to_str().unwrap();
    for wrong in ["no TOML", "[timers]\nbatch = \"many\"\n"] {
        fs::write(&file, wrong).unwrap();
        let mut check = program(&settings(&[]));
        check.args(["--config", name, "config", "check"]).current_dir(folder);
        let error = text(&check.output().unwrap().stderr);
        assert!(error.ends_with(&format!(", in {}\n", file.display())), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_connects_says_what_each_server_refuses() {
    let database = format!("postgres://lobbyd:marker-secret@127.0.0.1:{}/x", free_port());
    let events = format!("amqp://guest:marker-secret@127.0.0.1:{}/%2f", BROKER.server.port);
    let mut environment = settings(&[
        ("LOBBYD__DATABASE__URL", &database),
        ("LOBBYD__DATABASE__TIMEOUT", "1s"),
        ("LOBBYD__EVENTS__URL", &events),
    ]);
    let output = run(&environment, &["config", "check", "--connect"]);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    for answer in ["database.url: ", "Connection refused", "events.url: ", "ACCESS_REFUSED"] {
        assert!(error.contains(answer), "no {answer} in {error}");
    }
    assert!(!error.contains("marker-secret") && error.lines().count() == 1, "{error}");

    let file = folder("sqlite-").join("lobbyd.db");
    let url = format!("sqlite://{}?mode=rwc", file.display());
    environment.retain(|(key, _)| key.as_str() == "LOBBYD__DATABASE__TIMEOUT");
    environment.extend(settings(&[("LOBBYD__DATABASE__URL", &url)]));
    let output = run(&environment, &["config", "check", "--connect", "--quiet"]);
    assert_eq!(output.status.code(), Some(1), "there is no file yet");
    assert!(!file.exists(), "a check creates nothing");
    assert!(run(&environment, &["migrate"]).status.success());
    let output = run(&environment, &["config", "check", "--connect"]);
    assert!(output.status.success(), "{output:?}");
    let shown = text(&output.stdout);
    for answer in ["# database.url: connected", "# events.url: inside the process"] {
        assert!(shown.contains(answer), "no {answer} in {shown}");
    }
}

/// It was restored or copied there by root.
#[tokio::test]
async fn a_sqlite_file_of_another_user_is_named_with_its_owner() {
    if !getuid().is_root() {
        return;
    }
    let database = folder("state-").join("lobbyd.db");
    let url = format!("sqlite://{}?mode=rwc", database.display());
    let environment = settings(&[("LOBBYD__DATABASE__URL", &url)]);
    assert!(run(&environment, &["migrate"]).status.success());
    fs::set_permissions(database.parent().unwrap(), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&database, Permissions::from_mode(0o644)).unwrap();
    let nobody = 65_534;
    let mut service = program(&environment);
    let worker = Daemon::spawn(service.arg("worker").current_dir("/").uid(nobody).gid(nobody));
    worker.unready_with(&format!("{} belongs to root", database.display())).await;
}

/// A service with a user of its own has to be able to write the file that root has created.
#[test]
fn a_sqlite_file_that_root_creates_belongs_to_the_owner_of_its_folder() {
    if !getuid().is_root() {
        return;
    }
    let folder = folder("state-");
    let owner = 65_534;
    chown(&folder, Some(owner), Some(owner)).unwrap();
    let url = format!("sqlite://{}/lobbyd.db?mode=rwc", folder.display());
    add_user(&settings(&[("LOBBYD__DATABASE__URL", &url)]), "alice", "correct horse", &[]);
    let files: Vec<_> = fs::read_dir(&folder).unwrap().map(Result::unwrap).collect();
    assert!(!files.is_empty());
    for file in files {
        let metadata = file.metadata().unwrap();
        assert_eq!((metadata.uid(), metadata.mode() & 0o777), (owner, 0o600), "{file:?}");
    }
}
