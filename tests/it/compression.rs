//! Compressed responses: which ones are, and what their entity tags are worth.

use futures_util::future::join;
use serde_json::{Value, json};

use crate::support::{app::TestApp, database::Kind, http::Response};

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_accepts_gzip_gets_large_responses_compressed() {
    let app = TestApp::new(Kind::Sqlite).await;
    let alice = app.user("alice").await;
    let gzip = alice.header("accept-encoding", "gzip, deflate, br");
    let mut rooms = Vec::new();
    for _ in 0..100 {
        rooms.push(alice.room(3).await);
    }
    let plain = alice.get("/room").await.expect(200);
    let compressed = gzip.get("/room").await.expect(200);
    for response in [&plain, &compressed] {
        let vary = response.header("vary").unwrap();
        assert_eq!(vary, "Accept, Accept-Encoding, Authorization, Cookie");
    }
    assert_eq!(plain.header("content-encoding"), None);
    assert_eq!(compressed.decompressed().data(), plain.data());
    for refusing in ["br", "gzip;q=0", "identity;q=0"] {
        let response = alice.header("accept-encoding", refusing).get("/room").await.expect(200);
        assert_eq!((response.header("content-encoding"), response.data()), (None, plain.data()));
    }
    let xml = gzip.raw("GET", "/room", &[], "").await.expect(200);
    assert!(xml.decompressed().body.starts_with(b"<?xml"));
    let document = gzip.get("/openapi.json").await.expect(200);
    assert_eq!(document.header("vary"), Some("Accept-Encoding"));
    assert_eq!(document.decompressed().json()["openapi"], "3.1.0");
    for path in ["/room", "/openapi.json"] {
        let head = gzip.raw("HEAD", path, &[], "").await.expect(200);
        let get = gzip.raw("GET", path, &[], "").await.expect(200);
        assert_eq!((head.header("content-encoding"), head.body.len()), (Some("gzip"), 0));
        assert_eq!(head.header("content-length"), get.header("content-length"));
        let tag = get.header("etag").unwrap();
        assert_eq!(head.header("etag"), Some(tag));
        let known = gzip.raw("HEAD", path, &[("if-none-match", tag)], "").await.expect(304);
        assert_eq!(known.header("content-length"), None, "{known:?}");
    }

    // What most polls are answered with has its length, and costs no compression.
    let description = json!({"description": "Figures and questions. ".repeat(20)});
    let path = format!("/room/{}", rooms[0]);
    gzip.put(&format!("{path}/description"), description).await.expect(200);
    let room = gzip.get(&path).await.expect(200);
    assert_eq!(room.header("content-encoding"), None);
    assert_eq!(room.header("content-length"), Some(room.body.len().to_string().as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_response_has_a_tag_of_its_own() {
    let app = TestApp::new(Kind::Sqlite).await;
    let alice = app.user("alice").await;
    let gzip = alice.header("accept-encoding", "gzip");
    for _ in 0..20 {
        alice.room(3).await;
    }
    let tag = |response: &Response| response.header("etag").unwrap().to_owned();
    let plain = tag(&alice.get("/room").await.expect(200));
    let compressed = tag(&gzip.get("/room").await.expect(200));
    let head = tag(&gzip.raw("HEAD", "/room?format=json", &[], "").await.expect(200));
    let expected = format!("{}-gzip\"", plain.strip_suffix('"').unwrap());
    assert_eq!([&compressed, &head], [&expected, &expected]);
    for client in [&alice, &gzip] {
        for known in [&plain, &compressed] {
            let unchanged = client.header("if-none-match", known).get("/room").await.expect(304);
            assert_eq!(&tag(&unchanged), known, "caches update the response of this tag");
        }
    }
    // Either tag makes a request wait for another state.
    let poll = gzip.header("if-none-match", &compressed).header("prefer", "wait=50");
    let change = async {
        app.daemon().long_polls_become(1).await;
        alice.room(3).await;
    };
    let (changed, ()) = join(poll.get("/room"), change).await;
    let rooms = changed.expect(200).decompressed().data();
    assert_eq!(rooms.as_array().map(Vec::len), Some(21));
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_are_compressed_only_within_the_memory_for_that() {
    let mut app = TestApp::new(Kind::Sqlite).await;
    app.set("LIMITS__RESPONSE_MEMORY", "400000");
    app.restart().await;
    let document = app.api.guest().header("accept-encoding", "gzip").get("/openapi.json").await;
    let document = document.expect(200);
    assert_eq!(document.header("content-encoding"), None);
    assert!(matches!(document.json()["paths"], Value::Object(_)));
}
