//! Reads the queue of dead letters, replays and deletes them; and the depths of queues.
//!
//! Dead letters are taken without an acknowledgement. The broker puts them back in their order when
//! the channel closes, and counts a delivery of each. A quorum queue drops a message that was
//! delivered more often than its limit, which RabbitMQ 4 sets to twenty by default. So one that was
//! delivered often is replaced by a copy at the end of the queue, whose count begins again. Copies are
//! kept in memory until then; if there are too many, the queue is read once more instead, so that none is
//! missed however much there is.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use lapin::message::{BasicGetMessage, Delivery as LapinDelivery};
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::protocol::AMQPSoftError;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection};
use sha2::{Digest, Sha256};
use tokio::time::{sleep, timeout};

use super::batch::soft_error;
use super::consumer::is_unparseable;
use super::message::{self, Original};
use super::publisher::{NOT_STORED, confirming_channel, return_reason};
use super::{Broker, answered, close_connection};
use crate::bus::{
    self, BusError, DeadLetter, DeadLetters, DeliveryTag, QueueContent, QueueDepth, Result,
};

/// Headers that the broker adds to each delivery.
const OF_DELIVERY: [&str; 2] = [message::DELIVERY_COUNT, "x-acquired-count"];

/// Half of RabbitMQ's default limit: as many readers may be killed before it is reached.
const RENEWED_AFTER: i64 = 10;

/// Bound of the bodies that are kept to be renewed: those of ten thousand ordinary events.
const MAX_RENEWED_BYTES: usize = 4 * 1024 * 1024;

/// Bytes of a digest that identify a message without an id.
const ID_BYTES: usize = 6;

pub(super) struct AmqpDeadLetters {
    connection: Connection,
    channel: Channel,
    queue: String,
    /// Where events come from and go back to.
    destination: String,
    vhost: String,
    /// Those that were delivered too often, by their order.
    worn: BTreeMap<DeliveryTag, (Vec<u8>, BasicProperties)>,
    worn_bytes: usize,
    /// Whether there are more than are kept.
    has_more_worn: bool,
    /// Number of those that were taken and are not removed.
    held: u32,
}

/// Bound of the time until the broker has put back what was taken.
const RETURN_TIMEOUT: Duration = Duration::from_secs(10);

/// How often it is asked.
const RETURN_POLL: Duration = Duration::from_millis(10);

impl AmqpDeadLetters {
    /// Connects, and declares nothing: a queue that is missing is a fault to be shown.
    pub(super) async fn open(target: &Broker) -> Result<Self> {
        let (connection, uris) =
            target.nodes.connect(&super::connection_name("dead letters"), None).await?;
        target.remember(connection.status().clone());
        let channel = confirming_channel(&connection).await?;
        let vhost = uris.borrow().first().map(|uri| uri.vhost.clone()).unwrap_or_default();
        Ok(Self {
            connection,
            channel,
            queue: target.options.dead_letter_queue.clone(),
            destination: target.options.queue.clone(),
            vhost,
            worn: BTreeMap::new(),
            worn_bytes: 0,
            has_more_worn: false,
            held: 0,
        })
    }

    /// Stores a message in a queue, and waits for the broker's confirm.
    async fn store(&self, queue: &str, body: &[u8], properties: BasicProperties) -> Result<()> {
        let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let publishing = async {
            let sent =
                self.channel.basic_publish("".into(), queue.into(), mandatory, body, properties);
            sent.await?.await
        };
        match answered("confirm a message", publishing).await? {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(returned)) => Err(BusError::Refused(return_reason(&returned))),
            Confirmation::Nack(_) | Confirmation::NotRequested => {
                Err(BusError::Refused(NOT_STORED.to_owned()))
            }
        }
    }

    async fn acknowledge(&mut self, tag: DeliveryTag) -> Result<()> {
        self.worn.remove(&tag);
        self.held = self.held.saturating_sub(1);
        let DeliveryTag(number) = tag;
        let acknowledging = self.channel.basic_ack(number, BasicAckOptions::default());
        answered("accept an acknowledgement", acknowledging).await
    }

    /// Puts back what was taken. The next command finds it in its place.
    async fn put_back(&mut self) -> Result<()> {
        let channel = confirming_channel(&self.connection).await?;
        let held = std::mem::replace(&mut self.channel, channel);
        let closing = held.close(super::REPLY_SUCCESS, "read".into());
        answered("close a channel", closing).await?;
        while self.waiting().await? < self.held {
            sleep(RETURN_POLL).await;
        }
        self.held = 0;
        Ok(())
    }

    /// Replaces those that were delivered too often by copies.
    async fn renew(&mut self) -> Result<()> {
        let worn = std::mem::take(&mut self.worn);
        if !self.has_more_worn {
            for (tag, (body, properties)) in worn {
                self.store(&self.queue, &body, properties).await?;
                self.acknowledge(tag).await?;
            }
            return Ok(());
        }
        if timeout(RETURN_TIMEOUT, self.put_back()).await.is_err() {
            return Ok(());
        }
        // The whole queue: what was put back need not be at its beginning.
        for _ in 0..self.waiting().await? {
            let Some(delivery) = self.get().await? else { break };
            let letter = dead_letter(delivery);
            if let bus::Original::Amqp(original) = &letter.original
                && original.is_worn()
            {
                self.store(&self.queue, &letter.body, original.copied()).await?;
                self.acknowledge(letter.tag).await?;
            }
        }
        Ok(())
    }

    /// Takes the next message of the queue.
    async fn get(&mut self) -> Result<Option<LapinDelivery>> {
        let getting =
            self.channel.basic_get(self.queue.as_str().into(), BasicGetOptions::default());
        let got = answered("deliver a message", getting).await;
        let got = got.map_err(|error| self.failed(error))?;
        self.held += u32::from(got.is_some());
        Ok(got.map(|BasicGetMessage { delivery, .. }| delivery))
    }

    fn failed(&self, error: BusError) -> BusError {
        let BusError::Broker(source) = error else { return error };
        let cause = source.downcast_ref::<lapin::Error>();
        if cause.is_some_and(|cause| is_unparseable(cause.kind())) {
            let (queue, vhost) = (self.queue.clone(), self.vhost.clone());
            return BusError::Unparseable { queue, vhost, source };
        }
        BusError::Broker(source)
    }
}

#[async_trait]
impl DeadLetters for AmqpDeadLetters {
    async fn waiting(&mut self) -> Result<u32> {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = self.queue.as_str().into();
        let asking = self.channel.queue_declare(queue, passive, FieldTable::default());
        Ok(answered("look up a queue", asking).await?.message_count())
    }

    async fn take(&mut self) -> Result<Option<DeadLetter>> {
        let Some(delivery) = self.get().await? else { return Ok(None) };
        let letter = dead_letter(delivery);
        let bus::Original::Amqp(original) = &letter.original else { return Ok(Some(letter)) };
        if original.is_worn() {
            let bytes = self.worn_bytes.saturating_add(letter.body.len());
            if bytes <= MAX_RENEWED_BYTES {
                self.worn_bytes = bytes;
                self.worn.insert(letter.tag, (letter.body.clone(), original.copied()));
            } else {
                self.has_more_worn = true;
            }
        }
        Ok(Some(letter))
    }

    async fn replay(&mut self, letter: &DeadLetter) -> Result<()> {
        let bus::Original::Amqp(original) = &letter.original else {
            return Err(BusError::Refused("it was delivered by another bus".to_owned()));
        };
        self.store(&self.destination, &letter.body, original.replayed(letter)).await?;
        self.acknowledge(letter.tag).await
    }

    async fn delete(&mut self, letter: &DeadLetter) -> Result<()> {
        self.acknowledge(letter.tag).await
    }

    async fn close(mut self: Box<Self>) -> Result<()> {
        let renewed = self.renew().await;
        if renewed.is_ok() && self.held > 0 {
            // Otherwise the broker does it when the connection ends.
            timeout(RETURN_TIMEOUT, self.put_back()).await.ok();
        }
        // The handshake makes sure that the broker has the acknowledgements.
        close_connection(&self.connection).await;
        renewed
    }
}

impl Original {
    /// The properties of a copy, with these of its headers.
    fn with_headers(&self, is_kept: impl Fn(&str) -> bool) -> BasicProperties {
        let headers: BTreeMap<ShortString, AMQPValue> = self
            .headers()
            .filter(|(name, _value)| is_kept(name.as_str()))
            .map(|(name, value)| (message::renamed(name), value.clone()))
            .collect();
        self.with(headers)
    }

    /// The properties of a copy that takes its place.
    fn copied(&self) -> BasicProperties {
        self.with_headers(|name| !is_of_delivery(name))
    }

    /// Whether it was delivered so often that the broker may drop it soon.
    fn is_worn(&self) -> bool {
        let deliveries = self.header(message::DELIVERY_COUNT).and_then(message::integer);
        deliveries.is_some_and(|number| number >= RENEWED_AFTER)
    }

    /// The properties of an event that is applied again, which say where it was published to.
    fn replayed(&self, letter: &DeadLetter) -> BasicProperties {
        let properties =
            self.with_headers(|name| !is_of_delivery(name) && !message::is_of_dead_letter(name));
        let mut headers = properties.headers().clone().unwrap_or_default();
        headers.insert(message::EXCHANGE.into(), message::text(&letter.exchange));
        headers.insert(message::ROUTING_KEY.into(), message::text(&letter.routing_key));
        properties.with_headers(headers)
    }

    /// An entry of what RabbitMQ notes when it moves a message.
    fn death(&self, entry: &str) -> Option<&AMQPValue> {
        let deaths = self.header("x-death")?.as_array()?;
        deaths.as_slice().first()?.as_field_table()?.inner().get(entry)
    }
}

fn is_of_delivery(name: &str) -> bool {
    OF_DELIVERY.contains(&name)
}

fn dead_letter(delivery: LapinDelivery) -> DeadLetter {
    let LapinDelivery { delivery_tag, exchange, routing_key, properties, data, .. } = delivery;
    let original = Original::new(exchange, routing_key, properties);
    let text = |name| original.header(name).and_then(as_text);
    let death = |entry| original.death(entry).and_then(as_text);
    let reason = text(message::REASON).or_else(|| {
        let queue = death("queue").unwrap_or_default();
        death("reason").map(|reason| format!("moved by the broker: {reason} (queue {queue})"))
    });
    let first_key = || {
        let keys = original.death("routing-keys")?.as_array()?;
        keys.as_slice().first().and_then(as_text)
    };
    let milliseconds = original.header(message::DEAD_LETTERED).and_then(message::integer);
    let moved_at = original.death("time").and_then(message::integer);
    let since = milliseconds
        .and_then(DateTime::from_timestamp_millis)
        .or_else(|| moved_at.and_then(|seconds| DateTime::<Utc>::from_timestamp(seconds, 0)));
    let length = original.header(message::BODY_LENGTH).and_then(message::integer);
    let id = original.message_id().unwrap_or_else(|| digest(&data, &original));
    DeadLetter {
        tag: DeliveryTag(delivery_tag),
        id,
        reason,
        exchange: text(message::EXCHANGE).or_else(|| death("exchange")).unwrap_or_default(),
        routing_key: text(message::ROUTING_KEY).or_else(first_key).unwrap_or_default(),
        content_type: original.content_type(),
        since,
        body_length: length.and_then(|length| usize::try_from(length).ok()).unwrap_or(data.len()),
        body: data,
        headers: original
            .headers()
            .map(|(name, value)| (name.to_string(), as_text(value).unwrap_or_else(|| shown(value))))
            .collect(),
        original: bus::Original::Amqp(Box::new(original)),
    }
}

fn as_text(value: &AMQPValue) -> Option<String> {
    Some(String::from_utf8_lossy(value.as_long_string()?.as_bytes()).into_owned())
}

fn shown(value: &AMQPValue) -> String {
    message::integer(value).map_or_else(|| format!("{value:?}"), |number| number.to_string())
}

/// Identifies a message without an id. What the broker adds to each delivery does not count.
fn digest(body: &[u8], original: &Original) -> String {
    let mut hash = Sha256::new();
    hash.update(body);
    for (name, value) in original.headers().filter(|(name, _)| !is_of_delivery(name.as_str())) {
        hash.update(format!("{name}{value:?}"));
    }
    hash.finalize().iter().take(ID_BYTES).fold(String::new(), |mut id, byte| {
        write!(id, "{byte:02x}").expect("writing to a String does not fail");
        id
    })
}

/// Reads the depths of queues over a connection that declares nothing.
pub(super) async fn depths(target: &Broker) -> Result<Vec<QueueDepth>> {
    let options = &target.options;
    let (connection, _uris) = target.nodes.connect(&super::connection_name("status"), None).await?;
    target.remember(connection.status().clone());
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let own = [&options.queue, &options.retry_queue, &options.dead_letter_queue];
    let mut depths = Vec::new();
    for queue in own.into_iter().chain(&options.required_queues) {
        // The broker closes the channel if there is no such queue.
        let channel = answered("open a channel", connection.create_channel()).await?;
        let asking = channel.queue_declare(queue.as_str().into(), passive, FieldTable::default());
        let content = match answered("look up a queue", asking).await {
            Ok(found) => Some(QueueContent {
                messages: found.message_count(),
                consumers: found.consumer_count(),
            }),
            Err(error) => match soft_error(&error) {
                Some((AMQPSoftError::NOTFOUND, _reason)) => None,
                Some(_) | None => return Err(error),
            },
        };
        depths.push(QueueDepth { queue: queue.clone(), content });
    }
    close_connection(&connection).await;
    Ok(depths)
}
