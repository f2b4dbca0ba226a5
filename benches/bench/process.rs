//! Memory and processor time of processes, from /proc.

use std::{collections::HashMap, fs, path::Path};

use super::{machine::kibibytes, site::Site, support::daemon::Daemon};

/// Clock ticks per second in /proc/PID/stat.
const TICKS: f64 = 100.0;

/// Resident memory in MiB; of pages that several processes share, the second figure has a part.
pub fn memory(daemon: &Daemon) -> (f64, f64) {
    let file = format!("/proc/{}/smaps_rollup", daemon.process());
    let mebibytes = |name| kibibytes(&file, name) as f64 / 1024.0;
    (mebibytes("Rss"), mebibytes("Pss"))
}

/// Processor seconds of the threads of a process, to the nanosecond.
pub fn processor_time(daemon: &Daemon) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.process())).unwrap();
    let nanoseconds = tasks.filter_map(|task| {
        let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<f64>().ok()
    });
    nanoseconds.sum::<f64>() / 1e9
}

/// Processor seconds of a worker and of its servers.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    pub worker: f64,
    pub database: f64,
    pub broker: f64,
}

/// A process in /proc/PID/stat.
struct Stat {
    name: String,
    parent: u32,
    seconds: f64,
    /// With those of its children that have ended.
    with_children: f64,
}

impl Usage {
    /// What a site with PostgreSQL and RabbitMQ has used so far.
    pub async fn now(site: &Site) -> Self {
        let backend = site.database().number("SELECT pg_backend_pid()::bigint").await;
        let processes = processes();
        let postmaster = processes[&u32::try_from(backend).unwrap()].parent;
        let children = processes.values().filter(|process| process.parent == postmaster);
        let database = processes[&postmaster].with_children
            + children.map(|process| process.seconds).sum::<f64>();
        let brokers = processes.values().filter(|process| process.name == "beam.smp");
        Self {
            worker: processor_time(&site.worker),
            database,
            broker: brokers.map(|process| process.seconds).sum(),
        }
    }

    pub fn since(self, before: Self) -> Self {
        Self {
            worker: self.worker - before.worker,
            database: self.database - before.database,
            broker: self.broker - before.broker,
        }
    }
}

fn processes() -> HashMap<u32, Stat> {
    let folders = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    folders.filter_map(|folder| Some((id(&folder)?, stat(&folder)?))).collect()
}

fn id(folder: &Path) -> Option<u32> {
    folder.file_name()?.to_str()?.parse().ok()
}

fn stat(folder: &Path) -> Option<Stat> {
    let text = fs::read_to_string(folder.join("stat")).ok()?;
    let (start, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let seconds = |numbers: std::ops::Range<usize>| {
        fields[numbers].iter().map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / TICKS
    };
    Some(Stat {
        name: start.split_once('(')?.1.to_owned(),
        parent: fields[1].parse().ok()?,
        seconds: seconds(11..13),
        with_children: seconds(11..15),
    })
}
