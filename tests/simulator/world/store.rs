//! The database as one simulated process reaches it: slow, failing, or as it should be.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use lobbyd::{
    domain::{
        Applied, Decision, DueTimer, EventId, IncomingChange, Lobby, OutboxEvent, OutboxRow,
        PendingTimer, RoomToken, TimerKey, commands::lobby_changes, decide_lobby_change,
    },
    store::{
        AppliedSet, DueBatch, Fired, LockPolicy, NotFired, Patience, Result, StoreError, Timers,
    },
};
use tokio::time::sleep;

use super::{Bug, Obstacle, Server, State, World, tables::Progress};

/// How long a use of the database may take.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// How long a reset may take that is to be short.
const SHORT: Duration = Duration::from_secs(1);

/// How long a transaction waits for a row that it must have.
const LOCK_WAIT: Duration = Duration::from_secs(1);

/// After which time a planted bug forgets a room.
const LATE: TimeDelta = TimeDelta::seconds(3);

#[derive(Clone)]
pub struct SimulatedStore(pub Arc<World>);

/// Rows that a transaction has locked, until it ends or is dropped.
pub(super) struct Locks {
    world: Arc<World>,
    rooms: Vec<RoomToken>,
    events: Vec<EventId>,
}

impl Drop for Locks {
    fn drop(&mut self) {
        let tables = &mut self.world.state.lock().tables;
        for token in &self.rooms {
            tables.rooms.get_mut(token).unwrap().locked = false;
        }
        for id in &self.events {
            if let Some(entry) = tables.outbox.get_mut(id) {
                entry.locked = false;
            }
        }
    }
}

fn unavailable() -> StoreError {
    StoreError::Unavailable(sqlx::Error::PoolTimedOut)
}

pub fn rejected() -> StoreError {
    StoreError::Rejected(sqlx::Error::Protocol("a trigger refuses it".to_owned()))
}

fn contended() -> StoreError {
    StoreError::Contended(sqlx::Error::Protocol("deadlock".to_owned()))
}

impl SimulatedStore {
    /// Sends a request, which may come to nothing.
    pub(super) async fn reach(&self) -> Result<()> {
        self.0.pass_time().await;
        let server = self.0.state.lock().faults.database;
        match server {
            Server::Up => {}
            Server::Down => return Err(unavailable()),
            Server::Silent => {
                sleep(TIMEOUT).await;
                return Err(StoreError::TimedOut(TIMEOUT));
            }
        }
        let mut state = self.0.state.lock();
        let fails = state.faults.fails;
        if !state.chance(fails) {
            return Ok(());
        }
        Err(if state.chance(500) { contended() } else { unavailable() })
    }

    pub(super) async fn read<T>(&self, read: impl FnOnce(&State) -> T) -> Result<T> {
        self.reach().await?;
        Ok(read(&self.0.state.lock()))
    }

    /// Ends a transaction: all of `write` happens or, with an error, nothing. The answer may be lost.
    pub(super) async fn commit<T>(&self, write: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        self.reach().await?;
        let (written, unknown) = {
            let mut state = self.0.state.lock();
            let written = write(&mut state)?;
            let unknown = state.faults.commit_unknown;
            (written, state.chance(unknown))
        };
        self.0.pass_time().await;
        if unknown { Err(StoreError::TimedOut(TIMEOUT)) } else { Ok(written) }
    }

    /// What the database says about changes of these rooms.
    async fn change(&self, rooms: &[RoomToken], patience: Patience) -> Result<()> {
        let obstacles: Vec<_> = {
            let tables = &self.0.state.lock().tables;
            rooms.iter().filter_map(|token| tables.rooms[token].obstacle).collect()
        };
        if obstacles.contains(&Obstacle::Refused) {
            return Err(rejected());
        }
        if obstacles.contains(&Obstacle::Slow) {
            let limit = if patience == Patience::Short { SHORT } else { TIMEOUT };
            sleep(limit).await;
            return Err(StoreError::TimedOut(limit));
        }
        Ok(())
    }

    fn lock_rooms(&self, state: &mut State, rooms: Vec<RoomToken>) -> Locks {
        for token in &rooms {
            state.tables.rooms.get_mut(token).unwrap().locked = true;
        }
        Locks { world: Arc::clone(&self.0), rooms, events: Vec::new() }
    }

    /// Locks the rooms of a batch.
    async fn lock_due(
        &self,
        now: DateTime<Utc>,
        batch: &DueBatch<'_>,
    ) -> Result<(Vec<DueTimer>, Locks)> {
        let (mut waited, step) = (Duration::ZERO, Duration::from_millis(10));
        loop {
            {
                let state = &mut *self.0.state.lock();
                let mut due = state.tables.due(now, batch);
                if batch.locked == LockPolicy::SkipLocked {
                    due.retain(|(_timer, is_locked)| !is_locked);
                }
                if state.bug == Some(Bug::ForgetsLateRooms) {
                    due.retain(|(timer, _)| now - timer.key.due_at < LATE);
                }
                due.truncate(usize::try_from(batch.limit).unwrap());
                if due.iter().all(|(_timer, is_locked)| !is_locked) {
                    let due: Vec<DueTimer> = due.into_iter().map(|(timer, _)| timer).collect();
                    let rooms = due.iter().map(|timer| timer.token.clone()).collect();
                    return Ok((due, self.lock_rooms(state, rooms)));
                }
            }
            if waited >= LOCK_WAIT {
                return Err(contended());
            }
            sleep(step).await;
            waited += step;
        }
    }

    pub(super) fn lock_events(&self, state: &mut State, events: Vec<EventId>) -> Locks {
        for id in &events {
            state.tables.outbox.get_mut(id).unwrap().locked = true;
        }
        Locks { world: Arc::clone(&self.0), rooms: Vec::new(), events }
    }
}

fn pending(due: &[DueTimer]) -> Vec<PendingTimer> {
    let timer = |timer: &DueTimer| PendingTimer { key: timer.key, token: timer.token.clone() };
    due.iter().map(timer).collect()
}

impl State {
    /// Resets rooms, and stores an event for each.
    fn fire(
        &mut self,
        due: &[DueTimer],
        now: DateTime<Utc>,
        claimed_until: Option<DateTime<Utc>>,
    ) -> Result<Vec<OutboxRow>> {
        let mut events = Vec::new();
        for timer in due {
            let row = self.tables.rooms.get_mut(&timer.token).unwrap();
            let (due_at, version) = (Some(timer.key.due_at), timer.next_version());
            if row.room.lobby.scheduled() != due_at {
                return Err(StoreError::Conflict { table: "rooms", rows: 0, expected: 1 });
            }
            if self.bug != Some(Bug::Twice) {
                row.room.lobby = Lobby::OPEN;
            }
            (row.room.version, row.room.timer_reached) = (version, due_at);
            let event = self.tables.new_event(&timer.announcement(now), now);
            self.history.reset(timer, &event.id, &self.clock);
            if self.bug != Some(Bug::Lost) {
                let due_at = due_at.filter(|_| timer.lag_counts());
                events.push(OutboxEvent { due_at, ..event });
            }
        }
        Ok(self.tables.insert_events(events, Progress::of_new(now, claimed_until)))
    }

    /// Applies changes to rooms that are locked, one after the other.
    fn apply(
        &mut self,
        changes: &[IncomingChange],
        locked: &[RoomToken],
        now: DateTime<Utc>,
        claimed_until: Option<DateTime<Utc>>,
    ) -> AppliedSet {
        let (mut results, mut events) = (Vec::new(), Vec::new());
        for change in changes {
            let applied_at = self.tables.applied_at(change);
            let applied_at = applied_at.filter(|_at| self.bug != Some(Bug::AppliesTwice));
            let Some(row) = self.tables.rooms.get_mut(&change.token) else {
                results.push(change.without_room());
                continue;
            };
            if !locked.contains(&change.token) {
                results.push(Applied::Locked);
                continue;
            }
            let decision = match decide_lobby_change(&row.room, change, applied_at) {
                Decision::Stale if self.bug == Some(Bug::StaleWins) => {
                    Decision::Set(change.order.version())
                }
                Decision::Set(_)
                    if self.bug == Some(Bug::NewLoses) && change.identity.is_some() =>
                {
                    Decision::Stale
                }
                decision @ (Decision::Set(_) | Decision::Stale | Decision::LobbyNotSupported) => {
                    decision
                }
            };
            results.push(match decision {
                Decision::LobbyNotSupported => Applied::LobbyNotSupported,
                Decision::Stale => {
                    self.history.found_stale(change);
                    Applied::Stale
                }
                Decision::Set(version) => {
                    let replaced = row.room.lobby.scheduled();
                    let changes = lobby_changes(&row.room, change.lobby, version, now);
                    let update = changes.update().unwrap();
                    row.room = changes.into_room();
                    events.push(self.tables.new_event(&update, now));
                    self.history.set_by_event(change);
                    Applied::Set { replaced }
                }
            });
            self.history.answered(change);
            if let Some(identity) = &change.identity {
                self.tables.inbox.insert(identity.key.clone(), now);
            }
        }
        let rows = self.tables.insert_events(events, Progress::of_new(now, claimed_until));
        AppliedSet { results, rows }
    }
}

#[async_trait]
impl Timers for SimulatedStore {
    async fn apply(
        &self,
        changes: &[IncomingChange],
        patience: Patience,
        now: DateTime<Utc>,
        claimed_until: Option<DateTime<Utc>>,
    ) -> Result<AppliedSet> {
        self.reach().await?;
        let (locked, _locks) = {
            let state = &mut *self.0.state.lock();
            let tokens: BTreeSet<&RoomToken> = changes.iter().map(|change| &change.token).collect();
            let is_free = |token: &&RoomToken| {
                state.tables.rooms.get(*token).is_some_and(|row| !row.is_locked())
            };
            let locked: Vec<RoomToken> = tokens.into_iter().filter(is_free).cloned().collect();
            (locked.clone(), self.lock_rooms(state, locked))
        };
        self.change(&locked, patience).await?;
        let waits = self.0.state.lock().bug == Some(Bug::WaitsForLocks);
        if waits && changes.iter().any(|change| !locked.contains(&change.token)) {
            sleep(TIMEOUT).await;
            return Err(StoreError::TimedOut(TIMEOUT));
        }
        self.commit(|state| Ok(state.apply(changes, &locked, now, claimed_until))).await
    }

    async fn prune_applied(&self, before: DateTime<Utc>, _limit: u32) -> Result<u64> {
        self.commit(|state| {
            state.tables.inbox.retain(|_key, applied_at| *applied_at >= before);
            Ok(0)
        })
        .await
    }

    async fn fire_due(
        &self,
        now: DateTime<Utc>,
        batch: DueBatch<'_>,
        claimed_until: Option<DateTime<Utc>>,
    ) -> Result<Fired, NotFired> {
        let bug = self.0.state.lock().bug;
        let seen = if bug == Some(Bug::Early) { now + Duration::from_secs(2) } else { now };
        self.reach().await?;
        let (due, locks) = self.lock_due(seen, &batch).await?;
        if due.is_empty() {
            return Ok(Fired::default());
        }
        let not_fired = |error| NotFired { due: pending(&due), error };
        if let Err(error) = self.change(&locks.rooms, batch.patience).await {
            return Err(if bug == Some(Bug::PoisonStopsNeighbours) {
                unavailable().into()
            } else {
                not_fired(error)
            });
        }
        match self.commit(|state| state.fire(&due, now, claimed_until)).await {
            Ok(rows) => Ok(Fired { rows, last: due.last().map(|timer| timer.key) }),
            Err(error) if error.is_refusal() || error.is_contention() => Err(not_fired(error)),
            Err(error) => Err(error.into()),
        }
    }

    async fn next_due(
        &self,
        after: Option<TimerKey>,
        except: &[TimerKey],
    ) -> Result<Option<PendingTimer>> {
        self.read(|state| {
            let next = state.tables.next_due(after, except);
            let hidden = state.bug == Some(Bug::HidesRooms);
            next.filter(|timer| !hidden || timer.key.due_at > state.clock.now())
        })
        .await
    }

    async fn clear_timers_of_open_rooms(&self, _limit: u32) -> Result<u64> {
        Ok(0)
    }
}
