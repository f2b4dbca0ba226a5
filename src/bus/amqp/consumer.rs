//! The consuming connection: deliveries, and their acknowledgements.
//!
//! A message that ends the connection or the process is delivered again first, and each delivery
//! counts for all messages that were unacknowledged. So a subscription begins with one delivery at a
//! time: only that message is delivered too often, and the broker's delivery limit removes it alone.
//! The queue delivers first what it has delivered before, so the first other message ends this pace,
//! and so does one that was delivered a few times: a worker was killed, or lost its connection, which
//! must not slow down the next one.
//! Its capacity is one then, so that the task parks at the broker what it cannot apply at once. A
//! delivery that cannot be parked stays unacknowledged, and a further consumer takes the next one.

use std::collections::BTreeSet;
use std::future::{pending, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{BoxFuture, try_join_all};
use futures_util::{FutureExt, StreamExt};
use lapin::message::DeliveryResult;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::protocol::{AMQPErrorKind, AMQPHardError};
use lapin::types::{FieldTable, ShortString};

use lapin::{Channel, Connection, Consumer, ErrorKind};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::nodes::Uris;
use super::{Broker, REPLY_SUCCESS, answered, broker, message};
use crate::bus::{self, BusError, Delivery, DeliveryTag, Result, Subscription};

/// Time without a delivery after which the queue is taken to be empty.
const QUIET: Duration = Duration::from_millis(500);

/// How often a message was delivered that is taken for healthy. The others around a culprit are
/// delivered once more than that, far below the limit of 20 that the README recommends.
const HEALTHY_DELIVERIES: i64 = 3;

/// A consumer on a connection of its own. Dropping it closes the connection.
pub(super) struct AmqpSubscription {
    connection: Connection,
    channel: Channel,
    consumer: ReplaceableConsumer,
    inbox: Inbox,
    deliveries: mpsc::UnboundedReceiver<Delivery>,
    lost: watch::Receiver<Option<Loss>>,
    uris: watch::Receiver<Uris>,
    unacknowledged: BTreeSet<DeliveryTag>,
    pace: Pace,
    switching: Option<BoxFuture<'static, Result<ReplaceableConsumer>>>,
}

/// How many deliveries the broker sends at a time.
enum Pace {
    /// One.
    Careful {
        acknowledged: usize,
        /// A delivery of a message that was not delivered before, or not often.
        healthy: Option<DeliveryTag>,
        /// The last delivery of the consumer.
        last: Option<DeliveryTag>,
        /// When a further delivery has been waited for long enough.
        quiet_at: Option<Instant>,
    },
    /// As many as configured.
    Full,
}

struct ReplaceableConsumer {
    consumer: Consumer,
    /// Whether its end is no loss.
    replaced: Arc<AtomicBool>,
}

/// Why a consumer has ended.
#[derive(Debug, Clone)]
enum Loss {
    Cancelled,
    Failed(lapin::Error),
}

/// Where lapin puts what arrives.
#[derive(Clone)]
struct Inbox {
    queue: String,
    prefetch: u16,
    deliveries: mpsc::UnboundedSender<Delivery>,
    lost: watch::Sender<Option<Loss>>,
}

impl AmqpSubscription {
    pub(super) async fn start(target: &Broker) -> Result<Self> {
        let (connection, uris) = target.connect("consumer", None).await?;
        let channel = answered("open a channel", connection.create_channel()).await?;
        let (sender, deliveries) = mpsc::unbounded_channel();
        let (reason, lost) = watch::channel(None);
        let (queue, prefetch) = (target.options.queue.clone(), target.options.prefetch);
        let inbox = Inbox { queue, prefetch, deliveries: sender, lost: reason };
        let consumer = inbox.consume(&channel, 1).await?;
        Ok(Self {
            connection,
            channel,
            consumer,
            inbox,
            deliveries,
            lost,
            uris,
            unacknowledged: BTreeSet::new(),
            pace: Pace::Careful { acknowledged: 0, healthy: None, last: None, quiet_at: None },
            switching: None,
        })
    }

    /// Ends the careful pace.
    fn hurry(&mut self) {
        self.pace = Pace::Full;
        self.switch(self.inbox.prefetch);
    }

    /// Replaces the consumer. What it has delivered stays valid.
    fn switch(&mut self, prefetch: u16) {
        self.consumer.replaced.store(true, Ordering::Relaxed);
        let (mut consumer, channel, inbox) =
            (self.consumer.consumer.clone(), self.channel.clone(), self.inbox.clone());
        self.switching = Some(Box::pin(async move {
            let cancelling = channel.basic_cancel(consumer.tag(), BasicCancelOptions::default());
            answered("cancel a consumer", cancelling).await?;
            // What arrived while it was being cancelled, which lapin does not pass to the delegate.
            while let Some(Some(Ok(delivery))) = consumer.next().now_or_never() {
                inbox.receive(Ok(Some(delivery)), true);
            }
            inbox.consume(&channel, prefetch).await
        }));
    }

    /// Nothing was delivered for a while: the queue is empty, or the consumer's delivery waits.
    fn be_quiet(&mut self) {
        let Pace::Careful { last, quiet_at, .. } = &mut self.pace else { return };
        *quiet_at = None;
        if last.take().is_some_and(|last| self.unacknowledged.contains(&last)) {
            self.switch(1);
        } else {
            self.hurry();
        }
    }

    /// When the careful pace has been quiet for long enough, if nothing is delivered before.
    fn quiet_at(&mut self) -> Option<Instant> {
        let is_full = self.unacknowledged.len() >= self.inbox.prefetch.into();
        match &mut self.pace {
            Pace::Careful { quiet_at, .. } if self.switching.is_none() && !is_full => {
                Some(*quiet_at.get_or_insert_with(|| Instant::now() + QUIET))
            }
            Pace::Careful { .. } | Pace::Full => None,
        }
    }

    fn hand_out(&mut self, first: Delivery) -> Vec<Delivery> {
        let mut deliveries = vec![first];
        while let Ok(further) = self.deliveries.try_recv() {
            deliveries.push(further);
        }
        if let Pace::Careful { healthy, last, quiet_at, .. } = &mut self.pace {
            let seems_healthy = |delivery: &&Delivery| {
                deliveries_before(delivery).is_some_and(|times| times <= HEALTHY_DELIVERIES)
            };
            *healthy = healthy.or(deliveries.iter().find(seems_healthy).map(|it| it.tag));
            *last = deliveries.iter().map(|delivery| delivery.tag).max();
            *quiet_at = None;
        }
        self.unacknowledged.extend(deliveries.iter().map(|delivery| delivery.tag));
        deliveries
    }
}

impl Drop for AmqpSubscription {
    fn drop(&mut self) {
        // lapin keeps a consumer with a delegate, and its connection. The first poll sends the request.
        let closing = self.connection.close(REPLY_SUCCESS, "closed".into());
        closing.now_or_never();
    }
}

#[async_trait]
impl Subscription for AmqpSubscription {
    async fn next(&mut self) -> Result<Vec<Delivery>> {
        loop {
            let quiet_at = self.quiet_at();
            tokio::select! {
                // In this order: what a lost subscription has delivered is delivered again.
                biased;
                lost = lost(&mut self.lost, &mut self.uris, &self.inbox.queue) => return Err(lost),
                consumer = switched(&mut self.switching) => {
                    self.switching = None;
                    self.consumer = consumer?;
                }
                Some(first) = self.deliveries.recv() => return Ok(self.hand_out(first)),
                () = sleep_until(quiet_at.unwrap_or_else(Instant::now)), if quiet_at.is_some() => {
                    self.be_quiet();
                }
            }
        }
    }

    async fn acknowledge(&mut self, deliveries: &[DeliveryTag]) -> Result<()> {
        let (upto, single) = acknowledgements(&mut self.unacknowledged, deliveries);
        if let Pace::Careful { acknowledged, healthy, quiet_at, .. } = &mut self.pace {
            *acknowledged += deliveries.len();
            *quiet_at = None;
            let is_past_known = healthy.is_some_and(|tag| !self.unacknowledged.contains(&tag))
                || *acknowledged >= usize::from(self.inbox.prefetch);
            if is_past_known && self.switching.is_none() {
                self.hurry();
                // Before the acknowledgement, which would have the broker send the next message to a
                // consumer that is being cancelled: it would come back behind later ones.
                self.consumer = switched(&mut self.switching).await?;
                self.switching = None;
            }
        }
        let acknowledge =
            |DeliveryTag(tag), multiple| self.channel.basic_ack(tag, BasicAckOptions { multiple });
        let all = upto
            .map(|tag| acknowledge(tag, true))
            .into_iter()
            .chain(single.into_iter().map(|tag| acknowledge(tag, false)));
        answered("accept an acknowledgement", try_join_all(all)).await.map(drop)
    }

    async fn lost(&mut self) -> BusError {
        lost(&mut self.lost, &mut self.uris, &self.inbox.queue).await
    }

    fn capacity(&self) -> usize {
        match self.pace {
            Pace::Careful { .. } => 1,
            Pace::Full => self.inbox.prefetch.into(),
        }
    }
}

/// Waits for the new consumer while the consumer is being replaced.
async fn switched(
    switching: &mut Option<BoxFuture<'static, Result<ReplaceableConsumer>>>,
) -> Result<ReplaceableConsumer> {
    match switching {
        Some(switching) => switching.await,
        None => pending().await,
    }
}

/// How often a message was delivered before, if the queue counts that.
fn deliveries_before(delivery: &Delivery) -> Option<i64> {
    match &delivery.original {
        _ if !delivery.properties.redelivered => Some(0),
        bus::Original::Amqp(original) => {
            original.header(message::DELIVERY_COUNT).and_then(message::integer)
        }
        bus::Original::Memory(_) => None,
    }
}

/// How to acknowledge these deliveries: all up to the first tag, and each of the others.
fn acknowledgements(
    unacknowledged: &mut BTreeSet<DeliveryTag>,
    deliveries: &[DeliveryTag],
) -> (Option<DeliveryTag>, Vec<DeliveryTag>) {
    for tag in deliveries {
        unacknowledged.remove(tag);
    }
    let (prefix, single): (Vec<_>, Vec<_>) = deliveries
        .iter()
        .copied()
        .partition(|tag| unacknowledged.first().is_none_or(|oldest| tag < oldest));
    (prefix.into_iter().max(), single)
}

impl Inbox {
    async fn consume(&self, channel: &Channel, prefetch: u16) -> Result<ReplaceableConsumer> {
        let qos = channel.basic_qos(prefetch, BasicQosOptions::default());
        answered("limit deliveries", qos).await?;
        let consuming = channel.basic_consume(
            self.queue.as_str().into(),
            ShortString::default(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let consumer = answered("start a consumer", consuming).await?;
        let replaced = Arc::new(AtomicBool::new(false));
        let (inbox, is_replaced) = (self.clone(), Arc::clone(&replaced));
        consumer.set_delegate(move |result| {
            inbox.receive(result, is_replaced.load(Ordering::Relaxed));
            ready(())
        });
        Ok(ReplaceableConsumer { consumer, replaced })
    }

    /// Takes what arrives, on the thread that reads the connection: a large body is truncated before
    /// the next one is read.
    fn receive(&self, result: DeliveryResult, is_replaced: bool) {
        let loss = match result {
            Ok(Some(delivery)) => {
                // The receiver is gone only together with the subscription.
                self.deliveries.send(message::delivery(delivery)).ok();
                return;
            }
            Ok(None) if is_replaced => return,
            Ok(None) => Loss::Cancelled,
            Err(error) => Loss::Failed(error),
        };
        // The first reason counts: after an error, lapin reports the end of the consumer as well.
        self.lost.send_if_modified(|lost| {
            let is_first = lost.is_none();
            lost.get_or_insert(loss);
            is_first
        });
    }
}

/// Waits until the subscription is lost, or the URLs have changed.
async fn lost(
    lost: &mut watch::Receiver<Option<Loss>>,
    uris: &mut watch::Receiver<Uris>,
    queue: &str,
) -> BusError {
    tokio::select! {
        Ok(()) = uris.changed() => BusError::Reconnect,
        Ok(lost) = lost.wait_for(Option::is_some) => match lost.clone() {
            Some(Loss::Failed(error)) if is_unparseable(error.kind()) => BusError::Unparseable {
                queue: queue.to_owned(),
                vhost: uris.borrow().first().map(|uri| uri.vhost.clone()).unwrap_or_default(),
                source: Box::new(error),
            },
            Some(Loss::Failed(error)) => broker(error),
            Some(Loss::Cancelled) | None => BusError::ConsumerEnded,
        }
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the enumeration is not exhaustive")]
pub(super) fn is_unparseable(error: &ErrorKind) -> bool {
    match error {
        ErrorKind::ParsingError(_) => true,
        ErrorKind::ProtocolError(error) => {
            *error.kind() == AMQPErrorKind::Hard(AMQPHardError::FRAMEERROR)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(numbers: &[u64]) -> Vec<DeliveryTag> {
        numbers.iter().copied().map(DeliveryTag).collect()
    }

    #[test]
    fn deliveries_without_older_ones_are_acknowledged_together() {
        let mut unacknowledged: BTreeSet<DeliveryTag> =
            tags(&[1, 2, 3, 4, 5]).into_iter().collect();
        let mut acknowledge = |numbers: &[u64]| {
            let (upto, single) = acknowledgements(&mut unacknowledged, &tags(numbers));
            (upto.map(|DeliveryTag(tag)| tag), single)
        };
        assert_eq!(acknowledge(&[]), (None, vec![]));
        assert_eq!(acknowledge(&[4, 2]), (None, tags(&[4, 2])));
        assert_eq!(acknowledge(&[1]), (Some(1), vec![]));
        assert_eq!(acknowledge(&[5]), (None, tags(&[5])));
        assert_eq!(acknowledge(&[3]), (Some(3), vec![]));
    }
}
