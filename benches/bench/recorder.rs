//! The queue of a subscriber that must not miss an update: durable, replicated, not consumed.

use futures_util::StreamExt;
use lapin::{
    Channel, Connection, ConnectionProperties,
    message::Delivery,
    options::{
        BasicCancelOptions, BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions,
        QueueDeleteOptions, QueuePurgeOptions,
    },
    types::{AMQPValue, FieldTable},
};

use super::support::cluster::TestCluster;

pub struct Recorder {
    _connection: Connection,
    channel: Channel,
    queue: String,
}

impl Recorder {
    /// Records every room update from now on. A worker must have declared the exchange.
    pub async fn new(cluster: &TestCluster) -> Self {
        Self::of_type(cluster, "quorum").await
    }

    /// Records in a queue of this type of RabbitMQ.
    pub async fn of_type(cluster: &TestCluster, queue_type: &str) -> Self {
        let connection = Connection::connect(&cluster.amqp_url, ConnectionProperties::default());
        let connection = connection.await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let queue = cluster.updates.clone();
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString(queue_type.into()));
        channel.queue_declare(queue.as_str().into(), durable, arguments).await.unwrap();
        let exchange = cluster.exchange.as_str().into();
        let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
        let name = queue.as_str().into();
        let binding =
            channel.queue_bind(name, exchange, "room.updated.#".into(), options, arguments);
        binding.await.unwrap();
        Self { _connection: connection, channel, queue }
    }

    pub async fn delete(self) {
        let options = QueueDeleteOptions::default();
        self.channel.queue_delete(self.queue.as_str().into(), options).await.unwrap();
    }

    pub async fn clear(&self) {
        let options = QueuePurgeOptions::default();
        self.channel.queue_purge(self.queue.as_str().into(), options).await.unwrap();
    }

    /// Takes so many updates, as they were published.
    pub async fn take(&self, number: usize) -> Vec<Delivery> {
        let no_ack = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let (queue, tag) = (self.queue.as_str().into(), "bench".into());
        let consuming = self.channel.basic_consume(queue, tag, no_ack, FieldTable::default());
        let consumer = consuming.await.unwrap();
        let tag = consumer.tag();
        let updates = consumer.take(number).map(Result::unwrap).collect().await;
        self.channel.basic_cancel(tag, BasicCancelOptions::default()).await.unwrap();
        updates
    }
}
