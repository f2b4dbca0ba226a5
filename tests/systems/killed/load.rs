//! A publisher of lobby changes that knows several brokers, as a careful one does.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use crate::support::database::Database;

/// Changes per second. As many rooms become due.
const RATE: u32 = 40;

/// Rooms, each of which is changed once.
const ROOMS: u32 = 8000;

/// Seconds from a change until its room is due.
const TIMER: i64 = 5;

/// How long a broker may take for a change.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sets timers until its end.
pub struct Load {
    ends: Arc<AtomicBool>,
    publishing: JoinSet<u32>,
}

impl Load {
    pub async fn start(database: &Database, brokers: Vec<String>, exchange: &str) -> Self {
        for part in 0..8 {
            database.open_rooms(&format!("room{part}x"), ROOMS / 8).await;
        }
        let ends = Arc::new(AtomicBool::new(false));
        let mut publisher = Publisher {
            brokers,
            exchange: exchange.to_owned(),
            channel: None,
            start: Instant::now(),
            started_at: database.now_millis().await,
        };
        let is_ended = Arc::clone(&ends);
        let mut publishing = JoinSet::new();
        publishing.spawn(async move {
            let mut tick = interval(Duration::from_secs(1) / RATE);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            for number in 0..ROOMS {
                if is_ended.load(Ordering::Relaxed) {
                    return number;
                }
                tick.tick().await;
                publisher.change(&format!("room{}x{}", number % 8, number / 8 + 1)).await;
            }
            panic!("the load is over before the trial");
        });
        Self { ends, publishing }
    }

    /// Stops, and returns how many changes the broker has confirmed.
    pub async fn end(mut self) -> u32 {
        self.ends.store(true, Ordering::Relaxed);
        self.publishing.join_next().await.unwrap().unwrap()
    }
}

struct Publisher {
    brokers: Vec<String>,
    exchange: String,
    channel: Option<(Connection, Channel)>,
    start: Instant,
    /// The start, by the database's clock.
    started_at: i64,
}

impl Publisher {
    /// Publishes a change until a broker confirms it.
    async fn change(&mut self, token: &str) {
        let millis = self.started_at + i64::try_from(self.start.elapsed().as_millis()).unwrap();
        let timer = millis / 1000 + TIMER;
        let change = json!({"token": token, "state": 1, "timer": timer, "version": millis});
        let body = change.to_string();
        loop {
            if timeout(PATIENCE, self.publish(body.as_bytes())).await.ok().flatten().is_some() {
                return;
            }
            self.channel = None;
            self.brokers.rotate_left(1);
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn publish(&mut self, body: &[u8]) -> Option<()> {
        if self.channel.is_none() {
            let url = self.brokers.first()?;
            let connection =
                Connection::connect(url, ConnectionProperties::default()).await.ok()?;
            let channel = connection.create_channel().await.ok()?;
            channel.confirm_select(ConfirmSelectOptions::default()).await.ok()?;
            self.channel = Some((connection, channel));
        }
        let (_connection, channel) = self.channel.as_ref()?;
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(2);
        let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let exchange = self.exchange.as_str().into();
        let confirm =
            channel.basic_publish(exchange, "lobby.changed".into(), mandatory, body, properties);
        let confirm = confirm.await.ok()?.await.ok()?;
        (confirm == Confirmation::Ack(None)).then_some(())
    }
}
