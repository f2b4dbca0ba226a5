//! The HTTP server: logins, formats, cookies and proxies, and what hostile clients can do.

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::{
    PATIENCE,
    app::{PASSWORD, TestApp},
    daemon::run,
    database::Kind,
    eventually,
    http::Client,
};

const CAPABILITIES: &str = "/ocs/v2.php/cloud/capabilities";

fn basic(name: &str, password: &str) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    format!("Basic {}", STANDARD.encode(format!("{name}:{password}")))
}

async fn app() -> TestApp {
    TestApp::new(Kind::Sqlite).await
}

#[tokio::test(flavor = "multi_thread")]
async fn capabilities_list_what_the_server_supports() {
    let app = app().await;
    let guest = app.api.guest();
    let server = guest.get(CAPABILITIES).await.expect(200);
    let features = server.data()["capabilities"]["spreed"]["features"].clone();
    for feature in ["webinary-lobby", "sip-support", "chat-v2", "conversation-v4"] {
        assert!(features.as_array().unwrap().contains(&json!(feature)), "{features}");
    }
    assert!(server.data()["version"]["major"].is_i64());
    let first = guest.get("/ocs/v1.php/cloud/capabilities").await.expect(200);
    assert_eq!((first.meta_status(), server.meta_status()), (100, 200));
    guest.get("/ocs/v2.php/cloud/user").await.expect(401);
    let alice = app.user("alice").await;
    let user = alice.get("/ocs/v1.php/cloud/user").await.expect(200).data();
    assert_eq!((&user["id"], &user["displayname"]), (&json!("alice"), &json!("Alice")));
    let document = guest.get("/openapi.json").await.expect(200);
    let known = guest.header("if-none-match", document.header("etag").unwrap());
    known.get("/openapi.json").await.expect(304);
    let document = document.json();
    assert_eq!(document["openapi"], "3.1.0");
    assert!(document["paths"]["/ocs/v2.php/apps/spreed/api/v4/room/{token}"]["get"].is_object());
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_have_the_format_that_the_client_accepts() {
    let app = app().await;
    let alice = app.user("alice").await;
    let room = alice.room(3).await;
    let path = format!("/room/{room}");
    let xml = alice.raw("GET", &path, &[], "").await.expect(200);
    assert_eq!(xml.header("content-type"), Some("application/xml; charset=utf-8"));
    let text = String::from_utf8(xml.body).unwrap();
    assert!(text.starts_with("<?xml version=\"1.0\"?>\n<ocs>\n <meta>"), "{text}");
    assert!(text.contains(&format!("<token>{room}</token>")), "{text}");
    assert!(text.contains("<canDeleteConversation>1</canDeleteConversation>"), "{text}");
    assert!(text.contains("<hasPassword/>"), "{text}");
    let json = alice.raw("GET", &format!("{path}?format=json"), &[], "").await.expect(200);
    assert_eq!(json.header("content-type"), Some("application/json; charset=utf-8"));
    // Errors too, whichever layer reports them.
    for (path, status) in [("/room/nowhere", 404), ("/nonsense", 404), ("/ocs/v9.php/x", 404)] {
        let response = alice.get(path).await.expect(status);
        assert_eq!(response.meta_status(), i64::from(status));
        assert_eq!(response.json()["ocs"]["meta"]["status"], "failure");
        assert!(response.header("x-request-id").is_some());
    }
    alice.raw("PATCH", &path, &[("accept", "application/json")], "").await.expect(405);
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_bodies_are_refused() {
    let app = app().await;
    let alice = app.user("alice").await;
    let json = [("content-type", "application/json"), ("accept", "application/json")];
    for body in ["{", "[]", "\"x\"", "{\"roomType\": }", "\u{0}"] {
        alice.raw("POST", "/room", &json, body.to_owned()).await.expect(400);
    }
    let deep = "[".repeat(10_000);
    alice.raw("POST", "/room", &json, deep).await.expect(400);
    let text = [("content-type", "text/plain"), ("accept", "application/json")];
    alice.raw("POST", "/room", &text, "roomType=2").await.expect(415);
    let chat = format!("/chat/{}", alice.room(2).await);
    for (path, size) in [("/room", 32 * 1024), (chat.as_str(), 512 * 1024)] {
        alice.raw("POST", path, &json, " ".repeat(size + 1)).await.expect(413);
    }
    let missing = alice.post("/room", json!({"roomName": "x"})).await.expect(400);
    let message = missing.json()["ocs"]["meta"]["message"].clone();
    assert_eq!(message, "missing field `roomType`");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_valid_login_is_a_user() {
    let app = app().await;
    let alice = app.user("alice").await;
    alice.get("/room").await.expect(200);
    for authorization in [
        basic("alice", "wrong"),
        basic("Alice", PASSWORD),
        basic("nobody", PASSWORD),
        basic("", PASSWORD),
        "Bearer abc".to_owned(),
        "Basic !".to_owned(),
    ] {
        let client = app.api.guest().header("authorization", &authorization);
        let refused = client.get("/room").await;
        assert!([401, 429].contains(&refused.status), "{refused:?}");
        // A request with a wrong login is not a guest either.
        let refused = client.get(CAPABILITIES).await;
        assert!([401, 429].contains(&refused.status), "{refused:?}");
    }
    let refused = app.api.guest().get("/room").await.expect(401);
    let challenge = refused.header("www-authenticate").unwrap();
    assert!(challenge.starts_with("Basic realm="), "{challenge}");
    assert!(!app.log().contains(PASSWORD));
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_logins_are_throttled_and_others_are_not() {
    let app = app().await;
    let alice = app.user("alice").await;
    alice.get("/room").await.expect(200);
    let mut throttled = None;
    for attempt in 0..20 {
        let guess = basic("alice", &format!("guess {attempt}"));
        let response = app.api.guest().header("authorization", &guess).get("/room").await;
        if response.status == 429 {
            throttled = Some(response);
            break;
        }
        response.expect(401);
    }
    let throttled = throttled.expect("20 guesses were not throttled");
    assert!(throttled.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    // A login that succeeded before is accepted, from the same address.
    alice.get("/room").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_sets_client_address_and_user() {
    let mut app = app().await;
    app.user("alice").await;
    let named = |client: &Client| client.header("x-forwarded-user", "alice");
    named(&app.api.guest()).get("/ocs/v2.php/cloud/user").await.expect(401);
    app.set("HTTP__TRUSTED_PROXIES", "127.0.0.1/32");
    app.set("HTTP__USER_HEADER", "X-Forwarded-User");
    app.restart().await;
    let guest = app.api.guest();
    let user = named(&guest).get("/ocs/v2.php/cloud/user").await.expect(200).data();
    assert_eq!(user["id"], "alice");
    guest.header("x-forwarded-user", "nobody").get("/ocs/v2.php/cloud/user").await.expect(401);
    // Guesses from one address throttle only that address.
    let from = |address: &str, password: &str| {
        let client = app.api.guest().header("authorization", &basic("alice", password));
        client.header("x-forwarded-for", address)
    };
    eventually("a throttled guess", || async {
        let attacker = from("192.0.2.1", "wrong");
        (attacker.get("/room").await.status == 429).then_some(())
    })
    .await;
    from("192.0.2.2", "wrong").get("/room").await.expect(401);

    let room = named(&guest).room(3).await;
    let join = format!("/room/{room}/participants/active");
    let over_tls = app.api.guest().header("x-forwarded-proto", "https");
    let cookie = over_tls.post(&join, json!({})).await.expect(200);
    let cookie = cookie.header("set-cookie").unwrap().to_owned();
    for attribute in ["HttpOnly", "SameSite=Lax", "Secure", "Path=/"] {
        assert!(cookie.contains(attribute), "{cookie}");
    }
    let plain = app.api.guest().post(&join, json!({})).await.expect(200);
    assert!(!plain.header("set-cookie").unwrap().contains("Secure"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cross_site_page_cannot_use_a_login_of_the_browser() {
    let app = app().await;
    let alice = app.user("alice").await;
    let form =
        [("content-type", "application/x-www-form-urlencoded"), ("sec-fetch-site", "cross-site")];
    alice.raw("POST", "/room", &form, "roomType=2&roomName=x").await.expect(403);
    assert_eq!(alice.get("/room").await.expect(200).data(), json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_of_a_room_password_are_throttled() {
    let app = app().await;
    let owner = app.user("owner").await;
    let room = owner.room(3).await;
    owner.put(&format!("/room/{room}/password"), json!({"password": "p"})).await.expect(200);
    let guest = app.api.guest();
    let join = format!("/room/{room}/participants/active");
    eventually("a throttled guess", || async {
        let response = guest.post(&join, json!({"password": "wrong"})).await;
        assert!([403, 429].contains(&response.status), "{response:?}");
        (response.status == 429).then_some(())
    })
    .await;
    // Logins are not throttled by it.
    owner.get("/room").await.expect(200);
}

/// A participant whose device disconnected without leaving does not stay in the call forever. Every
/// request keeps a session alive.
#[tokio::test(flavor = "multi_thread")]
async fn only_inactive_sessions_end() {
    let mut app = app().await;
    // Activity is stored each half minute; the rest is for a busy machine.
    app.set("HTTP__SESSION_TIMEOUT", "1m");
    app.set("HOUSEKEEPING__SESSIONS", "* * * * * *");
    app.restart().await;
    let owner = app.user("owner").await;
    let guest = app.api.guest();
    let room = owner.room(3).await;
    let call = format!("/call/{room}");
    for each in [&owner, &guest] {
        each.join(&room).await;
        each.post(&call, json!({"flags": 1})).await.expect(200);
    }
    for (event, count) in [
        (
            "the stored activity of the guest",
            "SELECT count(*) FROM lobbyd_sessions JOIN lobbyd_attendees AS attendee
             ON attendee.id = attendee_id WHERE actor_type = 'guests' AND seen_at > 0",
        ),
        ("the end of the guest's session", "SELECT count(*) FROM lobbyd_sessions"),
    ] {
        eventually(event, || async {
            owner.get(&call).await.expect(200);
            (app.database.number(count).await == 1).then_some(())
        })
        .await;
    }
    let seen = owner.get(&format!("/room/{room}")).await.expect(200).data();
    assert_eq!((&seen["participantFlags"], &seen["hasCall"]), (&json!(1), &json!(true)));
}

/// A client that sends only a part of a request does not delay other clients.
#[tokio::test(flavor = "multi_thread")]
async fn slow_and_greedy_clients_do_not_delay_others() {
    let app = app().await;
    let alice = app.user("alice").await;
    let room = alice.room(2).await;
    let port = app.http_port();
    let mut slow = Vec::new();
    for index in 0..300 {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        if index % 2 == 0 {
            stream.write_all(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\nX-Slow: ").await.unwrap();
        } else {
            let head = b"POST /ocs/v2.php/apps/spreed/api/v4/room HTTP/1.1\r\nHost: x\r\n\
                Content-Length: 1000\r\nContent-Type: application/json\r\n\r\n{";
            stream.write_all(head).await.unwrap();
        }
        slow.push(stream);
    }
    let timer = app.database.now().await + 2;
    let lobby = json!({"state": 1, "timer": timer});
    alice.put(&format!("/room/{room}/webinar/lobby"), lobby).await.expect(200);
    app.database.lobby_becomes(&room, 0).await;
    // A header that is too large is refused before its end.
    let mut greedy = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let header = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Large: {}\r\n\r\n", "x".repeat(100_000));
    greedy.write_all(header.as_bytes()).await.ok();
    let mut response = String::new();
    let read = timeout(PATIENCE, greedy.read_to_string(&mut response)).await;
    drop(read.expect("the greedy client is neither answered nor disconnected"));
    assert!(response.is_empty() || response.starts_with("HTTP/1.1 431"), "{response}");
    alice.get("/room").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_connection_is_closed_to_admit_another() {
    let mut app = app().await;
    app.set("HTTP__MAX_CONNECTIONS", "20");
    app.restart().await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(("127.0.0.1", app.http_port())).await.unwrap());
    }
    app.api.guest().get(CAPABILITIES).await.expect(200);
    let closed = timeout(PATIENCE, silent[0].read(&mut [0])).await.expect("it is open");
    assert_eq!(closed.unwrap(), 0, "the oldest one");
}

/// A response that is complete for the server may still be on its way to a slow client.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_not_idle_while_its_response_is_being_sent() {
    let mut app = app().await;
    let alice = app.user("alice").await;
    let room = alice.room(3).await;
    let chat = format!("/chat/{room}");
    for _ in 0..8 {
        let message = json!({"message": "\u{1f600}".repeat(32_000)});
        alice.post(&chat, message).await.expect(201);
    }
    app.set("HTTP__MAX_CONNECTIONS", "4");
    app.restart().await;
    let address = ("127.0.0.1", app.http_port());
    let request = |connection: &str| {
        format!(
            "GET /ocs/v2.php/apps/spreed/api/v1{chat}?lookIntoFuture=0 HTTP/1.1\r\nHost: x\r\n\
             Authorization: {}\r\nAccept: application/json\r\nConnection: {connection}\r\n\r\n",
            basic("alice", PASSWORD)
        )
    };
    // More than the kernel takes for a client that does not read.
    let requests = request("keep-alive").repeat(7) + &request("close");
    let mut slow = TcpStream::connect(address).await.unwrap();
    slow.write_all(requests.as_bytes()).await.unwrap();
    let mut responses = vec![0; 1];
    timeout(PATIENCE, slow.read_exact(&mut responses)).await.unwrap().unwrap();
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    app.api.guest().get(CAPABILITIES).await.expect(200);
    let closed = timeout(PATIENCE, silent[0].read(&mut [0])).await.expect("it is open");
    assert_eq!(closed.unwrap(), 0, "it was idle for longest");
    timeout(PATIENCE, slow.read_to_end(&mut responses)).await.unwrap().unwrap();
    let responses = String::from_utf8(responses).unwrap();
    assert_eq!(responses.matches("HTTP/1.1 200 OK\r\n").count(), 8);
    let (_header, last) = responses.rsplit_once("\r\n\r\n").unwrap();
    let messages: Value = serde_json::from_str(last).unwrap();
    assert!(messages["ocs"]["data"][7]["message"].is_string(), "the end is missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_requests_do_not_delay_the_shutdown() {
    let mut app = app().await;
    let alice = app.user("alice").await;
    let room = alice.room(2).await;
    let path = format!("/room/{room}");
    let tag = alice.get(&path).await.header("etag").unwrap().to_owned();
    let port = app.http_port();
    let mut waiting = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = format!(
        "GET /ocs/v2.php/apps/spreed/api/v4{path} HTTP/1.1\r\nHost: x\r\nAuthorization: {}\r\n\
         Accept: application/json\r\nIf-None-Match: {tag}\r\nPrefer: wait=60\r\n\r\n",
        basic("alice", PASSWORD)
    );
    waiting.write_all(request.as_bytes()).await.unwrap();
    app.daemon().long_polls_become(1).await;
    assert!(app.daemon_mut().stop().await.success());
    assert!(!app.log().contains("grace period expired"), "the shutdown waited for the request");
}

/// A process that runs only the API publishes its own events, and flushes them when it stops.
#[tokio::test(flavor = "multi_thread")]
async fn an_api_flushes_its_outbox_before_it_stops() {
    use crate::support::{cluster::TestCluster, daemon::add_user, http::Api};
    let cluster = TestCluster::new(Kind::Postgres).await;
    let client = cluster.client().await;
    // The worker declares the queue of lobby changes.
    drop(cluster.worker().await);
    let mut api = cluster.api().await;
    add_user(&cluster.settings, "alice", PASSWORD, &[]);
    let alice = Api::new(api.http_port).user("alice", PASSWORD);
    let room = alice.room(2).await;
    alice.put(&format!("/room/{room}/webinar/lobby"), json!({"state": 1})).await.expect(200);
    alice.post(&format!("/chat/{room}"), json!({"message": "x"})).await.expect(201);
    assert!(api.stop().await.success());
    assert_eq!(cluster.database.unpublished().await, 0);
    let updates = client.take_ids(&cluster.updates, 3).await;
    let mut reasons: Vec<(i64, Value)> = updates
        .into_values()
        .map(|update| update.json()["data"].clone())
        .map(|data| (data["version"].as_i64().unwrap(), data["reason"].clone()))
        .collect();
    reasons.sort_by_key(|(version, _)| *version);
    let reasons: Vec<&Value> = reasons.iter().map(|(_, reason)| reason).collect();
    assert_eq!(reasons, ["conversation_created", "lobby_non_moderators", "message_sent"]);
}

#[test]
fn the_api_command_needs_a_broker() {
    let output = run(&Vec::new(), &["api"]);
    assert_eq!(output.status.code(), Some(78));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("events.url: memory:"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_counted() {
    let app = app().await;
    app.api.guest().get(CAPABILITIES).await.expect(200);
    let series = |labels: &str| format!("lobbyd_http_requests_total{{{labels}}}");
    let capabilities = r#"method="GET",route="/ocs/v2.php/cloud/capabilities",status="200""#;
    app.daemon().metric_becomes(&series(capabilities), 1).await;
    assert_eq!(app.daemon().metric("lobbyd_http_long_polls").await, Some(0));

    // Rooms share a route, and invented paths have none.
    for token in ["one", "two"] {
        app.api.guest().get(&format!("/room/{token}")).await.expect(404);
        app.api.guest().get(&format!("{CAPABILITIES}/{token}")).await.expect(404);
    }
    let rooms = r#"method="GET",route="/ocs/v2.php/apps/spreed/api/v4/room/{token}""#;
    app.daemon().metric_becomes(&series(&format!(r#"{rooms},status="404""#)), 2).await;
    let invented = series(r#"method="GET",route="other",status="404""#);
    app.daemon().metric_becomes(&invented, 2).await;
    let durations =
        |labels: &str| format!("lobbyd_http_request_duration_seconds_count{{{labels}}}");
    assert_eq!(app.daemon().metric(&durations(rooms)).await, Some(2));

    // How long a request waits for messages says nothing about the server.
    app.api.guest().get("/chat/one?lookIntoFuture=true").await.expect(404);
    let chat = r#"method="GET",route="/ocs/v2.php/apps/spreed/api/v1/chat/{token}""#;
    app.daemon().metric_becomes(&series(&format!(r#"{chat},status="404""#)), 1).await;
    assert_eq!(app.daemon().metric(&durations(chat)).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_who_changed_what() {
    let app = app().await;
    let alice = app.user("alice").await;
    let room = alice.room(3).await;
    let lobby = json!({"state": 1, "timer": 4_000_000_000_u32});
    alice.put(&format!("/room/{room}/webinar/lobby"), lobby).await.expect(200);
    alice
        .put(&format!("/room/{room}/password"), json!({"password": "marker-9x"}))
        .await
        .expect(200);
    let log = app.log();
    let changes: Vec<&str> = log.lines().filter(|line| line.contains("lobbyd::audit")).collect();
    assert_eq!(changes.len(), 3, "{changes:?}");
    for change in &changes {
        assert!(change.contains("users/alice") && change.contains("127.0.0.1"), "{change}");
        assert!(change.contains(&room) && change.contains("request.id"), "{change}");
    }
    assert!(changes[1].contains("lobby_non_moderators"), "{}", changes[1]);
    assert!(changes[1].contains("2096-10-02T07:06:40Z"), "{}", changes[1]);
    assert!(changes[2].contains("password_set"), "{}", changes[2]);
    assert!(!log.contains("marker-9x"));

    // A client cannot forge a line.
    let bans = format!("/ocs/v2.php/apps/spreed/api/v1/ban/{room}");
    let forged = "x\n<6>lobbyd::audit: room changed actor=users/admin";
    let ban = json!({"actorType": "users", "actorId": forged});
    alice.post(&bans, ban).await.expect(400);
    assert!(!app.log().contains("users/admin"));
}

/// The level that the operators' documents recommend.
#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_log_says_who_changed_what() {
    let mut app = app().await;
    app.set("LOG__LEVEL", "warn,lobbyd::audit=info");
    app.restart().await;
    let alice = app.user("alice").await;
    let room = alice.room(3).await;
    let log = app.log();
    let created = log.lines().rfind(|line| line.contains("conversation_created")).unwrap();
    for part in ["lobbyd::audit", "users/alice", "127.0.0.1", "request.id", &room] {
        assert!(created.contains(part), "{created}");
    }
}
