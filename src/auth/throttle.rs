//! Slows down password guessing.
//!
//! Only failures count, per client address. A success does not reset the count; otherwise an attacker
//! with one account could reset it between guesses.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use tokio::time::Instant;

use super::expiring_cache::ExpiringCache;

/// Failures that cost no wait: people mistype, and several may share an address.
const FREE_FAILURES: u32 = 5;

/// The first wait. A person hardly notices it; for an attacker it is the first of many.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// The longest wait. It leaves an attacker some 300 attempts a day, and a person who finally finds
/// their password does not give up.
const LONGEST_WAIT: Duration = Duration::from_mins(5);

/// Failures are forgotten this long after the last one. Longer than the longest wait, so that
/// patience alone does not reset the count.
const FORGOTTEN_AFTER: Duration = Duration::from_mins(15);

/// An IPv6 address counts by its first 64 bits: a client with one address has all of these.
const NETWORK: u128 = u128::MAX << 64;

pub struct Throttle {
    failures: ExpiringCache<IpAddr, Failures>,
}

#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    retry_at: Instant,
}

impl Throttle {
    pub fn new() -> Self {
        Self { failures: ExpiringCache::new(FORGOTTEN_AFTER) }
    }

    /// How long this address has to wait; `None` if it may try now.
    pub fn retry_after(&self, address: IpAddr) -> Option<Duration> {
        let failures = self.failures.get(&network(address))?;
        let wait = failures.retry_at.saturating_duration_since(Instant::now());
        (!wait.is_zero()).then_some(wait)
    }

    pub fn record_failure(&self, address: IpAddr) {
        self.failures.update(network(address), |before| {
            let count = before.map_or(1, |failures| failures.count.saturating_add(1));
            Failures { count, retry_at: Instant::now() + wait_after(count) }
        });
    }
}

impl Default for Throttle {
    fn default() -> Self {
        Self::new()
    }
}

/// Doubles with each failure beyond the free ones.
fn wait_after(failures: u32) -> Duration {
    let Some(doublings) = failures.checked_sub(FREE_FAILURES) else { return Duration::ZERO };
    let factor = 2_u32.checked_pow(doublings).unwrap_or(u32::MAX);
    FIRST_WAIT.saturating_mul(factor).min(LONGEST_WAIT)
}

/// What an address counts as. On a listener for both families an IPv4 address looks like IPv6, and
/// all of them would be one network.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & NETWORK).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_doubles_with_each_failure_beyond_the_free_ones() {
        let throttle = Throttle::new();
        let attacker = address("192.0.2.1");
        let mut waits = Vec::new();
        for _ in 0..50 {
            throttle.record_failure(attacker);
            let wait = throttle.retry_after(attacker);
            waits.push(wait.unwrap_or_default().as_secs());
            advance(wait.unwrap_or_default()).await;
            assert_eq!(throttle.retry_after(attacker), None, "the wait is over");
        }
        assert_eq!(waits[..8], [0, 0, 0, 0, 1, 2, 4, 8]);
        assert_eq!(waits.last(), Some(&300));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_forgotten_some_time_after_the_last_one() {
        let throttle = Throttle::new();
        let attacker = address("192.0.2.1");
        for _ in 0..FREE_FAILURES {
            throttle.record_failure(attacker);
        }
        advance(FORGOTTEN_AFTER / 2).await;
        throttle.record_failure(attacker);
        assert_eq!(throttle.retry_after(attacker), Some(2 * FIRST_WAIT));
        advance(FORGOTTEN_AFTER).await;
        throttle.record_failure(attacker);
        assert_eq!(throttle.retry_after(attacker), None);
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_of_one_network_share_their_count() {
        for (attacker, same, other) in [
            ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"),
            ("::ffff:192.0.2.1", "192.0.2.1", "::ffff:192.0.2.2"),
            ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", "2001:db8:0:2::1"),
        ] {
            let throttle = Throttle::new();
            for _ in 0..FREE_FAILURES {
                throttle.record_failure(address(attacker));
            }
            assert!(throttle.retry_after(address(same)).is_some(), "{same}");
            assert!(throttle.retry_after(address(other)).is_none(), "{other}");
        }
    }
}
