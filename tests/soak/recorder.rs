//! A subscriber with a durable queue of its own, which receives every room update.
//!
//! It has a direct connection to the broker, connects again after each loss, and acknowledges what
//! it has recorded.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use lapin::{
    Connection, ConnectionProperties, Consumer,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    types::{FieldTable, ShortString},
};
use serde::Deserialize;
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

#[derive(Debug, Clone, Default)]
pub struct Recorded {
    pub announcements: Vec<Announcement>,
    /// Messages that are not room updates as they were promised, each with the reason.
    pub unreadable: Vec<String>,
}

#[derive(Deserialize)]
struct Event {
    id: String,
    time: DateTime<Utc>,
    data: Data,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    token: String,
    version: i64,
    reason: String,
    lobby_state: i64,
    lobby_timer: i64,
    due_at: Option<DateTime<Utc>>,
    fired_at: Option<DateTime<Utc>>,
}

pub struct Recorder {
    recorded: Arc<Mutex<Recorded>>,
    _consuming: JoinSet<()>,
}

impl Recorder {
    pub fn start(url: String, queue: String) -> Self {
        let recorded = Arc::<Mutex<Recorded>>::default();
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

    pub fn recorded(&self) -> Recorded {
        self.recorded.lock().unwrap().clone()
    }
}

/// Consumes until the connection is lost.
async fn consume(url: &str, queue: &str, record: &Mutex<Recorded>) -> Option<()> {
    let (_connection, mut consumer) = timeout(PATIENCE, connect(url, queue)).await.ok()??;
    loop {
        let delivery = timeout(PATIENCE, consumer.next()).await.ok()??.ok()?;
        let id = delivery.properties.message_id().as_ref().map(ShortString::as_str);
        add(record, &delivery.data, id, delivery.redelivered);
        let acknowledging = delivery.acker.ack(BasicAckOptions::default());
        timeout(PATIENCE, acknowledging).await.ok()?.ok()?;
    }
}

fn add(record: &Mutex<Recorded>, body: &[u8], id: Option<&str>, is_redelivered: bool) {
    let announcement = announcement(body, id);
    let mut record = record.lock().unwrap();
    match announcement {
        Ok(announcement) => {
            record.announcements.push(Announcement { is_redelivered, ..announcement });
        }
        Err(unreadable) => record.unreadable.push(unreadable),
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

/// Reads a message, as far as the check needs it. `id` is that of the message.
fn announcement(body: &[u8], id: Option<&str>) -> Result<Announcement, String> {
    let unreadable = |error: &dyn fmt::Display| {
        format!("{error}: message {id:?}: {}", String::from_utf8_lossy(body))
    };
    let mut json: Value = serde_json::from_slice(body).map_err(|error| unreadable(&error))?;
    let event = Event::deserialize(&json).map_err(|error| unreadable(&error))?;
    if id != Some(&event.id) {
        return Err(unreadable(&"the message has not the id of its event"));
    }
    // A message that is published again has its time from the database, which keeps milliseconds.
    json["time"] = event.time.timestamp_millis().into();
    let Data { token, version, reason, lobby_state, lobby_timer, due_at, fired_at } = event.data;
    Ok(Announcement {
        id: event.id,
        token,
        version,
        is_reset: reason == "lobby_timer_reached",
        state: lobby_state,
        timer: Some(lobby_timer).filter(|timer| *timer != 0),
        due_at: due_at.map(|at| at.timestamp_millis()),
        fired_at: fired_at.map(|at| at.timestamp_millis()),
        is_redelivered: false,
        body: json.to_string(),
    })
}

#[test]
fn a_message_that_cannot_be_read_does_not_end_the_recording() {
    let data =
        r#"{"token": "a", "version": 5, "reason": "lobby_none", "lobbyState": 0, "lobbyTimer": 0}"#;
    let event = format!(r#"{{"id": "1", "time": "2026-11-26T19:43:42.764599Z", "data": {data}}}"#);
    let record = Mutex::default();
    add(&record, event.as_bytes(), Some("1"), true);
    add(&record, event.as_bytes(), Some("2"), false);
    add(&record, event.as_bytes(), None, false);
    add(&record, event.replace("lobbyState", "state").as_bytes(), Some("1"), false);
    add(&record, b"\xff", Some("1"), false);
    add(&record, event.replace("599Z", "Z").as_bytes(), Some("1"), false);
    let recorded = record.into_inner().unwrap();
    let redelivered: Vec<bool> =
        recorded.announcements.iter().map(|it| it.is_redelivered).collect();
    assert_eq!((redelivered, recorded.unreadable.len()), (vec![true, false], 4));
    assert_eq!(recorded.announcements[0].body, recorded.announcements[1].body);
}
