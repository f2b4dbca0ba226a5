//! Applies lobby changes by sets: the number of statements does not depend on that of the changes.
//!
//! The rooms are locked without waiting and read, the changes are applied to them in memory, one
//! after the other, and the result is written. The rules are in `domain`. The consumer calls it
//! through [`Timers::apply`](super::Timers::apply).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, Utc};

use super::connection::Transaction;
use super::dialect::Dialect;
use super::due::Patience;
use super::error::Result;
use super::tables::outbox::{Progress, new_event};
use crate::domain::commands::{BulkChange, lobby_changes};
use crate::domain::{
    Applied, Decision, IncomingChange, OutboxEvent, OutboxRow, ROOM_UPDATED, Reason, Room, RoomId,
    RoomToken, decide_lobby_change,
};

/// What the changes of one transaction depend on, and what they have changed so far.
pub(super) struct ChangeSet {
    now: DateTime<Utc>,
    rooms: BTreeMap<RoomToken, LockedRoom>,
    /// Rooms that another transaction has locked.
    locked_by_others: BTreeSet<RoomToken>,
    /// When events were last applied, by their identity.
    applied_at: HashMap<String, DateTime<Utc>>,
    /// Identities of the events that were decided.
    decided: BTreeSet<String>,
    /// Messages of the chats, in order.
    messages: Vec<(RoomId, Reason)>,
    events: Vec<OutboxEvent>,
}

/// A room that this transaction has locked.
struct LockedRoom {
    before: Room,
    after: Room,
    bulk: Vec<BulkChange>,
}

impl ChangeSet {
    /// Applies a change in memory.
    pub(super) fn apply(&mut self, change: &IncomingChange) -> Applied {
        let Some(room) = self.rooms.get_mut(&change.token) else {
            let is_locked = self.locked_by_others.contains(&change.token);
            return if is_locked { Applied::Locked } else { change.without_room() };
        };
        let key = change.identity.as_ref().map(|identity| &identity.key);
        let applied_at = key.and_then(|key| self.applied_at.get(key)).copied();
        let applied = match decide_lobby_change(&room.after, change, applied_at) {
            Decision::LobbyNotSupported => return Applied::LobbyNotSupported,
            Decision::Stale => Applied::Stale,
            Decision::Set(version) => {
                let replaced = room.after.lobby.scheduled();
                let changes = lobby_changes(&room.after, change.lobby, version, self.now);
                if let Some(announcement) = changes.announcement.as_ref().filter(|it| it.in_chat) {
                    self.messages.push((room.after.id, announcement.reason));
                }
                if let Some(update) = changes.update() {
                    self.events.push(new_event(ROOM_UPDATED, &change.token, &update, self.now));
                }
                if room.bulk.is_empty() {
                    room.bulk.clone_from(&changes.bulk);
                }
                room.after = changes.into_room();
                Applied::Set { replaced }
            }
        };
        if let Some(key) = key {
            self.applied_at.insert(key.clone(), self.now);
            self.decided.insert(key.clone());
        }
        applied
    }

    /// Whether there is nothing to be written.
    pub(super) fn is_unchanged(&self) -> bool {
        self.events.is_empty() && self.decided.is_empty()
    }

    fn changed_rooms(&self) -> Vec<&LockedRoom> {
        self.rooms.values().filter(|room| room.after.version != room.before.version).collect()
    }
}

impl<D: Dialect> Transaction<D> {
    /// Locks the rooms of the changes, and reads what the changes depend on.
    pub(super) async fn lock_change_set(
        &mut self,
        changes: &[IncomingChange],
        now: DateTime<Utc>,
    ) -> Result<ChangeSet> {
        let tokens: BTreeSet<&RoomToken> = changes.iter().map(|change| &change.token).collect();
        let locked = self.lock_rooms(&tokens).await?.into_iter().map(|room| {
            (room.token.clone(), LockedRoom { before: room.clone(), after: room, bulk: Vec::new() })
        });
        let rooms: BTreeMap<RoomToken, LockedRoom> = locked.collect();
        let missing: BTreeSet<&RoomToken> =
            tokens.into_iter().filter(|token| !rooms.contains_key(*token)).collect();
        let locked_by_others =
            if missing.is_empty() { BTreeSet::new() } else { self.existing(&missing).await? };
        let identities = changes.iter().filter_map(|change| change.identity.as_ref());
        let keys: BTreeSet<&str> = identities.map(|identity| identity.key.as_str()).collect();
        let applied_at =
            if keys.is_empty() { HashMap::new() } else { self.applied_at(&keys).await? };
        Ok(ChangeSet {
            now,
            rooms,
            locked_by_others,
            applied_at,
            decided: BTreeSet::new(),
            messages: Vec::new(),
            events: Vec::new(),
        })
    }

    /// Writes what has changed. Returns the rows of the events, which are as far as `progress` says.
    pub(super) async fn write_change_set(
        &mut self,
        set: ChangeSet,
        patience: Patience,
        progress: Progress,
    ) -> Result<Vec<OutboxRow>> {
        let now = set.now;
        let rooms = set.changed_rooms();
        if !rooms.is_empty() {
            let lobbies: Vec<_> = rooms.iter().map(|room| (&room.before, &room.after)).collect();
            self.update_lobbies(&lobbies, patience).await?;
            self.write_calls(&rooms).await?;
            let touched =
                rooms.iter().filter(|room| room.after.changed_at != room.before.changed_at);
            self.write_changed_at(touched.map(|room| &room.after)).await?;
        }
        if !set.messages.is_empty() {
            self.insert_system_messages(set.messages.into_iter(), now).await?;
        }
        if !set.decided.is_empty() {
            self.record_applied(&set.decided, now).await?;
        }
        self.pass_to_signaling(&set.events).await?;
        self.insert_events(set.events, progress).await
    }

    /// Removes participants from the calls of rooms that were closed.
    async fn write_calls(&mut self, rooms: &[&LockedRoom]) -> Result<()> {
        let closed: Vec<&&LockedRoom> = rooms.iter().filter(|room| !room.bulk.is_empty()).collect();
        if closed.is_empty() {
            return Ok(());
        }
        let ids: Vec<RoomId> = closed.iter().map(|room| room.after.id).collect();
        let in_call = self.in_call(&ids).await?;
        for room in closed.into_iter().filter(|room| in_call.contains(&room.after.id)) {
            let bulk = &room.bulk;
            if let Some(room) = self.room(&room.after.token).await?
                && let Some(call) = room.call
            {
                for bulk in bulk {
                    self.change_attendees(&room, *bulk).await?;
                }
                let call = call.with_participants(self.count_in_call(room.id).await?);
                self.write_state(&Room { call, ..room }).await?;
            }
        }
        Ok(())
    }
}
