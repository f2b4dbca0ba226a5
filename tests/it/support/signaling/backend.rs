//! A stand-in for the Nextcloud of a signaling server, for `docs/standalone-signaling-api-v1.md` of
//! the server's source.
//!
//! The server asks it to identify a client (`auth`), to let a session join a room (`room`), and
//! tells it which sessions are connected (`ping`). It lets everybody in: a client is the user that
//! its hello names, and a room has the properties of one with a lobby.

use axum::{
    Router,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};

use super::{SECRET, checksum};

pub const PATH: &str = "/ocs/v2.php/apps/spreed/api/v1/signaling/backend";

pub struct Backend {
    port: u16,
    /// Ends with it.
    _server: JoinSet<()>,
}

impl Backend {
    pub async fn start() -> Self {
        let router = Router::new().route(PATH, post(answer));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { port, _server: server }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

async fn answer(headers: HeaderMap, body: String) -> Response {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
    let expected = checksum(SECRET, header("Spreed-Signaling-Random"), body.as_bytes());
    if header("Spreed-Signaling-Checksum") != expected {
        return StatusCode::FORBIDDEN.into_response();
    }
    let request: Value = serde_json::from_str(&body).unwrap();
    let kind = request["type"].as_str().unwrap();
    let room = &request[kind]["roomid"];
    let answer = match kind {
        "auth" => json!({ "version": "1.0", "userid": request["auth"]["params"]["userid"] }),
        "room" => json!({ "version": "1.0", "roomid": room, "properties": { "lobby-state": 1 } }),
        "ping" => json!({ "version": "1.0", "roomid": room }),
        _ => panic!("{body}"),
    };
    let meta = json!({ "status": "ok", "statuscode": 200, "message": "OK" });
    let data = json!({ "type": kind, kind: answer });
    let envelope = json!({ "ocs": { "meta": meta, "data": data } });
    ([("Content-Type", "application/json")], envelope.to_string()).into_response()
}
