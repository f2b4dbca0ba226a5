//! What the clients have asked for, and what was confirmed to them.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::Mutex,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use crate::{
    check::history::{DeadLetter, Route, Setting},
    support::database::Database,
};

/// Half the time in which a change races with the timer, in milliseconds.
const SHORTLY: i64 = 100;

/// How often the time of the database is read. What took least is the most exact.
const READINGS: usize = 10;

/// The time of the database, without asking it: both are on one machine.
pub struct Clock {
    start: Instant,
    started_at: i64,
}

impl Clock {
    /// Reads the time of the database.
    pub async fn read(database: &Database) -> Self {
        let mut best: Option<(Duration, Self)> = None;
        for _ in 0..READINGS {
            let start = Instant::now();
            let clock = Self { start, started_at: database.now_millis().await };
            let took = start.elapsed();
            if best.as_ref().is_none_or(|(best, _clock)| took < *best) {
                best = Some((took, clock));
            }
        }
        best.unwrap().1
    }

    /// How many milliseconds another reading is ahead of this one.
    fn step(&self, other: &Self) -> i64 {
        other.started_at - self.at(other.start)
    }

    /// Milliseconds since 1970.
    pub fn now(&self) -> i64 {
        self.at(Instant::now())
    }

    fn at(&self, instant: Instant) -> i64 {
        self.started_at + i64::try_from((instant - self.start).as_millis()).unwrap()
    }
}

pub struct Notes {
    clock: Clock,
    settings: Mutex<Vec<Setting>>,
    dead_letters: Mutex<Vec<DeadLetter>>,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    wrong: Mutex<Vec<String>>,
}

/// The settings that one request has asked for.
pub struct Asked(Range<usize>);

impl Asked {
    /// Their number in the change log.
    pub fn op(&self) -> usize {
        self.0.start
    }
}

impl Notes {
    pub fn new(clock: Clock) -> Self {
        let (settings, dead_letters, counts, wrong) = Default::default();
        Self { clock, settings, dead_letters, counts, wrong }
    }

    pub fn now(&self) -> i64 {
        self.clock.now()
    }

    /// How far the clocks of the database and of the clients have moved apart, in milliseconds.
    pub async fn clock_step(&self, database: &Database) -> i64 {
        self.clock.step(&Clock::read(database).await)
    }

    /// Waits until shortly before a time, in milliseconds since 1970.
    pub async fn until(&self, time: i64) {
        let left = u64::try_from(time - SHORTLY - self.now()).unwrap_or_default();
        sleep(Duration::from_millis(left)).await;
    }

    /// Notes a setting of some rooms before it is sent.
    pub fn ask(&self, tokens: &[&str], route: Route, state: i64, timer: Option<i64>) -> Asked {
        let mut settings = self.settings.lock().unwrap();
        let (op, asked_at) = (settings.len(), self.now());
        settings.extend(tokens.iter().map(|token| Setting {
            op,
            token: (*token).to_owned(),
            route,
            state,
            timer,
            asked_at,
            confirmed_at: None,
        }));
        Asked(op..settings.len())
    }

    /// A setting without answer stays unknown: it may have been made or not.
    pub fn confirm(&self, asked: &Asked) {
        let now = self.now();
        for setting in &mut self.settings.lock().unwrap()[asked.0.clone()] {
            setting.confirmed_at = Some(now);
        }
    }

    /// Notes a response that no client should get.
    pub fn add_wrong(&self, wrong: String) {
        self.wrong.lock().unwrap().push(wrong);
    }

    pub fn wrong(&self) -> Vec<String> {
        self.wrong.lock().unwrap().clone()
    }

    /// Notes a message that belongs into the dead-letter queue, or may end there.
    pub fn expect_dead_letter(&self, dead_letter: DeadLetter) {
        self.dead_letters.lock().unwrap().push(dead_letter);
    }

    pub fn count(&self, what: &'static str, number: u64) {
        *self.counts.lock().unwrap().entry(what).or_default() += number;
    }

    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.counts.lock().unwrap().clone()
    }

    pub fn settings(&self) -> Vec<Setting> {
        self.settings.lock().unwrap().clone()
    }

    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        self.dead_letters.lock().unwrap().clone()
    }
}
