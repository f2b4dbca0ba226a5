//! The broker as simulated processes reach it: the in-process bus, whose connections and answers can be
//! lost.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use lobbyd::{
    bus::{
        Bus, BusError, Confirmation, DeadLetters, Delivery, DeliveryTag, Destination, Listener,
        Message, PUBLISH_TIMEOUT, QueueDepth, Result, Subscription, Transfer,
    },
    domain::ROOM_UPDATED,
};
use tokio::{
    sync::broadcast,
    time::{Instant, sleep, sleep_until},
};

use super::{Bug, Server, State, World};

/// Deliveries that may be unacknowledged. It is small, so that events of a few rooms that wait are too
/// many.
const CAPACITY: usize = 8;

#[derive(Clone)]
pub struct SimulatedBus(pub Arc<World>);

fn lost() -> BusError {
    BusError::Broker("connection reset".into())
}

impl SimulatedBus {
    async fn reach(&self, timeout: Duration) -> Result<()> {
        self.0.pass_time().await;
        let server = self.0.state.lock().faults.broker;
        match server {
            Server::Up => Ok(()),
            Server::Down => Err(lost()),
            Server::Silent => {
                sleep(timeout).await;
                Err(BusError::TimedOut("answer", timeout))
            }
        }
    }

    /// Publishes a message, and decides what its sender learns of that.
    async fn store(&self, message: &Message) -> Result<Confirmation> {
        let (confirm_is_lost, arrives) = {
            let mut state = self.0.state.lock();
            let token = message.routing_key.strip_prefix("room.updated.");
            if token.is_some_and(|token| state.faults.unroutable.contains(token)) {
                return Ok(Confirmation::Refused("no queue is bound".to_owned()));
            }
            state.draw_confirm()
        };
        if arrives {
            self.0.broker.publish(std::slice::from_ref(message)).await?;
            if message.event_type == ROOM_UPDATED {
                self.0.state.lock().history.published(message);
            }
        }
        if confirm_is_lost {
            return Ok(Confirmation::Unconfirmed("connection lost".to_owned()));
        }
        self.0.state.lock().history.confirmed(&message.id);
        Ok(Confirmation::Confirmed)
    }

    /// Moves a delivery into another queue, and decides what the process learns of that.
    async fn store_transfer(&self, transfer: &Transfer<'_>) -> Result<()> {
        let Transfer { delivery, destination } = *transfer;
        let (confirm_is_lost, arrives) = self.0.state.lock().draw_confirm();
        if arrives {
            match destination {
                Destination::DeadLetters { reason, .. } => {
                    let State { history, clock, tables, .. } = &mut *self.0.state.lock();
                    history.dead_letter(&delivery.body, reason, clock, tables);
                }
                Destination::Retry(_) => {
                    let is_dropped = self.0.state.lock().bug == Some(Bug::LosesWaiting);
                    if !is_dropped {
                        self.0.broker.transfer(&[Transfer { delivery, destination }]).await?;
                    }
                    self.0.state.lock().history.parked(&delivery.body);
                }
            }
        }
        if confirm_is_lost {
            return Err(BusError::TimedOut("confirm", PUBLISH_TIMEOUT));
        }
        Ok(())
    }
}

#[async_trait]
impl Bus for SimulatedBus {
    async fn subscribe(&self) -> Result<Box<dyn Subscription>> {
        let cut = self.0.cuts.subscribe();
        self.reach(PUBLISH_TIMEOUT).await?;
        let inner = self.0.broker.subscribe().await?;
        let bus = self.clone();
        Ok(Box::new(SimulatedSubscription { bus, inner, cut, bodies: BTreeMap::new() }))
    }

    async fn publish(&self, messages: &[Message]) -> Result<Vec<Confirmation>> {
        self.reach(PUBLISH_TIMEOUT).await?;
        let mut confirmations = Vec::new();
        for message in messages {
            confirmations.push(self.store(message).await?);
        }
        self.0.pass_time().await;
        Ok(confirmations)
    }

    async fn missing_queue(&self) -> Result<Option<String>> {
        self.reach(PUBLISH_TIMEOUT).await.map(|()| None)
    }

    async fn transfer(&self, transfers: &[Transfer<'_>]) -> Result<()> {
        self.reach(PUBLISH_TIMEOUT).await?;
        for transfer in transfers {
            self.store_transfer(transfer).await?;
        }
        self.0.pass_time().await;
        Ok(())
    }

    async fn listen(&self) -> Result<Box<dyn Listener>> {
        let cut = self.0.cuts.subscribe();
        self.reach(PUBLISH_TIMEOUT).await?;
        let inner = self.0.broker.listen().await?;
        Ok(Box::new(SimulatedListener { bus: self.clone(), inner, cut, arriving: None }))
    }

    async fn dead_letters(&self) -> Result<Box<dyn DeadLetters>> {
        self.0.broker.dead_letters().await
    }

    async fn queue_depths(&self) -> Result<Vec<QueueDepth>> {
        Ok(Vec::new())
    }

    async fn try_urls(&self, _urls: &[&str]) -> Result<()> {
        Ok(())
    }

    fn use_urls(&self, _urls: &[&str]) -> Result<()> {
        Ok(())
    }

    async fn close(&self) {}
}

struct SimulatedSubscription {
    bus: SimulatedBus,
    inner: Box<dyn Subscription>,
    cut: broadcast::Receiver<()>,
    /// Of the deliveries that are not acknowledged.
    bodies: BTreeMap<DeliveryTag, Vec<u8>>,
}

#[async_trait]
impl Subscription for SimulatedSubscription {
    async fn next(&mut self) -> Result<Vec<Delivery>> {
        let deliveries = tokio::select! {
            biased;
            _ = self.cut.recv() => return Err(lost()),
            deliveries = self.inner.next() => deliveries?,
        };
        for delivery in &deliveries {
            self.bodies.insert(delivery.tag, delivery.body.clone());
        }
        if self.bus.0.state.lock().bug == Some(Bug::AcknowledgesFirst) {
            let tags: Vec<_> = deliveries.iter().map(|delivery| delivery.tag).collect();
            self.acknowledge(&tags).await?;
        }
        Ok(deliveries)
    }

    async fn acknowledge(&mut self, deliveries: &[DeliveryTag]) -> Result<()> {
        {
            let state = &mut *self.bus.0.state.lock();
            let lost_connection = state.faults.acknowledgement_lost;
            if state.faults.broker != Server::Up || state.chance(lost_connection) {
                return Err(lost());
            }
            for tag in deliveries {
                // What is acknowledged twice is no longer here.
                if let Some(body) = self.bodies.remove(tag) {
                    state.history.acknowledged(&body);
                }
            }
        }
        self.inner.acknowledge(deliveries).await
    }

    async fn lost(&mut self) -> BusError {
        self.cut.recv().await.ok();
        lost()
    }

    fn capacity(&self) -> usize {
        self.inner.capacity().min(CAPACITY)
    }
}

struct SimulatedListener {
    bus: SimulatedBus,
    inner: Box<dyn Listener>,
    cut: broadcast::Receiver<()>,
    /// An update on its way, and when it arrives.
    arriving: Option<(Vec<u8>, Instant)>,
}

#[async_trait]
impl Listener for SimulatedListener {
    async fn next(&mut self) -> Result<Vec<u8>> {
        let Self { bus, inner, cut, arriving } = self;
        let received = async {
            if arriving.is_none() {
                let body = inner.next().await?;
                let latency = bus.0.state.lock().latency();
                *arriving = Some((body, Instant::now() + latency));
            }
            sleep_until(arriving.as_ref().unwrap().1).await;
            Ok(arriving.take().unwrap().0)
        };
        let ignores_updates = bus.0.state.lock().bug == Some(Bug::IgnoresUpdates);
        tokio::select! {
            biased;
            _ = cut.recv() => Err(lost()),
            body = received, if !ignores_updates => body,
        }
    }
}
