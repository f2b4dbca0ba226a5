//! Pages of other origins: an allowed one uses the API as one of this server does, others are
//! anonymous visitors.

use serde_json::json;

use crate::support::{
    app::TestApp,
    database::Kind,
    http::{Client, Response},
};

const APP: &str = "https://app.example";

async fn app() -> TestApp {
    let mut app = TestApp::new(Kind::Sqlite).await;
    app.set("HTTP__ALLOWED_ORIGINS", "https://app.example,http://localhost:3000");
    app.set("HTTP__TRUSTED_PROXIES", "127.0.0.1/32");
    app.restart().await;
    app
}

/// What a browser sends for a page.
fn page(client: &Client, origin: &str) -> Client {
    let client = client.header("origin", origin).header("sec-fetch-site", "cross-site");
    client.header("sec-fetch-mode", "cors").header("x-forwarded-proto", "https")
}

/// The question of a browser before a request that is no plain form.
async fn preflight(client: &Client, path: &str, origin: &str) -> Response {
    let headers = [
        ("origin", origin),
        ("access-control-request-method", "PUT"),
        ("access-control-request-headers", "authorization,content-type,ocs-apirequest"),
    ];
    client.raw("OPTIONS", path, &headers, "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_an_allowed_origin_uses_the_api() {
    let app = app().await;
    let alice = app.user("alice").await;
    let room = alice.room(3).await;
    let path = format!("/room/{room}");
    let asked = preflight(&app.api.guest(), &path, APP).await.expect(200);
    assert_eq!(asked.header("access-control-allow-origin"), Some(APP));
    assert_eq!(asked.header("access-control-allow-credentials"), Some("true"));
    for (header, needed) in [
        ("access-control-allow-methods", "PUT"),
        ("access-control-allow-headers", "ocs-apirequest"),
        ("access-control-allow-headers", "if-none-match"),
        ("access-control-allow-headers", "last-event-id"),
        ("access-control-max-age", "3600"),
        ("vary", "origin"),
    ] {
        assert!(asked.header(header).unwrap().contains(needed), "{asked:?}");
    }
    let counted = r#"lobbyd_http_requests_total{method="other",route="/ocs/v2.php/apps/spreed/api/v4/room/{token}",status="200"}"#;
    app.daemon().metric_becomes(counted, 1).await;
    let page_of_alice = page(&alice, APP);
    let seen = page_of_alice.get(&path).await.expect(200);
    assert_eq!(seen.header("access-control-allow-origin"), Some(APP));
    let exposed = seen.header("access-control-expose-headers").unwrap();
    for header in ["etag", "retry-after", "x-nextcloud-talk-hash", "x-chat-last-given"] {
        assert!(exposed.contains(header), "{exposed}");
    }
    // It reads as the user who is logged in, also without the header of Nextcloud's clients.
    let json = [("accept", "application/json")];
    let seen = page_of_alice.raw("GET", &path, &json, "").await.expect(200);
    assert_eq!(seen.data()["participantType"], 1);
    let form = [("content-type", "application/x-www-form-urlencoded")];
    page_of_alice.raw("PUT", &path, &form, "roomName=Renamed").await.expect(200);
    // Failures can be read as well.
    let missing = page_of_alice.get("/room/missing").await.expect(404);
    assert_eq!(missing.header("access-control-allow-origin"), Some(APP));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_of_an_allowed_page_has_a_cookie_of_a_third_party() {
    let app = app().await;
    let room = app.user("alice").await.room(3).await;
    let join = format!("/room/{room}/participants/active");
    let cookie = async |client: &Client| {
        let joined = client.post(&join, json!({})).await.expect(200);
        joined.header("set-cookie").unwrap().to_owned()
    };
    let third_party = cookie(&page(&app.api.guest(), APP)).await;
    for attribute in ["__Host-", "SameSite=None", "Secure", "Partitioned"] {
        assert!(third_party.contains(attribute), "{third_party}");
    }
    let same_site = page(&app.api.guest(), APP).header("sec-fetch-site", "same-site");
    let usual = cookie(&same_site).await;
    assert!(usual.contains("SameSite=Lax") && !usual.contains("Partitioned"), "{usual}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_origin_remains_an_anonymous_visitor() {
    let app = app().await;
    let alice = app.user("alice").await;
    let room = alice.room(3).await;
    let path = format!("/room/{room}");
    for origin in ["https://evil.example", "http://app.example", "https://app.example:8443", "null"]
    {
        let asked = preflight(&alice, &path, origin).await.expect(405);
        assert_eq!(asked.header("access-control-allow-origin"), None);
        let page = page(&alice, origin);
        let json = [("accept", "application/json")];
        let seen = page.raw("GET", &path, &json, "").await.expect(200);
        assert_eq!(seen.header("access-control-allow-origin"), None);
        assert_eq!(seen.data()["participantType"], 4, "its login does not count");
        assert!(seen.headers.get_all("vary").iter().any(|vary| vary == "Origin"), "{seen:?}");
        // An older browser names only the origin.
        let older = alice.header("origin", origin);
        let seen = older.raw("GET", &path, &json, "").await.expect(200);
        assert_eq!(seen.data()["participantType"], 4, "its login does not count");
        let seen = older.get(&path).await.expect(200);
        assert_eq!(seen.data()["participantType"], 1, "no page can send OCS-APIRequest");
        let form = [("content-type", "application/x-www-form-urlencoded")];
        page.raw("PUT", &path, &form, "roomName=Renamed").await.expect(403);
    }
    // Only a preflight is answered.
    app.api.guest().raw("OPTIONS", &path, &[("origin", APP)], "").await.expect(405);
    preflight(&alice, "/nonsense", APP).await.expect(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_origin_is_allowed_by_default() {
    let app = TestApp::new(Kind::Sqlite).await;
    let alice = app.user("alice").await;
    preflight(&alice, "/room", APP).await.expect(405);
    let seen = page(&alice, APP).get("/room").await.expect(200);
    assert_eq!(seen.header("access-control-allow-origin"), None);
    assert_eq!(seen.header("vary"), Some("Accept, Accept-Encoding, Authorization, Cookie"));
}
