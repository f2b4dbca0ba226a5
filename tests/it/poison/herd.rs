//! Bad things that happen to rooms that are due at once, whose events share a row of the outbox.

use std::collections::{BTreeMap, BTreeSet};

use super::outbox::{drop_trigger, refuse_updates, strict_worker};
use crate::support::{
    amqp::{Client, Published},
    cluster::TestCluster,
    daemon::Daemon,
    database::{Database, Kind},
    eventually,
    proxy::{Mode, Proxy},
    server::{BROKER, amqp_url},
};

on_every_database! { crate::support::cluster::TestCluster::new:
    a_confirm_of_a_herd_that_cannot_be_stored_delays_no_other,
    an_event_of_a_herd_that_cannot_be_claimed_delays_no_other,
}

/// Rooms that are due at once.
const ROOMS: u32 = 200;

const ONLY_POISON: &str = "NEW.data LIKE '%poison1\"%'";

/// Rooms poison1 and room1, room2, …, all due at the same time.
async fn insert_herd(database: &Database) {
    let due = database.now().await + 2;
    database.insert_rooms("room", ROOMS - 1, due).await;
    database.insert_rooms("poison", 1, due).await;
}

async fn only_waiting(database: &Database, token: &str) {
    eventually("all others to be marked", || async {
        (database.waiting().await == [token]).then_some(())
    })
    .await;
}

async fn a_confirm_of_a_herd_that_cannot_be_stored_delays_no_other(mut cluster: TestCluster) {
    let client = cluster.client().await;
    let worker = strict_worker(&mut cluster).await;
    let database = &cluster.database;
    refuse_updates(database, &format!("NEW.published_at IS NOT NULL AND {ONLY_POISON}")).await;
    insert_herd(database).await;
    let updates = client.take_ids(&cluster.updates, 200).await;
    only_waiting(database, "poison1").await;
    worker.unready_with("of room poison1 is not published").await;
    database.execute(&drop_trigger(database)).await;
    cluster.each_announced(&client, updates).await;
    worker.ready().await;
}

async fn an_event_of_a_herd_that_cannot_be_claimed_delays_no_other(mut cluster: TestCluster) {
    let client = cluster.client().await;
    // Its events are left by a worker that cannot publish.
    let required = format!("{}.webinars", cluster.exchange);
    cluster.set("EVENTS__REQUIRED_QUEUES", &required);
    let worker = Daemon::start(&cluster.settings);
    worker.unready_with("required queue").await;
    insert_herd(&cluster.database).await;
    cluster.database.all_open().await;
    drop(worker);
    assert_eq!(cluster.database.unpublished().await, 200);
    client.record_keys(&required, &[]).await;
    refuse_updates(&cluster.database, ONLY_POISON).await;
    let worker = strict_worker(&mut cluster).await;
    let updates = client.take_ids(&cluster.updates, 199).await;
    only_waiting(&cluster.database, "poison1").await;
    worker.metric_becomes("lobbyd_outbox_refused", 1).await;
    worker.ready().await;
    cluster.database.execute(&drop_trigger(&cluster.database)).await;
    let mut last = client.take_ids(&cluster.updates, 1).await;
    last.extend(updates);
    cluster.each_announced(&client, last).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_of_a_herd_without_a_queue_delay_no_other() {
    let mut cluster = TestCluster::new(Kind::Postgres).await;
    let client = Client::connect(&cluster.amqp_url, &cluster.exchange).await;
    let is_bound = |index: &u32| !index.is_multiple_of(4);
    let key = |index: u32| format!("room.updated.room{index}");
    let bound: Vec<String> = (1..=ROOMS).filter(is_bound).map(key).collect();
    client.record_keys(&cluster.updates, &bound).await;
    let _worker = strict_worker(&mut cluster).await;
    let database = &cluster.database;
    database.insert_rooms("room", ROOMS, database.now().await + 2).await;
    let mut updates = client.take_ids(&cluster.updates, 150).await;
    let unbound: BTreeSet<String> =
        (1..=ROOMS).filter(|index| !is_bound(index)).map(|index| format!("room{index}")).collect();
    eventually("all others to be marked", || async {
        let waiting: BTreeSet<String> = database.waiting().await.into_iter().collect();
        (waiting == unbound).then_some(())
    })
    .await;
    let missing: Vec<String> = (1..=ROOMS).filter(|index| !is_bound(index)).map(key).collect();
    client.record_keys(&cluster.updates, &missing).await;
    updates.extend(client.take_ids(&cluster.updates, 50).await);
    cluster.each_announced(&client, updates).await;
}

/// A probe that takes nothing goes on with the events behind those that it has tried.
#[tokio::test(flavor = "multi_thread")]
async fn a_room_in_the_middle_of_a_refused_herd_is_announced_when_it_has_a_queue() {
    let mut cluster = TestCluster::new(Kind::Postgres).await;
    let client = Client::connect(&cluster.amqp_url, &cluster.exchange).await;
    let worker = strict_worker(&mut cluster).await;
    let database = &cluster.database;
    database.insert_rooms("room", ROOMS, database.now().await + 2).await;
    worker.logs("events are refused, they remain in the outbox").await;
    // Otherwise this room could be among the first that are published.
    let refused = r#"lobbyd_events_published_total{outcome="refused"}"#;
    eventually("all to be refused", || async {
        worker.metric(refused).await.filter(|number| *number >= u64::from(ROOMS))
    })
    .await;
    client.record_keys(&cluster.updates, &["room.updated.room120".to_owned()]).await;
    let mut updates = client.take_ids(&cluster.updates, 1).await;
    worker.logs("refused events are taken again").await;
    assert_eq!(updates.values().map(Published::token).collect::<Vec<_>>(), ["room120"]);
    client.record(&cluster.updates).await;
    updates.extend(client.take_ids(&cluster.updates, 199).await);
    cluster.each_announced(&client, updates).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_cut_in_a_herd_loses_nothing() {
    let proxy = Proxy::to(BROKER.server.port).await;
    let mut cluster = TestCluster::new(Kind::Postgres).await;
    let client = cluster.client().await;
    cluster.set("EVENTS__URL", &amqp_url(proxy.port));
    let worker = cluster.worker().await;
    // Some events arrive, and few confirms.
    proxy.set(Mode::Slow);
    cluster.database.insert_rooms("room", 2000, cluster.database.now().await).await;
    let mut updates = client.take_ids(&cluster.updates, 100).await;
    proxy.set(Mode::Cut);
    cluster.database.all_open().await;
    assert!(cluster.database.unpublished().await > 0);
    worker.unready_with("publisher").await;
    proxy.set(Mode::Pass);
    cluster.database.all_published().await;
    updates.extend(by_id(client.take_rest(&cluster.updates).await));
    assert_eq!(updates.len(), 2000);
    cluster.each_announced(&client, updates).await;
}

fn by_id(updates: Vec<Published>) -> BTreeMap<String, Published> {
    updates.into_iter().map(|update| (update.message_id.clone(), update)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_herd_that_is_due_without_a_broker_is_announced_later() {
    let proxy = Proxy::to(BROKER.server.port).await;
    let mut cluster = TestCluster::new(Kind::Postgres).await;
    let client = cluster.client().await;
    cluster.set("EVENTS__URL", &amqp_url(proxy.port));
    let worker = cluster.worker().await;
    proxy.set(Mode::Cut);
    worker.unready_with("publisher: ").await;
    let database = &cluster.database;
    database.insert_rooms("room", 2000, database.now().await).await;
    database.all_open().await;
    assert_eq!(database.unpublished().await, 2000);
    let rows = database.number("SELECT count(*) FROM lobbyd_outbox").await;
    assert!(rows < 100, "{rows} rows");
    proxy.set(Mode::Pass);
    cluster.all_done(&client, 2000).await;
    worker.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_herd_of_a_worker_killed_before_it_is_announced_is_announced_by_another() {
    let proxy = Proxy::to(BROKER.server.port).await;
    let mut cluster = TestCluster::new(Kind::Postgres).await;
    let client = cluster.client().await;
    cluster.set("EVENTS__URL", &amqp_url(proxy.port));
    let worker = cluster.worker().await;
    proxy.set(Mode::FreezeRequests);
    cluster.database.insert_rooms("room", 2000, cluster.database.now().await).await;
    cluster.database.all_open().await;
    assert_eq!(cluster.database.unpublished().await, 2000);
    drop(worker);
    cluster.set("EVENTS__URL", &BROKER.url());
    let _next = cluster.worker().await;
    cluster.database.all_published().await;
    let updates = client.take_rest(&cluster.updates).await;
    assert_eq!(updates.len(), 2000, "an event was published twice");
    cluster.each_announced(&client, by_id(updates)).await;
}
