//! The open connections of a [`server`](super::server), their limits, and which of them makes room
//! for a new one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use parking_lot::Mutex;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use crate::auth::network;
use crate::metrics::LIMITED;

/// A connection with a request that has no response yet.
const BUSY: u64 = u64::MAX;

/// Added to the moment since which a response is being sent whose body is not complete.
const STREAMING: u64 = 1 << 63;

/// Added to the moment since which a response is being sent whose body is complete.
const UNSENT: u64 = 1 << 62;

/// A client that takes longer for a response makes room for others if no connection is idle.
const SLOW: Duration = Duration::from_secs(10);

/// How many connections may be open.
#[derive(Debug, Clone)]
pub struct Limits {
    pub connections: usize,
    /// Maximum per client network; loopback and trusted proxies are exempt.
    pub per_address: usize,
    pub trusted: Vec<IpNet>,
    /// Whether a connection is accepted when the process has no descriptors left.
    pub uses_reserve: bool,
}

pub(super) struct Connections {
    limits: Limits,
    open: Arc<Mutex<Open>>,
    clock: Clock,
}

/// The time since the server began, in nanoseconds.
#[derive(Clone, Copy)]
struct Clock(Instant);

#[derive(Default)]
struct Open {
    by_id: HashMap<u64, Connection>,
    per_network: HashMap<IpAddr, usize>,
    last_id: u64,
}

#[derive(Clone)]
struct Connection {
    network: IpAddr,
    /// The moment at which its last response was sent, or at which it was accepted; or what it does
    /// instead of being idle.
    state: Arc<AtomicU64>,
    closing: CancellationToken,
}

/// The place of an open connection; dropping it releases the place.
pub(super) struct Slot {
    id: u64,
    address: IpAddr,
    connection: Connection,
    clock: Clock,
    open: Arc<Mutex<Open>>,
}

/// Records what a connection does, and since when.
#[derive(Clone)]
pub(super) struct Activity {
    state: Arc<AtomicU64>,
    clock: Clock,
}

/// A request, until its response is complete and this is dropped.
pub(super) struct Busy(Activity);

impl Clock {
    fn now(self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(UNSENT - 1)
    }
}

impl Connections {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, open: Arc::default(), clock: Clock(Instant::now()) }
    }

    /// A place for a connection from this address. Where none is free, another connection is closed,
    /// see [`make_room`](Self::make_room); `None` if none can be.
    pub(super) fn admit(&self, address: IpAddr) -> Option<Slot> {
        let limits = &self.limits;
        let network = network(address);
        let is_exempt = address.is_loopback()
            || limits.trusted.iter().any(|trusted| trusted.contains(&address));
        let now = self.clock.now();
        let mut open = self.open.lock();
        let of_network = open.per_network.get(&network).copied().unwrap_or_default();
        let is_admitted = if !is_exempt && of_network >= limits.per_address {
            open.make_room(Some(network), now)
        } else {
            open.by_id.len() < limits.connections || open.make_room(None, now)
        };
        if !is_admitted {
            metrics::counter!(LIMITED, "limit" => "connections").increment(1);
            tracing::debug!(%address, "too many connections");
            return None;
        }
        let state = Arc::new(AtomicU64::new(now));
        let connection = Connection { network, state, closing: CancellationToken::new() };
        open.last_id += 1;
        let id = open.last_id;
        open.by_id.insert(id, connection.clone());
        *open.per_network.entry(network).or_default() += 1;
        drop(open);
        let (clock, open) = (self.clock, Arc::clone(&self.open));
        Some(Slot { id, address, connection, clock, open })
    }

    /// Closes the connection that has been idle for longest; if none is idle, the one whose client
    /// has been accepting a response for longest.
    pub(super) fn make_room(&self) {
        self.open.lock().make_room(None, self.clock.now());
    }
}

impl Open {
    /// Closes a connection of this network or of any. False if none can make room.
    fn make_room(&mut self, network: Option<IpAddr>, now: u64) -> bool {
        let candidates = self.by_id.iter().filter(|(_id, connection)| {
            network.is_none_or(|network| connection.network == network)
        });
        let moments = candidates.filter_map(|(id, connection)| {
            let state = connection.state.load(Ordering::Relaxed);
            let (is_sending, since) = (state >= UNSENT, state & !(STREAMING | UNSENT));
            let is_slow = || Duration::from_nanos(now.saturating_sub(since)) > SLOW;
            (!is_sending || state != BUSY && is_slow()).then_some((is_sending, since, *id))
        });
        let Some((_is_sending, _since, id)) = moments.min() else { return false };
        if let Some(connection) = self.remove(id) {
            connection.closing.cancel();
        }
        true
    }

    fn remove(&mut self, id: u64) -> Option<Connection> {
        let connection = self.by_id.remove(&id)?;
        if let Some(count) = self.per_network.get_mut(&connection.network) {
            *count -= 1;
            if *count == 0 {
                self.per_network.remove(&connection.network);
            }
        }
        Some(connection)
    }
}

impl Slot {
    pub(super) fn address(&self) -> IpAddr {
        self.address
    }

    pub(super) fn activity(&self) -> Activity {
        Activity { state: Arc::clone(&self.connection.state), clock: self.clock }
    }

    /// Waits until the connection has to make room for another one.
    pub(super) fn closed(&self) -> WaitForCancellationFuture<'_> {
        self.connection.closing.cancelled()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.open.lock().remove(self.id);
    }
}

impl Activity {
    pub(super) fn begin(&self) -> Busy {
        self.set(BUSY);
        Busy(self.clone())
    }

    /// All of what was written is sent.
    pub(super) fn sent(&self) {
        let state = self.state.load(Ordering::Relaxed);
        if state & (STREAMING | UNSENT) == UNSENT {
            self.set(self.clock.now());
        }
    }

    fn set(&self, state: u64) {
        self.state.store(state, Ordering::Relaxed);
    }
}

impl Busy {
    /// The request has a response, whose body is not complete.
    pub(super) fn answered(&self) {
        self.0.set(STREAMING | self.0.clock.now());
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let state = self.0.state.load(Ordering::Relaxed);
        let since = if state == BUSY { self.0.clock.now() } else { state & !STREAMING };
        self.0.set(UNSENT | since);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn connections(total: usize) -> Connections {
        let trusted = vec!["10.0.0.0/8".parse().unwrap()];
        Connections::new(Limits {
            connections: total,
            per_address: 2,
            trusted,
            uses_reserve: false,
        })
    }

    fn is_closed(slot: &Slot) -> bool {
        slot.closed().now_or_never().is_some()
    }

    #[test]
    fn one_network_cannot_take_all_connections() {
        let connections = connections(100);
        let connect = |text: &str| connections.admit(text.parse().unwrap());
        let busy = |slot: &Slot| slot.activity().begin();
        let (first, second) = (connect("192.0.2.1").unwrap(), connect("192.0.2.1").unwrap());
        let requests = [busy(&first), busy(&second)];
        assert!(connect("192.0.2.1").is_none());
        assert!(connect("192.0.2.2").is_some());
        let six: Vec<_> =
            (1..=2).map(|host| connect(&format!("2001:db8::{host}")).unwrap()).collect();
        let six_requests: Vec<_> = six.iter().map(busy).collect();
        assert!(connect("2001:db8::3").is_none(), "an IPv6 network counts as one address");
        drop((six, six_requests));
        drop(first);
        assert!(connect("192.0.2.1").is_some());
        for exempt in ["127.0.0.1", "10.1.1.1"] {
            let many: Vec<_> = (0..5).map(|_| connect(exempt)).collect();
            assert!(many.iter().flatten().all(|slot| !is_closed(slot)), "{exempt}");
            assert!(many.iter().all(Option::is_some), "{exempt}");
        }
        drop((second, requests));
        assert!(connections.open.lock().per_network.is_empty(), "slots are released");
    }

    #[test]
    fn the_connection_that_was_idle_for_longest_makes_room() {
        let connections = connections(3);
        let connect = |host: u8| connections.admit(IpAddr::from([192, 0, 2, host]));
        let (first, second) = (connect(1).unwrap(), connect(2).unwrap());
        let third = connect(3).unwrap();
        let request = second.activity().begin();
        let answered = first.activity();
        drop(answered.begin());
        answered.sent();
        let fourth = connect(4).unwrap();
        let closed = |slots: [&Slot; 4]| slots.map(is_closed);
        assert_eq!(closed([&first, &second, &third, &fourth]), [false, false, true, false]);
        drop(first.activity().begin());
        let other = fourth.activity().begin();
        assert!(connect(5).is_none(), "all have a request, or a response to send");
        drop((request, other));
        // The end of a connection that was closed releases nothing twice.
        drop(third);
        assert_eq!(connections.open.lock().by_id.len(), 3);
    }

    #[test]
    fn a_client_that_accepts_a_response_slowly_makes_room_if_no_connection_is_idle() {
        let connections = connections(2);
        let connect = |host: u8| connections.admit(IpAddr::from([192, 0, 2, host]));
        let (slow, waiting) = (connect(1).unwrap(), connect(2).unwrap());
        let _waiting = waiting.activity().begin();
        for is_complete in [false, true] {
            let response = slow.activity().begin();
            response.answered();
            let _streaming = (!is_complete).then_some(response);
            slow.activity().set(if is_complete { UNSENT } else { STREAMING });
            assert!(connect(3).is_none(), "it has just begun");
        }
        assert!(!is_closed(&slow));
        let old = u64::try_from(SLOW.as_nanos()).unwrap() + 1;
        let mut open = connections.open.lock();
        assert!(!open.make_room(Some(IpAddr::from([192, 0, 2, 2])), old), "it waits for a change");
        assert!(open.make_room(None, old));
        drop(open);
        assert!(is_closed(&slow) && !is_closed(&waiting));
    }

    #[test]
    fn a_network_at_its_limit_closes_one_of_its_own_connections() {
        let connections = connections(100);
        let connect = |host: u8| connections.admit(IpAddr::from([192, 0, 2, host])).unwrap();
        let other = connect(1);
        let (first, second, third) = (connect(2), connect(2), connect(2));
        assert_eq!([&other, &first, &second, &third].map(is_closed), [false, true, false, false]);
    }
}
