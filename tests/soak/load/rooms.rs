//! Rooms, and the settings that they get.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use rand::{RngExt, rngs::StdRng};
use serde_json::json;
use tokio::task::JoinSet;

use super::{Clients, garbage::KEY, publisher::Message, requests::put, wait};
use crate::check::history::{Route, SKEW};

/// How much older than a setting the stale event after it is.
const STALE: i64 = 2;

/// How a setting is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// By an event with a version.
    Event,
    /// By an event without a version. With a message id it may be repeated.
    Bare {
        with_id: bool,
    },
    /// By a statement, and perhaps an event that says the same: often it is lost.
    Sql {
        with_event: bool,
    },
    Http,
}

pub struct Room {
    pub token: String,
    last: Mutex<Last>,
    is_held: AtomicBool,
    is_refused: AtomicBool,
}

/// What the next setting has to exceed.
#[derive(Debug, Clone, Copy, Default)]
struct Last {
    timer: i64,
    version: i64,
}

impl Room {
    fn new(token: String) -> Self {
        let (last, is_held, is_refused) = Default::default();
        Self { token, last, is_held, is_refused }
    }

    pub fn hold(&self) {
        self.is_held.store(true, Ordering::Relaxed);
    }

    pub fn refuse(&self) {
        self.is_refused.store(true, Ordering::Relaxed);
    }

    /// A timer that no other setting of the room has, so many seconds from now.
    fn timer(&self, now: i64, ahead: i64) -> i64 {
        let mut last = self.last.lock().unwrap();
        last.timer = (now / 1000 + ahead).max(last.timer + 1);
        last.timer
    }

    /// A newer version. Between it and the last one there is one for a stale event; after each of the
    /// three, one stays free for a reset, so that a reset and a setting never have the same version.
    fn version(&self, now: i64) -> i64 {
        let mut last = self.last.lock().unwrap();
        last.version = now.max(last.version + 4);
        last.version
    }

    /// Lets the versions of events that follow be later than those that a request may have got until
    /// now. Of two equal versions the one that came first wins, and which one it was is not known.
    fn leave_to_request(&self, now: i64) {
        let mut last = self.last.lock().unwrap();
        last.version = last.version.max(now + SKEW);
    }

    /// Makes a setting.
    pub async fn set(&self, clients: &Clients, by: By, state: i64, ahead: Option<i64>) -> Made {
        let now = clients.notes.now();
        let timer = ahead.map(|ahead| self.timer(now, ahead));
        let version = self.version(now);
        let route = match by {
            By::Event => Route::Event { version },
            By::Bare { .. } => Route::Bare,
            By::Sql { .. } => Route::Sql,
            By::Http => Route::Http,
        };
        let asked = clients.notes.ask(&[&self.token], route, state, timer);
        let mut event = self.event(state, timer, Some(version));
        let is_confirmed = match by {
            By::Event => {
                clients.publisher.publish(&event).await;
                true
            }
            By::Bare { with_id: false } => {
                event = self.event(state, timer, None);
                clients.publisher.try_publish(&event).await
            }
            By::Bare { with_id: true } => {
                event = self.event(state, timer, None);
                event.id = Some(format!("{}-{version}", self.token));
                clients.publisher.publish(&event).await;
                true
            }
            By::Sql { .. } => {
                clients.sql.set(asked.op(), &[&self.token], state, timer, version).await
            }
            By::Http => {
                let is_confirmed = put(clients, version, &self.token, state, timer).await;
                self.leave_to_request(clients.notes.now());
                is_confirmed
            }
        };
        if is_confirmed {
            clients.notes.confirm(&asked);
        }
        Made { timer, version, event, is_confirmed }
    }

    fn event(&self, state: i64, timer: Option<i64>, version: Option<i64>) -> Message {
        let mut body = json!({"token": self.token, "state": state});
        if let Some(timer) = timer {
            body["timer"] = timer.into();
        }
        if let Some(version) = version {
            body["version"] = version.into();
        }
        Message::json(KEY, &body)
    }
}

/// A setting that was made, or perhaps not.
pub struct Made {
    pub timer: Option<i64>,
    pub version: i64,
    /// The event that says so.
    event: Message,
    pub is_confirmed: bool,
}

/// All rooms. Each is used once.
pub struct Rooms {
    unused: Mutex<VecDeque<Arc<Room>>>,
    all: Vec<Arc<Room>>,
}

impl Rooms {
    pub fn new(number: u64) -> Self {
        let all: Vec<Arc<Room>> =
            (1..=number).map(|number| Arc::new(Room::new(format!("room{number}")))).collect();
        Self { unused: Mutex::new(all.iter().cloned().collect()), all }
    }

    /// A room that was not used yet.
    pub fn next(&self) -> Arc<Room> {
        self.unused.lock().unwrap().pop_front().expect("there are more rooms than uses")
    }

    pub fn held(&self) -> impl Iterator<Item = String> {
        let held = |room: &&Arc<Room>| {
            room.is_held.load(Ordering::Relaxed) || room.is_refused.load(Ordering::Relaxed)
        };
        self.all.iter().filter(held).map(|room| room.token.clone())
    }

    pub fn refused(&self) -> impl Iterator<Item = String> {
        let refused = |room: &&Arc<Room>| room.is_refused.load(Ordering::Relaxed);
        self.all.iter().filter(refused).map(|room| room.token.clone())
    }
}

/// What happens to a room in one use of it.
pub struct Script {
    steps: Vec<Step>,
}

struct Step {
    when: When,
    by: By,
    state: i64,
    /// Seconds until its timer.
    ahead: Option<i64>,
    /// Seconds after which the event is published again.
    repeated: Option<f64>,
    /// Seconds after which an event with an older version follows.
    stale: Option<f64>,
}

enum When {
    /// Seconds after the step before.
    After(f64),
    /// Seconds after the moment before the timer of the last step.
    AroundDue(f64),
}

impl Script {
    pub fn draw(rng: &mut StdRng) -> Self {
        let ahead = if rng.random_ratio(1, 12) {
            rng.random_range(-5..=0)
        } else {
            rng.random_range(1..=10)
        };
        let mut steps = vec![Step::draw(rng, When::After(0.0), 1, Some(ahead))];
        let more = match rng.random_range(0..100) {
            0..65 => 0,
            65..93 => 1,
            _ => 2,
        };
        for _ in 0..more {
            let when = if rng.random_ratio(1, 2) {
                When::AroundDue(rng.random_range(0.0..0.2))
            } else {
                When::After(rng.random_range(0.0..3.0))
            };
            let (state, ahead) = match rng.random_range(0..10) {
                0..5 => (1, Some(rng.random_range(1..=8))),
                5..9 => (0, None),
                _ => (1, None),
            };
            steps.push(Step::draw(rng, when, state, ahead));
        }
        Self { steps }
    }

    pub async fn run(self, clients: Arc<Clients>, room: Arc<Room>) {
        let mut due = None;
        let mut repetitions = JoinSet::new();
        for step in self.steps {
            match (&step.when, due) {
                (When::AroundDue(seconds), Some(timer)) => {
                    clients.notes.until(timer * 1000).await;
                    wait(*seconds).await;
                }
                (When::AroundDue(seconds) | When::After(seconds), _) => wait(*seconds).await,
            }
            let made = room.set(&clients, step.by, step.state, step.ahead).await;
            due = made.timer;
            if made.is_confirmed {
                repetitions.spawn(step.repeat(made, Arc::clone(&clients), Arc::clone(&room)));
            }
        }
        repetitions.join_all().await;
    }
}

impl Step {
    fn draw(rng: &mut StdRng, when: When, state: i64, ahead: Option<i64>) -> Self {
        let by = match rng.random_range(0..100) {
            // Two equal settings without version and timer could not be told apart.
            0..15 if ahead.is_some() => By::Bare { with_id: rng.random_ratio(1, 2) },
            0..50 => By::Event,
            50..80 => By::Sql { with_event: rng.random_ratio(1, 2) },
            _ => By::Http,
        };
        let mut sometimes = |ratio| rng.random_ratio(1, ratio).then(|| rng.random_range(0.0..4.0));
        Self { when, by, state, ahead, repeated: sometimes(6), stale: sometimes(15) }
    }

    /// What follows a setting and must change nothing.
    async fn repeat(self, made: Made, clients: Arc<Clients>, room: Arc<Room>) {
        let (is_versioned, is_sent, may_repeat) = match self.by {
            By::Event => (true, true, true),
            By::Sql { with_event } => (true, with_event, with_event),
            By::Bare { with_id } => (false, true, with_id),
            By::Http => (false, false, false),
        };
        if let By::Sql { .. } = self.by {
            if is_sent {
                clients.publisher.publish(&made.event).await;
            } else {
                clients.notes.count("lost events: only the row was written", 1);
            }
        }
        if let Some(seconds) = self.repeated.filter(|_| may_repeat) {
            wait(seconds).await;
            clients.publisher.publish(&made.event).await;
            clients.notes.count("repeated events", 1);
        }
        if let Some(seconds) = self.stale.filter(|_| is_versioned) {
            wait(seconds).await;
            let version = made.version - STALE;
            let timer = Some(room.timer(clients.notes.now(), 2));
            let asked = clients.notes.ask(&[&room.token], Route::Event { version }, 1, timer);
            clients.publisher.publish(&room.event(1, timer, Some(version))).await;
            clients.notes.confirm(&asked);
            clients.notes.count("stale events", 1);
        }
    }
}

/// Lets many rooms get the same timer, by one statement or by many events.
pub async fn herd(clients: Arc<Clients>, rooms: Vec<Arc<Room>>, ahead: i64) {
    let number = u64::try_from(rooms.len()).unwrap();
    clients.notes.count("timers in herds of 100 to 600 for the same second", number);
    if number % 3 == 0 {
        let mut tasks = JoinSet::new();
        for room in rooms {
            let clients = Arc::clone(&clients);
            tasks.spawn(async move { room.set(&clients, By::Event, 1, Some(ahead)).await });
        }
        tasks.join_all().await;
        return;
    }
    let now = clients.notes.now();
    let timer = rooms.iter().map(|room| room.timer(now, ahead)).max();
    let version = rooms.iter().map(|room| room.version(now)).max().unwrap();
    for room in &rooms {
        *room.last.lock().unwrap() = Last { timer: timer.unwrap(), version };
    }
    let tokens: Vec<&str> = rooms.iter().map(|room| room.token.as_str()).collect();
    let asked = clients.notes.ask(&tokens, Route::Sql, 1, timer);
    if clients.sql.set(asked.op(), &tokens, 1, timer, version).await {
        clients.notes.confirm(&asked);
    }
}

#[test]
fn an_event_after_a_request_is_newer_by_any_clock() {
    let room = Room::new("a".to_owned());
    assert_eq!(room.version(1_000), 1_000);
    room.leave_to_request(1_010);
    let stale = room.version(1_020) - STALE;
    assert!(stale > 1_010 + SKEW, "{stale}");
    assert_eq!(room.version(5_000), 5_000);
}
