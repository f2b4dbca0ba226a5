//! Publishing with confirms, and nothing else.

use std::sync::Arc;

use futures_util::future::join_all;
use lapin::{
    Channel, Confirmation, Connection, ConnectionProperties,
    message::Delivery,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use tokio::task::JoinSet;

use super::{BATCH, Curve, Progress, curve};

/// Channels on which lobbyd publishes.
const CHANNELS: usize = 6;

/// Publishes messages that lobbyd has published before, to the same exchange.
pub struct Publisher {
    _connection: Connection,
    channels: Vec<Channel>,
    messages: Arc<Vec<Delivery>>,
}

impl Publisher {
    pub async fn connect(url: &str, messages: Vec<Delivery>) -> Self {
        let connecting = Connection::connect(url, ConnectionProperties::default());
        let connection = connecting.await.unwrap();
        let mut channels = Vec::new();
        for _ in 0..CHANNELS {
            let channel = connection.create_channel().await.unwrap();
            channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
            channels.push(channel);
        }
        Self { _connection: connection, channels, messages: Arc::new(messages) }
    }

    pub async fn publish_one(&self) {
        publish_batch(&self.channels[0], self.messages.iter().take(1)).await;
    }

    /// Publishes so many messages, batch by batch on each channel.
    pub async fn publish(&self, number: u32) -> Curve {
        let share = usize::try_from(number).unwrap() / CHANNELS;
        let mut publishing = JoinSet::new();
        for (index, channel) in self.channels.iter().cloned().enumerate() {
            let messages = Arc::clone(&self.messages);
            publishing.spawn(async move {
                let mut progress = Progress::begin();
                let mine: Vec<usize> = (index * share..(index + 1) * share).collect();
                for batch in mine.chunks(BATCH) {
                    let batch = batch.iter().map(|place| &messages[place % messages.len()]);
                    progress.add(publish_batch(&channel, batch).await);
                }
                progress
            });
        }
        curve(publishing.join_all().await)
    }
}

async fn publish_batch<'a>(
    channel: &Channel,
    messages: impl Iterator<Item = &'a Delivery>,
) -> usize {
    let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    // All of them are on their way before the first is awaited.
    let publishing = messages.map(|message| {
        let Delivery { exchange, routing_key, data, properties, .. } = message;
        let (exchange, key) = (exchange.clone(), routing_key.clone());
        channel.basic_publish(exchange, key, mandatory, data, properties.clone())
    });
    let published = join_all(publishing).await;
    let number = published.len();
    for confirm in published {
        assert_eq!(confirm.unwrap().await.unwrap(), Confirmation::Ack(None));
    }
    number
}
