//! `deploy/talk-compatibility.md`: the requests that it names exist in lobbyd, or do not.

use std::fs;

use serde_json::Value;

use crate::support::{cluster::start_on_sqlite, http::Api};

/// The path of Talk's API below which a request is.
fn absolute(path: &str) -> String {
    let version = match path.split('/').nth(1) {
        Some("room" | "call" | "listed-room") => "v4",
        _ => "v1",
    };
    format!("/ocs/v2.php/apps/spreed/api/{version}{path}")
}

/// The requests in code spans of a text: method and path.
fn requests(text: &str) -> Vec<(String, String)> {
    let spans = text.split('`').skip(1).step_by(2);
    spans
        .filter_map(|span| span.split_once(' '))
        .filter(|(method, path)| {
            ["GET", "POST", "PUT", "DELETE"].contains(method) && path.starts_with('/')
        })
        .map(|(method, path)| (method.to_lowercase(), absolute(path)))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_requests_that_differ_from_talk_are_those_of_the_api() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/talk-compatibility.md");
    let page = fs::read_to_string(page).unwrap();
    let (different, missing) = page.split_once("## Requests that lobbyd does not have").unwrap();
    let (daemon, _settings) = start_on_sqlite().await;
    let document = Api::new(daemon.http_port).guest().get("/openapi.json").await.expect(200);
    let paths: Value = document.json()["paths"].clone();
    let exists = |(method, path): &(String, String)| paths[path][method].is_object();
    let different = requests(different);
    assert!(different.len() > 20, "{different:?}");
    for request in &different {
        assert!(exists(request), "{request:?} does not exist");
    }
    let mut absent = Vec::new();
    for row in missing.lines().filter(|line| line.starts_with("| `")) {
        absent.extend(requests(row.split('|').nth(1).unwrap()));
    }
    assert!(absent.len() > 20, "{absent:?}");
    for request in &absent {
        assert!(!exists(request), "{request:?} exists");
    }
}
