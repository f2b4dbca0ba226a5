//! The publishing connection: persistent, mandatory, confirmed.

use std::sync::Arc;

use lapin::message::BasicReturnMessage;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::uri::AMQPUri;
use lapin::{BasicProperties, Channel, Connection, PublisherConfirm};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, timeout_at};

use super::{Broker, answered, broker, close_connection};
use crate::bus::{BusError, PUBLISH_TIMEOUT, Result};

/// AMQP's delivery mode of messages that survive a restart of the broker.
pub(super) const PERSISTENT: u8 = 2;

pub(super) const NOT_STORED: &str = "broker could not store the message";

/// The publishing connection, made when it is needed.
pub(super) struct Publisher {
    pub(super) broker: Arc<Broker>,
    link: Mutex<Option<Arc<PublisherConnection>>>,
}

/// A connection with its channels in confirm mode. Dropping it closes it.
pub(super) struct PublisherConnection {
    pub(super) connection: Connection,
    /// Shows whether the URL has changed since.
    uri: watch::Receiver<AMQPUri>,
    /// Channels that no call uses. Each call takes one for itself, so that a returned message is
    /// known to be one of its own.
    pub(super) idle: parking_lot::Mutex<Vec<Channel>>,
    /// The channel to look up queues on: the broker closes it if one is missing.
    pub(super) lookups: Mutex<Option<Channel>>,
}

impl Publisher {
    pub(super) fn new(broker: Arc<Broker>) -> Self {
        Self { broker, link: Mutex::new(None) }
    }

    pub(super) async fn close(&self) {
        if let Some(link) = self.link.lock().await.take() {
            close_connection(&link.connection).await;
        }
    }

    pub(super) async fn link_by(&self, deadline: Instant) -> Result<Arc<PublisherConnection>> {
        timeout_at(deadline, self.link()).await.unwrap_or_else(|_elapsed| Err(timed_out("connect")))
    }

    /// The connection, opened again if it does not work.
    pub(super) async fn link(&self) -> Result<Arc<PublisherConnection>> {
        let mut slot = self.link.lock().await;
        let link = match slot.as_ref().filter(|link| link.is_of_use()) {
            Some(link) => Arc::clone(link),
            None => {
                Arc::clone(slot.insert(Arc::new(PublisherConnection::open(&self.broker).await?)))
            }
        };
        let blocked = link.connection.status().blocked();
        metrics::gauge!(crate::metrics::BLOCKED).set(i32::from(blocked));
        if blocked { Err(BusError::Blocked) } else { Ok(link) }
    }

    /// Drops a connection whose state is not known, unless it was replaced already.
    pub(super) async fn forget(&self, failed: &Arc<PublisherConnection>) {
        let mut slot = self.link.lock().await;
        // A blocked connection is alive, and a new one would be blocked as well.
        if !failed.connection.status().blocked()
            && slot.as_ref().is_some_and(|link| Arc::ptr_eq(link, failed))
        {
            *slot = None;
        }
    }
}

impl PublisherConnection {
    fn is_of_use(&self) -> bool {
        self.connection.status().connected() && matches!(self.uri.has_changed(), Ok(false))
    }

    /// A channel that no other call uses.
    pub(super) async fn channel(&self) -> Result<Channel> {
        let idle = self.idle.lock().pop();
        match idle {
            Some(channel) => Ok(channel),
            None => confirming_channel(&self.connection).await,
        }
    }

    async fn open(target: &Broker) -> Result<Self> {
        let uri = target.uri.subscribe();
        let connection = target.connect("publisher").await?;
        let events = confirming_channel(&connection).await?;
        Ok(Self {
            connection,
            uri,
            idle: parking_lot::Mutex::new(vec![events]),
            lookups: Mutex::default(),
        })
    }
}

pub(super) async fn confirming_channel(connection: &Connection) -> Result<Channel> {
    let channel = answered("open a channel", connection.create_channel()).await?;
    answered("confirm", channel.confirm_select(ConfirmSelectOptions::default())).await?;
    Ok(channel)
}

pub(super) async fn send(
    channel: &Channel,
    deadline: Instant,
    exchange: &str,
    routing_key: &str,
    body: &[u8],
    properties: BasicProperties,
) -> Result<PublisherConfirm> {
    let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let sending =
        channel.basic_publish(exchange.into(), routing_key.into(), mandatory, body, properties);
    match timeout_at(deadline, sending).await {
        Ok(sent) => sent.map_err(broker),
        Err(_elapsed) => Err(timed_out("accept a message")),
    }
}

/// Waits for the broker's answer; the error says why there was none.
pub(super) async fn answer(
    deadline: Instant,
    sent: Result<PublisherConfirm>,
) -> Result<lapin::Confirmation> {
    match timeout_at(deadline, sent?).await {
        Ok(answer) => answer.map_err(broker),
        Err(_elapsed) => Err(timed_out("confirm a message")),
    }
}

pub(super) fn timed_out(action: &'static str) -> BusError {
    BusError::TimedOut(action, PUBLISH_TIMEOUT)
}

pub(super) fn return_reason(returned: &BasicReturnMessage) -> String {
    format!("no queue is bound for {}: {}", returned.delivery.routing_key, returned.reply_text)
}
