//! RabbitMQ, over AMQP 0-9-1.
//!
//! Consuming and publishing never share a connection: the broker blocks a publishing connection under a memory or disk
//! alarm, and on a blocked connection not even an acknowledgement gets through. lapin's own
//! recovery stays off, because it leaves a pending confirm without an answer for as long as the
//! broker is away. After any error a connection is dropped and the caller asks for a new one, at
//! its own pace; nothing here loops or waits without a bound.

mod consumer;
mod listener;
mod publisher;
mod topology;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use lapin::message::Delivery as LapinDelivery;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Connection, ConnectionProperties, Consumer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use self::publisher::Publisher;
use super::{Bus, BusError, Confirmation, Listener, Message, Options, Result, Subscription};

/// Bound of a connection attempt: a peer that accepts and then says nothing is no broker.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Bound of one request that the broker answers.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Bound of the goodbye, which is mere politeness.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// Seconds between heartbeats. A frozen connection is noticed after two of them; the broker's
/// documentation warns of false alarms below five.
const HEARTBEAT: u16 = 10;

const SILENCE: BusError = BusError::TimedOut("accept a connection", CONNECT_TIMEOUT);

/// What a client says first: AMQP 0-9-1.
const PROTOCOL_HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";

/// Header of a message that stands in a trace, as in HTTP: see W3C Trace Context for AMQP.
const TRACEPARENT: &str = "traceparent";

/// AMQP's code for a regular goodbye.
const REPLY_SUCCESS: u16 = 200;

/// How to reach the broker, and the names there.
pub(super) struct Broker {
    /// Whoever holds a connection watches for a change of it.
    uri: watch::Sender<AMQPUri>,
    options: Options,
    /// Whether the last attempt met a peer that accepts and says nothing.
    silent: AtomicBool,
}

impl Broker {
    /// Opens a connection and makes sure of the topology. `role` shows in the broker's list.
    async fn connect(&self, role: &str) -> Result<Connection> {
        let uri = self.uri.borrow().clone();
        self.connect_by(uri, role).await
    }

    async fn connect_by(&self, uri: AMQPUri, role: &str) -> Result<Connection> {
        if self.silent.load(Ordering::Relaxed) {
            await_first_word(&uri).await?;
        }
        let name = format!("lobbyd {role}, process {}", std::process::id());
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let connecting = Connection::connect_uri(uri, properties);
        let connected = timeout(CONNECT_TIMEOUT, connecting).await;
        self.silent.store(connected.is_err(), Ordering::Relaxed);
        let connection = connected.map_err(|_elapsed| SILENCE)?.map_err(broker)?;
        if self.options.declare {
            topology::declare(&connection, &self.options).await?;
        }
        Ok(connection)
    }
}

/// Waits until the peer answers the protocol's header at all. lapin keeps thread and socket of an
/// attempt that was given up for as long as the peer keeps silent, so a peer that did it once is
/// first asked without lapin. (Behind TLS it cannot be asked so plainly.)
async fn await_first_word(uri: &AMQPUri) -> Result<()> {
    if uri.scheme == AMQPScheme::AMQPS {
        return Ok(());
    }
    let authority = &uri.authority;
    let asking = async {
        let mut stream = TcpStream::connect((authority.host.as_str(), authority.port)).await?;
        stream.write_all(PROTOCOL_HEADER).await?;
        stream.read_u8().await
    };
    match timeout(CONNECT_TIMEOUT, asking).await {
        Ok(Ok(_first_byte)) => Ok(()),
        Ok(Err(error)) => Err(BusError::Broker(Box::new(error))),
        Err(_elapsed) => Err(SILENCE),
    }
}

fn parse(url: &str) -> Result<AMQPUri> {
    // The parser's own words may repeat the URL with its password.
    let expected =
        |_words| BusError::Url("expected amqp://user:password@host:port/vhost".to_owned());
    let mut uri: AMQPUri = url.parse().map_err(expected)?;
    uri.query.heartbeat.get_or_insert(HEARTBEAT);
    Ok(uri)
}

/// Waits for the next delivery, unless the URL changes before it comes.
async fn next_delivery(
    consumer: &mut Consumer,
    uri: &mut watch::Receiver<AMQPUri>,
) -> Result<LapinDelivery> {
    tokio::select! {
        Ok(()) = uri.changed() => Err(BusError::Reconnect),
        delivery = consumer.next() => match delivery {
            Some(delivery) => delivery.map_err(broker),
            // The queue is gone, while connection and channel may still say that all is well.
            None => Err(BusError::ConsumerEnded),
        },
    }
}

/// RabbitMQ as a [`Bus`].
pub(super) struct AmqpBus {
    broker: Arc<Broker>,
    publisher: Arc<Publisher>,
}

impl AmqpBus {
    pub(super) fn new(url: &str, options: Options) -> Result<Self> {
        let uri = watch::Sender::new(parse(url)?);
        let broker = Arc::new(Broker { uri, options, silent: AtomicBool::new(false) });
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

    async fn listen(&self) -> Result<Box<dyn Listener>> {
        Ok(Box::new(listener::AmqpListener::start(&self.broker).await?))
    }

    async fn try_url(&self, url: &str) -> Result<()> {
        let probe = self.broker.connect_by(parse(url)?, "probe").await?;
        say_goodbye(&probe).await;
        Ok(())
    }

    fn use_url(&self, url: &str) -> Result<()> {
        self.broker.uri.send_replace(parse(url)?);
        Ok(())
    }

    async fn close(&self) {
        self.publisher.close().await;
    }
}

/// Closes a connection, waiting at most a moment.
async fn say_goodbye(connection: &Connection) {
    let goodbye = connection.close(REPLY_SUCCESS, "goodbye".into());
    if timeout(GOODBYE_TIMEOUT, goodbye).await.is_err() {
        tracing::debug!("broker connection dropped without a close handshake");
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
