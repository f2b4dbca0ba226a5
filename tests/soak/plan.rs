//! What is broken when: drawn from the seed before anything starts, so that a seed repeats the plan.

use std::{env, fmt, ops::RangeInclusive, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use crate::support::{database::Kind, proxy::Mode};

/// Length of the short form, in seconds.
const SHORT: u64 = 30;

/// Processes: the first ones are workers, the others APIs.
pub const WORKERS: usize = 3;
pub const PROCESSES: usize = 5;

/// The process whose wall clock is stepped.
pub const STEPPED: usize = 2;

#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub seconds: u64,
    pub seed: u64,
    pub kind: Kind,
}

impl Options {
    pub fn from_environment() -> Self {
        let value = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let number = |name: &str| {
            value(name).map(|value| {
                value.parse().unwrap_or_else(|_| panic!("{name}: {value} is not a number"))
            })
        };
        let kind = match value("LOBBYD_SOAK_DATABASE").as_deref() {
            None | Some("postgres") => Kind::Postgres,
            Some("mariadb") => Kind::MariaDb,
            Some(other) => panic!("LOBBYD_SOAK_DATABASE: {other} is not postgres or mariadb"),
        };
        Self {
            seconds: number("LOBBYD_SOAK_SECONDS").unwrap_or(SHORT),
            seed: number("LOBBYD_SOAK_SEED").unwrap_or_else(|| rand::random_range(1..1_000_000)),
            kind,
        }
    }

    pub fn length(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// Whether every second counts.
    pub fn is_short(&self) -> bool {
        self.seconds < 2 * SHORT
    }

    pub fn database(&self) -> &'static str {
        match self.kind {
            Kind::MariaDb => "mariadb",
            Kind::Postgres | Kind::Sqlite => "postgres",
        }
    }
}

impl fmt::Display for Options {
    /// The command that repeats it.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, seed, database) = (self.seconds, self.seed, self.database());
        write!(formatter, "make soak SECONDS={seconds} SEED={seed} DATABASE={database}")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Server {
    Database,
    Broker,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL, and a new process after some time.
    Kill {
        process: usize,
        down: Duration,
    },
    /// SIGTERM, and a new process.
    Terminate {
        process: usize,
    },
    /// SIGSTOP and SIGCONT.
    Pause {
        process: usize,
        lasts: Duration,
    },
    KillServer {
        server: Server,
        down: Duration,
    },
    /// Between a server and one process, or all of them.
    Network {
        server: Server,
        process: Option<usize>,
        mode: Mode,
        lasts: Duration,
    },
    MemoryAlarm {
        lasts: Duration,
    },
    ClockStep {
        offset: &'static str,
        lasts: Duration,
    },
}

/// A fault, and when it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    pub at: Duration,
    pub fault: Fault,
}

/// Milliseconds between two faults of a kind.
type Gaps = RangeInclusive<u64>;

const KILLS: Gaps = 900..=3_500;
const SERVER_KILLS: Gaps = 8_000..=18_000;
const TERMINATIONS: Gaps = 10_000..=30_000;
const PAUSES: Gaps = 12_000..=25_000;
const NETWORK: Gaps = 3_000..=9_000;
const ALARMS: Gaps = 45_000..=90_000;
const CLOCK_STEPS: Gaps = 10_000..=25_000;

/// Draws the faults of a run. Each kind occurs in a short one, too.
pub fn faults(options: &Options) -> Vec<Planned> {
    let mut rng = StdRng::seed_from_u64(options.seed);
    let end = options.seconds * 1000;
    let mut planned = Vec::new();
    let mut draw = |gaps: Gaps, fault: fn(&mut StdRng) -> Fault| {
        let mut at = rng.random_range(2_000..=(*gaps.start()).min(end / 2).max(2_001));
        while at < end {
            planned.push(Planned { at: Duration::from_millis(at), fault: fault(&mut rng) });
            at += rng.random_range(gaps.clone());
        }
    };
    draw(KILLS, |rng| Fault::Kill { process: process(rng), down: millis(rng, 0..=1_500) });
    draw(SERVER_KILLS, |rng| {
        let server = if rng.random_ratio(1, 4) { Server::Broker } else { Server::Database };
        Fault::KillServer { server, down: millis(rng, 0..=3_000) }
    });
    draw(TERMINATIONS, |rng| Fault::Terminate { process: process(rng) });
    // Longer than a claim on events.
    draw(PAUSES, |rng| Fault::Pause {
        process: rng.random_range(0..WORKERS),
        lasts: millis(rng, 7_000..=12_000),
    });
    draw(NETWORK, network);
    draw(ALARMS, |rng| Fault::MemoryAlarm { lasts: millis(rng, 3_000..=10_000) });
    draw(CLOCK_STEPS, |rng| Fault::ClockStep {
        offset: ["+1h", "-1h", "-10m", "+1d", "+90s", "-2d"].choose(rng).unwrap(),
        lasts: millis(rng, 2_000..=10_000),
    });
    planned.sort_by_key(|planned| planned.at);
    planned
}

/// Workers are three times as often hit as APIs.
fn process(rng: &mut StdRng) -> usize {
    if rng.random_ratio(3, 4) {
        rng.random_range(0..WORKERS)
    } else {
        rng.random_range(WORKERS..PROCESSES)
    }
}

fn network(rng: &mut StdRng) -> Fault {
    let server = if rng.random_ratio(1, 2) { Server::Broker } else { Server::Database };
    let process = rng.random_ratio(2, 3).then(|| rng.random_range(0..PROCESSES));
    let (mode, lasts) = match rng.random_range(0..7) {
        0 => (Mode::Freeze, millis(rng, 500..=12_000)),
        1 => (Mode::FreezeResponses, millis(rng, 500..=8_000)),
        2 => (Mode::FreezeRequests, millis(rng, 500..=8_000)),
        3 => (Mode::Slow, millis(rng, 1_000..=4_000)),
        4 => (Mode::Cut, millis(rng, 100..=4_000)),
        _ => (Mode::Reset, millis(rng, 100..=500)),
    };
    Fault::Network { server, process, mode, lasts }
}

fn millis(rng: &mut StdRng, range: RangeInclusive<u64>) -> Duration {
    Duration::from_millis(rng.random_range(range))
}

#[test]
fn a_seed_repeats_the_plan() {
    let plan = |seed| faults(&Options { seconds: 300, seed, kind: Kind::Postgres });
    assert_eq!(plan(7), plan(7));
    assert_ne!(plan(7), plan(8));
}

#[test]
fn a_short_plan_has_every_kind_of_fault() {
    for seed in 1..20 {
        let plan = faults(&Options { seconds: SHORT, seed, kind: Kind::Postgres });
        let kinds: std::collections::HashSet<_> =
            plan.iter().map(|planned| std::mem::discriminant(&planned.fault)).collect();
        assert_eq!(kinds.len(), 7, "seed {seed}");
    }
}
