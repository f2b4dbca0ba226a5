//! Programs of other projects: clients of the HTTP API, and checkers of files.
//!
//! `make tools` and `make packages` install them. They run without the environment of the tests.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

use super::server::folder;

/// Bound of a program's run time, in seconds. Each program bounds its own requests and waits; this
/// bound is for the case that they fail.
const LIMIT: &str = "900";

/// Runs a script of tests/tools that uses `nc_py_api`, a client library of Nextcloud.
pub fn talk(script: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = tool("nc-py-api/bin/python");
    command.arg(file("tests/tools").join(script)).args(arguments).envs(environment.iter().copied());
    output(&mut command)
}

/// Runs Schemathesis, which generates requests from the description of an API.
pub fn schemathesis(arguments: &[&str]) -> Output {
    let mut command = tool("schemathesis/bin/schemathesis");
    command.arg("--config-file").arg(file("tests/tools/schemathesis.toml")).args(arguments);
    output(&mut command)
}

/// A file or folder of this repository.
pub fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A program that `make tools` has installed.
pub fn tool(path: &str) -> Command {
    let program = file("target/test-tools").join(path);
    assert!(
        program.exists(),
        "{} is missing; `make tools` installs what the tests run",
        program.display()
    );
    bounded(&program)
}

/// A program of a Debian package that `make packages` has installed.
pub fn debian(program: &str) -> Command {
    bounded(Path::new(program))
}

/// Runs in a new folder, because some programs leave files in it, and without the environment of
/// the tests, which may name a proxy.
fn bounded(program: &Path) -> Command {
    let home = folder("tool-");
    let mut command = Command::new("/usr/bin/timeout");
    command.args(["--kill-after=5", LIMIT]).arg(program).env_clear();
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", &home);
    command.env("PYTHONDONTWRITEBYTECODE", "1").env("PYTHONUTF8", "1").current_dir(home);
    command
}

pub fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Runs a program that must succeed, and returns its output.
pub fn printed(command: &mut Command) -> String {
    let output = output(command);
    let errors = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{command:?}: {}\n{text}{errors}", output.status);
    text
}

/// The documents of a YAML text as JSON.
pub fn yaml(text: &str) -> Vec<Value> {
    let script = "import json, sys, yaml; \
                  print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let document = folder("yaml-").join("document.yaml");
    fs::write(&document, text).unwrap();
    let mut python = tool("deploy/bin/python");
    serde_json::from_str(&printed(python.args(["-c", script]).arg(document))).unwrap()
}
