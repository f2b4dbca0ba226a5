//! Clients that others wrote in Python, out of the virtual environments that `make test` installs.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use super::server::folder;

/// Bound of a program's time in seconds. Each bounds its own requests and waits; this one is for the
/// case that they fail.
const LIMIT: &str = "300";

/// Runs a script of tests/clients that uses `nc_py_api`, a client library of Nextcloud.
pub fn run(script: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = program("nc-py-api/bin/python");
    command.arg(clients().join(script)).args(arguments).envs(environment.iter().copied());
    output(&mut command)
}

/// Runs Schemathesis, which makes requests up from the description of an API.
pub fn schemathesis(arguments: &[&str]) -> Output {
    let mut command = program("schemathesis/bin/schemathesis");
    command.arg("--config-file").arg(clients().join("schemathesis.toml")).args(arguments);
    output(&mut command)
}

fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// An installed program, in a new folder, since they leave files where they run. It does not know
/// the environment of the tests: that may name a proxy.
fn program(path: &str) -> Command {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-clients").join(path);
    assert!(
        program.exists(),
        "{} is missing; `make test` installs the Python clients that the tests need",
        program.display()
    );
    let home = folder("python-");
    let mut command = Command::new("/usr/bin/timeout");
    command.args(["--kill-after=5", LIMIT]).arg(program).env_clear();
    command.env("HOME", &home).env("PYTHONDONTWRITEBYTECODE", "1").env("PYTHONUTF8", "1");
    command.current_dir(home);
    command
}

fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}
