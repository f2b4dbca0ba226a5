//! One cached room: what all participants see of it, and the attendee record of each viewer.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::changes::{Changes, Seen};
use crate::domain::{
    Actor, Attendee, Audience, Reason, Room, RoomOverview, RoomToken, RoomUpdated, RoomVersion,
    Version,
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
    /// Of what the lobby does not hide.
    pub(super) waiting_fingerprint: Fingerprint,
    texts: Texts,
}

/// What is written for all viewers of a kind, by those who read the cache.
#[derive(Default)]
struct Texts {
    non_members: OnceLock<Box<str>>,
    waiting: OnceLock<Box<str>>,
    admitted: OnceLock<Box<str>>,
}

pub(super) struct AttendeeSnapshot {
    pub(super) attendee: Option<Attendee>,
    pub(super) fingerprint: Fingerprint,
    /// Of what the lobby does not hide.
    pub(super) waiting_fingerprint: Fingerprint,
    /// The room's version when the record was loaded.
    version: Version,
}

/// The result of a load: `None` if the room does not exist.
type Loaded = Option<Arc<RoomSnapshot>>;

pub(super) struct CachedRoom {
    pub(super) token: RoomToken,
    changes: Changes,
    state: Mutex<State>,
}

/// A load of one generation, whose result all requests share that need it.
struct Load {
    generation: u64,
    result: OnceCell<Loaded>,
}

struct State {
    /// The last snapshot, or that the room does not exist, with its generation: it is current as
    /// long as the room's generation is the same.
    loaded: Option<(u64, Loaded)>,
    /// The last load that was begun.
    load: Option<Arc<Load>>,
    attendees: HashMap<Actor, Arc<AttendeeSnapshot>>,
    /// The newest version that an update has announced.
    announced: Version,
    last_used: Instant,
}

impl RoomSnapshot {
    pub(super) fn new(overview: RoomOverview) -> Self {
        let RoomOverview { room, last_message, moderators, is_single_user, one_to_one } = &overview;
        // A change that nobody sees leaves the fingerprint as it is.
        let visible = Room { version: Version::ZERO, changed_at: 0, ..room.clone() };
        let unhidden = Room {
            timer_reached: None,
            password_hash: String::new(),
            comments: 0,
            ..visible.clone()
        };
        let last_activity = last_message.as_ref().map(|message| message.created_at);
        let waiting_fingerprint =
            fingerprint(&(unhidden, room.has_password(), last_activity, one_to_one));
        let fingerprint =
            fingerprint(&(visible, last_message, moderators, is_single_user, one_to_one));
        Self { overview, fingerprint, waiting_fingerprint, texts: Texts::default() }
    }

    pub(super) fn text(&self, audience: Audience, write: impl FnOnce() -> String) -> &str {
        let text = match audience {
            Audience::NonMembers => &self.texts.non_members,
            Audience::Waiting => &self.texts.waiting,
            Audience::Admitted => &self.texts.admitted,
        };
        text.get_or_init(|| write().into_boxed_str())
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
        let unhidden = attendee.clone().map(|attendee| Attendee {
            last_read_message: 0,
            comments_read: 0,
            ..attendee
        });
        let waiting_fingerprint = fingerprint(&unhidden);
        Self { fingerprint: fingerprint(&attendee), waiting_fingerprint, attendee, version }
    }

    fn last_read_message(&self) -> i64 {
        self.attendee.as_ref().map_or(0, |attendee| attendee.last_read_message)
    }

    fn is_in_call(&self) -> bool {
        self.attendee.as_ref().is_some_and(Attendee::is_in_call)
    }
}

impl CachedRoom {
    pub(super) fn new(token: RoomToken) -> Self {
        Self {
            token,
            changes: Changes::default(),
            state: Mutex::new(State {
                loaded: None,
                load: None,
                attendees: HashMap::new(),
                announced: Version::ZERO,
                last_used: Instant::now(),
            }),
        }
    }

    /// The changes so far, from which a request can wait for the next one.
    pub(super) fn seen(&self) -> Seen {
        self.state.lock().last_used = Instant::now();
        self.changes.seen()
    }

    /// What all participants see.
    pub(super) async fn snapshot(&self, database: &dyn Rooms) -> store::Result<Loaded> {
        if let Some(current) = self.current() {
            return Ok(current);
        }
        let load = self.load();
        let result = load.result.get_or_try_init(|| self.read(database, load.generation)).await?;
        Ok(result.clone())
    }

    /// The load of the current generation.
    fn load(&self) -> Arc<Load> {
        let mut state = self.state.lock();
        let generation = self.changes.generation();
        if let Some(load) = state.load.as_ref().filter(|load| load.generation == generation) {
            return Arc::clone(load);
        }
        let load = Arc::new(Load { generation, result: OnceCell::new() });
        state.load = Some(Arc::clone(&load));
        load
    }

    async fn read(&self, database: &dyn Rooms, generation: u64) -> store::Result<Loaded> {
        count_load("room");
        let overview = database.overview(&self.token).await?;
        let snapshot = overview.map(|overview| Arc::new(RoomSnapshot::new(overview)));
        let mut state = self.state.lock();
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
        if let Some(attendee) = self.state.lock().attendees.get(actor) {
            return Ok(Arc::clone(attendee));
        }
        let generation = self.changes.generation();
        count_load("attendee");
        let attendee = database.attendee(room.id, actor).await?;
        let snapshot = Arc::new(AttendeeSnapshot::new(attendee, room.version));
        let mut state = self.state.lock();
        if self.changes.generation() == generation {
            state.insert(actor, &snapshot);
        }
        Ok(snapshot)
    }

    pub(super) fn apply_update(&self, update: &RoomUpdated) {
        let mut state = self.state.lock();
        if state.apply_update(update) {
            // Still under the lock: an attendee that is being loaded is not cached then.
            self.changes.add();
        }
    }

    /// Applies updates, and takes what their transaction has read at its end, unless a newer version
    /// is known. The attendee record replaces a cached one only, and none with a later read marker:
    /// the viewer may have read messages since the transaction began.
    pub(super) fn put(
        &self,
        updates: &[RoomUpdated],
        room: &Arc<RoomSnapshot>,
        actor: &Actor,
        attendee: &Arc<AttendeeSnapshot>,
    ) {
        let mut state = self.state.lock();
        let cached = state.attendees.get(actor).map(|cached| cached.last_read_message());
        let mut is_stale = false;
        for update in updates {
            is_stale |= state.apply_update(update);
        }
        let is_newest = room.overview.room.version >= state.newest();
        if is_stale || is_newest {
            self.changes.add();
        }
        if is_newest {
            state.loaded = Some((self.changes.generation(), Some(Arc::clone(room))));
            if cached.is_some_and(|cached| cached <= attendee.last_read_message()) {
                state.insert(actor, attendee);
            }
        }
    }

    /// Everything may have changed.
    pub(super) fn invalidate(&self) {
        let mut state = self.state.lock();
        state.attendees.clear();
        self.changes.add();
    }

    /// What all participants see has changed. A new lobby may have removed some from the call.
    pub(super) fn invalidate_room(&self) {
        let mut state = self.state.lock();
        state.attendees.retain(|_actor, attendee| !attendee.is_in_call());
        self.changes.add();
    }

    /// The record of one viewer has changed in a way that only this viewer sees.
    pub(super) fn invalidate_attendee(&self, actor: &Actor) {
        self.state.lock().attendees.remove(actor);
    }

    /// The last snapshot, current or not.
    pub(super) fn last_snapshot(&self) -> Option<Arc<RoomSnapshot>> {
        self.state.lock().snapshot().cloned()
    }

    /// The snapshot, or that the room does not exist, if nothing has changed since it was loaded.
    pub(super) fn current(&self) -> Option<Loaded> {
        let state = self.state.lock();
        let (generation, snapshot) = state.loaded.as_ref()?;
        (*generation == self.changes.generation()).then(|| snapshot.clone())
    }

    /// A room with waiting requests counts as used. A room that does not exist is cached only until
    /// the next revalidation.
    pub(super) fn is_in_use(&self) -> bool {
        let state = self.state.lock();
        let missing = state.loaded.as_ref().is_some_and(|(_, snapshot)| snapshot.is_none());
        self.changes.are_awaited() || (!missing && state.last_used.elapsed() < TTL)
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
            Some(about) if about == actor => true,
            Some(_) | None => update.mentioned.contains(actor),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{AttendeeId, ParticipantType, Permissions};

    fn snapshot(version: i64) -> (RoomUpdated, Arc<RoomSnapshot>) {
        let room = Room { version: Version::stored(version), ..Room::example() };
        let update = RoomUpdated::of(&room, Reason::ConversationRenamed, None);
        let overview = RoomOverview {
            room,
            last_message: None,
            moderators: 1,
            is_single_user: true,
            one_to_one: Vec::new(),
        };
        (update, Arc::new(RoomSnapshot::new(overview)))
    }

    fn attendee(last_read_message: i64, version: i64) -> Arc<AttendeeSnapshot> {
        let attendee = Attendee {
            id: AttendeeId(1),
            actor: Actor::user("alice"),
            display_name: "Alice".to_owned(),
            participant_type: ParticipantType::Owner,
            permissions: Permissions::DEFAULT,
            pin: None,
            last_read_message,
            comments_read: 0,
            read_at: 0,
            last_mention: 0,
            sessions: Vec::new(),
        };
        Arc::new(AttendeeSnapshot::new(Some(attendee), Version::stored(version)))
    }

    fn put(room: &CachedRoom, version: i64, last_read_message: i64) {
        let (update, snapshot) = snapshot(version);
        let attendee = attendee(last_read_message, version);
        room.put(&[update], &snapshot, &Actor::user("alice"), &attendee);
    }

    fn version(room: &CachedRoom) -> Option<i64> {
        let snapshot = room.current().flatten()?;
        Some(snapshot.overview.room.version.milliseconds())
    }

    #[test]
    fn the_newest_of_two_results_stays_in_whatever_order_they_arrive() {
        let room = CachedRoom::new(Room::example().token);
        put(&room, 12, 0);
        assert_eq!(version(&room), Some(12));
        let generation = room.changes.generation();
        put(&room, 11, 0);
        assert_eq!(version(&room), Some(12));
        assert_eq!(room.changes.generation(), generation, "an older result wakes no request");
        room.apply_update(&snapshot(14).0);
        put(&room, 13, 0);
        assert_eq!(version(&room), None, "a newer version was announced");
    }

    #[test]
    fn a_result_does_not_take_a_read_marker_back() {
        let room = CachedRoom::new(Room::example().token);
        let alice = Actor::user("alice");
        let read = |room: &CachedRoom| {
            room.state.lock().attendees.get(&alice).map(|cached| cached.last_read_message())
        };
        put(&room, 11, 5);
        assert_eq!(read(&room), None, "it may have been invalidated since");
        room.state.lock().insert(&alice, &attendee(7, 11));
        put(&room, 12, 5);
        assert_eq!(read(&room), Some(7));
        put(&room, 13, 9);
        assert_eq!(read(&room), Some(9));
    }
}
