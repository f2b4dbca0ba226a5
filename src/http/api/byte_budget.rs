//! How many bytes of requests, or of responses, may be in memory at once: in total, and of each
//! client.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::auth::network;

/// One client may use this part of the total.
const CLIENT_SHARE: usize = 4;

#[derive(Clone)]
pub(super) struct ByteBudget {
    total: usize,
    used: Arc<Mutex<Used>>,
}

#[derive(Default)]
struct Used {
    total: usize,
    by_network: HashMap<IpAddr, usize>,
}

/// Bytes that are in use, until it is dropped.
pub(super) struct Reservation {
    bytes: usize,
    network: IpAddr,
    budget: ByteBudget,
}

impl ByteBudget {
    pub(super) fn new(total: usize) -> Self {
        Self { total, used: Arc::default() }
    }

    /// A reservation of a client, of no bytes yet.
    pub(super) fn open(&self, client: IpAddr) -> Reservation {
        Reservation { bytes: 0, network: network(client), budget: self.clone() }
    }
}

impl Reservation {
    /// Reserves more bytes. False if too many are in use, by this client or in total.
    pub(super) fn extend(&mut self, bytes: usize) -> bool {
        let ByteBudget { total, used } = &self.budget;
        let mut used = used.lock();
        let of_client = used.by_network.get(&self.network).copied().unwrap_or_default();
        if used.total + bytes > *total || of_client + bytes > self.share() {
            return false;
        }
        used.total += bytes;
        used.by_network.insert(self.network, of_client + bytes);
        self.bytes += bytes;
        true
    }

    /// How many bytes one client may use at once.
    pub(super) fn share(&self) -> usize {
        self.budget.total / CLIENT_SHARE
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut used = self.budget.used.lock();
        used.total -= self.bytes;
        if let Some(of_client) = used.by_network.get_mut(&self.network) {
            *of_client -= self.bytes;
            if *of_client == 0 {
                used.by_network.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_uses_a_quarter_and_all_use_the_total() {
        let budget = ByteBudget::new(100);
        let client = |host: u8| IpAddr::from([192, 0, 2, host]);
        let reserve = |host, bytes| {
            let mut reservation = budget.open(client(host));
            reservation.extend(bytes).then_some(reservation)
        };
        let first = reserve(1, 20).unwrap();
        assert!(reserve(1, 6).is_none());
        assert!(reserve(1, 5).is_some(), "the refused bytes are not in use");
        let mut others: Vec<_> = (2..=5).map(|host| reserve(host, 20).unwrap()).collect();
        assert!(reserve(6, 1).is_none());
        assert!(!others[0].extend(1));
        drop((first, others));
        assert!(budget.used.lock().by_network.is_empty());
        assert_eq!(budget.used.lock().total, 0);
    }
}
