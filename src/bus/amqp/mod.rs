//! RabbitMQ, over AMQP 0-9-1.
//!
//! Consuming and publishing never share a connection: under a memory or disk alarm the broker blocks
//! publishing connections, and on a blocked connection not even an acknowledgement gets through.
//! lapin's own recovery stays off, because it leaves a pending publisher confirm without an answer
//! while the broker is unavailable. After any error the connection is dropped and the caller asks
//! for a new one, at its own pace; nothing here loops or waits without a bound.

mod batch;
mod consumer;
mod dead_letters;
mod listener;
mod message;
mod nodes;
mod publisher;
mod topology;
mod transfer;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_compat::Compat;
use async_trait::async_trait;
use lapin::{Connection, ConnectionStatus};
use parking_lot::Mutex;
use tokio::time::{sleep, timeout};

pub(super) use self::message::Original;
use self::nodes::{Connected, Nodes};
use self::publisher::Publisher;
use self::transfer::TransferLink;
use super::{
    Bus, BusError, BusOptions, Confirmation, DeadLetters, Listener, Message, QueueDepth, Result,
    Subscription, Transfer,
};

/// Bound of one request that the broker answers.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Bound of the close handshake, which nothing depends on.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a connection is looked at that is being closed.
const CLOSE_POLL: Duration = Duration::from_millis(5);

/// Seconds between heartbeats. A frozen connection is noticed after two of them; the broker's
/// documentation warns of false alarms below five.
const HEARTBEAT: u16 = 10;

/// Header with a message's trace context, as in HTTP: see W3C Trace Context for AMQP.
const TRACEPARENT: &str = "traceparent";

/// AMQP's code for a regular close.
const REPLY_SUCCESS: u16 = 200;

/// How to reach the broker, and the names there.
pub(super) struct Broker {
    nodes: Nodes,
    options: BusOptions,
    /// The connections that have not ended yet.
    connections: Mutex<Vec<ConnectionStatus>>,
    /// What exists with other arguments, and was logged.
    different: Mutex<BTreeSet<String>>,
}

impl Broker {
    /// Opens a connection and declares the topology. `role` shows in the broker's list.
    async fn connect(&self, role: &str, frame_max: Option<u32>) -> Result<Connected> {
        let (connection, uris) = self.nodes.connect(&connection_name(role), frame_max).await?;
        Ok((self.welcome(connection).await?, uris))
    }

    /// Remembers a new connection, and declares the topology there.
    async fn welcome(&self, connection: Connection) -> Result<Connection> {
        self.remember(connection.status().clone());
        if self.options.declare {
            for name in topology::declare(&connection, &self.options).await? {
                if self.different.lock().insert(name.clone()) {
                    tracing::warn!(
                        name,
                        "queue or exchange exists with other arguments, it is used as it is"
                    );
                }
            }
        }
        Ok(connection)
    }

    fn remember(&self, connection: ConnectionStatus) {
        let mut connections = self.connections.lock();
        connections.retain(is_open);
        connections.push(connection);
    }
}

/// The threads of lapin share a runtime that starts when it is first needed. If there is no
/// descriptor for it then, no connection can be made any longer, so it starts here.
fn start_runtime_of_lapin() {
    let started = std::thread::spawn(|| drop(Compat::new(()))).join();
    if started.is_err() {
        tracing::error!("runtime of the AMQP library could not be started, restart the process");
    }
}

fn connection_name(role: &str) -> String {
    format!("lobbyd {role}, process {}", std::process::id())
}

fn is_open(connection: &ConnectionStatus) -> bool {
    !connection.closed() && !connection.errored()
}

pub(super) struct AmqpBus {
    broker: Arc<Broker>,
    publisher: Publisher,
    transfers: TransferLink,
}

impl AmqpBus {
    pub(super) fn new(urls: &[&str], options: BusOptions) -> Result<Self> {
        start_runtime_of_lapin();
        let nodes = Nodes::new(nodes::parse(urls)?);
        let broker = Arc::new(Broker {
            nodes,
            options,
            connections: Mutex::default(),
            different: Mutex::default(),
        });
        let publisher = Publisher::new(Arc::clone(&broker));
        let transfers = TransferLink::new(Arc::clone(&broker));
        Ok(Self { broker, publisher, transfers })
    }
}

#[async_trait]
impl Bus for AmqpBus {
    async fn subscribe(&self) -> Result<Box<dyn Subscription>> {
        Ok(Box::new(consumer::AmqpSubscription::start(&self.broker).await?))
    }

    async fn publish(&self, messages: &[Message]) -> Result<Vec<Confirmation>> {
        self.publisher.publish(messages).await
    }

    async fn missing_queue(&self) -> Result<Option<String>> {
        self.publisher.missing_queue().await
    }

    async fn transfer(&self, transfers: &[Transfer<'_>]) -> Result<()> {
        self.transfers.transfer(transfers).await
    }

    async fn listen(&self) -> Result<Box<dyn Listener>> {
        Ok(Box::new(listener::AmqpListener::start(&self.broker).await?))
    }

    async fn dead_letters(&self) -> Result<Box<dyn DeadLetters>> {
        Ok(Box::new(dead_letters::AmqpDeadLetters::open(&self.broker).await?))
    }

    async fn queue_depths(&self) -> Result<Vec<QueueDepth>> {
        dead_letters::depths(&self.broker).await
    }

    async fn try_urls(&self, urls: &[&str]) -> Result<()> {
        let nodes = nodes::parse(urls)?;
        let probe = self.broker.nodes.connect_to(&nodes, &connection_name("probe"), None).await?;
        let probe = self.broker.welcome(probe).await?;
        close_connection(&probe).await;
        Ok(())
    }

    fn use_urls(&self, urls: &[&str]) -> Result<()> {
        self.broker.nodes.replace(nodes::parse(urls)?);
        Ok(())
    }

    async fn close(&self) {
        tokio::join!(self.publisher.close(), self.transfers.close());
        // The others close when they are dropped. The process waits for the handshake: otherwise the
        // broker logs that it was lost.
        let closing = async {
            while self.broker.connections.lock().iter().any(is_open) {
                sleep(CLOSE_POLL).await;
            }
        };
        timeout(CLOSE_TIMEOUT, closing).await.ok();
    }
}

/// Closes a connection, and waits for that only briefly.
async fn close_connection(connection: &Connection) {
    let closing = connection.close(REPLY_SUCCESS, "closed".into());
    if timeout(CLOSE_TIMEOUT, closing).await.is_err() {
        tracing::debug!("broker connection dropped without a close handshake");
    }
}

/// Waits for an answer of the broker, for a bounded time.
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
