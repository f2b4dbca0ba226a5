//! Slows failed logins down, for each address.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Failures that cost nothing: somebody may mistype.
const FREE: u32 = 5;

/// Wait after the next one; it doubles with each.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// Longest wait. A guesser gets 288 attempts a day.
const LONGEST_WAIT: Duration = Duration::from_mins(5);

/// After this time without a failure an address begins anew.
const MEMORY: Duration = Duration::from_mins(15);

/// Addresses that are remembered.
const MOST: usize = 10_000;

/// Failures of each address.
#[derive(Default)]
pub(super) struct Throttle {
    failures: Mutex<HashMap<IpAddr, Failures>>,
}

#[derive(Clone, Copy)]
struct Failures {
    number: u32,
    last: Instant,
}

impl Failures {
    /// What is left of the wait.
    fn wait(self) -> Option<Duration> {
        let doublings = self.number.checked_sub(FREE + 1)?;
        let factor = 2_u32.checked_pow(doublings).unwrap_or(u32::MAX);
        let wait = FIRST_WAIT.saturating_mul(factor).min(LONGEST_WAIT);
        wait.checked_sub(self.last.elapsed()).filter(|left| !left.is_zero())
    }
}

impl Throttle {
    /// How long the address has to wait before it may try again.
    pub(super) fn wait(&self, address: IpAddr) -> Option<Duration> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.get(&network(address))?.wait()
    }

    /// Notes a failure.
    pub(super) fn failed(&self, address: IpAddr) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= MOST {
            failures.retain(|_address, each| each.last.elapsed() < MEMORY);
        }
        if failures.len() >= MOST {
            let oldest = failures.iter().min_by_key(|(_, each)| each.last).map(|(each, _)| *each);
            oldest.and_then(|address| failures.remove(&address));
        }
        let now = Instant::now();
        let entry = failures.entry(network(address)).or_insert(Failures { number: 0, last: now });
        let number = if entry.last.elapsed() < MEMORY { entry.number } else { 0 };
        *entry = Failures { number: number.saturating_add(1), last: now };
    }
}

/// One who has an IPv6 address mostly has 2^64 of them.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn waits_double_after_some_failures() {
        let throttle = Throttle::default();
        let guesser = address("192.0.2.1");
        for _ in 0..FREE {
            throttle.failed(guesser);
            assert_eq!(throttle.wait(guesser), None);
        }
        for seconds in [1, 2, 4, 8] {
            throttle.failed(guesser);
            let wait = Duration::from_secs(seconds);
            assert_eq!(throttle.wait(guesser), Some(wait));
            tokio::time::advance(wait).await;
            assert_eq!(throttle.wait(guesser), None);
        }
        for _ in 0..100 {
            throttle.failed(guesser);
        }
        assert_eq!(throttle.wait(guesser), Some(LONGEST_WAIT));
        assert_eq!(throttle.wait(address("192.0.2.2")), None);
        tokio::time::advance(MEMORY).await;
        throttle.failed(guesser);
        assert_eq!(throttle.wait(guesser), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_of_ipv6_counts_as_one() {
        let throttle = Throttle::default();
        for host in 0..=FREE {
            throttle.failed(address(&format!("2001:db8::{host:x}")));
        }
        assert!(throttle.wait(address("2001:db8::ffff")).is_some());
        assert_eq!(throttle.wait(address("2001:db8:0:1::1")), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_memory_is_bounded() {
        let throttle = Throttle::default();
        for number in 0..20_000_u32 {
            throttle.failed(IpAddr::V4(number.into()));
        }
        assert_eq!(throttle.failures.lock().unwrap().len(), MOST);
    }
}
