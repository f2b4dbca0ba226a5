//! An installation: a database, names of its own on a broker, and the settings for both.

use std::sync::atomic::{AtomicU32, Ordering};

use super::{
    amqp::Client,
    daemon::{Daemon, Settings},
    database::{Database, Kind},
    server::BROKER,
};

pub struct Site {
    pub database: Database,
    pub settings: Settings,
    pub amqp_url: String,
    pub exchange: String,
    pub queue: String,
    pub dead_letters: String,
    /// Takes every room update.
    pub updates: String,
}

impl Site {
    /// On the shared servers.
    pub async fn new(kind: Kind) -> Self {
        Self::on(Database::create(kind).await, &BROKER.url())
    }

    /// On a database and a broker that the test chooses.
    pub fn on(database: Database, amqp_url: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = |what: &str| format!("test-{number}.{what}");
        let mut site = Self {
            settings: Vec::new(),
            amqp_url: amqp_url.to_owned(),
            exchange: name("events"),
            queue: name("lobby-changed"),
            dead_letters: name("dead-letters"),
            updates: name("updates"),
            database,
        };
        site.set("DATABASE__URL", &site.database.url.clone());
        site.set("EVENTS__URL", amqp_url);
        site.set("EVENTS__EXCHANGE", &site.exchange.clone());
        site.set("EVENTS__QUEUE", &site.queue.clone());
        site.set("EVENTS__DEAD_LETTER_QUEUE", &site.dead_letters.clone());
        site.set("EVENTS__UNKNOWN_ROOM_GRACE", "2s");
        site
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
}
