//! A database, names of its own on a broker, and the settings with which processes share both.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::json;

use super::{
    amqp::{Client, Published},
    daemon::{Daemon, Settings},
    database::{Database, Kind},
    eventually,
    server::{BROKER, amqp_url_of_another},
};

pub struct TestCluster {
    pub database: Database,
    pub settings: Settings,
    /// With this, the test uses the broker, as other programs.
    pub amqp_url: String,
    pub exchange: String,
    pub queue: String,
    pub dead_letters: String,
    pub retry_queue: String,
    /// Queue that receives every room update.
    pub updates: String,
}

impl TestCluster {
    /// A cluster on the shared servers, which it uses with the rights that `deploy/` documents.
    pub async fn new(kind: Kind) -> Self {
        Self::on(Database::create(kind).await, &BROKER.url())
    }

    /// A cluster whose programs are the owner of the tables, and create them.
    pub async fn as_owner(kind: Kind) -> Self {
        Self::on(Database::as_owner(kind).await, &BROKER.url())
    }

    /// A cluster on a database and a broker that the test chooses.
    pub fn on(database: Database, amqp_url: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = |what: &str| format!("lobbyd.test-{number}.{what}");
        let mut cluster = Self {
            settings: database.settings(),
            amqp_url: amqp_url_of_another(amqp_url),
            exchange: name("events"),
            queue: name("lobby-changed"),
            dead_letters: name("dead-letters"),
            retry_queue: name("retry"),
            updates: name("updates"),
            database,
        };
        cluster.set("EVENTS__URL", amqp_url);
        cluster.set("EVENTS__EXCHANGE", &cluster.exchange.clone());
        cluster.set("EVENTS__UPDATES_EXCHANGE", &name("room-updates"));
        cluster.set("EVENTS__RETRY_QUEUE", &cluster.retry_queue.clone());
        cluster.set("EVENTS__QUEUE", &cluster.queue.clone());
        cluster.set("EVENTS__DEAD_LETTER_QUEUE", &cluster.dead_letters.clone());
        cluster.set("EVENTS__UNKNOWN_ROOM_GRACE", "2s");
        cluster
    }

    /// Changes a setting for the processes that are started from now on.
    pub fn set(&mut self, key: &str, value: &str) {
        let key = format!("LOBBYD__{key}");
        self.settings.retain(|(other, _)| *other != key);
        self.settings.push((key, value.to_owned()));
    }

    pub fn setting(&self, key: &str) -> String {
        let key = format!("LOBBYD__{key}");
        self.settings.iter().find(|(other, _)| *other == key).unwrap().1.clone()
    }

    /// A client of the broker. Its queue records every room update from now on.
    pub async fn client(&self) -> Client {
        let client = Client::connect(&self.amqp_url, &self.exchange).await;
        client.record(&self.updates).await;
        client
    }

    /// As [`client`](Self::client), with a queue that survives what a quorum queue does.
    pub async fn client_with_quorum_queue(&self) -> Client {
        let client = Client::connect(&self.amqp_url, &self.exchange).await;
        client.record_in_quorum_queue(&self.updates).await;
        client
    }

    pub async fn worker(&self) -> Daemon {
        Daemon::start_ready(&self.settings).await
    }

    /// A process that runs only the HTTP API.
    pub async fn api(&self) -> Daemon {
        let api = Daemon::start_as("api", &self.settings);
        api.ready().await;
        api
    }

    /// Inserts open rooms PREFIX1, PREFIX2, … and has events close them.
    pub async fn arm_by_events(
        &self,
        client: &Client,
        prefix: &str,
        number: u32,
        seconds: Range<i64>,
    ) {
        self.database.open_rooms(prefix, number).await;
        self.close_by_events(client, prefix, number, seconds).await;
    }

    /// Publishes lobby changes that close rooms PREFIX1, PREFIX2, …, each until one of these seconds
    /// from now. Half of the events have a version; the others are as a simple script sends them.
    pub async fn close_by_events(
        &self,
        client: &Client,
        prefix: &str,
        number: u32,
        seconds: Range<i64>,
    ) {
        let now = self.database.now().await;
        for (index, second) in (1..=number).zip(seconds.cycle()) {
            let mut change =
                json!({"token": format!("{prefix}{index}"), "state": 1, "timer": now + second});
            if index % 2 == 0 {
                change["version"] = json!(1);
            }
            client.publish(&change).await;
        }
    }

    /// Takes the updates that were published so far.
    ///
    /// Only a later update can show that no other update was published: this opens a sentinel room
    /// and takes updates until that of the sentinel, which is fired and published after those of all
    /// earlier resets of the same worker.
    pub async fn updates_before_sentinel(&self, client: &Client) -> Vec<Published> {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let prefix = format!("sentinel{}x", NUMBER.fetch_add(1, Ordering::Relaxed));
        self.database.insert_rooms(&prefix, 1, self.database.now().await).await;
        let mut earlier = Vec::new();
        loop {
            let update = eventually("the sentinel", || client.take(&self.updates)).await;
            if update.token() == format!("{prefix}1") {
                return earlier;
            }
            earlier.push(update);
        }
    }

    /// Waits until every room is open and every event has its publisher confirm. Checks that this
    /// many rooms were each opened by one reset, not early, and that each reset was announced.
    pub async fn all_done(&self, client: &Client, rooms: u32) {
        let database = &self.database;
        database.all_open().await;
        let updates = client.take_resets(&self.updates, usize::try_from(rooms).unwrap()).await;
        self.each_announced(client, updates).await;
    }

    /// As [`all_done`](Self::all_done), with updates that the test has taken already.
    pub async fn each_announced(&self, client: &Client, updates: BTreeMap<String, Published>) {
        let database = &self.database;
        database.all_published().await;
        let resets = database.resets().await;
        let opened: BTreeSet<&str> = resets.values().map(|reset| reset.token.as_str()).collect();
        assert_eq!(resets.len(), opened.len(), "a room was reset twice");
        assert!(updates.keys().eq(resets.keys()), "updates and resets differ");
        assert!(resets.values().all(|reset| reset.fired_at >= reset.due_at), "a reset was early");
        // Updates that are published twice have the same id.
        for again in client.take_rest(&self.updates).await {
            assert!(resets.contains_key(&again.message_id) || !again.is_reset());
        }
        assert!(client.take_rest(&self.dead_letters).await.is_empty());
    }
}

/// A program with worker and API in one process, on a SQLite file and the in-process bus.
pub async fn start_on_sqlite() -> (Daemon, Settings) {
    let database = Database::create(Kind::Sqlite).await;
    let settings: Settings = vec![
        ("LOBBYD__DATABASE__URL".to_owned(), database.url.clone()),
        ("LOBBYD__EVENTS__URL".to_owned(), "memory:".to_owned()),
    ];
    let daemon = Daemon::start_as("run", &settings);
    daemon.ready().await;
    (daemon, settings)
}
