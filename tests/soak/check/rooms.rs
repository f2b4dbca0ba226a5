//! Follows each room through the change log: every change is a reset of the timer that was set, or
//! the effect of one setting.

use std::collections::{BTreeSet, HashMap};

use super::{
    Broken, Findings, grouped,
    history::{Announcement, Change, History, Route, Row, SKEW, Setting},
};

/// The settings by events, by what an announcement shows of them. They may have made a change that the
/// log does not have, because a newer one followed in the same transaction.
pub(super) struct Asked<'a> {
    by_version: HashMap<(&'a str, i64), &'a Setting>,
    /// Those without a version.
    by_timer: HashMap<(&'a str, i64), &'a Setting>,
}

impl Asked<'_> {
    /// Whether an event has asked for what a message announces.
    pub(super) fn explains(&self, message: &Announcement) -> bool {
        let token = message.token.as_str();
        let by_version = self.by_version.get(&(token, message.version));
        let by_timer = message.timer.and_then(|timer| self.by_timer.get(&(token, timer)));
        [by_version, by_timer]
            .into_iter()
            .flatten()
            .any(|it| (it.state, it.timer) == (message.state, message.timer))
    }
}

/// Whether one transaction has replaced a version before it could be logged: a change of the room
/// leads from an older to a newer one.
pub(super) fn is_replaced(changes: &[&Change], version: i64) -> bool {
    changes.iter().any(|change| change.before.version < version && version < change.after.version)
}

pub(super) fn check<'a>(history: &'a History, findings: &mut Findings) -> Asked<'a> {
    let settings = grouped(&history.settings, |setting| setting.token.as_str());
    let changes = grouped(&history.changes, |change| change.token.as_str());
    let announcements = grouped(&history.announcements, |it| it.token.as_str());
    let mut asked = Asked { by_version: HashMap::new(), by_timer: HashMap::new() };
    let none = Vec::new();
    let tokens: BTreeSet<&str> = settings.keys().chain(changes.keys()).copied().collect();
    for token in tokens {
        let settings = settings.get(token).unwrap_or(&Vec::new()).clone();
        for setting in &settings {
            if let Route::Event { version } = setting.route {
                asked.by_version.insert((token, version), setting);
            }
            if let (Route::Bare, Some(timer)) = (setting.route, setting.timer) {
                asked.by_timer.insert((token, timer), setting);
            }
        }
        let mut room = Room {
            token,
            history,
            settings,
            changes: changes.get(token).unwrap_or(&Vec::new()).clone(),
            announcements: announcements.get(token).unwrap_or(&none),
            used: BTreeSet::new(),
            made: Vec::new(),
        };
        room.follow(findings);
        room.check_end(findings);
    }
    asked
}

struct Room<'a> {
    token: &'a str,
    history: &'a History,
    settings: Vec<&'a Setting>,
    changes: Vec<&'a Change>,
    announcements: &'a [&'a Announcement],
    /// Settings that have made a change.
    used: BTreeSet<usize>,
    /// The versions of the changes that settings have made.
    made: Vec<i64>,
}

impl Room<'_> {
    fn follow(&mut self, findings: &mut Findings) {
        let (mut row, mut set_at) = (Row::default(), 0);
        let mut fired = BTreeSet::new();
        for change in self.changes.clone() {
            if change.before != row {
                findings.add(Broken::Unasked, format!("{change:?}: before it was {row:?}"));
            }
            row = change.after;
            if change.after.version <= change.before.version {
                findings.add(Broken::StaleWon, format!("{change:?}: no newer version"));
            }
            if change.is_reset() {
                self.check_reset(change, &mut fired, set_at, findings);
                continue;
            }
            set_at = change.at;
            findings.overruled += usize::from(change.before.timer.is_some());
            findings.timers += usize::from(change.after.timer.is_some());
            self.explain(change, findings);
        }
    }

    fn check_reset(
        &self,
        change: &Change,
        fired: &mut BTreeSet<i64>,
        set_at: i64,
        findings: &mut Findings,
    ) {
        let timer = change.before.timer.unwrap_or_default();
        findings.opened += 1;
        if change.at < timer * 1000 {
            findings.add(Broken::Early, format!("{change:?}"));
        }
        if !fired.insert(timer) {
            findings.add(Broken::Twice, format!("{change:?}: the timer has fired before"));
        }
        if !self.history.held.contains(self.token) {
            findings.lateness.push(change.at - set_at.max(timer * 1000));
        }
    }

    /// Finds the setting that has made a change.
    fn explain(&mut self, change: &Change, findings: &mut Findings) {
        let Some(setting) = self.cause(change) else {
            let stale = self.settings.iter().find(|setting| {
                matches!(setting.route, Route::Event { .. })
                    && setting.timer.is_some()
                    && setting.timer == change.after.timer
            });
            match stale {
                Some(stale) => {
                    findings.add(Broken::StaleWon, format!("{change:?} by {stale:?}"));
                }
                None => findings.add(Broken::Unasked, format!("{change:?}")),
            }
            return;
        };
        findings.unknown_made += usize::from(setting.confirmed_at.is_none());
        self.made.push(change.after.version);
        let is_event = matches!(setting.route, Route::Event { .. } | Route::Bare);
        if let Some(confirmed_at) = setting.confirmed_at
            && is_event
            && !self.history.held.contains(self.token)
        {
            findings.delays.push((change.at - confirmed_at).max(0));
        }
        if !self.used.insert(setting.op) {
            findings.add(Broken::Twice, format!("{change:?} by {setting:?}"));
        }
    }

    fn cause(&self, change: &Change) -> Option<Setting> {
        let is_equal = |setting: &&&Setting| {
            setting.state == change.after.state && setting.timer == change.after.timer
        };
        let mut equal = self.settings.iter().filter(is_equal);
        let found = match change.op {
            Some(op) => equal.find(|setting| setting.op == op),
            None => equal
                .find(|setting| match setting.route {
                    Route::Event { version } => version == change.after.version,
                    Route::Bare => setting.asked_at <= change.at + SKEW,
                    Route::Sql | Route::Http => false,
                })
                .or_else(|| self.request(change)),
        };
        found.copied().cloned()
    }

    /// Finds the HTTP request that has made a change: one that was answered after it, otherwise one
    /// without an answer.
    fn request(&self, change: &Change) -> Option<&&Setting> {
        let makes = |setting: &&&Setting| {
            let is_equal =
                setting.state == change.after.state && setting.timer == change.after.timer;
            // A request for a timer that is over opens the room.
            let is_over = setting.timer.is_some_and(|timer| timer * 1000 <= change.at);
            let is_asked = setting.asked_at <= change.at + SKEW;
            let makes = is_equal || (is_over && change.after.state == 0);
            setting.route == Route::Http && makes && is_asked
        };
        let is_unused = |setting: &&&Setting| !self.used.contains(&setting.op);
        let requests = || self.settings.iter().filter(makes);
        let is_answered = |setting: &&&Setting| {
            setting.confirmed_at.is_some_and(|confirmed_at| change.at <= confirmed_at + SKEW)
        };
        requests()
            .filter(is_unused)
            .find(is_answered)
            .or_else(|| requests().filter(is_unused).find(|it| it.confirmed_at.is_none()))
            .or_else(|| requests().next())
    }

    fn check_end(&self, findings: &mut Findings) {
        let last = self.changes.last().map_or_else(Row::default, |change| change.after);
        let room = self.history.rooms.get(self.token).copied().unwrap_or_default();
        if room != last {
            let text = format!("{}: {room:?}, by the log {last:?}", self.token);
            findings.add(Broken::Unasked, text);
        }
        let is_due = room.timer.is_some_and(|timer| timer * 1000 < self.history.ended_at);
        if room.state == 1 && is_due && !self.history.refused.contains(self.token) {
            findings.add(Broken::Lost, format!("{}: {room:?} is due", self.token));
        }
        for setting in &self.settings {
            if setting.confirmed_at.is_none() || self.used.contains(&setting.op) {
                continue;
            }
            if self.is_overtaken(setting) {
                findings.overtaken += 1;
            } else {
                findings.add(Broken::Lost, format!("no effect: {setting:?}"));
            }
        }
    }

    /// Whether a newer setting explains that a confirmed one has no change of its own. That it was
    /// announced proves nothing, unless a logged change has replaced it.
    fn is_overtaken(&self, setting: &Setting) -> bool {
        let is_newer = |version: i64| self.made.iter().any(|made| *made >= version);
        match setting.route {
            Route::Event { version } => is_newer(version),
            Route::Bare => {
                let mut announced =
                    self.announcements.iter().filter(|it| it.timer == setting.timer);
                // Such an event repeats a timer that has already fired, by all that it says.
                let mut fired = self.changes.iter().filter(|change| change.is_reset());
                let has_fired =
                    setting.timer.is_some() && fired.any(|it| it.before.timer >= setting.timer);
                is_newer(setting.asked_at)
                    || has_fired
                    || announced.any(|it| is_replaced(&self.changes, it.version))
            }
            Route::Sql | Route::Http => false,
        }
    }
}
