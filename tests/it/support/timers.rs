//! The tasks of a worker inside the test process, with a clock that the test sets.
//!
//! The test steps the timer task, so that the rules of timers are tested on each database without
//! waiting for real time. Consumer and relay run beside it, on the in-process bus. It must not
//! change how the tasks work; that the program waits for its timers is tested in `chain`.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use lobbyd::{
    bus::{Bus, MemoryBus, cloudevents::Message},
    clock::DatabaseClock,
    domain::{EventId, LOBBY_CHANGED, ROOM_UPDATED},
    health::Health,
    relay,
    tasks::{LobbyConsumer, OutboxRelay, TaskContext, TimerTask},
    traces::Traces,
};
use serde_json::{Value, json};
use tokio::{
    sync::{broadcast, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    database::{Database, Kind},
    fixtures::{StoreFixture, at},
};

/// Timers per tick. It is small, so that a test with few rooms fills it.
pub const BATCH: u32 = 5;

pub struct TimerFixture {
    pub database: Database,
    pub timers: TimerTask,
    time: watch::Sender<DateTime<Utc>>,
    bus: Arc<MemoryBus>,
    messages: broadcast::Receiver<Message>,
    changes: u32,
    _tasks: JoinSet<()>,
}

impl TimerFixture {
    /// The clock stands at `at(0)`.
    pub async fn new(kind: Kind) -> Self {
        let StoreFixture { database, store, .. } = StoreFixture::new(kind).await;
        let (time, clock) = watch::channel(at(0));
        let bus = Arc::new(MemoryBus::new());
        let messages = bus.messages();
        let ctx = TaskContext {
            database: store,
            bus: Arc::<MemoryBus>::clone(&bus),
            clock: Arc::new(DatabaseClock::manual(clock)),
            health: Arc::new(Health::new(&[], Duration::MAX, Duration::MAX)),
            traces: Traces::default(),
        };
        let (relay, queue) = relay::channel();
        let timers = TimerTask::new(ctx.clone(), relay.clone(), BATCH);
        let consumer = LobbyConsumer::new(
            ctx.clone(),
            timers.waker(),
            relay,
            Duration::ZERO,
            Duration::from_mins(1),
        );
        let mut tasks = JoinSet::new();
        tasks.spawn(consumer.run(CancellationToken::new()));
        tasks.spawn(OutboxRelay::new(ctx, queue, BATCH).run());
        Self { database, timers, time, bus, messages, changes: 0, _tasks: tasks }
    }

    pub fn set_time(&self, time: DateTime<Utc>) {
        self.time.send_replace(time);
    }

    /// Publishes lobby changes and waits until the consumer has applied them.
    pub async fn apply(&mut self, changes: &[Value]) {
        // The consumer applies changes in their order, so it has applied all of them when the last
        // one, of a room of its own, is applied.
        self.changes += 1;
        let last = format!("last{}", self.changes);
        self.database.insert_room(&last).await;
        let changes = changes.iter().cloned().chain([json!({"token": last, "state": 1})]);
        let messages: Vec<Message> = changes.map(|change| message(&change)).collect();
        self.bus.publish(&messages).await.unwrap();
        self.database.lobby_becomes(&last, 1).await;
    }

    /// Sets the clock to `at(seconds)` and ticks until no timer is due. Returns the updates about
    /// resets that were published, ordered by their room.
    pub async fn fire_at(&mut self, seconds: i64) -> Vec<Value> {
        self.set_time(at(seconds));
        while self.timers.tick().await.unwrap().is_zero() {}
        self.database.all_published().await;
        let mut updates = Vec::new();
        while let Ok(message) = self.messages.try_recv() {
            if message.event_type == ROOM_UPDATED {
                let event: Value = serde_json::from_slice(&message.body).unwrap();
                updates.push(event["data"].clone());
            }
        }
        updates.retain(|update| update["reason"] == "lobby_timer_reached");
        updates.sort_by_key(|update| update["token"].to_string());
        updates
    }
}

/// A lobby change as another program sends it.
fn message(data: &Value) -> Message {
    let event = json!({
        "specversion": "1.0", "id": "1", "source": "test", "type": LOBBY_CHANGED, "data": data,
    });
    Message {
        id: EventId::from(uuid::Uuid::nil()),
        event_type: LOBBY_CHANGED.to_owned(),
        routing_key: "lobby.changed".to_owned(),
        body: event.to_string().into_bytes(),
        trace: None,
    }
}
