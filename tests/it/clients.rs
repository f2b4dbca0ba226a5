//! Clients of other projects. They define what a server with Talk's API must do, not these tests.

use std::process::Output;

use serde_json::json;

use crate::support::{cluster::start_on_sqlite, daemon::add_user, http::Api, tools};

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
