//! An installation: a database, names of its own on a broker, and the settings for both.

use std::sync::atomic::{AtomicU32, Ordering};

use super::{
    amqp::Client,
    daemon::{Daemon, Settings},
    database::{Database, Kind},
    server::BROKER,
};

pub struct TestCluster {
    pub database: Database,
    pub settings: Settings,
    pub amqp_url: String,
    pub exchange: String,
    pub queue: String,
    pub dead_letters: String,
    /// Takes every room update.
    pub updates: String,
}

impl TestCluster {
    /// On the shared servers.
    pub async fn new(kind: Kind) -> Self {
        Self::on(Database::create(kind).await, &BROKER.url())
    }

    /// On a database and a broker that the test chooses.
    pub fn on(database: Database, amqp_url: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = |what: &str| format!("test-{number}.{what}");
        let mut cluster = Self {
            settings: Vec::new(),
            amqp_url: amqp_url.to_owned(),
            exchange: name("events"),
            queue: name("lobby-changed"),
            dead_letters: name("dead-letters"),
            updates: name("updates"),
            database,
        };
        cluster.set("DATABASE__URL", &cluster.database.url.clone());
        cluster.set("EVENTS__URL", amqp_url);
        cluster.set("EVENTS__EXCHANGE", &cluster.exchange.clone());
        cluster.set("EVENTS__QUEUE", &cluster.queue.clone());
        cluster.set("EVENTS__DEAD_LETTER_QUEUE", &cluster.dead_letters.clone());
        cluster.set("EVENTS__UNKNOWN_ROOM_GRACE", "2s");
        cluster
    }

    /// Changes a setting for the workers that are started from now on.
    pub fn set(&mut self, key: &str, value: &str) {
        let key = format!("LOBBYD__{key}");
        self.settings.retain(|(other, _)| *other != key);
        self.settings.push((key, value.to_owned()));
    }

    /// A client whose queue records every update from now on.
    pub async fn client(&self) -> Client {
        let client = Client::connect(&self.amqp_url, &self.exchange).await;
        client.record(&self.updates).await;
        client
    }

    pub async fn worker(&self) -> Daemon {
        Daemon::start_ready(&self.settings).await
    }

    /// A process of the HTTP API alone.
    pub async fn api(&self) -> Daemon {
        let api = Daemon::start_as("api", &self.settings);
        api.ready().await;
        api
    }

    /// The end of every story: waits until every room is open and every event confirmed, and checks
    /// that this many rooms were each opened by one reset, not early, and that each reset was
    /// announced.
    pub async fn all_done(&self, client: &Client, rooms: u32) {
        let database = &self.database;
        database.all_open().await;
        let updates = client.take_ids(&self.updates, usize::try_from(rooms).unwrap()).await;
        database.all_published().await;
        let stored = database.texts("SELECT id FROM lobbyd_outbox ORDER BY id").await;
        let opened = database.texts("SELECT DISTINCT token FROM lobbyd_outbox").await;
        assert_eq!(stored.len(), opened.len(), "a room was reset twice");
        let seen: Vec<String> = updates.into_keys().collect();
        assert_eq!(seen, stored, "announcements and resets differ");
        let early = "SELECT count(*) FROM lobbyd_outbox WHERE created_at < due_at";
        assert_eq!(database.number(early).await, 0);
        // Publications that come twice have the same id.
        for again in client.take_rest(&self.updates).await {
            assert!(stored.contains(&again.message_id));
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
