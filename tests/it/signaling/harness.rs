//! What the signaling server does with a request, without lobbyd. It shows that the tests see what
//! clients of a real server see.

use std::time::Duration;

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::front::{Answer, Front};
use crate::support::{
    http::{Api, Response},
    signaling::{SECRET, SignalingServer, checksum, client::Channel},
};

/// A worked example, with its checksum by SECRET.
const BODY: &str = concat!(
    r#"{"type":"update","update":{"userids":["alice","bob"],"properties":"#,
    r#"{"name":"Private conversation","type":3,"lobby-state":0,"lobby-timer":null,"read-only":0,"#,
    r#""listable":0,"active-since":null,"sip-enabled":0,"description":""}}}"#
);
const RANDOM: &str = "QwErTyUiOpAsDfGhJkLzXcVbNm0123456789QwErTyUiOpAsDfGhJkLzXcVbNm01";
const CHECKSUM: &str = "d627e3902be7b7a9eb4a793dfd04e3e19dd1b11c12b185667537146dcbfeadb6";

async fn post(port: u16, backend: &str, token: &str, checksum: &str) -> Response {
    let headers = [
        ("content-type", "application/json"),
        ("spreed-signaling-random", RANDOM),
        ("spreed-signaling-checksum", checksum),
        ("spreed-signaling-backend", backend),
    ];
    Api::new(port).guest().raw("POST", &format!("/api/v1/room/{token}"), &headers, BODY).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_reaches_users_and_everybody_in_the_room() {
    assert_eq!(checksum(SECRET, RANDOM, BODY.as_bytes()), CHECKSUM);
    let signaling = SignalingServer::start().await;
    let (alice, bob) = (signaling.user("alice").await, signaling.user("bob").await);
    alice.join("webinar1").await;
    let guest = signaling.guest_in("webinar1").await;
    let other = signaling.guest_in("webinar2").await;
    let answer = post(signaling.server.port, &signaling.backend(), "webinar1", CHECKSUM).await;
    assert_eq!(answer.expect(200).body, b"{}");
    let zero = json!(0);
    let properties = alice.is_told(Channel::Room, "webinar1", "lobby-state", &zero).await;
    assert_eq!(properties.as_object().unwrap().len(), 9);
    assert_eq!(properties["name"], "Private conversation");
    for (client, channel) in
        [(&alice, Channel::List), (&bob, Channel::List), (&guest, Channel::Room)]
    {
        assert_eq!(client.is_told(channel, "webinar1", "lobby-state", &zero).await, properties);
    }
    assert!(bob.properties(Channel::Room, "webinar1").is_empty());
    assert!(guest.properties(Channel::List, "webinar1").is_empty());
    // An update of its own room comes after what it would have been told about the other room.
    post(signaling.server.port, &signaling.backend(), "webinar2", CHECKSUM).await.expect(200);
    other.is_let_in(Channel::Room, "webinar2").await;
    assert!(other.properties(Channel::Room, "webinar1").is_empty());
    let wrong = checksum("wrong", RANDOM, BODY.as_bytes());
    post(signaling.server.port, &signaling.backend(), "webinar1", &wrong).await.expect(403);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_lose_a_server_that_is_killed_and_find_it_when_it_is_started_again() {
    let mut signaling = SignalingServer::start().await;
    let mut guest = signaling.guest_in("webinar1").await;
    signaling.server.kill();
    guest.is_disconnected().await;
    signaling.server.start();
    let guest = signaling.guest_in("webinar1").await;
    post(signaling.server.port, &signaling.backend(), "webinar1", CHECKSUM).await.expect(200);
    guest.is_let_in(Channel::Room, "webinar1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_front_of_the_server_passes_refuses_holds_and_cuts_requests() {
    let signaling = SignalingServer::start().await;
    let guest = signaling.guest_in("webinar1").await;
    let front = Front::of(&signaling).await;
    let backend = signaling.backend();
    let send = || post(front.port, &backend, "webinar1", CHECKSUM);
    front.set(Answer::Status(502));
    send().await.expect(502);
    front.set_for("webinar1", Some(Answer::Redirect(1)));
    let target = "http://127.0.0.1:1/api/v1/room/webinar1";
    assert_eq!(send().await.expect(302).header("location"), Some(target));
    front.set_for("webinar1", None);
    for answer in [Answer::Cut, Answer::CutAfter] {
        front.set(answer);
        let sending = TcpStream::connect(("127.0.0.1", front.port)).await.unwrap();
        let closed = closed_after(sending, &backend);
        assert_eq!(closed.await, "", "{answer:?}");
    }
    // Only the second of the two was passed on.
    guest.is_let_in(Channel::Room, "webinar1").await;
    front.set(Answer::Hold);
    let release = async {
        let held = front.receives("webinar1", 6).await;
        assert!(held[5].at > held[4].at);
        front.set(Answer::Late(Duration::from_millis(50)));
    };
    let (first, second, ()) = tokio::join!(send(), send(), release);
    assert_eq!((first.expect(200).status, second.expect(200).status), (200, 200));
    assert_eq!(front.most_at_once("webinar1"), 2);
    let recorded = front.requests("webinar1");
    assert_eq!(recorded.len(), 6);
    for request in recorded {
        assert_eq!(request.header("spreed-signaling-checksum"), CHECKSUM);
        assert_eq!((request.body.as_slice(), request.users().len()), (BODY.as_bytes(), 2));
        assert_eq!(request.properties()["lobby-state"], 0);
    }
}

/// Sends the example on a connection, and returns what is read until it is closed.
async fn closed_after(mut stream: TcpStream, backend: &str) -> String {
    let length = BODY.len();
    let request = format!(
        "POST /api/v1/room/webinar1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\
         Content-Type: application/json\r\nSpreed-Signaling-Random: {RANDOM}\r\n\
         Spreed-Signaling-Checksum: {CHECKSUM}\r\nSpreed-Signaling-Backend: {backend}\r\n\r\n{BODY}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
