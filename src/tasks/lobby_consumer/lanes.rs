//! Events that are set aside because their room is locked or does not exist yet: a lane for each
//! room, tried again at a pace of its own. Later events of the room join its lane, so that they cost
//! no statement and stay in their order.

use std::collections::HashMap;
use std::future::pending;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::event::{Event, Obstacle, Parked, Undone};
use crate::domain::RoomToken;

/// Delays between the tries of a lane: first and longest.
const DELAYS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

#[derive(Default)]
pub(super) struct Lanes(HashMap<RoomToken, Lane>);

struct Lane {
    /// None while they are being tried.
    events: Vec<Event>,
    obstacle: Obstacle,
    delay: Duration,
    due: Instant,
}

impl Lanes {
    /// Adds an event to the lane of its room. Returns it if there is none.
    pub(super) fn join(&mut self, event: Event) -> Option<Event> {
        match self.0.get_mut(&event.change.token) {
            Some(lane) => {
                lane.events.push(event.waited());
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
            delay: DELAYS.0 / 2,
            due: Instant::now(),
        });
        if lane.events.is_empty() {
            lane.obstacle = obstacle;
            lane.delay = (lane.delay * 2).min(DELAYS.1);
            lane.due = Instant::now() + lane.delay.max(rest);
        }
        lane.events.push(event.waited());
    }

    /// Waits until a lane is to be tried again.
    pub(super) async fn due(&self) {
        match self.0.values().map(|lane| lane.due).min() {
            Some(due) => sleep_until(due).await,
            None => pending().await,
        }
    }

    /// Takes the events of the lanes that are to be tried again.
    pub(super) fn take_due(&mut self) -> Vec<Event> {
        let now = Instant::now();
        let due = self.0.values_mut().filter(|lane| lane.due <= now);
        due.flat_map(|lane| std::mem::take(&mut lane.events)).collect()
    }

    /// Removes the lanes whose events have been applied.
    pub(super) fn remove_empty(&mut self) {
        self.0.retain(|_room, lane| !lane.events.is_empty());
    }

    pub(super) fn take_all(&mut self) -> Vec<Parked> {
        let lanes = std::mem::take(&mut self.0).into_values();
        lanes
            .flat_map(|Lane { events, obstacle, .. }| {
                events.into_iter().map(move |event| Parked { event, obstacle })
            })
            .collect()
    }

    /// Number of events.
    pub(super) fn len(&self) -> usize {
        self.0.values().map(|lane| lane.events.len()).sum()
    }

    /// The oldest event of a room that is locked. An event of an unknown room is not late.
    pub(super) fn oldest(&self) -> Option<Undone> {
        let locked = self.0.values().filter(|lane| lane.obstacle == Obstacle::LockedRoom);
        let oldest = locked.flat_map(|lane| &lane.events).min_by_key(|event| event.received)?;
        let item = format!("event of room {}, which is locked", oldest.change.token);
        Some(Undone { item, ..oldest.undone() })
    }
}
