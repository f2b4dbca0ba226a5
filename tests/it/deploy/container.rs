//! The image and the trial with compose. No container engine runs here: the tests check that the
//! files exist, and that the program accepts its commands and settings.

use std::{fs, process::Command, time::Duration};

use lobbyd::config::Config;
use serde_json::{Value, json};

use crate::support::{
    daemon::{Settings, run},
    tools::{file, printed, tool, yaml},
};

const DOCKERFILE: &str = "deploy/container/Dockerfile";
const COMPOSE: &str = "deploy/container/compose.yaml";

/// The instructions of the Dockerfile, one per line.
fn instructions() -> Vec<String> {
    let text = fs::read_to_string(file(DOCKERFILE)).unwrap().replace("\\\n", " ");
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.filter(|line| !line.starts_with('#')).map(ToOwned::to_owned).collect()
}

fn instruction(name: &str) -> String {
    let found = instructions().into_iter().rfind(|line| line.starts_with(&format!("{name} ")));
    found.unwrap_or_else(|| panic!("no {name}")).split_off(name.len() + 1)
}

/// The words of an instruction in exec form.
fn words(exec: &str) -> Vec<String> {
    serde_json::from_str(&exec[exec.find('[').unwrap()..]).unwrap()
}

fn compose() -> Value {
    yaml(&fs::read_to_string(file(COMPOSE)).unwrap()).remove(0)
}

/// The program accepts these arguments.
fn assert_command(arguments: &[String]) {
    let mut asked: Vec<&str> = arguments.iter().map(String::as_str).collect();
    asked.push("--help");
    let output = run(&Settings::new(), &asked);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

fn assert_configured(settings: &Settings) {
    let output = run(settings, &["config", "check"]);
    assert!(output.status.success(), "{settings:?}: {output:?}");
}

#[test]
fn linters_accept_dockerfile_and_compose_file() {
    printed(tool("deploy/bin/hadolint").arg(file(DOCKERFILE)));
    let mut check: Command = tool("deploy/bin/check-jsonschema");
    check.args(["--builtin-schema", "vendor.compose-spec"]).arg(file(COMPOSE));
    printed(&mut check);
}

#[test]
fn the_build_context_contains_exactly_the_copied_files() {
    let ignored = fs::read_to_string(file(DOCKERFILE).with_extension("dockerignore")).unwrap();
    let mut sent: Vec<&str> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let mut copied: Vec<String> = Vec::new();
    for line in instructions() {
        if let Some(rest) = line.strip_prefix("COPY ").filter(|rest| !rest.starts_with("--from")) {
            let mut paths: Vec<String> = rest.split_whitespace().map(ToOwned::to_owned).collect();
            paths.pop();
            copied.extend(paths);
        }
    }
    for path in &copied {
        assert!(file(path).exists(), "{path}");
    }
    sent.sort_unstable();
    copied.sort_unstable();
    assert_eq!(copied, sent);
    // Cargo.toml names the benchmarks, so the build needs them.
    let manifest = fs::read_to_string(file("Cargo.toml")).unwrap();
    assert_eq!(manifest.contains("[[bench]]"), copied.contains(&"benches".to_owned()));
}

#[test]
fn the_image_does_not_run_the_program_as_root() {
    let program = "/usr/local/bin/lobbyd";
    assert_eq!(words(&instruction("ENTRYPOINT")), [program]);
    assert!(
        instructions()
            .iter()
            .any(|line| line.starts_with("COPY --from") && line.ends_with(program))
    );
    assert_command(&words(&instruction("CMD")));
    let health = words(&instruction("HEALTHCHECK"));
    assert_eq!(health[0], program);
    assert_eq!(health[1..], ["health", "--live"]);
    assert_command(&health[1..]);
    assert_ne!(instruction("USER").parse::<u32>().unwrap(), 0);
    let environment = instruction("ENV");
    let pairs = environment.split_whitespace().filter_map(|pair| pair.split_once('='));
    let settings: Settings = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    assert_eq!(settings.len(), 5);
    assert_configured(&settings);
    let manifest = fs::read_to_string(file("Cargo.toml")).unwrap();
    let needed = manifest.split_once("rust-version = \"").unwrap().1.split('"').next().unwrap();
    let from = instructions().remove(0);
    let used = from.split_once("rust:").unwrap().1.split('-').next().unwrap();
    let minor = |version: &str| version.split('.').nth(1).unwrap().parse::<u32>().unwrap();
    assert!(minor(used) >= minor(needed), "Rust {used} is older than {needed}");
}

#[test]
fn the_trial_uses_commands_settings_and_services_that_exist() {
    let compose = compose();
    for (service, command) in [("worker", "worker"), ("api", "api")] {
        let service = &compose["services"][service];
        let arguments: Vec<String> = serde_json::from_value(service["command"].clone()).unwrap();
        assert_eq!(arguments, [command]);
        assert_command(&arguments);
        let environment = service["environment"].as_object().unwrap();
        let settings: Settings = environment
            .iter()
            .map(|(key, value)| (key.clone(), value.as_str().unwrap().to_owned()))
            .collect();
        assert_configured(&settings);
        let health: Vec<String> =
            serde_json::from_value(service["healthcheck"]["test"].clone()).unwrap();
        assert_eq!(health[..2], ["CMD", "/usr/local/bin/lobbyd"]);
        assert_command(&health[2..]);
        let grace = service["stop_grace_period"].as_str().unwrap().trim_end_matches('s');
        let grace = Duration::from_secs(grace.parse().unwrap());
        assert!(grace > Config::defaults().shutdown.grace);
        let context = file("deploy/container").join(service["build"]["context"].as_str().unwrap());
        assert!(context.join(service["build"]["dockerfile"].as_str().unwrap()).exists());
        for (needed, how) in service["depends_on"].as_object().unwrap() {
            assert!(compose["services"][needed]["healthcheck"].is_object(), "{needed}");
            assert_eq!(how["condition"], "service_healthy", "{needed}");
            // The URLs contain its name.
            let urls = service["environment"].to_string();
            assert!(urls.contains(&format!("lobbyd:trial@{needed}")), "{needed}: {urls}");
        }
        assert_eq!(service["read_only"], true);
        assert_eq!(service["cap_drop"], json!(["ALL"]));
        assert_eq!(service["security_opt"], json!(["no-new-privileges:true"]));
        for port in service["ports"].as_array().into_iter().flatten() {
            assert!(port.as_str().unwrap().starts_with("127.0.0.1:"), "{port}");
        }
    }
}
