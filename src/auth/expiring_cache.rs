//! What is remembered for a while, and never more of it than fits.
//!
//! Nothing here sleeps or cleans up by itself: what is over is never given out, and is dropped when
//! something new comes in.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Upper bound of what one [`ExpiringCache`] remembers, so that nobody fills the memory with names,
/// passwords or addresses. Enough for the clients of a large webinar, and a few megabytes.
pub(super) const MOST: usize = 10_000;

/// Values that are remembered since they were written, each for the same time. When there are too
/// many, the oldest goes.
pub(super) struct ExpiringCache<K, V> {
    kept: Duration,
    entries: Mutex<Entries<K, V>>,
}

struct Entries<K, V> {
    by_key: HashMap<K, Entry<V>>,
    /// Keys by the number of their entry. As all are kept for the same time, the oldest is also
    /// the first to be over.
    by_age: BTreeMap<u64, K>,
    last_number: u64,
}

struct Entry<V> {
    number: u64,
    until: Instant,
    value: V,
}

impl<K: Clone + Eq + Hash, V: Clone> ExpiringCache<K, V> {
    /// Remembers nothing yet, and later each value for the time `kept`.
    pub(super) fn new(kept: Duration) -> Self {
        let entries = Entries { by_key: HashMap::new(), by_age: BTreeMap::new(), last_number: 0 };
        Self { kept, entries: Mutex::new(entries) }
    }

    /// What is remembered under the key.
    pub(super) fn get(&self, key: &K) -> Option<V> {
        let entries = self.entries();
        let entry = entries.by_key.get(key)?;
        (entry.until > Instant::now()).then(|| entry.value.clone())
    }

    /// Remembers the value, from now on.
    pub(super) fn put(&self, key: K, value: V) {
        self.update(key, |_before| value);
    }

    /// Remembers, from now on, what `change` makes of what is remembered.
    pub(super) fn update(&self, key: K, change: impl FnOnce(Option<V>) -> V) {
        let now = Instant::now();
        let mut entries = self.entries();
        entries.drop_over(now);
        let value = change(entries.remove(&key).map(|entry| entry.value));
        entries.insert(key, now + self.kept, value);
    }

    /// Remembers nothing under the key any more.
    pub(super) fn forget(&self, key: &K) {
        self.entries().remove(key);
    }

    fn entries(&self) -> MutexGuard<'_, Entries<K, V>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash, V> Entries<K, V> {
    fn drop_over(&mut self, now: Instant) {
        while let Some(oldest) = self.by_age.first_entry() {
            if self.by_key.get(oldest.get()).is_some_and(|entry| entry.until > now) {
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

    fn insert(&mut self, key: K, until: Instant, value: V) {
        if self.by_key.len() >= MOST
            && let Some((_number, oldest)) = self.by_age.pop_first()
        {
            self.by_key.remove(&oldest);
        }
        self.last_number += 1;
        let number = self.last_number;
        self.by_age.insert(number, key.clone());
        self.by_key.insert(key, Entry { number, until, value });
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const KEPT: Duration = Duration::from_mins(1);

    fn sizes<K: Clone + Eq + Hash, V: Clone>(recent: &ExpiringCache<K, V>) -> (usize, usize) {
        let entries = recent.entries();
        (entries.by_key.len(), entries.by_age.len())
    }

    #[tokio::test(start_paused = true)]
    async fn a_value_is_over_after_its_time_however_often_it_is_read() {
        let recent = ExpiringCache::new(KEPT);
        recent.put("key", 1);
        advance(KEPT / 2).await;
        assert_eq!(recent.get(&"key"), Some(1));
        advance(KEPT / 2).await;
        assert_eq!(recent.get(&"key"), None);
        recent.update("key", |before| before.unwrap_or(7));
        assert_eq!(recent.get(&"key"), Some(7));
    }

    #[tokio::test(start_paused = true)]
    async fn a_value_that_is_written_again_is_young_again() {
        let recent = ExpiringCache::new(KEPT);
        recent.put("key", 1);
        advance(KEPT / 2).await;
        recent.update("key", |before| before.unwrap() + 1);
        advance(KEPT / 2).await;
        assert_eq!(recent.get(&"key"), Some(2));
        assert_eq!(sizes(&recent), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_over_is_dropped_when_something_new_comes() {
        let recent = ExpiringCache::new(KEPT);
        for key in 0..100 {
            recent.put(key, ());
        }
        advance(KEPT).await;
        recent.put(100, ());
        assert_eq!(sizes(&recent), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_goes_when_there_are_too_many() {
        let recent = ExpiringCache::new(KEPT);
        for key in 0..MOST {
            recent.put(key, ());
        }
        recent.put(0, ());
        recent.put(MOST, ());
        assert_eq!(recent.get(&1), None, "the oldest");
        assert_eq!(
            (recent.get(&0), recent.get(&2), recent.get(&MOST)),
            (Some(()), Some(()), Some(()))
        );
        assert_eq!(sizes(&recent), (MOST, MOST));
    }
}
