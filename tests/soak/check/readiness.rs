//! Looks for workers that said they were ready while work was overdue.

use super::{Broken, Findings, history::History};

/// How long a room may be overdue before a worker has to say that it is not ready, in milliseconds:
/// `ops.overdue_after` is 10 s, a use of the database may hang for 5 s, rooms are looked at once a
/// second, and the machine is busy.
pub const OVERDUE: i64 = 20_000;

/// How long a worker may have been running without a fault of its own before it has to know: one that
/// was frozen may begin with a use of the database that hangs.
pub const RUNNING: i64 = 10_000;

pub(super) fn check(history: &History, findings: &mut Findings) {
    for answer in &history.answers {
        findings.answers += 1;
        let Some(overdue) = &answer.overdue else { continue };
        if answer.running <= RUNNING || overdue.seen <= OVERDUE {
            continue;
        }
        findings.overdue += 1;
        if answer.is_ready {
            findings.add(Broken::Green, format!("{answer:?}"));
        }
    }
}
