//! What has happened in a simulated world, and whether it keeps the promises.
//!
//! It decides by what was asked for and by what came out, not by the program's rules. What must never
//! happen is found at the step at which it happens; what has to happen is looked for at the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use chrono::{DateTime, Utc};
use lobbyd::{
    bus::Message,
    domain::{
        ChangeOrder, DueTimer, EventId, IncomingChange, Lobby, LobbyState, RoomToken, Version,
    },
};
use serde_json::Value;
use tokio::time::Instant;

use super::{Clock, State, tables::Tables};

/// A sample of the clock can be this old when the room is reset.
const OLDEST_SAMPLE: Duration = Duration::from_secs(20);

#[derive(Default)]
pub struct History {
    /// What must not happen.
    pub violations: Vec<String>,
    /// What happened, for people, and to compare two runs.
    pub log: Vec<String>,
    begin: Option<Instant>,
    settings: BTreeMap<RoomToken, Setting>,
    /// Identities of events that were applied.
    applied: BTreeSet<String>,
    /// Changes that the database has decided, and when it did first.
    answered: BTreeMap<ChangeKey, Instant>,
    /// The bodies that were sent, and when each was first.
    sent: BTreeMap<Vec<u8>, Instant>,
    acknowledged: BTreeSet<Vec<u8>>,
    parked: BTreeSet<Vec<u8>>,
    dead_letters: BTreeSet<Vec<u8>>,
    pub resets: Vec<Reset>,
    /// The bodies that a subscriber has received, and when it received the first.
    seen: BTreeMap<EventId, (Vec<u8>, Instant)>,
    confirmed: BTreeSet<EventId>,
    /// What a client sees of the rooms.
    views: BTreeMap<RoomToken, (Version, Lobby)>,
    /// Rooms that did not exist from the beginning.
    created: BTreeSet<RoomToken>,
    /// Rooms whose changes the database has refused for a while.
    refused: BTreeSet<RoomToken>,
}

/// The newest setting of a room.
struct Setting {
    lobby: Lobby,
    version: Version,
    set_at: Instant,
    fired: bool,
}

pub struct Reset {
    pub token: RoomToken,
    due_at: DateTime<Utc>,
    /// How long it could have happened before.
    late: Duration,
    at: Instant,
    event: EventId,
    version: Version,
    /// When a client has seen it.
    viewed_at: Option<Instant>,
}

/// What tells a change from all others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct ChangeKey {
    token: String,
    timer: Option<i64>,
    version: Option<i64>,
}

impl ChangeKey {
    /// `None` if it is not a lobby change.
    fn of_body(body: &[u8]) -> Option<Self> {
        let event: Value = serde_json::from_slice(body).ok()?;
        let data = event.get("data")?;
        let token = data.get("token")?.as_str()?.to_owned();
        Some(Self { token, timer: data["timer"].as_i64(), version: data["version"].as_i64() })
    }

    fn of_change(change: &IncomingChange) -> Self {
        let is_versioned = change.identity.is_none();
        Self {
            token: change.token.to_string(),
            timer: change.lobby.timer.map(|timer| timer.timestamp()),
            version: is_versioned.then(|| change.order.version().milliseconds()),
        }
    }
}

impl History {
    /// Adds a line to the log.
    pub fn note(&mut self, line: &str) {
        let begin = *self.begin.get_or_insert_with(Instant::now);
        self.log.push(format!("{:>7} ms  {line}", begin.elapsed().as_millis()));
    }

    pub fn violation(&mut self, what: &str) {
        self.note(&format!("VIOLATION {what}"));
        self.violations.push(what.to_owned());
    }

    /// The number of lobby changes that were sent.
    pub fn changes(&self) -> usize {
        self.sent.len()
    }

    /// Another program has created a room.
    pub fn created(&mut self, token: &RoomToken) {
        self.note(&format!("created {token}"));
        self.created.insert(token.clone());
    }

    /// The database begins to refuse changes of a room.
    pub fn refused(&mut self, token: &RoomToken) {
        self.refused.insert(token.clone());
    }

    /// Another program has written the lobby into the row.
    pub fn set_by_sql(&mut self, token: &RoomToken, lobby: Lobby) {
        self.note(&format!("row {token} {}", shown(lobby)));
        let version = self.settings.get(token).map_or(Version::ZERO, |setting| setting.version);
        self.set(token, lobby, version);
    }

    pub fn set_by_event(&mut self, change: &IncomingChange) {
        let token = &change.token;
        self.note(&format!("event {token} {} {:?}", shown(change.lobby), change.order));
        let before = self.settings.get(token).map_or(Version::ZERO, |setting| setting.version);
        let version = match change.order {
            ChangeOrder::Version(version) if version <= before => {
                self.violation(&format!("P4: an older change of {token} overrides a newer one"));
                version
            }
            ChangeOrder::Version(version) => version,
            ChangeOrder::WithinSecond { .. } | ChangeOrder::ReceivedNow(_) => {
                change.order.version().max(before.next())
            }
        };
        if let Some(identity) = &change.identity
            && !self.applied.insert(identity.key.clone())
        {
            self.violation(&format!("P5: an event of {token} is applied twice"));
        }
        self.set(token, change.lobby, version);
    }

    fn set(&mut self, token: &RoomToken, lobby: Lobby, version: Version) {
        let setting = Setting { lobby, version, set_at: Instant::now(), fired: false };
        self.settings.insert(token.clone(), setting);
    }

    /// The database has decided a change.
    pub fn answered(&mut self, change: &IncomingChange) {
        self.answered.entry(ChangeKey::of_change(change)).or_insert_with(Instant::now);
    }

    /// A change was found to be older than its room, or to repeat another one.
    pub fn found_stale(&mut self, change: &IncomingChange) {
        let token = &change.token;
        let is_repeated = self.answered.contains_key(&ChangeKey::of_change(change));
        let has_fired = change.identity.is_some()
            && self.resets.iter().any(|reset| {
                reset.token == *token && Some(reset.due_at) >= change.lobby.scheduled()
            });
        let before = self.settings.get(token).map_or(Version::ZERO, |setting| setting.version);
        if !is_repeated && !has_fired && change.order.after(before).is_some() {
            self.violation(&format!("P4: a new change of {token} is taken for an old one"));
        }
    }

    /// A room is reset by its timer.
    pub fn reset(&mut self, timer: &DueTimer, event: &EventId, clock: &Clock) {
        let (token, due_at) = (&timer.token, timer.key.due_at);
        self.note(&format!("reset {token} due {}", due_at.timestamp()));
        let Some(setting) = self.settings.get_mut(token) else {
            return self.violation(&format!("P4: {token} has no timer and is reset"));
        };
        let since = setting.set_at.checked_sub(OLDEST_SAMPLE).unwrap_or(setting.set_at);
        let fault = if due_at > clock.latest_since(since) {
            Some("P1: is reset early")
        } else if setting.fired {
            Some("P2: is reset twice by one setting")
        } else if setting.lobby.scheduled() != Some(due_at) {
            Some("P4: is reset by a timer that is not its newest")
        } else {
            None
        };
        (setting.fired, setting.version) = (true, setting.version.next());
        if let Some(fault) = fault {
            self.violation(&format!("{fault} ({token})"));
        }
        let late = self.overdue(token, due_at, clock).unwrap_or_default();
        let (token, at, event) = (token.clone(), Instant::now(), event.clone());
        let version = timer.next_version();
        self.resets.push(Reset { token, due_at, late, at, event, version, viewed_at: None });
    }

    /// For how long a timer could have fired: it may have been set after its time.
    pub fn overdue(
        &self,
        token: &RoomToken,
        due_at: DateTime<Utc>,
        clock: &Clock,
    ) -> Option<Duration> {
        let age = (clock.now() - due_at).to_std().ok()?;
        let known = self.settings.get(token).map(|setting| setting.set_at.elapsed());
        Some(known.map_or(age, |known| known.min(age)))
    }

    pub fn sent(&mut self, message: &Message) {
        self.note(&format!("sent {}", String::from_utf8_lossy(&message.body)));
        self.sent.entry(message.body.clone()).or_insert_with(Instant::now);
    }

    pub fn acknowledged(&mut self, body: &[u8]) {
        if !self.is_decided(body) && !self.parked.contains(body) {
            let body = String::from_utf8_lossy(body).into_owned();
            self.violation(&format!("P6: acknowledged without effect: {body}"));
        }
        self.acknowledged.insert(body.to_owned());
    }

    /// Whether the database has decided what is in this body, or it is a dead letter.
    fn is_decided(&self, body: &[u8]) -> bool {
        let key = ChangeKey::of_body(body);
        key.is_some_and(|key| self.answered.contains_key(&key)) || self.dead_letters.contains(body)
    }

    pub fn parked(&mut self, body: &[u8]) {
        self.parked.insert(body.to_owned());
    }

    pub fn dead_letter(&mut self, body: &[u8], reason: &str, clock: &Clock, tables: &Tables) {
        self.note(&format!("dead letter {} ({reason})", String::from_utf8_lossy(body)));
        self.dead_letters.insert(body.to_owned());
        let Some(key) = ChangeKey::of_body(body) else { return };
        let token = RoomToken::parse(&key.token).unwrap();
        let was_stepped = clock.stepped_at().is_some();
        let is_allowed = if reason.contains("unknown room") {
            // By the database's clock it may have waited for long enough.
            !tables.rooms.contains_key(&token) || was_stepped && self.created.contains(&token)
        } else if reason.contains("event from the future") {
            was_stepped
        } else {
            reason.contains("a trigger refuses it") && self.refused.contains(&token)
        };
        if !is_allowed {
            self.violation(&format!("P5: a good event of {token} is a dead letter: {reason}"));
        }
    }

    /// A subscriber receives an update.
    pub fn published(&mut self, message: &Message) {
        let (id, body) = (message.id.clone(), message.body.clone());
        self.note(&format!("published {id} to {}", message.routing_key));
        let (first, _at) = self.seen.entry(id).or_insert_with(|| (body.clone(), Instant::now()));
        if *first != body {
            self.violation("P3: an event is published with two contents");
        }
    }

    pub fn confirmed(&mut self, id: &EventId) {
        self.confirmed.insert(id.clone());
    }

    /// Events are recorded as published.
    pub fn marked(&mut self, events: &[lobbyd::domain::OutboxEvent]) {
        for event in events {
            if !self.confirmed.contains(&event.id) {
                self.violation(&format!("P3: {} is marked before its confirm", event.id));
            }
        }
    }

    /// A client of one process sees a room.
    pub fn viewed(&mut self, token: &RoomToken, version: Version, lobby: Lobby) {
        let seen = |reset: &&mut Reset| reset.token == *token && reset.version <= version;
        for reset in self.resets.iter_mut().filter(seen) {
            reset.viewed_at.get_or_insert_with(Instant::now);
        }
        let before = self.views.insert(token.clone(), (version, lobby));
        if before.is_some_and(|(before, _lobby)| version < before) {
            self.violation(&format!("P4: a client sees an older state of {token}"));
        }
    }

    /// The process of the client is another one.
    pub fn forget_views(&mut self) {
        self.views.clear();
    }

    /// Healthy rooms whose reset is in the outbox and no subscriber has learned of, and for how long.
    /// What is older than a step of the clock looks younger, also by a sample from before it.
    pub fn unannounced(
        &self,
        tables: &Tables,
        clock: &Clock,
        is_healthy: impl Fn(&RoomToken) -> bool,
    ) -> impl Iterator<Item = (String, Duration)> {
        let stored = tables.unpublished().flat_map(|(_id, entry)| &entry.events);
        let stored: BTreeSet<EventId> = stored.map(|event| event.id.clone()).collect();
        let stepped_at = clock.stepped_at();
        let resets = self.resets.iter().filter(move |reset| {
            stored.contains(&reset.event)
                && !self.seen.contains_key(&reset.event)
                && stepped_at.is_none_or(|stepped_at| stepped_at + OLDEST_SAMPLE < reset.at)
                && is_healthy(&reset.token)
        });
        resets.map(|reset| (format!("{} is not announced", reset.token), reset.at.elapsed()))
    }

    /// Finds what took longer than this for rooms that nothing is wrong with: from the time of a timer
    /// to its reset, from that to its announcement, and on to the view of a client; and from the
    /// publication of a change to the decision about it. Returns the longest time that one took.
    pub fn check_pace(
        &mut self,
        bound: Duration,
        is_healthy: impl Fn(&RoomToken) -> bool,
    ) -> Duration {
        let now = Instant::now();
        let mut times = Vec::new();
        for reset in self.resets.iter().filter(|reset| is_healthy(&reset.token)) {
            let announced_at = self.seen.get(&reset.event).map_or(now, |(_, at)| *at);
            let viewed_at = reset.viewed_at.unwrap_or(now);
            let token = &reset.token;
            times.push((format!("{token} is opened"), reset.late));
            times.push((format!("{token} is announced"), announced_at - reset.at));
            times.push((format!("a client sees {token} open"), viewed_at - announced_at));
        }
        for (body, sent_at) in &self.sent {
            let Some(key) = ChangeKey::of_body(body) else { continue };
            if is_healthy(&RoomToken::parse(&key.token).unwrap()) {
                let answered_at = self.answered.get(&key).copied().unwrap_or(now);
                times.push((
                    format!("a change of {} is applied", key.token),
                    answered_at - *sent_at,
                ));
            }
        }
        for (what, time) in times.iter().filter(|(_what, time)| *time > bound) {
            self.violation(&format!("P9: {what} {time:?} late"));
        }
        times.into_iter().map(|(_what, time)| time).max().unwrap_or_default()
    }
}

impl State {
    /// What has yet to happen.
    pub fn unfinished(&self) -> Vec<String> {
        let (history, tables) = (&self.history, &self.tables);
        let mut unfinished = Vec::new();
        for reset in &history.resets {
            if !history.seen.contains_key(&reset.event) {
                unfinished.push(format!("P3: the reset of {} is not announced", reset.token));
            }
        }
        if let Some((id, _entry)) = tables.unpublished().next() {
            unfinished.push(format!("P7: event {id} is not published"));
        }
        for body in history.sent.keys() {
            let text = String::from_utf8_lossy(body);
            if !history.acknowledged.contains(body) {
                unfinished.push(format!("P6: not acknowledged: {text}"));
            }
            if !history.is_decided(body) {
                unfinished.push(format!("P6: neither applied nor a dead letter: {text}"));
            }
        }
        unfinished.extend(history.wrong_rooms(tables, self.clock.now()));
        unfinished
    }
}

impl History {
    fn wrong_rooms(&self, tables: &Tables, now: DateTime<Utc>) -> Vec<String> {
        let mut wrong = Vec::new();
        for (token, row) in &tables.rooms {
            let room = &row.room;
            if room.lobby.scheduled().is_some_and(|timer| timer <= now) {
                wrong.push(format!("P7: {token} is due and closed"));
            }
            if self.views.get(token) != Some(&(room.version, room.lobby)) {
                wrong.push(format!("P4: clients do not see {token} as it is"));
            }
            let Some(setting) = self.settings.get(token) else { continue };
            let expected = if setting.fired { Lobby::OPEN } else { setting.lobby };
            if room.lobby != expected {
                wrong.push(format!("P4: {token} is {}", shown(room.lobby)));
            }
            let newest = self.answered.keys().filter(|key| key.token == token.as_str());
            let newest = newest.filter_map(|key| key.version).max();
            if newest.is_some_and(|newest| newest > setting.version.milliseconds()) {
                wrong.push(format!("P4: {token} is not as its newest change sets it"));
            }
        }
        wrong
    }
}

fn shown(lobby: Lobby) -> String {
    match (lobby.state, lobby.timer) {
        (LobbyState::None, _) => "open".to_owned(),
        (LobbyState::NonModerators, None) => "closed".to_owned(),
        (LobbyState::NonModerators, Some(timer)) => format!("closed until {}", timer.timestamp()),
    }
}
