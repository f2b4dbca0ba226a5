//! Clients of other projects. They define what a server with Talk's API must do, not these tests.

use std::{fs, process::Output};

use serde_json::{Value, json};

use crate::support::{
    cluster::start_on_sqlite, daemon::add_user, http::Api, server::folder, tools,
};

fn assert_passed(output: &Output) {
    let (shown, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}:\n{shown}{errors}", output.status);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_library_of_nextcloud_runs_a_webinar() {
    let (daemon, settings) = start_on_sqlite().await;
    add_user(&settings, "alice", "a secret of Alice", &["staff"]);
    add_user(&settings, "bob", "a secret of Bob", &[]);
    let url = format!("http://127.0.0.1:{}", daemon.http_port);
    let environment = [
        ("URL", url.as_str()),
        ("MODERATOR", "alice"),
        ("MODERATOR_PASSWORD", "a secret of Alice"),
        ("VISITOR", "bob"),
        ("VISITOR_PASSWORD", "a secret of Bob"),
    ];
    let output = tools::talk("talk.py", &[], &environment);
    assert_passed(&output);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_linter_finds_no_fault_in_the_description() {
    let (daemon, _settings) = start_on_sqlite().await;
    let description = Api::new(daemon.http_port).guest().get("/openapi.json").await.expect(200);
    let lint = |document: &Value| {
        let path = folder("openapi-").join("openapi.json");
        fs::write(&path, document.to_string()).unwrap();
        let script = tools::file("target/test-tools/redocly/lint.mjs");
        tools::output(tools::debian("node").arg(script).arg(path))
    };
    let mut description = description.json();
    assert_passed(&lint(&description));
    // It finds faults.
    description["servers"] = json!([]);
    assert_eq!(lint(&description).status.code(), Some(1));
}

/// Which requests need a login, as the description says, is what an anonymous visitor finds.
#[tokio::test(flavor = "multi_thread")]
async fn the_description_says_who_may_send_a_request() {
    let (daemon, settings) = start_on_sqlite().await;
    add_user(&settings, "alice", "secret", &[]);
    let api = Api::new(daemon.http_port);
    let room = api.user("alice", "secret").room(3).await;
    let description = api.guest().get("/openapi.json").await.expect(200).json();
    let usual = &description["security"];
    for (path, item) in description["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let path = path.replace("{token}", &room).replace("{id}", "1");
            let headers = [("accept", "application/json"), ("ocs-apirequest", "true")];
            // An event stream does not end, and its header is that of the response to HEAD.
            let is_stream =
                operation["responses"]["200"]["content"]["text/event-stream"].is_object();
            let method = if is_stream { "HEAD" } else { &method.to_uppercase() };
            let response = api.guest().raw(method, &path, &headers, "").await;
            let security = operation.get("security").unwrap_or(usual);
            let accepts = |kind: &str| {
                let kinds = security.as_array().unwrap().iter();
                kinds.flat_map(|kind| kind.as_object().unwrap().keys()).any(|each| each == kind)
            };
            let is_open = security.as_array().unwrap().contains(&json!({}));
            let expected = match (is_open, accepts("guest")) {
                (true, _) => 200,
                (false, true) => 404,
                (false, false) => 401,
            };
            assert!(accepts("basic"), "{method} {path}");
            assert_eq!(response.status, expected, "{method} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_requests_find_no_fault() {
    let (daemon, settings) = start_on_sqlite().await;
    add_user(&settings, "alice", "secret", &[]);
    let description = format!("http://127.0.0.1:{}/openapi.json", daemon.http_port);
    let output = tools::schemathesis(&["run", &description, "--auth", "alice:secret"]);
    assert_passed(&output);
    // The server still works, and some of the requests were successful.
    let alice = Api::new(daemon.http_port).user("alice", "secret");
    let rooms = alice.get("/room").await.expect(200).data();
    assert!(!rooms.as_array().unwrap().is_empty(), "no request created a room");
    let webinar = json!({ "roomType": 3, "roomName": "Webinar" });
    alice.post("/room", webinar).await.expect(201);
}
