//! Messages as AMQP has them: what is read from a delivery, and what a transfer to another queue
//! keeps of it.

use std::collections::BTreeMap;

use chrono::DateTime;
use lapin::BasicProperties;
use lapin::message::Delivery as LapinDelivery;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::TRACEPARENT;
use super::publisher::PERSISTENT;
use crate::bus::cloudevents::MAX_BODY;
use crate::bus::{self, Delivery, DeliveryTag, Destination, EventProperties, Waited};
use crate::domain::{TraceParent, Version};

/// Header of quorum queues: how often a message was delivered before.
pub(super) const DELIVERY_COUNT: &str = "x-delivery-count";

/// Header in which RabbitMQ's interceptor says when it received a message.
const BROKER_TIMESTAMP: &str = "timestamp_in_ms";

/// Headers of an event that waits in the retry queue, all in Unix milliseconds: the time of its first
/// receipt, its order, and since when an equal event that was applied makes it a duplicate.
const FIRST_RECEIVED: &str = "lobbyd-received";
const VERSION: &str = "lobbyd-version";
const DUPLICATE_SINCE: &str = "lobbyd-duplicate-since";

/// Headers of lobbyd: the reason for a dead letter, when a worker received it (Unix milliseconds),
/// where a message was published to, and the length of a truncated body.
pub(super) const REASON: &str = "lobbyd-reason";
pub(super) const DEAD_LETTERED: &str = "lobbyd-dead-lettered";
pub(super) const EXCHANGE: &str = "lobbyd-exchange";
pub(super) const ROUTING_KEY: &str = "lobbyd-routing-key";
pub(super) const BODY_LENGTH: &str = "lobbyd-body-length";

/// Properties that are kept as headers.
const EXPIRATION: &str = "lobbyd-expiration";
const USER_ID: &str = "lobbyd-user-id";

/// Names of the headers that were not kept, because they are too large or nested too deeply.
const OMITTED: &str = "lobbyd-omitted-headers";

/// Prefixes of the headers of a `CloudEvent` in binary mode; senders over HTTP use the last two.
const BINARY_MODE: [&str; 4] = ["cloudEvents:", "cloudEvents_", "ce-", "ce_"];

/// Headers by which RabbitMQ remembers dead-lettering. They are not kept for an event that waits, nor
/// after it has waited: with them, one that was put back from the dead-letter queue would look as if
/// it went in a circle, and be dropped.
const DEATHS: [&str; 3] = ["x-death", "x-first-death-", "x-last-death-"];

/// Longest reason, and longest list of names, in bytes.
const MAX_TEXT: usize = 1000;

/// Bound of the headers that are kept, so that all properties fit into a frame of 128 KiB.
const MAX_HEADERS: usize = 96 * 1024;

/// Deepest nesting of a header that is kept.
const MAX_NESTING: usize = 64;

/// What came with a body.
#[derive(Debug)]
pub(in crate::bus) struct Original {
    exchange: ShortString,
    routing_key: ShortString,
    properties: BasicProperties,
}

/// Reads a delivery. Of a large body only the part is kept that a dead letter needs.
pub(super) fn delivery(delivery: LapinDelivery) -> Delivery {
    let LapinDelivery { delivery_tag, exchange, routing_key, redelivered, properties, .. } =
        delivery;
    let (body_length, mut body) = (delivery.data.len(), delivery.data);
    body.truncate(MAX_BODY);
    body.shrink_to_fit();
    let mut original = Original { exchange, routing_key, properties };
    let waited = original.restore();
    let properties = EventProperties { waited, redelivered, ..original.event_properties() };
    Delivery {
        tag: DeliveryTag(delivery_tag),
        body,
        body_length,
        properties,
        original: bus::Original::Amqp(Box::new(original)),
    }
}

impl Original {
    pub(super) fn new(
        exchange: ShortString,
        routing_key: ShortString,
        properties: BasicProperties,
    ) -> Self {
        Self { exchange, routing_key, properties }
    }

    pub(super) fn message_id(&self) -> Option<String> {
        self.properties.message_id().as_ref().map(ToString::to_string)
    }

    pub(super) fn content_type(&self) -> Option<String> {
        self.properties.content_type().as_ref().map(ToString::to_string)
    }

    /// The properties with these headers, and without what would change what happens to the message.
    pub(super) fn with(&self, headers: BTreeMap<ShortString, AMQPValue>) -> BasicProperties {
        without_unsafe(&self.properties).with_headers(headers.into()).with_delivery_mode(PERSISTENT)
    }

    /// Restores the names under which an event was published that has waited in the retry queue, or
    /// was put back from the dead-letter queue, and returns what was known of it. Both come by way of
    /// the default exchange, to which other programs need not publish.
    fn restore(&mut self) -> Option<Waited> {
        if !self.exchange.as_str().is_empty() {
            return None;
        }
        let name = |header| {
            let text = self.header(header)?.as_long_string()?;
            ShortString::try_new(text.to_string()).ok()
        };
        if let (Some(exchange), Some(routing_key)) = (name(EXCHANGE), name(ROUTING_KEY)) {
            (self.exchange, self.routing_key) = (exchange, routing_key);
        }
        let milliseconds = |header| self.header(header).and_then(integer);
        let time = |header| milliseconds(header).and_then(DateTime::from_timestamp_millis);
        let first_received = time(FIRST_RECEIVED)?;
        let version = milliseconds(VERSION).and_then(Version::parse);
        Some(Waited {
            first_received,
            version: version.unwrap_or_else(|| Version::of(first_received)),
            duplicate_since: time(DUPLICATE_SINCE),
        })
    }

    fn event_properties(&self) -> EventProperties {
        let properties = &self.properties;
        let text = |property: &Option<ShortString>| property.as_ref().map(ToString::to_string);
        EventProperties {
            routing_key: self.routing_key.to_string(),
            content_type: text(properties.content_type()),
            content_encoding: text(properties.content_encoding()),
            message_id: text(properties.message_id()),
            timestamp: properties.timestamp().and_then(|seconds| i64::try_from(seconds).ok()),
            broker_timestamp: self.header(BROKER_TIMESTAMP).and_then(integer),
            binary_cloudevent: self.headers().any(|(name, _value)| {
                BINARY_MODE.iter().any(|prefix| name.as_str().starts_with(prefix))
            }),
            trace: self.header(TRACEPARENT).and_then(trace),
            ..EventProperties::default()
        }
    }

    pub(super) fn header(&self, name: &str) -> Option<&AMQPValue> {
        self.properties.headers().as_ref()?.inner().get(name)
    }

    pub(super) fn headers(&self) -> impl Iterator<Item = (&ShortString, &AMQPValue)> {
        self.properties.headers().iter().flat_map(FieldTable::inner)
    }

    /// The properties of the message in another queue: all of the original, except what would change
    /// what happens to the message there. An expiry would delete it, the broker would refuse a user
    /// id, and CC would send it to further queues; these become headers.
    pub(super) fn transferred(
        &self,
        body_length: usize,
        destination: Destination<'_>,
    ) -> BasicProperties {
        let properties = &self.properties;
        let mut headers = self.kept_headers(destination);
        for (name, value) in
            [(EXPIRATION, properties.expiration()), (USER_ID, properties.user_id())]
        {
            headers.extend(value.as_ref().map(|value| (name.into(), text(value.as_str()))));
        }
        headers.insert(EXCHANGE.into(), text(self.exchange.as_str()));
        headers.insert(ROUTING_KEY.into(), text(self.routing_key.as_str()));
        match destination {
            Destination::DeadLetters { reason, received } => {
                headers.insert(REASON.into(), text(truncated(reason)));
                let received = AMQPValue::LongLongInt(received.timestamp_millis());
                headers.insert(DEAD_LETTERED.into(), received);
            }
            Destination::Retry(Waited { first_received, version, duplicate_since }) => {
                let known = [
                    (FIRST_RECEIVED, Some(first_received.timestamp_millis())),
                    (VERSION, Some(version.milliseconds())),
                    (DUPLICATE_SINCE, duplicate_since.map(|since| since.timestamp_millis())),
                ];
                headers.extend(known.into_iter().filter_map(|(name, milliseconds)| {
                    Some((name.into(), AMQPValue::LongLongInt(milliseconds?)))
                }));
            }
        }
        if body_length > MAX_BODY
            && let Ok(length) = i64::try_from(body_length)
        {
            headers.insert(BODY_LENGTH.into(), AMQPValue::LongLongInt(length));
        }
        self.with(headers)
    }

    /// The headers that are kept, largest last, as far as they fit.
    fn kept_headers(&self, destination: Destination<'_>) -> BTreeMap<ShortString, AMQPValue> {
        let has_waited =
            matches!(destination, Destination::Retry(_)) || self.header(FIRST_RECEIVED).is_some();
        let is_dropped = |name: &str| {
            [FIRST_RECEIVED, VERSION, DUPLICATE_SINCE, OMITTED, DEAD_LETTERED].contains(&name)
                || (has_waited && DEATHS.iter().any(|prefix| name.starts_with(prefix)))
        };
        let mut headers: Vec<_> = self
            .headers()
            .filter(|(name, _value)| !is_dropped(name.as_str()))
            .map(|(name, value)| (size(value, MAX_NESTING), name, value))
            .collect();
        headers.sort_by_key(|(size, ..)| *size);
        let (mut kept, mut omitted, mut total) = (BTreeMap::new(), Vec::new(), 0_usize);
        for (size, name, value) in headers {
            total = total.saturating_add(size).saturating_add(1 + name.as_str().len());
            if total <= MAX_HEADERS {
                kept.insert(renamed(name), value.clone());
            } else {
                omitted.push(name.as_str());
            }
        }
        if !omitted.is_empty() {
            kept.insert(OMITTED.into(), text(truncated(&omitted.join(" "))));
        }
        kept
    }
}

/// The properties without headers, expiry and user id.
fn without_unsafe(original: &BasicProperties) -> BasicProperties {
    type With = fn(BasicProperties, ShortString) -> BasicProperties;
    let texts: [(&Option<ShortString>, With); 8] = [
        (original.content_type(), BasicProperties::with_content_type),
        (original.content_encoding(), BasicProperties::with_content_encoding),
        (original.correlation_id(), BasicProperties::with_correlation_id),
        (original.reply_to(), BasicProperties::with_reply_to),
        (original.message_id(), BasicProperties::with_message_id),
        (original.kind(), BasicProperties::with_type),
        (original.app_id(), BasicProperties::with_app_id),
        (original.cluster_id(), BasicProperties::with_cluster_id),
    ];
    let mut kept = BasicProperties::default();
    for (value, with) in texts {
        if let Some(value) = value {
            kept = with(kept, value.clone());
        }
    }
    if let Some(priority) = original.priority() {
        kept = kept.with_priority(*priority);
    }
    if let Some(timestamp) = original.timestamp() {
        kept = kept.with_timestamp(*timestamp);
    }
    kept
}

/// Whether it says why and how a message became a dead letter.
pub(super) fn is_of_dead_letter(name: &str) -> bool {
    [REASON, DEAD_LETTERED, BODY_LENGTH, OMITTED].contains(&name)
        || DEATHS.iter().any(|prefix| name.starts_with(prefix))
}

/// The broker acts on these headers, so they are kept under other names.
pub(super) fn renamed(name: &ShortString) -> ShortString {
    match name.as_str() {
        "CC" => "lobbyd-cc".into(),
        "BCC" => "lobbyd-bcc".into(),
        _ => name.clone(),
    }
}

/// The encoded size of a value, or too much if it is nested more deeply than this.
fn size(value: &AMQPValue, nesting: usize) -> usize {
    let Some(nesting) = nesting.checked_sub(1) else { return usize::MAX };
    let sum = |sizes: &mut dyn Iterator<Item = usize>| sizes.fold(5, usize::saturating_add);
    match value {
        AMQPValue::LongString(text) => 5 + text.len(),
        AMQPValue::ByteArray(bytes) => 5 + bytes.len(),
        AMQPValue::ShortString(text) => 2 + text.as_str().len(),
        AMQPValue::FieldArray(values) => {
            sum(&mut values.as_slice().iter().map(|value| size(value, nesting)))
        }
        AMQPValue::FieldTable(table) => sum(&mut table
            .inner()
            .iter()
            .map(|(name, value)| size(value, nesting).saturating_add(1 + name.as_str().len()))),
        AMQPValue::Boolean(_)
        | AMQPValue::ShortShortInt(_)
        | AMQPValue::ShortShortUInt(_)
        | AMQPValue::ShortInt(_)
        | AMQPValue::ShortUInt(_)
        | AMQPValue::LongInt(_)
        | AMQPValue::LongUInt(_)
        | AMQPValue::LongLongInt(_)
        | AMQPValue::Float(_)
        | AMQPValue::Double(_)
        | AMQPValue::DecimalValue(_)
        | AMQPValue::Timestamp(_)
        | AMQPValue::Void => 9,
    }
}

pub(super) fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

fn truncated(text: &str) -> &str {
    let end = text.floor_char_boundary(MAX_TEXT.min(text.len()));
    text.get(..end).unwrap_or(text)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "no other type of AMQP is an integer of time")]
pub(super) fn integer(value: &AMQPValue) -> Option<i64> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn original(headers: BTreeMap<ShortString, AMQPValue>) -> Original {
        let properties = BasicProperties::default().with_headers(headers.into());
        Original { exchange: "events".into(), routing_key: "lobby.changed".into(), properties }
    }

    fn dead(reason: &str) -> Destination<'_> {
        Destination::DeadLetters { reason, received: DateTime::from_timestamp_millis(9).unwrap() }
    }

    fn headers_of(original: &Original, destination: Destination<'_>) -> FieldTable {
        let properties = original.transferred(0, destination);
        properties.headers().clone().unwrap()
    }

    #[test]
    fn headers_that_do_not_fit_into_a_frame_are_named() {
        let large = AMQPValue::LongString(vec![b'x'; MAX_HEADERS - 100].into());
        let deep = (0..MAX_NESTING)
            .fold(AMQPValue::Void, |inner, _level| AMQPValue::FieldArray(vec![inner].into()));
        let small = AMQPValue::Boolean(true);
        let table = [("a", large.clone()), ("b", large), ("deep", deep), ("small", small)];
        let original = original(table.map(|(name, value)| (name.into(), value)).into());
        let kept = headers_of(&original, dead("why"));
        assert!(kept.contains_key("small") && kept.contains_key("a"));
        assert!(!kept.contains_key("b") && !kept.contains_key("deep"));
        assert_eq!(kept.inner()[OMITTED], text("b deep"));
        assert_eq!(kept.inner()[REASON], text("why"));
        assert_eq!(kept.inner()[DEAD_LETTERED], AMQPValue::LongLongInt(9));
    }

    fn waited(duplicate_since: Option<i64>) -> Waited {
        Waited {
            first_received: DateTime::from_timestamp_millis(9).unwrap(),
            version: Version::stored(7),
            duplicate_since: duplicate_since.and_then(DateTime::from_timestamp_millis),
        }
    }

    #[test]
    fn what_is_known_of_an_event_is_kept_while_it_waits() {
        let mut message = original(BTreeMap::new());
        for expected in [waited(None), waited(Some(5)), waited(None)] {
            let properties = message.transferred(0, Destination::Retry(expected));
            message = Original { exchange: "".into(), properties, ..message };
            assert_eq!(message.restore(), Some(expected));
            assert_eq!(message.exchange.as_str(), "events");
        }
        let dead = message.transferred(0, dead(""));
        message = Original { exchange: "".into(), properties: dead, ..message };
        assert_eq!(message.restore(), None);
    }

    /// Otherwise the broker would drop an event that was put back from the dead-letter queue.
    #[test]
    fn an_event_that_waits_forgets_how_it_was_dead_lettered() {
        let headers = ["x-death", "x-first-death-queue", "x-last-death-reason", "x-other"];
        let original = original(headers.map(|name| (name.into(), AMQPValue::Void)).into());
        let kept = headers_of(&original, Destination::Retry(waited(None)));
        assert!(kept.contains_key("x-other"));
        assert!(headers[..3].iter().all(|name| !kept.contains_key(name)));
        let kept = headers_of(&original, dead(""));
        assert!(kept.contains_key("x-death"));
    }
}
