//! The configuration as an administrator sees it: what is refused, and which layer wins.

use std::fs;

use crate::support::{
    daemon::{Settings, run, settings, text},
    server::folder,
};

/// Environment, arguments, and the key that the error names.
type BadConfiguration<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str], &'a str);

#[test]
fn an_invalid_configuration_ends_with_status_78_and_one_line_that_names_the_key() {
    let file = folder("config-").join("bad.toml");
    fs::write(&file, "[database]\nurls = \"x\"\n").unwrap();
    let cases: [BadConfiguration; 20] = [
        (&[("LOBBYD__DATABASE__URL", "oracle://x")], &["worker"], "database.url"),
        (&[("LOBBYD__DATABASE__URL", "sqlite::memory:")], &["worker"], "database.url"),
        (&[("LOBBYD__EVENTS__URL", "kafka://x")], &["worker"], "events.url"),
        (&[("LOBBYD__EVENTS__URL", "amqp://[")], &["worker"], "events.url"),
        (&[("LOBBYD__EVENTS__URL_FILE", "/nowhere")], &["worker"], "events.url_file"),
        (&[("LOBBYD__DATABASE__MAX_CONNECTIONS", "0")], &["config", "check"], "max_connections"),
        (&[("LOBBYD__DATABASE__MAX_CONNECTIONS", "1")], &["run"], "at least 2"),
        (&[("LOBBYD__TIMERS__BATCH", "10001")], &["config", "check"], "at most 10000"),
        (&[("LOBBYD__DATABASE__TIMEOUT", "soon")], &["config", "check"], "timeout"),
        (&[("LOBBYD__DATABASE__TIMEOUT", "0s")], &["config", "check"], "database.timeout"),
        (&[("LOBBYD__OUTBOX__HISTORY", "9999years")], &["config", "check"], "outbox.history"),
        (&[("LOBBYD__OPS__LISTEN", "here")], &["config", "check"], "listen"),
        (&[("LOBBYD__OPS__LISTNE", "here")], &["config", "check"], "listne"),
        (&[("LOBBYD__HOUSEKEEPING__PRUNE", "often")], &["run"], "housekeeping.prune"),
        (&[("LOBBYD__HTTP__LISTEN", "here")], &["config", "check"], "listen"),
        (&[("LOBBYD__HTTP__TRUSTED_PROXIES", "10.0.0.0/99")], &["config", "check"], "proxies"),
        (&[("LOBBYD__HTTP__USER_HEADER", "a b")], &["config", "check"], "http.user_header"),
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
        "batch = 8",
        "format = \"json\"",
        "url = \"postgres://lobbyd:***@db/lobbyd\"",
        "url = \"amqps://lobbyd:***@mq/%2f\"",
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
    assert!(shown.contains("url = \"postgres://lobbyd:***@credential/db\""), "{shown}");
    assert!(shown.contains("url = \"amqp://file\""), "{shown}");
    environment.extend(settings(&[("LOBBYD__DATABASE__URL", "postgres://environment/db")]));
    let shown = check(&environment);
    assert!(shown.contains("url = \"postgres://environment/db\""), "{shown}");
}
