//! Clients that others wrote: what they expect of a server with Talk's API is not ours to say.

use std::process::Output;

use serde_json::json;

use crate::support::{cluster::start_on_sqlite, daemon::add_user, http::Api, tools};

fn assert_passed(output: &Output) {
    let (shown, complaints) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}:\n{shown}{complaints}", output.status);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_client_library_drives_it() {
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
async fn property_based_requests_find_no_fault() {
    let (daemon, settings) = start_on_sqlite().await;
    add_user(&settings, "alice", "secret", &[]);
    let description = format!("http://127.0.0.1:{}/openapi.json", daemon.http_port);
    let output = tools::schemathesis(&["run", &description, "--auth", "alice:secret"]);
    assert_passed(&output);
    // It is as well as before, and the requests were more than refusals.
    let alice = Api::new(daemon.http_port).user("alice", "secret");
    let rooms = alice.get("/room").await.expect(200).data();
    assert!(!rooms.as_array().unwrap().is_empty(), "no room was made");
    let webinar = json!({ "roomType": 3, "roomName": "Webinar" });
    alice.post("/room", webinar).await.expect(201);
}
