//! The clients: they set, move and cancel timers, and send what they should not.
//!
//! One room after another gets a timer, and some a second setting before it fires or just then. Beside
//! that, herds of rooms get the same timer, rooms are
//! locked or refused, and bad events are published.

mod garbage;
mod holds;
mod publisher;
mod requests;
mod rooms;
mod sql;

use std::{sync::Arc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use crate::{
    notes::Notes,
    plan::Options,
    site::{OWNER, Site},
    support::http::{Api, Client},
};

pub use publisher::Publisher;
pub use rooms::{Room, Rooms};
pub use sql::Sql;

/// Rooms per second that get a timer, without herds.
const RATE: u64 = 80;

/// Ticks from one herd to the next one, and the rooms of a herd.
const HERDS: u64 = 12 * RATE;
const HERD: std::ops::RangeInclusive<usize> = 100..=600;

/// Share of the ticks at which other things happen, in one of so many.
const GARBAGE: u32 = 25;
const UNKNOWN_ROOM: u32 = 150;
const LATE_ROOM: u32 = 100;
const HOLD: u32 = 250;
const REFUSAL: u32 = 400;
const FROZEN_ROOM: u32 = 1_000;

/// What all clients share.
pub struct Clients {
    pub notes: Arc<Notes>,
    pub publisher: Publisher,
    pub sql: Sql,
    /// The owner of all rooms, at each API.
    pub apis: Vec<Client>,
}

impl Clients {
    pub fn new(site: &Site, notes: Arc<Notes>) -> Arc<Self> {
        let (name, password) = OWNER;
        let apis = site.processes.iter().filter(|process| process.name.starts_with("api"));
        Arc::new(Self {
            publisher: Publisher::new(&site.cluster.amqp_url, &site.cluster.exchange),
            sql: Sql::new(&site.cluster.database),
            apis: apis.map(|api| Api::new(api.http_port).user(name, password)).collect(),
            notes,
        })
    }
}

/// Sends as long as faults happen, and waits for what is under way.
pub async fn run(clients: Arc<Clients>, rooms: Arc<Rooms>, options: Options) {
    let mut rng = StdRng::seed_from_u64(options.seed);
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    let mut tick = interval(Duration::from_secs(1) / u32::try_from(RATE).unwrap());
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut number = 0;
    while begin.elapsed() < options.length() {
        tick.tick().await;
        number += 1;
        let script = rooms::Script::draw(&mut rng);
        tasks.spawn(script.run(Arc::clone(&clients), rooms.next()));
        if number % HERDS == 0 {
            let herd: Vec<Arc<Room>> = (0..rng.random_range(HERD)).map(|_| rooms.next()).collect();
            tasks.spawn(rooms::herd(Arc::clone(&clients), herd, rng.random_range(2..6)));
        }
        let now_and_then = |rng: &mut StdRng, ratio| rng.random_ratio(1, ratio);
        if now_and_then(&mut rng, GARBAGE) {
            tasks.spawn(garbage::malformed(Arc::clone(&clients), number));
        }
        if now_and_then(&mut rng, UNKNOWN_ROOM) {
            tasks.spawn(garbage::unknown_room(Arc::clone(&clients), number));
        }
        if now_and_then(&mut rng, LATE_ROOM) {
            tasks.spawn(garbage::late_room(Arc::clone(&clients), number));
        }
        if now_and_then(&mut rng, FROZEN_ROOM) {
            tasks.spawn(garbage::frozen_room(Arc::clone(&clients), number));
        }
        if now_and_then(&mut rng, HOLD) {
            let held: Vec<Arc<Room>> = (0..rng.random_range(1..5)).map(|_| rooms.next()).collect();
            let lasts = Duration::from_millis(rng.random_range(500..8_000));
            tasks.spawn(holds::lock(Arc::clone(&clients), held, lasts));
        }
        if now_and_then(&mut rng, REFUSAL) {
            // A few rooms until the end: then a worker is unready for a minute after its start.
            let lasts = (options.is_short() || rng.random_ratio(7, 8))
                .then(|| Duration::from_secs(rng.random_range(2..7)));
            tasks.spawn(holds::refuse(Arc::clone(&clients), rooms.next(), lasts));
        }
        while tasks.try_join_next().transpose().unwrap().is_some() {}
    }
    while tasks.join_next().await.transpose().unwrap().is_some() {}
}

async fn wait(seconds: f64) {
    sleep(Duration::from_secs_f64(seconds.max(0.0))).await;
}
