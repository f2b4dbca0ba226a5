//! The page of the ops listener.

use super::barriers::check;
use crate::support::{app::TestApp, browser::Browser, database::Kind};

#[tokio::test(flavor = "multi_thread")]
async fn the_operations_page_shows_what_is_due_what_fired_and_what_is_broken() {
    let mut app = TestApp::new(Kind::Sqlite).await;
    let now = app.database.now().await;
    app.database.insert_rooms("later", 60, now + 3600).await;
    let browser = Browser::open().await;
    browser.go(&format!("http://127.0.0.1:{}/", app.daemon().ops_port)).await;
    browser.shows("#summary", "All parts work.").await;
    browser.shows("#lag-summary", "No timer has fired yet.").await;
    browser.becomes("return document.querySelectorAll('#timers li').length === 50").await;
    browser.shows("#timers", "later1").await;
    browser.shows("#parts", "database").await;

    app.database.insert_rooms("soon", 3, now).await;
    browser.shows("#lag-summary", "3 timers").await;
    check(&browser, "operations").await;

    app.daemon_mut().kill();
    browser.shows("#summary", "This process does not answer.").await;
    app.start_again().await;
    browser.shows("#summary", "All parts work.").await;
}
