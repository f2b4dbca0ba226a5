//! The units: what systemd says of them, and that they fit the program.

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

const UNITS: [&str; 2] = ["lobbyd.service", "lobbyd-api.service"];

/// The units expect the program here.
const INSTALLED: &str = "/usr/bin/lobbyd";

fn text(unit: &str) -> String {
    fs::read_to_string(file("deploy/systemd").join(unit)).unwrap()
}

/// The values of a setting, in their order.
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

/// The unit as it is where the program of these tests is the installed one.
fn installed(unit: &str, text: &str) -> PathBuf {
    let path = folder("unit-").join(unit);
    fs::write(&path, text.replace(INSTALLED, env!("CARGO_BIN_EXE_lobbyd"))).unwrap();
    path
}

/// What systemd has to say against a unit. It reads the units of this machine as well, and may
/// have to say something about them.
fn complaints(path: &Path) -> Vec<String> {
    let output = debian("systemd-analyze").args(["verify", "--man=no"]).arg(path).output().unwrap();
    let complaints = String::from_utf8(output.stderr).unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    complaints.lines().filter(|line| line.contains(name)).map(str::to_owned).collect()
}

/// Fails if systemd rates the exposure of the unit as more than 1.5, out of 10.
fn rate(path: &Path) {
    printed(
        debian("systemd-analyze")
            .args(["security", "--no-pager", "--offline=true", "--threshold=15"])
            .arg(path),
    );
}

/// The examples of the README that `systemctl edit` takes.
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
fn systemd_has_nothing_to_say_against_the_units() {
    for unit in UNITS {
        let path = installed(unit, &text(unit));
        assert_eq!(complaints(&path), [""; 0]);
        rate(&path);
    }
}

#[test]
fn the_changes_that_the_readme_shows_are_accepted() {
    let examples = drop_ins();
    assert_eq!(examples.len(), 2);
    for example in examples {
        for unit in UNITS {
            let path = installed(unit, &format!("{}\n{example}\n", text(unit)));
            assert_eq!(complaints(&path), [""; 0], "{example}");
            rate(&path);
        }
    }
}

#[test]
fn both_units_have_the_same_bounds() {
    let bounds = UNITS.map(|unit| {
        let text = text(unit);
        let (_, bounds) = text.split_once("# Restrict the service").unwrap();
        bounds.to_owned()
    });
    assert_eq!(bounds[0], bounds[1]);
}

#[test]
fn the_units_run_commands_of_the_program() {
    for (unit, command) in UNITS.into_iter().zip(["worker", "api"]) {
        let text = text(unit);
        assert_eq!(value(&text, "ExecStart"), format!("{INSTALLED} {command}"));
        assert!(run(&Vec::new(), &[command, "--help"]).status.success());
    }
    for example in drop_ins() {
        for start in values(&example, "ExecStart").into_iter().filter(|start| !start.is_empty()) {
            let command = start.strip_prefix(INSTALLED).unwrap().trim();
            assert!(run(&Vec::new(), &[command, "--help"]).status.success(), "{start}");
        }
    }
}

#[test]
fn the_times_of_the_units_fit_those_of_the_program() {
    let config = Config::defaults();
    for unit in UNITS {
        let text = text(unit);
        // The end of the work in flight is followed by that of the connections.
        assert!(
            duration(&text, "TimeoutStopSec") >= config.shutdown.grace + Duration::from_secs(5)
        );
        // The program is heard every second, so that ten in vain are no accident.
        assert!(duration(&text, "WatchdogSec") >= Duration::from_secs(10));
        assert_eq!(value(&text, "RestartPreventExitStatus"), "78");
        assert_eq!(value(&text, "StartLimitIntervalSec"), "0");
    }
}

#[test]
fn the_api_may_hold_as_many_clients_as_it_accepts() {
    let (api, clients) = (text("lobbyd-api.service"), Config::defaults().http.max_connections);
    let files: usize = value(&api, "LimitNOFILE").parse().unwrap();
    assert!(files > clients.get() + 1024, "{files} files for {clients} clients");
}

#[test]
fn both_services_can_run_on_one_machine() {
    let [daemon, api] = UNITS.map(text);
    let change = value(&api, "Environment").strip_prefix("LOBBYD__OPS__LISTEN=").unwrap();
    assert_ne!(change.parse(), Ok(Config::defaults().ops.listen));
    assert!(values(&daemon, "Environment").is_empty());
    // A file of one would belong to a user that the other is not.
    assert_eq!(value(&daemon, "WorkingDirectory"), "%S/lobbyd");
    assert!(values(&api, "StateDirectory").is_empty());
}

/// A credential that is named without a path may be missing, says the manual of systemd: then the
/// unit starts without it.
#[test]
fn each_credential_may_be_missing_and_is_used_if_it_is_there() {
    let credentials = folder("credentials-");
    for (id, secret) in [
        ("database-url", "postgres://lobbyd@credential/lobbyd"),
        ("events-url", "amqp://lobbyd@credential/%2f"),
        ("sip-secret", "marker-secret"),
    ] {
        fs::write(credentials.join(id), secret).unwrap();
    }
    let mut check = program(&Vec::new());
    check.args(["config", "check"]).env("CREDENTIALS_DIRECTORY", &credentials);
    let shown = printed(&mut check);
    for (unit, ids) in [
        ("lobbyd.service", ["database-url", "events-url"].as_slice()),
        ("lobbyd-api.service", &["database-url", "events-url", "sip-secret"]),
    ] {
        let text = text(unit);
        let loaded: Vec<&str> = values(&text, "LoadCredential");
        let expected: Vec<String> = ids.iter().map(|id| format!("{id}:lobbyd.{id}")).collect();
        assert_eq!(loaded, expected);
        for (id, file) in loaded.iter().map(|credential| credential.split_once(':').unwrap()) {
            let line = match id {
                "database-url" => "url = \"postgres://lobbyd@credential/lobbyd\"",
                "events-url" => "url = \"amqp://lobbyd@credential/%2f\"",
                _sip => "shared_secret = \"***\"",
            };
            assert!(shown.contains(line), "no {line} in {shown}");
            assert!(text.contains(&format!("#   /etc/credstore/{file} ")), "{file}");
        }
    }
}
