//! The commands of the program that end by themselves.

mod dead_letters;
mod diagnosis;
mod listings;
mod lobby;
mod status;
mod terminal;

use std::{
    fs::{self, Permissions},
    io::{BufRead, BufReader, Write},
    net::IpAddr,
    os::unix::fs::PermissionsExt,
    process::{Command, Output, Stdio},
};

use chrono::{DateTime, Utc};
use lobbyd::auth::{Passwords, Throttle};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, getuid},
};
use serde_json::Value;

use crate::support::{
    daemon::{Settings, program, run, settings, text},
    database::{Database, Kind},
    eventually,
    server::folder,
};

/// Runs a command that has to succeed. Returns what it prints.
fn printed(settings: &Settings, arguments: &[&str]) -> String {
    let output = run(settings, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    text(&output.stdout)
}

/// Runs a command that has to succeed with `--json`.
fn json(settings: &Settings, arguments: &[&str]) -> Value {
    serde_json::from_str(&printed(settings, &[arguments, &["--json"]].concat())).unwrap()
}

/// Runs a command that has to fail with status 1. Returns its error.
fn failure(settings: &Settings, arguments: &[&str]) -> String {
    let output = run(settings, arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
    text(&output.stderr)
}

/// Runs a command whose arguments have to be refused. Returns its error.
fn usage_error(settings: &Settings, arguments: &[&str]) -> String {
    let output = run(settings, arguments);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
    text(&output.stderr)
}

/// The cells of a table, which at least two spaces separate.
fn cells(table: &str) -> Vec<Vec<String>> {
    let words = |line: &str| {
        line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect()
    };
    table.lines().map(words).collect()
}

/// A database with lobbyd's tables, and the settings with which commands use it.
struct CliFixture {
    database: Database,
    settings: Settings,
}

impl CliFixture {
    async fn new(kind: Kind) -> Self {
        let database = Database::create(kind).await;
        drop(database.store().await);
        let mut settings = database.settings();
        settings.extend(self::settings(&[
            // Nothing listens there.
            ("LOBBYD__OPS__LISTEN", "127.0.0.1:1"),
            ("TZ", "Europe/Berlin"),
        ]));
        Self { database, settings }
    }

    /// Sets columns of a room.
    async fn set(&self, room: &str, columns: &str) {
        self.database
            .execute(&format!("UPDATE lobbyd_rooms SET {columns} WHERE token = '{room}'"))
            .await;
    }
}

#[test]
fn the_demo_shows_each_step() {
    let output = run(&settings(&[("LOBBYD__DATABASE__URL", "nonsense")]), &["demo", "--in", "8"]);
    let (shown, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{shown}{errors}");
    assert_eq!(errors, "");
    let mut rest = shown.as_str();
    for step in [
        "room",
        "event in",
        "armed",
        "1 …",
        "opened",
        "published",
        "\"reason\": \"lobby_timer_reached\"",
        "Next steps",
    ] {
        let position = rest.find(step).unwrap_or_else(|| panic!("no {step:?} in {shown}"));
        rest = &rest[position..];
    }
}

/// It depends on no step being quick.
#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "SQLite has the clock of this machine")]
async fn a_demo_that_is_delayed_until_its_timer_is_over_shows_each_step() {
    let mut demo = program(&settings(&[]));
    let mut demo = demo
        .args(["demo", "--in", "2"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let process = Pid::from_raw(i32::try_from(demo.id()).unwrap());
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines().map(Result::unwrap);
    let event = lines.find(|line| line.contains("event in")).unwrap();
    kill(process, Signal::SIGSTOP).unwrap();
    let timer: DateTime<Utc> = event.rsplit(' ').next().unwrap().parse().unwrap();
    eventually("the timer to be over", || async { (Utc::now() > timer).then_some(()) }).await;
    kill(process, Signal::SIGCONT).unwrap();
    let rest: Vec<String> = lines.collect();
    let output = demo.wait_with_output().unwrap();
    assert!(output.status.success(), "{rest:?} {output:?}");
    for step in ["armed", "opened", "published"] {
        assert!(rest.iter().any(|line| line.contains(&format!("  {step} "))), "{step}: {rest:?}");
    }
}

#[test]
fn help_describes_every_command() {
    let output = run(&settings(&[]), &["--help"]);
    let help = text(&output.stdout);
    for command in [
        "demo",
        "run",
        "worker",
        "api",
        "migrate",
        "health",
        "publish",
        "user",
        "config",
        "generate",
        "rooms",
        "timers",
        "history",
        "status",
        "lobby",
        "dead-letters",
    ] {
        assert!(help.contains(&format!("\n  {command} ")), "{help}");
        let output = run(&settings(&[]), &[command, "--help"]);
        assert!(output.status.success(), "{command}");
    }
    assert!(help.contains("LOBBYD__DATABASE__URL="), "{help}");
    let (_, section) = help.split_once("When a room did not open:").unwrap();
    for command in ["rooms TOKEN", "lobby clear TOKEN", "status", "dead-letters list"] {
        assert!(section.contains(&format!("lobbyd {command}")), "{section}");
    }
    assert_eq!(run(&settings(&[]), &["no-such-command"]).status.code(), Some(2));
}

#[test]
fn a_configuration_that_only_others_may_read_is_explained() {
    let file = folder("private-").join("lobbyd.toml");
    fs::write(&file, "").unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o000)).unwrap();
    // Without these capabilities, the permissions of files count for root as well.
    let mut command = Command::new("setpriv");
    if getuid().is_root() {
        command.arg("--bounding-set=-dac_override,-dac_read_search");
    }
    command.args([env!("CARGO_BIN_EXE_lobbyd"), "rooms", "--config"]).arg(&file);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    let error = text(&output.stderr);
    for part in
        [file.to_str().unwrap(), "cannot be read", "run the command as root, or as the user of"]
    {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn the_publish_command_needs_a_broker() {
    let output = run(&settings(&[]), &["publish", "abc", "--state", "1"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output.stderr).contains("events.url: memory:"));
    usage_error(&settings(&[]), &["publish", "a b", "--state", "1"]);
}

/// No database is asked: none is configured.
#[test]
fn values_that_mean_nothing_are_refused_with_the_reason() {
    let settings = settings(&[("TZ", "Europe/Berlin")]);
    for (options, problem) in [
        (["--in", "8000y"], "after the year 9999"),
        (["--in", "20M"], "m for minutes, or month"),
        (["--in", "-5m"], "expected a duration such as"),
        (["--at", "9999-12-31 23:59"], "the last day of a timer is 9999-12-29"),
        (["--at", "26-12-24 8:00"], "before 1970"),
        (["--at", "-1"], "expected a time such as"),
    ] {
        for command in [["lobby", "set", "abc"].as_slice(), &["publish", "abc", "--state", "1"]] {
            let error = usage_error(&settings, &[command, &options].concat());
            assert!(error.contains(problem), "{error}");
        }
    }
    for command in [["rooms"].as_slice(), &["timers"], &["history"], &["dead-letters", "list"]] {
        for number in ["0", "-1"] {
            let error = usage_error(&settings, &[command, &["--limit", number]].concat());
            assert!(error.contains(&format!("{number} is not in 1..")), "{error}");
        }
    }
    let error = usage_error(&settings, &["history", "--since", "20M"]);
    assert!(error.contains("m for minutes"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_has_gone_is_no_failure() {
    let fixture = CliFixture::new(Kind::Sqlite).await;
    let mut command = program(&fixture.settings);
    command.args(["rooms", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn the_migrate_command_updates_a_database() {
    let file = folder("migrate-").join("rooms.db");
    let url = format!("sqlite://{}?mode=rwc", file.display());
    for _ in 0..2 {
        let output = run(&settings(&[("LOBBYD__DATABASE__URL", &url)]), &["migrate"]);
        assert!(output.status.success(), "{output:?}");
        assert!(text(&output.stdout).ends_with(" is up to date\n"), "{output:?}");
    }
    let output =
        run(&settings(&[("LOBBYD__DATABASE__URL", "sqlite:///nowhere/x.db")]), &["migrate"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

/// Runs the program to its end with this standard input.
fn run_with_input(settings: &Settings, arguments: &[&str], input: &str) -> Output {
    let mut child = program(settings)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The handle is dropped at once, so that the input ends.
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_user_command_manages_users() {
    let database = Database::create(Kind::Sqlite).await;
    let settings = database.settings();
    let user = |arguments: &[&str], input: &str| {
        let output = run_with_input(&settings, &[&["user"], arguments].concat(), input);
        let (shown, error) = (text(&output.stdout), text(&output.stderr));
        assert!(!format!("{shown}{error}").contains("marker"), "{shown}{error}");
        (output.status.code().unwrap(), shown, error)
    };
    let done = |answer: &str| (0, answer.to_owned(), String::new());
    let failed = |error: &str| (1, String::new(), format!("lobbyd: {error}\n"));

    for command in [["list"].as_slice(), &["remove", "bob"], &["passwd", "bob", "--password-stdin"]]
    {
        let (status, _shown, error) = user(command, "marker-bob\n");
        assert_eq!(status, 78, "{error}");
        assert!(error.contains("there is no file"), "{error}");
    }
    let bob = ["add", "bob", "--password-stdin"];
    let (status, shown, error) = user(&bob, "marker-bob\n");
    assert_eq!((status, shown.as_str()), (0, "bob: added\n"), "{error}");
    assert!(error.contains("lobbyd: creating lobbyd's tables in /"), "{error}");
    assert!(error.ends_with("/rooms.db\n"), "{error}");
    assert_eq!(user(&bob, "marker-bob\n"), failed("there is a user bob already"));
    let alice = ["--display-name", "Alice B.", "--group", "sip", "--group", "eu", "--group", "sip"];
    let alice = [&["add", "alice", "--password-stdin"], alice.as_slice()].concat();
    assert_eq!(user(&alice, "marker-old"), done("alice: added\n"));
    let list = "alice\tAlice B.\teu\tsip\nbob\tbob\n";
    assert_eq!(user(&["list"], ""), done(list));

    let (passwords, throttle) = (Passwords::new(), Throttle::room_passwords());
    let fits = async |password: &str, hash: &str| {
        let from = IpAddr::from([127, 0, 0, 1]);
        passwords.verify(password, hash, "room", from, &throttle).await.unwrap()
    };
    let hash = async || database.texts("SELECT password_hash FROM lobbyd_users ORDER BY id").await;
    assert!(fits("marker-old", &hash().await[0]).await);
    let passwd = ["passwd", "alice", "--password-stdin"];
    assert_eq!(user(&passwd, "marker-new\n"), done("alice: password changed\n"));
    assert!(fits("marker-new", &hash().await[0]).await);
    assert!(fits("marker-bob", &hash().await[1]).await);

    let empty = "the password on standard input is empty";
    assert_eq!(user(&passwd, "\n"), failed(empty));
    assert_eq!(user(&["add", "carol", "--password-stdin"], ""), failed(empty));
    for (arguments, problem) in [
        (["add", "carol"].as_slice(), "--password-stdin"),
        (&["passwd", "bob"], "--password-stdin"),
        (&["add", "carol:smith", "--password-stdin"], "neither white space, nor : or /"),
        (&["add", "carol", "--password-stdin", "--group", ""], "1 to 64 characters"),
    ] {
        let (status, _shown, error) = user(arguments, "");
        assert_eq!(status, 2, "{error}");
        assert!(error.contains(problem), "{error}");
    }

    assert_eq!(user(&["remove", "bob"], ""), done("bob: removed\n"));
    assert_eq!(user(&["remove", "bob"], ""), failed("there is no user bob"));
    let passwd = ["passwd", "bob", "--password-stdin"];
    assert_eq!(user(&passwd, "marker-bob\n"), failed("there is no user bob"));
    assert_eq!(user(&["list"], ""), done("alice\tAlice B.\teu\tsip\n"));
}
