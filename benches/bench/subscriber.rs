//! A subscriber of room updates that notes when each of them arrives.

use futures_util::StreamExt;
use lapin::{
    Connection, ConnectionProperties, Consumer,
    options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};

use super::{clock, support::cluster::TestCluster};

pub struct Subscriber {
    _connection: Connection,
    updates: Consumer,
}

pub struct Update {
    /// Unix seconds.
    pub at: f64,
    pub token: String,
}

impl Subscriber {
    /// Subscribes to the updates of these rooms; `#` stands for all rooms.
    pub async fn new<T: AsRef<str>>(cluster: &TestCluster, tokens: &[T]) -> Self {
        let connection = Connection::connect(&cluster.amqp_url, ConnectionProperties::default());
        let connection = connection.await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let own = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        let queue = channel.queue_declare("".into(), own, FieldTable::default()).await.unwrap();
        for token in tokens {
            let key = format!("room.updated.{}", token.as_ref());
            let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
            let exchange = cluster.exchange.as_str().into();
            let name = queue.name().clone();
            let binding = channel.queue_bind(name, exchange, key.into(), options, arguments);
            binding.await.unwrap();
        }
        let no_ack = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let name = queue.name().clone();
        let consuming = channel.basic_consume(name, "bench".into(), no_ack, FieldTable::default());
        Self { updates: consuming.await.unwrap(), _connection: connection }
    }

    /// The next update.
    pub async fn next(&mut self) -> Update {
        let delivery = self.updates.next().await.unwrap().unwrap();
        let at = clock::now();
        let token = delivery.routing_key.as_str().rsplit('.').next().unwrap().to_owned();
        Update { at, token }
    }
}
