//! The event bus: lobby changes are consumed, room updates are published.
//!
//! One trait, [`Bus`], with two implementations: RabbitMQ (`amqp`) and the process itself
//! (`memory`). A bus moves bytes and settles deliveries. It decides nothing about them, never
//! retries and never acknowledges on its own: `tasks` and the cache's synchronisation do.

mod amqp;
pub mod cloudevents;
mod memory;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

pub use self::cloudevents::Message;
pub use self::memory::MemoryBus;
use crate::domain::TraceParent;

/// Bound of one round of publishing, from the first message to the last confirm, a connection that
/// has to be made first included.
pub const PUBLISH_TIMEOUT: Duration = Duration::from_secs(4);

pub type Result<T> = std::result::Result<T, BusError>;

/// Why the bus cannot do something. All but a URL may work later, over a new connection.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The broker is unreachable, refused the connection, or lost it.
    #[error("broker unavailable")]
    Broker(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("broker did not {0} within {1:?}")]
    TimedOut(&'static str, Duration),
    /// The broker has a memory or disk alarm and takes no publications.
    #[error("broker blocked the connection: low on memory or disk")]
    Blocked,
    /// The consumer is gone though its connection may live, for example with its queue.
    #[error("broker cancelled the consumer; its queue may have been deleted")]
    ConsumerEnded,
    /// The listener was too slow and has missed updates.
    #[error("update listener fell behind")]
    Overrun,
    /// The connection is replaced by one to another URL.
    #[error("reconnecting: the URL has changed")]
    Reconnect,
    /// A message was returned or refused.
    #[error("message refused by the broker: {0}")]
    Refused(String),
    #[error("{0}")]
    Url(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Confirmation {
    Confirmed,
    /// The broker refused it: no queue is bound for it, or one is full.
    Refused(String),
    /// The confirm was lost: the message may be stored, and has to be published again.
    Unconfirmed(String),
}

#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// Starts a consumer of lobby changes.
    async fn subscribe(&self) -> Result<Box<dyn Subscription>>;

    /// Publishes messages, in order, and waits for the confirm of each, for a bounded time. Calls at
    /// the same time do not wait for each other. Without messages it only makes sure of the
    /// connection. An error means that none was sent.
    async fn publish(&self, messages: &[Message]) -> Result<Vec<Confirmation>>;

    /// The first of the [required queues](BusOptions::required_queues) that does not exist.
    async fn missing_queue(&self) -> Result<Option<String>>;

    /// Starts a listener. It receives every room update from now on.
    async fn listen(&self) -> Result<Box<dyn Listener>>;

    async fn try_url(&self, url: &str) -> Result<()>;

    /// Connects by this URL from now on. Existing subscriptions and listeners end with
    /// [`BusError::Reconnect`]; publications in progress finish over the old connection.
    fn use_url(&self, url: &str) -> Result<()>;

    async fn close(&self);
}

/// Receives published events without acknowledging them; the broker keeps nothing for it.
#[async_trait]
pub trait Listener: Send {
    /// Waits for the next body. May be dropped while it waits. After an error the listener has
    /// missed events and cannot be used any further.
    async fn next(&mut self) -> Result<Vec<u8>>;
}

/// A consumer. Dropping it ends it; what it delivered and was not settled is delivered again.
#[async_trait]
pub trait Subscription: Send {
    /// Waits for the next delivery. May be dropped while it waits. After an error the subscription
    /// cannot be used any further.
    async fn next(&mut self) -> Result<Delivery>;
}

pub struct Delivery {
    /// As it was received; it may be anything.
    pub body: Vec<u8>,
    pub properties: EventProperties,
    /// How to settle it. Dropped unsettled, the event is delivered again.
    pub receipt: Box<dyn Receipt>,
}

/// What comes with a body. All of it is what the sender or the broker says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventProperties {
    pub routing_key: String,
    pub content_type: Option<String>,
    /// For example gzip.
    pub content_encoding: Option<String>,
    pub message_id: Option<String>,
    /// AMQP's timestamp: Unix seconds, or milliseconds from some senders.
    pub timestamp: Option<i64>,
    /// When the broker received the message, in Unix milliseconds: RabbitMQ's `timestamp_in_ms`.
    pub broker_timestamp: Option<i64>,
    /// When a worker first received the event, in Unix milliseconds, if it has waited in the retry
    /// queue since.
    pub first_received: Option<i64>,
    /// Whether it was delivered before, and not acknowledged.
    pub redelivered: bool,
    /// Whether it has headers of a `CloudEvent` in binary mode.
    pub binary_cloudevent: bool,
    /// The sender's trace context.
    pub trace: Option<TraceParent>,
}

/// Settles one delivery.
#[async_trait]
pub trait Receipt: Send + Sync {
    /// The event's effect is durable.
    async fn ack(&mut self) -> Result<()>;

    /// The event can never be applied: stores it in the dead-letter queue with the reason, so that
    /// it can be acknowledged.
    async fn dead_letter(&self, body: &[u8], reason: &str) -> Result<()>;
}

/// How to reach the broker, and the names there.
#[derive(Debug, Clone)]
pub struct BusOptions {
    /// Topic exchange of lobby changes, and of updates for subscribers.
    pub exchange: String,
    pub queue: String,
    /// Queue of events that cannot be applied.
    pub dead_letter_queue: String,
    /// Queue of events that wait for a while.
    pub retry_queue: String,
    /// Topic exchange to which lobbyd alone publishes.
    pub updates_exchange: String,
    /// Queues without which nothing is published.
    pub required_queues: Vec<String>,
    pub declare: bool,
    /// Bound of unsettled deliveries.
    pub prefetch: u16,
}

/// Creates the bus of this URL. It connects when it is first used.
pub fn connect(url: &str, options: BusOptions) -> Result<Arc<dyn Bus>> {
    match url.split_once(':').map(|(scheme, _)| scheme) {
        Some("memory") => Ok(Arc::new(MemoryBus::new())),
        Some("amqp" | "amqps") => Ok(Arc::new(amqp::AmqpBus::new(url, options)?)),
        Some(_) | None => Err(BusError::Url("expected memory:, amqp: or amqps:".to_owned())),
    }
}
