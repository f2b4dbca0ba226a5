//! Event streams: clients that follow a room see each change that they may see, and nothing else, in
//! whatever process it was made.

mod processes;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::support::{
    app::{PASSWORD, TestApp},
    cluster::TestCluster,
    daemon::{Daemon, Settings, add_user},
    database::{Database, Kind},
    eventually,
    http::{Api, Client},
    participants::Participants,
    proxy::{Mode, Proxy},
    server::Broker,
};

on_every_database! { crate::support::app::TestApp::new:
    a_stream_shows_the_room_and_its_opening_on_time,
    every_viewer_follows_what_they_would_read,
    a_stream_ends_when_its_viewer_is_removed,
    a_removed_account_is_told_nothing_more,
    an_old_password_is_told_nothing_more,
}

async fn read(client: &Client, room: &str) -> Value {
    client.get(&format!("/room/{room}")).await.expect(200).data()
}

async fn version(app: &TestApp, room: &str) -> i64 {
    let sql = format!("SELECT lobby_version FROM lobbyd_rooms WHERE token = '{room}'");
    app.database.number(&sql).await
}

async fn rename(owner: &Client, room: &str, name: &str) {
    owner.put(&format!("/room/{room}"), json!({"roomName": name})).await.expect(200);
}

async fn close(owner: &Client, room: &str, timer: Option<i64>) {
    let lobby = json!({"state": 1, "timer": timer});
    owner.put(&format!("/room/{room}/webinar/lobby"), lobby).await.expect(200);
}

/// The program with these settings on SQLite, and a user who owns a public room.
async fn app_with(settings: &[(&str, &str)]) -> (TestApp, Client, String) {
    let mut app = TestApp::new(Kind::Sqlite).await;
    if !settings.is_empty() {
        for (key, value) in settings {
            app.set(key, value);
        }
        app.restart().await;
    }
    let owner = app.user("owner").await;
    let room = owner.room(3).await;
    (app, owner, room)
}

async fn a_stream_shows_the_room_and_its_opening_on_time(app: TestApp) {
    let owner = app.user("owner").await;
    let room = owner.room(3).await;
    let guest = app.api.guest();
    guest.join(&room).await;
    let timer = app.database.now().await + 3;
    close(&owner, &room, Some(timer)).await;
    let mut stream = guest.follow(&room).await;
    for (name, value) in [
        ("content-type", "text/event-stream"),
        ("cache-control", "no-cache"),
        ("x-accel-buffering", "no"),
    ] {
        assert_eq!(stream.header(name), Some(value));
    }
    let first = stream.event().await;
    assert_eq!((first.name.as_str(), &first.data["lobbyTimer"]), ("room", &json!(timer)));
    assert!((1_000..5_000).contains(&first.retry.unwrap()));
    let open = stream.event().await;
    assert!(app.database.now().await >= timer);
    assert_eq!((open.name.as_str(), &open.data["lobbyState"]), ("room", &json!(0)));
    assert_eq!(open.data, read(&guest, &room).await);
    assert_eq!(open.id, Some(version(&app, &room).await));
    assert!(first.id < open.id);
    app.daemon().event_streams_become(1).await;
    assert_eq!(app.daemon().metric("lobbyd_http_long_polls").await, Some(0));
    drop(stream);
    app.daemon().event_streams_become(0).await;
}

async fn every_viewer_follows_what_they_would_read(app: TestApp) {
    let participants = Participants::of(&app).await;
    let room = &participants.room;
    let visitor = app.api.guest();
    let viewers: Vec<&Client> = participants.all().into_iter().chain([&visitor]).collect();
    let mut streams = Vec::new();
    for viewer in &viewers {
        streams.push(viewer.follow(room).await);
    }
    let owner = &participants.owner;
    for change in 0..4 {
        match change {
            0 => {}
            1 => close(owner, room, None).await,
            2 => rename(owner, room, "A line\nand \"another}").await,
            _ => {
                let lobby = json!({"state": 0});
                owner.put(&format!("/room/{room}/webinar/lobby"), lobby).await.expect(200);
            }
        }
        for (stream, viewer) in streams.iter_mut().zip(&viewers) {
            assert_eq!(stream.room().await, read(viewer, room).await, "change {change}");
        }
    }
    // What a waiting guest may do is another thing after a moderator has said so.
    close(owner, room, None).await;
    let id = read(&participants.guest, room).await["attendeeId"].clone();
    owner.post(&format!("/room/{room}/moderators"), json!({"attendeeId": id})).await.expect(200);
    let promoted = streams[4].until(|room| room["participantType"] == 6).await;
    assert_eq!(promoted.data, read(&participants.guest, room).await);
}

async fn a_stream_ends_when_its_viewer_is_removed(app: TestApp) {
    let participants = Participants::of(&app).await;
    let Participants { room, owner, moderator, user, self_joined, guest, .. } = &participants;
    let mut streams = Vec::new();
    for viewer in [user, guest, self_joined, moderator] {
        streams.push(viewer.follow(room).await);
    }
    let [removed, banned, uninvited, last] = streams.as_mut_slice() else { unreachable!() };
    let id = owner.attendee_id(room, "user").await;
    owner.delete(&format!("/room/{room}/attendees"), json!({"attendeeId": id})).await.expect(200);
    removed.end().await;
    let guest = read(guest, room).await;
    let ban = json!({"actorType": "guests", "actorId": guest["actorId"]});
    let bans = format!("/ocs/v2.php/apps/spreed/api/v1/ban/{room}");
    owner.post(&bans, ban).await.expect(200);
    banned.end().await;
    owner.delete(&format!("/room/{room}/public"), json!({})).await.expect(200);
    uninvited.end().await;
    owner.delete(&format!("/room/{room}"), json!({})).await.expect(200);
    last.end().await;
    app.daemon().event_streams_become(0).await;
    moderator.get(&format!("/room/{room}/events")).await.expect(404);
}

async fn a_removed_account_is_told_nothing_more(app: TestApp) {
    let owner = app.user("owner").await;
    let room = owner.room(2).await;
    let user = app.user("user").await;
    owner.add(&room, "user").await;
    let public = owner.room(3).await;
    let mut visiting = user.follow(&public).await;
    let mut stream = user.follow(&room).await;
    assert_eq!(stream.room().await["participantType"], 3);
    app.run_as_owner(&["user", "remove", "user"]);
    app.database.all_published().await;
    rename(&owner, &room, "Secret").await;
    while let Some(event) = stream.block().await {
        assert_ne!(event.data["name"], "Secret");
    }
    is_refused(&user, &public).await;
    rename(&owner, &public, "Secret").await;
    while let Some(event) = visiting.block().await {
        assert!(event.name != "end" && event.data["name"] != "Secret", "{event:?}");
    }
}

async fn is_refused(user: &Client, room: &str) {
    let path = format!("/room/{room}");
    eventually("the login to be refused", || async {
        (user.get(&path).await.status == 401).then_some(())
    })
    .await;
}

async fn an_old_password_is_told_nothing_more(app: TestApp) {
    let owner = app.user("owner").await;
    let room = owner.room(2).await;
    let user = app.user("user").await;
    owner.add(&room, "user").await;
    let mut stream = user.follow(&room).await;
    stream.room().await;
    let path = format!("/room/{room}");
    let chat = format!("/chat/{room}?lookIntoFuture=");
    let messages = user.get(&format!("{chat}0")).await.expect(200).data();
    let chat = format!("{chat}1&timeout=30&lastKnownMessageId={}", messages[0]["id"]);
    let held = async |path: &str| {
        let tag = user.get(path).await.expect(200).header("etag").unwrap().to_owned();
        user.header("if-none-match", &tag).header("prefer", "wait=50").get(path).await.expect(401);
    };
    let received = async || user.get(&chat).await.expect(401);
    let ((), (), _chat, ()) = tokio::join!(held(&path), held("/room"), received(), async {
        app.daemon().long_polls_become(3).await;
        app.change_password("user", "new password");
        is_refused(&user, &room).await;
        rename(&owner, &room, "Secret").await;
    });
    // Its client connects again, and is asked for the new password.
    while let Some(event) = stream.block().await {
        assert!(event.name != "end" && event.data["name"] != "Secret", "{event:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_a_viewer_does_not_see_sends_nothing() {
    let (app, owner, room) = app_with(&[]).await;
    let guest = app.api.guest();
    guest.join(&room).await;
    close(&owner, &room, None).await;
    let visitor = app.api.guest();
    let mut waiting = guest.follow(&room).await;
    let mut visiting = visitor.follow(&room).await;
    waiting.room().await;
    visiting.room().await;
    app.user("user").await;
    owner.add(&room, "user").await;
    owner.join(&room).await;
    app.api.guest().join(&room).await;
    rename(&owner, &room, "Sentinel").await;
    // The chat has a message about the user, so a waiting guest is told its time.
    waiting.until(|room| room["name"] == "Sentinel").await;
    let seen = visiting.event().await;
    assert_eq!((&seen.data["name"], seen.id), (&json!("Sentinel"), None));
    let (description, chat) = (format!("/room/{room}/description"), format!("/chat/{room}"));
    owner.put(&description, json!({"description": "hidden"})).await.expect(200);
    owner.post(&chat, json!({"message": "hidden"})).await.expect(201);
    rename(&owner, &room, "Sentinel 2").await;
    assert_eq!(visiting.room().await["name"], "Sentinel 2");
    // Of a protected room a visitor does not even learn when something changes.
    owner.put(&format!("/room/{room}/password"), json!({"password": "p"})).await.expect(200);
    let protected = visiting.event().await;
    assert_eq!((&protected.data["hasPassword"], protected.id), (&json!(true), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_that_come_fast_are_taken_together() {
    let (_app, owner, room) = app_with(&[]).await;
    let mut stream = owner.follow(&room).await;
    stream.room().await;
    let begun_at = Instant::now();
    for number in 1..=100 {
        rename(&owner, &room, &format!("Name {number}")).await;
    }
    let mut names = BTreeSet::new();
    loop {
        let name = stream.room().await["name"].as_str().unwrap().to_owned();
        names.insert(name.clone());
        if name == "Name 100" {
            break;
        }
    }
    let most = begun_at.elapsed().div_duration_f64(Duration::from_millis(200)) + 2.0;
    let number = u32::try_from(names.len()).unwrap();
    assert!(f64::from(number) <= most, "{number} events, at most {most}");
    assert_eq!(stream.buffered(), 0, "the newest is the last");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_connects_again_is_shown_the_room_as_it_is() {
    let (app, owner, room) = app_with(&[]).await;
    let first = owner.follow(&room).await.event().await;
    let id = first.id.unwrap();
    for known in
        ["0", "-1", "abc", "", &id.to_string(), &(id + 1).to_string(), &i64::MAX.to_string()]
    {
        let again = owner.header("last-event-id", known).follow(&room).await.event().await;
        assert_eq!((again.id, &again.data), (first.id, &first.data), "{known}");
    }
    let loads = r#"lobbyd_cache_loads_total{what="room"}"#;
    let before = app.daemon().metric(loads).await;
    let mut waiting = owner.header("last-event-id", &(id + 1).to_string());
    waiting = waiting.header("prefer", "x");
    let begin = Instant::now();
    waiting.follow(&room).await.event().await;
    assert!(begin.elapsed().as_millis() >= 1_900, "another process may have told it a newer one");
    assert_eq!(app.daemon().metric(loads).await, before, "an invented id invalidates nothing");
    app.daemon().event_streams_become(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_refused_as_a_poll_is() {
    let (app, owner, room) = app_with(&[]).await;
    let private = owner.room(2).await;
    let visitor = app.api.guest();
    assert_eq!(visitor.try_follow(&private).await.status, 404);
    assert_eq!(owner.try_follow("nowhere").await.status, 404);
    let wrong = app.api.user("owner", "wrong");
    assert_eq!(wrong.try_follow(&room).await.status, 401);
    let refused = wrong.get(&format!("/room/{room}/events")).await.expect(401);
    assert_eq!(refused.meta_status(), 401);
    owner.post(&format!("/room/{room}/events"), json!({})).await.expect(405);
    // HEAD opens none.
    let path = format!("/room/{room}/events");
    let head = owner.raw("HEAD", &path, &[], "").await.expect(200);
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
    owner.raw("HEAD", "/room/nowhere/events", &[], "").await.expect(404);
    let series = |what: &str, more: &str| {
        let route = r#"method="GET",route="/ocs/v2.php/apps/spreed/api/v4/room/{token}/events""#;
        format!("lobbyd_http_{what}{{{route}{more}}}")
    };
    app.daemon().metric_becomes(&series("requests_total", r#",status="404""#), 2).await;
    let duration = series("request_duration_seconds_count", "");
    assert_eq!(app.daemon().metric(&duration).await, None);
    assert_eq!(app.daemon().metric("lobbyd_event_streams").await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_and_polls_of_a_client_are_limited_together() {
    let (app, owner, room) = app_with(&[("LIMITS__LONG_POLLS_PER_CLIENT", "2")]).await;
    let path = format!("/room/{room}");
    let mut first = owner.follow(&room).await;
    let tag = owner.get(&path).await.header("etag").unwrap().to_owned();
    let poll = owner.header("if-none-match", &tag).header("prefer", "wait=50");
    let (polled, ()) = tokio::join!(poll.get(&path), async {
        app.daemon().long_polls_become(1).await;
        let refused = owner.try_follow(&room).await;
        assert_eq!(refused.status, 429);
        assert!(refused.header("retry-after").is_some());
        // Another client has its own share.
        app.api.guest().follow(&room).await.room().await;
        rename(&owner, &room, "Other").await;
    });
    polled.expect(200);
    first.until(|room| room["name"] == "Other").await;
    let second = owner.follow(&room).await;
    drop((first, second));
    app.daemon().event_streams_become(0).await;
    owner.follow(&room).await.room().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_is_one_client_in_all_rooms() {
    let (app, owner, room) = app_with(&[("LIMITS__LONG_POLLS_PER_CLIENT", "2")]).await;
    let (second, third) = (owner.room(3).await, owner.room(3).await);
    let (guest, other) = (app.api.guest(), app.api.guest());
    guest.join(&room).await;
    other.join(&room).await;
    let mut streams = vec![guest.follow(&room).await, guest.follow(&second).await];
    assert_eq!(guest.try_follow(&third).await.status, 429);
    let path = format!("/room/{third}");
    let tag = guest.get(&path).await.header("etag").unwrap().to_owned();
    let poll = guest.header("if-none-match", &tag).header("prefer", "wait=50");
    poll.get(&path).await.expect(429);
    // Others at the same address have their own share.
    for client in [&other, &app.api.guest()] {
        streams.push(client.follow(&second).await);
        streams.push(client.follow(&third).await);
    }
    for stream in &mut streams {
        stream.room().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_stream_has_comments_and_does_not_make_room_for_other_connections() {
    let (app, _owner, room) = app_with(&[("HTTP__MAX_CONNECTIONS", "4")]).await;
    let guest = app.api.guest();
    guest.join(&room).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = app.api.guest().follow(&room).await;
        stream.room().await;
        streams.push(stream);
    }
    for stream in &mut streams {
        let comment = stream.block().await.unwrap();
        assert!(comment.is_comment && comment.data.is_null(), "{comment:?}");
    }
    // A request whose body does not arrive takes the last place, that of the owner's idle connection.
    let mut busy = TcpStream::connect(("127.0.0.1", app.http_port())).await.unwrap();
    let cookie = guest.cookies().unwrap();
    let head = format!(
        "PUT /ocs/v2.php/apps/spreed/api/v4/room/{room} HTTP/1.1\r\nHost: x\r\nCookie: {cookie}\r\n\
         Content-Length: 1000\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n\r\n"
    );
    busy.write_all(head.as_bytes()).await.unwrap();
    let mut line = [0; 21];
    busy.read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"HTTP/1.1 100 Continue");
    let mut refused = TcpStream::connect(("127.0.0.1", app.http_port())).await.unwrap();
    assert_eq!(refused.read(&mut [0]).await.unwrap_or_default(), 0);
    let close = format!("UPDATE lobbyd_rooms SET lobby_state = 1 WHERE token = '{room}'");
    app.database.execute(&close).await;
    for stream in &mut streams {
        assert_eq!(stream.room().await["lobbyState"], 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_do_not_delay_the_shutdown() {
    let (mut app, owner, room) = app_with(&[]).await;
    let mut stream = owner.follow(&room).await;
    stream.room().await;
    let begin = Instant::now();
    app.daemon().signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(stream.block().await, None, "its client connects again");
    println!("a stream ended {:?} after the signal", begin.elapsed());
    assert!(app.daemon_mut().ended().await.success());
    assert!(!app.log().contains("grace period expired"), "{}", app.log());
}

/// A client with an open stream is in the room, though it sends no request.
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_counts_as_active() {
    let settings = [("HTTP__SESSION_TIMEOUT", "1m"), ("HOUSEKEEPING__SESSIONS", "* * * * * *")];
    let (app, owner, room) = app_with(&settings).await;
    let (following, silent) = (app.api.guest(), app.api.guest());
    following.join(&room).await;
    silent.join(&room).await;
    let mut stream = following.follow(&room).await;
    eventually("the end of the silent guest's session", || async {
        (app.database.number("SELECT count(*) FROM lobbyd_sessions").await == 1).then_some(())
    })
    .await;
    rename(&owner, &room, "Sentinel").await;
    let seen = stream.until(|room| room["name"] == "Sentinel").await;
    assert_ne!(seen.data["sessionId"], "0");
}

/// A client that never reads, whose own system keeps little for it.
async fn silent_follower(app: &TestApp, cookie: &str, room: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let address = format!("127.0.0.1:{}", app.http_port()).parse().unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    let request = format!(
        "GET /ocs/v2.php/apps/spreed/api/v4/room/{room}/events HTTP/1.1\r\nHost: x\r\n\
         Cookie: {cookie}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// The most that the system keeps of what a connection to this port has been sent: `tx_queue` in
/// proc(5).
fn send_queue(port: u16) -> u64 {
    let connections = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!(":{port:04X}");
    let columns = connections.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let queues = columns
        .filter(|column| column[1].ends_with(&local))
        .map(|column| u64::from_str_radix(column[4].split_once(':').unwrap().0, 16).unwrap());
    queues.max().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_disconnected_and_delays_nobody() {
    let (app, owner, room) = app_with(&[("LIMITS__CHANGES_PER_MINUTE", "1000000")]).await;
    let guest = app.api.guest();
    guest.join(&room).await;
    let mut reader = guest.follow(&room).await;
    reader.room().await;
    let cookie = guest.cookies().unwrap();
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(silent_follower(&app, &cookie, &room).await);
    }
    app.daemon().event_streams_become(51).await;
    let (path, before) = (format!("/room/{room}/description"), app.daemon().memory());
    let begin = Instant::now();
    let (mut changes, mut longest, mut unread) = (0, 0.0_f64, 0);
    while app.daemon().metric("lobbyd_event_streams").await != Some(1) {
        changes += 1;
        let text = format!("{changes} {}", "\u{1f600}".repeat(1_990));
        let begin = Instant::now();
        owner.put(&path, json!({"description": text})).await.expect(200);
        reader.until(|room| room["description"] == text.as_str()).await;
        longest = longest.max(begin.elapsed().as_secs_f64());
        unread = unread.max(send_queue(app.http_port()));
        assert!(begin.elapsed().as_secs() < 100, "they are not disconnected");
    }
    let used = app.daemon().memory().saturating_sub(before) / 1024;
    println!(
        "disconnected within {:.0?} after {changes} changes of 8 KB, {used} KiB more memory, \
         others told within {longest:.3} s, {unread} bytes waited in the system for one",
        begin.elapsed()
    );
    // Two or three events wait for each, and what the allocator keeps.
    assert!(used < 50 * 128, "{used} KiB");
    // And a few more in the system: a client that reads slowly is not told what is long out of date.
    assert!(unread < 64 * 1024, "{unread} bytes");
    // What was sent before has arrived, and then nothing.
    let mut rest = Vec::new();
    silent[0].read_to_end(&mut rest).await.ok();
    assert!(rest.starts_with(b"HTTP/1.1 200 OK\r\n"));
}
