//! What servers and their clients are told, and of which changes.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Map, Value, json};

use super::{
    front::{Answer, Recorded},
    site::{Site, date},
};
use crate::support::{
    app::PASSWORD,
    daemon::add_user,
    database::Kind,
    eventually,
    http::Api,
    signaling::{SECRET, checksum, client::Channel},
};

on_every_database! { crate::signaling::site::Site::new:
    a_timer_that_fires_is_told_to_users_and_guests,
}

async fn a_timer_that_fires_is_told_to_users_and_guests(site: Site) {
    let worker = site.worker().await;
    let client = site.cluster.client().await;
    site.insert_room("webinar1", &["alice", "bob"]).await;
    site.add_attendees("webinar1", "guests", &["9f86d081"]).await;
    site.database().execute("UPDATE lobbyd_rooms SET description = 'Ünits & \"more\"'").await;
    let (alice, bob) = (site.signaling.user("alice").await, site.signaling.user("bob").await);
    alice.join("webinar1").await;
    let guest = site.signaling.guest_in("webinar1").await;
    site.close("webinar1", 1).await;
    for (client, channel) in [
        (&alice, Channel::List),
        (&alice, Channel::Room),
        (&bob, Channel::List),
        (&guest, Channel::Room),
    ] {
        client.is_let_in(channel, "webinar1").await;
    }
    assert_eq!(client.take_reset(&site.cluster.updates).await.token(), "webinar1");
    site.all_told().await;
    let requests = site.front.requests("webinar1");
    let [request] = requests.as_slice() else { panic!("{requests:?}") };
    let properties = concat!(
        r#""properties":{"name":"Private conversation","type":3,"lobby-state":0,"#,
        r#""lobby-timer":null,"read-only":0,"listable":0,"active-since":null,"#,
        r#""sip-enabled":0,"description":"Ünits & \"more\""}"#
    );
    let body = String::from_utf8(request.body.clone()).unwrap();
    assert!(body.starts_with(r#"{"type":"update","update":{"userids":["#), "{body}");
    assert!(body.contains(properties), "{body}");
    let users: BTreeSet<String> = request.users().into_iter().collect();
    assert!(users.iter().eq(["alice", "bob"]), "{users:?}");
    assert_eq!(request.header("content-type"), "application/json");
    assert_eq!(request.header("content-length"), request.body.len().to_string());
    assert!(request.headers.get("transfer-encoding").is_none());
    assert_eq!(
        request.header("spreed-signaling-backend"),
        format!("{}/", site.signaling.backend())
    );
    let random = request.header("spreed-signaling-random");
    assert_eq!(random.len(), 64);
    assert!(random.chars().all(|it| it.is_ascii_alphanumeric()), "{random}");
    assert_eq!(
        request.header("spreed-signaling-checksum"),
        checksum(SECRET, random, &request.body)
    );
    assert_eq!(Site::counted(&worker, &site.front.url(), "ok", 1).await, 1);
    assert!(!worker.log().contains(SECRET));
}

/// The API is a process of its own, and knows of no signaling server but by the configuration.
#[tokio::test(flavor = "multi_thread")]
async fn every_change_of_the_properties_is_told_and_nothing_else() {
    let mut site = Site::new(Kind::Postgres).await;
    site.cluster.set("SIP__DIALIN_INFO", "dial 1234");
    site.cluster.set("SIP__SHARED_SECRET", "marker-secret");
    site.cluster.set("SIP__GROUPS", "staff");
    let _worker = site.worker().await;
    let api = site.start_as("api").await;
    let settings = &site.cluster.settings;
    add_user(settings, "owner", PASSWORD, &["staff"]);
    add_user(settings, "bob", PASSWORD, &[]);
    let api = Api::new(api.http_port);
    let (owner, bob) = (api.user("owner", PASSWORD), api.user("bob", PASSWORD));
    let room = owner.room(3).await;
    let path = format!("/room/{room}");
    let created = site.front.receives(&room, 1).await[0].properties();
    assert_eq!((&created["type"], &created["name"]), (&json!(3), &json!("Private conversation")));
    let guest = site.signaling.guest_in(&room).await;
    let mut number = 1;
    let mut next = async |what: &str| {
        number += 1;
        let received = site.front.receives(&room, number).await;
        assert_eq!(received.len(), number, "{what}");
        let properties = received[number - 1].properties();
        for key in ["lobby-state", "sip-enabled", "description", "read-only", "active-since"] {
            guest.is_told(Channel::Room, &room, key, &properties[key]).await;
        }
        properties
    };
    // Who is in the room, and what they write, is no property of it.
    owner.add(&room, "bob").await;
    owner.join(&room).await;
    bob.join(&room).await;
    api.guest().join(&room).await;
    owner.post(&format!("/chat/{room}"), json!({ "message": "Welcome" })).await.expect(201);

    let timer = site.database().now().await + 3600;
    let lobby = json!({ "state": 1, "timer": timer });
    owner.put(&format!("{path}/webinar/lobby"), lobby).await.expect(200);
    let lobby = next("closed").await;
    assert_eq!((&lobby["lobby-state"], &lobby["lobby-timer"]), (&json!(1), &date(timer)));
    let client = site.cluster.client().await;
    client.publish(&json!({ "token": room, "state": 0 })).await;
    let lobby = next("opened by an event").await;
    assert_eq!((&lobby["lobby-state"], &lobby["lobby-timer"]), (&json!(0), &Value::Null));
    owner.put(&format!("{path}/webinar/sip"), json!({ "state": 1 })).await.expect(200);
    assert_eq!(next("dial-in").await["sip-enabled"], 1);
    owner.put(&path, json!({ "roomName": "Another" })).await.expect(200);
    assert_eq!(next("name").await["name"], "Private conversation");
    let description = json!({ "description": "About it" });
    owner.put(&format!("{path}/description"), description).await.expect(200);
    assert_eq!(next("description").await["description"], "About it");
    for state in [1, 0] {
        owner.put(&format!("{path}/read-only"), json!({ "state": state })).await.expect(200);
        assert_eq!(next("read-only").await["read-only"], state);
    }
    let before = site.database().now().await;
    let call = format!("/call/{room}");
    owner.post(&call, json!({ "flags": 7 })).await.expect(200);
    let since = next("call").await["active-since"].clone();
    let possible: Vec<Value> = (before..=site.database().now().await).map(date).collect();
    assert!(possible.contains(&since), "{since}");
    owner.delete(&call, json!({ "all": true })).await.expect(200);
    let last = next("end of the call").await;
    assert_eq!(last["active-since"], Value::Null);
    site.all_told().await;
    let requests = site.front.requests(&room);
    assert_eq!(requests.len(), 10);
    let users: BTreeSet<String> = requests[9].users().into_iter().collect();
    assert!(users.iter().eq(["bob", "owner"]), "{users:?}");
}

/// Without a broker, and with all in one process, as on a laptop.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_without_servers_of_its_own_tells_a_signaling_server() {
    let mut site = Site::new(Kind::Sqlite).await;
    site.cluster.set("EVENTS__URL", "memory:");
    let program = site.start_as("run").await;
    add_user(&site.cluster.settings, "owner", PASSWORD, &[]);
    let owner = Api::new(program.http_port).user("owner", PASSWORD);
    let room = owner.room(2).await;
    let guest = site.signaling.guest_in(&room).await;
    let timer = site.database().now().await + 2;
    let lobby = json!({ "state": 1, "timer": timer });
    owner.put(&format!("/room/{room}/webinar/lobby"), lobby).await.expect(200);
    guest.is_told(Channel::Room, &room, "lobby-timer", &date(timer)).await;
    guest.is_told(Channel::Room, &room, "lobby-timer", &Value::Null).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_users_are_told_in_several_requests() {
    let site = Site::new(Kind::Postgres).await;
    let _worker = site.worker().await;
    // One room has many ids, and the other one long ids.
    let short: Vec<String> = (0..1500).map(|number| format!("user{number}")).collect();
    let long: Vec<String> = (0..1500).map(|number| format!("{number:ü>30}\"\\")).collect();
    let listed = site.signaling.user(&short[1499]).await;
    for (token, users) in [("short", &short), ("long", &long)] {
        let users: Vec<&str> = users.iter().map(String::as_str).collect();
        site.insert_room(token, &users).await;
        site.add_attendees(token, "guests", &["guest1", "guest2"]).await;
        site.add_attendees(token, "emails", &["mail@example.org"]).await;
        site.add_attendees(token, "federated_users", &["far@example.org"]).await;
    }
    for (token, users) in [("short", &short), ("long", &long)] {
        let guest = site.signaling.guest_in(token).await;
        site.close(token, 1).await;
        site.database().lobby_becomes(token, 0).await;
        site.all_told().await;
        guest.is_let_in(Channel::Room, token).await;
        let requests = site.front.requests(token);
        assert!(requests.len() >= 2, "{}", requests.len());
        let told: Vec<String> = requests.iter().flat_map(Recorded::users).collect();
        let ids: BTreeSet<&String> = told.iter().collect();
        assert_eq!(told.len(), ids.len(), "an id was sent twice");
        assert_eq!(ids, users.iter().collect());
        for request in &requests {
            assert!(request.users().len() <= 1000);
            assert!(request.body.len() <= 60_000, "{}", request.body.len());
            assert_eq!(request.properties(), requests[0].properties());
        }
        assert_eq!(site.front.most_at_once(token), 1);
    }
    listed.is_let_in(Channel::List, "short").await;
}

/// All requests together take longer than a claim.
#[tokio::test(flavor = "multi_thread")]
async fn many_users_are_told_by_a_slow_server() {
    let site = Site::new(Kind::Postgres).await;
    let worker = site.worker().await;
    let users: Vec<String> = (0..2500).map(|number| format!("user{number}")).collect();
    site.insert_room("webinar1", &users.iter().map(String::as_str).collect::<Vec<_>>()).await;
    site.front.set(Answer::Late(Duration::from_secs(5)));
    site.close("webinar1", 1).await;
    assert_eq!(Site::counted(&worker, &site.front.url(), "ok", 1).await, 1);
    site.all_told().await;
    let requests = site.front.requests("webinar1");
    let told: BTreeSet<String> = requests.iter().flat_map(Recorded::users).collect();
    assert!(requests.len() >= 3, "each takes half of the time that a claim has");
    assert_eq!(told, users.into_iter().collect());
}

/// What ends the server is a body without its object. It is in no request, whatever becomes of the room.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_survives_rooms_that_are_empty_unknown_or_deleted() {
    let site = Site::new(Kind::Postgres).await;
    let _worker = site.worker().await;
    let rooms = ["empty", "unknown", "deleted", "after"];
    site.insert_room("empty", &[]).await;
    site.insert_room("unknown", &["alice"]).await;
    site.insert_room("deleted", &["alice"]).await;
    let mut guests = Vec::new();
    for token in ["empty", "deleted", "after"] {
        guests.push(site.signaling.guest_in(token).await);
    }
    site.front.set(Answer::Hold);
    for token in &rooms[..3] {
        site.close(token, 1).await;
    }
    eventually("a request", || async { site.front.all_requests().first().cloned() }).await;
    for token in &rooms[..3] {
        site.database().lobby_becomes(token, 0).await;
    }
    site.database().execute("DELETE FROM lobbyd_attendees").await;
    site.database().execute("DELETE FROM lobbyd_rooms WHERE token = 'deleted'").await;
    site.front.set(Answer::Pass);
    guests[0].is_let_in(Channel::Room, "empty").await;
    site.all_told().await;
    // The server is the one that the clients are connected to, and still tells them.
    site.insert_room("after", &[]).await;
    site.close("after", 1).await;
    guests[2].is_let_in(Channel::Room, "after").await;
    site.all_told().await;
    assert!(!site.signaling.server.log().contains("panic"), "{}", site.signaling.server.log());
    for request in site.front.all_requests() {
        let body = request.json();
        assert_eq!(body["type"], "update", "{body}");
        assert!(body["update"]["userids"].is_array(), "{body}");
        assert_eq!(body["update"]["properties"].as_object().map(Map::len), Some(9), "{body}");
    }
}
