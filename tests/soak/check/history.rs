//! What is compared: what was asked, what has changed, and what was announced. Plain values.
//!
//! No room has two settings with the same timer, so that a timer names its setting. No room is used
//! twice, so that a setting is overtaken only by those that follow it within seconds.

use std::collections::{BTreeMap, BTreeSet};

/// How far the clock of the clients may be from that of the database, in milliseconds.
pub const SKEW: i64 = 200;

/// The lobby of a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Row {
    pub state: i64,
    /// Unix seconds.
    pub timer: Option<i64>,
    pub version: i64,
}

/// How a setting was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// By an event with this version.
    Event {
        version: i64,
    },
    /// By an event without version.
    Bare,
    /// By a statement. The change log names the setting.
    Sql,
    Http,
}

/// What a client has asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    pub op: usize,
    pub token: String,
    pub route: Route,
    pub state: i64,
    pub timer: Option<i64>,
    /// Milliseconds since 1970, as all times of the history.
    pub asked_at: i64,
    /// By the publisher confirm, the commit or the response.
    pub confirmed_at: Option<i64>,
}

/// A change of a room, in the order of their commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The setting, if a client's own statement made it.
    pub op: Option<usize>,
    pub at: i64,
    pub token: String,
    pub before: Row,
    pub after: Row,
    /// The timer that last reset the room.
    pub reached: Option<i64>,
}

impl Change {
    /// Whether a timer has made it.
    pub fn is_reset(&self) -> bool {
        let fired = self.before.timer.is_some() && self.reached == self.before.timer;
        self.op.is_none() && fired && self.after.state == 0 && self.before.state == 1
    }
}

/// A message about a room, as a subscriber has received it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    pub id: String,
    pub token: String,
    pub version: i64,
    pub is_reset: bool,
    /// The lobby of the room after the change.
    pub state: i64,
    pub timer: Option<i64>,
    /// Milliseconds since 1970, of a reset.
    pub due_at: Option<i64>,
    pub fired_at: Option<i64>,
    /// Whether the broker may have delivered it before.
    pub is_redelivered: bool,
    /// All that the message says, with its time in milliseconds.
    pub body: String,
}

/// A message that is in the dead-letter queue at the end, or may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    pub body: Vec<u8>,
    /// Whether it has to be there.
    pub required: bool,
}

/// What a worker answered to whether it is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub worker: String,
    pub at: i64,
    pub is_ready: bool,
    /// How long it has been running undisturbed, in milliseconds.
    pub running: i64,
    /// The room that was overdue for longest, both before and after the answer.
    pub overdue: Option<Overdue>,
}

/// A room whose timer is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overdue {
    pub token: String,
    /// Unix seconds.
    pub timer: i64,
    /// How long ago it was first seen to be over, in milliseconds.
    pub seen: i64,
}

#[derive(Debug, Clone, Default)]
pub struct History {
    pub settings: Vec<Setting>,
    pub changes: Vec<Change>,
    pub announcements: Vec<Announcement>,
    /// Messages to subscribers that could not be read.
    pub unreadable: Vec<String>,
    /// The bodies in the dead-letter queue.
    pub dead_letters: Vec<Vec<u8>>,
    pub expected_dead_letters: Vec<DeadLetter>,
    pub answers: Vec<Answer>,
    /// The rooms at the end.
    pub rooms: BTreeMap<String, Row>,
    /// Rooms that the database refused to open until the end.
    pub refused: BTreeSet<String>,
    /// Rooms that were locked or refused for a time: nothing is said about how late they were.
    pub held: BTreeSet<String>,
    pub ended_at: i64,
    /// How many milliseconds the database's clock is ahead of that of the clients at the end.
    pub clock_step: i64,
}

impl History {
    /// All that is known about the rooms that a text names.
    pub fn story(&self, text: &str) -> Vec<String> {
        let words: BTreeSet<&str> = text.split(|letter: char| !letter.is_alphanumeric()).collect();
        let names = |token: &String| words.contains(token.as_str());
        let mut lines: Vec<(i64, String)> = Vec::new();
        for it in self.settings.iter().filter(|it| names(&it.token)) {
            lines.push((it.asked_at, format!("{it:?}")));
        }
        for it in self.changes.iter().filter(|it| names(&it.token)) {
            lines.push((it.at, format!("{it:?}")));
        }
        lines.sort();
        let announced = self.announcements.iter().filter(|it| names(&it.token));
        let announced = announced.map(|it| format!("{it:?}"));
        lines.into_iter().map(|(_at, line)| line).chain(announced).collect()
    }
}
