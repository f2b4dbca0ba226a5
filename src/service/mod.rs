//! The door of the HTTP API: what it may ask, in the words of the domain.
//!
//! A command goes to the database, and what it changed is told to those who wait in this process at
//! once, and to all others by the outbox. A look comes from [`live`](self), or from the database
//! where the lobby has to hold people back for sure. This module knows no status and no field name.

mod listener;
mod live;

use std::{future::Future, sync::Arc};

use chrono::{DateTime, Utc};
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

pub use self::{listener::Updates, live::View};
pub use crate::store::{ChatMessage, StoreError, User};
use crate::{
    accounts::Passwords,
    clock::DatabaseClock,
    domain::{
        Actor, Attendee, Caller, MessageQuery, RoomToken, RoomUpdated,
        conversation::{Command, Look, NewConversation, Refusal},
    },
    store::{Changed, Database},
    telemetry,
};
use live::{Change, Live};

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The rules do not allow it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The database cannot do it now.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Result of a method of the service.
pub type Result<T> = std::result::Result<T, Failure>;

/// Dial-in as it is configured on this server.
#[derive(Debug, Clone, Default)]
pub struct Sip {
    /// Whether there is a dial-in at all.
    pub configured: bool,
    /// What its users are told.
    pub dialin_info: String,
    /// Groups that may enable it; empty for everybody.
    pub groups: Vec<String>,
}

impl Sip {
    /// Whether the user is in one of the groups that may enable dial-in.
    #[must_use]
    pub fn may_enable(&self, user: &User) -> bool {
        self.groups.is_empty() || self.groups.iter().any(|group| user.groups.contains(group))
    }
}

/// The rooms, as the API asks for them.
pub struct Service {
    database: Arc<dyn Database>,
    live: Arc<Live>,
    clock: Arc<DatabaseClock>,
    passwords: Arc<Passwords>,
    sip: Sip,
    /// Rung when events were stored that the relay is to publish.
    left: Arc<Notify>,
}

impl Service {
    /// Serves from this database. What it hears comes by the [`Updates`].
    #[must_use]
    pub fn new(
        database: Arc<dyn Database>,
        clock: Arc<DatabaseClock>,
        passwords: Arc<Passwords>,
        sip: Sip,
        left: Arc<Notify>,
    ) -> Self {
        let live = Arc::new(Live::new(Arc::clone(&database)));
        Self { database, live, clock, passwords, sip, left }
    }

    /// Dial-in as it is configured.
    #[must_use]
    pub fn sip(&self) -> &Sip {
        &self.sip
    }

    /// The database's time.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// Hashes and proves passwords of rooms.
    #[must_use]
    pub fn passwords(&self) -> &Passwords {
        &self.passwords
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
        held_until(deadline, || self.look(token, actor), looks_different).await
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
        held_until(deadline, read, look_different).await
    }

    /// Makes a room. `None` if there is one with this token.
    ///
    /// # Errors
    ///
    /// The database is away.
    pub async fn create(&self, caller: &Caller, new: &NewConversation) -> Result<Option<()>> {
        let Some(updates) = self.database.create(caller, new, self.now()).await? else {
            return Ok(None);
        };
        self.tell(&updates);
        Ok(Some(()))
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
        let changed = self.database.change(token, caller, command, self.now()).await??;
        self.tell(changed.update.as_slice());
        Ok(changed)
    }

    /// The password's hash of the room, if the password fits it.
    ///
    /// # Errors
    ///
    /// There is no such room, or the database is away.
    pub async fn prove(&self, token: &RoomToken, password: &str) -> Result<Option<String>> {
        let (view, _change) = self.live.view(token, None).await?.ok_or(Refusal::NoRoom)?;
        let hash = &view.conversation().room.password_hash;
        let fits = !hash.is_empty() && self.passwords.fits(password, hash).await;
        Ok(fits.then(|| hash.clone()))
    }

    /// A user by name.
    ///
    /// # Errors
    ///
    /// There is none of this name, or the database is away.
    pub async fn user(&self, id: &str) -> Result<User> {
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
        look: Look,
    ) -> Result<Vec<Attendee>> {
        Ok(self.database.participants(token, actor, look).await??)
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
            let messages = self.database.messages(token, actor, query).await??;
            if !messages.is_empty() {
                if query.mark_read {
                    self.live.forget_part(token, actor);
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
            if timeout_at(deadline, change.heard()).await.is_err() {
                return Ok(false);
            }
            let (now, next) = self.look(token, Some(actor)).await?;
            if now.fingerprint() != seen {
                return Ok(true);
            }
            *change = next;
        }
    }

    async fn look(&self, token: &RoomToken, actor: Option<&Actor>) -> Result<(View, Change)> {
        let (view, change) = self.live.view(token, actor).await?.ok_or(Refusal::NoRoom)?;
        if view.attendee().is_none() && !view.conversation().room.is_public() {
            return Err(Refusal::NoRoom.into());
        }
        Ok((view, change))
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
        self.left.notify_one();
    }
}

/// Reads until what was read is wanted, or until `deadline`; in between it waits for a change.
async fn held_until<T, F>(
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
    while timeout_at(deadline, change.heard()).await.is_ok() {
        (seen, change) = read().await?;
        if wanted(&seen) {
            break;
        }
    }
    Ok(seen)
}

/// Counts a request that is held.
struct Held;

impl Held {
    fn new() -> Self {
        metrics::gauge!(telemetry::HELD).increment(1);
        Self
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        metrics::gauge!(telemetry::HELD).decrement(1);
    }
}
