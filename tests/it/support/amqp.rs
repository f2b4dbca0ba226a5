//! An AMQP client as another program would have one.
//!
//! It publishes lobby changes, records room updates in queues, and takes messages from queues. It
//! must not use the program's own AMQP code, which it tests.

use std::{collections::BTreeMap, time::Duration};

use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, PublisherConfirm,
    options::{
        BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
        QueueBindOptions, QueueDeclareOptions,
    },
    types::FieldTable,
};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{PATIENCE, eventually};

/// A connection to the broker.
pub struct Client {
    _connection: Connection,
    channel: Channel,
    exchange: String,
}

/// A message that lobbyd published.
#[derive(Debug, Clone)]
pub struct Published {
    pub routing_key: String,
    pub message_id: String,
    pub content_type: String,
    pub delivery_mode: u8,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Published {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn token(&self) -> String {
        self.json()["data"]["token"].as_str().unwrap().to_owned()
    }

    pub fn reason(&self) -> String {
        self.json()["data"]["reason"].as_str().unwrap().to_owned()
    }

    /// Whether it is about a room that was reset by its timer.
    pub fn is_reset(&self) -> bool {
        self.json()["data"]["reason"] == "lobby_timer_reached"
    }
}

impl Client {
    /// Connects as soon as the broker accepts connections.
    pub async fn connect(url: &str, exchange: &str) -> Self {
        let connection = eventually("a connection to the broker", || async {
            let connecting = Connection::connect(url, ConnectionProperties::default());
            tokio::time::timeout(Duration::from_secs(5), connecting).await.ok()?.ok()
        })
        .await;
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        Self { _connection: connection, channel, exchange: exchange.to_owned() }
    }

    /// Publishes a lobby change as plain JSON, without an envelope.
    pub async fn publish(&self, body: &Value) {
        self.publish_bytes(body.to_string().as_bytes(), "application/json").await;
    }

    pub async fn publish_bytes(&self, body: &[u8], content_type: &str) {
        let confirm = self.send("lobby.changed", body, content_type).await;
        assert_eq!(
            confirm.await.unwrap(),
            Confirmation::Ack(None),
            "the broker did not accept the event"
        );
    }

    /// Publishes a lobby change as part of a trace.
    #[cfg(feature = "otlp")]
    pub async fn publish_traced(&self, body: &Value, traceparent: &str) {
        let mut headers = FieldTable::default();
        let traceparent = lapin::types::AMQPValue::LongString(traceparent.into());
        headers.insert("traceparent".into(), traceparent);
        let properties = BasicProperties::default().with_headers(headers);
        let confirm =
            self.send_with("lobby.changed", body.to_string().as_bytes(), properties).await;
        assert_eq!(
            confirm.await.unwrap(),
            Confirmation::Ack(None),
            "the broker did not accept the event"
        );
    }

    /// Publishes a persistent, mandatory message. The caller awaits the publisher confirm.
    pub async fn send(&self, key: &str, body: &[u8], content_type: &str) -> PublisherConfirm {
        let properties = BasicProperties::default().with_content_type(content_type.into());
        self.send_with(key, body, properties).await
    }

    /// Publishes a lobby change with these properties.
    pub async fn publish_with(&self, body: &[u8], properties: BasicProperties) {
        let confirm = self.send_with("lobby.changed", body, properties).await;
        assert_eq!(confirm.await.unwrap(), Confirmation::Ack(None));
    }

    async fn send_with(
        &self,
        key: &str,
        body: &[u8],
        properties: BasicProperties,
    ) -> PublisherConfirm {
        let properties = properties.with_delivery_mode(2);
        let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        self.channel
            .basic_publish(self.exchange.as_str().into(), key.into(), mandatory, body, properties)
            .await
            .unwrap()
    }

    /// Declares a durable queue that receives every room update from now on.
    pub async fn record(&self, queue: &str) {
        self.record_keys(queue, &["room.updated.#".to_owned()]).await;
    }

    /// Declares a durable queue that receives messages with one of these routing keys.
    pub async fn record_keys(&self, queue: &str, keys: &[String]) {
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(queue.into(), durable, FieldTable::default()).await.unwrap();
        self.bind_to_topic(queue, keys).await;
    }

    /// Declares a queue on every node of a cluster that receives every room update from now on.
    pub async fn record_in_quorum_queue(&self, queue: &str) {
        self.declare_quorum_queue(queue).await;
        self.bind_to_topic(queue, &["room.updated.#".to_owned()]).await;
    }

    async fn bind_to_topic(&self, queue: &str, keys: &[String]) {
        let topic = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        self.channel
            .exchange_declare(
                self.exchange.as_str().into(),
                lapin::ExchangeKind::Topic,
                topic,
                FieldTable::default(),
            )
            .await
            .unwrap();
        for key in keys {
            let (queue, exchange) = (queue.into(), self.exchange.as_str().into());
            let options = QueueBindOptions::default();
            let arguments = FieldTable::default();
            let binding =
                self.channel.queue_bind(queue, exchange, key.as_str().into(), options, arguments);
            binding.await.unwrap();
        }
    }

    /// Declares a queue and binds it, without declaring the exchange.
    pub async fn bind_queue(&self, queue: &str, key: &str) {
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(queue.into(), durable, FieldTable::default()).await.unwrap();
        let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
        let exchange = self.exchange.as_str().into();
        let binding =
            self.channel.queue_bind(queue.into(), exchange, key.into(), options, arguments);
        binding.await.unwrap();
    }

    pub async fn delete_queue(&self, queue: &str) {
        self.channel
            .queue_delete(queue.into(), lapin::options::QueueDeleteOptions::default())
            .await
            .unwrap();
    }

    /// Declares a quorum queue without further arguments.
    pub async fn declare_quorum_queue(&self, queue: &str) {
        let mut quorum = FieldTable::default();
        quorum.insert("x-queue-type".into(), lapin::types::AMQPValue::LongString("quorum".into()));
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(queue.into(), durable, quorum).await.unwrap();
    }

    /// The number of messages in a queue that no consumer has.
    pub async fn count(&self, queue: &str) -> u32 {
        self.state(queue).await.message_count()
    }

    /// Waits until a queue has a consumer.
    pub async fn consumer_begins(&self, queue: &str) {
        eventually("a consumer", || async {
            (self.state(queue).await.consumer_count() > 0).then_some(())
        })
        .await;
    }

    /// Waits until no message of a queue is left that a consumer could have.
    pub async fn drained(&self, queue: &str) {
        eventually("an empty queue", || async { (self.count(queue).await == 0).then_some(()) })
            .await;
    }

    /// Waits until the broker knows that a queue has no consumer: what the last one had is back in
    /// the queue, and the next message is delivered to nobody.
    pub async fn consumer_ends(&self, queue: &str) {
        eventually("the end of the consumer", || async {
            (self.state(queue).await.consumer_count() == 0).then_some(())
        })
        .await;
    }

    async fn state(&self, queue: &str) -> lapin::Queue {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let asking = self.channel.queue_declare(queue.into(), passive, FieldTable::default());
        asking.await.unwrap()
    }

    /// Takes one message, with all its properties, if the queue has one.
    pub async fn take_delivery(&self, queue: &str) -> Option<lapin::message::Delivery> {
        let no_ack = BasicGetOptions { no_ack: true };
        Some(self.channel.basic_get(queue.into(), no_ack).await.unwrap()?.delivery)
    }

    /// Takes one message if the queue has one.
    pub async fn take(&self, queue: &str) -> Option<Published> {
        let no_ack = BasicGetOptions { no_ack: true };
        let got = self.channel.basic_get(queue.into(), no_ack).await.unwrap()?;
        let properties = &got.delivery.properties;
        let headers = properties.headers().iter().flat_map(FieldTable::inner);
        let text = |text: &Option<lapin::types::ShortString>| {
            text.as_ref().map(ToString::to_string).unwrap_or_default()
        };
        Some(Published {
            routing_key: got.delivery.routing_key.to_string(),
            message_id: text(properties.message_id()),
            content_type: text(properties.content_type()),
            delivery_mode: properties.delivery_mode().unwrap_or_default(),
            headers: headers
                .filter_map(|(key, value)| {
                    let text = value.as_long_string()?;
                    Some((key.to_string(), text.to_string()))
                })
                .collect(),
            body: got.delivery.data.clone(),
        })
    }

    /// Takes messages until there are `number` different ids.
    pub async fn take_ids(&self, queue: &str, number: usize) -> BTreeMap<String, Published> {
        self.take_those(queue, number, |_any| true).await
    }

    /// Takes messages until there are `number` different ids of resets.
    pub async fn take_resets(&self, queue: &str, number: usize) -> BTreeMap<String, Published> {
        self.take_those(queue, number, Published::is_reset).await
    }

    async fn take_those(
        &self,
        queue: &str,
        number: usize,
        counts: impl Fn(&Published) -> bool,
    ) -> BTreeMap<String, Published> {
        let mut seen = BTreeMap::new();
        let begin = Instant::now();
        while seen.len() < number {
            match self.take(queue).await {
                Some(message) if !counts(&message) => {}
                Some(message) => drop(seen.insert(message.message_id.clone(), message)),
                None => sleep(Duration::from_millis(20)).await,
            }
            assert!(begin.elapsed() < PATIENCE * 2, "{} of {number} messages arrived", seen.len());
        }
        seen
    }

    /// Takes messages until one is about a reset.
    pub async fn take_reset(&self, queue: &str) -> Published {
        self.take_resets(queue, 1).await.into_values().next().unwrap()
    }

    /// Takes all messages that the queue has now.
    pub async fn take_rest(&self, queue: &str) -> Vec<Published> {
        let mut rest = Vec::new();
        while let Some(message) = self.take(queue).await {
            rest.push(message);
        }
        rest
    }
}
