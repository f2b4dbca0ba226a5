//! Events that are set aside because their room is locked, slow or does not exist yet: a lane for
//! each room, tried again at a pace of its own. Later events of the room join its lane, so that they
//! cost no statement and stay in their order. All events of a lane are tried, not only the newest:
//! the number of statements is the same, and each of them is answered and acknowledged by one rule.

use std::collections::BTreeMap;
use std::future::pending;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::event::{Event, Obstacle, Parked, Undone};
use crate::domain::{RoomToken, Version};

/// Delays between the tries of a lane: first and longest.
const DELAYS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

#[derive(Default)]
pub(super) struct Lanes(BTreeMap<RoomToken, Lane>);

struct Lane {
    /// Those that are being tried are not among them.
    events: Vec<Event>,
    obstacle: Obstacle,
    /// The latest version of its events.
    latest: Version,
    delay: Duration,
    /// None while it is being tried. A slow lane is tried beside everything else, the others are not.
    due: Option<Instant>,
}

impl Lanes {
    /// Adds an event to the lane of its room. Returns it if there is none.
    pub(super) fn join(&mut self, event: Event) -> Option<Event> {
        match self.0.get_mut(&event.change.token) {
            Some(lane) => {
                lane.events.push(event.waited(&mut lane.latest));
                None
            }
            None => Some(event),
        }
    }

    /// Sets an event aside that could not be applied, for `rest` at least.
    pub(super) fn set_aside(&mut self, event: Event, obstacle: Obstacle, rest: Duration) {
        let lane = self.0.entry(event.change.token.clone()).or_insert_with(|| Lane {
            events: Vec::new(),
            obstacle,
            latest: Version::ZERO,
            delay: DELAYS.0 / 2,
            due: None,
        });
        if lane.due.is_none() {
            lane.obstacle = obstacle;
            lane.delay = (lane.delay * 2).min(DELAYS.1);
            lane.due = Some(Instant::now() + lane.delay.max(rest));
        }
        lane.events.push(event.waited(&mut lane.latest));
    }

    /// Waits until a lane is to be tried again: no slow one while another one is being tried.
    pub(super) async fn due(&self, is_trying_slow: bool) {
        let lanes = self.0.values().filter(|lane| !(is_trying_slow && lane.is_slow()));
        match lanes.filter_map(|lane| lane.due).min() {
            Some(due) => sleep_until(due).await,
            None => pending().await,
        }
    }

    /// Takes the events of the lanes that are to be tried again, except slow ones.
    pub(super) fn take_due(&mut self) -> Vec<Event> {
        let now = Instant::now();
        let due = self.0.values_mut().filter(|lane| !lane.is_slow() && lane.is_due(now));
        due.flat_map(Lane::take).collect()
    }

    /// Takes the events of the slow lane that is to be tried again first.
    pub(super) fn take_slow(&mut self) -> Option<Vec<Event>> {
        let now = Instant::now();
        let due = self.0.values_mut().filter(|lane| lane.is_slow() && lane.is_due(now));
        due.min_by_key(|lane| lane.due).map(Lane::take)
    }

    /// Removes the lanes whose events have been applied.
    pub(super) fn conclude_due(&mut self) {
        self.0.retain(|_room, lane| lane.due.is_some() || lane.is_slow());
    }

    /// Removes the slow lane whose events have been applied, unless others have joined it.
    pub(super) fn conclude_slow(&mut self) {
        self.0.retain(|_room, lane| lane.due.is_some() || !lane.events.is_empty());
        for lane in self.0.values_mut() {
            lane.due.get_or_insert_with(Instant::now);
        }
    }

    /// Takes events if there are more than this. An event of each slow room stays, if it may: those
    /// that come back join its lane, instead of a set.
    pub(super) fn take_crowd(&mut self, bound: usize) -> Vec<Parked> {
        if self.len() <= bound {
            return Vec::new();
        }
        let mut crowd = Vec::new();
        for lane in self.0.values_mut() {
            let staying = if lane.is_slow() && bound > 0 { lane.events.len().min(1) } else { 0 };
            let (obstacle, leaving) = (lane.obstacle, lane.events.drain(staying..));
            crowd.extend(leaving.map(|event| Parked { event, obstacle }));
        }
        self.0.retain(|_room, lane| lane.due.is_none() || !lane.events.is_empty());
        crowd
    }

    /// Number of events.
    pub(super) fn len(&self) -> usize {
        self.0.values().map(|lane| lane.events.len()).sum()
    }

    /// The oldest event of a room that is locked or slow. An event of an unknown room is not late.
    pub(super) fn oldest(&self) -> Option<Undone> {
        let overdue = self.0.values().filter(|lane| lane.obstacle != Obstacle::Unknown);
        let events =
            overdue.flat_map(|lane| lane.events.iter().map(|event| (event, lane.obstacle)));
        let (oldest, obstacle) = events.min_by_key(|(event, _obstacle)| event.received)?;
        Some(oldest.undone_for(obstacle))
    }
}

impl Lane {
    fn is_slow(&self) -> bool {
        self.obstacle == Obstacle::Slow
    }

    fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    fn take(&mut self) -> Vec<Event> {
        self.due = None;
        std::mem::take(&mut self.events)
    }
}
