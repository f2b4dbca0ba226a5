//! The consuming connection: deliveries, and how they are settled.

use std::sync::Arc;

use async_trait::async_trait;
use lapin::message::Delivery as LapinDelivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::uri::AMQPUri;
use lapin::{Acker, BasicProperties, Channel, Connection, Consumer};
use tokio::sync::watch;

use super::publisher::Publisher;
use super::{Broker, TRACEPARENT, answered, next_delivery};
use crate::bus::{Delivery, EventProperties, Receipt, Result, Subscription};
use crate::domain::TraceParent;

/// Header in which RabbitMQ's interceptor says when it received a message.
const BROKER_TIMESTAMP: &str = "timestamp_in_ms";

/// Header with the time of the first receipt of an event that has waited in the retry queue.
const FIRST_RECEIVED: &str = "lobbyd-received";

/// Prefixes of the headers of a `CloudEvent` in binary mode; senders over HTTP use the last two.
const BINARY_MODE: [&str; 4] = ["cloudEvents:", "cloudEvents_", "ce-", "ce_"];

/// A consumer on a connection of its own. Dropping it closes the connection.
pub(super) struct AmqpSubscription {
    /// Deliveries arrive as long as these live.
    _connection: Connection,
    _channel: Channel,
    consumer: Consumer,
    uri: watch::Receiver<AMQPUri>,
    publisher: Arc<Publisher>,
}

impl AmqpSubscription {
    /// Connects and starts to consume. Dead letters go out over `publisher`.
    pub(super) async fn start(target: &Broker, publisher: Arc<Publisher>) -> Result<Self> {
        let uri = target.uri.subscribe();
        let connection = target.connect("consumer").await?;
        let channel = answered("open a channel", connection.create_channel()).await?;
        let qos = channel.basic_qos(target.options.prefetch, BasicQosOptions::default());
        answered("limit deliveries", qos).await?;
        let consumer = answered(
            "start a consumer",
            channel.basic_consume(
                target.options.queue.as_str().into(),
                ShortString::default(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            ),
        )
        .await?;
        Ok(Self { _connection: connection, _channel: channel, consumer, uri, publisher })
    }
}

#[async_trait]
impl Subscription for AmqpSubscription {
    async fn next(&mut self) -> Result<Delivery> {
        let delivery = next_delivery(&mut self.consumer, &mut self.uri).await?;
        Ok(Delivery {
            properties: event_properties(&delivery),
            body: delivery.data,
            receipt: Box::new(AmqpReceipt {
                acker: delivery.acker,
                properties: delivery.properties,
                exchange: delivery.exchange,
                routing_key: delivery.routing_key,
                publisher: Arc::clone(&self.publisher),
            }),
        })
    }
}

fn event_properties(delivery: &LapinDelivery) -> EventProperties {
    let properties = &delivery.properties;
    let text = |property: &Option<ShortString>| property.as_ref().map(ToString::to_string);
    let header = |name| properties.headers().as_ref().and_then(|all| all.inner().get(name));
    EventProperties {
        routing_key: delivery.routing_key.to_string(),
        content_type: text(properties.content_type()),
        content_encoding: text(properties.content_encoding()),
        message_id: text(properties.message_id()),
        timestamp: properties.timestamp().and_then(|seconds| i64::try_from(seconds).ok()),
        broker_timestamp: header(BROKER_TIMESTAMP).and_then(integer),
        first_received: header(FIRST_RECEIVED).and_then(integer),
        redelivered: delivery.redelivered,
        binary_cloudevent: properties.headers().iter().flat_map(FieldTable::inner).any(
            |(name, _value)| BINARY_MODE.iter().any(|prefix| name.as_str().starts_with(prefix)),
        ),
        trace: header(TRACEPARENT).and_then(trace),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "no other type of AMQP is an integer of time")]
fn integer(value: &AMQPValue) -> Option<i64> {
    match *value {
        AMQPValue::LongLongInt(number) => Some(number),
        AMQPValue::LongInt(number) => Some(number.into()),
        AMQPValue::LongUInt(number) => Some(number.into()),
        AMQPValue::Timestamp(number) => i64::try_from(number).ok(),
        _ => None,
    }
}

fn trace(value: &AMQPValue) -> Option<TraceParent> {
    TraceParent::parse(std::str::from_utf8(value.as_long_string()?.as_bytes()).ok()?)
}

struct AmqpReceipt {
    acker: Acker,
    properties: BasicProperties,
    exchange: ShortString,
    routing_key: ShortString,
    publisher: Arc<Publisher>,
}

#[async_trait]
impl Receipt for AmqpReceipt {
    async fn ack(&mut self) -> Result<()> {
        answered("accept an acknowledgement", self.acker.ack(BasicAckOptions::default()))
            .await
            .map(|_acked| ())
    }

    async fn dead_letter(&self, body: &[u8], reason: &str) -> Result<()> {
        let origin = (self.exchange.as_str(), self.routing_key.as_str());
        self.publisher.dead_letter(body, &self.properties, origin, reason).await
    }
}
