//! The rooms that clients poll, as this process knows them.
//!
//! A poll of an unchanged room costs no use of the database, and a change costs each process one
//! load of the room, however many clients wait for it. [`rooms`](crate::rooms) reads views from the
//! cache and puts its own changes into it. [`CacheSync`] applies the updates of the other processes,
//! and revalidates the cache where updates were missed or others wrote by SQL. Versions tell which
//! updates are already known. Nothing here changes a room, or decides what a viewer may see.

mod changes;
mod list;
mod room;
mod sync;

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use self::changes::Seen;
use self::list::CachedRoomList;
pub use self::room::Fingerprint;
use self::room::{AttendeeSnapshot, CachedRoom, RoomSnapshot, TTL};
pub use self::sync::CacheSync;
use crate::clock::DatabaseClock;
use crate::domain::{
    Actor, Attendee, Audience, Reason, RoomId, RoomOverview, RoomToken, RoomUpdated, RoomVersion,
};
use crate::store;
use crate::store::Database;

pub struct RoomCache {
    database: Arc<dyn Database>,
    clock: Arc<DatabaseClock>,
    rooms: Mutex<HashMap<RoomToken, Arc<CachedRoom>>>,
    lists: Mutex<HashMap<String, Arc<CachedRoomList>>>,
    /// Unix seconds of the last revalidation.
    revalidated_at: Mutex<Option<i64>>,
}

/// A room and the attendee record of one viewer, as they are cached: nothing is hidden yet.
#[derive(Clone)]
pub struct View {
    room: Arc<RoomSnapshot>,
    attendee: Arc<AttendeeSnapshot>,
}

/// Wakes when a view may have changed.
pub(crate) struct ChangeListener(Vec<Seen>);

/// Whether the updates of other processes have arrived since the last revalidation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Updates {
    Received,
    Missed,
}

impl View {
    pub(crate) fn new(overview: RoomOverview, attendee: Option<Attendee>) -> Self {
        let attendee = AttendeeSnapshot::new(attendee, overview.room.version);
        Self { room: Arc::new(RoomSnapshot::new(overview)), attendee: Arc::new(attendee) }
    }

    /// The same room as another viewer sees it.
    #[cfg(test)]
    pub(crate) fn for_another(&self, attendee: Option<Attendee>) -> Self {
        let attendee = AttendeeSnapshot::new(attendee, self.overview().room.version);
        Self { room: Arc::clone(&self.room), attendee: Arc::new(attendee) }
    }

    pub fn overview(&self) -> &RoomOverview {
        &self.room.overview
    }

    /// The viewer's attendee record, if they take part.
    pub fn attendee(&self) -> Option<&Attendee> {
        self.attendee.attendee.as_ref()
    }

    pub fn audience(&self) -> Audience {
        Audience::of(&self.overview().room, self.attendee())
    }

    /// A text about the room that is the same for the whole [`audience`](Self::audience). The first
    /// view of a room as it is writes it, for all.
    pub fn shared_text(&self, write: impl FnOnce() -> String) -> &str {
        self.room.text(self.audience(), write)
    }

    /// Views of members with the same fingerprints look the same. Those of members waiting in the
    /// lobby do not depend on what it hides, so that nobody can test guesses about that.
    pub fn fingerprint(&self) -> [Fingerprint; 2] {
        let Self { room, attendee } = self;
        if self.attendee().is_some_and(|me| me.is_waiting(&room.overview.room)) {
            return [room.waiting_fingerprint, attendee.waiting_fingerprint];
        }
        [room.fingerprint, attendee.fingerprint]
    }
}

impl ChangeListener {
    /// Waits for the first change. Never returns if nothing was viewed.
    pub(crate) async fn changed(&self) {
        if self.0.is_empty() {
            return std::future::pending().await;
        }
        let changes = self.0.iter().map(|each| Box::pin(each.next()));
        drop(futures_util::future::select_all(changes).await);
    }
}

impl RoomCache {
    pub fn new(database: Arc<dyn Database>, clock: Arc<DatabaseClock>) -> Self {
        Self {
            database,
            clock,
            rooms: Mutex::default(),
            lists: Mutex::default(),
            revalidated_at: Mutex::default(),
        }
    }

    /// A room as the actor sees it, and a listener for its changes. `None` if the room does not exist.
    /// An actor of `None` is an anonymous visitor.
    pub(crate) async fn view(
        &self,
        token: &RoomToken,
        actor: Option<&Actor>,
    ) -> store::Result<Option<(View, ChangeListener)>> {
        let cached = self.room(token);
        // Before the load, so that no change is missed in between.
        let seen = cached.seen();
        let Some(room) = cached.snapshot(&*self.database).await? else {
            return Ok(None);
        };
        let attendee = match actor {
            Some(actor) => cached.attendee(&*self.database, &room.overview.room, actor).await?,
            None => Arc::new(AttendeeSnapshot::new(None, room.overview.room.version)),
        };
        Ok(Some((View { room, attendee }, ChangeListener(vec![seen]))))
    }

    /// The rooms in which a user takes part, as they see them, and a listener for their changes.
    pub(crate) async fn list(&self, user: &str) -> store::Result<(Vec<View>, ChangeListener)> {
        let list = {
            let mut lists = self.lists.lock();
            let list = lists.entry(user.to_owned());
            Arc::clone(list.or_insert_with_key(|user| Arc::new(CachedRoomList::new(user.clone()))))
        };
        let mut changes = vec![list.seen()];
        let actor = Actor::user(user);
        let mut views = Vec::new();
        for token in list.tokens(&*self.database).await?.iter() {
            if let Some((view, mut change)) = self.view(token, Some(&actor)).await? {
                changes.append(&mut change.0);
                if view.attendee().is_some() {
                    views.push(view);
                }
            }
        }
        Ok((views, ChangeListener(changes)))
    }

    /// Invalidates what an update makes stale. It is loaded again when it is next asked for.
    pub(crate) fn apply_update(&self, update: &RoomUpdated) {
        self.apply_to_lists(update);
        if let Some(room) = self.cached(&update.token) {
            room.apply_update(update);
        }
    }

    /// Applies updates of this process, whose transaction has read `view` at its end: a cached room
    /// need not be loaded again.
    pub(crate) fn put(&self, updates: &[RoomUpdated], actor: &Actor, view: &View) {
        for update in updates {
            self.apply_to_lists(update);
        }
        if let Some(room) = self.cached(view.overview().room.token.as_str()) {
            room.put(updates, &view.room, actor, &view.attendee);
        }
    }

    /// A participant has read messages, which nobody else sees.
    pub(crate) fn invalidate_attendee(&self, token: &RoomToken, actor: &Actor) {
        if let Some(room) = self.cached(token.as_str()) {
            room.invalidate_attendee(actor);
        }
    }

    /// Updates may have been missed: everything is loaded again when it is next asked for.
    pub(crate) fn invalidate(&self) {
        for room in self.rooms.lock().values() {
            room.invalidate();
        }
        self.invalidate_lists();
    }

    /// Compares the cached rooms with the database, all at once. Changed rooms are invalidated with their
    /// attendees while updates are missed, and if a newer version was not announced.
    pub(crate) async fn revalidate(&self, updates: Updates) -> store::Result<()> {
        self.evict_idle();
        let now = self.clock.sample(&*self.database).await?.timestamp();
        if updates == Updates::Missed {
            // Nothing has announced that a user was added to a room.
            self.invalidate_lists();
        }
        let rooms: Vec<_> = self.rooms.lock().values().cloned().collect();
        if !rooms.is_empty() {
            self.invalidate_stale(&rooms, updates).await?;
            self.invalidate_readers(&rooms, now).await?;
        }
        *self.revalidated_at.lock() = Some(now);
        Ok(())
    }

    /// Compares one room with the database: a client has seen a newer version in another process, and
    /// no update has arrived.
    pub(crate) async fn catch_up(&self, token: &RoomToken) -> store::Result<()> {
        // A room that is not current is loaded again anyway.
        match self.cached(token.as_str()).filter(|room| room.current().is_some()) {
            Some(room) => self.invalidate_stale(&[room], Updates::Missed).await,
            None => Ok(()),
        }
    }

    async fn invalidate_stale(
        &self,
        rooms: &[Arc<CachedRoom>],
        updates: Updates,
    ) -> store::Result<()> {
        let tokens: Vec<_> = rooms.iter().map(|room| room.token.clone()).collect();
        let versions = self.database.room_versions(&tokens).await?;
        let versions: HashMap<&str, &RoomVersion> =
            versions.iter().map(|version| (version.token.as_str(), version)).collect();
        for room in rooms {
            let snapshot = match updates {
                // A room that is not current is loaded again anyway; its attendees are not.
                Updates::Received => room.current().flatten(),
                Updates::Missed => room.last_snapshot(),
            };
            let Some(snapshot) = snapshot else { continue };
            let version = versions.get(room.token.as_str());
            if version.is_some_and(|version| snapshot.is_current(version)) {
                continue;
            }
            metrics::counter!(crate::metrics::MISSED_UPDATES).increment(1);
            // The broker may take no updates at present, also none about attendees.
            let is_unannounced =
                version.is_some_and(|version| version.version > snapshot.overview.room.version);
            if updates == Updates::Missed || is_unannounced {
                room.invalidate();
            } else {
                room.invalidate_room();
            }
        }
        Ok(())
    }

    /// What participants have read is not announced and wakes no request: the other processes find
    /// it here.
    async fn invalidate_readers(&self, rooms: &[Arc<CachedRoom>], now: i64) -> store::Result<()> {
        let by_id: HashMap<RoomId, &Arc<CachedRoom>> = rooms
            .iter()
            .filter_map(|room| Some((room.last_snapshot()?.overview.room.id, room)))
            .collect();
        // Messages may have been read after the last revalidation, but within its second. Before the
        // first one nothing is cached that is older than the TTL.
        let since =
            self.revalidated_at.lock().map_or(now - TTL.as_secs().cast_signed(), |at| at - 1);
        for (room, actor) in self.database.read_since(since).await? {
            if let Some(room) = by_id.get(&room) {
                room.invalidate_attendee(&actor);
            }
        }
        Ok(())
    }

    /// Fails while the database answers queries only.
    pub(crate) fn check_commits(&self) -> store::Result<()> {
        self.database.check_commits()
    }

    fn evict_idle(&self) {
        self.rooms.lock().retain(|_token, room| room.is_in_use());
        self.lists.lock().retain(|_user, list| list.is_in_use());
    }

    fn apply_to_lists(&self, update: &RoomUpdated) {
        let lists = self.lists.lock();
        if let Some(about) = update.about.as_ref().filter(|about| about.is_user())
            && let Some(list) = lists.get(&about.id)
            && !list.contains(&update.token)
        {
            list.invalidate();
        }
        if update.reason == Reason::ConversationDeleted {
            for list in lists.values().filter(|list| list.contains(&update.token)) {
                list.invalidate();
            }
        }
    }

    fn invalidate_lists(&self) {
        for list in self.lists.lock().values() {
            list.invalidate();
        }
    }

    fn cached(&self, token: &str) -> Option<Arc<CachedRoom>> {
        self.rooms.lock().get(token).cloned()
    }

    fn room(&self, token: &RoomToken) -> Arc<CachedRoom> {
        let mut rooms = self.rooms.lock();
        if let Some(room) = rooms.get(token) {
            return Arc::clone(room);
        }
        let room = Arc::new(CachedRoom::new(token.clone()));
        rooms.insert(token.clone(), Arc::clone(&room));
        room
    }
}
