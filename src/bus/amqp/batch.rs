//! Publishing batches of events, and looking up the queues that have to exist for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, ErrorKind};
use tokio::time::{Instant, timeout, timeout_at};

use super::publisher::{
    NOT_STORED, PERSISTENT, Publisher, PublisherConnection, all_by, return_reason, timed_out,
};
use super::{TRACEPARENT, answered, broker};
use crate::bus::cloudevents::CLOUDEVENTS_JSON;
use crate::bus::{BusError, Confirmation, Message, PUBLISH_TIMEOUT, Result};
use crate::domain::ROOM_UPDATED;
use crate::failpoints::{self, Point};
use crate::logging;

/// How often one call takes a set of messages apart over which the broker closes the channel. The
/// rest is refused then, and comes again in other sets.
const MAX_SPLITS: usize = 32;

/// Bound of the answer of a node, if there is another one.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Messages with their places in the batch.
type Numbered<'a> = Vec<(usize, &'a Message)>;

/// What a closed channel leaves.
struct ClosedChannel<'a> {
    unanswered: Numbered<'a>,
    /// No message can be published there.
    exchange_is_missing: bool,
    reason: String,
}

impl Publisher {
    /// See [`Bus::publish`](crate::bus::Bus::publish).
    pub(super) async fn publish(&self, messages: &[Message]) -> Result<Vec<Confirmation>> {
        if messages.is_empty() {
            // Nothing is claimed meanwhile, so a slow connection does no harm.
            let link = self.link().await?;
            self.probe(&link).await?;
            return Ok(Vec::new());
        }
        let deadline = Instant::now() + PUBLISH_TIMEOUT;
        let link = self.link_by(deadline).await?;
        let mut confirmations = BTreeMap::new();
        let mut sets: Vec<Numbered<'_>> = vec![messages.iter().enumerate().collect()];
        let mut splits = 0;
        while let Some(part) = sets.pop() {
            let Some(rest) = self.publish_set(&link, deadline, part, &mut confirmations).await
            else {
                continue;
            };
            let (mut first, splitting) = (rest.unanswered, !rest.exchange_is_missing);
            if splitting && first.len() > 1 && splits < MAX_SPLITS {
                splits += 1;
                let second = first.split_off(first.len() / 2);
                sets.extend([second, first]);
            } else {
                let refused = Confirmation::Refused(rest.reason);
                confirmations.extend(first.iter().map(|(place, _)| (*place, refused.clone())));
            }
        }
        if confirmations.values().any(|each| matches!(each, Confirmation::Unconfirmed(_))) {
            self.forget(&link).await;
        }
        Ok(confirmations.into_values().collect())
    }

    /// Has the node answer, if there is another one to go to: a frozen one would be noticed only
    /// after some heartbeats.
    async fn probe(&self, link: &Arc<PublisherConnection>) -> Result<()> {
        if !self.broker.nodes.are_several() {
            return Ok(());
        }
        let mut lookups = link.lookups.lock().await;
        let passive = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
        let exchange = self.broker.options.updates_exchange.as_str();
        let answering = async {
            let channel = match lookups.take() {
                Some(channel) => channel,
                None => link.connection.create_channel().await?,
            };
            let kind = lapin::ExchangeKind::Fanout;
            channel.exchange_declare(exchange.into(), kind, passive, FieldTable::default()).await?;
            lapin::Result::Ok(channel)
        };
        match timeout(PROBE_TIMEOUT, answering).await {
            Ok(Ok(channel)) => *lookups = Some(channel),
            // The node has answered, though the exchange may be missing.
            Ok(Err(_closed)) => {}
            Err(_elapsed) => {
                drop(lookups);
                self.forget(link).await;
                return Err(BusError::TimedOut("answer", PROBE_TIMEOUT));
            }
        }
        Ok(())
    }

    /// Publishes messages on a channel of their own, and adds what became of them. If the broker
    /// closes the channel over one of them, returns those without an answer.
    async fn publish_set<'a>(
        &self,
        link: &Arc<PublisherConnection>,
        deadline: Instant,
        set: Numbered<'a>,
        confirmations: &mut BTreeMap<usize, Confirmation>,
    ) -> Option<ClosedChannel<'a>> {
        let opening = timeout_at(deadline, link.channel()).await;
        let channel = match opening.unwrap_or_else(|_elapsed| Err(timed_out("open a channel"))) {
            Ok(channel) => channel,
            Err(error) => {
                let lost = Confirmation::Unconfirmed(logging::causes(&error));
                confirmations.extend(set.iter().map(|(place, _)| (*place, lost.clone())));
                return None;
            }
        };
        let sending = set.iter().map(|(_place, message)| self.send_event(&channel, message));
        let answers: Vec<_> = all_by(deadline, sending)
            .await
            .into_iter()
            .map(|answer| answer.unwrap_or_else(|| Err(timed_out("confirm a message"))))
            .collect();
        let closed = answers.iter().find_map(|answer| soft_error(answer.as_ref().err()?));
        if answers.iter().all(std::result::Result::is_ok) {
            link.idle.lock().push(channel);
        }
        let mut unanswered = Vec::new();
        let outcomes = confirmations_of(&set, answers);
        for ((place, message), confirmation) in set.into_iter().zip(outcomes) {
            if closed.is_some() && matches!(confirmation, Confirmation::Unconfirmed(_)) {
                unanswered.push((place, message));
            } else {
                confirmations.insert(place, confirmation);
            }
        }
        let (kind, reason) = closed?;
        let exchange_is_missing = kind == AMQPSoftError::NOTFOUND;
        if exchange_is_missing {
            // A new connection declares it again.
            self.forget(link).await;
        }
        Some(ClosedChannel { unanswered, exchange_is_missing, reason })
    }

    /// Publishes a message and waits for the broker's answer.
    async fn send_event(
        &self,
        channel: &Channel,
        message: &Message,
    ) -> Result<lapin::Confirmation> {
        let options = &self.broker.options;
        let exchange = if message.event_type == ROOM_UPDATED {
            &options.updates_exchange
        } else {
            &options.exchange
        };
        let (exchange, key) = (exchange.as_str().into(), message.routing_key.as_str().into());
        let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let properties = event_properties(message);
        let sent = channel.basic_publish(exchange, key, mandatory, &message.body, properties).await;
        let confirm = sent.map_err(broker)?;
        failpoints::reach(Point::AfterPublishBeforeConfirm);
        confirm.await.map_err(broker)
    }

    /// See [`Bus::missing_queue`](crate::bus::Bus::missing_queue).
    pub(super) async fn missing_queue(&self) -> Result<Option<String>> {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        for queue in &self.broker.options.required_queues {
            let link = self.link().await?;
            let mut lookups = link.lookups.lock().await;
            let channel = match lookups.take() {
                Some(channel) => channel,
                None => answered("open a channel", link.connection.create_channel()).await?,
            };
            let lookup =
                channel.queue_declare(queue.as_str().into(), passive, FieldTable::default());
            match answered("look up a queue", lookup).await {
                Ok(_found) => *lookups = Some(channel),
                Err(error) => {
                    return match soft_error(&error) {
                        Some((AMQPSoftError::NOTFOUND, _reason)) => Ok(Some(queue.clone())),
                        Some(_) | None => Err(error),
                    };
                }
            }
        }
        Ok(None)
    }
}

/// The error with which the broker closed a channel, if it did.
pub(super) fn soft_error(error: &BusError) -> Option<(AMQPSoftError, String)> {
    let BusError::Broker(cause) = error else { return None };
    let ErrorKind::ProtocolError(cause) = cause.downcast_ref::<lapin::Error>()?.kind() else {
        return None;
    };
    match cause.kind() {
        AMQPErrorKind::Soft(kind) => Some((kind.clone(), cause.get_message().to_string())),
        AMQPErrorKind::Hard(_) => None,
    }
}

fn event_properties(message: &Message) -> BasicProperties {
    let properties = BasicProperties::default()
        .with_content_type(CLOUDEVENTS_JSON.into())
        .with_delivery_mode(PERSISTENT)
        .with_message_id(message.id.as_str().into())
        .with_type(message.event_type.as_str().into())
        .with_app_id("lobbyd".into());
    let Some(trace) = message.trace else { return properties };
    let mut headers = FieldTable::default();
    headers.insert(TRACEPARENT.into(), AMQPValue::LongString(trace.to_string().into()));
    properties.with_headers(headers)
}

/// Derives the outcome of each message from the broker's answers.
///
/// A mandatory message without a queue is returned, and confirmed as well. lapin attaches the return
/// to the next confirm, which may belong to another message if the broker confirms several at once.
/// So a returned message is identified by its id.
fn confirmations_of(
    messages: &[(usize, &Message)],
    answers: Vec<Result<lapin::Confirmation>>,
) -> Vec<Confirmation> {
    let mut refused = BTreeMap::new();
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
        .map(|((_place, message), answer)| match (refused.remove(message.id.as_str()), answer) {
            (Some(reason), _) => Confirmation::Refused(reason),
            (None, Ok(lapin::Confirmation::Ack(_))) => Confirmation::Confirmed,
            (None, Ok(lapin::Confirmation::Nack(_))) => {
                Confirmation::Refused(NOT_STORED.to_owned())
            }
            (None, Ok(lapin::Confirmation::NotRequested)) => {
                Confirmation::Unconfirmed("channel is not in confirm mode".to_owned())
            }
            (None, Err(error)) => Confirmation::Unconfirmed(logging::causes(&error)),
        })
        .collect()
}
