//! The publishing connection: persistent, mandatory, confirmed.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::join_all;
use lapin::message::BasicReturnMessage;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::uri::AMQPUri;
use lapin::{BasicProperties, Channel, Connection, PublisherConfirm};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, timeout_at};

use super::{Broker, TRACEPARENT, answered, broker, close_connection};
use crate::bus::cloudevents::CLOUDEVENTS_JSON;
use crate::bus::{BusError, Confirmation, Message, PUBLISH_TIMEOUT, Result};
use crate::logging;

/// AMQP's delivery mode of messages that survive a restart of the broker.
const PERSISTENT: u8 = 2;

/// Header with the reason for a dead letter.
const REASON: &str = "lobbyd-reason";

/// Longest text in a dead letter's headers, in bytes, and the most headers that are kept: together
/// they fit into a frame.
const MAX_TEXT: usize = 1000;
const MAX_HEADERS: usize = 32;

const NOT_STORED: &str = "broker could not store the message";

/// The publishing connection, made when it is needed.
pub(super) struct Publisher {
    broker: Arc<Broker>,
    link: Mutex<Option<Arc<PublisherConnection>>>,
}

/// A connection with its channels in confirm mode. Dropping it closes it.
struct PublisherConnection {
    connection: Connection,
    /// Shows whether the URL has changed since.
    uri: watch::Receiver<AMQPUri>,
    events: Channel,
    dead_letters: Mutex<Channel>,
}

impl Publisher {
    pub(super) fn new(broker: Arc<Broker>) -> Self {
        Self { broker, link: Mutex::new(None) }
    }

    /// See [`Bus::publish`](crate::bus::Bus::publish).
    pub(super) async fn publish(&self, messages: &[Message]) -> Result<Vec<Confirmation>> {
        if messages.is_empty() {
            // Nothing is claimed meanwhile, so a slow connection does no harm.
            return self.link().await.map(|_connection| Vec::new());
        }
        let deadline = Instant::now() + PUBLISH_TIMEOUT;
        let link = self.link_by(deadline).await?;
        let exchange = self.broker.options.exchange.as_str();

        let mut sent = Vec::with_capacity(messages.len());
        for message in messages {
            let mut properties = BasicProperties::default()
                .with_content_type(CLOUDEVENTS_JSON.into())
                .with_delivery_mode(PERSISTENT)
                .with_message_id(message.id.as_str().into())
                .with_type(message.event_type.as_str().into())
                .with_app_id("lobbyd".into());
            if let Some(trace) = message.trace {
                let mut headers = FieldTable::default();
                let trace = AMQPValue::LongString(trace.to_string().into());
                headers.insert(TRACEPARENT.into(), trace);
                properties = properties.with_headers(headers);
            }
            let (key, body) = (&message.routing_key, &message.body);
            sent.push(send(&link.events, deadline, exchange, key, body, properties).await);
        }
        // The broker may confirm in any order, and many at once.
        let answers = join_all(sent.into_iter().map(|sent| answer(deadline, sent))).await;
        let confirmations = confirmations(messages, answers);
        if confirmations.iter().any(|each| matches!(each, Confirmation::Unconfirmed(_))) {
            self.forget(&link).await;
        }
        Ok(confirmations)
    }

    /// Stores a dead letter, and returns when the broker has it.
    pub(super) async fn dead_letter(
        &self,
        body: &[u8],
        original: &BasicProperties,
        origin: (&str, &str),
        reason: &str,
    ) -> Result<()> {
        let link = self.link_by(Instant::now() + PUBLISH_TIMEOUT).await?;
        let properties = dead_letter_properties(original, origin, reason);
        let queue = self.broker.options.dead_letter_queue.as_str();
        // One at a time, so that a returned message is known to be this one.
        let dead_letters = link.dead_letters.lock().await;
        let deadline = Instant::now() + PUBLISH_TIMEOUT;
        let sent = send(&dead_letters, deadline, "", queue, body, properties).await;
        match answer(deadline, sent).await {
            Ok(lapin::Confirmation::Ack(None)) => Ok(()),
            Ok(lapin::Confirmation::Ack(Some(returned))) => {
                Err(BusError::Refused(return_reason(&returned)))
            }
            Ok(lapin::Confirmation::Nack(_) | lapin::Confirmation::NotRequested) => {
                Err(BusError::Refused(NOT_STORED.to_owned()))
            }
            Err(problem) => {
                self.forget(&link).await;
                Err(BusError::Refused(problem))
            }
        }
    }

    pub(super) async fn close(&self) {
        if let Some(link) = self.link.lock().await.take() {
            close_connection(&link.connection).await;
        }
    }

    async fn link_by(&self, deadline: Instant) -> Result<Arc<PublisherConnection>> {
        timeout_at(deadline, self.link()).await.unwrap_or_else(|_elapsed| Err(timed_out("connect")))
    }

    /// The connection, opened again if it does not work.
    async fn link(&self) -> Result<Arc<PublisherConnection>> {
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
    async fn forget(&self, failed: &Arc<PublisherConnection>) {
        let mut slot = self.link.lock().await;
        // A blocked connection is alive, and a new one would be blocked as well.
        if !failed.connection.status().blocked()
            && slot.as_ref().is_some_and(|link| Arc::ptr_eq(link, failed))
        {
            *slot = None;
        }
    }
}

impl PublisherConnection {
    fn is_of_use(&self) -> bool {
        self.events.status().connected() && matches!(self.uri.has_changed(), Ok(false))
    }

    async fn open(target: &Broker) -> Result<Self> {
        let uri = target.uri.subscribe();
        let connection = target.connect("publisher").await?;
        let (events, dead_letters) =
            (confirming_channel(&connection).await?, confirming_channel(&connection).await?);
        Ok(Self { connection, uri, events, dead_letters: Mutex::new(dead_letters) })
    }
}

async fn confirming_channel(connection: &Connection) -> Result<Channel> {
    let channel = answered("open a channel", connection.create_channel()).await?;
    answered("confirm", channel.confirm_select(ConfirmSelectOptions::default())).await?;
    Ok(channel)
}

async fn send(
    channel: &Channel,
    deadline: Instant,
    exchange: &str,
    routing_key: &str,
    body: &[u8],
    properties: BasicProperties,
) -> Result<PublisherConfirm> {
    let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let sending =
        channel.basic_publish(exchange.into(), routing_key.into(), mandatory, body, properties);
    match timeout_at(deadline, sending).await {
        Ok(sent) => sent.map_err(broker),
        Err(_elapsed) => Err(timed_out("accept a message")),
    }
}

/// Waits for the broker's answer; the error says why there was none.
async fn answer(
    deadline: Instant,
    sent: Result<PublisherConfirm>,
) -> std::result::Result<lapin::Confirmation, String> {
    let confirm = sent.map_err(|error| logging::causes(&error))?;
    match timeout_at(deadline, confirm).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_elapsed) => Err(timed_out("confirm a message").to_string()),
    }
}

/// Derives the outcome of each message from the broker's answers.
///
/// A mandatory message without a queue is returned, and confirmed as well. lapin attaches the return
/// to the next confirm, which may belong to another message if the broker confirms several at once.
/// So a returned message is identified by its id.
fn confirmations(
    messages: &[Message],
    answers: Vec<std::result::Result<lapin::Confirmation, String>>,
) -> Vec<Confirmation> {
    let mut refused = HashMap::new();
    for answer in answers.iter().flatten() {
        if let lapin::Confirmation::Ack(Some(returned)) | lapin::Confirmation::Nack(Some(returned)) =
            answer
            && let Some(id) = returned.delivery.properties.message_id()
        {
            refused.insert(id.to_string(), return_reason(returned));
        }
    }
    messages
        .iter()
        .zip(answers)
        .map(|(message, answer)| match (refused.remove(message.id.as_str()), answer) {
            (Some(reason), _) => Confirmation::Refused(reason),
            (None, Ok(lapin::Confirmation::Ack(_))) => Confirmation::Confirmed,
            (None, Ok(lapin::Confirmation::Nack(_))) => {
                Confirmation::Refused(NOT_STORED.to_owned())
            }
            (None, Ok(lapin::Confirmation::NotRequested)) => {
                Confirmation::Unconfirmed("channel is not in confirm mode".to_owned())
            }
            (None, Err(problem)) => Confirmation::Unconfirmed(problem),
        })
        .collect()
}

/// The properties of a dead letter. Original properties are kept if they help to repair it. An expiry
/// would delete it, the broker would refuse a user id, and CC would send it to other queues as well.
fn dead_letter_properties(
    original: &BasicProperties,
    (exchange, routing_key): (&str, &str),
    reason: &str,
) -> BasicProperties {
    let mut headers = FieldTable::default();
    for (key, value) in original.headers().iter().flat_map(FieldTable::inner) {
        let short = value.as_long_string().is_some_and(|text| text.as_bytes().len() <= MAX_TEXT);
        if short && headers.inner().len() < MAX_HEADERS {
            headers.insert(key.clone(), value.clone());
        }
    }
    for (key, value) in [
        (REASON, truncated(reason)),
        ("lobbyd-exchange", exchange),
        ("lobbyd-routing-key", routing_key),
    ] {
        headers.insert(key.into(), AMQPValue::LongString(value.into()));
    }
    let mut properties =
        BasicProperties::default().with_headers(headers).with_delivery_mode(PERSISTENT);
    if let Some(content_type) = original.content_type() {
        properties = properties.with_content_type(content_type.clone());
    }
    if let Some(message_id) = original.message_id() {
        properties = properties.with_message_id(message_id.clone());
    }
    if let Some(kind) = original.kind() {
        properties = properties.with_type(kind.clone());
    }
    properties
}

fn timed_out(action: &'static str) -> BusError {
    BusError::TimedOut(action, PUBLISH_TIMEOUT)
}

fn return_reason(returned: &BasicReturnMessage) -> String {
    format!("no queue is bound for {}: {}", returned.delivery.routing_key, returned.reply_text)
}

fn truncated(reason: &str) -> &str {
    let end = reason.floor_char_boundary(MAX_TEXT.min(reason.len()));
    reason.get(..end).unwrap_or(reason)
}
