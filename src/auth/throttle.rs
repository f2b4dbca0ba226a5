//! Slows down whoever guesses passwords.
//!
//! Only failures count, by the address that they come from. A success takes none of them back, or
//! who has one password could guess others between his own log-ins.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use tokio::time::Instant;

use super::expiring_cache::ExpiringCache;

/// Failures that cost no wait: people mistype, and several may share an address.
const FREE_FAILURES: u32 = 5;

/// The first wait. A person hardly notices it, and for a guesser it is the first of many.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// The longest wait. It leaves a guesser some 300 attempts a day, and a person who finally finds
/// his password does not give up.
const LONGEST_WAIT: Duration = Duration::from_mins(5);

/// Failures are forgotten when the last one was so long ago. Longer than the longest wait, so that
/// patience alone does not make a guesser fast again.
const FORGOTTEN_AFTER: Duration = Duration::from_mins(15);

/// An IPv6 address counts by its first 64 bits: whoever has one address has all of these.
const NETWORK: u128 = u128::MAX << 64;

/// Knows which addresses failed, how often, and when they may try again.
pub struct Throttle {
    failures: ExpiringCache<IpAddr, Failures>,
}

#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    until: Instant,
}

impl Throttle {
    /// Nobody failed yet.
    pub fn new() -> Self {
        Self { failures: ExpiringCache::new(FORGOTTEN_AFTER) }
    }

    /// How long this address has to wait; `None` if it may try now.
    pub fn wait(&self, from: IpAddr) -> Option<Duration> {
        let failures = self.failures.get(&network(from))?;
        let wait = failures.until.saturating_duration_since(Instant::now());
        (!wait.is_zero()).then_some(wait)
    }

    /// Notes that an attempt from this address failed.
    pub fn failed(&self, from: IpAddr) {
        self.failures.update(network(from), |before| {
            let count = before.map_or(1, |failures| failures.count.saturating_add(1));
            Failures { count, until: Instant::now() + wait_after(count) }
        });
    }
}

impl Default for Throttle {
    fn default() -> Self {
        Self::new()
    }
}

/// The wait after so many failures: doubles with each beyond the free ones.
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
        let guesser = address("192.0.2.1");
        let mut waits = Vec::new();
        for _ in 0..50 {
            throttle.failed(guesser);
            let wait = throttle.wait(guesser);
            waits.push(wait.unwrap_or_default().as_secs());
            advance(wait.unwrap_or_default()).await;
            assert_eq!(throttle.wait(guesser), None, "the wait is over");
        }
        assert_eq!(waits[..8], [0, 0, 0, 0, 1, 2, 4, 8]);
        assert_eq!(waits.last(), Some(&300));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_forgotten_some_time_after_the_last_one() {
        let throttle = Throttle::new();
        let guesser = address("192.0.2.1");
        for _ in 0..FREE_FAILURES {
            throttle.failed(guesser);
        }
        advance(FORGOTTEN_AFTER / 2).await;
        throttle.failed(guesser);
        assert_eq!(throttle.wait(guesser), Some(2 * FIRST_WAIT));
        advance(FORGOTTEN_AFTER).await;
        throttle.failed(guesser);
        assert_eq!(throttle.wait(guesser), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_counts_as_what_one_customer_has() {
        for (guesser, same, other) in [
            ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"),
            ("::ffff:192.0.2.1", "192.0.2.1", "::ffff:192.0.2.2"),
            ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", "2001:db8:0:2::1"),
        ] {
            let throttle = Throttle::new();
            for _ in 0..FREE_FAILURES {
                throttle.failed(address(guesser));
            }
            assert!(throttle.wait(address(same)).is_some(), "{same}");
            assert!(throttle.wait(address(other)).is_none(), "{other}");
        }
    }
}
