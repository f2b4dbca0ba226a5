//! The cached list of one user's rooms: their tokens. The rooms themselves are cached once for all.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::changes::{Changes, Seen};
use super::room::{TTL, count_load};
use crate::domain::RoomToken;
use crate::store;
use crate::store::Rooms;

pub(super) struct CachedRoomList {
    user: String,
    changes: Changes,
    /// The tokens with their generation: they are current as long as that of the list is the same.
    loaded: Mutex<Option<(u64, Arc<[RoomToken]>)>>,
    last_used: Mutex<Instant>,
}

impl CachedRoomList {
    pub(super) fn new(user: String) -> Self {
        Self {
            user,
            changes: Changes::default(),
            loaded: Mutex::default(),
            last_used: Mutex::new(Instant::now()),
        }
    }

    /// The changes so far, from which a request can wait for the next one.
    pub(super) fn seen(&self) -> Seen {
        *self.last_used.lock() = Instant::now();
        self.changes.seen()
    }

    pub(super) async fn tokens(&self, database: &dyn Rooms) -> store::Result<Arc<[RoomToken]>> {
        let generation = self.changes.generation();
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
        self.changes.add();
    }

    /// A list with waiting requests counts as used.
    pub(super) fn is_in_use(&self) -> bool {
        self.changes.are_awaited() || self.last_used.lock().elapsed() < TTL
    }
}
