//! The door of the HTTP API: what it may ask, in the words of the domain.
//!
//! A command goes to the database, and what it changed is told to those who wait in this process at
//! once, and to all others by the outbox. A look comes from what this process has seen and heard, or
//! from the database where the lobby has to hold people back for sure. This module knows no status
//! and no field name.

mod sip;
mod token;

use std::{
    collections::BTreeSet,
    future::Future,
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

pub use self::sip::Sip;
pub use crate::cache::View;
use crate::cache::{Change, Live, locked};
pub use crate::store::StoreError;
use crate::{
    auth::{Passwords, Throttle},
    clock::DatabaseClock,
    domain::{
        Actor, Attendee, AttendeeId, Caller, ChatMessage, LobbyChange, MessageQuery, RoomToken,
        RoomUpdated, User,
        commands::{Command, CreateRoom, NewRoom, Refusal, Resource, require_moderator},
    },
    relay::RelayHandle,
    store::{self, Changed, Database},
};

/// Attendees that one statement notes as present.
const PRESENCE_BATCH: usize = 200;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The rules do not allow it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Too many passwords from this address were wrong. It may try again after this time.
    #[error("too many wrong passwords, the next may come in {0:?}")]
    Throttled(Duration),
    /// The database cannot do it now.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<store::CommandError> for CommandError {
    fn from(error: store::CommandError) -> Self {
        match error {
            store::CommandError::Refused(refusal) => refusal.into(),
            store::CommandError::Store(error) => error.into(),
        }
    }
}

/// Result of a method of the service.
pub type Result<T> = std::result::Result<T, CommandError>;

/// The rooms, as the API asks for them.
pub struct Service {
    database: Arc<dyn Database>,
    live: Arc<Live>,
    clock: Arc<DatabaseClock>,
    passwords: Arc<Passwords>,
    /// For the passwords of rooms.
    throttle: Throttle,
    /// Who was there since presence was last noted, in the order of their rows.
    seen: Mutex<BTreeSet<AttendeeId>>,
    /// Ends every wait.
    stop: CancellationToken,
    sip: Sip,
    /// Wakes the relay after events were written to the outbox.
    relay: RelayHandle,
}

impl Service {
    /// Serves from this database. What it hears comes by [`hear`](Self::hear).
    pub fn new(
        database: Arc<dyn Database>,
        clock: Arc<DatabaseClock>,
        passwords: Arc<Passwords>,
        sip: Sip,
        relay: RelayHandle,
        stop: CancellationToken,
    ) -> Self {
        let live = Arc::new(Live::new(Arc::clone(&database)));
        Self {
            database,
            live,
            clock,
            passwords,
            throttle: Throttle::new(),
            seen: Mutex::default(),
            stop,
            sip,
            relay,
        }
    }

    /// Dial-in as it is configured.
    pub fn sip(&self) -> &Sip {
        &self.sip
    }

    /// The database's time.
    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// The room as the caller sees it: one in which he takes part, or a public one.
    ///
    /// # Errors
    ///
    /// There is none for the caller, or the database is away.
    pub async fn view(&self, token: &RoomToken, actor: Option<&Actor>) -> Result<View> {
        self.look(token, actor).await.map(|(view, _change)| view)
    }

    /// The same, but waits until it `looks` different, or until `deadline`. Whoever drops the
    /// future leaves nothing behind.
    ///
    /// # Errors
    ///
    /// There is none for the caller, or not any more, or the database is away.
    pub async fn view_when(
        &self,
        token: &RoomToken,
        actor: Option<&Actor>,
        deadline: Instant,
        looks_different: impl Fn(&View) -> bool,
    ) -> Result<View> {
        self.held_until(deadline, || self.look(token, actor), looks_different).await
    }

    /// The rooms in which a user takes part; waits until they `look` different, or until
    /// `deadline`.
    ///
    /// # Errors
    ///
    /// The database is away.
    pub async fn list_when(
        &self,
        user: &str,
        deadline: Instant,
        look_different: impl Fn(&Vec<View>) -> bool,
    ) -> Result<Vec<View>> {
        let read = || async { Ok(self.live.list(user).await?) };
        self.held_until(deadline, read, look_different).await
    }

    /// Makes a group or public room, and returns its token.
    ///
    /// # Errors
    ///
    /// The wish cannot be fulfilled, or the database is away.
    pub async fn create(
        &self,
        caller: &Caller,
        wish: &CreateRoom,
        password: Option<&str>,
    ) -> Result<RoomToken> {
        let mut new = NewRoom::of(wish, self.now())?;
        if let Some(password) = password {
            new.password_hash = self.passwords.hash(password).await;
        }
        loop {
            // Hardly ever is one taken.
            let token = token::random(self.sip.configured);
            if let Some(created) = self.database.create(&token, caller, &new, self.now()).await? {
                self.tell(&created.updates);
                return Ok(token);
            }
        }
    }

    /// Makes the room of the caller and another user, or comes back to it. Returns its token, and
    /// whether it was made.
    ///
    /// # Errors
    ///
    /// There is no such user, or the database is away.
    pub async fn one_to_one(&self, caller: &Caller, other: &str) -> Result<(RoomToken, bool)> {
        let other = self.user(other).await?;
        let new = NewRoom::one_to_one(&caller.actor, Actor::user(other.id), other.display_name)?;
        let token = token::one_to_one(&new.name);
        if let Some(created) = self.database.create(&token, caller, &new, self.now()).await? {
            self.tell(&created.updates);
            return Ok((token, true));
        }
        self.change(&token, caller, &Command::Return).await?;
        Ok((token, false))
    }

    /// Does to a room what the caller commands.
    ///
    /// # Errors
    ///
    /// The rules do not allow it, or the database is away: then nothing was done, or, if only its
    /// answer was lost, all of it.
    pub async fn change(
        &self,
        token: &RoomToken,
        caller: &Caller,
        command: &Command,
    ) -> Result<Changed> {
        let changed = self.database.change(token, caller, command, self.now()).await?;
        let present = changed.attendee.iter().filter(|attendee| attendee.presence.is_some());
        locked(&self.seen).extend(present.map(|attendee| attendee.id));
        self.tell(changed.update.as_slice());
        Ok(changed)
    }

    /// The hash of the room's password, if the caller needs it to join and gives it. Guesses are
    /// slowed down for the address that they come from.
    ///
    /// # Errors
    ///
    /// There is no such room, too many guesses were wrong, or the database is away.
    pub async fn prove(
        &self,
        token: &RoomToken,
        actor: &Actor,
        password: &str,
        from: IpAddr,
    ) -> Result<Option<String>> {
        let view = self.view(token, Some(actor)).await?;
        let hash = &view.summary().room.password_hash;
        if hash.is_empty() || password.is_empty() || view.attendee().is_some() {
            return Ok(None);
        }
        let verified = self.passwords.verify(password, hash, from, &self.throttle).await;
        Ok(verified.map_err(CommandError::Throttled)?.then(|| hash.clone()))
    }

    /// Sets a room's password for strangers; empty for none.
    ///
    /// # Errors
    ///
    /// As for [`change`](Self::change).
    pub async fn set_password(
        &self,
        token: &RoomToken,
        caller: &Caller,
        password: &str,
    ) -> Result<()> {
        // Whoever may not set it costs no hash.
        self.check_moderator(token, caller).await?;
        let hash = match password {
            "" => String::new(),
            password => self.passwords.hash(password).await,
        };
        self.change(token, caller, &Command::SetPassword(hash)).await?;
        Ok(())
    }

    /// Adds a user of this server to a room.
    ///
    /// # Errors
    ///
    /// There is no such user, or as for [`change`](Self::change).
    pub async fn add(&self, token: &RoomToken, caller: &Caller, user: &str) -> Result<()> {
        // Whoever may not add anybody does not learn who has an account.
        self.check_moderator(token, caller).await?;
        let User { id, display_name, .. } = self.user(user).await?;
        self.change(token, caller, &Command::Add { user: Actor::user(id), display_name }).await?;
        Ok(())
    }

    async fn check_moderator(&self, token: &RoomToken, caller: &Caller) -> Result<()> {
        let room = self.view(token, Some(&caller.actor)).await?.summary().room.id;
        let me = self.database.attendee(room, &caller.actor).await?;
        require_moderator(me.as_ref())?;
        Ok(())
    }

    async fn user(&self, id: &str) -> Result<User> {
        let (user, _hash) = self.database.user(id).await?.ok_or(Refusal::NoUser)?;
        Ok(user)
    }

    /// The participants of a room, or of its call, for one of them who may see that.
    ///
    /// # Errors
    ///
    /// The caller may not, or the database is away.
    pub async fn participants(
        &self,
        token: &RoomToken,
        actor: &Actor,
        look: Resource,
    ) -> Result<Vec<Attendee>> {
        let all = self.database.participants(token, actor, look).await?;
        self.note(all.iter().find(|each| each.actor == *actor));
        Ok(all)
    }

    /// Messages of the chat; if there are none newer, waits for some until `deadline`.
    ///
    /// # Errors
    ///
    /// The caller may not read it, or has to wait in the lobby by now, or the database is away.
    pub async fn messages(
        &self,
        token: &RoomToken,
        actor: &Actor,
        query: MessageQuery,
        deadline: Instant,
    ) -> Result<Vec<ChatMessage>> {
        loop {
            let (view, mut change) = self.look(token, Some(actor)).await?;
            let messages = self.database.messages(token, actor, query, self.now()).await?;
            if !messages.is_empty() {
                if query.mark_read {
                    self.live.forget_seat(token, actor);
                }
                return Ok(messages);
            }
            if !query.newer
                || !self.said_or_closed(token, actor, &view, &mut change, deadline).await?
            {
                return Ok(messages);
            }
        }
    }

    /// Waits until there is another last message, or the caller's part is another one. False if
    /// there is none until `deadline`.
    async fn said_or_closed(
        &self,
        token: &RoomToken,
        actor: &Actor,
        view: &View,
        change: &mut Change,
        deadline: Instant,
    ) -> Result<bool> {
        let seen = view.fingerprint();
        loop {
            if !self.heard_by(deadline, change).await {
                return Ok(false);
            }
            let (now, next) = self.look(token, Some(actor)).await?;
            if now.fingerprint() != seen {
                return Ok(true);
            }
            *change = next;
        }
    }

    /// Takes in an update that another process announces.
    pub fn hear(&self, update: &RoomUpdated) {
        self.live.hear(update);
    }

    /// Whether somebody here looks at a room that a lobby change on its way to a worker will change.
    pub fn awaits(&self, change: &LobbyChange) -> bool {
        self.live.awaits(change)
    }

    /// Something may have been missed: all is read anew when it is next asked for.
    pub fn outdate(&self) {
        self.live.outdate();
    }

    /// Compares the rooms in use with the database, in one look. `deaf` if nothing was heard lately.
    ///
    /// # Errors
    ///
    /// The database is away.
    pub async fn compare(&self, deaf: bool) -> store::Result<()> {
        self.live.tidy();
        let now = self.clock.sample(&*self.database).await?;
        if deaf {
            // Nothing tells of a room that a user was added to.
            self.live.outdate_lists();
        }
        self.live.compare(deaf, now).await
    }

    /// Notes in the database who was there since the last time, so that their sessions last.
    ///
    /// # Errors
    ///
    /// The database is away; what was not noted is noted the next time.
    pub async fn note_presence(&self) -> store::Result<()> {
        let mut seen: Vec<AttendeeId> =
            std::mem::take(&mut *locked(&self.seen)).into_iter().collect();
        while !seen.is_empty() {
            let batch = seen.split_off(seen.len().saturating_sub(PRESENCE_BATCH));
            if let Err(error) = self.database.touch(&batch, self.now()).await {
                (*locked(&self.seen)).extend(seen.into_iter().chain(batch));
                return Err(error);
            }
        }
        Ok(())
    }

    async fn look(&self, token: &RoomToken, actor: Option<&Actor>) -> Result<(View, Change)> {
        let (view, change) = self.live.view(token, actor).await?.ok_or(Refusal::NoRoom)?;
        if view.attendee().is_none() && !view.summary().room.is_public() {
            return Err(Refusal::NoRoom.into());
        }
        self.note(view.attendee());
        Ok((view, change))
    }

    /// Whoever does or asks something in a room is there, if he has joined.
    fn note(&self, me: Option<&Attendee>) {
        let present = me.filter(|me| me.presence.is_some());
        locked(&self.seen).extend(present.map(|me| me.id));
    }

    /// Reads until what was read is wanted, or until `deadline`; in between it waits for a change.
    async fn held_until<T, F>(
        &self,
        deadline: Instant,
        read: impl Fn() -> F,
        wanted: impl Fn(&T) -> bool,
    ) -> Result<T>
    where
        F: Future<Output = Result<(T, Change)>>,
    {
        let (mut seen, mut change) = read().await?;
        if wanted(&seen) || deadline <= Instant::now() {
            return Ok(seen);
        }
        let _held = Held::new();
        while self.heard_by(deadline, &mut change).await {
            (seen, change) = read().await?;
            if wanted(&seen) {
                break;
            }
        }
        Ok(seen)
    }

    /// Waits for a change; false if there is none until `deadline`, or until the process stops.
    async fn heard_by(&self, deadline: Instant, change: &mut Change) -> bool {
        tokio::select! {
            () = self.stop.cancelled() => false,
            heard = timeout_at(deadline, change.heard()) => heard.is_ok(),
        }
    }

    /// Tells those who wait in this process at once, and the relay to tell the others.
    fn tell(&self, updates: &[RoomUpdated]) {
        if updates.is_empty() {
            return;
        }
        for update in updates {
            tracing::info!(
                room.token = update.token,
                version = update.version,
                reason = update.reason.name(),
                "room changed"
            );
            self.live.hear(update);
        }
        self.relay.wake();
    }
}

/// Counts a request that is held.
struct Held;

impl Held {
    fn new() -> Self {
        metrics::gauge!(crate::metrics::LONG_POLLS).increment(1);
        Self
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        metrics::gauge!(crate::metrics::LONG_POLLS).decrement(1);
    }
}
