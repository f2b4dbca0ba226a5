//! Slows down guessing: of passwords of accounts and rooms, and of tokens of rooms.
//!
//! Only failures count: per network that they come from, in networks of growing size with growing
//! budgets, and per target, which is the account or the room. A success does not reset a count;
//! otherwise an attacker with one account could reset it between guesses. A network waits longer and
//! longer. A target is only slowed down to a guess per second, and not for networks that have known its
//! password before, so that nobody can lock out its user.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::Instant;

use super::expiring_cache::ExpiringCache;

/// The first wait of a network. A person hardly notices it; for an attacker it is the first of many.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// Failures are forgotten this long after the last one. Longer than the longest wait, so that
/// patience alone does not reset the count.
const FORGOTTEN_AFTER: Duration = Duration::from_mins(15);

/// Failures of a target, from all networks, that slow nobody down.
const FREE_FAILURES_OF_TARGET: u32 = 20;

/// Time between two guesses at a target after that.
const TARGET_INTERVAL: Duration = Duration::from_secs(1);

/// How long a network that knew a password is not slowed down for others' guesses at it.
const KNOWN_FOR: Duration = Duration::from_hours(30 * 24);

/// Networks of growing size: their prefixes in IPv4 and IPv6. A client of IPv6 has 64 bits of its own,
/// a customer usually 56 or 48. Each has this many times the budget of the one before.
const NETWORKS: [(u8, u8); 3] = [(32, 64), (24, 56), (24, 48)];
const GROWTH: u32 = 5;

/// What is guessed.
#[derive(Debug, Clone, Copy)]
struct Policy {
    /// Failures of the smallest network that cost no wait: people mistype, and several may share an
    /// address.
    free_failures: u32,
    longest_wait: Duration,
    /// Whether a network is throttled for one target only.
    per_target: bool,
}

pub struct Throttle {
    policy: Policy,
    /// One per size, so that many small networks do not displace a large one.
    networks: [ExpiringCache<(IpNet, String), Failures>; NETWORKS.len()],
    targets: ExpiringCache<String, Failures>,
    known: ExpiringCache<(IpNet, String), ()>,
}

#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    retry_at: Instant,
}

impl Throttle {
    /// For passwords of accounts. The longest wait leaves an attacker some 300 attempts a day, and a
    /// person who finally finds their password does not give up.
    pub fn logins() -> Self {
        let longest_wait = Duration::from_mins(5);
        Self::new(Policy { free_failures: 5, longest_wait, per_target: false })
    }

    /// For passwords of rooms, each on its own: who guesses that of one room does not keep those with
    /// the same address out of the others.
    pub fn room_passwords() -> Self {
        let longest_wait = Duration::from_mins(5);
        Self::new(Policy { free_failures: 5, longest_wait, per_target: true })
    }

    /// For tokens of rooms, of which there are far more than passwords of a person. Clients go on
    /// polling a room that was deleted.
    pub fn room_tokens() -> Self {
        let longest_wait = Duration::from_secs(10);
        Self::new(Policy { free_failures: 200, longest_wait, per_target: false })
    }

    fn new(policy: Policy) -> Self {
        Self {
            policy,
            networks: NETWORKS.map(|_prefixes| ExpiringCache::new(FORGOTTEN_AFTER)),
            targets: ExpiringCache::new(FORGOTTEN_AFTER),
            known: ExpiringCache::new(KNOWN_FOR),
        }
    }

    /// How long this address has to wait for a guess at the target; `None` if it may try now.
    pub fn retry_after(&self, address: IpAddr, target: &str) -> Option<Duration> {
        let of_network = |(level, failures): (usize, &ExpiringCache<_, Failures>)| {
            failures.get(&self.key(level, address, target))
        };
        let networks = self.networks.iter().enumerate().filter_map(of_network);
        let longest = networks.map(|failures| failures.retry_at).max();
        let of_target = self.targets.get(&target.to_owned()).filter(|_failures| {
            !target.is_empty() && self.known.get(&known_key(address, target)).is_none()
        });
        let retry_at = longest.max(of_target.map(|failures| failures.retry_at))?;
        let wait = retry_at.saturating_duration_since(Instant::now());
        (!wait.is_zero()).then_some(wait)
    }

    /// As [`retry_after`](Self::retry_after), just before the guess is checked: from then on, others
    /// wait for their guesses at a target that has had many.
    pub fn begin(&self, address: IpAddr, target: &str) -> Option<Duration> {
        let wait = self.retry_after(address, target);
        if wait.is_none() && self.known.get(&known_key(address, target)).is_none() {
            self.targets.change(&target.to_owned(), |failures| {
                if failures.count >= FREE_FAILURES_OF_TARGET {
                    failures.retry_at = Instant::now() + TARGET_INTERVAL;
                }
            });
        }
        wait
    }

    pub fn record_failure(&self, address: IpAddr, target: &str) {
        let mut free = self.policy.free_failures;
        for (level, failures) in self.networks.iter().enumerate() {
            // In IPv4 the two larger networks are the same.
            if level > 0 && network_of(level, address) == network_of(level - 1, address) {
                continue;
            }
            failures.update(self.key(level, address, target), |before| {
                let count = before.map_or(1, |failures| failures.count.saturating_add(1));
                let wait = wait_after(count, free).min(self.policy.longest_wait);
                Failures { count, retry_at: Instant::now() + wait }
            });
            free = free.saturating_mul(GROWTH);
        }
        if !target.is_empty() {
            self.targets.update(target.to_owned(), |before| {
                let now = Instant::now();
                let before = before.unwrap_or(Failures { count: 0, retry_at: now });
                Failures { count: before.count.saturating_add(1), ..before }
            });
        }
    }

    pub fn record_success(&self, address: IpAddr, target: &str) {
        self.known.insert(known_key(address, target), ());
    }

    fn key(&self, level: usize, address: IpAddr, target: &str) -> (IpNet, String) {
        let target = if self.policy.per_target { target } else { "" };
        (network_of(level, address), target.to_owned())
    }
}

fn known_key(address: IpAddr, target: &str) -> (IpNet, String) {
    (network_of(0, address), target.to_owned())
}

/// Doubles with each failure beyond the free ones.
fn wait_after(failures: u32, free: u32) -> Duration {
    let Some(doublings) = failures.checked_sub(free) else { return Duration::ZERO };
    let factor = 2_u32.checked_pow(doublings).unwrap_or(u32::MAX);
    FIRST_WAIT.saturating_mul(factor)
}

/// What an address counts as. On a listener for both families an IPv4 address looks like IPv6, and
/// all of them would be one network.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    network_of(0, address).addr()
}

fn network_of(level: usize, address: IpAddr) -> IpNet {
    let address = address.to_canonical();
    let (v4, v6) = NETWORKS.get(level).copied().unwrap_or_default();
    let prefix = if address.is_ipv4() { v4 } else { v6 };
    IpNet::new(address, prefix).map_or_else(|_invalid| address.into(), |network| network.trunc())
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// How many of these addresses may guess until one of them has to wait.
    fn guesses(throttle: &Throttle, addresses: impl IntoIterator<Item = String>) -> usize {
        let free = |address: &IpAddr| throttle.retry_after(*address, "").is_none();
        let addresses = addresses.into_iter().map(|text| address(&text)).take_while(free);
        addresses.inspect(|address| throttle.record_failure(*address, "")).count()
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_doubles_with_each_failure_beyond_the_free_ones() {
        let throttle = Throttle::logins();
        let attacker = address("192.0.2.1");
        let mut waits = Vec::new();
        for _ in 0..50 {
            throttle.record_failure(attacker, "");
            let wait = throttle.retry_after(attacker, "");
            waits.push(wait.unwrap_or_default().as_secs());
            advance(wait.unwrap_or_default()).await;
            assert_eq!(throttle.retry_after(attacker, ""), None, "the wait is over");
        }
        assert_eq!(waits[..8], [0, 0, 0, 0, 1, 2, 4, 8]);
        assert_eq!(waits.last(), Some(&300));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_forgotten_some_time_after_the_last_one() {
        let throttle = Throttle::logins();
        let attacker = address("192.0.2.1");
        for _ in 0..5 {
            throttle.record_failure(attacker, "");
        }
        advance(FORGOTTEN_AFTER / 2).await;
        throttle.record_failure(attacker, "");
        assert_eq!(throttle.retry_after(attacker, ""), Some(2 * FIRST_WAIT));
        advance(FORGOTTEN_AFTER).await;
        throttle.record_failure(attacker, "");
        assert_eq!(throttle.retry_after(attacker, ""), None);
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_of_one_network_share_their_count() {
        for (attacker, same, other) in [
            ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"),
            ("::ffff:192.0.2.1", "192.0.2.1", "::ffff:192.0.2.2"),
            ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", "2001:db8:0:2::1"),
        ] {
            let throttle = Throttle::logins();
            for _ in 0..5 {
                throttle.record_failure(address(attacker), "");
            }
            assert!(throttle.retry_after(address(same), "").is_some(), "{same}");
            assert!(throttle.retry_after(address(other), "").is_none(), "{other}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn larger_networks_have_larger_budgets() {
        let of_24 = (0..=255).map(|host| format!("192.0.2.{host}"));
        assert_eq!(guesses(&Throttle::logins(), of_24), 25);
        let of_56 = (0..=255).map(|subnet| format!("2001:db8:0:{subnet:x}::1"));
        assert_eq!(guesses(&Throttle::logins(), of_56), 25);
        let of_48 = (0..=255).map(|subnet| format!("2001:db8:0:{subnet:02x}00::1"));
        assert_eq!(guesses(&Throttle::logins(), of_48), 125);
        let of_32 = (0..=255).map(|site| format!("2001:db8:{site:x}::1"));
        assert_eq!(guesses(&Throttle::logins(), of_32), 256);
        let rooms = (0..2000).map(|_same| "192.0.2.1".to_owned());
        assert_eq!(guesses(&Throttle::room_tokens(), rooms), 200);
    }

    #[tokio::test(start_paused = true)]
    async fn an_account_is_slowed_down_and_never_locked_out() {
        let throttle = Throttle::logins();
        let home = address("198.51.100.1");
        throttle.record_success(home, "alice");
        let mut checked = 0;
        for host in 0..2000_u32 {
            let attacker = IpAddr::from((0x0a00_0000 + host * 256).to_be_bytes());
            if throttle.begin(attacker, "alice").is_none() {
                checked += 1;
                throttle.record_failure(attacker, "alice");
            }
            advance(Duration::from_millis(10)).await;
        }
        // 20 at once, then one a second.
        assert!((38..=41).contains(&checked), "{checked} guesses in 20 s");
        assert_eq!(throttle.begin(home, "alice"), None, "this network knew the password");
        let new = address("203.0.113.1");
        let wait = throttle.retry_after(new, "alice").unwrap_or_default();
        assert!(wait <= TARGET_INTERVAL, "{wait:?}");
        assert_eq!(throttle.retry_after(new, "bob"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn guesses_at_one_room_delay_no_other_room() {
        let throttle = Throttle::room_passwords();
        let class = address("192.0.2.1");
        for _ in 0..9 {
            throttle.record_failure(class, "one");
        }
        assert!(throttle.retry_after(class, "one").is_some());
        assert_eq!(throttle.retry_after(class, "other"), None);
    }
}
