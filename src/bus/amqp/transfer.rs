//! Deliveries that go to another queue of lobbyd: dead letters, and events that wait.
//!
//! They have a connection of their own, made when it is needed: whatever the properties of a foreign
//! message make the broker do to it, nothing else is published over it.

use std::sync::Arc;

use futures_util::future::join_all;
use lapin::options::BasicPublishOptions;

use lapin::{Channel, Confirmation, Connection};
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;

use super::nodes::Uris;
use super::publisher::confirming_channel;
use super::{Broker, broker, close_connection};
use crate::bus::{BusError, Destination, Original, PUBLISH_TIMEOUT, Result, Transfer};

pub(super) struct TransferLink {
    broker: Arc<Broker>,
    connection: Mutex<Option<Arc<TransferConnection>>>,
}

/// A connection with a channel in confirm mode for each queue. Dropping it closes it.
struct TransferConnection {
    connection: Connection,
    /// Shows whether the URL has changed since.
    uris: watch::Receiver<Uris>,
    dead_letters: Mutex<Channel>,
    retry: Mutex<Channel>,
}

impl TransferLink {
    pub(super) fn new(broker: Arc<Broker>) -> Self {
        Self { broker, connection: Mutex::new(None) }
    }

    /// See [`Bus::transfer`](crate::bus::Bus::transfer).
    pub(super) async fn transfer(&self, transfers: &[Transfer<'_>]) -> Result<()> {
        let (dead_letters, waiting): (Vec<_>, Vec<_>) = transfers
            .iter()
            .partition(|transfer| matches!(transfer.destination, Destination::DeadLetters { .. }));
        let transferring = async {
            let link = self.connection().await?;
            let options = &self.broker.options;
            let sent = link.send(&link.dead_letters, &options.dead_letter_queue, &dead_letters);
            sent.await?;
            link.send(&link.retry, &options.retry_queue, &waiting).await
        };
        let transferred = timeout(PUBLISH_TIMEOUT, transferring)
            .await
            .unwrap_or(Err(BusError::TimedOut("confirm a message", PUBLISH_TIMEOUT)));
        if matches!(transferred, Ok(()) | Err(BusError::Blocked)) {
            return transferred;
        }
        let mut slot = self.connection.lock().await;
        if slot.as_ref().is_some_and(|link| link.is_blocked()) {
            // The broker takes what was sent when its alarm is over, so each further connection would
            // leave a copy.
            return Err(BusError::Blocked);
        }
        // Its state is not known, and the next connection declares a queue that is missing.
        *slot = None;
        transferred
    }

    pub(super) async fn close(&self) {
        if let Some(link) = self.connection.lock().await.take() {
            close_connection(&link.connection).await;
        }
    }

    /// The connection, opened again if it does not work.
    async fn connection(&self) -> Result<Arc<TransferConnection>> {
        let mut slot = self.connection.lock().await;
        if let Some(link) = slot.as_ref().filter(|link| link.is_of_use()) {
            return if link.is_blocked() { Err(BusError::Blocked) } else { Ok(Arc::clone(link)) };
        }
        let link = Arc::new(TransferConnection::open(&self.broker).await?);
        Ok(Arc::clone(slot.insert(link)))
    }
}

impl TransferConnection {
    async fn open(target: &Broker) -> Result<Self> {
        let (connection, uris) = target.connect("transfers", None).await?;
        let dead_letters = Mutex::new(confirming_channel(&connection).await?);
        let retry = Mutex::new(confirming_channel(&connection).await?);
        Ok(Self { connection, uris, dead_letters, retry })
    }

    fn is_blocked(&self) -> bool {
        self.connection.status().blocked()
    }

    fn is_of_use(&self) -> bool {
        self.connection.status().connected() && matches!(self.uris.has_changed(), Ok(false))
    }

    /// Stores messages in a queue, and returns when the broker has all of them.
    async fn send(
        &self,
        channel: &Mutex<Channel>,
        queue: &str,
        transfers: &[&Transfer<'_>],
    ) -> Result<()> {
        // One set at a time, so that a returned message is known to be one of them.
        let channel = channel.lock().await;
        let sending = transfers.iter().map(|transfer| send(&channel, queue, transfer));
        // All of them are waited for, so that no confirm is left for the next set.
        join_all(sending).await.into_iter().collect()
    }
}

async fn send(channel: &Channel, queue: &str, transfer: &Transfer<'_>) -> Result<()> {
    let Original::Amqp(original) = &transfer.delivery.original else {
        return Err(BusError::Refused("it was delivered by another bus".to_owned()));
    };
    let delivery = transfer.delivery;
    let properties = original.transferred(delivery.body_length, transfer.destination);
    let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let publishing =
        channel.basic_publish("".into(), queue.into(), mandatory, &delivery.body, properties);
    match publishing.await.map_err(broker)?.await.map_err(broker)? {
        Confirmation::Ack(None) => Ok(()),
        Confirmation::Ack(Some(_)) => Err(BusError::Refused(format!("there is no queue {queue}"))),
        Confirmation::Nack(_) | Confirmation::NotRequested => {
            Err(BusError::Refused(format!("queue {queue} is full or unavailable")))
        }
    }
}
