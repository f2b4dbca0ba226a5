//! Compares announcements with the changes, and dead letters with what was published.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Broken, Findings, grouped,
    history::{Announcement, Change, History},
    rooms::{Asked, is_replaced},
};

pub(super) fn check(history: &History, asked: &Asked<'_>, findings: &mut Findings) {
    let announced = grouped(&history.announcements, |it| (it.token.as_str(), it.version));
    check_ids(history, &announced, findings);
    for change in own_changes(history) {
        if !announced.contains_key(&(change.token.as_str(), change.after.version)) {
            findings.add(Broken::Unannounced, format!("{change:?}"));
        }
    }
    check_causes(history, asked, findings);
    for message in &history.unreadable {
        findings.add(Broken::Unasked, format!("cannot be read: {message}"));
    }
    check_dead_letters(history, findings);
}

type Announced<'a> = BTreeMap<(&'a str, i64), Vec<&'a Announcement>>;

/// Each change has one id and one body, and each timer of a room one announcement.
fn check_ids(history: &History, announced: &Announced<'_>, findings: &mut Findings) {
    for (change, messages) in announced {
        let ids: BTreeSet<&str> = messages.iter().map(|it| it.id.as_str()).collect();
        if ids.len() > 1 {
            findings.add(Broken::Twice, format!("{change:?} is announced with the ids {ids:?}"));
        }
        let published = messages.iter().filter(|it| !it.is_redelivered).count();
        findings.duplicates += published.saturating_sub(1);
    }
    for (id, messages) in grouped(&history.announcements, |it| it.id.as_str()) {
        let bodies: BTreeSet<&str> = messages.iter().map(|it| it.body.as_str()).collect();
        if bodies.len() > 1 {
            findings.add(Broken::Twice, format!("{id} announces {bodies:?}"));
        }
    }
    let resets = history.announcements.iter().filter(|it| it.is_reset);
    for (timer, messages) in grouped(resets, |it| (it.token.as_str(), it.due_at)) {
        let ids: BTreeSet<&str> = messages.iter().map(|it| it.id.as_str()).collect();
        if ids.len() > 1 {
            findings.add(Broken::Twice, format!("timer {timer:?} is announced as {ids:?}"));
        }
        if messages.iter().any(|it| it.fired_at < it.due_at) {
            findings.add(Broken::Early, format!("{messages:?}"));
        }
    }
}

/// Each message is about a change, and says what that is.
fn check_causes(history: &History, asked: &Asked<'_>, findings: &mut Findings) {
    let changes: BTreeMap<(&str, i64), &Change> = own_changes(history)
        .map(|change| ((change.token.as_str(), change.after.version), change))
        .collect();
    let by_room = grouped(&history.changes, |change| change.token.as_str());
    for message in &history.announcements {
        let token = message.token.as_str();
        let is_replaced = || by_room.get(token).is_some_and(|it| is_replaced(it, message.version));
        match changes.get(&(token, message.version)) {
            Some(change) if !is_about(message, change) => {
                findings
                    .add(Broken::Unannounced, format!("{change:?} is not what {message:?} says"));
            }
            Some(_change) => {}
            None if message.is_reset => {
                findings.add(Broken::Unasked, format!("no such reset: {message:?}"));
            }
            None if asked.explains(message) && is_replaced() => {}
            None => findings.add(Broken::Unasked, format!("no such change: {message:?}")),
        }
    }
}

/// The changes that lobbyd has made. Clients that change rooms by SQL announce that themselves.
fn own_changes(history: &History) -> impl Iterator<Item = &Change> {
    history.changes.iter().filter(|change| change.op.is_none())
}

fn is_about(message: &Announcement, change: &Change) -> bool {
    let is_reset = change.is_reset();
    let due_at = change.before.timer.filter(|_| is_reset).map(|timer| timer * 1000);
    let lobby = (change.after.state, change.after.timer);
    (message.state, message.timer) == lobby
        && (message.is_reset, message.due_at) == (is_reset, due_at)
}

fn check_dead_letters(history: &History, findings: &mut Findings) {
    let expected: BTreeSet<&[u8]> =
        history.expected_dead_letters.iter().map(|it| it.body.as_slice()).collect();
    let found: BTreeSet<&[u8]> = history.dead_letters.iter().map(Vec::as_slice).collect();
    let text = |body: &[u8]| String::from_utf8_lossy(body).chars().take(200).collect::<String>();
    for body in found.difference(&expected) {
        findings.add(Broken::DeadLetter, format!("does not belong there: {}", text(body)));
    }
    for missing in history.expected_dead_letters.iter().filter(|it| it.required) {
        if !found.contains(missing.body.as_slice()) {
            findings.add(Broken::DeadLetter, format!("missing: {}", text(&missing.body)));
        }
    }
}
