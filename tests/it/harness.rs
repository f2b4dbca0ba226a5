//! Tests of the test environment, where a fault in it could make another test pass.

use axum::{Router, body, extract::Request, response::IntoResponse};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinSet};

use crate::support::{
    http::{Api, Response},
    server::free_port,
    tools,
};

/// Returns the request as the response, and sets a cookie.
async fn echo(request: Request) -> impl IntoResponse {
    let (head, body) = request.into_parts();
    let body = body::to_bytes(body, 1000).await.unwrap();
    let headers: Vec<(String, String)> = head
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    let data = json!({
        "method": head.method.as_str(),
        "path": head.uri.to_string(),
        "headers": headers,
        "body": String::from_utf8(body.to_vec()).unwrap(),
    });
    let envelope = json!({ "ocs": { "meta": { "statuscode": 200 }, "data": data } });
    ([("set-cookie", "session=1; Path=/; HttpOnly")], envelope.to_string())
}

/// The values of a header that the client sent.
fn sent(response: &Response, name: &str) -> Vec<String> {
    let data = response.data();
    let headers: Vec<(String, String)> = serde_json::from_value(data["headers"].clone()).unwrap();
    headers.into_iter().filter(|(other, _)| other == name).map(|(_, value)| value).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_sends_the_requests_that_tests_describe() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let api = Api::new(listener.local_addr().unwrap().port());
    let mut server = JoinSet::new();
    server.spawn(async { axum::serve(listener, Router::new().fallback(echo)).await.unwrap() });

    let alice = api.user("alice", "secret");
    let first = alice.get("/room/abc?format=json").await.expect(200);
    assert_eq!(first.meta_status(), 200);
    assert_eq!(first.header("Set-Cookie"), Some("session=1; Path=/; HttpOnly"));
    assert_eq!(first.data()["path"], "/ocs/v2.php/apps/spreed/api/v4/room/abc?format=json");
    assert_eq!(sent(&first, "authorization"), ["Basic YWxpY2U6c2VjcmV0"]);
    assert_eq!(sent(&first, "ocs-apirequest"), ["true"]);
    assert_eq!(sent(&first, "accept"), ["application/json"]);
    assert_eq!(sent(&first, "cookie"), [""; 0]);

    let json = json!({ "state": 1 });
    for (response, method, path) in [
        (
            alice.post("/chat/abc", json.clone()).await,
            "POST",
            "/ocs/v2.php/apps/spreed/api/v1/chat/abc",
        ),
        (
            alice.put("/call/abc", json.clone()).await,
            "PUT",
            "/ocs/v2.php/apps/spreed/api/v4/call/abc",
        ),
        (
            alice.delete("/ocs/v1.php/cloud/user", json.clone()).await,
            "DELETE",
            "/ocs/v1.php/cloud/user",
        ),
    ] {
        let data = response.data();
        assert_eq!(data["method"], method);
        assert_eq!(data["path"], path);
        assert_eq!(data["body"], r#"{"state":1}"#);
        assert_eq!(sent(&response, "content-type"), ["application/json"]);
        assert_eq!(sent(&response, "cookie"), ["session=1"]);
    }

    let guest = api.guest().header("Accept", "application/xml");
    let form = guest.form("PUT", "/guest/a/name", &[("displayName", "Zoë & Co")]).await;
    assert_eq!(form.data()["body"], "displayName=Zo%C3%AB+%26+Co");
    assert_eq!(sent(&form, "content-type"), ["application/x-www-form-urlencoded"]);
    assert_eq!(sent(&form, "accept"), ["application/xml"]);
    assert_eq!(sent(&form, "cookie"), [""; 0]);

    let tags = [("if-none-match", "\"a\""), ("if-none-match", "W/\"b\"")];
    let raw = guest.raw("PATCH", "/rooms", &tags, "bytes").await;
    assert_eq!(raw.data()["path"], "/rooms");
    assert_eq!(raw.data()["body"], "bytes");
    assert_eq!(sent(&raw, "if-none-match"), ["\"a\"", "W/\"b\""]);
    assert_eq!(sent(&raw, "ocs-apirequest"), [""; 0]);
    assert_eq!(sent(&raw, "cookie"), ["session=1"]);
}

#[test]
fn python_clients_fail_without_a_server() {
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    let environment = [
        ("URL", nowhere.as_str()),
        ("MODERATOR", "alice"),
        ("MODERATOR_PASSWORD", "secret"),
        ("VISITOR", "bob"),
        ("VISITOR_PASSWORD", "secret"),
    ];
    let library = tools::talk("talk.py", &[], &environment);
    let properties = tools::schemathesis(&["run", &format!("{nowhere}/openapi.json")]);
    for (output, status, error) in
        [(library, 1, "ConnectionError"), (properties, 2, "Connection refused")]
    {
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        let printed = [output.stdout, output.stderr].concat();
        let printed = String::from_utf8_lossy(&printed);
        assert!(printed.contains(error), "{printed}");
    }
}
