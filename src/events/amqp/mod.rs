//! RabbitMQ, over AMQP 0-9-1.
//!
//! Two connections, always: the broker blocks a publishing connection under a memory or disk
//! alarm, and on a blocked connection not even an acknowledgement gets through. lapin's own
//! recovery stays off, because it leaves a pending confirm without an answer for as long as the
//! broker is away. After any error a connection is dropped and the caller asks for a new one, at
//! its own pace; nothing here loops or waits without a bound.

mod consumer;
mod publisher;
mod topology;

use std::{future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use lapin::{Connection, ConnectionProperties, uri::AMQPUri};
use tokio::time::timeout;

use self::publisher::Publisher;
use super::{Bus, BusError, Confirmation, Message, Options, Result, Subscription};

/// Bound of a connection attempt: a peer that accepts and then says nothing is no broker.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Bound of one request that the broker answers.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Seconds between heartbeats. A frozen connection is noticed after two of them; the broker's
/// documentation warns of false alarms below five.
const HEARTBEAT: u16 = 10;

/// AMQP's code for a regular goodbye.
const REPLY_SUCCESS: u16 = 200;

/// How to reach the broker, and the names there.
pub(super) struct Broker {
    uri: AMQPUri,
    options: Options,
}

impl Broker {
    /// Opens a connection and makes sure of the topology. `role` shows in the broker's list.
    async fn connect(&self, role: &str) -> Result<Connection> {
        let name = format!("lobbyd {role}, process {}", std::process::id());
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let connecting = Connection::connect_uri(self.uri.clone(), properties);
        let connection = match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(connected) => connected.map_err(broker)?,
            Err(_elapsed) => {
                return Err(BusError::TimedOut("accept a connection", CONNECT_TIMEOUT));
            }
        };
        if self.options.declare {
            topology::declare(&connection, &self.options).await?;
        }
        Ok(connection)
    }
}

/// RabbitMQ as a [`Bus`].
pub(super) struct AmqpBus {
    broker: Arc<Broker>,
    publisher: Arc<Publisher>,
}

impl AmqpBus {
    pub(super) fn new(url: &str, options: Options) -> Result<Self> {
        let mut uri: AMQPUri = url.parse().map_err(BusError::Url)?;
        uri.query.heartbeat.get_or_insert(HEARTBEAT);
        let broker = Arc::new(Broker { uri, options });
        let publisher = Arc::new(Publisher::new(Arc::clone(&broker)));
        Ok(Self { broker, publisher })
    }
}

#[async_trait]
impl Bus for AmqpBus {
    async fn subscribe(&self) -> Result<Box<dyn Subscription>> {
        let subscription =
            consumer::AmqpSubscription::start(&self.broker, Arc::clone(&self.publisher)).await?;
        Ok(Box::new(subscription))
    }

    async fn publish(&self, messages: &[Message]) -> Result<Vec<Confirmation>> {
        self.publisher.publish(messages).await
    }

    async fn close(&self) {
        self.publisher.close().await;
    }
}

/// Waits for an answer of the broker, but not for ever.
async fn answered<T>(
    action: &'static str,
    request: impl Future<Output = lapin::Result<T>>,
) -> Result<T> {
    match timeout(REQUEST_TIMEOUT, request).await {
        Ok(answer) => answer.map_err(broker),
        Err(_elapsed) => Err(BusError::TimedOut(action, REQUEST_TIMEOUT)),
    }
}

fn broker(error: lapin::Error) -> BusError {
    BusError::Broker(Box::new(error))
}
