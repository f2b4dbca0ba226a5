//! Applies a set of events in one transaction, and takes a set apart that is not accepted.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::pin;
use tokio::time::{Instant, sleep};

use super::End;
use super::consumption::Consumption;
use super::event::{Event, Obstacle, oldest, waited};
use super::trial::{Tried, commit};
use crate::backoff::Backoff;
use crate::domain::RoomToken;
use crate::logging;
use crate::store::{Patience, StoreError};

/// Tries at once of a set that another transaction was in the way of.
const CONTENDED_TRIES: u32 = 3;

/// Slow rooms that are found in a set one after the other. The others of it are tried beside
/// everything else then: the database itself may be slow.
const SLOW_IN_A_SET: u32 = 3;

/// A slow room rests for this many times what its try took, so that it takes little from the database.
const SLOW_REST: u32 = 9;

/// Tries of a set.
struct Attempts {
    /// Since the last commit.
    contended: u32,
    backoff: Backoff,
    /// Rooms that were slow alone.
    slow: u32,
}

impl Attempts {
    fn new(slow: u32) -> Self {
        Self { contended: 0, backoff: Backoff::new(Backoff::TASKS), slow }
    }
}

impl Consumption<'_> {
    /// Applies events, in as few transactions as the database accepts.
    pub(super) async fn apply(&mut self, events: Vec<Event>) -> Result<(), End> {
        self.applying = oldest(&events).map(Event::undone);
        let mut attempts = Attempts::new(0);
        let mut sets = vec![events];
        while let Some(set) = sets.pop() {
            if set.is_empty() {
                continue;
            }
            let asked_at = Instant::now();
            let committing = commit(self.task, &set, Patience::Short);
            match self.while_parsing(committing).await {
                Ok(results) => {
                    attempts = Attempts::new(attempts.slow);
                    self.conclude(set, results, asked_at);
                    self.acknowledge().await?;
                }
                Err(error) => {
                    self.recover(set, &error, &mut attempts, &mut sets).await?;
                }
            }
        }
        self.applying = None;
        Ok(())
    }

    /// Decides about a set that was not committed: it is tried again, halved, set aside or refused.
    async fn recover(
        &mut self,
        set: Vec<Event>,
        error: &StoreError,
        attempts: &mut Attempts,
        sets: &mut Vec<Vec<Event>>,
    ) -> Result<(), End> {
        if error.is_refusal() {
            if let Some(event) = halved(set, sets) {
                self.dead_letters.push(event.dead_letter("rejected", logging::causes(error)));
            }
        } else if matches!(error, StoreError::Contended(_)) {
            attempts.contended += 1;
            if !attempts.contended.is_multiple_of(CONTENDED_TRIES) {
                sets.push(set);
                return Ok(());
            }
            if let Some(event) = halved(set, sets) {
                self.lanes.set_aside(event, Obstacle::Locked, Duration::ZERO);
            }
        } else if matches!(error, StoreError::TimedOut(_))
            && self.task.ctx.sample_time().await.is_ok()
        {
            // Fails if the connection was lost meanwhile.
            self.acknowledge().await?;
            // What was sent may have been committed.
            self.try_alone(waited(set), attempts, sets);
        } else {
            self.pause(&mut attempts.backoff, error).await?;
            sets.push(waited(set));
        }
        Ok(())
    }

    /// Divides a set that took too long by its rooms. One of them is the slow one, or none: a database
    /// that answers queries may answer no commit.
    fn try_alone(&mut self, set: Vec<Event>, attempts: &mut Attempts, sets: &mut Vec<Vec<Event>>) {
        let events = set.len();
        let mut of_rooms: BTreeMap<RoomToken, Vec<Event>> = BTreeMap::new();
        for event in set {
            of_rooms.entry(event.change.token.clone()).or_default().push(event);
        }
        if of_rooms.len() > 1 {
            let rooms = of_rooms.len();
            tracing::warn!(events, rooms, "events took too long, each room is tried alone");
            sets.extend(of_rooms.into_values());
            return;
        }
        attempts.slow += 1;
        self.set_aside_slow(of_rooms.into_values().flatten().collect(), Duration::ZERO);
        if attempts.slow >= SLOW_IN_A_SET {
            self.set_aside_slow(sets.drain(..).flatten().collect(), Duration::ZERO);
        }
    }

    fn set_aside_slow(&mut self, events: Vec<Event>, rest: Duration) {
        for event in events {
            self.lanes.set_aside(event, Obstacle::Slow, rest);
        }
    }

    pub(super) async fn conclude_trial(
        &mut self,
        Tried { events, result, asked_at, took }: Tried,
    ) -> Result<(), End> {
        self.trial = None;
        match result {
            Ok(results) => self.conclude(events, results, asked_at),
            Err(error) if error.is_refusal() => self.apply(events).await?,
            Err(error) => {
                let is_slow = matches!(error, StoreError::TimedOut(_));
                self.set_aside_slow(
                    events,
                    if is_slow { took * SLOW_REST } else { Duration::ZERO },
                );
            }
        }
        self.lanes.conclude_slow();
        Ok(())
    }

    /// Waits before the database is tried again.
    async fn pause(&mut self, backoff: &mut Backoff, error: &StoreError) -> Result<(), End> {
        if backoff.is_first_failure() {
            let error = logging::causes(error);
            tracing::warn!(error, "events are waiting for the database, consumer paused");
        }
        let rest = sleep(backoff.next_wait());
        pin!(rest);
        loop {
            self.acknowledge().await?;
            self.report();
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(End::Stopped),
                lost = self.subscription.lost() => return Err(End::Lost(lost)),
                (letters, stored) = self.dead_letters.sent(&self.task.ctx.bus) => {
                    self.conclude_dead_letters(letters, stored);
                }
                (parked, stored) = self.parking.sent(&self.task.ctx.bus) => {
                    self.conclude_parking(parked, stored);
                }
                () = &mut rest => return Ok(()),
            }
        }
    }
}

/// Puts both halves of a set on the stack, the first half on top. A single event is returned.
fn halved(mut set: Vec<Event>, sets: &mut Vec<Vec<Event>>) -> Option<Event> {
    if set.len() <= 1 {
        return set.pop();
    }
    let second = set.split_off(set.len() / 2);
    sets.extend([second, set]);
    None
}
