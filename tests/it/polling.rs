//! Polls of rooms: an unchanged room is answered with 304, and a change answers the polls that wait
//! for it at once, in whatever process it was made.

use std::{future::Future, time::Instant};

use serde_json::json;

use crate::support::{
    app::{PASSWORD, TestApp},
    cluster::TestCluster,
    daemon::{Daemon, add_user},
    database::{Database, Kind},
    eventually,
    http::{Api, Client, Response},
    proxy::{Mode, Proxy},
    server::Broker,
};

/// Seconds that a poll waits for a change. A poll that was answered later was not answered by the
/// change. The longest wait that the API allows leaves room for a busy machine.
const WAIT: u32 = 60;

on_every_database! { crate::support::app::TestApp::new:
    an_unchanged_room_is_answered_with_304,
    the_list_can_be_limited_to_changed_rooms,
    a_waiting_poll_is_answered_when_the_room_changes,
    a_waiting_list_is_answered_when_any_room_changes,
    only_a_poll_with_the_current_etag_waits,
    changes_by_sql_of_other_programs_are_noticed,
}

fn tag(response: &Response) -> String {
    response.header("etag").unwrap().to_owned()
}

/// Polls with this `ETag` and waits up to `seconds`.
async fn poll(client: &Client, path: &str, tag: &str, seconds: u32) -> Response {
    let client = client.header("if-none-match", tag);
    client.header("prefer", &format!("wait={seconds}")).get(path).await
}

/// Makes a change after a poll has begun to wait in this process. Returns the response of the poll.
async fn poll_during(
    daemon: &Daemon,
    (client, path): (&Client, &str),
    change: impl Future,
) -> Response {
    let known = tag(&client.get(path).await.expect(200));
    let begin = Instant::now();
    let (response, ()) = tokio::join!(poll(client, path, &known, WAIT), async {
        daemon.long_polls_become(1).await;
        change.await;
    });
    assert!(begin.elapsed().as_secs() < u64::from(WAIT), "not answered by the change");
    if response.status == 200 {
        assert_ne!(tag(&response), known);
    }
    response
}

/// Polls again and again until the room is open.
async fn poll_until_open(client: &Client, path: &str) {
    let mut response = client.get(path).await.expect(200);
    while response.data()["lobbyState"] != 0 {
        response = poll(client, path, &tag(&response), WAIT).await.expect(200);
    }
}

async fn an_unchanged_room_is_answered_with_304(app: TestApp) {
    let owner = app.user("owner").await;
    let room = owner.room(3).await;
    let path = format!("/room/{room}");
    for path in [path.as_str(), "/room"] {
        let first = owner.get(path).await.expect(200);
        let known = tag(&first);
        assert!(known.starts_with('"'), "{known} is not strong");
        assert_eq!(first.header("vary"), Some("Accept, Accept-Encoding, Authorization, Cookie"));
        let other = "\"other\"";
        for matching in
            [known.clone(), format!("W/{known}"), format!("{other}, {known}"), "*".to_owned()]
        {
            let again = owner.header("if-none-match", &matching).get(path).await.expect(304);
            assert!(again.body.is_empty());
            assert_eq!(tag(&again), known);
        }
        owner.header("if-none-match", other).get(path).await.expect(200);
        let xml = owner.header("accept", "application/xml").get(path).await.expect(200);
        assert_ne!(tag(&xml), known, "another format has another tag");
        let again = owner.get(path).await.expect(200);
        assert_eq!((tag(&again), &again.body), (known, &first.body));
    }
    // Each viewer sees the room differently.
    let guest = app.api.guest();
    guest.join(&room).await;
    let seen = [tag(&owner.get(&path).await), tag(&guest.get(&path).await)];
    assert_ne!(seen[0], seen[1]);
}

async fn the_list_can_be_limited_to_changed_rooms(app: TestApp) {
    let owner = app.user("owner").await;
    let (one, other) = (owner.room(2).await, owner.room(2).await);
    let all = owner.get("/room").await.expect(200);
    assert_eq!(all.data().as_array().unwrap().len(), 2);
    assert_eq!(all.header("x-nextcloud-talk-hash").unwrap().len(), 40);
    // Lists overlap by some seconds, so a list that begins at the present contains the new rooms
    // for as long.
    let (since, changed) = eventually("the rooms to be no longer new", || async {
        let list = owner.get("/room").await.expect(200);
        let since: i64 = list.header("x-nextcloud-talk-modified-before")?.parse().unwrap();
        let changed = format!("/room?modifiedSince={since}");
        let rooms = owner.get(&changed).await.expect(200).data();
        (rooms == json!([])).then_some((since, changed))
    })
    .await;
    owner.put(&format!("/room/{one}/webinar/lobby"), json!({"state": 1})).await.expect(200);
    let lobby = json!({"state": 1, "timer": since + 1000});
    owner.put(&format!("/room/{one}/webinar/lobby"), lobby).await.expect(200);
    let rooms = owner.get(&changed).await.expect(200).data();
    assert_eq!(rooms.as_array().unwrap().len(), 1);
    assert_eq!(rooms[0]["token"], one);
    owner.post(&format!("/chat/{other}"), json!({"message": "hello"})).await.expect(201);
    let rooms = owner.get(&changed).await.expect(200).data();
    assert_eq!(rooms.as_array().unwrap().len(), 2);
    owner.get("/room?modifiedSince=soon").await.expect(400);
}

async fn a_waiting_poll_is_answered_when_the_room_changes(app: TestApp) {
    let owner = app.user("owner").await;
    let guest = app.api.guest();
    let room = owner.room(3).await;
    guest.join(&room).await;
    let path = format!("/room/{room}");
    let lobby = format!("{path}/webinar/lobby");
    let later = app.database.now().await + 1000;
    let changes = [
        ("PUT", path.clone(), json!({"roomName": "Renamed"})),
        ("PUT", lobby.clone(), json!({"state": 1})),
        ("PUT", lobby.clone(), json!({"state": 1, "timer": later})),
    ];
    for (method, target, body) in changes {
        let change = async {
            let json = [("content-type", "application/json")];
            owner.raw(method, &target, &json, body.to_string()).await.expect(200);
        };
        let response = poll_during(app.daemon(), (&guest, &path), change).await.expect(200);
        assert_eq!(response.header("preference-applied"), Some("wait=50"));
    }
    // The last change is the reset by the timer.
    let timer = app.database.now().await + 3;
    owner.put(&lobby, json!({"state": 1, "timer": timer})).await.expect(200);
    poll_until_open(&guest, &path).await;
    assert!(app.database.now().await >= timer);
    // Participants who join change nothing for the guest, so their poll still waits. Only a change
    // that follows can show that: the response is the room after it.
    let response = poll_during(app.daemon(), (&guest, &path), async {
        owner.join(&room).await;
        app.api.guest().join(&room).await;
        owner.put(&path, json!({"roomName": "Sentinel"})).await.expect(200);
    });
    assert_eq!(response.await.expect(200).data()["name"], "Sentinel");
    let known = tag(&guest.get(&path).await.expect(200));
    let response = poll(&guest, &path, &known, 2).await.expect(304);
    assert_eq!(response.header("preference-applied"), Some("wait=2"));
    // A participant who is removed gets 404.
    let response = poll_during(app.daemon(), (&guest, &path), async {
        owner.delete(&format!("{path}/public"), json!({})).await.expect(200);
    });
    response.await.expect(404);
    // Updates announced all of it; the regular comparison with the database was first at most once.
    let missed = app.daemon().metric("lobbyd_cache_missed_updates_total").await;
    assert!(missed.unwrap() <= 1, "{missed:?}");
}

async fn a_waiting_list_is_answered_when_any_room_changes(app: TestApp) {
    let owner = app.user("owner").await;
    let user = app.user("user").await;
    let room = owner.room(2).await;
    let response = poll_during(app.daemon(), (&user, "/room"), owner.add(&room, "user")).await;
    assert_eq!(response.expect(200).data()[0]["token"], room);
    let response = poll_during(app.daemon(), (&user, "/room"), async {
        owner.put(&format!("/room/{room}"), json!({"roomName": "Renamed"})).await.expect(200);
    });
    assert_eq!(response.await.expect(200).data()[0]["name"], "Renamed");
    let response = poll_during(app.daemon(), (&user, "/room"), async {
        owner.delete(&format!("/room/{room}"), json!({})).await.expect(200);
    });
    assert_eq!(response.await.expect(200).data(), json!([]));
}

async fn only_a_poll_with_the_current_etag_waits(app: TestApp) {
    let owner = app.user("owner").await;
    let room = owner.room(2).await;
    let path = format!("/room/{room}");
    let known = tag(&owner.get(&path).await.expect(200));
    let begin = Instant::now();
    let longest = owner.header("prefer", &format!("wait={WAIT}"));
    longest.get(&path).await.expect(200);
    poll(&owner, &path, "\"other\"", WAIT).await.expect(200);
    poll(&owner, &path, &known, 0).await.expect(304);
    owner
        .header("if-none-match", &known)
        .header("prefer", "wait=soon")
        .get(&path)
        .await
        .expect(304);
    assert!(begin.elapsed().as_secs() < u64::from(WAIT));
    let begin = Instant::now();
    poll(&owner, &path, &known, 1).await.expect(304);
    assert!(begin.elapsed().as_secs() >= 1);
}

async fn changes_by_sql_of_other_programs_are_noticed(app: TestApp) {
    let owner = app.user("owner").await;
    let room = owner.room(2).await;
    let path = format!("/room/{room}");
    let write = format!("UPDATE lobbyd_rooms SET lobby_state = 1 WHERE token = '{room}'");
    let response = poll_during(app.daemon(), (&owner, &path), app.database.execute(&write)).await;
    assert_eq!(response.expect(200).data()["lobbyState"], 1);
}

/// Worker and API as processes of their own, with a broker between them.
mod processes {
    use super::*;

    on_every_database! { crate::support::cluster::TestCluster::new:
        every_process_learns_of_a_change,
    }

    async fn every_process_learns_of_a_change(cluster: TestCluster) {
        let worker = cluster.worker().await;
        let first = cluster.api().await;
        let second = cluster.api().await;
        add_user(&cluster.settings, "owner", PASSWORD, &[]);
        let here = Api::new(first.http_port).user("owner", PASSWORD);
        let there = Api::new(second.http_port).user("owner", PASSWORD);
        let room = here.room(3).await;
        let path = format!("/room/{room}");
        let lobby = format!("{path}/webinar/lobby");
        let later = cluster.database.now().await + 1000;

        let response = poll_during(&second, (&there, &path), async {
            here.put(&lobby, json!({"state": 1, "timer": later})).await.expect(200);
        });
        assert_eq!(response.await.expect(200).data()["lobbyTimer"], later);
        let known = [tag(&here.get(&path).await), tag(&there.get(&path).await)];
        assert_eq!(known[0], known[1], "the processes disagree");

        // The worker opens the room, and both API processes show it.
        let timer = cluster.database.now().await + 3;
        here.put(&lobby, json!({"state": 1, "timer": timer})).await.expect(200);
        tokio::join!(poll_until_open(&here, &path), poll_until_open(&there, &path));
        assert!(cluster.database.now().await >= timer);

        // Another program closes it by an event, which is not announced; the APIs notice all the
        // same.
        let client = cluster.client().await;
        let response = poll_during(&second, (&there, &path), async {
            client.publish(&json!({"token": room, "state": 1})).await;
        });
        assert_eq!(response.await.expect(200).data()["lobbyState"], 1);
        for mut daemon in [worker, first, second] {
            assert!(daemon.stop().await.success());
        }
    }
}

/// A poll of an unchanged room does not use the database, so it does not need one.
#[tokio::test(flavor = "multi_thread")]
async fn polls_of_an_unchanged_room_do_not_need_the_database() {
    let database = Database::create(Kind::Postgres).await;
    let proxy = Proxy::to(crate::support::server::POSTGRES.port).await;
    let mut settings = database.settings();
    settings.push(("LOBBYD__DATABASE__URL".to_owned(), database.url_through(proxy.port)));
    let daemon = Daemon::start_as("run", &settings);
    daemon.ready().await;
    add_user(&settings, "owner", PASSWORD, &[]);
    let api = Api::new(daemon.http_port);
    let owner = api.user("owner", PASSWORD);
    let room = owner.room(3).await;
    let guest = api.guest();
    guest.join(&room).await;
    let path = format!("/room/{room}");
    let known = [tag(&owner.get(&path).await), tag(&guest.get(&path).await)];
    let list = tag(&owner.get("/room").await);
    proxy.set(Mode::Freeze);
    for _ in 0..50 {
        owner.header("if-none-match", &known[0]).get(&path).await.expect(304);
        guest.header("if-none-match", &known[1]).get(&path).await.expect(304);
        owner.header("if-none-match", &list).get("/room").await.expect(304);
        owner.get(&path).await.expect(200);
    }
    let change = owner.put(&path, json!({"roomName": "x"}));
    let (change, read) = tokio::join!(change, owner.get("/room/other"));
    for failed in [change, read] {
        let failed = failed.expect(503);
        assert!(failed.header("retry-after").is_some());
        let message = failed.json()["ocs"]["meta"]["message"].as_str().unwrap().to_owned();
        let id = failed.header("x-request-id").unwrap();
        assert!(message.contains(id), "{message}");
        assert!(daemon.log().contains(id), "{message}");
        assert!(!message.contains("postgres"), "{message}");
    }
    proxy.set(Mode::Pass);
    eventually("the database to be available again", || async {
        (owner.put(&path, json!({"roomName": "x"})).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_broker_changes_are_noticed_too() {
    let mut broker = Broker::start();
    let cluster = TestCluster::on(Database::create(Kind::Postgres).await, &broker.url());
    let _worker = cluster.worker().await;
    let api = cluster.api().await;
    add_user(&cluster.settings, "owner", PASSWORD, &[]);
    let owner = Api::new(api.http_port).user("owner", PASSWORD);
    let room = owner.room(2).await;
    let path = format!("/room/{room}");
    broker.server.kill();
    eventually("the API to be disconnected", || async {
        let (_status, problems) = api.get("/readyz").await?;
        problems.contains("listener").then_some(())
    })
    .await;
    let timer = cluster.database.now().await + 3;
    let lobby = json!({"state": 1, "timer": timer});
    owner.put(&format!("{path}/webinar/lobby"), lobby).await.expect(200);
    poll_until_open(&owner, &path).await;
    assert!(cluster.database.now().await >= timer);
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_never_changes_a_room() {
    let cluster = TestCluster::new(Kind::Sqlite).await;
    let api = cluster.api().await;
    add_user(&cluster.settings, "owner", PASSWORD, &[]);
    let owner = Api::new(api.http_port).user("owner", PASSWORD);
    let room = owner.room(2).await;
    let timer = cluster.database.now().await + 1;
    let lobby = json!({"state": 1, "timer": timer});
    owner.put(&format!("/room/{room}/webinar/lobby"), lobby).await.expect(200);
    eventually("the timer to be overdue", || async {
        (cluster.database.now().await > timer).then_some(())
    })
    .await;
    // No worker runs, so the room stays closed.
    for _ in 0..5 {
        let seen = owner.get(&format!("/room/{room}")).await.expect(200).data();
        assert_eq!((&seen["lobbyState"], &seen["lobbyTimer"]), (&json!(1), &json!(timer)));
        owner.get("/room").await.expect(200);
    }
    assert_eq!(cluster.database.lobby_state(&room).await, 1);
    let _worker = cluster.worker().await;
    cluster.database.lobby_becomes(&room, 0).await;
}
