//! The publishing connection: persistent, mandatory, confirmed.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{MaybeDone, maybe_done};
use lapin::message::BasicReturnMessage;
use lapin::options::ConfirmSelectOptions;
use lapin::{Channel, Connection};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, timeout_at};

use super::nodes::Uris;
use super::{Broker, answered, close_connection};
use crate::bus::{BusError, PUBLISH_TIMEOUT, Result};

/// AMQP's delivery mode of messages that survive a restart of the broker.
pub(super) const PERSISTENT: u8 = 2;

pub(super) const NOT_STORED: &str = "broker could not store the message";

/// Largest frame of the connection, in bytes; larger bodies are divided. lapin has buffers of 32
/// frames, which would take 8 MiB with the broker's 128 KiB.
const FRAME_MAX: u32 = 16 * 1024;

/// The publishing connection, made when it is needed.
pub(super) struct Publisher {
    pub(super) broker: Arc<Broker>,
    link: Mutex<Option<Arc<PublisherConnection>>>,
}

/// A connection with its channels in confirm mode. Dropping it closes it.
pub(super) struct PublisherConnection {
    pub(super) connection: Connection,
    /// Shows whether the URLs have changed since.
    uris: watch::Receiver<Uris>,
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
            self.broker.nodes.distrust();
        }
    }
}

impl PublisherConnection {
    fn is_of_use(&self) -> bool {
        self.connection.status().connected() && matches!(self.uris.has_changed(), Ok(false))
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
        let (connection, uris) = target.connect("publisher", Some(FRAME_MAX)).await?;
        let events = confirming_channel(&connection).await?;
        Ok(Self {
            connection,
            uris,
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

/// Awaits what a batch consists of; `None` is what is not done by the deadline.
///
/// All of it begins before the first is awaited. Otherwise each message would be written to the
/// socket by itself, by another thread, before the next one begins.
pub(super) async fn all_by<F: Future>(
    deadline: Instant,
    futures: impl Iterator<Item = F>,
) -> Vec<Option<F::Output>> {
    let mut batch: Vec<_> = futures.map(|future| Box::pin(maybe_done(future))).collect();
    poll_each(&mut batch);
    let in_order = async {
        for future in &mut batch {
            future.await;
        }
    };
    if timeout_at(deadline, in_order).await.is_err() {
        // Some may be done although an earlier one is not.
        poll_each(&mut batch);
    }
    batch.iter_mut().map(|future| future.as_mut().take_output()).collect()
}

fn poll_each<F: Future>(batch: &mut [Pin<Box<MaybeDone<F>>>]) {
    for future in batch {
        future.now_or_never();
    }
}

pub(super) fn timed_out(action: &'static str) -> BusError {
    BusError::TimedOut(action, PUBLISH_TIMEOUT)
}

pub(super) fn return_reason(returned: &BasicReturnMessage) -> String {
    format!("no queue is bound for {}: {}", returned.delivery.routing_key, returned.reply_text)
}
