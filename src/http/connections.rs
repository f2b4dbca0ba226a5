//! The open connections of a [`server`](super::server), their limits, and which of them makes room
//! for a new one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ipnet::IpNet;
use parking_lot::Mutex;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use crate::auth::network;
use crate::metrics::LIMITED;

/// A connection with a request whose response is not complete.
const BUSY: u64 = u64::MAX;

/// A connection with a complete response that the client has not accepted yet.
const UNSENT: u64 = u64::MAX - 1;

/// How many connections may be open.
#[derive(Debug, Clone)]
pub struct Limits {
    pub connections: usize,
    /// Maximum per client network; loopback and trusted proxies are exempt.
    pub per_address: usize,
    pub trusted: Vec<IpNet>,
}

pub(super) struct Connections {
    limits: Limits,
    open: Arc<Mutex<Open>>,
    /// Counts the moments at which a connection became idle, to compare them.
    moments: Arc<AtomicU64>,
}

#[derive(Default)]
struct Open {
    by_id: HashMap<u64, Connection>,
    per_network: HashMap<IpAddr, usize>,
    last_id: u64,
}

#[derive(Clone)]
struct Connection {
    network: IpAddr,
    /// The moment at which its last response was sent, or at which it was accepted.
    idle_since: Arc<AtomicU64>,
    closing: CancellationToken,
}

/// The place of an open connection; dropping it releases the place.
pub(super) struct Slot {
    id: u64,
    address: IpAddr,
    connection: Connection,
    moments: Arc<AtomicU64>,
    open: Arc<Mutex<Open>>,
}

/// Records since when a connection is idle.
#[derive(Clone)]
pub(super) struct Activity {
    idle_since: Arc<AtomicU64>,
    moments: Arc<AtomicU64>,
}

/// A request, until its response is complete and this is dropped.
pub(super) struct Busy(Activity);

impl Connections {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, open: Arc::default(), moments: Arc::default() }
    }

    /// A place for a connection from this address. Where none is free, the connection that has been
    /// idle for longest is closed; `None` if no connection is idle.
    pub(super) fn admit(&self, address: IpAddr) -> Option<Slot> {
        let limits = &self.limits;
        let network = network(address);
        let is_exempt = address.is_loopback()
            || limits.trusted.iter().any(|trusted| trusted.contains(&address));
        let mut open = self.open.lock();
        let of_network = open.per_network.get(&network).copied().unwrap_or_default();
        let is_admitted = if !is_exempt && of_network >= limits.per_address {
            open.close_idle(Some(network))
        } else {
            open.by_id.len() < limits.connections || open.close_idle(None)
        };
        if !is_admitted {
            metrics::counter!(LIMITED, "limit" => "connections").increment(1);
            tracing::debug!(%address, "too many connections");
            return None;
        }
        let idle_since = Arc::new(AtomicU64::new(self.moments.fetch_add(1, Ordering::Relaxed)));
        let connection = Connection { network, idle_since, closing: CancellationToken::new() };
        open.last_id += 1;
        let id = open.last_id;
        open.by_id.insert(id, connection.clone());
        *open.per_network.entry(network).or_default() += 1;
        drop(open);
        let (moments, open) = (Arc::clone(&self.moments), Arc::clone(&self.open));
        Some(Slot { id, address, connection, moments, open })
    }

    /// Closes the connection that has been idle for longest.
    pub(super) fn close_idle(&self) {
        self.open.lock().close_idle(None);
    }
}

impl Open {
    /// Closes the connection, of this network or of any, that has been idle for longest. False if
    /// none is idle.
    fn close_idle(&mut self, network: Option<IpAddr>) -> bool {
        let candidates = self.by_id.iter().filter(|(_id, connection)| {
            network.is_none_or(|network| connection.network == network)
        });
        let moments = candidates
            .map(|(id, connection)| (connection.idle_since.load(Ordering::Relaxed), *id))
            .filter(|(moment, _id)| *moment < UNSENT);
        let Some((_moment, id)) = moments.min() else { return false };
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
        let idle_since = Arc::clone(&self.connection.idle_since);
        Activity { idle_since, moments: Arc::clone(&self.moments) }
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
        self.idle_since.store(BUSY, Ordering::Relaxed);
        Busy(self.clone())
    }

    /// All of what was written is sent.
    pub(super) fn sent(&self) {
        if self.idle_since.load(Ordering::Relaxed) == UNSENT {
            let moment = self.moments.fetch_add(1, Ordering::Relaxed);
            self.idle_since.store(moment, Ordering::Relaxed);
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.idle_since.store(UNSENT, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn connections(total: usize) -> Connections {
        let trusted = vec!["10.0.0.0/8".parse().unwrap()];
        Connections::new(Limits { connections: total, per_address: 2, trusted })
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
    fn a_network_at_its_limit_closes_one_of_its_own_connections() {
        let connections = connections(100);
        let connect = |host: u8| connections.admit(IpAddr::from([192, 0, 2, host])).unwrap();
        let other = connect(1);
        let (first, second, third) = (connect(2), connect(2), connect(2));
        assert_eq!([&other, &first, &second, &third].map(is_closed), [false, true, false, false]);
    }
}
