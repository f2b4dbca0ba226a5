//! The in-process bus: lobbyd without a broker.
//!
//! It ends with the process, and other processes cannot reach it: a change that waits in it when the
//! process crashes is lost, while a timer in a room's row is not. Dead letters go to the log,
//! with body and reason, because there is no queue that would outlive the process.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{Mutex, broadcast, mpsc};

use super::{
    Bus, BusError, Confirmation, Delivery, EventProperties, Listener, Message, Receipt, Result,
    Subscription, cloudevents,
};

/// Events that a listener may lag behind before it misses some.
const LISTENER_BACKLOG: usize = 1024;

/// Routing keys of lobby changes begin with this.
const LOBBY_CHANGES: &str = "lobby.changed";

#[derive(Debug)]
pub struct MemoryBus {
    queue: mpsc::UnboundedSender<Message>,
    /// One consumer at a time takes from the queue; the next one continues where it stopped.
    deliveries: Arc<Mutex<mpsc::UnboundedReceiver<Message>>>,
    listeners: broadcast::Sender<Message>,
}

impl MemoryBus {
    pub fn new() -> Self {
        let (queue, deliveries) = mpsc::unbounded_channel();
        let (listeners, _none_yet) = broadcast::channel(LISTENER_BACKLOG);
        Self { queue, deliveries: Arc::new(Mutex::new(deliveries)), listeners }
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
            queue: self.queue.clone(),
            deliveries: Arc::clone(&self.deliveries),
        }))
    }

    async fn publish(&self, messages: &[Message]) -> Result<Vec<Confirmation>> {
        for message in messages {
            if message.routing_key.starts_with(LOBBY_CHANGES) {
                self.queue.send(message.clone()).map_err(|_closed| BusError::ConsumerEnded)?;
            }
            // A bus without listeners is fine: clients read the room.
            self.listeners.send(message.clone()).ok();
        }
        Ok(vec![Confirmation::Confirmed; messages.len()])
    }

    async fn missing_queue(&self) -> Result<Option<String>> {
        Ok(None)
    }

    async fn listen(&self) -> Result<Box<dyn Listener>> {
        Ok(Box::new(MemoryListener(self.messages())))
    }

    async fn try_url(&self, url: &str) -> Result<()> {
        self.use_url(url)
    }

    fn use_url(&self, _url: &str) -> Result<()> {
        Err(BusError::Url("a bus inside the process is left only by a restart".to_owned()))
    }

    async fn close(&self) {}
}

struct MemoryListener(broadcast::Receiver<Message>);

#[async_trait]
impl Listener for MemoryListener {
    async fn next(&mut self) -> Result<Vec<u8>> {
        match self.0.recv().await {
            Ok(message) => Ok(message.body),
            Err(broadcast::error::RecvError::Lagged(_missed)) => Err(BusError::Overrun),
            Err(broadcast::error::RecvError::Closed) => Err(BusError::ConsumerEnded),
        }
    }
}

struct MemorySubscription {
    queue: mpsc::UnboundedSender<Message>,
    deliveries: Arc<Mutex<mpsc::UnboundedReceiver<Message>>>,
}

#[async_trait]
impl Subscription for MemorySubscription {
    async fn next(&mut self) -> Result<Delivery> {
        let message = self.deliveries.lock().await.recv().await.ok_or(BusError::ConsumerEnded)?;
        let receipt = MemoryReceipt { unsettled: Some((message.clone(), self.queue.clone())) };
        Ok(Delivery {
            body: message.body,
            properties: EventProperties {
                routing_key: message.routing_key,
                content_type: Some(cloudevents::CLOUDEVENTS_JSON.to_owned()),
                message_id: Some(message.id.as_str().to_owned()),
                trace: message.trace,
                ..EventProperties::default()
            },
            receipt: Box::new(receipt),
        })
    }
}

struct MemoryReceipt {
    /// The message and the queue it goes back to, until it is settled.
    unsettled: Option<(Message, mpsc::UnboundedSender<Message>)>,
}

#[async_trait]
impl Receipt for MemoryReceipt {
    async fn ack(&mut self) -> Result<()> {
        self.unsettled = None;
        Ok(())
    }

    async fn dead_letter(&self, body: &[u8], reason: &str) -> Result<()> {
        tracing::error!(
            reason,
            body = %String::from_utf8_lossy(body),
            "dead letter (the in-process bus keeps it only in this log line)"
        );
        Ok(())
    }
}

impl Drop for MemoryReceipt {
    fn drop(&mut self) {
        if let Some((message, queue)) = self.unsettled.take() {
            // The receiver is gone only together with the bus.
            queue.send(message).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::EventId;

    fn message(routing_key: &str) -> Message {
        Message {
            id: EventId::stored("0199-id".to_owned()),
            event_type: "test.v1".to_owned(),
            routing_key: routing_key.to_owned(),
            body: routing_key.as_bytes().to_vec(),
            trace: None,
        }
    }

    #[tokio::test]
    async fn an_unsettled_delivery_is_delivered_again() {
        let bus = MemoryBus::new();
        bus.publish(&[message("lobby.changed.abc")]).await.unwrap();
        drop(bus.subscribe().await.unwrap().next().await.unwrap());
        let mut again = bus.subscribe().await.unwrap().next().await.unwrap();
        assert_eq!(again.body, b"lobby.changed.abc");
        again.receipt.ack().await.unwrap();
        drop(again);
        assert!(bus.deliveries.lock().await.is_empty());
    }

    #[tokio::test]
    async fn listeners_receive_every_message() {
        let bus = MemoryBus::new();
        let mut listener = bus.listen().await.unwrap();
        bus.publish(&[message("lobby.changed.abc"), message("room.updated.abc")]).await.unwrap();
        assert_eq!(listener.next().await.unwrap(), b"lobby.changed.abc");
        assert_eq!(listener.next().await.unwrap(), b"room.updated.abc");
        for _ in 0..=LISTENER_BACKLOG {
            bus.publish(&[message("room.updated.abc")]).await.unwrap();
        }
        assert!(matches!(listener.next().await, Err(BusError::Overrun)));
    }
}
