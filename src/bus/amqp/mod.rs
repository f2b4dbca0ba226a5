//! RabbitMQ, over AMQP 0-9-1.
//!
//! Consuming and publishing never share a connection: under a memory or disk alarm the broker blocks
//! publishing connections, and on a blocked connection not even an acknowledgement gets through.
//! lapin's own recovery stays off, because it leaves a pending publisher confirm without an answer
//! while the broker is unavailable. After any error the connection is dropped and the caller asks
//! for a new one, at its own pace; nothing here loops or waits without a bound.

mod batch;
mod consumer;
mod listener;
mod message;
mod publisher;
mod topology;
mod transfer;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Connection, ConnectionProperties, ConnectionStatus};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

pub(super) use self::message::Original;
use self::publisher::Publisher;
use self::transfer::TransferLink;
use super::{
    Bus, BusError, BusOptions, Confirmation, Listener, Message, Result, Subscription, Transfer,
};

/// Bound of a connection attempt: some peers accept a connection and then never answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Bound of one request that the broker answers.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Bound of the close handshake, which nothing depends on.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a connection is looked at that is being closed.
const CLOSE_POLL: Duration = Duration::from_millis(5);

/// Seconds between heartbeats. A frozen connection is noticed after two of them; the broker's
/// documentation warns of false alarms below five.
const HEARTBEAT: u16 = 10;

const CONNECT_TIMED_OUT: BusError = BusError::TimedOut("accept a connection", CONNECT_TIMEOUT);

/// The first bytes of a client: AMQP 0-9-1.
const PROTOCOL_HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";

/// Header with a message's trace context, as in HTTP: see W3C Trace Context for AMQP.
const TRACEPARENT: &str = "traceparent";

/// AMQP's code for a regular close.
const REPLY_SUCCESS: u16 = 200;

/// How to reach the broker, and the names there.
pub(super) struct Broker {
    /// Connections watch it for a change.
    uri: watch::Sender<AMQPUri>,
    options: BusOptions,
    /// The connections that have not ended yet.
    connections: Mutex<Vec<ConnectionStatus>>,
    /// Whether the peer accepted the last attempt and never answered.
    unresponsive: AtomicBool,
}

impl Broker {
    /// Opens a connection and declares the topology. `role` shows in the broker's list.
    async fn connect(&self, role: &str) -> Result<Connection> {
        let uri = self.uri.borrow().clone();
        self.connect_by(uri, role).await
    }

    async fn connect_by(&self, uri: AMQPUri, role: &str) -> Result<Connection> {
        if self.unresponsive.load(Ordering::Relaxed) {
            probe_handshake(&uri).await?;
        }
        let name = format!("lobbyd {role}, process {}", std::process::id());
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let connecting = Connection::connect_uri(uri, properties);
        let connected = timeout(CONNECT_TIMEOUT, connecting).await;
        self.unresponsive.store(connected.is_err(), Ordering::Relaxed);
        let connection = connected.map_err(|_elapsed| CONNECT_TIMED_OUT)?.map_err(broker)?;
        self.remember(connection.status().clone());
        if self.options.declare {
            topology::declare(&connection, &self.options).await?;
        }
        Ok(connection)
    }

    fn remember(&self, connection: ConnectionStatus) {
        let mut connections = self.connections.lock();
        connections.retain(is_open);
        connections.push(connection);
    }
}

fn is_open(connection: &ConnectionStatus) -> bool {
    !connection.closed() && !connection.errored()
}

/// Waits until the peer answers the protocol header. lapin keeps the thread and socket of an
/// abandoned attempt until the peer answers, so an unresponsive peer is first probed without lapin.
/// (Behind TLS there is no such plain probe.)
async fn probe_handshake(uri: &AMQPUri) -> Result<()> {
    if uri.scheme == AMQPScheme::AMQPS {
        return Ok(());
    }
    let authority = &uri.authority;
    let probing = async {
        let mut stream = TcpStream::connect((authority.host.as_str(), authority.port)).await?;
        stream.write_all(PROTOCOL_HEADER).await?;
        stream.read_u8().await
    };
    match timeout(CONNECT_TIMEOUT, probing).await {
        Ok(Ok(_first_byte)) => Ok(()),
        Ok(Err(error)) => Err(BusError::Broker(Box::new(error))),
        Err(_elapsed) => Err(CONNECT_TIMED_OUT),
    }
}

fn parse(url: &str) -> Result<AMQPUri> {
    // The parser's message may repeat the URL with its password.
    let expected =
        |_message| BusError::Url("expected amqp://user:password@host:port/vhost".to_owned());
    let mut uri: AMQPUri = url.parse().map_err(expected)?;
    uri.query.heartbeat.get_or_insert(HEARTBEAT);
    Ok(uri)
}

pub(super) struct AmqpBus {
    broker: Arc<Broker>,
    publisher: Publisher,
    transfers: TransferLink,
}

impl AmqpBus {
    pub(super) fn new(url: &str, options: BusOptions) -> Result<Self> {
        let uri = watch::Sender::new(parse(url)?);
        let broker = Arc::new(Broker {
            uri,
            options,
            connections: Mutex::default(),
            unresponsive: AtomicBool::new(false),
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

    async fn try_url(&self, url: &str) -> Result<()> {
        let probe = self.broker.connect_by(parse(url)?, "probe").await?;
        close_connection(&probe).await;
        Ok(())
    }

    fn use_url(&self, url: &str) -> Result<()> {
        self.broker.uri.send_replace(parse(url)?);
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
