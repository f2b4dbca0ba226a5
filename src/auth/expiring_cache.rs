//! A bounded map whose entries expire.
//!
//! It has no task of its own: an expired entry is never returned, and is evicted when the next one is
//! written. It uses tokio's clock, which tests can pause.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Upper bound of entries, so that a client cannot fill the memory with names, passwords or
/// addresses. Enough for the users of a large site, in some megabytes.
pub(super) const CAPACITY: usize = 50_000;

/// Each entry expires a fixed time after it was written. A full cache evicts the oldest entry.
pub(super) struct ExpiringCache<K, V> {
    ttl: Duration,
    entries: Mutex<Entries<K, V>>,
}

struct Entries<K, V> {
    by_key: HashMap<K, Entry<V>>,
    /// Keys by the sequence number of their entry. All entries live equally long, so the oldest is
    /// the first to expire.
    by_age: BTreeMap<u64, K>,
    last_number: u64,
}

struct Entry<V> {
    number: u64,
    expires_at: Instant,
    value: V,
}

impl<K: Clone + Eq + Hash, V: Clone> ExpiringCache<K, V> {
    pub(super) fn new(ttl: Duration) -> Self {
        let entries = Entries { by_key: HashMap::new(), by_age: BTreeMap::new(), last_number: 0 };
        Self { ttl, entries: Mutex::new(entries) }
    }

    pub(super) fn get(&self, key: &K) -> Option<V> {
        let entries = self.entries.lock();
        let entry = entries.by_key.get(key)?;
        (entry.expires_at > Instant::now()).then(|| entry.value.clone())
    }

    pub(super) fn insert(&self, key: K, value: V) {
        self.update(key, |_before| value);
    }

    /// Writes what `change` makes of the current value, atomically.
    pub(super) fn update(&self, key: K, change: impl FnOnce(Option<V>) -> V) {
        let now = Instant::now();
        let mut entries = self.entries.lock();
        entries.evict_expired(now);
        let value = change(entries.remove(&key).map(|entry| entry.value));
        entries.insert(key, now + self.ttl, value);
    }

    /// Changes an entry, if there is one, and does not extend its life.
    pub(super) fn change(&self, key: &K, change: impl FnOnce(&mut V)) {
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.by_key.get_mut(key) {
            change(&mut entry.value);
        }
    }

    pub(super) fn remove(&self, key: &K) {
        self.entries.lock().remove(key);
    }
}

impl<K: Clone + Eq + Hash, V> Entries<K, V> {
    fn evict_expired(&mut self, now: Instant) {
        while let Some(oldest) = self.by_age.first_entry() {
            if self.by_key.get(oldest.get()).is_some_and(|entry| entry.expires_at > now) {
                return;
            }
            self.by_key.remove(&oldest.remove());
        }
    }

    fn remove(&mut self, key: &K) -> Option<Entry<V>> {
        let entry = self.by_key.remove(key)?;
        self.by_age.remove(&entry.number);
        Some(entry)
    }

    fn insert(&mut self, key: K, expires_at: Instant, value: V) {
        if self.by_key.len() >= CAPACITY
            && let Some((_number, oldest)) = self.by_age.pop_first()
        {
            self.by_key.remove(&oldest);
        }
        self.last_number += 1;
        let number = self.last_number;
        self.by_age.insert(number, key.clone());
        self.by_key.insert(key, Entry { number, expires_at, value });
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const TTL: Duration = Duration::from_mins(1);

    fn sizes<K: Clone + Eq + Hash, V: Clone>(cache: &ExpiringCache<K, V>) -> (usize, usize) {
        let entries = cache.entries.lock();
        (entries.by_key.len(), entries.by_age.len())
    }

    #[tokio::test(start_paused = true)]
    async fn reading_an_entry_does_not_extend_its_life() {
        let cache = ExpiringCache::new(TTL);
        cache.insert("key", 1);
        advance(TTL / 2).await;
        assert_eq!(cache.get(&"key"), Some(1));
        advance(TTL / 2).await;
        assert_eq!(cache.get(&"key"), None);
        cache.update("key", |before| before.unwrap_or(7));
        assert_eq!(cache.get(&"key"), Some(7));
    }

    #[tokio::test(start_paused = true)]
    async fn writing_an_entry_extends_its_life() {
        let cache = ExpiringCache::new(TTL);
        cache.insert("key", 1);
        advance(TTL / 2).await;
        cache.update("key", |before| before.unwrap() + 1);
        advance(TTL / 2).await;
        assert_eq!(cache.get(&"key"), Some(2));
        assert_eq!(sizes(&cache), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn expired_entries_are_evicted_by_the_next_write() {
        let cache = ExpiringCache::new(TTL);
        for key in 0..100 {
            cache.insert(key, ());
        }
        advance(TTL).await;
        cache.insert(100, ());
        assert_eq!(sizes(&cache), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_cache_evicts_the_oldest_entry() {
        let cache = ExpiringCache::new(TTL);
        for key in 0..CAPACITY {
            cache.insert(key, ());
        }
        cache.insert(0, ());
        cache.insert(CAPACITY, ());
        assert_eq!(cache.get(&1), None, "the oldest");
        assert_eq!(
            (cache.get(&0), cache.get(&2), cache.get(&CAPACITY)),
            (Some(()), Some(()), Some(()))
        );
        assert_eq!(sizes(&cache), (CAPACITY, CAPACITY));
    }
}
