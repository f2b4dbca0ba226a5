//! What the simulated processes share: the database, the broker, the clock, and what goes wrong.

mod bus;
mod checks;
mod faults;
mod others;
mod outbox;
mod store;
mod tables;

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use lobbyd::bus::MemoryBus;
use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    sync::broadcast,
    time::{Instant, sleep},
};

pub use self::{
    bus::SimulatedBus,
    faults::{Faults, Server},
    store::SimulatedStore,
    tables::Obstacle,
};
use self::{checks::History, tables::Tables};

/// When a world begins, in Unix seconds: 2026-01-01T00:00:00Z.
pub const BEGIN: i64 = 1_767_225_600;

/// A world in which a seed decides everything that is left to chance.
pub struct World {
    pub state: Mutex<State>,
    /// Holds the queue of lobby changes.
    pub broker: MemoryBus,
    /// Tells all connections to the broker that they are lost. (A watch would wake them in a random
    /// order.)
    pub cuts: broadcast::Sender<()>,
}

pub struct State {
    rng: StdRng,
    pub clock: Clock,
    pub tables: Tables,
    pub faults: Faults,
    pub history: History,
    /// A fault of the program that the checks have to find.
    pub bug: Option<Bug>,
}

/// Bugs of a program, at least one for each promise that is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// Rooms are reset before their timer.
    Early,
    /// A reset leaves the timer in its place.
    Twice,
    /// A reset is not announced.
    Lost,
    /// Older changes override newer ones.
    StaleWins,
    /// Changes that do not say when they were made are taken for old ones.
    NewLoses,
    /// The updates of other processes are not received.
    IgnoresUpdates,
    /// A repeated event is applied again.
    AppliesTwice,
    /// A change is acknowledged before its effect is durable.
    AcknowledgesFirst,
    /// An event that has to wait is acknowledged, and stored nowhere.
    LosesWaiting,
    /// An event counts as published before its confirm.
    MarksFirst,
    /// A room that is refused keeps the others of its batch closed.
    PoisonStopsNeighbours,
    /// An event of a locked room keeps the others of its set waiting.
    WaitsForLocks,
    /// A room that is late is not opened any more.
    ForgetsLateRooms,
    /// Rooms that are due are not reported.
    HidesRooms,
    /// Events that are not published are not reported.
    HidesEvents,
}

impl Bug {
    /// All of them, with the promise that each breaks.
    pub const ALL: [(Self, &str); 15] = [
        (Self::Early, "P1"),
        (Self::Twice, "P2"),
        (Self::Lost, "P3"),
        (Self::MarksFirst, "P3"),
        (Self::StaleWins, "P4"),
        (Self::NewLoses, "P4"),
        (Self::AppliesTwice, "P5"),
        (Self::AcknowledgesFirst, "P6"),
        (Self::LosesWaiting, "P6"),
        (Self::ForgetsLateRooms, "P7"),
        (Self::PoisonStopsNeighbours, "P9"),
        (Self::WaitsForLocks, "P9"),
        (Self::IgnoresUpdates, "P9"),
        (Self::HidesRooms, "P10"),
        (Self::HidesEvents, "P10"),
    ];
}

impl World {
    /// A world in which nothing goes wrong, until somebody sets its faults.
    pub fn new(seed: u64, bug: Option<Bug>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                rng: StdRng::seed_from_u64(seed),
                clock: Clock::new(),
                tables: Tables::default(),
                faults: Faults::default(),
                history: History::default(),
                bug,
            }),
            broker: MemoryBus::new(),
            cuts: broadcast::Sender::new(1),
        })
    }

    /// Lets a part of a request take its time.
    async fn pass_time(&self) {
        let latency = self.state.lock().latency();
        if !latency.is_zero() {
            sleep(latency).await;
        }
    }

    /// Ends all connections to the broker.
    pub fn disconnect(&self) {
        // There may be none.
        self.cuts.send(()).ok();
    }
}

impl State {
    /// Whether something of this probability occurs, in thousandths.
    pub fn chance(&mut self, thousandths: u32) -> bool {
        self.rng.random_range(0..1000) < thousandths
    }

    /// How long a part of a request takes.
    fn latency(&mut self) -> Duration {
        let longest = self.faults.latency;
        if longest.is_zero() { longest } else { self.duration(longest) }
    }

    /// Whether the confirm of a message is lost, and whether the message is stored.
    fn draw_confirm(&mut self) -> (bool, bool) {
        let is_lost = self.chance(self.faults.confirm_lost);
        (is_lost, !is_lost || self.chance(500))
    }

    /// A time up to `longest`, in whole milliseconds.
    pub fn duration(&mut self, longest: Duration) -> Duration {
        let longest = u64::try_from(longest.as_millis()).unwrap();
        Duration::from_millis(self.rng.random_range(0..=longest))
    }
}

/// The database's clock: the time of the runtime, and steps.
pub struct Clock {
    started: Instant,
    /// When it was stepped, and how far it is ahead since.
    steps: Vec<(Instant, TimeDelta)>,
}

impl Clock {
    fn new() -> Self {
        let started = Instant::now();
        Self { started, steps: vec![(started, TimeDelta::zero())] }
    }

    pub fn now(&self) -> DateTime<Utc> {
        self.shown(Instant::now(), self.ahead())
    }

    pub fn step(&mut self, by: TimeDelta) {
        let ahead = self.ahead() + by;
        self.steps.push((Instant::now(), ahead));
    }

    /// When it was last stepped.
    pub fn stepped_at(&self) -> Option<Instant> {
        self.steps.get(1..).and_then(<[_]>::last).map(|(time, _ahead)| *time)
    }

    /// The latest time that it has shown since then.
    pub fn latest_since(&self, since: Instant) -> DateTime<Utc> {
        let ends = self.steps.iter().skip(1).map(|(time, _ahead)| *time).chain([Instant::now()]);
        let spans = self.steps.iter().zip(ends).filter(|(_step, end)| *end >= since);
        spans.map(|((_begin, ahead), end)| self.shown(end, *ahead)).max().unwrap()
    }

    fn ahead(&self) -> TimeDelta {
        self.steps.last().unwrap().1
    }

    fn shown(&self, time: Instant, ahead: TimeDelta) -> DateTime<Utc> {
        (DateTime::from_timestamp(BEGIN, 0).unwrap() + (time - self.started) + ahead)
            .trunc_subsecs(3)
    }
}
