//! The systemd units: systemd accepts them, and they match the program.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use lobbyd::config::Config;

use crate::support::{
    daemon::{program, run},
    server::folder,
    tools::{debian, file, printed},
};

const UNITS: [&str; 4] =
    ["lobbyd.service", "lobbyd-api.service", "lobbyd-run.service", "lobbyd-talk.service"];

/// Path of the program in the units.
const INSTALLED: &str = "/usr/bin/lobbyd";

fn text(unit: &str) -> String {
    fs::read_to_string(file("deploy/systemd").join(unit)).unwrap()
}

/// All values of a setting, in order.
fn values<'a>(unit: &'a str, setting: &str) -> Vec<&'a str> {
    unit.lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(name, _)| *name == setting)
        .map(|(_, value)| value)
        .collect()
}

fn value<'a>(unit: &'a str, setting: &str) -> &'a str {
    let values = values(unit, setting);
    assert_eq!(values.len(), 1, "{setting}: {values:?}");
    values[0]
}

fn duration(unit: &str, setting: &str) -> Duration {
    humantime::parse_duration(value(unit, setting)).unwrap()
}

/// Writes the unit to a file, with the program of these tests as the installed one.
fn installed(unit: &str, text: &str) -> PathBuf {
    let path = folder("unit-").join(unit);
    fs::write(&path, text.replace(INSTALLED, env!("CARGO_BIN_EXE_lobbyd"))).unwrap();
    path
}

/// The warnings of systemd about a unit. It also reads the units of this machine; warnings about
/// those are dropped.
fn warnings(path: &Path) -> Vec<String> {
    let output = debian("systemd-analyze").args(["verify", "--man=no"]).arg(path).output().unwrap();
    let warnings = String::from_utf8(output.stderr).unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    warnings.lines().filter(|line| line.contains(name)).map(str::to_owned).collect()
}

/// Fails if systemd rates the exposure of the unit as more than 1.5, out of 10.
fn rate(path: &Path) {
    printed(
        debian("systemd-analyze")
            .args(["security", "--no-pager", "--offline=true", "--threshold=15"])
            .arg(path),
    );
}

/// The examples for `systemctl edit` in the README.
fn drop_ins() -> Vec<String> {
    let readme = text("README.md");
    let mut blocks = vec![Vec::new()];
    for line in readme.lines() {
        match line.strip_prefix("    ") {
            Some(code) => blocks.last_mut().unwrap().push(code),
            None => blocks.push(Vec::new()),
        }
    }
    blocks.retain(|block| block.first() == Some(&"[Service]"));
    blocks.into_iter().map(|block| block.join("\n")).collect()
}

#[test]
fn systemd_accepts_the_units() {
    for unit in UNITS {
        let path = installed(unit, &text(unit));
        assert_eq!(warnings(&path), [""; 0]);
        rate(&path);
    }
}

#[test]
fn systemd_accepts_the_examples_of_the_readme() {
    let examples = drop_ins();
    assert_eq!(examples.len(), 1);
    for example in examples {
        for unit in UNITS {
            let path = installed(unit, &format!("{}\n{example}\n", text(unit)));
            assert_eq!(warnings(&path), [""; 0], "{example}");
            rate(&path);
        }
    }
}

#[test]
fn all_units_have_the_same_restrictions() {
    let restrictions = UNITS.map(|unit| {
        let text = text(unit);
        let (_, restrictions) = text.split_once("# Restrict the service").unwrap();
        restrictions.to_owned()
    });
    assert_eq!(restrictions[0], restrictions[1]);
    assert_eq!(restrictions[0], restrictions[2]);
}

#[test]
fn the_units_run_commands_of_the_program() {
    for (unit, command) in UNITS.into_iter().zip(["worker", "api", "run"]) {
        let text = text(unit);
        assert_eq!(value(&text, "ExecStart"), format!("{INSTALLED} {command}"));
        // A configuration that cannot be used fails the reload before the service is asked.
        let check = format!("{INSTALLED} config check --quiet");
        assert_eq!(values(&text, "ExecReload"), [check.as_str(), "/bin/kill -HUP $MAINPID"]);
        assert!(!value(&text, "After").contains("rabbitmq"), "rooms open without the broker");
        assert!(run(&Vec::new(), &[command, "--help"]).status.success());
    }
}

#[test]
fn the_timeouts_of_the_units_match_those_of_the_program() {
    let config = Config::defaults();
    for unit in UNITS {
        let text = text(unit);
        // After the work in flight has finished, connections are closed.
        assert!(
            duration(&text, "TimeoutStopSec") >= config.shutdown.grace + Duration::from_secs(5)
        );
        // The program reports every second; ten missing reports are no coincidence.
        assert!(duration(&text, "WatchdogSec") >= Duration::from_secs(10));
        assert_eq!(value(&text, "RestartPreventExitStatus"), "78");
        assert_eq!(value(&text, "StartLimitIntervalSec"), "0");
    }
}

#[test]
fn the_api_may_open_a_file_for_each_connection() {
    let clients = Config::defaults().http.max_connections;
    for unit in &UNITS[1..3] {
        let files: usize = value(&text(unit), "LimitNOFILE").parse().unwrap();
        assert!(files > clients.get() + 1024, "{files} files for {clients} connections");
    }
}

#[test]
fn both_services_can_run_on_one_machine() {
    let [daemon, api, run, talk] = UNITS.map(text);
    let change = values(&api, "Environment")
        .into_iter()
        .find_map(|setting| setting.strip_prefix("LOBBYD__OPS__LISTEN="))
        .unwrap();
    assert_ne!(change.parse(), Ok(Config::defaults().ops.listen));
    let is_setting = |setting: &str| setting.contains("LOBBYD__");
    assert!(!values(&daemon, "Environment").iter().any(|setting| is_setting(setting)));
    // They have different users, so they cannot share a SQLite file.
    assert_eq!(value(&daemon, "WorkingDirectory"), "%S/lobbyd");
    assert!(values(&api, "StateDirectory").is_empty());
    assert_eq!(value(&run, "Conflicts"), "lobbyd.service lobbyd-api.service");
    assert_eq!(value(&talk, "Conflicts"), "lobbyd.service lobbyd-run.service");
    for other in [&run, &talk] {
        assert_eq!(value(other, "StateDirectory"), value(&daemon, "StateDirectory"));
    }
}

/// According to systemd's manual, a unit also starts if a credential that is named without a path
/// is missing.
#[test]
fn each_credential_is_optional_and_is_used_if_it_exists() {
    let credentials = folder("credentials-");
    for (id, secret) in [
        ("database-url", "postgres://lobbyd@credential/lobbyd"),
        ("events-url", "amqp://lobbyd@credential/%2f"),
        ("sip-secret", "marker-secret"),
        ("user-header-secret", "marker-secret"),
        ("talk-secret", "marker-secret"),
        ("talk-password", "marker-secret"),
        ("talk-database-url", "postgres://lobbyd@credential/talk"),
    ] {
        fs::write(credentials.join(id), secret).unwrap();
    }
    let mut check = program(&Vec::new());
    check.args(["config", "check"]).env("CREDENTIALS_DIRECTORY", &credentials);
    let shown = printed(&mut check);
    for (unit, ids) in [
        (
            "lobbyd.service",
            ["database-url", "events-url", "talk-secret", "talk-database-url", "talk-password"]
                .as_slice(),
        ),
        ("lobbyd-api.service", &["database-url", "events-url", "sip-secret", "user-header-secret"]),
        (
            "lobbyd-run.service",
            &[
                "database-url",
                "events-url",
                "sip-secret",
                "user-header-secret",
                "talk-secret",
                "talk-database-url",
                "talk-password",
            ],
        ),
        (
            "lobbyd-talk.service",
            &["talk-secret", "talk-database-url", "talk-password", "database-url", "events-url"],
        ),
    ] {
        let text = text(unit);
        let loaded: Vec<&str> = values(&text, "LoadCredential");
        let expected: Vec<String> = ids.iter().map(|id| format!("{id}:lobbyd.{id}")).collect();
        assert_eq!(loaded, expected);
        for (id, file) in loaded.iter().map(|credential| credential.split_once(':').unwrap()) {
            let line = match id {
                "database-url" => "url = \"postgres://lobbyd@credential/lobbyd\"",
                "events-url" => "url = \"amqp://lobbyd@credential/%2f\"",
                "sip-secret" => "shared_secret = \"***\"",
                "talk-secret" => "secret = \"***\"",
                "talk-password" => "password = \"***\"",
                "talk-database-url" => "database_url = \"postgres://lobbyd@credential/talk\"",
                _proxy => "user_header_secret = \"***\"",
            };
            assert!(shown.contains(line), "no {line} in {shown}");
            assert!(text.contains(&format!("#   /etc/credstore/{file} ")), "{file}");
        }
    }
}
