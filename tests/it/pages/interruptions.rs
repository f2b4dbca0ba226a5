//! Broken connections, and clocks that are wrong.

use super::{OPEN, WAITING, set_lobby};
use crate::support::{app::TestApp, browser::Browser, database::Kind, eventually};

const LOST: &str = "Connection lost";

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_is_reported_and_the_page_recovers_by_itself() {
    let mut app = TestApp::new(Kind::Sqlite).await;
    let owner = app.user("owner").await;
    let room = app.webinar(&owner, Some(3600)).await;
    let browser = app.guest_page("Carol", &room).await;
    browser.shows("#headline", WAITING).await;
    app.daemon_mut().kill();
    browser.shows("#connection", LOST).await;
    browser.shows("#countdown", "min").await;
    browser.picture("connection-lost").await;
    app.start_again().await;
    browser.becomes("return document.getElementById('connection').textContent === ''").await;
    set_lobby(&owner, &room, 0, None).await;
    browser.shows("#headline", OPEN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_whose_session_has_ended_meanwhile_enters_again() {
    let mut app = TestApp::new(Kind::Sqlite).await;
    let owner = app.user("owner").await;
    let room = app.webinar(&owner, None).await;
    let browser = app.guest_page("Carol", &room).await;
    browser.shows("#headline", WAITING).await;
    app.daemon_mut().kill();
    browser.shows("#connection", LOST).await;
    let guests = "DELETE FROM lobbyd_attendees WHERE actor_type = 'guests'";
    assert_eq!(app.database.execute(guests).await, 1);
    app.start_again().await;
    let guests = "SELECT count(*) FROM lobbyd_attendees WHERE actor_type = 'guests'";
    eventually("the guest", || async { (app.database.number(guests).await == 1).then_some(()) })
        .await;
    set_lobby(&owner, &room, 0, None).await;
    browser.shows("#headline", OPEN).await;
}

/// As behind a proxy that holds events back.
#[tokio::test(flavor = "multi_thread")]
async fn without_events_the_page_polls() {
    let app = TestApp::new(Kind::Sqlite).await;
    let owner = app.user("owner").await;
    let room = app.webinar(&owner, None).await;
    let browser = Browser::open().await;
    let silent = "window.EventSource = class extends EventTarget {
        static CLOSED = 2;
        readyState = 2;
        constructor() { super(); setTimeout(() => this.dispatchEvent(new Event('error'))); }
        close() {}
    }";
    browser.prepare(silent).await;
    browser.go(&app.page(&room)).await;
    browser.enter("Carol").await;
    browser.shows("#headline", WAITING).await;
    app.daemon().long_polls_become(1).await;
    set_lobby(&owner, &room, 0, None).await;
    browser.shows("#headline", OPEN).await;
    assert_eq!(browser.text("#connection").await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_clock_does_not_change_the_countdown() {
    let app = TestApp::new(Kind::Sqlite).await;
    let owner = app.user("owner").await;
    let room = app.webinar(&owner, None).await;
    let browser = Browser::open().await;
    // Three hours ahead.
    let wrong = "window.RealDate = Date;
        window.Date = class extends Date {
            constructor(...parts) { if (parts.length) super(...parts); else super(Date.now()); }
            static now() { return RealDate.now() + 3 * 3600 * 1000; }
        }";
    browser.prepare(wrong).await;
    browser.go(&app.page(&room)).await;
    browser.enter("Carol").await;
    browser.shows("#headline", WAITING).await;
    let due = app.database.now().await + 8;
    set_lobby(&owner, &room, 1, Some(due)).await;
    browser.becomes("return document.querySelectorAll('#countdown b').length === 2").await;
    let shown = browser
        .run(
            "const [minutes, seconds] = document.querySelectorAll('#countdown b');
             return [minutes.textContent * 60 + Number(seconds.textContent), RealDate.now()]",
        )
        .await;
    let (left, now) = (shown[0].as_i64().unwrap(), shown[1].as_i64().unwrap());
    let wrong_by = left * 1000 - (due * 1000 - now);
    // The browser's own clock is wrong by three hours.
    assert!((-2000..=5000).contains(&wrong_by), "{wrong_by} ms at {left} s");
    browser.shows("#headline", OPEN).await;
}
