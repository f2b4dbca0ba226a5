//! What pollers read: rooms as this process last saw them, kept right by what it hears.
//!
//! A poll of a room that has not changed costs no use of the database, and a change costs each
//! process one reading of the room, however many wait for it. A room has two layers: what everybody
//! sees, and each participant's own part. Every room update that is heard, or made here, says which
//! of them it makes old; versions tell what is known already. While the bus is deaf, and now and
//! then for what others write by SQL, the rooms in use are compared with the database, all at once.
//!
//! It never changes a room, and decides nothing about who may see what.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Mutex as AsyncMutex, watch},
    time::Instant,
};

use crate::{
    domain::{Actor, Attendee, LobbyChanged, Reason, Room, RoomToken, RoomUpdated, Version},
    store::{self, Conversation, Database},
};

/// Comparisons with the database that a room survives without being asked for.
const IDLE_ROUNDS: u32 = 20;

/// Parts of one room that are kept. More, as of strangers who try many cookies, are read each time.
const MOST_PARTS: usize = 20_000;

/// What a participant has read is not announced; another process counts it as unread for at most
/// this long after the next message.
const OLDEST_READ_MARK: Duration = Duration::from_mins(1);

/// The rooms that somebody asks for.
pub(super) struct Live {
    database: Arc<dyn Database>,
    rooms: Mutex<HashMap<RoomToken, Arc<Entry>>>,
    /// The lists of rooms of the users who ask for theirs.
    lists: Mutex<HashMap<String, Arc<List>>>,
}

/// A room that somebody asks for.
struct Entry {
    token: RoomToken,
    /// Counts what was heard; a reading is good for as long as it does not change.
    generation: watch::Sender<u64>,
    reading: Mutex<Option<(u64, Arc<Shared>)>>,
    /// Held while the room is read, so that it is read once for all who wait.
    turn: AsyncMutex<()>,
    parts: Mutex<HashMap<Actor, Arc<Part>>>,
    /// Comparisons since the room was last asked for.
    idle: AtomicU32,
}

/// The list of one user's rooms.
struct List {
    generation: watch::Sender<u64>,
    reading: Mutex<Option<(u64, Vec<RoomToken>)>>,
    idle: AtomicU32,
}

/// What everybody sees of a room.
pub(super) struct Shared {
    pub(super) conversation: Conversation,
    fingerprint: u64,
}

/// One participant's own part.
pub(super) struct Part {
    pub(super) attendee: Option<Attendee>,
    fingerprint: u64,
    /// Of the room, when the part was read.
    version: Version,
    comments: i64,
    read_at: Instant,
}

/// A room as one participant sees it.
#[derive(Clone)]
pub struct View {
    pub(super) shared: Arc<Shared>,
    pub(super) part: Arc<Part>,
}

impl View {
    /// The room, its last message, and how many moderators it has.
    #[must_use]
    pub fn conversation(&self) -> &Conversation {
        &self.shared.conversation
    }

    /// The participant's own part, if he takes part.
    #[must_use]
    pub fn attendee(&self) -> Option<&Attendee> {
        self.part.attendee.as_ref()
    }

    /// Two views with the same fingerprint look the same, in every process of one version.
    #[must_use]
    pub fn fingerprint(&self) -> (u64, u64) {
        (self.shared.fingerprint, self.part.fingerprint)
    }
}

/// Wakes when what was looked at may look different.
pub(super) struct Change(Vec<watch::Receiver<u64>>);

impl Change {
    /// Waits for the first change. Never returns if there is nothing that could change.
    pub(super) async fn heard(&mut self) {
        if self.0.is_empty() {
            return std::future::pending().await;
        }
        let waits = self.0.iter_mut().map(|each| Box::pin(each.changed()));
        // A sender that is gone is a change as well: its room is read anew.
        drop(futures_util::future::select_all(waits).await);
    }
}

impl Live {
    pub(super) fn new(database: Arc<dyn Database>) -> Self {
        Self { database, rooms: Mutex::default(), lists: Mutex::default() }
    }

    /// A room as the actor sees it, and how to hear of a change. `None` if there is no such room.
    /// An actor of whom nothing can be known is a stranger.
    pub(super) async fn view(
        &self,
        token: &RoomToken,
        actor: Option<&Actor>,
    ) -> store::Result<Option<(View, Change)>> {
        let entry = self.entry(token);
        // Before the reading, so that nothing is missed in between.
        let change = entry.generation.subscribe();
        let Some(shared) = self.shared(&entry).await? else {
            self.forget(token);
            return Ok(None);
        };
        let part = match actor {
            Some(actor) => self.part(&entry, &shared, actor).await?,
            None => Arc::new(Part::of(None, &shared.conversation.room)),
        };
        Ok(Some((View { shared, part }, Change(vec![change]))))
    }

    /// The rooms in which a user takes part, as he sees them, and how to hear of a change.
    pub(super) async fn list(&self, user: &str) -> store::Result<(Vec<View>, Change)> {
        let list = {
            let mut lists = locked(&self.lists);
            Arc::clone(lists.entry(user.to_owned()).or_insert_with(|| Arc::new(List::new())))
        };
        list.idle.store(0, Ordering::Relaxed);
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
    pub(super) fn hear(&self, update: &RoomUpdated) {
        if let Some(Actor { id, .. }) = update.about.as_ref().filter(|actor| actor.is_user()) {
            self.hear_of_user(id, update);
        }
        let entry = locked(&self.rooms).get(update.token.as_str()).cloned();
        let Some(entry) = entry else { return };
        let version = Version::stored(update.version);
        let mut parts = locked(&entry.parts);
        let before = parts.len();
        if update.reason.touches_everybody() {
            parts.retain(|_actor, part| part.version >= version);
        } else if let Some(actor) = &update.about {
            parts.retain(|each, part| each != actor || part.version >= version);
        }
        let known = locked(&entry.reading)
            .as_ref()
            .is_some_and(|(_, shared)| shared.conversation.room.version >= version);
        if parts.len() < before || !known || update.reason == Reason::ConversationDeleted {
            // Still under the lock: a part that is being read now is not kept then.
            advance(&entry.generation);
        }
    }

    /// Whether a lobby change that is on its way to a worker will make a room old that is in use.
    pub(super) fn awaits(&self, change: &LobbyChanged) -> bool {
        let entry = locked(&self.rooms).get(&change.token).cloned();
        let reading = entry.and_then(|entry| locked(&entry.reading).clone());
        reading.is_some_and(|(_, shared)| {
            let known = shared.conversation.room.version;
            change.version.is_none_or(|version| version > known)
        })
    }

    /// A participant has read messages: nobody else has to know.
    pub(super) fn forget_part(&self, token: &RoomToken, actor: &Actor) {
        if let Some(entry) = locked(&self.rooms).get(token.as_str()) {
            locked(&entry.parts).remove(actor);
        }
    }

    /// Something may have been missed: everything is read anew when it is next asked for.
    pub(super) fn outdate_all(&self) {
        for entry in locked(&self.rooms).values() {
            entry.outdate();
        }
        self.outdate_lists();
    }

    pub(super) fn outdate_lists(&self) {
        for list in locked(&self.lists).values() {
            advance(&list.generation);
        }
    }

    /// Compares the rooms in use with the database, in one look, and drops those that nobody asks
    /// for any more.
    pub(super) async fn compare(&self) -> store::Result<()> {
        locked(&self.rooms).retain(|_, entry| in_use(&entry.idle, &entry.generation));
        locked(&self.lists).retain(|_, list| in_use(&list.idle, &list.generation));
        let entries: Vec<Arc<Entry>> = locked(&self.rooms).values().cloned().collect();
        if entries.is_empty() {
            return Ok(());
        }
        let tokens: Vec<RoomToken> = entries.iter().map(|entry| entry.token.clone()).collect();
        let marks = self.database.marks(&tokens).await?;
        let marks: HashMap<&str, _> =
            marks.iter().map(|mark| (mark.token.as_str(), mark)).collect();
        for entry in entries {
            let reading = locked(&entry.reading).clone();
            let Some((_, shared)) = reading else { continue };
            let room = &shared.conversation.room;
            let same = marks.get(entry.token.as_str()).is_some_and(|mark| {
                // What was read in between is newer than the look.
                mark.version < room.version
                    || (mark.version == room.version && mark.lobby == room.lobby)
            });
            if !same {
                entry.outdate();
            }
        }
        Ok(())
    }

    fn hear_of_user(&self, user: &str, update: &RoomUpdated) {
        let list = locked(&self.lists).get(user).cloned();
        let Some(list) = list else { return };
        let listed = locked(&list.reading)
            .as_ref()
            .is_some_and(|(_, tokens)| tokens.iter().any(|each| each.as_str() == update.token));
        if !listed {
            advance(&list.generation);
        }
    }

    fn entry(&self, token: &RoomToken) -> Arc<Entry> {
        let mut rooms = locked(&self.rooms);
        let entry = rooms
            .entry(token.clone())
            .or_insert_with(|| Arc::new(Entry::new(token.clone())))
            .clone();
        entry.idle.store(0, Ordering::Relaxed);
        entry
    }

    /// There is no such room: whoever waits for it is told by the end of its sender.
    fn forget(&self, token: &RoomToken) {
        locked(&self.rooms).remove(token);
    }

    async fn shared(&self, entry: &Entry) -> store::Result<Option<Arc<Shared>>> {
        if let Some(shared) = entry.known() {
            return Ok(Some(shared));
        }
        let _turn = entry.turn.lock().await;
        if let Some(shared) = entry.known() {
            return Ok(Some(shared));
        }
        let generation = *entry.generation.borrow();
        let Some(conversation) = self.database.conversation(&entry.token).await? else {
            return Ok(None);
        };
        let shared = Arc::new(Shared::of(conversation));
        *locked(&entry.reading) = Some((generation, Arc::clone(&shared)));
        Ok(Some(shared))
    }

    async fn part(
        &self,
        entry: &Entry,
        shared: &Shared,
        actor: &Actor,
    ) -> store::Result<Arc<Part>> {
        let room = &shared.conversation.room;
        let known = locked(&entry.parts).get(actor).cloned();
        if let Some(part) = known.filter(|part| !part.may_have_read_on(room)) {
            return Ok(part);
        }
        let generation = *entry.generation.borrow();
        let attendee = self.database.attendee(room.id, actor).await?;
        let part = Arc::new(Part::of(attendee, room));
        let mut parts = locked(&entry.parts);
        if *entry.generation.borrow() == generation && parts.len() < MOST_PARTS {
            parts.insert(actor.clone(), Arc::clone(&part));
        }
        Ok(part)
    }

    async fn tokens(&self, list: &List, user: &str) -> store::Result<Vec<RoomToken>> {
        let generation = *list.generation.borrow();
        if let Some((then, tokens)) = &*locked(&list.reading)
            && *then == generation
        {
            return Ok(tokens.clone());
        }
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
            parts: Mutex::default(),
            idle: AtomicU32::new(0),
        }
    }

    /// What everybody sees, if nothing was heard since it was read.
    fn known(&self) -> Option<Arc<Shared>> {
        let (generation, shared) = locked(&self.reading).clone()?;
        (generation == *self.generation.borrow()).then_some(shared)
    }

    /// All of it may have changed.
    fn outdate(&self) {
        let mut parts = locked(&self.parts);
        parts.clear();
        advance(&self.generation);
    }
}

impl List {
    fn new() -> Self {
        let generation = watch::Sender::new(0);
        Self { generation, reading: Mutex::default(), idle: AtomicU32::new(0) }
    }
}

impl Shared {
    fn of(conversation: Conversation) -> Self {
        let Conversation { room, last_message, moderators, pair } = &conversation;
        // A change that nobody sees leaves the fingerprint as it is.
        let seen = Room { version: Version::ZERO, changed_at: 0, ..room.clone() };
        let fingerprint = fingerprint(&(seen, last_message, moderators, pair));
        Self { conversation, fingerprint }
    }
}

impl Part {
    fn of(attendee: Option<Attendee>, room: &Room) -> Self {
        Self {
            fingerprint: fingerprint(&attendee),
            attendee,
            version: room.version,
            comments: room.comments,
            read_at: Instant::now(),
        }
    }

    /// Whether the count of unread messages may be too high.
    fn may_have_read_on(&self, room: &Room) -> bool {
        self.comments != room.comments && self.read_at.elapsed() > OLDEST_READ_MARK
    }
}

fn advance(generation: &watch::Sender<u64>) {
    generation.send_modify(|generation| *generation += 1);
}

/// Counts a comparison. Whoever waits for a change uses the room, however long.
fn in_use(idle: &AtomicU32, generation: &watch::Sender<u64>) -> bool {
    if generation.receiver_count() > 0 {
        idle.store(0, Ordering::Relaxed);
    }
    idle.fetch_add(1, Ordering::Relaxed) < IDLE_ROUNDS
}

fn fingerprint(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    env!("CARGO_PKG_VERSION").hash(&mut hasher);
    value.hash(&mut hasher);
    hasher.finish()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
