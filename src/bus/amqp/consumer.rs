//! The consuming connection: deliveries, and how they are settled.

use std::sync::Arc;

use async_trait::async_trait;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::uri::AMQPUri;
use lapin::{Acker, BasicProperties, Channel, Connection, Consumer};
use tokio::sync::watch;

use super::publisher::Publisher;
use super::{Broker, TRACEPARENT, answered, next_delivery};
use crate::bus::{Delivery, Receipt, Result, Subscription};
use crate::domain::TraceParent;

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
            content_type: delivery.properties.content_type().as_ref().map(ToString::to_string),
            trace: trace(&delivery.properties),
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

/// The sender's trace context, if there is one.
fn trace(properties: &BasicProperties) -> Option<TraceParent> {
    let value = properties.headers().as_ref()?.inner().get(TRACEPARENT)?;
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
