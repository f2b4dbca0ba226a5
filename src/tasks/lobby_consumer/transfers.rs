//! Deliveries on their way to another queue. A set of them is published while the next one gathers.
//!
//! A set that fails is halved, down to the one delivery that the broker refuses, so that it delays
//! no other.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep_until};

use super::event::{Outgoing, Undone};
use crate::backoff::Backoff;
use crate::bus::{self, Bus};
use crate::failpoints::{self, Point};
use crate::logging;

/// Deliveries per set.
const MAX_SET: usize = 64;

pub(super) struct Transfers<T> {
    /// What the deliveries are, for the log and for readiness.
    what: &'static str,
    waiting: VecDeque<T>,
    sending: Option<Sending<T>>,
    /// Bound of the next set.
    limit: usize,
    backoff: Backoff,
    next_at: Instant,
    /// Why the last set failed.
    problem: Option<String>,
}

struct Sending<T> {
    sent: BoxFuture<'static, (Vec<T>, bus::Result<()>)>,
    number: usize,
    oldest: Option<Undone>,
}

impl<T: Outgoing> Transfers<T> {
    pub(super) fn new(what: &'static str) -> Self {
        Self {
            what,
            waiting: VecDeque::new(),
            sending: None,
            limit: MAX_SET,
            backoff: Backoff::new(Backoff::TASKS),
            next_at: Instant::now(),
            problem: None,
        }
    }

    pub(super) fn push(&mut self, delivery: T) {
        self.waiting.push_back(delivery);
    }

    /// Whether the last set was stored, or it is time for another try.
    pub(super) fn is_usable(&self) -> bool {
        self.next_at <= Instant::now()
    }

    /// Number of deliveries.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.sending.as_ref().map_or(0, |sending| sending.number)
    }

    /// Waits until a set is stored and returns it; or the set that is not, with `false`. May be
    /// dropped while it waits.
    pub(super) async fn sent(&mut self, bus: &Arc<dyn Bus>) -> (Vec<T>, bool) {
        if self.sending.is_none() {
            if self.waiting.is_empty() {
                return pending().await;
            }
            sleep_until(self.next_at).await;
            self.sending = Some(self.send(Arc::clone(bus)));
        }
        let Some(sending) = &mut self.sending else { return pending().await };
        let (deliveries, result) = (&mut sending.sent).await;
        self.sending = None;
        self.conclude(deliveries.len(), &result);
        (deliveries, result.is_ok())
    }

    fn send(&mut self, bus: Arc<dyn Bus>) -> Sending<T> {
        let oldest = self.oldest();
        let number = self.limit.min(self.waiting.len());
        let deliveries: Vec<T> = self.waiting.drain(..number).collect();
        let sent = async move {
            let transfers: Vec<_> = deliveries.iter().map(Outgoing::transfer).collect();
            let result = bus.transfer(&transfers).await;
            drop(transfers);
            (deliveries, result)
        };
        Sending { sent: sent.boxed(), number, oldest }
    }

    fn conclude(&mut self, number: usize, result: &bus::Result<()>) {
        match result {
            Ok(()) => {
                failpoints::reach(Point::AfterTransferBeforeAck);
                if self.problem.take().is_some() {
                    tracing::info!("{} are stored again", self.what);
                }
                self.backoff.reset();
                self.limit = (self.limit * 2).min(MAX_SET);
            }
            Err(error) => {
                let problem = logging::causes(error);
                if self.backoff.is_first_failure() {
                    tracing::warn!(error = problem, "{} cannot be stored, retrying", self.what);
                }
                self.problem = Some(problem);
                self.limit = (number / 2).max(1);
                self.next_at = Instant::now() + self.backoff.next_wait();
            }
        }
    }

    /// Takes back a set that is not stored. A single delivery lets the others go first.
    pub(super) fn push_again(&mut self, deliveries: Vec<T>) {
        if deliveries.len() == 1 {
            self.waiting.extend(deliveries);
            return;
        }
        for delivery in deliveries.into_iter().rev() {
            self.waiting.push_front(delivery);
        }
    }

    pub(super) fn oldest(&self) -> Option<Undone> {
        let waiting = self.waiting.iter().map(Outgoing::received).min().map(|since| {
            let problem = self.problem.as_deref().unwrap_or("not confirmed yet");
            Undone {
                since,
                item: format!("{} {} are not stored: {problem}", self.len(), self.what),
            }
        });
        let sending = self.sending.as_ref().and_then(|sending| sending.oldest.clone());
        waiting.into_iter().chain(sending).min_by_key(|undone| undone.since)
    }
}
