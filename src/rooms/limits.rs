//! How much one client may change, and how many of its requests may wait.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use governor::clock::{Clock, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use parking_lot::Mutex;

use super::error::{Limit, Result, RoomError};
use crate::auth::network;
use crate::domain::{Actor, Caller, ClientId};
use crate::metrics::{EVENT_STREAMS, LONG_POLLS};

/// Entries of a rate limiter that are always kept.
const RETAINED: usize = 10_000;

/// When a request that would wait beyond the limit may be tried again.
const LONG_POLL_RETRY: Duration = Duration::from_secs(10);

/// When a participant may set another password.
const HASH_RETRY: Duration = Duration::from_secs(1);

/// What one client may do.
#[derive(Debug, Clone, Copy)]
pub struct ClientLimits {
    pub rooms_per_user: u32,
    pub guests_per_room: u32,
    pub changes_per_minute: NonZeroU32,
    pub joins_per_minute: NonZeroU32,
    pub long_polls_per_client: usize,
    /// Maximum of all clients.
    pub long_polls: usize,
}

/// Who asks: a user, a guest, or an anonymous visitor at an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum ClientKey {
    Actor(Actor),
    /// A guest, who is another actor in each room.
    Guest(ClientId),
    Network(IpAddr),
}

impl ClientKey {
    pub(super) fn of(caller: Option<&Caller>, from: IpAddr) -> Self {
        caller.map_or_else(|| Self::Network(network(from)), Self::from)
    }
}

impl From<&Caller> for ClientKey {
    fn from(caller: &Caller) -> Self {
        match &caller.client {
            Some(client) if !caller.actor.is_user() => Self::Guest(client.clone()),
            Some(_) | None => Self::Actor(caller.actor.clone()),
        }
    }
}

/// Bounds the rate of something, by client.
pub(super) struct Rate<K: Hash + Eq + Clone> {
    limiter: RateLimiter<K, HashMapStateStore<K>, MonotonicClock, NoOpMiddleware<Instant>>,
    limit: Limit,
    /// Number of entries above which those that limit nothing any more are removed.
    prune_at: AtomicUsize,
}

impl<K: Hash + Eq + Clone> Rate<K> {
    /// A minute's worth may come at once.
    pub(super) fn per_minute(count: NonZeroU32, limit: impl FnOnce(u32) -> Limit) -> Self {
        let quota = Quota::per_minute(count);
        let limiter = RateLimiter::new(quota, HashMapStateStore::default(), MonotonicClock);
        Self { limiter, limit: limit(count.get()), prune_at: AtomicUsize::new(RETAINED) }
    }

    pub(super) fn check(&self, client: &K) -> Result<()> {
        if self.limiter.len() > self.prune_at.load(Ordering::Relaxed) {
            self.limiter.retain_recent();
            // Twice as many, so that many clients at once do not cost a search for each change.
            self.prune_at.store(RETAINED.max(2 * self.limiter.len()), Ordering::Relaxed);
        }
        self.limiter.check_key(client).map_err(|exceeded| {
            let wait = exceeded.wait_time_from(MonotonicClock.now());
            RoomError::Limited { limit: self.limit, wait }
        })
    }
}

/// Lets each client set one password at a time: a hash takes long.
#[derive(Clone, Default)]
pub(super) struct Hashes(Arc<Mutex<HashSet<ClientKey>>>);

/// A password that is being set, until it is dropped.
pub(super) struct HashTurn {
    client: ClientKey,
    hashes: Hashes,
}

impl Hashes {
    pub(super) fn begin(&self, client: ClientKey) -> Result<HashTurn> {
        if !self.0.lock().insert(client.clone()) {
            return Err(RoomError::Limited { limit: Limit::Hashes, wait: HASH_RETRY });
        }
        Ok(HashTurn { client, hashes: self.clone() })
    }
}

impl Drop for HashTurn {
    fn drop(&mut self) {
        self.hashes.0.lock().remove(&self.client);
    }
}

/// Counts the requests that wait, and the event streams.
#[derive(Clone)]
pub(super) struct LongPolls {
    per_client: usize,
    total: usize,
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    total: usize,
    by_client: HashMap<ClientKey, usize>,
}

/// A request that waits, or an event stream, until it is dropped.
pub(super) struct LongPoll {
    client: ClientKey,
    gauge: &'static str,
    polls: LongPolls,
}

impl LongPolls {
    pub(super) fn new(limits: &ClientLimits) -> Self {
        let ClientLimits { long_polls_per_client, long_polls, .. } = *limits;
        Self { per_client: long_polls_per_client, total: long_polls, waiting: Arc::default() }
    }

    /// Fails if too many requests wait.
    pub(super) fn begin(&self, client: ClientKey) -> Result<LongPoll> {
        self.begin_as(client, LONG_POLLS)
    }

    /// As [`begin`](Self::begin), for an event stream.
    pub(super) fn begin_stream(&self, client: ClientKey) -> Result<LongPoll> {
        self.begin_as(client, EVENT_STREAMS)
    }

    fn begin_as(&self, client: ClientKey, gauge: &'static str) -> Result<LongPoll> {
        let refuse = |limit| Err(RoomError::Limited { limit, wait: LONG_POLL_RETRY });
        let mut waiting = self.waiting.lock();
        if waiting.total >= self.total {
            return refuse(Limit::AllLongPolls);
        }
        let of_client = waiting.by_client.entry(client.clone()).or_default();
        if *of_client >= self.per_client {
            return refuse(Limit::LongPolls(self.per_client));
        }
        *of_client += 1;
        waiting.total += 1;
        metrics::gauge!(gauge).increment(1);
        Ok(LongPoll { client, gauge, polls: self.clone() })
    }
}

impl Drop for LongPoll {
    fn drop(&mut self) {
        let mut waiting = self.polls.waiting.lock();
        waiting.total -= 1;
        if let Some(of_client) = waiting.by_client.get_mut(&self.client) {
            *of_client -= 1;
            if *of_client == 0 {
                waiting.by_client.remove(&self.client);
            }
        }
        metrics::gauge!(self.gauge).decrement(1);
    }
}
