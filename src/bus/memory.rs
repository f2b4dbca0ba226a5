//! The in-process bus: lobbyd without a broker.
//!
//! It ends with the process, and other processes cannot reach it: a change that waits in it when the
//! process crashes is lost, while a timer in a room's row is not. Dead letters go to the log,
//! with body and reason, because there is no queue that would outlive the process.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{Notify, broadcast};
use tokio::time::{Instant, sleep_until};

use super::{
    Bus, BusError, Confirmation, DeadLetters, Delivery, DeliveryTag, Destination, EventProperties,
    Listener, Message, Original, QueueDepth, Result, Subscription, Transfer, Waited, cloudevents,
};
use crate::domain::ROOM_UPDATED;

/// Events that a listener may lag behind before it misses some.
const LISTENER_BACKLOG: usize = 1024;

/// Routing keys of lobby changes begin with this.
const LOBBY_CHANGES: &str = "lobby.changed";

/// Bound of unacknowledged deliveries.
const CAPACITY: usize = 128;

/// How long an event waits before it is delivered again.
const RETRY_DELAY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct MemoryBus {
    changes: Arc<Queue>,
    listeners: broadcast::Sender<Message>,
}

/// Lobby changes that wait for the consumer. There is one at a time; the next one continues where
/// it stopped.
#[derive(Debug, Default)]
struct Queue {
    events: Mutex<Vec<Queued>>,
    /// Tells the consumer that there are new events.
    added: Notify,
}

#[derive(Debug, Clone)]
struct Queued {
    message: Message,
    waited: Option<Waited>,
    redelivered: bool,
    /// It is not delivered before.
    due: Instant,
}

impl Queue {
    fn push(&self, event: Queued) {
        self.events.lock().push(event);
        self.added.notify_one();
    }

    /// Takes events that are due, up to this number.
    fn take_due(&self, number: usize) -> Vec<Queued> {
        let now = Instant::now();
        self.events.lock().extract_if(.., |event| event.due <= now).take(number).collect()
    }

    /// Waits until there may be events that are due.
    async fn wait(&self) {
        let due = self.events.lock().iter().map(|event| event.due).min();
        tokio::select! {
            biased;
            () = self.added.notified() => {}
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
    }
}

impl MemoryBus {
    pub fn new() -> Self {
        let (listeners, _none_yet) = broadcast::channel(LISTENER_BACKLOG);
        Self { changes: Arc::default(), listeners }
    }

    /// Receives every message from now on.
    pub fn messages(&self) -> broadcast::Receiver<Message> {
        self.listeners.subscribe()
    }
}

impl Default for MemoryBus {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Bus for MemoryBus {
    async fn subscribe(&self) -> Result<Box<dyn Subscription>> {
        Ok(Box::new(MemorySubscription {
            queue: Arc::clone(&self.changes),
            last: 0,
            unacknowledged: BTreeMap::new(),
        }))
    }

    async fn publish(&self, messages: &[Message]) -> Result<Vec<Confirmation>> {
        for message in messages {
            if message.routing_key.starts_with(LOBBY_CHANGES) {
                self.changes.push(Queued {
                    message: message.clone(),
                    waited: None,
                    redelivered: false,
                    due: Instant::now(),
                });
            }
            // A bus without listeners is fine: clients read the room.
            self.listeners.send(message.clone()).ok();
        }
        Ok(vec![Confirmation::Confirmed; messages.len()])
    }

    async fn missing_queue(&self) -> Result<Option<String>> {
        Ok(None)
    }

    async fn transfer(&self, transfers: &[Transfer<'_>]) -> Result<()> {
        for Transfer { delivery, destination } in transfers {
            match (destination, &delivery.original) {
                (Destination::DeadLetters { reason, received: _ }, _) => tracing::error!(
                    reason,
                    body = %String::from_utf8_lossy(&delivery.body),
                    "dead letter (the in-process bus keeps it only in this log line)"
                ),
                (Destination::Retry(waited), Original::Memory(message)) => {
                    self.changes.push(Queued {
                        message: message.clone(),
                        waited: Some(*waited),
                        redelivered: false,
                        due: Instant::now() + RETRY_DELAY,
                    });
                }
                (Destination::Retry(_), Original::Amqp(_)) => {
                    return Err(BusError::Refused("it was delivered by another bus".to_owned()));
                }
            }
        }
        Ok(())
    }

    async fn listen(&self) -> Result<Box<dyn Listener>> {
        Ok(Box::new(MemoryListener(self.messages())))
    }

    async fn dead_letters(&self) -> Result<Box<dyn DeadLetters>> {
        Err(BusError::InProcess)
    }

    async fn queue_depths(&self) -> Result<Vec<QueueDepth>> {
        Ok(Vec::new())
    }

    async fn try_urls(&self, urls: &[&str]) -> Result<()> {
        self.use_urls(urls)
    }

    fn use_urls(&self, _urls: &[&str]) -> Result<()> {
        Err(BusError::Url("a bus inside the process is left only by a restart".to_owned()))
    }

    async fn close(&self) {}
}

struct MemoryListener(broadcast::Receiver<Message>);

#[async_trait]
impl Listener for MemoryListener {
    async fn next(&mut self) -> Result<Vec<u8>> {
        loop {
            match self.0.recv().await {
                Ok(message) if message.event_type == ROOM_UPDATED => return Ok(message.body),
                Ok(_change) => {}
                Err(broadcast::error::RecvError::Lagged(_missed)) => return Err(BusError::Overrun),
                Err(broadcast::error::RecvError::Closed) => return Err(BusError::ConsumerEnded),
            }
        }
    }
}

struct MemorySubscription {
    queue: Arc<Queue>,
    /// The last tag.
    last: u64,
    unacknowledged: BTreeMap<DeliveryTag, Queued>,
}

impl MemorySubscription {
    fn delivery(&mut self, event: Queued) -> Delivery {
        self.last += 1;
        let tag = DeliveryTag(self.last);
        let message = event.message.clone();
        let properties = EventProperties {
            routing_key: message.routing_key.clone(),
            content_type: Some(cloudevents::CLOUDEVENTS_JSON.to_owned()),
            message_id: Some(message.id.as_str().to_owned()),
            waited: event.waited,
            redelivered: event.redelivered,
            trace: message.trace,
            ..EventProperties::default()
        };
        self.unacknowledged.insert(tag, event);
        Delivery {
            tag,
            body_length: message.body.len(),
            body: message.body.clone(),
            properties,
            original: Original::Memory(message),
        }
    }
}

#[async_trait]
impl Subscription for MemorySubscription {
    async fn next(&mut self) -> Result<Vec<Delivery>> {
        loop {
            let free = CAPACITY.saturating_sub(self.unacknowledged.len());
            let events = self.queue.take_due(free);
            if !events.is_empty() {
                return Ok(events.into_iter().map(|event| self.delivery(event)).collect());
            }
            if free == 0 {
                // Only an acknowledgement makes room, and it needs the subscription.
                return pending().await;
            }
            self.queue.wait().await;
        }
    }

    async fn acknowledge(&mut self, deliveries: &[DeliveryTag]) -> Result<()> {
        self.unacknowledged.retain(|tag, _event| !deliveries.contains(tag));
        Ok(())
    }

    async fn lost(&mut self) -> BusError {
        pending().await
    }

    fn capacity(&self) -> usize {
        CAPACITY
    }
}

impl Drop for MemorySubscription {
    fn drop(&mut self) {
        for (_tag, event) in std::mem::take(&mut self.unacknowledged) {
            self.queue.push(Queued { redelivered: true, ..event });
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::domain::{EventId, Version};

    fn message(routing_key: &str) -> Message {
        Message {
            id: EventId::stored("0199-id".to_owned()),
            event_type: format!("{routing_key}.v1"),
            routing_key: routing_key.to_owned(),
            body: routing_key.as_bytes().to_vec(),
            trace: None,
        }
    }

    async fn next(subscription: &mut Box<dyn Subscription>) -> Delivery {
        let mut deliveries = subscription.next().await.unwrap();
        assert_eq!(deliveries.len(), 1);
        deliveries.remove(0)
    }

    #[tokio::test]
    async fn an_unsettled_delivery_is_delivered_again() {
        let bus = MemoryBus::new();
        bus.publish(&[message("lobby.changed.abc")]).await.unwrap();
        drop(next(&mut bus.subscribe().await.unwrap()).await);
        let mut subscription = bus.subscribe().await.unwrap();
        let again = next(&mut subscription).await;
        assert_eq!(again.body, b"lobby.changed.abc");
        assert!(again.properties.redelivered);
        subscription.acknowledge(&[again.tag]).await.unwrap();
        drop(subscription);
        assert!(bus.changes.events.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_that_waits_is_delivered_again_after_a_second() {
        let bus = MemoryBus::new();
        bus.publish(&[message("lobby.changed.abc")]).await.unwrap();
        let mut subscription = bus.subscribe().await.unwrap();
        let delivery = next(&mut subscription).await;
        let begin = Instant::now();
        let waited = Waited {
            first_received: DateTime::UNIX_EPOCH,
            version: Version::ZERO,
            duplicate_since: None,
        };
        let destination = Destination::Retry(waited);
        bus.transfer(&[Transfer { delivery: &delivery, destination }]).await.unwrap();
        subscription.acknowledge(&[delivery.tag]).await.unwrap();
        let again = next(&mut subscription).await;
        assert!(begin.elapsed() >= RETRY_DELAY);
        assert_eq!(again.properties.waited, Some(waited));
    }

    #[tokio::test]
    async fn listeners_receive_room_updates() {
        let bus = MemoryBus::new();
        let mut listener = bus.listen().await.unwrap();
        bus.publish(&[message("lobby.changed"), message("room.updated")]).await.unwrap();
        assert_eq!(listener.next().await.unwrap(), b"room.updated");
        for _ in 0..=LISTENER_BACKLOG {
            bus.publish(&[message("room.updated")]).await.unwrap();
        }
        assert!(matches!(listener.next().await, Err(BusError::Overrun)));
    }
}
