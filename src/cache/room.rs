//! One cached room: what all participants see of it, and the attendee record of each viewer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::time::Instant;

use crate::domain::{
    Actor, Attendee, Reason, Room, RoomOverview, RoomToken, RoomUpdated, RoomVersion, Version,
};
use crate::store;
use crate::store::Rooms;

/// How long an unused room stays cached: longer than clients wait between their polls.
pub(super) const TTL: Duration = Duration::from_mins(2);

/// Cached attendees of one room, enough for the largest webinar. Others are loaded each time.
const MAX_ATTENDEES: usize = 20_000;

/// SHA-256 of the visible part of a snapshot: the same in all processes of one version of lobbyd.
pub type Fingerprint = [u8; 32];

/// What all participants see of a room.
pub(super) struct RoomSnapshot {
    pub(super) overview: RoomOverview,
    pub(super) fingerprint: Fingerprint,
}

/// The attendee record of one viewer.
pub(super) struct AttendeeSnapshot {
    pub(super) attendee: Option<Attendee>,
    pub(super) fingerprint: Fingerprint,
    /// The room's version when the record was loaded.
    version: Version,
}

/// The result of a load: `None` if the room does not exist.
type Loaded = Option<Arc<RoomSnapshot>>;

/// A room that clients ask for.
pub(super) struct CachedRoom {
    pub(super) token: RoomToken,
    /// Counts changes, and wakes the requests that wait for one.
    generation: watch::Sender<u64>,
    /// Held while the room is loaded, so that it is loaded once for all that wait.
    loading: AsyncMutex<()>,
    state: Mutex<State>,
}

struct State {
    /// The last snapshot, or that the room does not exist, with its generation: it is current as
    /// long as the room's generation is the same.
    loaded: Option<(u64, Loaded)>,
    attendees: HashMap<Actor, Arc<AttendeeSnapshot>>,
    /// The newest version that an update has announced.
    announced: Version,
    last_used: Instant,
}

impl RoomSnapshot {
    pub(super) fn new(overview: RoomOverview) -> Self {
        let RoomOverview { room, last_message, moderators, one_to_one } = &overview;
        // A change that nobody sees leaves the fingerprint as it is.
        let visible = Room { version: Version::ZERO, changed_at: 0, ..room.clone() };
        let fingerprint = fingerprint(&(visible, last_message, moderators, one_to_one));
        Self { overview, fingerprint }
    }

    /// Whether the room is as it was when it was loaded, or was loaded after `current` was read.
    pub(super) fn is_current(&self, current: &RoomVersion) -> bool {
        let room = &self.overview.room;
        current.version < room.version
            || (current.version, current.lobby, current.room_type, current.sip)
                == (room.version, room.lobby, room.room_type, room.sip)
                && current.name == room.name
    }
}

impl AttendeeSnapshot {
    pub(super) fn new(attendee: Option<Attendee>, version: Version) -> Self {
        Self { fingerprint: fingerprint(&attendee), attendee, version }
    }

    fn is_in_call(&self) -> bool {
        self.attendee.as_ref().is_some_and(Attendee::is_in_call)
    }
}

impl CachedRoom {
    pub(super) fn new(token: RoomToken) -> Self {
        Self {
            token,
            generation: watch::Sender::new(0),
            loading: AsyncMutex::default(),
            state: Mutex::new(State {
                loaded: None,
                attendees: HashMap::new(),
                announced: Version::ZERO,
                last_used: Instant::now(),
            }),
        }
    }

    /// What wakes at the next change.
    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        locked(&self.state).last_used = Instant::now();
        self.generation.subscribe()
    }

    /// What all participants see.
    pub(super) async fn snapshot(&self, database: &dyn Rooms) -> store::Result<Loaded> {
        if let Some(current) = self.current() {
            return Ok(current);
        }
        let _loading = self.loading.lock().await;
        if let Some(current) = self.current() {
            return Ok(current);
        }
        let generation = *self.generation.borrow();
        count_load("room");
        let overview = database.overview(&self.token).await?;
        let snapshot = overview.map(|overview| Arc::new(RoomSnapshot::new(overview)));
        let mut state = locked(&self.state);
        // A change of this process may have put a newer one there meanwhile.
        if state.loaded.as_ref().is_none_or(|(loaded, _)| *loaded <= generation) {
            state.loaded = Some((generation, snapshot.clone()));
        }
        Ok(snapshot)
    }

    /// The attendee record of a viewer of `room`.
    pub(super) async fn attendee(
        &self,
        database: &dyn Rooms,
        room: &Room,
        actor: &Actor,
    ) -> store::Result<Arc<AttendeeSnapshot>> {
        if let Some(attendee) = locked(&self.state).attendees.get(actor) {
            return Ok(Arc::clone(attendee));
        }
        let generation = *self.generation.borrow();
        count_load("attendee");
        let attendee = database.attendee(room.id, actor).await?;
        let snapshot = Arc::new(AttendeeSnapshot::new(attendee, room.version));
        let mut state = locked(&self.state);
        if *self.generation.borrow() == generation {
            state.insert(actor, &snapshot);
        }
        Ok(snapshot)
    }

    /// Invalidates what an update makes stale.
    pub(super) fn apply_update(&self, update: &RoomUpdated) {
        let mut state = locked(&self.state);
        if state.apply_update(update) {
            // Still under the lock: an attendee that is being loaded is not cached then.
            self.bump_generation();
        }
    }

    /// Applies updates, and takes what their transaction has read at its end, unless a newer version
    /// is known.
    pub(super) fn put(
        &self,
        updates: &[RoomUpdated],
        room: &Arc<RoomSnapshot>,
        actor: &Actor,
        attendee: &Arc<AttendeeSnapshot>,
    ) {
        let mut state = locked(&self.state);
        for update in updates {
            state.apply_update(update);
        }
        self.bump_generation();
        if room.overview.room.version >= state.newest() {
            state.loaded = Some((*self.generation.borrow(), Some(Arc::clone(room))));
            state.insert(actor, attendee);
        }
    }

    /// Everything may have changed.
    pub(super) fn invalidate(&self) {
        let mut state = locked(&self.state);
        state.attendees.clear();
        self.bump_generation();
    }

    /// What all participants see has changed. A new lobby may have removed some from the call.
    pub(super) fn invalidate_room(&self) {
        let mut state = locked(&self.state);
        state.attendees.retain(|_actor, attendee| !attendee.is_in_call());
        self.bump_generation();
    }

    /// The record of one viewer has changed in a way that only this viewer sees.
    pub(super) fn invalidate_attendee(&self, actor: &Actor) {
        locked(&self.state).attendees.remove(actor);
    }

    /// The last snapshot, current or not.
    pub(super) fn last_snapshot(&self) -> Option<Arc<RoomSnapshot>> {
        locked(&self.state).snapshot().cloned()
    }

    /// The snapshot, or that the room does not exist, if nothing has changed since it was loaded.
    pub(super) fn current(&self) -> Option<Loaded> {
        let state = locked(&self.state);
        let (generation, snapshot) = state.loaded.as_ref()?;
        (*generation == *self.generation.borrow()).then(|| snapshot.clone())
    }

    /// A room with waiting requests counts as used. A room that does not exist is cached only until
    /// the next revalidation.
    pub(super) fn is_in_use(&self) -> bool {
        let state = locked(&self.state);
        let missing = state.loaded.as_ref().is_some_and(|(_, snapshot)| snapshot.is_none());
        self.generation.receiver_count() > 0 || (!missing && state.last_used.elapsed() < TTL)
    }

    fn bump_generation(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }
}

impl State {
    fn snapshot(&self) -> Option<&Arc<RoomSnapshot>> {
        self.loaded.as_ref().and_then(|(_, snapshot)| snapshot.as_ref())
    }

    /// The newest version of the room that is known.
    fn newest(&self) -> Version {
        let loaded = self.snapshot().map(|snapshot| snapshot.overview.room.version);
        loaded.map_or(self.announced, |loaded| loaded.max(self.announced))
    }

    /// Drops the attendees that an update makes stale. Returns whether anything is stale.
    fn apply_update(&mut self, update: &RoomUpdated) -> bool {
        let version = Version::stored(update.version);
        let before = self.attendees.len();
        let is_affected = |actor: &Actor, attendee: &AttendeeSnapshot| match &update.about {
            // A new lobby may have removed participants from the call.
            _ if update.reason == Reason::LobbyNonModerators => attendee.is_in_call(),
            _ if update.reason.affects_all_attendees() => true,
            Some(about) => about == actor,
            None => false,
        };
        self.attendees
            .retain(|actor, attendee| attendee.version >= version || !is_affected(actor, attendee));
        let loaded = self.snapshot().map(|snapshot| snapshot.overview.room.version);
        self.announced = self.announced.max(version);
        self.attendees.len() < before
            || loaded.is_none_or(|loaded| loaded < version)
            || update.reason == Reason::ConversationDeleted
    }

    fn insert(&mut self, actor: &Actor, snapshot: &Arc<AttendeeSnapshot>) {
        // Anonymous visitors are not cached: they can create cookies without limit.
        let is_anonymous = snapshot.attendee.is_none() && !actor.is_user();
        if !is_anonymous && self.attendees.len() < MAX_ATTENDEES {
            self.attendees.insert(actor.clone(), Arc::clone(snapshot));
        }
    }
}

pub(super) fn count_load(what: &'static str) {
    metrics::counter!(crate::metrics::CACHE_LOADS, "what" => what).increment(1);
}

fn fingerprint(visible: &impl Serialize) -> Fingerprint {
    let visible = serde_json::to_vec(visible).expect("domain values can be written as JSON");
    Sha256::new().chain_update(env!("CARGO_PKG_VERSION")).chain_update(visible).finalize().into()
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
