//! What clients poll: what they know already they are not told again, and what changes they are told
//! at once, in whatever process it changed.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::sleep;

use crate::support::{
    app::{PASSWORD, TestApp},
    cluster::TestCluster,
    daemon::{Daemon, add_user},
    database::{Database, Kind},
    eventually,
    http::{Answer, Api, Client},
    proxy::{Mode, Proxy},
    server::Broker,
};

/// Far less than a client would wait.
const SOON: Duration = Duration::from_secs(10);

on_every_database! { crate::support::app::TestApp::new:
    what_is_known_is_not_told_again,
    the_list_tells_what_changed,
    a_held_poll_is_answered_when_the_room_changes,
    a_held_list_is_answered_when_any_room_changes,
    only_who_knows_the_state_is_held,
    what_others_write_by_sql_is_seen,
}

fn tag(answer: &Answer) -> String {
    answer.header("etag").unwrap().to_owned()
}

/// Polls as somebody who knows this state, ready to wait.
async fn held(client: &Client, path: &str, tag: &str, seconds: u32) -> Answer {
    let client = client.header("if-none-match", tag);
    client.header("prefer", &format!("wait={seconds}")).get(path).await
}

async fn what_is_known_is_not_told_again(app: TestApp) {
    let owner = app.user("owner").await;
    let room = owner.room(3).await;
    let path = format!("/room/{room}");
    for path in [path.as_str(), "/room"] {
        let first = owner.get(path).await.expect(200);
        let known = tag(&first);
        assert!(known.starts_with('"'), "{known} is not strong");
        assert_eq!(first.header("vary"), Some("Accept"));
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
        assert_ne!(tag(&xml), known, "another form has another tag");
        let again = owner.get(path).await.expect(200);
        assert_eq!((tag(&again), &again.body), (known, &first.body));
    }
    // Each sees the room in another way.
    let guest = app.api.guest();
    guest.join(&room).await;
    let seen = [tag(&owner.get(&path).await), tag(&guest.get(&path).await)];
    assert_ne!(seen[0], seen[1]);
}

async fn the_list_tells_what_changed(app: TestApp) {
    let owner = app.user("owner").await;
    let (one, other) = (owner.room(2).await, owner.room(2).await);
    let all = owner.get("/room").await.expect(200);
    assert_eq!(all.data().as_array().unwrap().len(), 2);
    assert_eq!(all.header("x-nextcloud-talk-hash").unwrap().len(), 40);
    // Lists overlap by some seconds.
    sleep(Duration::from_millis(6100)).await;
    let later = owner.get("/room").await.expect(200);
    let since: i64 = later.header("x-nextcloud-talk-modified-before").unwrap().parse().unwrap();
    let changed = format!("/room?modifiedSince={since}");
    assert_eq!(owner.get(&changed).await.expect(200).data(), json!([]));
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

async fn a_held_poll_is_answered_when_the_room_changes(app: TestApp) {
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
        let known = tag(&guest.get(&path).await.expect(200));
        let begin = Instant::now();
        let change = async {
            sleep(Duration::from_millis(200)).await;
            let body = body.to_string();
            let json = [("content-type", "application/json")];
            owner.raw(method, &target, &json, body).await.expect(200);
        };
        let (answer, ()) = tokio::join!(held(&guest, &path, &known, 30), change);
        let answer = answer.expect(200);
        assert_ne!(tag(&answer), known);
        assert_eq!(answer.header("preference-applied"), Some("wait=30"));
        assert!(begin.elapsed() < SOON, "{target} {body}");
    }
    // At last the timer opens the room by itself.
    let timer = app.database.now().await + 5;
    owner.put(&lobby, json!({"state": 1, "timer": timer})).await.expect(200);
    let known = tag(&guest.get(&path).await.expect(200));
    let answer = held(&guest, &path, &known, 30).await.expect(200);
    assert!(app.database.now().await >= timer);
    assert_eq!(answer.data()["lobbyState"], 0);
    // What others do to themselves changes nothing for the guest.
    let known = tag(&guest.get(&path).await.expect(200));
    let (answer, ()) = tokio::join!(held(&guest, &path, &known, 2), async {
        owner.join(&room).await;
        app.api.guest().join(&room).await;
    });
    let answer = answer.expect(304);
    assert_eq!(answer.header("preference-applied"), Some("wait=2"));
    // Who is put out is told so.
    let known = tag(&guest.get(&path).await.expect(200));
    let (answer, ()) = tokio::join!(held(&guest, &path, &known, 30), async {
        sleep(Duration::from_millis(200)).await;
        owner.delete(&format!("{path}/public"), json!({})).await.expect(200);
    });
    answer.expect(404);
    // All of it was heard of; at most once did comparing with the database come first.
    let unheard = app.daemon().metric("lobbyd_cache_missed_updates_total").await;
    assert!(unheard.unwrap() <= 1, "{unheard:?}");
}

async fn a_held_list_is_answered_when_any_room_changes(app: TestApp) {
    let owner = app.user("owner").await;
    let user = app.user("user").await;
    let room = owner.room(2).await;
    let known = tag(&user.get("/room").await.expect(200));
    let (answer, ()) = tokio::join!(held(&user, "/room", &known, 30), async {
        sleep(Duration::from_millis(200)).await;
        owner.add(&room, "user").await;
    });
    assert_eq!(answer.expect(200).data()[0]["token"], room);
    let known = tag(&user.get("/room").await.expect(200));
    let (answer, ()) = tokio::join!(held(&user, "/room", &known, 30), async {
        sleep(Duration::from_millis(200)).await;
        owner.put(&format!("/room/{room}"), json!({"roomName": "Renamed"})).await.expect(200);
    });
    assert_eq!(answer.expect(200).data()[0]["name"], "Renamed");
    let known = tag(&user.get("/room").await.expect(200));
    let (answer, ()) = tokio::join!(held(&user, "/room", &known, 30), async {
        sleep(Duration::from_millis(200)).await;
        owner.delete(&format!("/room/{room}"), json!({})).await.expect(200);
    });
    assert_eq!(answer.expect(200).data(), json!([]));
}

async fn only_who_knows_the_state_is_held(app: TestApp) {
    let owner = app.user("owner").await;
    let room = owner.room(2).await;
    let path = format!("/room/{room}");
    let known = tag(&owner.get(&path).await.expect(200));
    let begin = Instant::now();
    owner.header("prefer", "wait=30").get(&path).await.expect(200);
    held(&owner, &path, "\"other\"", 30).await.expect(200);
    held(&owner, &path, &known, 0).await.expect(304);
    owner
        .header("if-none-match", &known)
        .header("prefer", "wait=soon")
        .get(&path)
        .await
        .expect(304);
    assert!(begin.elapsed() < SOON);
    let begin = Instant::now();
    held(&owner, &path, &known, 1).await.expect(304);
    assert!(begin.elapsed() >= Duration::from_secs(1));
}

async fn what_others_write_by_sql_is_seen(app: TestApp) {
    let owner = app.user("owner").await;
    let room = owner.room(2).await;
    let path = format!("/room/{room}");
    let known = tag(&owner.get(&path).await.expect(200));
    let write = format!("UPDATE lobbyd_rooms SET lobby_state = 1 WHERE token = '{room}'");
    let (answer, _rows) =
        tokio::join!(held(&owner, &path, &known, 30), app.database.execute(&write));
    assert_eq!(answer.expect(200).data()["lobbyState"], 1);
}

/// Worker and API in processes of their own, with a broker between them.
mod processes {
    use super::*;

    on_every_database! { crate::support::cluster::TestCluster::new:
        every_process_hears_of_a_change,
    }

    async fn every_process_hears_of_a_change(cluster: TestCluster) {
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

        let known = tag(&there.get(&path).await.expect(200));
        let (answer, ()) = tokio::join!(held(&there, &path, &known, 30), async {
            here.put(&lobby, json!({"state": 1, "timer": later})).await.expect(200);
        });
        assert_eq!(answer.expect(200).data()["lobbyTimer"], later);

        // The worker opens it, and both hear of that.
        let timer = cluster.database.now().await + 5;
        here.put(&lobby, json!({"state": 1, "timer": timer})).await.expect(200);
        eventually("that the other process has heard", || async {
            (there.get(&path).await.data()["lobbyTimer"] == timer).then_some(())
        })
        .await;
        let known = [tag(&here.get(&path).await), tag(&there.get(&path).await)];
        assert_eq!(known[0], known[1], "both show the same");
        let (one, other) =
            tokio::join!(held(&here, &path, &known[0], 30), held(&there, &path, &known[1], 30));
        for answer in [one, other] {
            assert_eq!(answer.expect(200).data()["lobbyState"], 0);
        }

        // Somebody else closes it by an event, which is not announced; both see it all the same.
        let client = cluster.client().await;
        let known = tag(&there.get(&path).await.expect(200));
        let (answer, ()) = tokio::join!(held(&there, &path, &known, 30), async {
            client.publish(&json!({"token": room, "state": 1})).await;
        });
        assert_eq!(answer.expect(200).data()["lobbyState"], 1);
        for mut daemon in [worker, first, second] {
            assert!(daemon.stop().await.success());
        }
    }
}

/// A poll that changes nothing costs no use of the database: it does not even have to be there.
#[tokio::test(flavor = "multi_thread")]
async fn polls_of_an_unchanged_room_do_not_need_the_database() {
    let database = Database::create(Kind::Postgres).await;
    let proxy = Proxy::to(crate::support::server::POSTGRES.port).await;
    let settings = vec![("LOBBYD__DATABASE__URL".to_owned(), database.url_through(proxy.port))];
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
    let failed = owner.put(&path, json!({"roomName": "x"})).await.expect(503);
    assert!(failed.header("retry-after").is_some());
    let message = failed.json()["ocs"]["meta"]["message"].as_str().unwrap().to_owned();
    let id = failed.header("x-request-id").unwrap();
    assert!(message.contains(id), "{message}");
    assert!(daemon.log().contains(id), "{message}");
    assert!(!message.contains("postgres"), "{message}");
    proxy.set(Mode::Pass);
    eventually("an answer", || async {
        (owner.put(&path, json!({"roomName": "x"})).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_broker_changes_are_seen_too() {
    let broker = Broker::start();
    let mut broker_server = broker;
    let cluster = TestCluster::on(Database::create(Kind::Postgres).await, &broker_server.url());
    let _worker = cluster.worker().await;
    let api = cluster.api().await;
    add_user(&cluster.settings, "owner", PASSWORD, &[]);
    let owner = Api::new(api.http_port).user("owner", PASSWORD);
    let room = owner.room(2).await;
    let path = format!("/room/{room}");
    broker_server.server.kill();
    eventually("that the API is deaf", || async {
        let (_status, problems) = api.get("/readyz").await?;
        problems.contains("listener").then_some(())
    })
    .await;
    let timer = cluster.database.now().await + 3;
    let lobby = json!({"state": 1, "timer": timer});
    owner.put(&format!("{path}/webinar/lobby"), lobby).await.expect(200);
    let known = tag(&owner.get(&path).await.expect(200));
    let begin = Instant::now();
    assert_eq!(held(&owner, &path, &known, 30).await.expect(200).data()["lobbyState"], 0);
    assert!(begin.elapsed() < SOON);
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_never_changes_a_room() {
    let cluster = TestCluster::new(Kind::Sqlite).await;
    let api = cluster.api().await;
    add_user(&cluster.settings, "owner", PASSWORD, &[]);
    let owner = Api::new(api.http_port).user("owner", PASSWORD);
    let room = owner.room(2).await;
    let timer = cluster.database.now().await + 3;
    let lobby = json!({"state": 1, "timer": timer});
    owner.put(&format!("/room/{room}/webinar/lobby"), lobby).await.expect(200);
    eventually("that the timer is overdue", || async {
        (cluster.database.now().await > timer).then_some(())
    })
    .await;
    // No worker runs, so it is overdue.
    for _ in 0..5 {
        let seen = owner.get(&format!("/room/{room}")).await.expect(200).data();
        assert_eq!((&seen["lobbyState"], &seen["lobbyTimer"]), (&json!(1), &json!(timer)));
        owner.get("/room").await.expect(200);
    }
    assert_eq!(cluster.database.lobby_state(&room).await, 1);
    let _worker = cluster.worker().await;
    cluster.database.lobby_becomes(&room, 0).await;
}
