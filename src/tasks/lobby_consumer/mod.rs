//! Applies lobby changes from the bus: delivery, rule, commit, acknowledgement, in this order.
//!
//! What has been delivered is applied as a set, in one transaction. What is delivered meanwhile is
//! parsed, and becomes the next set. A set that the database refuses is halved, down to the event
//! that it refuses; one that takes too long is taken apart by room. An event that cannot be applied
//! yet is set aside and holds up no other: it waits in a [lane](lanes) of its room, and at the
//! broker, in the retry queue, if many wait. Only while the database is unavailable no further
//! delivery is taken. Nothing is acknowledged before the commit, or before another queue has it.

mod apply;
mod connection;
mod consumption;
mod event;
mod lanes;
mod transfers;
mod trial;

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

pub(super) use self::connection::ConnectionState;
use self::consumption::Consumption;
use super::{TaskContext, TimerWaker};
use crate::bus::BusError;
use crate::relay::RelayHandle;

pub struct LobbyConsumer {
    ctx: TaskContext,
    timers: TimerWaker,
    relay: RelayHandle,
    /// How long an event waits for its room.
    unknown_room_grace: Duration,
    /// How far ahead of the database's clock a version may be.
    max_clock_skew: Duration,
}

/// Why a consumption ends.
enum End {
    Stopped,
    Lost(BusError),
}

impl From<BusError> for End {
    fn from(lost: BusError) -> Self {
        Self::Lost(lost)
    }
}

impl LobbyConsumer {
    /// Wakes `timers` when a timer was armed, and passes to `relay` what announces changes.
    pub fn new(
        ctx: TaskContext,
        timers: TimerWaker,
        relay: RelayHandle,
        unknown_room_grace: Duration,
        max_clock_skew: Duration,
    ) -> Self {
        Self { ctx, timers, relay, unknown_room_grace, max_clock_skew }
    }

    /// Runs until `stop`, over one connection after another. A transaction that has begun is
    /// finished, except that of a slow room. Deliveries that are not acknowledged then are delivered
    /// again, to any worker.
    pub async fn run(self, stop: CancellationToken) {
        let mut connection = ConnectionState::new(&self.ctx.health);
        loop {
            let subscribed = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                subscribed = self.ctx.bus.subscribe() => subscribed,
            };
            let end = match subscribed {
                Ok(subscription) => {
                    connection.opened();
                    Consumption::new(&self, subscription, &mut connection, &stop).run().await
                }
                Err(error) => End::Lost(error),
            };
            let wait = match end {
                End::Stopped => return,
                End::Lost(error) => connection.lost(&error),
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = sleep(wait) => {}
            }
        }
    }
}
