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
    /// Changes that the database has decided.
    answered: BTreeSet<ChangeKey>,
    sent: BTreeSet<Vec<u8>>,
    acknowledged: BTreeSet<Vec<u8>>,
    parked: BTreeSet<Vec<u8>>,
    dead_letters: BTreeSet<Vec<u8>>,
    pub resets: Vec<Reset>,
    /// The bodies that a subscriber has received, and when it received the first.
    seen: BTreeMap<EventId, (Vec<u8>, Instant)>,
    confirmed: BTreeSet<EventId>,
    /// What a client sees of the rooms.
    views: BTreeMap<RoomToken, (Version, Lobby)>,
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
    /// How long it could have happened before.
    late: Duration,
    at: Instant,
    event: EventId,
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
    fn note(&mut self, line: &str) {
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

    /// Something that the scenario does.
    pub fn happens(&mut self, what: &str) {
        self.note(what);
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
        self.answered.insert(ChangeKey::of_change(change));
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
        let (at, event) = (Instant::now(), event.clone());
        self.resets.push(Reset { token: token.clone(), late, at, event });
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
        self.sent.insert(message.body.clone());
    }

    pub fn acknowledged(&mut self, body: &[u8]) {
        let is_answered = ChangeKey::of_body(body).is_some_and(|key| self.answered.contains(&key));
        if !is_answered && !self.parked.contains(body) && !self.dead_letters.contains(body) {
            let body = String::from_utf8_lossy(body).into_owned();
            self.violation(&format!("P6: acknowledged without effect: {body}"));
        }
        self.acknowledged.insert(body.to_owned());
    }

    pub fn parked(&mut self, body: &[u8]) {
        self.parked.insert(body.to_owned());
    }

    pub fn dead_letter(&mut self, body: &[u8], reason: &str, clock_was_stepped: bool) {
        self.note(&format!("dead letter {} ({reason})", String::from_utf8_lossy(body)));
        let allowed = [
            ("unknown room unknown", true),
            // By the database's clock it may have waited for long enough.
            ("unknown room", clock_was_stepped),
            ("event from the future", clock_was_stepped),
            ("a trigger refuses it", true),
        ];
        let is_allowed = allowed.iter().any(|(text, allowed)| *allowed && reason.contains(text));
        if ChangeKey::of_body(body).is_some() && !is_allowed {
            self.violation(&format!("P5: a good event is a dead letter: {reason}"));
        }
        self.dead_letters.insert(body.to_owned());
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
        let before = self.views.insert(token.clone(), (version, lobby));
        if before.is_some_and(|(before, _lobby)| version < before) {
            self.violation(&format!("P4: a client sees an older state of {token}"));
        }
    }

    /// The process of the client is another one.
    pub fn forget_views(&mut self) {
        self.views.clear();
    }

    /// Healthy rooms whose reset no subscriber has learned of, and for how long.
    pub fn unannounced(
        &self,
        is_healthy: impl Fn(&RoomToken) -> bool,
    ) -> impl Iterator<Item = (String, Duration)> {
        let resets = self
            .resets
            .iter()
            .filter(move |reset| is_healthy(&reset.token) && !self.seen.contains_key(&reset.event));
        resets.map(|reset| (format!("{} is not announced", reset.token), reset.at.elapsed()))
    }

    /// Finds resets that took longer than this after their time, or whose announcement did, of rooms
    /// that nothing is wrong with. Returns the longest time that one took.
    pub fn check_pace(
        &mut self,
        bound: Duration,
        is_healthy: impl Fn(&RoomToken) -> bool,
    ) -> Duration {
        let (mut late, mut latest) = (Vec::new(), Duration::ZERO);
        for reset in self.resets.iter().filter(|reset| is_healthy(&reset.token)) {
            let announced = self.seen.get(&reset.event).map_or_else(Instant::now, |(_, at)| *at);
            let (token, opened, announced) = (&reset.token, reset.late, announced - reset.at);
            latest = latest.max(opened).max(announced);
            if opened > bound {
                late.push(format!("P9: {token} is opened {opened:?} late"));
            }
            if announced > bound {
                late.push(format!("P9: {token} is announced {announced:?} after its reset"));
            }
        }
        for late in late {
            self.violation(&late);
        }
        latest
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
        for body in history.sent.difference(&history.acknowledged) {
            let body = String::from_utf8_lossy(body);
            unfinished.push(format!("P6: not acknowledged: {body}"));
        }
        for body in &history.sent {
            if ChangeKey::of_body(body).is_none() && !history.dead_letters.contains(body) {
                let body = String::from_utf8_lossy(body);
                unfinished.push(format!("P5: no dead letter: {body}"));
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
            let newest = self.answered.iter().filter(|key| key.token == token.as_str());
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
