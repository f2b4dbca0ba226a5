//! A subscriber with a durable queue of its own, which receives every room update.
//!
//! It has a direct connection to the broker, connects again after each loss, and acknowledges what
//! it has recorded.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use lapin::{
    Connection, ConnectionProperties, Consumer,
    message::Delivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use serde_json::Value;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::check::history::Announcement;

const PREFETCH: u16 = 500;

/// How long the broker may take for an answer, and be silent. Then the connection is taken to be lost:
/// an answer of a broker that was killed may never come.
const PATIENCE: Duration = Duration::from_secs(10);

pub struct Recorder {
    recorded: Arc<Mutex<Vec<Announcement>>>,
    _consuming: JoinSet<()>,
}

impl Recorder {
    pub fn start(url: String, queue: String) -> Self {
        let recorded = Arc::new(Mutex::new(Vec::new()));
        let mut consuming = JoinSet::new();
        let record = Arc::clone(&recorded);
        consuming.spawn(async move {
            loop {
                // The broker is unavailable now and then.
                if consume(&url, &queue, &record).await.is_none() {
                    sleep(Duration::from_millis(200)).await;
                }
            }
        });
        Self { recorded, _consuming: consuming }
    }

    pub fn announcements(&self) -> Vec<Announcement> {
        self.recorded.lock().unwrap().clone()
    }
}

/// Consumes until the connection is lost.
async fn consume(url: &str, queue: &str, record: &Mutex<Vec<Announcement>>) -> Option<()> {
    let (_connection, mut consumer) = timeout(PATIENCE, connect(url, queue)).await.ok()??;
    loop {
        let delivery = timeout(PATIENCE, consumer.next()).await.ok()??.ok()?;
        record.lock().unwrap().push(announcement(&delivery));
        let acknowledging = delivery.acker.ack(BasicAckOptions::default());
        timeout(PATIENCE, acknowledging).await.ok()?.ok()?;
    }
}

async fn connect(url: &str, queue: &str) -> Option<(Connection, Consumer)> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.ok()?;
    let channel = connection.create_channel().await.ok()?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await.ok()?;
    let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
    let consumer = channel.basic_consume(queue.into(), "recorder".into(), options, arguments);
    Some((connection, consumer.await.ok()?))
}

fn announcement(delivery: &Delivery) -> Announcement {
    let event: Value = serde_json::from_slice(&delivery.data).unwrap();
    let data = &event["data"];
    let time = |name: &str| {
        let text = data[name].as_str()?;
        Some(text.parse::<DateTime<Utc>>().unwrap().timestamp_millis())
    };
    let id = delivery.properties.message_id().as_ref().unwrap().to_string();
    assert_eq!(event["id"], id.as_str(), "the message id is that of the event");
    Announcement {
        id,
        token: data["token"].as_str().unwrap().to_owned(),
        version: data["version"].as_i64().unwrap(),
        is_reset: data["reason"] == "lobby_timer_reached",
        state: data["lobbyState"].as_i64().unwrap(),
        timer: data["lobbyTimer"].as_i64().filter(|timer| *timer != 0),
        due_at: time("dueAt"),
        fired_at: time("firedAt"),
        is_redelivered: delivery.redelivered,
        body: String::from_utf8(delivery.data.clone()).unwrap(),
    }
}
