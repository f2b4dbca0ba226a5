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
use tokio::{sync::broadcast, time::sleep};

use super::{Bug, Server, World};

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
            let lost = state.faults.confirm_lost;
            (state.happens(lost), state.happens(500))
        };
        if arrives || !confirm_is_lost {
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
            let body = &transfer.delivery.body;
            match transfer.destination {
                Destination::DeadLetters { reason, .. } => {
                    let state = &mut *self.0.state.lock();
                    let was_stepped = state.clock.stepped_at().is_some();
                    state.history.dead_letter(body, reason, was_stepped);
                }
                Destination::Retry(_) => {
                    let Transfer { delivery, destination } = *transfer;
                    self.0.broker.transfer(&[Transfer { delivery, destination }]).await?;
                    self.0.state.lock().history.parked(body);
                }
            }
        }
        self.0.pass_time().await;
        let lost = self.0.state.lock().faults.confirm_lost;
        if self.0.state.lock().happens(lost) {
            return Err(BusError::TimedOut("confirm", PUBLISH_TIMEOUT));
        }
        Ok(())
    }

    async fn listen(&self) -> Result<Box<dyn Listener>> {
        let cut = self.0.cuts.subscribe();
        self.reach(PUBLISH_TIMEOUT).await?;
        Ok(Box::new(SimulatedListener { inner: self.0.broker.listen().await?, cut }))
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
            if state.faults.broker != Server::Up || state.happens(lost_connection) {
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
        self.inner.capacity()
    }
}

struct SimulatedListener {
    inner: Box<dyn Listener>,
    cut: broadcast::Receiver<()>,
}

#[async_trait]
impl Listener for SimulatedListener {
    async fn next(&mut self) -> Result<Vec<u8>> {
        tokio::select! {
            biased;
            _ = self.cut.recv() => Err(lost()),
            body = self.inner.next() => body,
        }
    }
}
