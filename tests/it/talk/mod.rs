//! `lobbyd talk` beside a stand-in for Nextcloud Talk, on each database that Talk runs on. Its faults are
//! in [`faults`].

#[cfg(feature = "failpoints")]
mod failpoints;
mod faults;
mod stand_in;

use std::time::Duration;

use lobbyd::domain::SipState;
use nix::sys::signal::Signal;
use serde_json::json;

pub use self::stand_in::Talk;
use self::stand_in::{Fault, SECRET};
use crate::support::{
    amqp::{Client, Published},
    daemon::{Daemon, Settings, run, text},
    database::{Database, Kind},
    eventually,
    fixtures::at,
    server::BROKER,
};

/// Makes each function a test per database of Talk.
macro_rules! on_each_talk {
    ($($test:ident,)*) => {
        on_each_talk!(@ postgres, Postgres: $($test,)*);
        on_each_talk!(@ mariadb, MariaDb: $($test,)*);
    };
    (@ $module:ident, $kind:ident: $($test:ident,)*) => {
        mod $module {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                let talk = super::Talk::new($crate::support::database::Kind::$kind).await;
                super::$test(talk).await;
            })*
        }
    };
}

on_each_talk! {
    rooms_open_when_they_are_due_and_are_announced_once,
    timers_that_are_moved_or_removed_are_never_asked_for,
    a_room_that_was_created_again_opens_by_its_new_timer,
    a_herd_opens_each_room_once,
    the_login_needs_six_columns_only,
    one_instance_asks_and_another_takes_over_when_it_is_killed,
    a_clock_of_talk_that_is_behind_is_waited_for,
    lobbies_are_set_by_events,
}

fn set(settings: &mut Settings, key: &str, value: &str) {
    let key = format!("LOBBYD__{key}");
    settings.retain(|(other, _)| *other != key);
    settings.push((key, value.to_owned()));
}

/// lobbyd's own database.
fn own(settings: &Settings) -> Database {
    let (_key, url) = settings.iter().find(|(key, _)| key == "LOBBYD__DATABASE__URL").unwrap();
    let kind = match url.split_once(':').unwrap().0 {
        "sqlite" => Kind::Sqlite,
        "postgres" => Kind::Postgres,
        "mysql" => Kind::MariaDb,
        other => panic!("{other} is no database of lobbyd"),
    };
    Database::open(kind, url.clone())
}

async fn start(settings: &Settings) -> Daemon {
    let daemon = Daemon::start_as("talk", settings);
    daemon.ready().await;
    daemon
}

/// Waits until these rooms are announced, and checks that each was announced once.
async fn announced(settings: &Settings, tokens: &[&str]) {
    let own = own(settings);
    eventually("every announcement", || async {
        (own.resets().await.len() >= tokens.len()).then_some(())
    })
    .await;
    let mut found: Vec<String> = own.resets().await.into_values().map(|it| it.token).collect();
    found.sort();
    let mut expected: Vec<String> = tokens.iter().map(|token| (*token).to_owned()).collect();
    expected.sort();
    assert_eq!(found, expected);
}

/// Settings with exchanges and queues of their own at the broker.
fn with_broker(talk: &Talk) -> Settings {
    let mut settings = talk.settings();
    set(&mut settings, "EVENTS__URL", &BROKER.url());
    for name in ["EXCHANGE", "UPDATES_EXCHANGE", "QUEUE", "DEAD_LETTER_QUEUE", "RETRY_QUEUE"] {
        set(
            &mut settings,
            &format!("EVENTS__{name}"),
            &format!("lobbyd.talk-{name}.{}", talk.port),
        );
    }
    settings
}

/// A client of that broker, and the queue in which it records the updates.
async fn client_of(talk: &Talk) -> (Client, String) {
    let client =
        Client::connect(&BROKER.url(), &format!("lobbyd.talk-EXCHANGE.{}", talk.port)).await;
    let queue = format!("lobbyd.talk-updates.{}", talk.port);
    client.record(&queue).await;
    (client, queue)
}

async fn rooms_open_when_they_are_due_and_are_announced_once(talk: Talk) {
    let daemon = start(&with_broker(&talk)).await;
    let (client, queue) = client_of(&talk).await;
    talk.close("public", 3, 2).await;
    let timer = talk.close("group", 2, 3).await;
    talk.insert("federated", 3, timer, "'https://other.example.org'").await;
    talk.opens("public").await;
    talk.opens("group").await;
    let mut updates: Vec<_> = client.take_resets(&queue, 2).await.into_values().collect();
    // Talk writes its message after the row.
    assert_eq!((talk.messages("public"), talk.messages("group")), (1, 1));
    updates.sort_by_key(Published::token);
    let data = &updates[0].json()["data"];
    assert_eq!((&data["token"], &data["type"]), (&"group".into(), &2.into()));
    assert_eq!((&data["lobbyState"], &data["lobbyTimer"]), (&0.into(), &0.into()));
    assert_eq!(data["sipEnabled"], 1);
    let due_at = chrono::DateTime::parse_from_rfc3339(data["dueAt"].as_str().unwrap()).unwrap();
    let fired_at = chrono::DateTime::parse_from_rfc3339(data["firedAt"].as_str().unwrap()).unwrap();
    assert_eq!(due_at.timestamp(), timer);
    assert!(fired_at > due_at, "{data}");
    assert_eq!(data["version"], fired_at.timestamp_millis());
    assert_eq!(talk.requests("federated"), 0);
    daemon.metric_becomes("lobbyd_talk_opened_total{by=\"lobbyd\"}", 2).await;
    assert_eq!(daemon.metric("lobbyd_talk_leader").await, Some(1));
    daemon.logs("room of Talk opened").await;
    assert!(!daemon.log().contains(SECRET));
}

async fn timers_that_are_moved_or_removed_are_never_asked_for(talk: Talk) {
    let settings = talk.settings();
    let _daemon = start(&settings).await;
    let timer = talk.close("moved", 3, 3).await;
    talk.close("removed", 3, 3).await;
    talk.close("reopened", 3, 3).await;
    // Recorded, so it is known to lobbyd.
    let own = own(&settings);
    let known = "SELECT count(*) FROM lobbyd_talk_timers";
    eventually("three timers", || async { (own.number(known).await == 3).then_some(()) }).await;
    talk.set_timer("moved", Some(timer + 3600)).await;
    talk.set_timer("removed", None).await;
    let open = "UPDATE oc_talk_rooms SET lobby_state = 0, lobby_timer = NULL WHERE token";
    talk.database.execute(&format!("{open} = 'reopened'")).await;
    eventually("no timers", || async { (own.number(known).await == 0).then_some(()) }).await;
    talk.close("other", 3, 2).await;
    talk.opens("other").await;
    assert_eq!(talk.all_requests(), ["other"]);
    announced(&settings, &["other"]).await;
}

async fn a_room_that_was_created_again_opens_by_its_new_timer(talk: Talk) {
    let settings = talk.settings();
    let _daemon = start(&settings).await;
    talk.close("again", 3, 4).await;
    let own = own(&settings);
    let known = "SELECT count(*) FROM lobbyd_talk_timers";
    eventually("the timer", || async { (own.number(known).await == 1).then_some(()) }).await;
    talk.database.execute("DELETE FROM oc_talk_rooms").await;
    talk.close("again", 2, 2).await;
    talk.opens("again").await;
    announced(&settings, &["again"]).await;
    assert_eq!(talk.requests("again"), 1);
}

async fn a_herd_opens_each_room_once(talk: Talk) {
    let settings = talk.settings();
    let daemon = start(&settings).await;
    talk.set_delay(Duration::from_millis(5));
    talk.close_many("herd", 500, 3).await;
    talk.all_open().await;
    let tokens: Vec<String> = (1..=500).map(|index| format!("herd{index}")).collect();
    let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
    announced(&settings, &tokens).await;
    for token in tokens {
        assert_eq!((talk.requests(token), talk.messages(token)), (1, 1), "{token}");
    }
    assert_eq!(daemon.metric("lobbyd_talk_opened_total{by=\"lobbyd\"}").await, Some(500));
    own(&settings).all_published().await;
}

async fn the_login_needs_six_columns_only(talk: Talk) {
    let columns = "id, token, type, lobby_state, lobby_timer, remote_server";
    let name = format!("reader_{}", talk.port);
    let (role, url) = match talk.database.kind {
        Kind::Postgres => (
            format!("CREATE ROLE {name} LOGIN"),
            talk.database.url.replace("admin@", &format!("{name}@")),
        ),
        Kind::Sqlite | Kind::MariaDb => {
            let url = talk.database.url.replace("admin:admin@", &format!("{name}:reader@"));
            (format!("CREATE USER {name} IDENTIFIED BY 'reader'"), url)
        }
    };
    talk.database.execute(&role).await;
    let mut settings = talk.settings();
    set(&mut settings, "TALK__DATABASE_URL", &url);
    if talk.database.kind == Kind::MariaDb {
        // Otherwise the login has no database.
        let create = format!("GRANT SELECT (name) ON oc_talk_rooms TO {name}");
        talk.database.execute(&create).await;
    }
    let daemon = Daemon::start_as("talk", &settings);
    let problem = daemon.unready_with("needs GRANT SELECT").await;
    assert!(problem.contains(columns), "{problem}");
    talk.database.execute(&format!("GRANT SELECT ({columns}) ON oc_talk_rooms TO {name}")).await;
    daemon.ready().await;
    talk.close("abc", 2, 1).await;
    talk.opens("abc").await;
    announced(&settings, &["abc"]).await;
}

async fn one_instance_asks_and_another_takes_over_when_it_is_killed(talk: Talk) {
    let (settings, others) = (talk.settings(), talk.settings());
    let mut first = start(&settings).await;
    first.metric_becomes("lobbyd_talk_leader", 1).await;
    let second = start(&others).await;
    second.logs("standing by").await;
    talk.close("one", 3, 1).await;
    talk.opens("one").await;
    assert_eq!((talk.requests("one"), second.metric("lobbyd_talk_leader").await), (1, Some(0)));
    first.signal(Signal::SIGKILL);
    first.ended().await;
    talk.close("two", 3, 1).await;
    talk.opens("two").await;
    second.metric_becomes("lobbyd_talk_leader", 1).await;
    announced(&others, &["two"]).await;
}

async fn a_clock_of_talk_that_is_behind_is_waited_for(talk: Talk) {
    talk.set_clock_ahead(-3);
    let settings = talk.settings();
    let _daemon = start(&settings).await;
    let timer = talk.close("slow", 3, 1).await;
    talk.opens("slow").await;
    assert!(talk.database.now().await >= timer + 3);
    assert!(talk.requests("slow") > 3);
    talk.set_clock_ahead(30);
    let timer = talk.close("fast", 3, 2).await;
    talk.opens("fast").await;
    // Talk would open it earlier, and is not asked.
    assert!(talk.database.now_millis().await > timer * 1000);
    announced(&settings, &["slow", "fast"]).await;
}

async fn lobbies_are_set_by_events(talk: Talk) {
    let mut settings = with_broker(&talk);
    set(&mut settings, "TALK__USER", "lobbyd");
    set(&mut settings, "TALK__PASSWORD", "app password");
    let daemon = start(&settings).await;
    let (client, queue) = client_of(&talk).await;
    talk.insert("abc", 3, 0, "NULL").await;
    let open = "UPDATE oc_talk_rooms SET lobby_state = 0, lobby_timer = NULL";
    talk.database.execute(open).await;
    let now = talk.database.now().await;
    let version = now * 1000;
    let timer = now + 4;
    let change = |state: i64, timer: i64, version: i64| json!({ "token": "abc", "state": state, "timer": timer, "version": version });
    client.publish(&change(1, timer, version)).await;
    let set = client.take_ids(&queue, 1).await.into_values().next().unwrap();
    assert_eq!(set.json()["data"]["reason"], "lobby_non_moderators");
    assert_eq!(set.json()["data"]["lobbyTimer"], timer);
    // Older, and of no room.
    client.publish(&change(0, 0, version - 1)).await;
    client.publish(&json!({ "token": "nowhere", "state": 1, "version": version })).await;
    client.publish(&json!({ "token": "abc", "state": 7 })).await;
    daemon.metric_becomes("lobbyd_events_received_total{outcome=\"stale\"}", 1).await;
    daemon.metric_becomes("lobbyd_events_received_total{outcome=\"malformed\"}", 1).await;
    talk.opens("abc").await;
    let reset = client.take_reset(&queue).await;
    assert_eq!(reset.json()["data"]["token"], "abc");
    daemon.metric_becomes("lobbyd_events_received_total{outcome=\"unknown_room\"}", 1).await;
    let expected = json!({ "token": "abc", "lobby": { "state": 1, "timer": timer } });
    assert_eq!(talk.lobbies(), [expected]);
    daemon.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_for_talk_are_refused_without_an_account() {
    let talk = Talk::new(Kind::Postgres).await;
    let daemon = start(&with_broker(&talk)).await;
    let (client, _queue) = client_of(&talk).await;
    client.publish(&json!({ "token": "abc", "state": 0 })).await;
    daemon.logs("talk.user is not configured").await;
    assert_eq!(client.count(&format!("lobbyd.talk-DEAD_LETTER_QUEUE.{}", talk.port)).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_secret_only_public_rooms_are_opened() {
    let talk = Talk::new(Kind::Postgres).await;
    let mut settings = talk.settings();
    settings.retain(|(key, _)| key != "LOBBYD__TALK__SECRET");
    let daemon = start(&settings).await;
    talk.close("group", 2, 0).await;
    talk.close("public", 3, 1).await;
    talk.opens("public").await;
    assert_eq!(talk.all_requests(), ["public"]);
    assert_eq!(daemon.gauge("lobbyd_talk_overdue_seconds").await, Some(0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_row_counts_and_not_the_status() {
    let talk = Talk::new(Kind::Postgres).await;
    talk.set_fault(Fault::FailsAfterReset);
    let settings = talk.settings();
    let daemon = start(&settings).await;
    talk.close("abc", 3, 1).await;
    talk.opens("abc").await;
    announced(&settings, &["abc"]).await;
    assert_eq!(talk.requests("abc"), 1);
    daemon.metric_becomes("lobbyd_talk_requests_total{outcome=\"failed\"}", 1).await;
    daemon.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_timers_of_a_room_are_announced_that_was_closed_again_meanwhile() {
    for kind in [Kind::Sqlite, Kind::Postgres, Kind::MariaDb] {
        let database = Database::create(kind).await;
        let store = database.store().await;
        for seconds in [100, 200] {
            let due_at = database.timestamp_sql(at(seconds).timestamp());
            let insert = "INSERT INTO lobbyd_talk_timers (room_id, token, room_type, due_at)";
            database.execute(&format!("{insert} VALUES (7, 'abc', 3, {due_at})")).await;
        }
        let timers = store.recorded_talk_timers(10).await.unwrap();
        assert_eq!(timers.iter().map(|it| it.due_at).collect::<Vec<_>>(), [at(100), at(200)]);
        store.record_talk_timers(&timers).await.unwrap();
        for timer in timers {
            let update = timer.opened(timer.due_at, SipState::Disabled);
            assert!(store.end_talk_timer(&timer, Some(&update)).await.unwrap(), "{kind:?}");
            assert!(!store.end_talk_timer(&timer, Some(&update)).await.unwrap(), "{kind:?}");
        }
        assert_eq!(database.resets().await.len(), 2, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_talk_fails_to_apply_is_tried_again_before_the_next_one() {
    let talk = Talk::new(Kind::Postgres).await;
    let mut settings = with_broker(&talk);
    set(&mut settings, "TALK__USER", "lobbyd");
    set(&mut settings, "TALK__PASSWORD", "app password");
    let daemon = start(&settings).await;
    let (client, _queue) = client_of(&talk).await;
    talk.close("abc", 3, 3600).await;
    talk.set_fault_of("abc", Some(Fault::Fails));
    let version = talk.database.now().await * 1000;
    client.publish(&json!({ "token": "abc", "state": 1, "version": version })).await;
    client.publish(&json!({ "token": "abc", "state": 0, "version": version + 1 })).await;
    daemon.metric_becomes("lobbyd_deliveries_aside", 2).await;
    talk.set_fault_of("abc", None);
    talk.opens("abc").await;
    daemon.metric_becomes("lobbyd_events_received_total{outcome=\"applied\"}", 2).await;
    let states: Vec<_> = talk.lobbies().iter().map(|it| it["lobby"]["state"].clone()).collect();
    assert_eq!(states, [1, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_that_opened_before_a_crash_is_announced_after_it() {
    let talk = Talk::new(Kind::Postgres).await;
    let settings = talk.settings();
    let mut daemon = start(&settings).await;
    talk.set_fault(Fault::Hangs);
    talk.close("abc", 3, 1).await;
    talk.asked("abc", 1).await;
    daemon.signal(Signal::SIGKILL);
    daemon.ended().await;
    let open = "UPDATE oc_talk_rooms SET lobby_state = 0, lobby_timer = NULL";
    talk.database.execute(open).await;
    let _daemon = start(&settings).await;
    announced(&settings, &["abc"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_check_says_what_has_to_be_set_where() {
    let talk = Talk::new(Kind::Postgres).await;
    let mut settings = talk.settings();
    let check = |settings: &Settings| run(settings, &["talk", "check"]);
    let empty = check(&settings);
    assert!(text(&empty.stdout).contains("has no room to try"), "{empty:?}");
    talk.close("later", 2, 3600).await;
    let good = check(&settings);
    assert!(good.status.success(), "{good:?}");
    assert!(text(&good.stdout).contains("Talk accepts it for room later"), "{good:?}");
    set(&mut settings, "TALK__SECRET", "wrong");
    let wrong = check(&settings);
    assert!(!wrong.status.success());
    assert!(text(&wrong.stderr).contains("sip_bridge_shared_secret"), "{wrong:?}");
    set(&mut settings, "TALK__TABLE", "nc_talk_rooms");
    let missing = check(&settings);
    assert!(text(&missing.stderr).contains("talk.table nc_talk_rooms"), "{missing:?}");
    for (key, value) in [
        ("TALK__URL", "ftp://example.org"),
        ("TALK__TABLE", "rooms; DROP"),
        ("TALK__CONCURRENCY", "1"),
        ("TALK__DATABASE_URL", "sqlite://talk.db"),
        ("TALK__USER", "lobbyd"),
    ] {
        let mut settings = talk.settings();
        set(&mut settings, key, value);
        let refused = run(&settings, &["talk"]);
        assert_eq!(refused.status.code(), Some(78), "{key}: {refused:?}");
        let named = key.to_lowercase().replace("__", ".");
        assert!(text(&refused.stderr).contains(&named), "{key}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_opens_the_rooms_of_talk_beside_its_own() {
    let talk = Talk::new(Kind::MariaDb).await;
    let settings = talk.settings();
    let daemon = Daemon::start_as("run", &settings);
    daemon.ready().await;
    let own = own(&settings);
    own.insert_rooms("own", 1, own.now().await + 1).await;
    talk.close("talk1", 3, 1).await;
    own.lobby_becomes("own1", 0).await;
    talk.opens("talk1").await;
    announced(&settings, &["own1", "talk1"]).await;
}
