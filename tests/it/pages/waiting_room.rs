//! What participants see.

use serde_json::json;

use super::{OPEN, WAITING, barriers::check, set_lobby};
use crate::support::{app::TestApp, browser::Browser, database::Kind, eventually};

on_every_database!(crate::support::app::TestApp::new: the_page_opens_when_the_timer_is_due,);

/// Notes when the page says that the room is open, by the clock of this machine, after it was closed.
const WATCH: &str = "
    const headline = document.getElementById('headline');
    const isOpen = () => headline.textContent === 'You can join now';
    let wasClosed = !isOpen();
    delete window.openedAt;
    window.watch?.disconnect();
    window.watch = new MutationObserver(() => {
        wasClosed ||= !isOpen();
        if (wasClosed && isOpen()) window.openedAt ??= Date.now();
    });
    window.watch.observe(headline, { childList: true, characterData: true, subtree: true });
";

/// Milliseconds from the due time until the page said that the room is open.
async fn time_to_open(app: &TestApp, browser: &Browser, room: &str, due: i64) -> i64 {
    browser.becomes("return window.openedAt !== undefined").await;
    browser.shows("#headline", OPEN).await;
    let opened = browser.run("return window.openedAt").await.as_i64().unwrap();
    assert_eq!(app.database.lobby_state(room).await, 0);
    opened - due * 1000
}

async fn the_page_opens_when_the_timer_is_due(mut app: TestApp) {
    app.set("HTTP__JOIN_URL", "/rooms/{token}");
    app.restart().await;
    let owner = app.user("owner").await;
    let room = app.webinar(&owner, None).await;
    let browser = app.guest_page("Carol", &room).await;
    browser.shows("#headline", WAITING).await;
    browser.shows("#hint", "A moderator opens it").await;
    assert_eq!(browser.text("#name").await, "Quarterly webinar");
    assert!(!browser.has("#countdown").await && !browser.has("#join").await);

    browser.run(WATCH).await;
    let due = app.database.now().await + 10;
    set_lobby(&owner, &room, 1, Some(due)).await;
    browser.shows("#opens", "(your time)").await;
    browser.shows("#countdown", "s").await;
    let late = time_to_open(&app, &browser, &room, due).await;
    assert!(late >= 0, "{late} ms after the timer");
    assert!(!browser.has("#countdown").await);
    let link = browser.run("return document.getElementById('join').pathname").await;
    assert_eq!(link, format!("/rooms/{room}"));

    set_lobby(&owner, &room, 1, None).await;
    browser.shows("#headline", WAITING).await;
    assert!(!browser.has("#join").await);
}

/// Here because the database refuses to open it.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_waits_for_a_late_opening_says_so() {
    let app = TestApp::new(Kind::Sqlite).await;
    let owner = app.user("owner").await;
    let room = app.webinar(&owner, None).await;
    let browser = app.guest_page("Carol", &room).await;
    browser.shows("#headline", WAITING).await;
    app.database.refuse_reset(&room).await;
    set_lobby(&owner, &room, 1, Some(app.database.now().await + 5)).await;
    browser.shows("#headline", "Opening…").await;
    assert!(!browser.has("#countdown").await && !browser.has("#join").await);
    check(&browser, "opening").await;
    app.database.execute("DROP TRIGGER archived").await;
    browser.shows("#headline", OPEN).await;
}

/// Prints how late the page says that the room is open. A busy machine may delay some of them.
#[tokio::test(flavor = "multi_thread")]
async fn the_page_opens_within_a_second_of_the_timer() {
    const ROUNDS: usize = 20;
    let app = TestApp::new(Kind::Sqlite).await;
    let owner = app.user("owner").await;
    let room = app.webinar(&owner, None).await;
    let browser = app.guest_page("Carol", &room).await;
    browser.shows("#headline", WAITING).await;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        browser.run(WATCH).await;
        let due = app.database.now().await + 3;
        set_lobby(&owner, &room, 1, Some(due)).await;
        times.push(time_to_open(&app, &browser, &room, due).await);
    }
    times.sort_unstable();
    let (median, longest) = (times[ROUNDS / 2], times[ROUNDS - 1]);
    println!("due to \"{OPEN}\" in the browser: p50 {median} ms, max {longest} ms of {ROUNDS}");
    assert!(times[0] >= 0 && median <= 1000, "{times:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_asked_for_and_checked() {
    let app = TestApp::new(Kind::Sqlite).await;
    let owner = app.user("owner").await;
    let room = app.webinar(&owner, None).await;
    let password = json!({ "password": "sesame" });
    owner.put(&format!("/room/{room}/password"), password).await.expect(200);
    let browser = Browser::open().await;
    browser.go(&app.page(&room)).await;
    browser.shows("#headline", "Please enter the password").await;
    assert!(!browser.text("main").await.contains("Quarterly"), "the password protects the name");
    browser.write("#display-name", "Carol").await;
    browser.click("#entry button").await;
    browser.shows("#entry-error", "Please enter the password").await;
    assert_eq!(browser.run("return document.activeElement.id").await, "password");
    browser.write("#password", "wrong").await;
    browser.click("#entry button").await;
    browser.shows("#entry-error", "wrong").await;
    browser.run("document.getElementById('password').value = ''").await;
    browser.write("#password", "sesame").await;
    browser.click("#entry button").await;
    browser.shows("#headline", WAITING).await;
    browser.shows("#name", "Quarterly webinar").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_guest_is_told_and_can_come_back() {
    let app = TestApp::new(Kind::Sqlite).await;
    let owner = app.user("owner").await;
    let room = app.webinar(&owner, None).await;
    let browser = app.guest_page("Carol", &room).await;
    browser.shows("#headline", WAITING).await;
    let list = format!("/room/{room}/participants");
    let id = eventually("the guest with a name", || async {
        let all = owner.get(&list).await.expect(200).data();
        let all = all.as_array().unwrap();
        let guest = all.iter().find(|each| each["displayName"] == "Carol")?;
        Some(guest["attendeeId"].as_i64().unwrap())
    })
    .await;
    owner.delete(&format!("/room/{room}/attendees?attendeeId={id}"), json!({})).await.expect(200);
    browser.shows("#headline", "You are no longer in this webinar").await;
    browser.click("#again").await;
    browser.shows("#headline", "Please enter your name").await;
    browser.click("#entry button").await;
    browser.shows("#headline", WAITING).await;
    owner.delete(&format!("/room/{room}"), json!({})).await.expect(200);
    browser.shows("#headline", "You are no longer in this webinar").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_tells_nothing_of_rooms_that_the_visitor_may_not_see() {
    let app = TestApp::new(Kind::Sqlite).await;
    let owner = app.user("owner").await;
    let group = owner.room(2).await;
    let browser = Browser::open().await;
    // The last one is no text.
    for room in [group.as_str(), "unknown", "%FF", ""] {
        browser.go(&app.page(room)).await;
        browser.shows("#headline", "There is no such webinar").await;
    }
    let member = app.page_of("owner", &group).await;
    member.shows("#name", "Webinar").await;
    member.shows("#headline", OPEN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_speaks_german() {
    let app = TestApp::new(Kind::Sqlite).await;
    let owner = app.user("owner").await;
    let room = app.webinar(&owner, Some(3 * 86_400)).await;
    let browser = Browser::speaking("de-DE").await;
    browser.go(&app.page(&room)).await;
    browser.shows("#headline", "Bitte geben Sie Ihren Namen ein").await;
    check(&browser, "german-name").await;
    browser.enter("Carol").await;
    browser.shows("#headline", "Bitte warten Sie").await;
    browser.shows("#opens", "Uhr (Ihre Zeit)").await;
    browser.shows("#countdown", "Tage").await;
    assert_eq!(browser.run("return document.documentElement.lang").await, "de");
    check(&browser, "german-waiting").await;
    set_lobby(&owner, &room, 1, Some(app.database.now().await + 86_400 + 3600)).await;
    browser.shows("#countdown", "Tag 0").await;
    app.log_in(&browser, "owner", &room).await;
    browser.shows("#headline", "Teilnehmende müssen warten").await;
    check(&browser, "german-moderator").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keyboard_alone_leads_into_the_waiting_room() {
    let app = TestApp::new(Kind::Sqlite).await;
    let owner = app.user("owner").await;
    let room = app.webinar(&owner, None).await;
    let browser = Browser::open().await;
    browser.go(&app.page(&room)).await;
    browser.shows("#headline", "Please enter your name").await;
    browser.press(crate::support::browser::TAB).await;
    browser.press("Carol").await;
    browser.press(crate::support::browser::ENTER).await;
    browser.shows("#headline", WAITING).await;
    assert_eq!(browser.run("return document.activeElement.id").await, "name");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dial_in_is_shown_with_the_pin_of_those_who_have_one() {
    let mut app = TestApp::new(Kind::Sqlite).await;
    app.set("SIP__DIALIN_INFO", "Dial +49 30 1234567");
    app.set("SIP__SHARED_SECRET", "secret");
    app.restart().await;
    let owner = app.user("owner").await;
    let room = app.webinar(&owner, None).await;
    owner.put(&format!("/room/{room}/webinar/sip"), json!({ "state": 1 })).await.expect(200);
    let browser = app.guest_page("Carol", &room).await;
    browser.shows("#headline", WAITING).await;
    browser.shows("#dial-in-info", "+49 30 1234567").await;
    assert_eq!(browser.text("#dial-in-number").await, room);
    assert!(!browser.has("#pin-row").await, "guests have no PIN");
    browser.picture("dial-in").await;
    let member = app.page_of("owner", &room).await;
    let pin = owner.get(&format!("/room/{room}")).await.expect(200).data()["attendeePin"].clone();
    member.shows("#dial-in-pin", pin.as_str().unwrap()).await;
    assert!(!pin.as_str().unwrap().is_empty());
}
