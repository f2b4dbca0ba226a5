//! What was found right a short time ago.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use sha2::{Digest, Sha256};
use tokio::time::Instant;

/// How long something is remembered: many polls, and not long after a password was changed.
const MEMORY: Duration = Duration::from_mins(1);

/// How many are remembered: a large webinar's participants.
const MOST: usize = 10_000;

/// Stands for secrets without holding them.
pub(super) type Key = [u8; 32];

/// A bounded memory of values by secrets.
pub(super) struct Recent<V> {
    /// Makes the digests of this process useless elsewhere.
    pepper: [u8; 32],
    entries: Mutex<HashMap<Key, (Instant, V)>>,
}

impl<V> Default for Recent<V> {
    fn default() -> Self {
        Self { pepper: rand::random(), entries: Mutex::default() }
    }
}

impl<V: Clone> Recent<V> {
    /// The digest of these texts.
    pub(super) fn key(&self, texts: &[&str]) -> Key {
        let mut hasher = Sha256::new_with_prefix(self.pepper);
        for text in texts {
            // The length keeps "ab", "c" from "a", "bc".
            hasher.update(text.len().to_le_bytes());
            hasher.update(text.as_bytes());
        }
        hasher.finalize().into()
    }

    pub(super) fn get(&self, key: &Key) -> Option<V> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, value) = entries.get(key)?;
        (since.elapsed() < MEMORY).then(|| value.clone())
    }

    pub(super) fn put(&self, key: Key, value: V) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= MOST {
            entries.retain(|_key, (since, _value)| since.elapsed() < MEMORY);
        }
        if entries.len() >= MOST {
            entries.clear();
        }
        entries.insert(key, (Instant::now(), value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_value_is_forgotten_after_a_while() {
        let recent = Recent::default();
        let key = recent.key(&["alice", "secret"]);
        assert_eq!(recent.get(&key), None);
        recent.put(key, 7);
        assert_eq!(recent.get(&key), Some(7));
        assert_eq!(recent.get(&recent.key(&["alices", "ecret"])), None);
        tokio::time::advance(MEMORY).await;
        assert_eq!(recent.get(&key), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_memory_is_bounded() {
        let recent = Recent::default();
        for number in 0..=MOST {
            recent.put(recent.key(&[&number.to_string()]), ());
        }
        assert!(recent.entries.lock().unwrap().len() <= MOST);
    }
}
