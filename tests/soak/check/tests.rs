//! Each kind of fault, planted into a history without one, is found.

use super::{
    Broken, check,
    history::{Announcement, Answer, Change, DeadLetter, History, Overdue, Route, Row, Setting},
    readiness::{OVERDUE, RUNNING},
};

const SET_AT: i64 = 1_000_000;
const TIMER: i64 = 1_010;
const VERSION: i64 = SET_AT;

fn row(state: i64, timer: Option<i64>, version: i64) -> Row {
    Row { state, timer, version }
}

fn setting(op: usize, route: Route, state: i64, timer: Option<i64>) -> Setting {
    let token = "a".to_owned();
    let asked_at = SET_AT - 10;
    Setting { op, token, route, state, timer, asked_at, confirmed_at: Some(SET_AT) }
}

fn change(at: i64, before: Row, after: Row) -> Change {
    Change { op: None, at, token: "a".to_owned(), before, after, reached: None }
}

fn reset(at: i64, before: Row) -> Change {
    let after = row(0, None, before.version + 1);
    Change { reached: before.timer, ..change(at, before, after) }
}

fn announcement(change: &Change, id: &str) -> Announcement {
    let is_reset = change.is_reset();
    Announcement {
        id: id.to_owned(),
        token: change.token.clone(),
        version: change.after.version,
        is_reset,
        state: change.after.state,
        timer: change.after.timer,
        due_at: change.before.timer.filter(|_| is_reset).map(|timer| timer * 1000),
        fired_at: is_reset.then_some(change.at),
        is_redelivered: false,
        body: format!("{id}: {:?}", change.after),
    }
}

/// A room whose timer is set by an event, and fires.
fn history() -> History {
    let armed = row(1, Some(TIMER), VERSION);
    let changes = vec![change(SET_AT + 5, Row::default(), armed), reset(TIMER * 1000 + 3, armed)];
    let announcements = vec![announcement(&changes[0], "1"), announcement(&changes[1], "2")];
    let bad = DeadLetter { body: b"garbage".to_vec(), required: true };
    History {
        settings: vec![setting(0, Route::Event { version: VERSION }, 1, Some(TIMER))],
        announcements,
        rooms: [("a".to_owned(), changes[1].after)].into(),
        changes,
        dead_letters: vec![bad.body.clone()],
        expected_dead_letters: vec![bad],
        ended_at: 2_000_000,
        ..History::default()
    }
}

#[track_caller]
fn finds(history: &History, broken: Broken) {
    let findings = check(history);
    assert!(findings.number(broken) > 0, "{findings:?}");
}

/// Appends a change, with its announcement.
fn append(history: &mut History, change: Change) {
    history.announcements.push(announcement(&change, &format!("more{}", history.changes.len())));
    history.rooms.insert("a".to_owned(), change.after);
    history.changes.push(change);
}

#[test]
fn a_history_that_keeps_the_promises_has_no_finding() {
    let mut history = history();
    // The subscriber's own connection was lost.
    history
        .announcements
        .push(Announcement { is_redelivered: true, ..history.announcements[1].clone() });
    let findings = check(&history);
    assert_eq!(findings.violations, []);
    assert_eq!((findings.timers, findings.opened, findings.duplicates), (1, 1, 0));
    assert_eq!((findings.lateness, findings.delays), (vec![3], vec![5]));
}

#[test]
fn a_reset_before_its_timer_is_found() {
    let mut history = history();
    history.changes[1].at = TIMER * 1000 - 1;
    finds(&history, Broken::Early);
}

#[test]
fn a_decision_before_the_timer_is_found() {
    let mut history = history();
    history.announcements[1].fired_at = Some(TIMER * 1000 - 1);
    finds(&history, Broken::Early);
}

#[test]
fn a_setting_that_resets_its_room_twice_is_found() {
    let mut history = history();
    let open = history.changes[1].after;
    let again = row(1, Some(TIMER), open.version + 5);
    append(&mut history, change(TIMER * 1000 + 10, open, again));
    append(&mut history, reset(TIMER * 1000 + 20, again));
    finds(&history, Broken::Twice);
}

#[test]
fn a_repeated_event_that_takes_effect_again_is_found() {
    let mut history = history();
    history.settings[0].route = Route::Bare;
    let open = history.changes[1].after;
    let again = row(1, Some(TIMER), open.version + 5);
    append(&mut history, change(TIMER * 1000 + 10, open, again));
    finds(&history, Broken::Twice);
}

#[test]
fn two_ids_for_one_reset_are_found() {
    let mut history = history();
    let again = announcement(&history.changes[1], "3");
    history.announcements.push(again);
    finds(&history, Broken::Twice);
}

#[test]
fn one_id_for_two_changes_is_found() {
    let mut history = history();
    history.announcements[1].id = history.announcements[0].id.clone();
    finds(&history, Broken::Twice);
}

#[test]
fn a_timer_that_did_not_fire_is_found() {
    let mut history = history();
    let reset = history.changes.pop().unwrap();
    history.announcements.pop();
    history.rooms.insert("a".to_owned(), reset.before);
    finds(&history, Broken::Lost);
    history.refused.insert("a".to_owned());
    assert_eq!(check(&history).violations, []);
}

#[test]
fn a_confirmed_event_without_effect_is_found() {
    for route in [Route::Event { version: VERSION + 50 }, Route::Bare, Route::Http, Route::Sql] {
        let mut history = history();
        let mut lost = setting(1, route, 1, Some(TIMER + 900));
        lost.asked_at = TIMER * 1000 + 500;
        history.settings.push(lost);
        finds(&history, Broken::Lost);
        history.settings[1].confirmed_at = None;
        assert_eq!(check(&history).violations, [], "without an answer it may be either");
    }
}

#[test]
fn an_event_that_was_overtaken_is_not_lost() {
    let mut history = history();
    history.settings.push(setting(1, Route::Event { version: VERSION - 50 }, 1, Some(TIMER + 20)));
    let findings = check(&history);
    assert_eq!((findings.violations.len(), findings.overtaken), (0, 1), "{findings:?}");
}

#[test]
fn an_event_that_seems_to_repeat_a_timer_that_has_fired_is_not_lost() {
    let mut history = history();
    let mut late = setting(1, Route::Bare, 1, Some(TIMER - 5));
    late.asked_at = TIMER * 1000 + 500;
    history.settings.push(late);
    let findings = check(&history);
    assert_eq!((findings.violations.len(), findings.overtaken), (0, 1), "{findings:?}");
}

/// Announces a setting that has no change in the log.
fn announce(history: &mut History, setting: &Setting, version: i64) {
    history.announcements.push(Announcement {
        id: format!("announced{version}"),
        token: setting.token.clone(),
        version,
        is_reset: false,
        state: setting.state,
        timer: setting.timer,
        due_at: None,
        fired_at: None,
        is_redelivered: false,
        body: String::new(),
    });
}

#[test]
fn an_event_that_is_announced_and_not_written_is_found() {
    let version = TIMER * 1000 + 510;
    for route in [Route::Event { version }, Route::Bare] {
        let mut history = history();
        let mut lost = setting(1, route, 1, Some(TIMER + 900));
        lost.asked_at = TIMER * 1000 + 500;
        announce(&mut history, &lost, version);
        history.settings.push(lost);
        finds(&history, Broken::Lost);
        finds(&history, Broken::Unasked);
    }
}

#[test]
fn an_event_that_another_one_replaces_in_its_transaction_is_not_lost() {
    let version = VERSION - 5;
    for route in [Route::Event { version }, Route::Bare] {
        let mut history = history();
        let mut replaced = setting(1, route, 1, Some(TIMER + 20));
        // By a clock that is ahead.
        replaced.asked_at = SET_AT + 1;
        announce(&mut history, &replaced, version);
        history.settings.push(replaced);
        let findings = check(&history);
        assert_eq!((findings.violations.len(), findings.overtaken), (0, 1), "{findings:?}");
    }
}

#[test]
fn an_older_setting_that_wins_is_found() {
    for version in [VERSION - 50, VERSION + 2] {
        let mut history = history();
        let stale = setting(1, Route::Event { version: VERSION - 50 }, 1, Some(TIMER + 20));
        history.settings.push(stale);
        let open = history.changes[1].after;
        let stale = row(1, Some(TIMER + 20), version);
        append(&mut history, change(TIMER * 1000 + 10, open, stale));
        append(&mut history, reset(TIMER * 1000 + 20_005, stale));
        finds(&history, Broken::StaleWon);
    }
}

#[test]
fn a_reset_of_a_cancelled_timer_is_found() {
    let mut history = history();
    let armed = history.changes[0].after;
    let cancelled = row(0, None, VERSION + 5);
    history.settings.push(setting(1, Route::Event { version: VERSION + 5 }, 0, None));
    history.changes.insert(1, change(SET_AT + 10, armed, cancelled));
    history.announcements.push(announcement(&history.changes[1], "3"));
    finds(&history, Broken::Unasked);
}

#[test]
fn a_change_that_is_not_announced_is_found() {
    for missing in [0, 1] {
        let mut history = history();
        history.announcements.remove(missing);
        finds(&history, Broken::Unannounced);
    }
}

#[test]
fn a_message_that_does_not_say_what_has_changed_is_found() {
    let wrong: [fn(&mut Announcement); 4] = [
        |it| it.state = 1 - it.state,
        |it| it.timer = Some(TIMER + 1),
        |it| it.is_reset = !it.is_reset,
        |it| it.due_at = Some(TIMER * 1000 + 1000),
    ];
    for wrong in wrong {
        for which in [0, 1] {
            let mut history = history();
            // Another message of the same change is right.
            let mut copy = history.announcements[which].clone();
            wrong(&mut copy);
            history.announcements.push(copy);
            finds(&history, Broken::Unannounced);
        }
    }
}

#[test]
fn a_replaced_event_that_is_announced_with_another_lobby_is_found() {
    let mut history = history();
    let replaced = setting(1, Route::Event { version: VERSION - 5 }, 1, Some(TIMER + 20));
    announce(&mut history, &replaced, VERSION - 5);
    history.settings.push(replaced);
    history.announcements[2].state = 0;
    finds(&history, Broken::Unasked);
}

#[test]
fn two_bodies_of_one_id_are_found() {
    let mut history = history();
    let body = "another one".to_owned();
    history.announcements.push(Announcement { body, ..history.announcements[1].clone() });
    finds(&history, Broken::Twice);
}

#[test]
fn an_announcement_without_its_change_is_found() {
    for is_reset in [true, false] {
        let mut history = history();
        let due_at = is_reset.then_some(TIMER * 1000 + 5000);
        let id = "3".to_owned();
        let version = VERSION + 70;
        let first = history.announcements[1].clone();
        let fired_at = due_at;
        history.announcements.push(Announcement {
            id,
            version,
            is_reset,
            due_at,
            fired_at,
            ..first
        });
        finds(&history, Broken::Unasked);
    }
}

#[test]
fn a_change_that_nobody_asked_for_is_found() {
    let mut history = history();
    let open = history.changes[1].after;
    append(&mut history, change(TIMER * 1000 + 10, open, row(1, None, open.version + 1)));
    finds(&history, Broken::Unasked);
}

#[test]
fn a_step_of_the_clock_is_found_instead_of_what_follows_from_it() {
    let mut history = history();
    history.changes[1].at = TIMER * 1000 - 1;
    for (step, violations) in [(-101, 0), (-100, 1), (100, 1), (101, 0)] {
        history.clock_step = step;
        let findings = check(&history);
        let found = (findings.violations.len(), findings.clock_step);
        assert_eq!(found, (violations, Some(step).filter(|_| violations == 0)), "{findings:?}");
    }
}

#[test]
fn a_route_that_fails_all_the_time_is_found() {
    let failed = |confirmed: usize| {
        let mut history = History::default();
        for (index, route) in [Route::Bare, Route::Http, Route::Sql].into_iter().enumerate() {
            for number in 0..100 {
                let mut setting = setting(100 * index + number, route, 0, None);
                setting.confirmed_at = Some(SET_AT).filter(|_| number < confirmed);
                history.settings.push(setting);
            }
        }
        check(&history).failed_routes.len()
    };
    assert_eq!([0, 1, 2, 100].map(failed), [3, 3, 0, 0]);
    assert_eq!(check(&History::default()).failed_routes.len(), 3, "no setting was sent");
}

#[test]
fn a_message_that_cannot_be_read_is_found() {
    let unreadable = vec!["garbage".to_owned()];
    finds(&History { unreadable, ..history() }, Broken::Unasked);
}

#[test]
fn a_worker_that_is_ready_while_a_room_is_overdue_is_found() {
    let answer = |is_ready: bool, running: i64, seen: i64| {
        let overdue = Overdue { token: "a".to_owned(), timer: TIMER, seen };
        let (worker, at) = ("worker1".to_owned(), TIMER * 1000 + seen);
        let answers = vec![Answer { worker, at, is_ready, running, overdue: Some(overdue) }];
        History { answers, ..history() }
    };
    let (running, seen) = (RUNNING + 1, OVERDUE + 1);
    finds(&answer(true, running, seen), Broken::Green);
    for (is_ready, running, seen) in
        [(false, running, seen), (true, RUNNING, seen), (true, running, OVERDUE)]
    {
        assert_eq!(check(&answer(is_ready, running, seen)).violations, []);
    }
}

#[test]
fn missing_and_foreign_dead_letters_are_found() {
    let mut without = history();
    without.dead_letters.clear();
    finds(&without, Broken::DeadLetter);
    let mut foreign = history();
    foreign.dead_letters.push(b"a good event".to_vec());
    finds(&foreign, Broken::DeadLetter);
}

#[test]
fn a_request_without_an_answer_does_not_take_the_change_of_another_one() {
    let mut history = history();
    let mut unknown = setting(1, Route::Http, 0, None);
    unknown.asked_at = TIMER * 1000 + 500;
    unknown.confirmed_at = None;
    // Its timer is over when it is executed.
    let mut late = setting(2, Route::Http, 1, Some(TIMER + 1));
    late.asked_at = TIMER * 1000 + 600;
    late.confirmed_at = Some(TIMER * 1000 + 1_500);
    history.settings.extend([unknown, late]);
    let open = history.changes[1].after;
    append(&mut history, change(TIMER * 1000 + 1_400, open, row(0, None, open.version + 9)));
    assert_eq!(check(&history).violations, []);
}
