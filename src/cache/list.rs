//! The cached list of one user's rooms: their tokens. The rooms themselves are cached once for all.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::room::{TTL, count_load};
use crate::domain::RoomToken;
use crate::store;
use crate::store::Rooms;

pub(super) struct CachedRoomList {
    user: String,
    /// Counts changes, and wakes the requests that wait for one.
    generation: watch::Sender<u64>,
    /// The tokens with their generation: they are current as long as that of the list is the same.
    loaded: Mutex<Option<(u64, Arc<[RoomToken]>)>>,
    last_used: Mutex<Instant>,
}

impl CachedRoomList {
    pub(super) fn new(user: String) -> Self {
        Self {
            user,
            generation: watch::Sender::new(0),
            loaded: Mutex::default(),
            last_used: Mutex::new(Instant::now()),
        }
    }

    /// A receiver that is notified of the next change.
    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        *self.last_used.lock() = Instant::now();
        self.generation.subscribe()
    }

    pub(super) async fn tokens(&self, database: &dyn Rooms) -> store::Result<Arc<[RoomToken]>> {
        let generation = *self.generation.borrow();
        if let Some((loaded, tokens)) = &*self.loaded.lock()
            && *loaded == generation
        {
            return Ok(Arc::clone(tokens));
        }
        count_load("list");
        let tokens: Arc<[RoomToken]> = database.rooms_of(&self.user).await?.into();
        *self.loaded.lock() = Some((generation, Arc::clone(&tokens)));
        Ok(tokens)
    }

    pub(super) fn contains(&self, token: &str) -> bool {
        let loaded = self.loaded.lock();
        loaded.as_ref().is_some_and(|(_, tokens)| tokens.iter().any(|each| each.as_str() == token))
    }

    pub(super) fn invalidate(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// A list with waiting requests counts as used.
    pub(super) fn is_in_use(&self) -> bool {
        self.generation.receiver_count() > 0 || self.last_used.lock().elapsed() < TTL
    }
}
