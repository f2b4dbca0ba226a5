//! What nobody may learn or become: each test tries it, and shows that the usual way still works.

use std::{fs, os::unix::fs::PermissionsExt, process::Command, time::Instant};

use serde_json::{Value, json};

use crate::support::{
    app::{PASSWORD, TestApp},
    daemon::{Daemon, run, settings, text},
    database::Kind,
    eventually,
    http::{Client, Response},
    server::folder,
};

on_every_database! { crate::support::app::TestApp::new:
    a_removed_user_leaves_nothing_to_a_later_user_of_the_name,
    a_removed_user_and_a_changed_password_count_at_once,
}

fn tag(response: &Response) -> String {
    response.header("etag").unwrap().to_owned()
}

async fn tag_of(client: &Client, path: &str) -> String {
    tag(&client.get(path).await.expect(200))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tag_of_a_waiting_participant_does_not_depend_on_what_the_lobby_hides() {
    let mut app = TestApp::new(Kind::Sqlite).await;
    let owner = app.user("owner").await;
    let room = owner.room(3).await;
    let path = format!("/room/{room}");
    let guest = app.api.guest();
    guest.join(&room).await;
    owner.put(&format!("{path}/webinar/lobby"), json!({"state": 1})).await.expect(200);
    owner.post(&format!("/chat/{room}"), json!({"message": "layoffs"})).await.expect(201);
    let cookie = guest.cookies().unwrap();
    let waiting = |app: &TestApp| app.api.guest().header("cookie", &cookie);
    let (seen, known) = (tag_of(&waiting(&app), &path).await, tag_of(&owner, &path).await);
    // Another text of the same time, and other numbers.
    app.database.execute("UPDATE lobbyd_messages SET message = 'profits', id = id + 100").await;
    app.database.execute("UPDATE lobbyd_room_states SET comments = 50").await;
    app.database.execute("UPDATE lobbyd_attendees SET last_read_message = 1").await;
    app.restart().await;
    assert_eq!(tag_of(&waiting(&app), &path).await, seen);
    let owner = app.api.user("owner", PASSWORD);
    assert_ne!(tag_of(&owner, &path).await, known);
    // What is seen has its effect.
    owner.put(&path, json!({"roomName": "Other name"})).await.expect(200);
    assert_ne!(tag_of(&waiting(&app), &path).await, seen);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_server_makes_guests() {
    let mut app = TestApp::new(Kind::Sqlite).await;
    app.set("HTTP__TRUSTED_PROXIES", "127.0.0.1/32");
    app.restart().await;
    let owner = app.user("owner").await;
    let rooms = [owner.room(3).await, owner.room(3).await];
    let join = |room: &str| format!("/room/{room}/participants/active");

    let invented = format!("lobbyd_client={}", "a".repeat(62));
    let client = app.api.guest().header("cookie", &invented);
    client.get(&format!("/chat/{}?lookIntoFuture=0", rooms[0])).await.expect(404);
    let joined = client.post(&join(&rooms[0]), json!({})).await.expect(200);
    let set = joined.header("set-cookie").unwrap();
    assert!(!set.contains("aaaaaaaaaa") && set.starts_with("lobbyd_client="), "{set}");

    // The guest is recognised in another process, with another id in each room.
    let guest = app.api.guest();
    let first = guest.join(&rooms[0]).await;
    assert_eq!(guest.join(&rooms[0]).await["attendeeId"], first["attendeeId"]);
    let second = guest.join(&rooms[1]).await;
    assert_ne!(first["actorId"], second["actorId"]);
    let cookie = guest.cookies().unwrap();
    app.restart().await;
    let guest = app.api.guest().header("cookie", &cookie);
    let again = guest.get(&format!("/room/{}", rooms[0])).await.expect(200).data();
    assert_eq!(again["attendeeId"], first["attendeeId"]);

    // With TLS, only a cookie of this very host counts.
    let secure = guest.header("x-forwarded-proto", "HTTPS, http");
    let seen = secure.get(&format!("/room/{}", rooms[0])).await.expect(200).data();
    assert_eq!(seen["attendeeId"], 0);
    let joined = secure.post(&join(&rooms[0]), json!({})).await.expect(200);
    let set = joined.header("set-cookie").unwrap();
    let (name_and_value, attributes) = set.split_once(';').unwrap();
    assert!(name_and_value.starts_with("__Host-lobbyd_client="), "{set}");
    assert!(attributes.contains("Secure") && attributes.contains("Path=/"), "{set}");
    let secure = secure.header("cookie", name_and_value);
    let seen = secure.get(&format!("/room/{}", rooms[0])).await.expect(200).data();
    assert_eq!(seen["attendeeId"], joined.data()["attendeeId"]);
}

async fn a_removed_user_leaves_nothing_to_a_later_user_of_the_name(app: TestApp) {
    let bob = app.user("bob").await;
    let pair = json!({"roomType": 1, "invite": "bob"});
    let mut former = Vec::new();
    for leaves in [false, true] {
        let dave = app.user("dave").await;
        let room = dave.post("/room", pair.clone()).await.expect(201).data();
        let room = room["token"].as_str().unwrap().to_owned();
        let chat = format!("/chat/{room}");
        bob.post(&chat, json!({"message": "private words"})).await.expect(201);
        if leaves {
            let own = format!("/room/{room}/participants/self");
            dave.delete(&own, json!({})).await.expect(200);
        }
        app.run_as_owner(&["user", "remove", "dave"]);
        let seen = eventually("the removal", || async {
            let seen = bob.get(&format!("/room/{room}")).await.expect(200).data();
            (seen["type"] == 5).then_some(seen)
        })
        .await;
        assert_eq!(
            (&seen["displayName"], &seen["canLeaveConversation"]),
            (&json!("Dave"), &json!(true))
        );
        let history = bob.get(&format!("{chat}?lookIntoFuture=0")).await.expect(200).data();
        let texts: Vec<&Value> =
            history.as_array().unwrap().iter().map(|message| &message["message"]).collect();
        assert!(texts.contains(&&json!("private words")), "{texts:?}");
        bob.post(&chat, json!({"message": "x"})).await.expect(403);
        former.push(room);
    }
    // Nor are messages elsewhere those of the later user.
    let group = bob.room(2).await;
    let dave = app.user("dave").await;
    bob.add(&group, "dave").await;
    let chat = format!("/chat/{group}");
    let sent = dave.post(&chat, json!({"message": "mine"})).await.expect(201).data();
    app.run_as_owner(&["user", "remove", "dave"]);

    let dave = app.user("dave").await;
    bob.add(&group, "dave").await;
    dave.delete(&format!("{chat}/{}", sent["id"]), json!({})).await.expect(403);
    let history = dave.get(&format!("{chat}?lookIntoFuture=0")).await.expect(200).data();
    let mut history = history.as_array().unwrap().iter();
    let message = history.find(|message| message["message"] == "mine").unwrap();
    assert_eq!(message["actorType"], "deleted_users");

    let room = dave.post("/room", pair.clone()).await.expect(201).data();
    let room = room["token"].as_str().unwrap();
    let history = dave.get(&format!("/chat/{room}?lookIntoFuture=0")).await.expect(200);
    assert!(!text(&history.body).contains("private words"), "{history:?}");
    assert_eq!(dave.post("/room", pair).await.expect(200).data()["token"], room);
    for room in former {
        dave.get(&format!("/room/{room}")).await.expect(404);
        let join = format!("/room/{room}/participants/active");
        dave.post(&join, json!({})).await.expect(404);
        bob.delete(&format!("/room/{room}/participants/self"), json!({})).await.expect(200);
        bob.get(&format!("/room/{room}")).await.expect(404);
    }
}

async fn a_removed_user_and_a_changed_password_count_at_once(app: TestApp) {
    let (bob, carol) = (app.user("bob").await, app.user("carol").await);
    for user in [&bob, &carol] {
        user.get("/room").await.expect(200);
    }
    let begin = Instant::now();
    app.run_as_owner(&["user", "remove", "carol"]);
    // Although this process still knows the login.
    carol.post("/room", json!({"roomType": 2, "roomName": "x"})).await.expect(401);
    eventually("the removal", || async { (carol.get("/room").await.status == 401).then_some(()) })
        .await;
    let carols = "SELECT count(*) FROM lobbyd_attendees WHERE actor_id = 'carol'";
    assert_eq!(app.database.number(carols).await, 0);
    app.change_password("bob", "another password");
    eventually("the new password", || async {
        (bob.get("/room").await.status == 401).then_some(())
    })
    .await;
    let elapsed = begin.elapsed();
    assert!(elapsed.as_secs() < 50, "{elapsed:?}: the cache has expired");
    app.api.user("bob", "another password").get("/room").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_sqlite_are_private() {
    let folder = folder("private-");
    let url = format!("sqlite://{}?mode=rwc", folder.join("lobbyd.db").display());
    let mut program = Command::new("sh");
    program.args(["-c", r#"umask 022; exec "$0" run"#, env!("CARGO_BIN_EXE_lobbyd")]);
    program.env("LOBBYD__DATABASE__URL", url);
    let daemon = Daemon::spawn(&mut program);
    daemon.ready().await;
    let files: Vec<(String, u32)> = fs::read_dir(&folder)
        .unwrap()
        .map(|file| {
            let file = file.unwrap();
            let mode = file.metadata().unwrap().permissions().mode() & 0o777;
            (file.file_name().into_string().unwrap(), mode)
        })
        .collect();
    assert_eq!(files.len(), 3, "{files:?}");
    assert!(files.iter().all(|(_name, mode)| *mode == 0o600), "{files:?}");
}

#[test]
fn a_url_with_an_unclear_password_is_refused_and_not_shown() {
    for (key, url) in [
        ("DATABASE__URL", "postgres://lobbyd:/marker@127.0.0.1:5432/lobbyd"),
        ("DATABASE__URL", "mysql://lobbyd:?marker@127.0.0.1:3306/lobbyd"),
        ("DATABASE__URL", "postgres://lobbyd:a/marker@127.0.0.1:5432/lobbyd"),
        ("EVENTS__URL", "amqp://lobbyd:#marker@127.0.0.1:5672/%2f"),
        ("EVENTS__URL", "amqp://lobbyd:marker@one/%2f,amqp://lobbyd:marker@other/%2f"),
        ("EVENTS__URL", "amqp://lobbyd:marker@one:5672,other:5672/%2f"),
        ("TRACES__ENDPOINT", "http://lobbyd:/marker@127.0.0.1:4318/v1/traces"),
    ] {
        for command in [["config", "check"].as_slice(), &["run"], &["user", "list"]] {
            let output = run(&settings(&[(&format!("LOBBYD__{key}"), url)]), command);
            let shown = text(&output.stdout) + &text(&output.stderr);
            assert_eq!(output.status.code(), Some(78), "{url}: {shown}");
            let advice = ["percent-encode", "expected one host in each URL"];
            assert!(advice.iter().any(|text| shown.contains(text)), "{shown}");
            assert!(!shown.contains("marker"), "{shown}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_by_a_page_of_another_site_and_by_head_changes_nothing() {
    let app = TestApp::new(Kind::Sqlite).await;
    let (owner, user) = (app.user("owner").await, app.user("user").await);
    let room = owner.room(2).await;
    owner.add(&room, "user").await;
    let chat = format!("/ocs/v2.php/apps/spreed/api/v1/chat/{room}?lookIntoFuture=1");
    owner.post(&format!("/chat/{room}"), json!({"message": "hello"})).await.expect(201);
    let unread = async || {
        let room = user.get(&format!("/room/{room}")).await.expect(200).data();
        room["unreadMessages"].as_i64().unwrap()
    };
    for site in ["cross-site", "same-site"] {
        let page = [("sec-fetch-site", site), ("sec-fetch-mode", "navigate")];
        user.raw("GET", &chat, &page, "").await.expect(404);
    }
    user.raw("HEAD", &chat, &[("ocs-apirequest", "true")], "").await.expect(200);
    assert_eq!(unread().await, 1);
    user.get(&chat).await.expect(200);
    assert_eq!(unread().await, 0);

    // HEAD does not wait.
    let path = format!("/room/{room}");
    let known = tag_of(&user, &path).await;
    let begin = Instant::now();
    let waiting = [("if-none-match", known.as_str()), ("prefer", "wait=50")];
    let absolute = format!("/ocs/v2.php/apps/spreed/api/v4{path}");
    user.raw("HEAD", &absolute, &waiting, "").await;
    user.raw("HEAD", &format!("{chat}&lastKnownMessageId=1000&timeout=50"), &[], "").await;
    assert!(begin.elapsed().as_secs() < 45);
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_tell_browsers_to_be_careful() {
    let app = TestApp::new(Kind::Sqlite).await;
    let guest = app.api.guest();
    for path in ["/ocs/v2.php/cloud/capabilities", "/openapi.json", "/unknown"] {
        let response = guest.get(path).await;
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
            ("referrer-policy", "no-referrer"),
        ] {
            assert_eq!(response.header(name), Some(value), "{response:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_of_a_room_password_are_throttled_counted_and_logged() {
    let app = TestApp::new(Kind::Sqlite).await;
    let owner = app.user("owner").await;
    let rooms = [owner.room(3).await, owner.room(3).await];
    for room in &rooms {
        let password = json!({"password": "right"});
        owner.put(&format!("/room/{room}/password"), password).await.expect(200);
    }
    let join = async |room: &str, password: &str| {
        let path = format!("/room/{room}/participants/active");
        app.api.guest().post(&path, json!({"password": password})).await.status
    };
    assert_eq!(join(&rooms[0], "right").await, 200);
    let mut outcomes = Vec::new();
    for _ in 0..9 {
        outcomes.push(join(&rooms[0], "wrong").await);
    }
    assert_eq!(outcomes[..5], [403; 5]);
    assert!(outcomes.contains(&429), "{outcomes:?}");
    // A class that shares the address: those with a password that others have used get in, and other
    // rooms are not concerned.
    assert_eq!(join(&rooms[0], "right").await, 200);
    assert_eq!(join(&rooms[1], "wrong").await, 403);
    assert_eq!(join(&rooms[1], "right").await, 200);
    let metric = |outcome: &str| format!("lobbyd_room_passwords_total{{outcome=\"{outcome}\"}}");
    app.daemon().metric_becomes(&metric("ok"), 3).await;
    assert!(app.daemon().metric(&metric("wrong")).await.unwrap() >= 6);
    assert!(app.daemon().metric(&metric("throttled")).await.unwrap() >= 1);
    assert!(app.log().contains("wrong room password"));
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_of_room_tokens_are_throttled() {
    let app = TestApp::new(Kind::Sqlite).await;
    let owner = app.user("owner").await;
    let room = owner.room(3).await;
    let participant = app.api.guest();
    participant.join(&room).await;
    let visitor = app.api.guest();
    let mut statuses = Vec::new();
    for number in 0..210 {
        statuses.push(visitor.get(&format!("/room/guess{number}")).await.status);
    }
    assert_eq!(statuses[..200], [404; 200]);
    assert!(statuses.contains(&429), "{statuses:?}");
    // Participants and users are not concerned.
    participant.get(&format!("/room/{room}")).await.expect(200);
    owner.get("/room/guess").await.expect(404);
    let limited = app.daemon().metric("lobbyd_http_limited_total{limit=\"unknown_rooms\"}").await;
    assert!(limited.unwrap() >= 1);
    assert!(app.log().contains("too many unknown room tokens"));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_proxy_with_the_secret_names_users() {
    let mut app = TestApp::new(Kind::Sqlite).await;
    app.set("HTTP__TRUSTED_PROXIES", "127.0.0.0/8");
    app.set("HTTP__USER_HEADER", "X-Forwarded-User");
    app.set("HTTP__USER_HEADER_SECRET", "marker-secret");
    app.restart().await;
    app.user("alice").await;
    let alice = app.api.guest().header("x-forwarded-user", "alice");
    alice.get("/ocs/v2.php/cloud/user").await.expect(401);
    let guess = alice.header("x-lobbyd-proxy-secret", "guess");
    guess.get("/ocs/v2.php/cloud/user").await.expect(401);
    let proxy = alice.header("x-lobbyd-proxy-secret", "marker-secret");
    let user = proxy.get("/ocs/v2.php/cloud/user").await.expect(200).data();
    assert_eq!(user["id"], "alice");
    // Not by a page of another site.
    let page = proxy.header("sec-fetch-site", "cross-site");
    page.raw("GET", "/ocs/v2.php/cloud/user", &[], "").await.expect(401);
    assert!(!app.log().contains("marker-secret"));
}

#[test]
fn a_network_in_which_everybody_names_users_is_refused() {
    let check = |secret: &[(&str, &str)]| {
        let proxy = [
            ("LOBBYD__HTTP__TRUSTED_PROXIES", "10.244.0.0/16"),
            ("LOBBYD__HTTP__USER_HEADER", "X-Forwarded-User"),
        ];
        run(&settings(&[&proxy, secret].concat()), &["config", "check"])
    };
    let refused = check(&[]);
    assert_eq!(refused.status.code(), Some(78));
    assert!(text(&refused.stderr).contains("http.user_header_secret"), "{refused:?}");
    let accepted = check(&[("LOBBYD__HTTP__USER_HEADER_SECRET", "marker-secret")]);
    assert!(accepted.status.success(), "{accepted:?}");
    assert!(!text(&accepted.stdout).contains("marker-secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_under_another_name_are_refused() {
    let mut app = TestApp::new(Kind::Sqlite).await;
    app.set("HTTP__HOSTS", "lobby.example.org");
    app.restart().await;
    let guest = app.api.guest();
    let capabilities = "/ocs/v2.php/cloud/capabilities";
    for (host, status) in [("lobby.example.org", 200), ("lobby.example.org:8080", 200)] {
        guest.header("host", host).get(capabilities).await.expect(status);
    }
    let rebound = guest.header("host", "evil.example");
    rebound.get(capabilities).await.expect(421);
    rebound.post("/room", json!({"roomType": 2, "roomName": "x"})).await.expect(421);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_not_trusted_is_reported_once() {
    let app = TestApp::new(Kind::Sqlite).await;
    let proxy = app.api.guest().header("x-forwarded-for", "192.0.2.1");
    for _ in 0..3 {
        proxy.get("/ocs/v2.php/cloud/capabilities").await.expect(200);
    }
    assert_eq!(app.log().matches("X-Forwarded-For ignored").count(), 1);
}
