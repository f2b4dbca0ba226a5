//! Settings by the HTTP API.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use super::Clients;
use crate::check::history::SKEW;

/// How long a client waits for a response of the API.
const PATIENCE: Duration = Duration::from_secs(15);

/// The status of a request while the database is unavailable.
const UNAVAILABLE: u16 = 503;

/// Sets the lobby of a room by one of the APIs. Returns whether it was confirmed; otherwise it may have
/// been executed or not.
pub async fn put(
    clients: &Clients,
    number: i64,
    token: &str,
    state: i64,
    timer: Option<i64>,
) -> bool {
    let api = &clients.apis[usize::try_from(number % 2).unwrap()];
    let path = format!("/room/{token}/webinar/lobby");
    let body = json!({"state": state, "timer": timer});
    let Ok(Ok(response)) = timeout(PATIENCE, api.try_put(&path, &body)).await else {
        return false;
    };
    let is_right = match response.status {
        200 => shows(&response.body, token, (state, timer), clients.notes.now()),
        other => other == UNAVAILABLE,
    };
    if !is_right {
        clients.notes.add_wrong(format!("PUT {body}: {response:?}"));
    }
    response.status == 200
}

/// Whether a response shows the room with the lobby that was asked for. A timer that is over opens the
/// room.
fn shows(body: &[u8], token: &str, lobby: (i64, Option<i64>), now: i64) -> bool {
    let response: Value = serde_json::from_slice(body).unwrap_or_default();
    let room = &response["ocs"]["data"];
    let (state, timer) = lobby;
    let is_over = timer.is_some_and(|timer| timer * 1000 <= now + SKEW);
    let has = |state: i64, timer: i64| room["lobbyState"] == state && room["lobbyTimer"] == timer;
    room["token"] == token && (has(state, timer.unwrap_or(0)) || (is_over && has(0, 0)))
}

#[test]
fn a_response_with_another_room_or_lobby_is_wrong() {
    let shown = |token: &str, state: i64, timer: i64| {
        let room = json!({"token": token, "lobbyState": state, "lobbyTimer": timer});
        json!({"ocs": {"data": room}}).to_string().into_bytes()
    };
    let is_right = |body: &[u8]| shows(body, "a", (1, Some(10)), 5_000);
    assert!(is_right(&shown("a", 1, 10)));
    for wrong in [shown("b", 1, 10), shown("a", 0, 10), shown("a", 1, 11), shown("a", 0, 0)] {
        assert!(!is_right(&wrong), "{}", String::from_utf8_lossy(&wrong));
    }
    assert!(!is_right(b"<html>"));
    assert!(shows(&shown("a", 0, 0), "a", (1, Some(10)), 10_000), "its timer is over");
    assert!(shows(&shown("a", 1, 0), "a", (1, None), 5_000));
}
