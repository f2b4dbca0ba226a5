//! Applies a set of events in one transaction, and takes a set apart that is not accepted.

use std::time::Duration;

use tokio::pin;
use tokio::time::sleep;

use super::End;
use super::consumption::Consumption;
use super::event::{Event, Obstacle, oldest, waited};
use super::trial::{TrialOutcome, commit};
use crate::backoff::Backoff;
use crate::logging;
use crate::store::StoreError;

/// Tries at once of a set that another transaction was in the way of.
const CONTENDED_TRIES: u32 = 3;

/// A slow room rests for this many times what its try took, so that it takes little from the database.
const SLOW_REST: u32 = 9;

/// Tries of a set since the last commit.
struct Attempts {
    contended: u32,
    backoff: Backoff,
}

impl Default for Attempts {
    fn default() -> Self {
        Self { contended: 0, backoff: Backoff::new(Backoff::TASKS) }
    }
}

impl Consumption<'_> {
    /// Applies events, in as few transactions as the database accepts.
    pub(super) async fn apply(&mut self, events: Vec<Event>) -> Result<(), End> {
        self.applying = oldest(&events).map(Event::undone);
        let mut attempts = Attempts::default();
        let mut sets = vec![events];
        while let Some(set) = sets.pop() {
            if set.is_empty() {
                continue;
            }
            let committing = commit(self.task, &set);
            match self.while_parsing(committing).await {
                Ok(results) => {
                    attempts = Attempts::default();
                    self.conclude(set, results);
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
        } else {
            self.pause(&mut attempts.backoff, error).await?;
            // What was sent may have been committed.
            let set = waited(set);
            let is_slow = matches!(error, StoreError::TimedOut(_))
                && self.task.ctx.sample_time().await.is_ok();
            if is_slow {
                // One of them is the slow one, or none: a database that answers queries may answer no
                // commit. Each room is tried alone.
                self.set_aside_slow(set, Duration::ZERO);
            } else {
                sets.push(set);
            }
        }
        Ok(())
    }

    fn set_aside_slow(&mut self, events: Vec<Event>, rest: Duration) {
        for event in events {
            self.lanes.set_aside(event, Obstacle::Slow, rest);
        }
    }

    pub(super) async fn conclude_trial(
        &mut self,
        (events, result, took): TrialOutcome,
    ) -> Result<(), End> {
        self.trial = None;
        match result {
            Ok(results) => self.conclude(events, results),
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
