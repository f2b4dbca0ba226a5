//! What happens in a simulated world, and when: the seed decides it.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use lobbyd::{
    bus::Message,
    domain::{LOBBY_CHANGED, Lobby, LobbyState, RoomToken},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use uuid::Uuid;

use crate::{
    process::{GRACE, Role},
    world::{BEGIN, Faults, Obstacle, Server},
};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Everything: servers, answers, processes, the clock, single rooms.
    Everything,
    /// Single rooms and events only. Nothing may happen to the others.
    SingleRooms,
}

pub enum Step {
    Publish(Message),
    /// Another program writes the row of a room.
    Write(RoomToken, Lobby),
    /// Another program creates a room.
    Create(RoomToken),
    Hinder(RoomToken, Option<Obstacle>),
    RefuseEvents(RoomToken),
    Fail(Faults),
    Disconnect,
    MoveClock(TimeDelta),
    Kill(usize),
    Terminate(usize),
    Start(usize),
    Pause(usize, bool),
}

pub struct Scenario {
    pub trouble: Trouble,
    pub roles: Vec<Role>,
    /// Rooms that exist from the beginning.
    pub rooms: Vec<RoomToken>,
    /// Of these, those that something is wrong with.
    pub poisoned: Vec<RoomToken>,
    /// In their order.
    pub steps: Vec<(Duration, Step)>,
    /// When everything works again.
    pub healed_at: Duration,
}

const ROOMS: usize = 6;

/// A room that is created after its first event.
const CREATED: &str = "created";

/// A room that never exists.
const UNKNOWN: &str = "unknown";

struct Builder {
    rng: StdRng,
    steps: Vec<(Duration, Step)>,
    end: Duration,
    messages: u128,
}

impl Scenario {
    pub fn of(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x5eed);
        let trouble = if rng.random_bool(0.7) { Trouble::Everything } else { Trouble::SingleRooms };
        let end = Duration::from_secs(rng.random_range(8..20));
        let mut builder = Builder { rng, steps: Vec::new(), end, messages: 0 };
        let workers = builder.rng.random_range(1..=3);
        let roles: Vec<Role> =
            std::iter::repeat_n(Role::Worker, workers).chain([Role::Api]).collect();
        let rooms: Vec<RoomToken> = (0..ROOMS).map(|n| token(&format!("room{n}"))).collect();
        for (number, room) in rooms.iter().enumerate() {
            builder.use_room(room, number % 3);
        }
        builder.use_strange_rooms();
        let mut poisoned = Vec::new();
        match trouble {
            Trouble::Everything => {
                builder.break_servers();
                builder.break_processes(roles.len());
                builder.hinder_for_a_while(&rooms);
            }
            Trouble::SingleRooms => {
                let quiet = builder.quiet();
                builder.steps.push((Duration::ZERO, Step::Fail(quiet)));
                poisoned = builder.poison(&rooms);
            }
        }
        let mut steps = builder.steps;
        steps.sort_by_key(|(time, _step)| *time);
        Self { trouble, roles, rooms, poisoned, steps, healed_at: end }
    }
}

fn token(text: &str) -> RoomToken {
    RoomToken::parse(text).unwrap()
}

/// Some seconds after the beginning.
fn second(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(BEGIN + seconds, 0).unwrap()
}

fn closed_until(seconds: i64) -> Lobby {
    Lobby { state: LobbyState::NonModerators, timer: Some(second(seconds)) }
}

impl Builder {
    fn time(&mut self) -> Duration {
        self.up_to(self.end)
    }

    fn up_to(&mut self, longest: Duration) -> Duration {
        Duration::from_millis(self.rng.random_range(0..u64::try_from(longest.as_millis()).unwrap()))
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.rng.random_range(0..choices.len())]
    }

    /// A lobby that is set at `time`, with a timer for the most part.
    fn lobby(&mut self, time: Duration) -> Lobby {
        if self.chance(15) {
            return Lobby::OPEN;
        }
        if self.chance(10) {
            return Lobby { state: LobbyState::NonModerators, timer: None };
        }
        let begin = i64::try_from(time.as_secs()).unwrap();
        let delay = if self.chance(30) { 2 } else { self.rng.random_range(-2..10) };
        closed_until(begin + delay)
    }

    /// Changes of a room: by events with a version, by events without, or by SQL.
    fn use_room(&mut self, room: &RoomToken, kind: usize) {
        let mut times: Vec<Duration> =
            (0..self.rng.random_range(1..5)).map(|_| self.time()).collect();
        times.sort();
        let mut earliest = 0;
        for (number, time) in (0..).zip(times) {
            let mut lobby = self.lobby(time);
            // No two timers of a room are the same, so that each setting is known by its timer.
            lobby.timer = lobby.timer.map(|timer| timer.max(second(earliest)));
            earliest = lobby.timer.map_or(earliest, |timer| timer.timestamp() - BEGIN + 1);
            match kind {
                0 => self.send(room, time, lobby, Some(number)),
                1 if lobby.timer.is_some() => self.send(room, time, lobby, None),
                1 => {}
                _other => self.steps.push((time, Step::Write(room.clone(), lobby))),
            }
        }
    }

    /// Sends a change: late, twice, or never.
    fn send(&mut self, room: &RoomToken, time: Duration, lobby: Lobby, number: Option<i64>) {
        let millis = i64::try_from(time.as_millis()).unwrap();
        let version = number.map(|number| BEGIN * 1000 + millis + 10 * number);
        let message = self.message(&json!({
            "token": room.as_str(),
            "state": lobby.state.number(),
            "timer": lobby.timer.map(|timer| timer.timestamp()),
            "version": version,
        }));
        if self.chance(5) {
            return;
        }
        let delay =
            if self.chance(30) { self.up_to(Duration::from_secs(3)) } else { Duration::ZERO };
        self.steps.push((time + delay, Step::Publish(message.clone())));
        while self.chance(25) {
            let again = time + delay + self.up_to(Duration::from_secs(6));
            self.steps.push((again, Step::Publish(message.clone())));
        }
    }

    fn message(&mut self, data: &serde_json::Value) -> Message {
        let event = json!({
            "specversion": "1.0", "id": "1", "source": "simulator", "type": LOBBY_CHANGED, "data": data,
        });
        self.raw(event.to_string())
    }

    fn raw(&mut self, body: String) -> Message {
        self.messages += 1;
        Message {
            id: Uuid::from_u128(u128::MAX - self.messages).into(),
            event_type: LOBBY_CHANGED.to_owned(),
            routing_key: "lobby.changed".to_owned(),
            body: body.into_bytes(),
            trace: None,
        }
    }

    fn use_strange_rooms(&mut self) {
        let time = self.time();
        let lobby = closed_until(i64::try_from(time.as_secs()).unwrap() + 5);
        self.send(&token(CREATED), time, lobby, Some(0));
        let created_at = time + self.up_to(GRACE / 2);
        self.steps.push((created_at, Step::Create(token(CREATED))));
        let time = self.time();
        self.send(&token(UNKNOWN), time, lobby, Some(0));
        for number in 0..self.rng.random_range(0..4) {
            let (time, garbage) = (self.time(), self.raw(format!("{{garbage {number}")));
            self.steps.push((time, Step::Publish(garbage)));
        }
    }

    fn quiet(&mut self) -> Faults {
        Faults { latency: Duration::from_millis(self.pick(&[2, 10])), ..Faults::default() }
    }

    fn break_servers(&mut self) {
        let mut time = Duration::ZERO;
        while time < self.end {
            let mut server = || {
                let number = self.rng.random_range(0..100);
                if number < 12 {
                    Server::Down
                } else if number < 18 {
                    Server::Silent
                } else {
                    Server::Up
                }
            };
            let (database, broker) = (server(), server());
            let faults = Faults {
                database,
                broker,
                latency: Duration::from_millis(self.pick(&[1, 5, 50, 400])),
                fails: self.pick(&[0, 0, 20, 200]),
                commit_unknown: self.pick(&[0, 0, 20, 200]),
                confirm_lost: self.pick(&[0, 0, 20, 300]),
                acknowledgement_lost: self.pick(&[0, 0, 50, 300]),
                ..Faults::default()
            };
            if faults.broker != Server::Up || self.chance(20) {
                self.steps.push((time, Step::Disconnect));
            }
            self.steps.push((time, Step::Fail(faults)));
            time += Duration::from_millis(self.rng.random_range(300..4000));
        }
        if self.chance(30) {
            let time = self.time();
            let by = if self.chance(20) { 3600 } else { self.rng.random_range(1..15) };
            let by = if self.chance(50) { by } else { -by };
            self.steps.push((time, Step::MoveClock(TimeDelta::seconds(by))));
        }
    }

    fn break_processes(&mut self, processes: usize) {
        for _ in 0..self.rng.random_range(0..8) {
            let (process, time) = (self.rng.random_range(0..processes), self.time());
            let back = time + self.up_to(Duration::from_secs(9));
            let (broken, repaired) = match self.rng.random_range(0..10) {
                0..5 => (Step::Kill(process), Step::Start(process)),
                5..7 => (Step::Terminate(process), Step::Start(process)),
                _other => (Step::Pause(process, true), Step::Pause(process, false)),
            };
            self.steps.extend([(time, broken), (back, repaired)]);
        }
    }

    fn obstacle(&mut self) -> Obstacle {
        self.pick(&[Obstacle::Held, Obstacle::Refused, Obstacle::Slow])
    }

    fn hinder_for_a_while(&mut self, rooms: &[RoomToken]) {
        for room in rooms {
            if self.chance(30) {
                let (time, obstacle) = (self.time(), self.obstacle());
                let end = time + self.up_to(Duration::from_secs(6));
                self.steps.push((time, Step::Hinder(room.clone(), Some(obstacle))));
                self.steps.push((end, Step::Hinder(room.clone(), None)));
            }
        }
    }

    /// Makes some rooms faulty all the time.
    fn poison(&mut self, rooms: &[RoomToken]) -> Vec<RoomToken> {
        let mut poisoned = Vec::new();
        let mut unroutable = self.quiet();
        for room in rooms {
            if !self.chance(35) {
                continue;
            }
            poisoned.push(room.clone());
            match self.rng.random_range(0..6) {
                0 => {
                    unroutable.unroutable.insert(room.to_string());
                }
                1 => self.steps.push((Duration::ZERO, Step::RefuseEvents(room.clone()))),
                _other => {
                    let obstacle = self.obstacle();
                    self.steps.push((Duration::ZERO, Step::Hinder(room.clone(), Some(obstacle))));
                }
            }
        }
        self.steps.push((Duration::ZERO, Step::Fail(unroutable)));
        poisoned
    }
}
