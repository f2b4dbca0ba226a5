//! What pollers read: rooms as this process last saw them, kept right by what it hears.
//!
//! A poll of a room that has not changed costs no use of the database, and a change costs each
//! process one reading of the room, however many wait for it. A room has two layers: what everybody
//! sees, and each participant's own seat. Every room update that is heard, or made here, says which
//! of them it makes old; versions tell what is known already. While the bus is deaf, and now and
//! then for what others write by SQL, the rooms in use are compared with the database, all at once.
//!
//! It never changes a room, and decides nothing about who may see what.

mod sync;

pub use sync::CacheSync;

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::{
    sync::{Mutex as AsyncMutex, watch},
    time::Instant,
};

use crate::{
    domain::{
        Actor, Attendee, LobbyChange, Reason, Room, RoomId, RoomOverview, RoomToken, RoomUpdated,
        RoomVersion, Version,
    },
    store::{self, Database},
};

/// How long a room is kept that nobody asks for: longer than clients wait between their polls.
const KEPT: Duration = Duration::from_mins(2);

/// Seats of one room that are kept: the largest webinar's. More are read each time.
const MOST_SEATS: usize = 20_000;

/// The rooms that somebody asks for.
pub(crate) struct Live {
    database: Arc<dyn Database>,
    rooms: Mutex<HashMap<RoomToken, Arc<Entry>>>,
    /// The lists of rooms of the users who ask for theirs.
    lists: Mutex<HashMap<String, Arc<List>>>,
    /// Unix seconds of the last comparison.
    compared_at: Mutex<Option<i64>>,
}

/// What a reading has found: nothing, if there is no such room.
type Found = Option<Arc<Shared>>;

/// A room that somebody asks for.
struct Entry {
    token: RoomToken,
    /// Counts what was heard; a reading is good for as long as it does not change.
    generation: watch::Sender<u64>,
    reading: Mutex<Option<(u64, Found)>>,
    /// Held while the room is read, so that it is read once for all who wait.
    turn: AsyncMutex<()>,
    seats: Mutex<HashMap<Actor, Arc<Seat>>>,
    last_used: Mutex<Instant>,
}

/// The list of one user's rooms.
struct List {
    generation: watch::Sender<u64>,
    reading: Mutex<Option<(u64, Vec<RoomToken>)>>,
    last_used: Mutex<Instant>,
}

/// What everybody sees of a room.
pub(crate) struct Shared {
    pub(crate) summary: RoomOverview,
    fingerprint: u64,
}

/// One participant's own seat.
pub(crate) struct Seat {
    pub(crate) attendee: Option<Attendee>,
    fingerprint: u64,
    /// Of the room, when the part was read.
    version: Version,
}

/// A room as one participant sees it.
#[derive(Clone)]
pub struct View {
    pub(crate) shared: Arc<Shared>,
    pub(crate) seat: Arc<Seat>,
}

impl View {
    /// The room, its last message, and how many moderators it has.
    pub fn summary(&self) -> &RoomOverview {
        &self.shared.summary
    }

    /// The participant's own seat, if he takes seat.
    pub fn attendee(&self) -> Option<&Attendee> {
        self.seat.attendee.as_ref()
    }

    /// Two views with the same fingerprint look the same, in every process of one version.
    pub fn fingerprint(&self) -> (u64, u64) {
        (self.shared.fingerprint, self.seat.fingerprint)
    }
}

/// Wakes when what was looked at may look different.
pub(crate) struct Change(Vec<watch::Receiver<u64>>);

impl Change {
    /// Waits for the first change. Never returns if there is nothing that could change.
    pub(crate) async fn heard(&mut self) {
        if self.0.is_empty() {
            return std::future::pending().await;
        }
        let waits = self.0.iter_mut().map(|each| Box::pin(each.changed()));
        // A sender that is gone is a change as well: its room is read anew.
        drop(futures_util::future::select_all(waits).await);
    }
}

impl Live {
    pub(crate) fn new(database: Arc<dyn Database>) -> Self {
        Self {
            database,
            rooms: Mutex::default(),
            lists: Mutex::default(),
            compared_at: Mutex::default(),
        }
    }

    /// A room as the actor sees it, and how to hear of a change. `None` if there is no such room.
    /// An actor of whom nothing can be known is a stranger.
    pub(crate) async fn view(
        &self,
        token: &RoomToken,
        actor: Option<&Actor>,
    ) -> store::Result<Option<(View, Change)>> {
        let entry = self.entry(token);
        // Before the reading, so that nothing is missed in between.
        let change = entry.generation.subscribe();
        let Some(shared) = self.shared(&entry).await? else {
            return Ok(None);
        };
        let seat = match actor {
            Some(actor) => self.seat(&entry, &shared, actor).await?,
            None => Arc::new(Seat::of(None, &shared.summary.room)),
        };
        Ok(Some((View { shared, seat }, Change(vec![change]))))
    }

    /// The rooms in which a user takes part, as he sees them, and how to hear of a change.
    pub(crate) async fn list(&self, user: &str) -> store::Result<(Vec<View>, Change)> {
        let list = {
            let mut lists = locked(&self.lists);
            Arc::clone(lists.entry(user.to_owned()).or_insert_with(|| Arc::new(List::new())))
        };
        *locked(&list.last_used) = Instant::now();
        let mut changes = vec![list.generation.subscribe()];
        let actor = Actor::user(user);
        let mut views = Vec::new();
        for token in self.tokens(&list, user).await? {
            if let Some((view, mut change)) = self.view(&token, Some(&actor)).await? {
                changes.append(&mut change.0);
                if view.attendee().is_some() {
                    views.push(view);
                }
            }
        }
        Ok((views, Change(changes)))
    }

    /// Takes in a room update: what it makes old is read anew when it is next asked for.
    pub(crate) fn hear(&self, update: &RoomUpdated) {
        if let Some(Actor { id, .. }) = update.about.as_ref().filter(|actor| actor.is_user()) {
            self.hear_of_user(id, update);
        }
        if update.reason == Reason::ConversationDeleted {
            for list in locked(&self.lists).values().filter(|list| list.holds(&update.token)) {
                advance(&list.generation);
            }
        }
        let entry = locked(&self.rooms).get(update.token.as_str()).cloned();
        let Some(entry) = entry else { return };
        let version = Version::stored(update.version);
        let mut seats = locked(&entry.seats);
        let before = seats.len();
        if update.reason == Reason::LobbyNonModerators {
            // Who was in the call may have had to leave it.
            seats.retain(|_actor, seat| seat.version >= version || !seat.is_in_call());
        } else if update.reason.affects_all_attendees() {
            seats.retain(|_actor, seat| seat.version >= version);
        } else if let Some(actor) = &update.about {
            seats.retain(|each, seat| each != actor || seat.version >= version);
        }
        let known = entry.version().is_some_and(|known| known >= version);
        if seats.len() < before || !known || update.reason == Reason::ConversationDeleted {
            // Still under the lock: a seat that is being read now is not kept then.
            advance(&entry.generation);
        }
    }

    /// Whether a lobby change that is on its way to a worker will make a room old that is in use.
    pub(crate) fn awaits(&self, change: &LobbyChange) -> bool {
        let entry = locked(&self.rooms).get(&change.token).cloned();
        let known = entry.and_then(|entry| entry.version());
        known.is_some_and(|known| change.version.is_none_or(|version| version > known))
    }

    /// A participant has read messages: nobody else has to know.
    pub(crate) fn forget_seat(&self, token: &RoomToken, actor: &Actor) {
        if let Some(entry) = locked(&self.rooms).get(token.as_str()) {
            locked(&entry.seats).remove(actor);
        }
    }

    /// Something may have been missed: everything is read anew when it is next asked for.
    pub(crate) fn outdate(&self) {
        for entry in locked(&self.rooms).values() {
            entry.outdate();
        }
        self.outdate_lists();
    }

    pub(crate) fn outdate_lists(&self) {
        for list in locked(&self.lists).values() {
            advance(&list.generation);
        }
    }

    /// Drops what nobody asks for any more.
    pub(crate) fn tidy(&self) {
        locked(&self.rooms).retain(|_, entry| entry.is_in_use());
        locked(&self.lists).retain(|_, list| in_use(&list.last_used, &list.generation));
    }

    /// Compares the rooms in use with the database, in one look. While nothing is heard, a room that changed is read anew with all its seats;
    /// else what happens to seats is heard.
    pub(crate) async fn compare(&self, deaf: bool, now: DateTime<Utc>) -> store::Result<()> {
        let entries: Vec<Arc<Entry>> = locked(&self.rooms).values().cloned().collect();
        if entries.is_empty() {
            // Nothing is kept, so nothing can be missed.
            *locked(&self.compared_at) = Some(now.timestamp());
            return Ok(());
        }
        let tokens: Vec<RoomToken> = entries.iter().map(|entry| entry.token.clone()).collect();
        let room_versions = self.database.room_versions(&tokens).await?;
        let room_versions: HashMap<&str, &RoomVersion> =
            room_versions.iter().map(|mark| (mark.token.as_str(), mark)).collect();
        for entry in &entries {
            // What was heard of already is read anew by whoever asks; the seats are not.
            let shared = if deaf { entry.read() } else { entry.known().flatten() };
            let Some(shared) = shared else { continue };
            let mark = room_versions.get(entry.token.as_str());
            if mark.is_some_and(|mark| is_current(mark, &shared.summary.room)) {
                continue;
            }
            metrics::counter!(crate::metrics::MISSED_UPDATES).increment(1);
            if deaf {
                entry.outdate();
            } else {
                entry.outdate_shared();
            }
        }
        self.forget_readers(&entries, now.timestamp()).await
    }

    /// What participants have read is not announced, and wakes nobody: the other processes find it
    /// here.
    async fn forget_readers(&self, entries: &[Arc<Entry>], now: i64) -> store::Result<()> {
        let by_id: HashMap<RoomId, &Arc<Entry>> = entries
            .iter()
            .filter_map(|entry| Some((entry.read()?.summary.room.id, entry)))
            .collect();
        // Whoever read within the second of the last look may have done so after it. Before the
        // first one nothing is kept that is older than this.
        let last =
            locked(&self.compared_at).map_or(now - KEPT.as_secs().cast_signed(), |at| at - 1);
        for (room, actor) in self.database.read_since(last).await? {
            if let Some(entry) = by_id.get(&room) {
                locked(&entry.seats).remove(&actor);
            }
        }
        *locked(&self.compared_at) = Some(now);
        Ok(())
    }

    fn hear_of_user(&self, user: &str, update: &RoomUpdated) {
        let list = locked(&self.lists).get(user).cloned();
        let Some(list) = list else { return };
        if !list.holds(&update.token) {
            advance(&list.generation);
        }
    }

    fn entry(&self, token: &RoomToken) -> Arc<Entry> {
        let mut rooms = locked(&self.rooms);
        let entry = rooms
            .entry(token.clone())
            .or_insert_with(|| Arc::new(Entry::new(token.clone())))
            .clone();
        *locked(&entry.last_used) = Instant::now();
        entry
    }

    async fn shared(&self, entry: &Entry) -> store::Result<Found> {
        if let Some(shared) = entry.known() {
            return Ok(shared);
        }
        let _turn = entry.turn.lock().await;
        if let Some(shared) = entry.known() {
            return Ok(shared);
        }
        let generation = *entry.generation.borrow();
        count_reading("room");
        let summary = self.database.overview(&entry.token).await?;
        let shared = summary.map(|summary| Arc::new(Shared::of(summary)));
        *locked(&entry.reading) = Some((generation, shared.clone()));
        Ok(shared)
    }

    async fn seat(
        &self,
        entry: &Entry,
        shared: &Shared,
        actor: &Actor,
    ) -> store::Result<Arc<Seat>> {
        let room = &shared.summary.room;
        if let Some(seat) = locked(&entry.seats).get(actor) {
            return Ok(Arc::clone(seat));
        }
        let generation = *entry.generation.borrow();
        count_reading("attendee");
        let attendee = self.database.attendee(room.id, actor).await?;
        let seat = Arc::new(Seat::of(attendee, room));
        // Strangers may have as many cookies as they like.
        let stranger = seat.attendee.is_none() && !actor.is_user();
        let mut seats = locked(&entry.seats);
        let current = *entry.generation.borrow() == generation;
        if current && !stranger && seats.len() < MOST_SEATS {
            seats.insert(actor.clone(), Arc::clone(&seat));
        }
        Ok(seat)
    }

    async fn tokens(&self, list: &List, user: &str) -> store::Result<Vec<RoomToken>> {
        let generation = *list.generation.borrow();
        if let Some((then, tokens)) = &*locked(&list.reading)
            && *then == generation
        {
            return Ok(tokens.clone());
        }
        count_reading("list");
        let tokens = self.database.rooms_of(user).await?;
        *locked(&list.reading) = Some((generation, tokens.clone()));
        Ok(tokens)
    }
}

impl Entry {
    fn new(token: RoomToken) -> Self {
        Self {
            token,
            generation: watch::Sender::new(0),
            reading: Mutex::default(),
            turn: AsyncMutex::default(),
            seats: Mutex::default(),
            last_used: Mutex::new(Instant::now()),
        }
    }

    /// What everybody sees, as it was read last.
    fn read(&self) -> Option<Arc<Shared>> {
        locked(&self.reading).as_ref().and_then(|(_, shared)| shared.clone())
    }

    fn version(&self) -> Option<Version> {
        self.read().map(|shared| shared.summary.room.version)
    }

    /// What everybody sees, or that there is no such room, if nothing was heard since it was read.
    fn known(&self) -> Option<Found> {
        let (generation, shared) = locked(&self.reading).clone()?;
        (generation == *self.generation.borrow()).then_some(shared)
    }

    /// All of it may have changed.
    fn outdate(&self) {
        let mut seats = locked(&self.seats);
        seats.clear();
        advance(&self.generation);
    }

    /// What everybody sees has changed; and who was in the call may have had to leave it.
    fn outdate_shared(&self) {
        let mut seats = locked(&self.seats);
        seats.retain(|_actor, seat| !seat.is_in_call());
        advance(&self.generation);
    }

    /// A room that does not exist is kept only until the next comparison.
    fn is_in_use(&self) -> bool {
        let missing = locked(&self.reading).as_ref().is_some_and(|(_, shared)| shared.is_none());
        let wanted = self.generation.receiver_count() > 0;
        wanted || (!missing && in_use(&self.last_used, &self.generation))
    }
}

impl List {
    fn new() -> Self {
        Self {
            generation: watch::Sender::new(0),
            reading: Mutex::default(),
            last_used: Mutex::new(Instant::now()),
        }
    }

    fn holds(&self, token: &str) -> bool {
        let reading = locked(&self.reading);
        let tokens = reading.iter().flat_map(|(_, tokens)| tokens);
        tokens.into_iter().any(|each| each.as_str() == token)
    }
}

impl Shared {
    fn of(summary: RoomOverview) -> Self {
        let RoomOverview { room, last_message, moderators, one_to_one } = &summary;
        // A change that nobody sees leaves the fingerprint as it is.
        let seen = Room { version: Version::ZERO, changed_at: 0, ..room.clone() };
        let fingerprint = fingerprint(&(seen, last_message, moderators, one_to_one));
        Self { summary, fingerprint }
    }
}

impl Seat {
    fn of(attendee: Option<Attendee>, room: &Room) -> Self {
        Self { fingerprint: fingerprint(&attendee), attendee, version: room.version }
    }

    fn is_in_call(&self) -> bool {
        self.attendee.as_ref().is_some_and(Attendee::is_in_call)
    }
}

/// Whether a cached room is as it was when it was read, or was read after this version.
fn is_current(current: &RoomVersion, cached: &Room) -> bool {
    current.version < cached.version
        || (current.version, current.lobby, current.room_type, current.sip)
            == (cached.version, cached.lobby, cached.room_type, cached.sip)
            && current.name == cached.name
}

fn count_reading(what: &'static str) {
    metrics::counter!(crate::metrics::CACHE_LOADS, "what" => what).increment(1);
}

fn advance(generation: &watch::Sender<u64>) {
    generation.send_modify(|generation| *generation += 1);
}

/// Whoever waits for a change uses the room, however long.
fn in_use(last_used: &Mutex<Instant>, generation: &watch::Sender<u64>) -> bool {
    generation.receiver_count() > 0 || locked(last_used).elapsed() < KEPT
}

fn fingerprint(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    env!("CARGO_PKG_VERSION").hash(&mut hasher);
    value.hash(&mut hasher);
    hasher.finish()
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
