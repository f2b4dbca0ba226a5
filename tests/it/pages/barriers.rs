//! Every state of the pages, without barriers, in light and dark, wide and narrow; with pictures.

use serde_json::json;

use super::{OPEN, WAITING, set_lobby};
use crate::support::{app::TestApp, browser::Browser, database::Kind};

/// Checks the page in each form, and takes a picture of it.
pub(super) async fn check(browser: &Browser, state: &str) {
    for (width, scheme) in [(900, "light"), (320, "dark"), (320, "light"), (900, "dark")] {
        browser.device(width, scheme).await;
        let barriers = browser.barriers().await;
        assert!(barriers.is_empty(), "{state}, {width} px, {scheme}: {barriers:#?}");
        let overflow = "return document.documentElement.scrollWidth > window.innerWidth";
        assert_eq!(browser.run(overflow).await, false, "{state} is wider than {width} px");
        assert_eq!(browser.run("return document.querySelectorAll('h1').length").await, 1);
        browser.picture(&format!("{state}-{width}-{scheme}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_state_of_the_waiting_room_has_a_barrier() {
    let mut app = TestApp::new(Kind::Sqlite).await;
    app.set("HTTP__JOIN_URL", "/rooms/{token}");
    app.set("SIP__DIALIN_INFO", "Dial +49 30 1234567, then the number and your PIN.");
    app.set("SIP__SHARED_SECRET", "secret");
    app.restart().await;
    let owner = app.user("owner").await;
    let room = app.webinar(&owner, Some(7200)).await;
    let browser = Browser::open().await;
    browser.go(&app.page("unknown")).await;
    browser.shows("#headline", "There is no such webinar").await;
    check(&browser, "unknown").await;

    browser.go(&app.page(&room)).await;
    browser.shows("#headline", "Please enter your name").await;
    check(&browser, "name").await;
    browser.enter("Carol").await;
    browser.shows("#headline", WAITING).await;
    check(&browser, "waiting-timer").await;
    let sip = format!("/room/{room}/webinar/sip");
    owner.put(&sip, json!({ "state": 1 })).await.expect(200);
    set_lobby(&owner, &room, 1, None).await;
    browser.shows("#hint", "A moderator opens it").await;
    check(&browser, "waiting-dial-in").await;

    let moderator = app.page_of("owner", &room).await;
    for name in ["Dave", "Erin", "Frank"] {
        let guest = app.api.guest();
        guest.join(&room).await;
        let named = json!({ "displayName": name });
        guest.post(&format!("/guest/{room}/name"), named).await.expect(200);
    }
    moderator.shows("#waiting", "Frank").await;
    check(&moderator, "moderator").await;
    owner.put(&sip, json!({ "state": 0 })).await.expect(200);
    set_lobby(&owner, &room, 0, None).await;
    browser.shows("#headline", OPEN).await;
    check(&browser, "open").await;
    moderator.shows("#headline", OPEN).await;
    check(&moderator, "moderator-open").await;

    let password = json!({ "password": "sesame" });
    owner.put(&format!("/room/{room}/password"), password).await.expect(200);
    let late = Browser::open().await;
    late.go(&app.page(&room)).await;
    late.shows("#headline", "Please enter the password").await;
    late.click("#entry button").await;
    late.shows("#entry-error", "Please enter a name").await;
    check(&late, "password").await;
    owner.delete(&format!("/room/{room}"), json!({})).await.expect(200);
    browser.shows("#headline", "You are no longer in this webinar").await;
    check(&browser, "removed").await;
}
