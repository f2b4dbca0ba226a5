//! Compares what was asked with what has changed and what was announced.
//!
//! It must not know how lobbyd works, only what it promises. `rooms` follows each room through the
//! change log, and `messages` looks at announcements and dead letters. `tests` has a history with a
//! fault of each kind.

pub mod history;
mod messages;
mod rooms;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use history::{History, SKEW};

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
    if history.clock_step.abs() > SKEW / 2 {
        findings.clock_step = Some(history.clock_step);
        findings.violations.clear();
    }
    findings.lateness.sort_unstable();
    findings.delays.sort_unstable();
    findings
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
