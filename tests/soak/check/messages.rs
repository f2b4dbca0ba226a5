//! Compares announcements with the changes, and dead letters with what was published.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Broken, Findings, grouped,
    history::{Announcement, Change, History},
    rooms::{Asked, is_replaced, resets},
};

pub(super) fn check(history: &History, asked: &Asked<'_>, findings: &mut Findings) {
    let announced = grouped(&history.announcements, |it| (it.token.as_str(), it.version));
    check_ids(history, &announced, findings);
    // Who changes rooms by SQL announces that themselves.
    for change in history.changes.iter().filter(|change| change.op.is_none()) {
        if !announced.contains_key(&(change.token.as_str(), change.after.version)) {
            findings.add(Broken::Unannounced, format!("{change:?}"));
        }
    }
    check_causes(history, asked, &announced, findings);
    check_dead_letters(history, findings);
}

type Announced<'a> = BTreeMap<(&'a str, i64), Vec<&'a Announcement>>;

/// Each change has one id, and each timer of a room one announcement.
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
        let changes: BTreeSet<_> = messages.iter().map(|it| (&it.token, it.version)).collect();
        if changes.len() > 1 {
            findings.add(Broken::Twice, format!("{id} announces {changes:?}"));
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

/// Each announcement is about a change.
fn check_causes(
    history: &History,
    asked: &Asked<'_>,
    announced: &Announced<'_>,
    findings: &mut Findings,
) {
    let resets = resets(history);
    let changes: BTreeMap<(&str, i64), &Change> = history
        .changes
        .iter()
        .map(|change| ((change.token.as_str(), change.after.version), change))
        .collect();
    let by_room = grouped(&history.changes, |change| change.token.as_str());
    for ((token, version), messages) in announced {
        let message = messages[0];
        if message.is_reset {
            let due_at = message.due_at.map(|due_at| due_at / 1000);
            if resets.get(&(*token, *version)).is_none_or(|reset| reset.before.timer != due_at) {
                findings.add(Broken::Unasked, format!("no such reset: {message:?}"));
            }
            continue;
        }
        let is_replaced = || by_room.get(token).is_some_and(|it| is_replaced(it, *version));
        let is_explained =
            changes.contains_key(&(*token, *version)) || (asked.explains(message) && is_replaced());
        if !is_explained {
            findings.add(Broken::Unasked, format!("no such change: {message:?}"));
        }
    }
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
