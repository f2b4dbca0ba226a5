//! The ways in and out: lobby changes are taken in, room updates are published.
//!
//! One seam, [`Bus`], with two sides behind it: RabbitMQ (`amqp`) and the process itself
//! (`memory`). A bus moves bytes and settles deliveries. It decides nothing about them, never
//! retries and never acknowledges on its own: the loops in `worker` do.

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

/// Result of a bus method.
pub type Result<T> = std::result::Result<T, BusError>;

/// Why the bus cannot do something. All but a URL may work later, over a new connection.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The broker is not reachable, refused, or the connection was lost.
    #[error("broker unavailable")]
    Broker(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No answer in time.
    #[error("broker did not {0} within {1:?}")]
    TimedOut(&'static str, Duration),
    /// A memory or disk alarm of the broker: it takes no publications.
    #[error("broker blocked the connection: low on memory or disk")]
    Blocked,
    /// The consumer is gone though its connection may live, for example with its queue.
    #[error("broker cancelled the consumer; its queue may have been deleted")]
    ConsumerEnded,
    /// More was published than the listener took.
    #[error("update listener fell behind")]
    Overrun,
    /// The connection was given up for a new one, by another URL.
    #[error("reconnecting: the URL has changed")]
    Reconnect,
    /// A message came back, or was not taken.
    #[error("message refused by the broker: {0}")]
    NotTaken(String),
    /// The URL cannot be used.
    #[error("{0}")]
    Url(String),
}

/// What became of one published message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Confirmation {
    /// Stored by the broker.
    Confirmed,
    /// The broker did not take it: no queue is bound for it, or one is full.
    Refused(String),
    /// The answer was lost: it may have been stored, and is to be sent again.
    Unconfirmed(String),
}

/// A broker of events.
#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// Starts a consumer of lobby changes.
    async fn subscribe(&self) -> Result<Box<dyn Subscription>>;

    /// Publishes messages, in order, and waits for the confirm of each, for a bounded time.
    /// Without messages it only makes sure of the connection. An error means that none was sent.
    async fn publish(&self, messages: &[Message]) -> Result<Vec<Confirmation>>;

    /// Hears every room update, and every lobby change that is on its way to a worker, from now on.
    /// Each listener hears all of them.
    async fn listen(&self) -> Result<Box<dyn Listener>>;

    /// Looks whether this URL works.
    async fn try_url(&self, url: &str) -> Result<()>;

    /// Connects by this URL from now on. Subscriptions and listeners that are there end with
    /// [`BusError::Reconnect`]; what is being published is finished over the old connection.
    fn use_url(&self, url: &str) -> Result<()>;

    /// Says goodbye to the broker.
    async fn close(&self);
}

/// Hears what is published, without a say in it: nothing is acknowledged or kept for it.
#[async_trait]
pub trait Listener: Send {
    /// Waits for the next body. May be dropped while it waits. After an error the listener has
    /// missed something, and is of no more use.
    async fn next(&mut self) -> Result<Vec<u8>>;
}

/// A consumer. Dropping it ends it; what it delivered and was not settled is delivered again.
#[async_trait]
pub trait Subscription: Send {
    /// Waits for the next delivery. May be dropped while it waits. After an error the subscription
    /// is of no more use.
    async fn next(&mut self) -> Result<Delivery>;
}

/// An event on its way in.
pub struct Delivery {
    /// As it came; it may be anything.
    pub body: Vec<u8>,
    /// What its sender says that it is.
    pub content_type: Option<String>,
    /// Where its sender stands in a trace.
    pub trace: Option<TraceParent>,
    /// How to settle it. Dropped unsettled, the event is delivered again.
    pub receipt: Box<dyn Receipt>,
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
pub struct Options {
    /// Topic exchange of both directions.
    pub exchange: String,
    /// Queue of lobby changes.
    pub queue: String,
    /// Queue of what cannot be applied.
    pub dead_letter_queue: String,
    /// Whether to declare all three.
    pub declare: bool,
    /// Bound of unsettled deliveries.
    pub prefetch: u16,
}

/// Makes the bus that the URL names. Connects when it is first used.
pub fn connect(url: &str, options: Options) -> Result<Arc<dyn Bus>> {
    match url.split_once(':').map(|(scheme, _)| scheme) {
        Some("memory") => Ok(Arc::new(MemoryBus::new())),
        Some("amqp" | "amqps") => Ok(Arc::new(amqp::AmqpBus::new(url, options)?)),
        Some(_) | None => Err(BusError::Url("expected memory:, amqp: or amqps:".to_owned())),
    }
}
