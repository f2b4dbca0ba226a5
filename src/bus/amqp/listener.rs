//! The listening connection: each API process receives every room update.

use async_trait::async_trait;
use futures_util::StreamExt;
use lapin::options::BasicConsumeOptions;
use lapin::types::{FieldTable, ShortString};

use lapin::{Channel, Connection, Consumer};
use tokio::sync::watch;

use super::nodes::Uris;
use super::{Broker, answered, broker, topology};
use crate::bus::{BusError, Listener, Result};

/// A consumer of a queue of its own, on a connection of its own: listening is never blocked, and
/// does not delay publishing.
pub(super) struct AmqpListener {
    /// Updates arrive as long as these live.
    _connection: Connection,
    _channel: Channel,
    consumer: Consumer,
    uris: watch::Receiver<Uris>,
}

impl AmqpListener {
    pub(super) async fn start(target: &Broker) -> Result<Self> {
        let (connection, uris) = target.connect("listener", None).await?;
        let channel = answered("open a channel", connection.create_channel()).await?;
        let queue = topology::declare_listener(&channel, &target.options).await?;
        // Missed updates are read from the database, so nothing has to be acknowledged.
        let unacknowledged = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let consuming = channel.basic_consume(
            queue.as_str().into(),
            ShortString::default(),
            unacknowledged,
            FieldTable::default(),
        );
        let consumer = answered("start to listen", consuming).await?;
        Ok(Self { _connection: connection, _channel: channel, consumer, uris })
    }
}

#[async_trait]
impl Listener for AmqpListener {
    async fn next(&mut self) -> Result<Vec<u8>> {
        tokio::select! {
            Ok(()) = self.uris.changed() => Err(BusError::Reconnect),
            delivery = self.consumer.next() => match delivery {
                Some(delivery) => delivery.map(|delivery| delivery.data).map_err(broker),
                // The queue is gone, while connection and channel may still appear healthy.
                None => Err(BusError::ConsumerEnded),
            },
        }
    }
}
