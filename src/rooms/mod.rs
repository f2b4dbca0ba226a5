//! Application service behind the HTTP API: commands, queries, long polls and event streams, in terms of
//! the domain.
//!
//! `http` calls it. A command goes to the database; its result is published to the requests that
//! wait in this process at once, and to the other processes by the outbox. Room queries are answered
//! from the [`cache`](crate::cache); chat, participants and calls are read from the database, where
//! the lobby must be enforced. This module knows no HTTP status and no field name.

mod audit;
mod changes;
mod chat;
mod error;
mod follow;
mod guesses;
mod limits;
mod long_poll;
mod presence;
mod sip;
mod token;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::changes::Outcome;
use self::changes::{Changes, Writer};
pub use self::error::{Limit, Result, RoomError};
pub use self::follow::{Followed, Follower};
use self::guesses::Guesses;
pub use self::limits::ClientLimits;
use self::limits::{ClientKey, Hashes, LongPolls, Rate};
use self::long_poll::poll_until;
pub use self::presence::PresenceRecorder;
pub use self::sip::Sip;
use crate::auth::{Passwords, network};
use crate::cache::{ChangeListener, RoomCache, View};
use crate::clock::DatabaseClock;
use crate::domain::commands::{Command, CreateRoom, NewRoom, Refusal, Resource, require_moderator};
use crate::domain::{Actor, Attendee, Ban, Caller, Room, RoomToken, RoomType, User};
use crate::relay::RelayHandle;
use crate::store::Database;

/// When a user with too many rooms, or a guest of a full room, may try again.
const ROOMS_RETRY: Duration = Duration::from_mins(1);

/// The rooms, as the API asks for them.
pub struct RoomService {
    database: Arc<dyn Database>,
    cache: Arc<RoomCache>,
    presence: Arc<PresenceRecorder>,
    clock: Arc<DatabaseClock>,
    passwords: Arc<Passwords>,
    guesses: Guesses,
    sip: Sip,
    changes: Changes,
    change_rate: Rate<ClientKey>,
    joins: Rate<IpAddr>,
    long_polls: LongPolls,
    hashes: Hashes,
    limits: ClientLimits,
    /// Ends every wait.
    stop: CancellationToken,
}

impl RoomService {
    pub fn new(
        database: Arc<dyn Database>,
        clock: Arc<DatabaseClock>,
        passwords: Arc<Passwords>,
        sip: Sip,
        limits: ClientLimits,
        relay: RelayHandle,
        stop: CancellationToken,
    ) -> Self {
        let cache = Arc::new(RoomCache::new(Arc::clone(&database), Arc::clone(&clock)));
        let presence = Arc::new(PresenceRecorder::new(Arc::clone(&database), Arc::clone(&clock)));
        let writer = Writer {
            database: Arc::clone(&database),
            cache: Arc::clone(&cache),
            presence: Arc::clone(&presence),
            relay,
        };
        Self {
            database,
            cache,
            presence,
            clock,
            passwords,
            guesses: Guesses::default(),
            sip,
            changes: Changes::new(writer),
            change_rate: Rate::per_minute(limits.changes_per_minute, Limit::Changes),
            joins: Rate::per_minute(limits.joins_per_minute, Limit::Joins),
            long_polls: LongPolls::new(&limits),
            hashes: Hashes::default(),
            limits,
            stop,
        }
    }

    /// The rooms as this process knows them, for [`CacheSync`](crate::cache::CacheSync).
    pub fn cache(&self) -> Arc<RoomCache> {
        Arc::clone(&self.cache)
    }

    /// The activity of participants, whose [`run`](PresenceRecorder::run) writes it.
    pub fn presence(&self) -> Arc<PresenceRecorder> {
        Arc::clone(&self.presence)
    }

    /// Dial-in as it is configured.
    pub fn sip(&self) -> &Sip {
        &self.sip
    }

    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// A room as the caller sees it: one in which they take part, or a public one.
    pub async fn view(&self, token: &RoomToken, caller: Option<&Caller>) -> Result<View> {
        self.look_up(token, caller).await.map(|(view, _change)| view)
    }

    /// Waits until the `state` of the view is `wanted`, or until `deadline`, and returns both. May
    /// be dropped at any time.
    pub async fn view_when<S>(
        &self,
        token: &RoomToken,
        caller: Option<&Caller>,
        from: IpAddr,
        deadline: Option<Instant>,
        state: impl Fn(&View) -> S,
        wanted: impl Fn(&S) -> bool,
    ) -> Result<(View, S)> {
        let actor = caller.map(|caller| &caller.actor);
        let begin = || self.long_polls.begin(ClientKey::of(caller, from));
        let read = || async {
            let found = self.look_up(token, caller).await;
            self.guesses.check_token(found, |(view, _change)| view, actor, from)
        };
        poll_until(deadline, &self.stop, begin, read, state, wanted).await
    }

    /// As [`view_when`](Self::view_when), for the list of a user's rooms.
    pub async fn list_when<S>(
        &self,
        user: &str,
        deadline: Option<Instant>,
        state: impl Fn(&Vec<View>) -> S,
        wanted: impl Fn(&S) -> bool,
    ) -> Result<(Vec<View>, S)> {
        let begin = || self.long_polls.begin(ClientKey::Actor(Actor::user(user)));
        let read = || async { Ok(self.cache.list(user).await?) };
        poll_until(deadline, &self.stop, begin, read, state, wanted).await
    }

    pub async fn create(
        &self,
        caller: &Caller,
        request: &CreateRoom,
        password: Option<&str>,
    ) -> Result<View> {
        let mut new = NewRoom::of(request, self.now())?;
        self.change_rate.check(&caller.into())?;
        self.check_rooms(&caller.actor).await?;
        if let Some(password) = password {
            let _turn = self.hashes.begin(caller.into())?;
            new.password_hash = self.passwords.hash(password).await;
        }
        loop {
            // A random token is hardly ever in use.
            let token = token::random(self.sip.configured);
            if let Some(view) = self.changes.try_create(&token, caller, &new, self.now()).await? {
                return Ok(view);
            }
        }
    }

    /// Creates the one-to-one room of the caller and another user, or returns to it. Also returns
    /// whether it was created.
    pub async fn one_to_one(&self, caller: &Caller, other: &str) -> Result<(View, bool)> {
        let other = self.user(other).await?;
        let new = NewRoom::one_to_one(&caller.actor, Actor::user(other.id), other.display_name)?;
        self.change_rate.check(&caller.into())?;
        self.check_rooms(&caller.actor).await?;
        for number in 0.. {
            let token = token::one_to_one(&new.name, number);
            if let Some(view) = self.changes.try_create(&token, caller, &new, self.now()).await? {
                return Ok((view, true));
            }
            let room = self.database.room(&token).await?;
            // Former rooms keep their tokens, see `Command::RemoveAccount`.
            if room.is_none_or(|room| room.room_type != RoomType::FormerOneToOne) {
                return Ok((self.view_after(&token, caller, &Command::Return).await?, false));
            }
        }
        unreachable!("a pair of names has fewer former rooms than there are numbers")
    }

    /// Waits for the changes whose requests have ended before them.
    pub async fn finish(&self) {
        self.changes.finish().await;
    }

    /// Executes a command, also if this is dropped meanwhile. After an error nothing was done, or, if
    /// only the database's answer was lost, all of it.
    pub async fn change(
        &self,
        token: &RoomToken,
        caller: &Caller,
        command: &Command,
    ) -> Result<Outcome> {
        self.change_rate.check(&caller.into())?;
        self.changes.change(token, caller, command, self.now()).await
    }

    /// Executes a command, and returns the room as the caller sees it afterwards.
    pub async fn view_after(
        &self,
        token: &RoomToken,
        caller: &Caller,
        command: &Command,
    ) -> Result<View> {
        match self.change(token, caller, command).await?.view {
            Some(view) => Ok(view),
            None => self.view(token, Some(caller)).await,
        }
    }

    /// Whether the caller may try to join. Returns the hash of the room's password, if they need it
    /// and `password` matches it. Guesses are throttled.
    pub async fn admit(
        &self,
        token: &RoomToken,
        caller: &Caller,
        password: &str,
        from: IpAddr,
    ) -> Result<Option<String>> {
        let found = self.view(token, Some(caller)).await;
        let view = self.guesses.check_token(found, |view| view, Some(&caller.actor), from)?;
        if view.attendee().is_some() {
            return Ok(None);
        }
        let room = &view.overview().room;
        if !caller.actor.is_user() {
            self.joins.check(&network(from))?;
            let most = self.limits.guests_per_room;
            if self.database.guests(room.id).await? >= most.into() {
                return Err(RoomError::Limited { limit: Limit::Guests(most), wait: ROOMS_RETRY });
            }
        }
        let hash = &room.password_hash;
        if hash.is_empty() || password.is_empty() {
            return Ok(None);
        }
        let is_right = self.guesses.check_password(&self.passwords, password, room, from).await?;
        Ok(is_right.then(|| hash.clone()))
    }

    /// Sets the password that non-members need to join; empty for none.
    pub async fn set_password(
        &self,
        token: &RoomToken,
        caller: &Caller,
        password: &str,
    ) -> Result<View> {
        // Before the hash, which is expensive.
        self.check_moderator(token, caller).await?;
        let hash = match password {
            "" => String::new(),
            password => {
                let _turn = self.hashes.begin(caller.into())?;
                self.passwords.hash(password).await
            }
        };
        self.view_after(token, caller, &Command::SetPassword(hash)).await
    }

    /// Adds a user of this server to a room.
    pub async fn add(&self, token: &RoomToken, caller: &Caller, user: &str) -> Result<()> {
        // Only moderators may learn which users exist.
        self.check_moderator(token, caller).await?;
        let User { id, display_name, .. } = self.user(user).await?;
        self.change(token, caller, &Command::Add { user: Actor::user(id), display_name }).await?;
        Ok(())
    }

    /// The participants of a room, or of its call, and the room, for a participant who may see them.
    pub async fn participants(
        &self,
        token: &RoomToken,
        caller: &Caller,
        resource: Resource,
    ) -> Result<(Room, Vec<Attendee>)> {
        let (room, all) = self.database.participants(token, &caller.actor, resource).await?;
        let me = all.iter().find(|attendee| attendee.actor == caller.actor);
        self.presence.record(me, caller.client.as_ref());
        Ok((room, all))
    }

    /// The bans of a room, for a moderator.
    pub async fn bans(&self, token: &RoomToken, caller: &Caller) -> Result<Vec<Ban>> {
        Ok(self.database.bans(token, &caller.actor).await?)
    }

    /// Refuses a user who owns too many rooms.
    async fn check_rooms(&self, user: &Actor) -> Result<()> {
        let most = self.limits.rooms_per_user;
        if self.database.owned_rooms(&user.id).await? < most.into() {
            return Ok(());
        }
        Err(RoomError::Limited { limit: Limit::Rooms(most), wait: ROOMS_RETRY })
    }

    async fn check_moderator(&self, token: &RoomToken, caller: &Caller) -> Result<()> {
        let room = self.view(token, Some(caller)).await?.overview().room.id;
        let attendee = self.database.attendee(room, &caller.actor).await?;
        require_moderator(attendee.as_ref())?;
        Ok(())
    }

    async fn user(&self, id: &str) -> Result<User> {
        let (user, _hash) = self.database.user(id).await?.ok_or(Refusal::NoUser)?;
        Ok(user)
    }

    async fn look_up(
        &self,
        token: &RoomToken,
        caller: Option<&Caller>,
    ) -> Result<(View, ChangeListener)> {
        let actor = caller.map(|caller| &caller.actor);
        let (view, change) = self.cache.view(token, actor).await?.ok_or(Refusal::NoRoom)?;
        if view.attendee().is_none() && !view.overview().room.is_public() {
            return Err(Refusal::NoRoom.into());
        }
        let client = caller.and_then(|caller| caller.client.as_ref());
        self.presence.record(view.attendee(), client);
        Ok((view, change))
    }
}
