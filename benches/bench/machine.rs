//! Describes the machine and the software that a run used.

use std::{
    fmt::{self, Display},
    fs,
    path::Path,
    process::Command,
};

use chrono::DateTime;
use serde::Serialize;

use super::{
    clock,
    support::server::{newest_postgres, sandbox},
};

#[derive(Debug, Serialize)]
pub struct Description {
    date: String,
    processor: String,
    cores: usize,
    memory_gib: u64,
    kernel: String,
    file_system: String,
    postgresql: String,
    mariadb: String,
    rabbitmq: String,
    rustc: String,
    commit: String,
}

pub fn description() -> Description {
    let now = DateTime::from_timestamp(clock::second(), 0).unwrap();
    Description {
        date: now.format("%Y-%m-%d").to_string(),
        processor: field("/proc/cpuinfo", "model name"),
        cores: std::thread::available_parallelism().unwrap().get(),
        memory_gib: kibibytes("/proc/meminfo", "MemTotal") / (1024 * 1024),
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().trim().to_owned(),
        file_system: file_system(sandbox()),
        postgresql: version(&newest_postgres().join("postgres")),
        mariadb: version(Path::new("mariadbd")),
        rabbitmq: rabbitmq(),
        rustc: version(Path::new("rustc")),
        commit: printed(Command::new("git").args(["describe", "--always", "--dirty"])),
    }
}

impl Display for Description {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { date, processor, cores, memory_gib, kernel, file_system, .. } = self;
        let Self { postgresql, mariadb, rabbitmq, rustc, commit, .. } = self;
        write!(
            formatter,
            "{date}, commit {commit}; {processor}, {cores} cores, {memory_gib} GiB, Linux {kernel}, \
             {file_system}; PostgreSQL {postgresql}, MariaDB {mariadb}, RabbitMQ {rabbitmq}, rustc \
             {rustc}; servers, lobbyd and the benchmark share the machine"
        )
    }
}

/// The value of a line `name : value`.
fn field(file: &str, name: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    let value = fields.into_iter().find(|(other, _value)| other.trim() == name);
    value.map_or_else(unknown, |(_name, value)| value.trim().to_owned())
}

/// The value of a line `name: value kB`.
pub fn kibibytes(file: &str, name: &str) -> u64 {
    field(file, name).split(' ').next().unwrap().parse().unwrap()
}

/// The type of the file system that has this folder.
fn file_system(folder: &Path) -> String {
    let folder = folder.display().to_string();
    printed(Command::new("df").args(["--output=fstype", &folder]))
        .lines()
        .last()
        .map_or_else(unknown, str::to_owned)
}

/// The version in what the program prints: the first word with a digit and a point.
fn version(program: &Path) -> String {
    let text = printed(Command::new(program).arg("--version"));
    let is_version =
        |word: &&str| word.starts_with(|first: char| first.is_ascii_digit()) && word.contains('.');
    text.split_whitespace().find(is_version).map_or_else(unknown, str::to_owned)
}

/// Its own programs take a second to say their version, but its folder has the version in its name.
fn rabbitmq() -> String {
    let entries = fs::read_dir("/usr/lib/rabbitmq/lib").into_iter().flatten();
    let mut names = entries.map(|entry| entry.unwrap().file_name().display().to_string());
    names
        .find_map(|name| Some(name.strip_prefix("rabbitmq_server-")?.to_owned()))
        .unwrap_or_else(unknown)
}

fn printed(command: &mut Command) -> String {
    match command.output() {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        Ok(_) | Err(_) => unknown(),
    }
}

fn unknown() -> String {
    "unknown".to_owned()
}
