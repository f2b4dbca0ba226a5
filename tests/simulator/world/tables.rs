//! The rows of the simulated database, and what a transaction does to them.
//!
//! The rules are the program's own, from `domain`. What SQL does in the real stores is done here by hand:
//! the contract tests hold for both.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use lobbyd::{
    domain::{
        DueTimer, EventId, IncomingChange, Lobby, OutboxEvent, OutboxRow, PendingTimer,
        Permissions, ROOM_UPDATED, Room, RoomId, RoomToken, RoomType, RoomUpdated, SipState,
        TimerKey, Version,
    },
    store::{Available, DueBatch},
};
use uuid::Uuid;

#[derive(Default)]
pub struct Tables {
    pub rooms: BTreeMap<RoomToken, RoomRow>,
    pub outbox: BTreeMap<EventId, OutboxEntry>,
    /// When events were last applied, by their identity.
    pub inbox: BTreeMap<String, DateTime<Utc>>,
    events: u128,
    /// Rooms whose events the database refuses to change.
    pub refused_events: BTreeSet<RoomToken>,
    /// Of more new events than this, a row holds all; 0 for the number of the real stores.
    pub shared_above: usize,
}

pub struct RoomRow {
    pub room: Room,
    /// A transaction of the program has locked it.
    pub locked: bool,
    pub obstacle: Option<Obstacle>,
}

/// What is in the way of a change of a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// Another program has locked the row.
    Held,
    /// The database refuses the change.
    Refused,
    /// The change takes longer than a use of the database may.
    Slow,
}

#[derive(Clone)]
pub struct OutboxEntry {
    pub events: Vec<OutboxEvent>,
    pub attempts: u32,
    pub available_at: DateTime<Utc>,
    pub published_at: Option<DateTime<Utc>>,
    pub locked: bool,
}

/// The state of new rows.
#[derive(Clone, Copy)]
pub struct Progress {
    pub attempts: u32,
    pub available_at: DateTime<Utc>,
    pub published_at: Option<DateTime<Utc>>,
}

impl Progress {
    pub fn of_new(now: DateTime<Utc>, claimed_until: Option<DateTime<Utc>>) -> Self {
        let attempts = u32::from(claimed_until.is_some());
        Self { attempts, available_at: claimed_until.unwrap_or(now), published_at: None }
    }
}

impl Tables {
    pub fn insert_room(&mut self, token: &str, lobby: Lobby) {
        let token = RoomToken::parse(token).unwrap();
        let id = RoomId::stored(i64::try_from(self.rooms.len()).unwrap() + 1);
        let room = Room {
            id,
            token: token.clone(),
            room_type: RoomType::Public,
            name: "Webinar".to_owned(),
            description: String::new(),
            object_type: String::new(),
            object_id: String::new(),
            lobby,
            version: Version::ZERO,
            timer_reached: None,
            sip: SipState::Disabled,
            password_hash: String::new(),
            default_permissions: Permissions::DEFAULT,
            read_only: false,
            call: None,
            comments: 0,
            changed_at: 0,
        };
        self.rooms.insert(token, RoomRow { room, locked: false, obstacle: None });
    }

    /// The timers of closed rooms after a key, in their order, without some.
    fn timers(&self, after: Option<TimerKey>, except: &[TimerKey]) -> Vec<(TimerKey, &RoomRow)> {
        let rows = self.rooms.values().filter(|row| row.room.can_have_lobby());
        let timers = rows.filter_map(|row| {
            let key = TimerKey { due_at: row.room.lobby.scheduled()?, room: row.room.id };
            Some((key, row))
        });
        let mut timers: Vec<_> = timers
            .filter(|(key, _row)| after.is_none_or(|after| *key > after) && !except.contains(key))
            .collect();
        timers.sort_by_key(|(key, _row)| *key);
        timers
    }

    pub fn next_due(&self, after: Option<TimerKey>, except: &[TimerKey]) -> Option<PendingTimer> {
        let (key, row) = self.timers(after, except).into_iter().next()?;
        Some(PendingTimer { key, token: row.room.token.clone() })
    }

    /// The timers that are due at `now`, the longest overdue first, and whether each room is locked.
    pub fn due(&self, now: DateTime<Utc>, batch: &DueBatch<'_>) -> Vec<(DueTimer, bool)> {
        let timers = self.timers(batch.after, batch.except).into_iter();
        let due = timers.filter(|(key, _row)| key.due_at <= now);
        due.map(|(key, row)| {
            let Room { token, room_type, version, sip, .. } = row.room.clone();
            (DueTimer { key, token, room_type, version, sip }, row.is_locked())
        })
        .collect()
    }

    pub fn new_event(&mut self, update: &RoomUpdated, now: DateTime<Utc>) -> OutboxEvent {
        self.events += 1;
        OutboxEvent {
            id: Uuid::from_u128(self.events).into(),
            event_type: ROOM_UPDATED.to_owned(),
            token: RoomToken::parse(&update.token).unwrap(),
            data: serde_json::to_string(update).unwrap(),
            created_at: now,
            due_at: None,
        }
    }

    /// Stores events, in a row that they share if there are many. Returns the rows.
    pub fn insert_events(
        &mut self,
        events: Vec<OutboxEvent>,
        progress: Progress,
    ) -> Vec<OutboxRow> {
        let shared_above = if self.shared_above == 0 { 64 } else { self.shared_above };
        let rows: Vec<Vec<OutboxEvent>> = if events.len() > shared_above {
            vec![events]
        } else {
            events.into_iter().map(|event| vec![event]).collect()
        };
        rows.into_iter().map(|events| self.insert_row(events, progress)).collect()
    }

    /// Stores events with a row each.
    pub fn insert_each(&mut self, events: Vec<OutboxEvent>, progress: Progress) {
        for event in events {
            self.insert_row(vec![event], progress);
        }
    }

    fn insert_row(&mut self, events: Vec<OutboxEvent>, progress: Progress) -> OutboxRow {
        let Progress { attempts, available_at, published_at } = progress;
        let id = events[0].id.clone();
        let row = OutboxRow { id: id.clone(), events: events.clone(), attempt: attempts };
        let entry = OutboxEntry { events, attempts, available_at, published_at, locked: false };
        let before = self.outbox.insert(id, entry);
        assert!(before.is_none(), "an event is stored once");
        row
    }

    /// The rows that can be claimed, those first that became available first.
    pub fn available(&self, available: Available<'_>) -> Vec<(EventId, usize)> {
        let Available { after, now, except } = available;
        let mut rows: Vec<_> = self
            .outbox
            .iter()
            .filter(|(id, entry)| {
                entry.published_at.is_none()
                    && !entry.locked
                    && entry.available_at <= now
                    && after.is_none_or(|after| entry.available_at > after)
                    && !except.contains(id)
            })
            .map(|(id, entry)| (entry.available_at, id.clone(), entry.events.len()))
            .collect();
        rows.sort();
        rows.into_iter().map(|(_available_at, id, events)| (id, events)).collect()
    }

    /// Removes an unpublished row whose claim ends at this time.
    pub fn take_claimed(
        &mut self,
        id: &EventId,
        claimed_until: DateTime<Utc>,
    ) -> Option<OutboxEntry> {
        let entry = self.outbox.get(id)?;
        let is_claimed = entry.published_at.is_none() && entry.available_at == claimed_until;
        if is_claimed { self.outbox.remove(id) } else { None }
    }

    pub fn unpublished(&self) -> impl Iterator<Item = (&EventId, &OutboxEntry)> {
        self.outbox.iter().filter(|(_id, entry)| entry.published_at.is_none())
    }

    /// Whether the database refuses to change one of these rows.
    pub fn refuses_events(&self, ids: &[EventId]) -> bool {
        let mut events =
            ids.iter().filter_map(|id| self.outbox.get(id)).flat_map(|entry| &entry.events);
        events.any(|event| self.refused_events.contains(&event.token))
    }

    /// When an event of the change's identity was last applied.
    pub fn applied_at(&self, change: &IncomingChange) -> Option<DateTime<Utc>> {
        let key = &change.identity.as_ref()?.key;
        self.inbox.get(key).copied()
    }
}

impl RoomRow {
    pub fn is_locked(&self) -> bool {
        self.locked || self.obstacle == Some(Obstacle::Held)
    }
}
