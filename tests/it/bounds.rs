//! What one client may cost the others: each test exceeds a limit, and shows that the client is told
//! so and that others are served.

use futures_util::future::join;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::{
    PATIENCE,
    app::TestApp,
    database::Kind,
    http::{Client, Response},
};

const CAPABILITIES: &str = "/ocs/v2.php/cloud/capabilities";

const ROOMS: &str = "/ocs/v2.php/apps/spreed/api/v4/room";

/// The program with this setting.
async fn app_with(key: &str, value: &str) -> TestApp {
    let mut app = TestApp::new(Kind::Sqlite).await;
    app.set(key, value);
    app.restart().await;
    app
}

/// A connection on which a test chooses each byte.
struct Connection(TcpStream);

impl Connection {
    async fn open(app: &TestApp) -> Self {
        Self(TcpStream::connect(("127.0.0.1", app.http_port())).await.unwrap())
    }

    async fn send(&mut self, bytes: &str) {
        self.0.write_all(bytes.as_bytes()).await.unwrap();
    }

    /// Reads a response: its header, in small letters.
    async fn response(&mut self) -> String {
        let reading = async {
            let mut header = Vec::new();
            while !header.ends_with(b"\r\n\r\n") {
                header.push(self.0.read_u8().await.expect("the connection is closed"));
            }
            let header = String::from_utf8(header).unwrap().to_lowercase();
            let length = header
                .split("content-length: ")
                .nth(1)
                .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse().unwrap());
            let mut body = vec![0; length];
            self.0.read_exact(&mut body).await.unwrap();
            header
        };
        timeout(PATIENCE, reading).await.expect("no response")
    }

    /// Sends another request, which has to be answered.
    async fn is_usable(&mut self) {
        self.send(&format!("GET {CAPABILITIES} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        let header = self.response().await;
        assert!(header.starts_with("http/1.1 200"), "{header}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_refused_before_its_body_was_read_leaves_the_connection_usable() {
    let app = TestApp::new(Kind::Sqlite).await;
    let mut connection = Connection::open(&app).await;
    let known = format!("POST {ROOMS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n");
    let body = |size: usize| format!("Content-Length: {size}\r\n\r\n{}", "x".repeat(size));
    for (status, head, body) in [
        (401, known.clone(), body(1000)),
        (404, "PUT /unknown HTTP/1.1\r\nHost: x\r\n".to_owned(), body(100_000)),
        (405, known.replace("POST", "DELETE"), body(1000)),
        (401, known.clone(), "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".to_owned()),
        (413, known.replace(ROOMS, &format!("{ROOMS}/abcd/participants/active")), body(100_000)),
    ] {
        connection.send(&head).await;
        connection.send(&body).await;
        let header = connection.response().await;
        assert!(header.starts_with(&format!("http/1.1 {status}")), "{header}");
        assert!(!header.contains("connection: close"), "{header}");
        connection.is_usable().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_before_a_body_that_is_too_long_announces_the_end_of_the_connection() {
    let app = TestApp::new(Kind::Sqlite).await;
    for rest in
        ["Content-Length: 5000000\r\n\r\n", "Content-Length: 5\r\nExpect: 100-continue\r\n\r\n"]
    {
        let mut connection = Connection::open(&app).await;
        connection.send(&format!("POST {ROOMS} HTTP/1.1\r\nHost: x\r\n{rest}")).await;
        let header = connection.response().await;
        assert!(header.starts_with("http/1.1 401"), "{header}");
        assert!(header.contains("connection: close"), "{header}");
        let mut end = String::new();
        connection.0.read_to_string(&mut end).await.unwrap();
        assert_eq!(end, "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_arrive_is_not_waited_for() {
    let app = TestApp::new(Kind::Sqlite).await;
    let owner = app.user("owner").await;
    let room = owner.room(3).await;
    let mut connection = Connection::open(&app).await;
    let head = format!(
        "POST {ROOMS}/{room}/participants/active HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\
         Content-Type: application/json\r\n\r\n{{"
    );
    connection.send(&head).await;
    let header = connection.response().await;
    assert!(header.starts_with("http/1.1 408"), "{header}");
    assert!(header.contains("connection: close"), "{header}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_received_are_bounded_together() {
    let app = app_with("LIMITS__REQUEST_MEMORY", "4000").await;
    let owner = app.user("owner").await;
    let too_much =
        json!({"roomType": 3, "roomName": "x".repeat(200), "description": "x".repeat(1800)});
    let refused = owner.post("/room", too_much).await.expect(503);
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    owner.room(3).await;
    limited(&app, "request_bytes", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_responses_are_bounded_together() {
    let app = app_with("LIMITS__RESPONSE_MEMORY", "400000").await;
    let owner = app.user("owner").await;
    let room = owner.room(3).await;
    let send = json!({"message": "x".repeat(30_000)});
    let chat = format!("/chat/{room}");
    for _ in 0..5 {
        owner.post(&chat, send.clone()).await.expect(201);
    }
    owner.get(&format!("{chat}?lookIntoFuture=0&limit=3")).await.expect(200);
    // It alone exceeds the share of one client, so that it cannot succeed later.
    let refused = owner.get(&format!("{chat}?lookIntoFuture=0&limit=5")).await.expect(500);
    assert_eq!(refused.header("retry-after"), None, "{refused:?}");
    let message = refused.json()["ocs"]["meta"]["message"].to_string();
    assert!(message.contains("too large"), "{message}");
    limited(&app, "response_bytes", 1).await;
    owner.get(&format!("{chat}?lookIntoFuture=0&limit=3")).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_makes_a_limited_number_of_changes() {
    let app = app_with("LIMITS__CHANGES_PER_MINUTE", "3").await;
    let (greedy, other) = (app.user("greedy").await, app.user("other").await);
    let room = greedy.room(3).await;
    let chat = format!("/chat/{room}");
    for _ in 0..2 {
        greedy.post(&chat, json!({"message": "x"})).await.expect(201);
    }
    let refused = greedy.post(&chat, json!({"message": "x"})).await.expect(429);
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=21).contains(&wait), "{wait}");
    greedy.post("/room", json!({"roomType": 3, "roomName": "x"})).await.expect(429);
    greedy.get(&format!("/room/{room}")).await.expect(200);
    let second = other.room(3).await;
    limited(&app, "changes", 2).await;
    // A guest has another id in each room, and is the same client.
    let guest = app.api.guest();
    guest.join(&room).await;
    guest.join(&second).await;
    guest.post(&chat, json!({"message": "x"})).await.expect(201);
    guest.post(&format!("/chat/{second}"), json!({"message": "x"})).await.expect(429);
    app.api.guest().join(&room).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_owns_a_limited_number_of_rooms() {
    let app = app_with("LIMITS__ROOMS_PER_USER", "2").await;
    let (greedy, other) = (app.user("greedy").await, app.user("other").await);
    let first = greedy.room(3).await;
    greedy.room(2).await;
    for room in [json!({"roomType": 3, "roomName": "x"}), json!({"roomType": 1, "invite": "other"})]
    {
        greedy.post("/room", room).await.expect(429);
    }
    other.room(3).await;
    greedy.delete(&format!("/room/{first}"), json!({})).await.expect(200);
    greedy.room(3).await;
    limited(&app, "rooms", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_has_a_limited_number_of_guests() {
    let app = app_with("LIMITS__GUESTS_PER_ROOM", "2").await;
    let (owner, user) = (app.user("owner").await, app.user("user").await);
    let room = owner.room(3).await;
    let guests = [app.api.guest(), app.api.guest()];
    for guest in &guests {
        guest.join(&room).await;
    }
    join_is_refused(&app.api.guest(), &room).await;
    // Those who are in the room may join again, and users may always join.
    guests[0].join(&room).await;
    user.join(&room).await;
    limited(&app, "guests", 1).await;
}

/// Actors who have never been in the room can be banned.
#[tokio::test(flavor = "multi_thread")]
async fn a_room_has_a_limited_number_of_bans() {
    let app = TestApp::new(Kind::Sqlite).await;
    let owner = app.user("owner").await;
    let room = owner.room(3).await;
    let bans = format!("/ocs/v2.php/apps/spreed/api/v1/ban/{room}");
    let ban = |id: &str| json!({"actorType": "users", "actorId": id});
    let first = owner.post(&bans, ban("first")).await.expect(200).data()["id"].clone();
    let copies = "INSERT INTO lobbyd_bans (room_id, actor_type, actor_id, display_name,
                                           moderator_id, moderator_name, note, created_at)
        WITH RECURSIVE numbers (number) AS (
            SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < 999
        )
        SELECT room_id, actor_type, number, display_name, moderator_id, moderator_name, note,
               created_at
        FROM lobbyd_bans CROSS JOIN numbers";
    app.database.execute(copies).await;
    let refused = owner.post(&bans, ban("last")).await.expect(400);
    assert_eq!(refused.data()["error"], "bannedActor");
    assert_eq!(owner.get(&bans).await.expect(200).data().as_array().map(Vec::len), Some(1000));
    // Another note for the same actor is no further ban.
    let renewed = owner.post(&bans, ban("first")).await.expect(200).data()["id"].clone();
    assert_ne!(renewed, first);
    owner.delete(&format!("{bans}/{renewed}"), json!({})).await.expect(200);
    owner.post(&bans, ban("last")).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_of_one_address_join_at_a_limited_rate() {
    let app = app_with("LIMITS__JOINS_PER_MINUTE", "2").await;
    let owner = app.user("owner").await;
    let room = owner.room(3).await;
    for _ in 0..2 {
        app.api.guest().join(&room).await;
    }
    join_is_refused(&app.api.guest(), &room).await;
    owner.join(&room).await;
    limited(&app, "joins", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_has_a_limited_number_of_waiting_requests() {
    let app = app_with("LIMITS__LONG_POLLS_PER_CLIENT", "1").await;
    let (owner, other) = (app.user("owner").await, app.user("other").await);
    let room = owner.room(3).await;
    other.join(&room).await;
    let path = format!("/room/{room}");
    let refused = async {
        app.daemon().long_polls_become(2).await;
        let refused = poll(&owner, &path).await.expect(429);
        assert!(refused.header("retry-after").is_some(), "{refused:?}");
        owner.put(&format!("{path}/description"), json!({"description": "new"})).await.expect(200);
    };
    let polls = join(poll(&owner, &path), poll(&other, &path));
    let ((first, second), ()) = join(polls, refused).await;
    first.expect(200);
    second.expect(200);
    limited(&app, "long_polls", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_are_answered_beside_incomplete_requests() {
    let app = TestApp::new(Kind::Sqlite).await;
    let ops = app.daemon().ops_port;
    let mut incomplete = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(("127.0.0.1", ops)).await.unwrap();
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nX-").await.unwrap();
        incomplete.push(stream);
        if incomplete.len() % 64 == 0 {
            app.daemon().ready().await;
        }
    }
    app.daemon().ready().await;
}

/// Waits until the room changes.
async fn poll(client: &Client, path: &str) -> Response {
    let tag = client.get(path).await.expect(200).header("etag").unwrap().to_owned();
    client.header("if-none-match", &tag).header("prefer", "wait=50").get(path).await
}

async fn join_is_refused(guest: &Client, room: &str) {
    let path = format!("/room/{room}/participants/active");
    let refused = guest.post(&path, json!({})).await.expect(429);
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
}

async fn limited(app: &TestApp, limit: &str, number: u64) {
    let metric = format!("lobbyd_http_limited_total{{limit=\"{limit}\"}}");
    app.daemon().metric_becomes(&metric, number).await;
}
