//! What to measure.

use std::time::Duration;

use clap::{Parser, ValueEnum};

/// Measures lobbyd, and beside it what database, broker and HTTP stack can do.
#[derive(Debug, Parser)]
pub struct Options {
    /// Fewer runs and shorter waits, within three minutes
    #[arg(long)]
    pub short: bool,

    /// Herds of the day
    #[arg(long, default_value_t = 48)]
    pub herds: u32,

    /// What to measure; everything by default
    sections: Vec<Section>,

    /// Answers each request on this port with a constant 304, which is a limit
    #[arg(long, hide = true)]
    pub serve_constant: Option<u16>,

    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Section {
    /// 20,000 timers due in one second, on PostgreSQL and RabbitMQ
    Herd,
    /// 100,000 timers due in one second, on PostgreSQL and RabbitMQ
    Crowd,
    /// Timers due one at a time, with one and with two workers
    Single,
    /// Timers due one at a time, as clients of Talk's signaling server learn of them
    Signaling,
    /// Lobby changes from RabbitMQ
    Consume,
    /// Memory, start-up and idle processor time of a worker
    Resources,
    /// 20,000 timers due in one second, on MariaDB and RabbitMQ
    Mariadb,
    /// 20,000 timers due in one second, on SQLite and the in-process bus
    Sqlite,
    /// Polls, and requests that are held until their room changes
    Api,
    /// Event streams and held requests of one room, told of its opening; not in the short form
    Streams,
    /// Timers while clients of the API do their worst; not in the short form
    Attacks,
    /// 48 herds of 20,000 timers, one after the other; not in the short form
    Day,
    /// What the broker confirms, by the type of the subscriber's queue; not in the short form
    Queues,
    /// graphile-worker and pg-boss beside lobbyd; only if it is named, see `make bench-peers`
    Peers,
}

impl Options {
    pub fn sections(&self) -> Vec<Section> {
        if !self.sections.is_empty() {
            return self.sections.clone();
        }
        let all = Section::value_variants().iter().copied();
        let full_only = [Section::Streams, Section::Attacks, Section::Day, Section::Queues];
        all.filter(|section| *section != Section::Peers)
            .filter(|section| !(self.short && full_only.contains(section)))
            .collect()
    }

    /// How often a figure is measured. The table shows the median.
    pub fn runs(&self) -> usize {
        if self.short { 3 } else { 5 }
    }

    /// How often a figure is measured that takes half a minute.
    pub fn long_runs(&self) -> usize {
        if self.short { 1 } else { 5 }
    }

    /// Single timers in a row with the same workers, and how often each number of workers has some.
    pub fn block(&self) -> u32 {
        if self.short { 6 } else { 25 }
    }

    pub fn blocks(&self) -> usize {
        if self.short { 2 } else { 4 }
    }

    /// Single timers that clients of a signaling server are told of.
    pub fn told_timers(&self) -> u32 {
        if self.short { 30 } else { 100 }
    }

    /// Lobby changes that wait in the queue.
    pub fn changes(&self) -> u32 {
        if self.short { 10_000 } else { 20_000 }
    }

    /// How long polls are sent in a run.
    pub fn polling_time(&self) -> Duration {
        Duration::from_millis(if self.short { 500 } else { 2_000 })
    }

    /// How long each attack lasts, in seconds.
    pub fn attacked_seconds(&self) -> u32 {
        if self.short { 6 } else { 20 }
    }

    pub fn idle_time(&self) -> Duration {
        Duration::from_secs(if self.short { 10 } else { 30 })
    }
}

impl std::fmt::Display for Section {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.to_possible_value().unwrap().get_name())
    }
}
