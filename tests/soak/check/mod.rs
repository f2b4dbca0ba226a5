//! Compares what was asked with what has changed and what was announced.
//!
//! It must not know how lobbyd works, only what it promises. `rooms` follows each room through the
//! change log, `messages` looks at announcements and dead letters, and `readiness` at what workers said
//! of themselves. `tests` has a history with a fault of each kind.

pub mod history;
mod messages;
pub mod readiness;
mod rooms;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use history::{History, Route, SKEW, Setting};

/// A promise that was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Broken {
    /// P1: a room was reset before its timer.
    Early,
    /// P2: one setting took effect twice, or one change was announced as two.
    Twice,
    /// P3, P6, P7: a timer did not fire, or a confirmed setting had no effect.
    Lost,
    /// P3: a change was not announced, or as another one.
    Unannounced,
    /// P4: an older setting won.
    StaleWon,
    /// P5: a bad event is missing from the dead letters, or a good one is there.
    DeadLetter,
    /// Nobody has asked for a change or an announcement.
    Unasked,
    /// P10: a worker was ready while a room was overdue.
    Green,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub broken: Broken,
    pub what: String,
}

/// What was found in a history.
#[derive(Debug, Default)]
pub struct Findings {
    pub violations: Vec<Violation>,
    /// How many milliseconds the clock of the machine was stepped by, if by so many that nothing can
    /// be compared.
    pub clock_step: Option<i64>,
    /// Routes by which so few settings were confirmed that the run says nothing about them.
    pub failed_routes: Vec<String>,
    /// Timers that took effect, by whatever route.
    pub timers: usize,
    /// Rooms that a timer has opened.
    pub opened: usize,
    /// Timers that were moved, cancelled or overruled before they fired.
    pub overruled: usize,
    /// Confirmed events that a newer setting has overtaken before they had an effect.
    pub overtaken: usize,
    /// Settings without answer that took effect.
    pub unknown_made: usize,
    /// Announcements that were published again.
    pub duplicates: usize,
    /// Answers of workers to whether they are ready.
    pub answers: usize,
    /// Those while a room was overdue for long.
    pub overdue: usize,
    /// How late rooms were opened, in milliseconds, sorted.
    pub lateness: Vec<i64>,
    /// How long after its publisher confirm an event was applied, likewise.
    pub delays: Vec<i64>,
}

impl Findings {
    fn add(&mut self, broken: Broken, what: String) {
        self.violations.push(Violation { broken, what });
    }

    pub fn number(&self, broken: Broken) -> usize {
        self.violations.iter().filter(|violation| violation.broken == broken).count()
    }
}

/// The value below which this share of sorted values are.
pub fn percentile(sorted: &[i64], share: f64) -> i64 {
    let count = u32::try_from(sorted.len().saturating_sub(1)).unwrap();
    let index = index_of((f64::from(count) * share).floor());
    sorted.get(index).copied().unwrap_or_default()
}

#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "there is no other conversion, and the number is small and not negative"
)]
fn index_of(number: f64) -> usize {
    number as usize
}

pub fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    let asked = rooms::check(history, &mut findings);
    messages::check(history, &asked, &mut findings);
    readiness::check(history, &mut findings);
    check_routes(history, &mut findings);
    if history.clock_step.abs() > SKEW / 2 {
        findings.clock_step = Some(history.clock_step);
        findings.violations.clear();
    }
    findings.lateness.sort_unstable();
    findings.delays.sort_unstable();
    findings
}

/// One of so many settings of each route has to be confirmed. Most may stay without an answer on a busy
/// machine.
const CONFIRMED: usize = 50;

fn check_routes(history: &History, findings: &mut Findings) {
    let routes = grouped(&history.settings, |setting| match setting.route {
        Route::Event { .. } | Route::Bare => "event",
        Route::Sql => "SQL",
        Route::Http => "HTTP",
    });
    for name in ["event", "SQL", "HTTP"] {
        let settings = routes.get(name).map_or(&[][..], Vec::as_slice);
        let confirmed = settings.iter().filter(|setting| setting.confirmed_at.is_some());
        let (asked, confirmed) = (requests(settings.iter()), requests(confirmed));
        if confirmed == 0 || confirmed * CONFIRMED < asked {
            findings.failed_routes.push(format!("{confirmed} of {asked} settings by {name}"));
        }
    }
}

/// The number of requests that have asked for settings.
fn requests<'a>(settings: impl Iterator<Item = &'a &'a Setting>) -> usize {
    settings.map(|setting| setting.op).collect::<BTreeSet<_>>().len()
}

/// Groups by a key, in order.
fn grouped<'a, T, K: Ord>(
    items: impl IntoIterator<Item = &'a T>,
    key: impl Fn(&'a T) -> K,
) -> BTreeMap<K, Vec<&'a T>> {
    let mut groups: BTreeMap<K, Vec<&T>> = BTreeMap::new();
    for item in items {
        groups.entry(key(item)).or_default().push(item);
    }
    groups
}
