//! The publishing connection: persistent, mandatory, confirmed.

use std::sync::Arc;

use futures_util::future::join_all;
use lapin::{
    BasicProperties, Channel, Connection, PublisherConfirm,
    message::BasicReturnMessage,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::AMQPValue,
};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout_at},
};

use super::{Broker, REPLY_SUCCESS, answered, broker};
use crate::{
    events::{BusError, Confirmation, Message, PUBLISH_TIMEOUT, Result, wire::CLOUDEVENTS_JSON},
    telemetry,
};

/// AMQP's delivery mode of messages that survive a restart of the broker.
const PERSISTENT: u8 = 2;

/// Header of a dead letter that says why it is one.
const REASON: &str = "lobbyd-reason";

/// Longest reason, in bytes, so that headers stay small.
const MAX_REASON: usize = 1000;

/// The publishing connection, made when it is needed.
pub(super) struct Publisher {
    broker: Arc<Broker>,
    link: Mutex<Option<Arc<Link>>>,
}

/// A connection in confirm mode. Dropping it closes it.
struct Link {
    connection: Connection,
    channel: Channel,
}

impl Publisher {
    pub(super) fn new(broker: Arc<Broker>) -> Self {
        Self { broker, link: Mutex::new(None) }
    }

    /// See [`Bus::publish`](crate::events::Bus::publish).
    pub(super) async fn publish(&self, messages: &[Message]) -> Result<Vec<Confirmation>> {
        let deadline = Instant::now() + PUBLISH_TIMEOUT;
        let link = self.link_by(deadline).await?;
        let exchange = self.broker.options.exchange.as_str();

        let mut confirms = Vec::with_capacity(messages.len());
        for message in messages {
            let properties = BasicProperties::default()
                .with_content_type(CLOUDEVENTS_JSON.into())
                .with_delivery_mode(PERSISTENT)
                .with_message_id(message.id.as_str().into())
                .with_type(message.event_type.as_str().into())
                .with_app_id("lobbyd".into());
            confirms.push(
                send(&link, deadline, exchange, &message.routing_key, &message.body, properties)
                    .await,
            );
        }
        // The broker may confirm in any order, and many at once.
        let confirmations =
            join_all(confirms.into_iter().map(|sent| confirmation(deadline, sent))).await;
        if confirmations.iter().any(|each| matches!(each, Confirmation::Unconfirmed(_))) {
            self.forget(&link).await;
        }
        Ok(confirmations)
    }

    /// Stores a dead letter, and returns when the broker has it.
    pub(super) async fn dead_letter(
        &self,
        body: &[u8],
        properties: BasicProperties,
        origin: (&str, &str),
        reason: &str,
    ) -> Result<()> {
        let deadline = Instant::now() + PUBLISH_TIMEOUT;
        let link = self.link_by(deadline).await?;
        let mut headers = properties.headers().clone().unwrap_or_default();
        let (exchange, routing_key) = origin;
        for (key, value) in [
            (REASON, cut(reason)),
            ("lobbyd-exchange", exchange),
            ("lobbyd-routing-key", routing_key),
        ] {
            headers.insert(key.into(), AMQPValue::LongString(value.into()));
        }
        let properties = properties.with_headers(headers).with_delivery_mode(PERSISTENT);
        let queue = self.broker.options.dead_letter_queue.as_str();
        let sent = send(&link, deadline, "", queue, body, properties).await;
        match confirmation(deadline, sent).await {
            Confirmation::Confirmed => Ok(()),
            Confirmation::Returned(why) => Err(BusError::NotTaken(why)),
            Confirmation::Unconfirmed(why) => {
                self.forget(&link).await;
                Err(BusError::NotTaken(why))
            }
        }
    }

    pub(super) async fn close(&self) {
        if let Some(link) = self.link.lock().await.take() {
            let goodbye = link.connection.close(REPLY_SUCCESS, "goodbye".into());
            if let Err(error) = answered("say goodbye", goodbye).await {
                tracing::debug!(%error, "broker connection was closed without a goodbye");
            }
        }
    }

    async fn link_by(&self, deadline: Instant) -> Result<Arc<Link>> {
        timeout_at(deadline, self.link()).await.unwrap_or_else(|_elapsed| Err(late("connect")))
    }

    /// The connection, made anew if there is none that works.
    async fn link(&self) -> Result<Arc<Link>> {
        let mut slot = self.link.lock().await;
        let link = match slot.as_ref().filter(|link| link.channel.status().connected()) {
            Some(link) => Arc::clone(link),
            None => Arc::clone(slot.insert(Arc::new(Link::open(&self.broker).await?))),
        };
        let blocked = link.connection.status().blocked();
        metrics::gauge!(telemetry::BLOCKED).set(i32::from(blocked));
        if blocked { Err(BusError::Blocked) } else { Ok(link) }
    }

    /// Drops a connection whose state is not known, unless it was replaced already.
    async fn forget(&self, failed: &Arc<Link>) {
        let mut slot = self.link.lock().await;
        // A blocked connection is alive, and a new one would be blocked as well.
        if !failed.connection.status().blocked()
            && slot.as_ref().is_some_and(|link| Arc::ptr_eq(link, failed))
        {
            *slot = None;
        }
    }
}

impl Link {
    async fn open(target: &Broker) -> Result<Self> {
        let connection = target.connect("publisher").await?;
        let channel = answered("open a channel", connection.create_channel()).await?;
        answered("confirm", channel.confirm_select(ConfirmSelectOptions::default())).await?;
        Ok(Self { connection, channel })
    }
}

async fn send(
    link: &Link,
    deadline: Instant,
    exchange: &str,
    routing_key: &str,
    body: &[u8],
    properties: BasicProperties,
) -> Result<PublisherConfirm> {
    let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let sending = link.channel.basic_publish(
        exchange.into(),
        routing_key.into(),
        mandatory,
        body,
        properties,
    );
    match timeout_at(deadline, sending).await {
        Ok(sent) => sent.map_err(broker),
        Err(_elapsed) => Err(late("take a message")),
    }
}

async fn confirmation(deadline: Instant, sent: Result<PublisherConfirm>) -> Confirmation {
    let answer = match sent {
        Ok(confirm) => timeout_at(deadline, confirm).await,
        Err(error) => return Confirmation::Unconfirmed(telemetry::causes(&error)),
    };
    match answer {
        Ok(Ok(lapin::Confirmation::Ack(None))) => Confirmation::Confirmed,
        // A mandatory message without a queue comes back, and is "confirmed" all the same.
        Ok(Ok(lapin::Confirmation::Ack(Some(back)) | lapin::Confirmation::Nack(Some(back)))) => {
            Confirmation::Returned(returned_because(&back))
        }
        Ok(Ok(lapin::Confirmation::Nack(None))) => {
            Confirmation::Unconfirmed("broker could not store the message".to_owned())
        }
        Ok(Ok(lapin::Confirmation::NotRequested)) => {
            Confirmation::Unconfirmed("channel is not in confirm mode".to_owned())
        }
        Ok(Err(error)) => Confirmation::Unconfirmed(error.to_string()),
        Err(_elapsed) => Confirmation::Unconfirmed(late("confirm a message").to_string()),
    }
}

fn late(action: &'static str) -> BusError {
    BusError::TimedOut(action, PUBLISH_TIMEOUT)
}

fn returned_because(back: &BasicReturnMessage) -> String {
    format!("no queue is bound for {}: {}", back.delivery.routing_key, back.reply_text)
}

fn cut(reason: &str) -> &str {
    let end = reason.floor_char_boundary(MAX_REASON.min(reason.len()));
    reason.get(..end).unwrap_or(reason)
}
