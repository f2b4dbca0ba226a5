//! Bad things in the outbox: events and publisher confirms that fail, and destinations that take
//! nothing.

use std::collections::BTreeSet;

use crate::support::{
    amqp::{Client, Published},
    cluster::TestCluster,
    daemon::Daemon,
    database::{Database, Kind},
    eventually,
    fixtures::at,
    proxy::{Mode, Proxy},
    server::{BROKER, Broker, amqp_url, free_port},
    timers::TimerFixture,
};

const CONFIRMED: &str = r#"lobbyd_events_published_total{outcome="confirmed"}"#;
const REFUSED: &str = r#"lobbyd_events_published_total{outcome="refused"}"#;

on_every_database! { crate::support::cluster::TestCluster::new:
    a_confirm_that_cannot_be_stored_delays_no_other,
    an_event_that_cannot_be_claimed_delays_no_other,
    an_event_that_is_not_json_delays_no_other,
}

/// A worker that is unready as soon as something is overdue for a second.
pub(super) async fn strict_worker(cluster: &mut TestCluster) -> Daemon {
    cluster.set("OPS__OVERDUE_AFTER", "1s");
    cluster.worker().await
}

async fn a_confirm_that_cannot_be_stored_delays_no_other(mut cluster: TestCluster) {
    let client = cluster.client().await;
    let worker = strict_worker(&mut cluster).await;
    let database = &cluster.database;
    refuse_updates(database, "NEW.published_at IS NOT NULL AND NEW.token = 'poison1'").await;
    let now = database.now().await;
    database.insert_rooms("poison", 1, now).await;
    database.insert_rooms("room", 50, now).await;
    assert_eq!(client.take_ids(&cluster.updates, 51).await.len(), 51);
    eventually("all but one confirm to be stored", || async {
        (database.waiting().await == ["poison1"]).then_some(())
    })
    .await;
    eventually("the event to be overdue", || async {
        let (_status, problems) = worker.get("/readyz").await?;
        let is_named = problems.contains("of room poison1 is not published (for ");
        (is_named && problems.starts_with("publisher: event ")).then_some(())
    })
    .await;
    let oldest = worker.gauge("lobbyd_outbox_oldest_age_seconds").await.unwrap();
    assert!(oldest > 1.0, "{oldest}");
    // It is published again and again, and logged once.
    worker.metric_becomes(CONFIRMED, 54).await;
    assert_eq!(worker.log().matches("publisher confirm could not be stored").count(), 1);

    // Others are still published at once.
    database.insert_rooms("later", 1, database.now().await).await;
    eventually("the later event", || async {
        let update = client.take(&cluster.updates).await?;
        (update.token() == "later1").then_some(())
    })
    .await;

    database.execute(&drop_trigger(database)).await;
    database.all_published().await;
    worker.ready().await;
}

async fn an_event_that_cannot_be_claimed_delays_no_other(mut cluster: TestCluster) {
    let client = cluster.client().await;
    let worker = strict_worker(&mut cluster).await;
    let database = &cluster.database;
    refuse_updates(database, "NEW.token = 'poison1'").await;
    let data = r#"{"token":"poison1"}"#;
    insert_event(database, data, database.now().await - 60).await;
    worker.metric_becomes("lobbyd_outbox_refused", 1).await;
    // Others are claimed, too: nothing hands these to the relay.
    for index in 1..=20 {
        let row = data.replace("poison1", &format!("room{index}"));
        let now = database.now().await;
        insert_row(database, index + 1, &format!("room{index}"), &row, now).await;
    }
    assert_eq!(client.take_ids(&cluster.updates, 20).await.len(), 20);
    eventually("the others to be marked", || async {
        (database.waiting().await == ["poison1"]).then_some(())
    })
    .await;
    assert_eq!(worker.log().matches("event cannot be claimed").count(), 1, "{}", worker.log());
    worker.ready().await;
    database.execute(&drop_trigger(database)).await;
    assert_eq!(client.take_ids(&cluster.updates, 1).await.len(), 1);
    database.all_published().await;
    worker.metric_becomes("lobbyd_outbox_refused", 0).await;
}

/// Refuses every update of a row of the outbox that meets the condition.
pub(super) async fn refuse_updates(database: &Database, when: &str) {
    let statements = match database.kind {
        Kind::Postgres => vec![
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN RAISE EXCEPTION 'archived'; END $$"
                .to_owned(),
            format!(
                "CREATE TRIGGER refuse BEFORE UPDATE ON lobbyd_outbox
                 FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION refuse()"
            ),
        ],
        Kind::MariaDb => vec![format!(
            "CREATE TRIGGER refuse BEFORE UPDATE ON lobbyd_outbox FOR EACH ROW
             IF {when} THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'archived'; END IF"
        )],
        Kind::Sqlite => vec![format!(
            "CREATE TRIGGER refuse BEFORE UPDATE ON lobbyd_outbox
             WHEN {when} BEGIN SELECT RAISE(ABORT, 'archived'); END"
        )],
    };
    for statement in statements {
        database.execute(&statement).await;
    }
}

pub(super) fn drop_trigger(database: &Database) -> String {
    let table = if database.kind == Kind::Postgres { " ON lobbyd_outbox" } else { "" };
    format!("DROP TRIGGER refuse{table}")
}

async fn an_event_that_is_not_json_delays_no_other(mut cluster: TestCluster) {
    let client = cluster.client().await;
    let worker = strict_worker(&mut cluster).await;
    let database = &cluster.database;
    let now = database.now().await;
    insert_event(database, "{", now).await;
    database.insert_rooms("room", 50, now).await;
    assert_eq!(client.take_ids(&cluster.updates, 50).await.len(), 50);
    eventually("the others to be marked", || async {
        (database.waiting().await == ["poison1"]).then_some(())
    })
    .await;
    worker.unready_with("of room poison1 is not published").await;
    worker.logs("outbox event is not valid JSON").await;
    assert_eq!(worker.log().matches("outbox event is not valid JSON").count(), 1);
    database.execute("DELETE FROM lobbyd_outbox WHERE published_at IS NULL").await;
    worker.ready().await;
}

/// Inserts an event of the room poison1, as another program may do.
async fn insert_event(database: &Database, data: &str, available_at: i64) {
    insert_row(database, 1, "poison1", data, available_at).await;
}

async fn insert_row(database: &Database, number: i64, room: &str, data: &str, available_at: i64) {
    let time = database.timestamp_sql(available_at);
    let columns = "id, type, token, data, created_at, available_at";
    database
        .execute(&format!(
            "INSERT INTO lobbyd_outbox ({columns}) VALUES
             ('00000000-0000-0000-0000-{number:012}', 'room.updated.v1', '{room}', '{data}',
              {time}, {time})"
        ))
        .await;
}

/// Rooms that are due at once in the tests of destinations.
const ROOMS: u32 = 5000;

#[tokio::test(flavor = "multi_thread")]
async fn events_without_a_subscriber_cost_little_and_arrive_when_there_is_one() {
    let mut cluster = TestCluster::new(Kind::Postgres).await;
    let client = Client::connect(&cluster.amqp_url, &cluster.exchange).await;
    let worker = strict_worker(&mut cluster).await;
    let database = &cluster.database;
    database.insert_rooms("room", ROOMS, database.now().await).await;
    database.all_open().await;
    // Each event is tried once. Then there are only probes.
    eventually("three probes", || async {
        worker.metric(REFUSED).await.filter(|refused| *refused >= u64::from(ROOMS) + 150)
    })
    .await;
    let problems = worker.unready().await;
    assert!(problems.contains("publisher: event ") && problems.contains("is not published"));
    let refused = worker.metric(REFUSED).await.unwrap();
    let changes = database
        .number("SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'lobbyd_outbox'");
    let changes = changes.await;
    println!("{ROOMS} events, {refused} publications, {changes} changes of rows");
    assert!(refused < u64::from(ROOMS) * 11 / 10, "{refused} publications");
    assert!(changes < i64::from(ROOMS) * 22 / 10, "{changes} changes of rows");
    let log = worker.log();
    assert_eq!(log.matches("events are refused, they remain").count(), 1, "{log}");
    assert!(!log.contains("specversion") && !log.contains("lapin"), "{log}");

    // Meanwhile a new event that has a queue is published at once.
    client.record_keys("poison.one", &["room.updated.bound1".to_owned()]).await;
    database.insert_rooms("bound", 1, database.now().await).await;
    assert_eq!(client.take_ids("poison.one", 1).await.len(), 1);
    assert!(database.unpublished().await >= i64::from(ROOMS));

    client.record(&cluster.updates).await;
    database.all_published().await;
    worker.ready().await;
    assert_eq!(worker.log().matches("refused events are taken again").count(), 1);
    assert_eq!(worker.log().matches("events are refused, they remain").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_without_a_queue_delays_no_other() {
    let mut cluster = TestCluster::new(Kind::Postgres).await;
    let client = Client::connect(&cluster.amqp_url, &cluster.exchange).await;
    let keys: Vec<String> = (1..=50).map(|index| format!("room.updated.room{index}")).collect();
    client.record_keys(&cluster.updates, &keys).await;
    let worker = strict_worker(&mut cluster).await;
    let database = &cluster.database;
    database.insert_rooms("poison", 1, database.now().await).await;
    worker.unready_with("of room poison1 is not published").await;
    database.insert_rooms("room", 50, database.now().await).await;
    assert_eq!(client.take_ids(&cluster.updates, 50).await.len(), 50);
    // The others are taken, so it is only counted after some attempts.
    worker.ready().await;
    worker.metric_becomes("lobbyd_outbox_refused", 1).await;
    client.record_keys(&cluster.updates, &["room.updated.poison1".to_owned()]).await;
    database.all_published().await;
    worker.metric_becomes("lobbyd_outbox_refused", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_without_a_queue_delays_no_older_event() {
    let mut cluster = TestCluster::new(Kind::Postgres).await;
    let client = Client::connect(&cluster.amqp_url, &cluster.exchange).await;
    client.record_keys(&cluster.updates, &["room.updated.room1".to_owned()]).await;
    let worker = strict_worker(&mut cluster).await;
    let database = &cluster.database;
    database.insert_rooms("poison", 1, database.now().await).await;
    worker.metric_becomes(REFUSED, 4).await;
    // Events that were left by an outage.
    for number in 1..=120 {
        let before = database.now().await - 60;
        insert_row(database, number, "room1", r#"{"token":"room1"}"#, before).await;
    }
    assert_eq!(client.take_ids(&cluster.updates, 120).await.len(), 120);
    eventually("the others to be marked", || async {
        (database.waiting().await == ["poison1"]).then_some(())
    })
    .await;
    assert!(!worker.log().contains("refused events are taken again"), "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirm_that_meets_a_lock_is_stored_later() {
    // Its clock stands still, so no claim ends, and nothing is published again.
    let mut fixture = TimerFixture::new(Kind::Postgres).await;
    for statement in [
        "CREATE SEQUENCE tries",
        "CREATE FUNCTION conflict() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM nextval('tries'); RAISE SQLSTATE '40P01'; END $$",
        "CREATE TRIGGER conflict BEFORE UPDATE ON lobbyd_outbox FOR EACH ROW
             WHEN (NEW.published_at IS NOT NULL AND NEW.token = 'poison1')
             EXECUTE FUNCTION conflict()",
    ] {
        fixture.database.execute(statement).await;
    }
    let due = at(0).timestamp();
    fixture.database.insert_rooms("poison", 1, due).await;
    fixture.database.insert_rooms("room", 4, due).await;
    fixture.set_time(at(0));
    while fixture.timers.tick().await.unwrap().is_zero() {}
    eventually("the others to be marked, and many tries", || async {
        let tries = fixture.database.number("SELECT last_value FROM tries").await;
        let waiting = fixture.database.waiting().await;
        (waiting == ["poison1"] && tries >= 8).then_some(())
    })
    .await;
    fixture.database.execute("DROP TRIGGER conflict ON lobbyd_outbox").await;
    assert_eq!(fixture.fire_at(0).await.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_published_while_a_required_queue_is_missing() {
    let mut cluster = TestCluster::new(Kind::Sqlite).await;
    let required = format!("{}.webinars", cluster.exchange);
    cluster.set("EVENTS__REQUIRED_QUEUES", &required);
    let client = cluster.client().await;
    let worker = Daemon::start(&cluster.settings);
    // Its own queue does not count.
    let api = Daemon::start_as("api", &cluster.settings);
    let missing = format!("publisher: required queue {required} does not exist");
    for process in [&worker, &api] {
        eventually("the missing queue to be named", || async {
            let (_status, problems) = process.get("/readyz").await?;
            (problems == format!("{missing}\n")).then_some(())
        })
        .await;
    }
    cluster.database.insert_rooms("room", 50, cluster.database.now().await).await;
    cluster.database.all_open().await;
    assert_eq!(cluster.database.unpublished().await, 50);
    assert_eq!((worker.metric(CONFIRMED).await, worker.metric(REFUSED).await), (Some(0), Some(0)));
    assert_eq!(worker.log().matches("nothing is published").count(), 1);
    assert!(!worker.log().contains("lapin"), "{}", worker.log());

    client.record(&required).await;
    assert_eq!(client.take_ids(&required, 50).await.len(), 50);
    worker.ready().await;
    api.ready().await;
    client.delete_queue(&required).await;
    worker.unready_with(&missing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_too_large_for_the_broker_delays_no_other() {
    // An update of a room with the longest token is larger than that, and no other.
    let broker = Broker::start_with(free_port(), "max_message_size = 430");
    let mut cluster = TestCluster::on(Database::create(Kind::Postgres).await, &broker.url());
    let token = format!("poison{}1", "x".repeat(25));
    let client = cluster.client().await;
    let worker = strict_worker(&mut cluster).await;
    let database = &cluster.database;
    let now = database.now().await;
    database.insert_rooms("rooma", 50, now).await;
    database.insert_rooms(token.trim_end_matches('1'), 1, now).await;
    database.insert_rooms("roomb", 50, now).await;
    let updates = client.take_ids(&cluster.updates, 100).await;
    eventually("the others to be marked", || async {
        (database.waiting().await == [token.as_str()]).then_some(())
    })
    .await;
    assert!(updates.values().all(|update| update.token() != token));
    // Only those that stood near it were sent again.
    let again = client.take_rest(&cluster.updates).await.len();
    assert!(again < 300, "{again} updates twice");
    worker.unready_with(&format!("of room {token} is not published")).await;
    // RabbitMQ 3 reads the first, 4 the second.
    let raise = "application:set_env(rabbit, max_message_size, 131072),
                 persistent_term:put(max_message_size, 131072).";
    broker.control(&["eval", raise]);
    database.all_published().await;
    worker.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_from_a_clock_that_was_ahead_is_ended() {
    let cluster = TestCluster::new(Kind::Postgres).await;
    let client = cluster.client().await;
    let worker = cluster.worker().await;
    let database = &cluster.database;
    insert_event(database, r#"{"token":"poison1"}"#, database.now().await + 3600).await;
    assert_eq!(client.take_ids(&cluster.updates, 1).await.len(), 1);
    worker.logs("database clock stepped back").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_of_any_character_set_announce_the_right_room() {
    for charset in ["latin1", "utf8mb3"] {
        let cluster = TestCluster::new(Kind::MariaDb).await;
        let database = &cluster.database;
        database.execute(&format!("ALTER DATABASE CHARACTER SET {charset}")).await;
        let client = cluster.client().await;
        let _worker = cluster.worker().await;
        for prefix in ["日本€", "😀x"] {
            database.insert_rooms(prefix, 1, database.now().await).await;
        }
        let updates = client.take_ids(&cluster.updates, 2).await;
        let tokens: BTreeSet<String> = updates.values().map(Published::token).collect();
        assert_eq!(tokens, BTreeSet::from(["日本€1".to_owned(), "😀x1".to_owned()]));
        for update in updates.values() {
            assert_eq!(update.routing_key, format!("room.updated.{}", update.token()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_link_gets_small_batches() {
    let proxy = Proxy::to(BROKER.server.port).await;
    let mut cluster = TestCluster::new(Kind::Postgres).await;
    let client = cluster.client().await;
    cluster.set("EVENTS__URL", &amqp_url(proxy.port));
    let worker = cluster.worker().await;
    proxy.set(Mode::Slow);
    cluster.database.insert_rooms("room", 600, cluster.database.now().await).await;
    cluster.all_done(&client, 600).await;
    let sent = worker.metric(CONFIRMED).await.unwrap()
        + worker.metric(r#"lobbyd_events_published_total{outcome="unconfirmed"}"#).await.unwrap();
    println!("600 events over a slow link: {sent} publications");
    assert!(sent < 2400, "{sent} publications");
}
