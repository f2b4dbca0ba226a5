//! The event bus: lobby changes are consumed, room updates are published.
//!
//! One trait, [`Bus`], with two implementations: RabbitMQ (`amqp`) and the process itself
//! (`memory`). A bus moves bytes, acknowledges deliveries and transfers them to other queues. It
//! decides nothing about them, never retries and never acknowledges on its own: `tasks` and the
//! cache's synchronisation do.

mod amqp;
pub mod cloudevents;
mod dead_letters;
mod memory;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

pub use self::cloudevents::Message;
pub use self::dead_letters::{DeadLetter, DeadLetters, QueueContent, QueueDepth};
pub use self::memory::MemoryBus;
use crate::domain::{TraceParent, Version};

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
    /// The broker refuses the user, or the virtual host to it, and is not asked again for a while.
    #[error("broker refuses the login: {0}")]
    LoginRefused(String),
    #[error("broker did not {0} within {1:?}")]
    TimedOut(&'static str, Duration),
    /// The broker has a memory or disk alarm and takes no publications.
    #[error("broker blocked the connection: low on memory or disk")]
    Blocked,
    /// The consumer is gone though its connection may live, for example with its queue.
    #[error("broker cancelled the consumer; its queue may have been deleted")]
    ConsumerEnded,
    /// The broker sent what is not AMQP as the client library knows it. The connection is lost, and
    /// the same message may come first over the next one.
    #[error("a message in queue {queue} cannot be parsed")]
    Unparseable { queue: String, vhost: String, source: Box<dyn std::error::Error + Send + Sync> },
    /// The listener was too slow and has missed updates.
    #[error("update listener fell behind")]
    Overrun,
    /// The connection is replaced by one to other URLs, or to another node.
    #[error("reconnecting: another URL or node is used")]
    Reconnect,
    #[error("the bus inside one process keeps no dead letters, they are in its log")]
    InProcess,
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

    /// Stores deliveries in other queues, so that they can be acknowledged. An error means that
    /// some of them may not be stored.
    async fn transfer(&self, transfers: &[Transfer<'_>]) -> Result<()>;

    /// Starts a listener. It receives every room update from now on.
    async fn listen(&self) -> Result<Box<dyn Listener>>;

    /// Opens the queue of events that could not be applied.
    async fn dead_letters(&self) -> Result<Box<dyn DeadLetters>>;

    /// How many messages the queues of lobbyd and the required ones hold. Declares nothing.
    async fn queue_depths(&self) -> Result<Vec<QueueDepth>>;

    /// Checks whether one of these URLs can be used.
    async fn try_urls(&self, urls: &[&str]) -> Result<()>;

    /// Connects by these URLs from now on. Existing subscriptions and listeners end with
    /// [`BusError::Reconnect`]; publications in progress finish over the old connection.
    fn use_urls(&self, urls: &[&str]) -> Result<()>;

    async fn close(&self);
}

/// Receives published events without acknowledging them; the broker keeps nothing for it.
#[async_trait]
pub trait Listener: Send {
    /// Waits for the next body. May be dropped while it waits. After an error the listener has
    /// missed events and cannot be used any further.
    async fn next(&mut self) -> Result<Vec<u8>>;
}

/// A consumer. Dropping it ends it; what it delivered and was not acknowledged is delivered again.
#[async_trait]
pub trait Subscription: Send {
    /// Waits for a delivery, and returns it with those that have arrived as well. May be dropped
    /// while it waits. After an error the subscription cannot be used any further.
    async fn next(&mut self) -> Result<Vec<Delivery>>;

    /// Acknowledges deliveries: what follows from them is durable.
    async fn acknowledge(&mut self, deliveries: &[DeliveryTag]) -> Result<()>;

    /// Waits until the subscription cannot be used any further. May be dropped while it waits.
    async fn lost(&mut self) -> BusError;

    /// How many deliveries may be unacknowledged without stopping further ones.
    fn capacity(&self) -> usize;
}

/// Names a delivery of a subscription. It grows with each delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeliveryTag(u64);

#[derive(Debug)]
pub struct Delivery {
    pub tag: DeliveryTag,
    /// As it was received; it may be anything. Of a larger body, the first
    /// [`MAX_BODY`](cloudevents::MAX_BODY) bytes.
    pub body: Vec<u8>,
    /// Length of the body as it was received.
    pub body_length: usize,
    pub properties: EventProperties,
    /// All that came with the body, for a transfer.
    original: Original,
}

/// A message as its bus knows it.
#[derive(Debug)]
enum Original {
    Memory(Message),
    Amqp(Box<amqp::Original>),
}

/// A delivery that goes to another queue.
#[derive(Debug)]
pub struct Transfer<'a> {
    pub delivery: &'a Delivery,
    pub destination: Destination<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination<'a> {
    /// The event can never be applied, for this reason. A worker first received it at that time.
    DeadLetters { reason: &'a str, received: DateTime<Utc> },
    /// The event comes back after a second.
    Retry(Waited),
}

/// What was known of an event before it waited in the retry queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waited {
    /// When a worker first received it.
    pub first_received: DateTime<Utc>,
    /// Its order among the changes of its room.
    pub version: Version,
    /// See [`DeliveryIdentity`](crate::domain::DeliveryIdentity).
    pub duplicate_since: Option<DateTime<Utc>>,
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
    /// If it has waited in the retry queue.
    pub waited: Option<Waited>,
    /// Whether it was delivered before, and not acknowledged.
    pub redelivered: bool,
    /// Whether it has headers of a `CloudEvent` in binary mode.
    pub binary_cloudevent: bool,
    /// The sender's trace context.
    pub trace: Option<TraceParent>,
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

/// Creates the bus of these URLs, which are tried in turn. It connects when it is first used.
pub fn connect(urls: &[&str], options: BusOptions) -> Result<Arc<dyn Bus>> {
    let is_amqp = |url: &&str| url.starts_with("amqp:") || url.starts_with("amqps:");
    match urls {
        [url] if url.starts_with("memory:") => Ok(Arc::new(MemoryBus::new())),
        urls if !urls.is_empty() && urls.iter().all(is_amqp) => {
            Ok(Arc::new(amqp::AmqpBus::new(urls, options)?))
        }
        _other => Err(BusError::Url("expected memory:, amqp: or amqps:".to_owned())),
    }
}
