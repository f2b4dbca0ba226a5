//! What lobbyd keeps, and the only place that knows SQL.
//!
//! Every method is a whole use case in one transaction: it happens completely or not at all, and
//! may be repeated after an error. A future that is dropped midway leaves nothing behind but a
//! closed connection. The rules come from `domain`; this module does not retry, has no loops, and
//! publishes nothing. The tasks, the rooms and the command line use it.
//!
//! One engine (`engine`) runs the same flow on all databases; only the texts of the statements
//! differ (`dialect`). To add a statement: name it in `Statements`, and the compiler asks for it
//! in all three tables. What the HTTP API needs has one text for all three (`shared`).
//!
//! A [`Database`] is all of it: [`Timers`], [`Outbox`], [`Rooms`], [`Users`] and [`Admin`].

mod dialect;
mod engine;
mod migration;
mod mysql;
mod postgres;
mod rooms;
mod rows;
mod session;
mod shared;
mod sqlite;
mod users;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::domain::{
    Actor, Applied, Attendee, AttendeeId, Caller, ChatMessage, EventId, LobbyChange, MessageQuery,
    OutboxEvent, Room, RoomId, RoomOverview, RoomToken, RoomUpdated, RoomVersion, User, Version,
    commands::{Command, NewRoom, Refusal, Resource},
};

/// Result of a store method.
pub type Result<T> = std::result::Result<T, StoreError>;

/// Why a store method failed, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Not reachable, too slow, busy, without tables or without permission: what was asked may
    /// work later, so it is asked again.
    #[error("database unavailable")]
    Unavailable(#[source] sqlx::Error),
    /// No answer within the time that one use of the database may take.
    #[error("database did not answer within {0:?}")]
    TimedOut(Duration),
    /// The values themselves were refused, and would be again.
    #[error("database refused the values")]
    Rejected(#[source] sqlx::Error),
    /// Another process changed a row in between; repeated, it will be seen.
    #[error("{table}: a statement changed {rows} rows where {expected} were expected")]
    Conflict {
        /// Where.
        table: &'static str,
        /// What the database says.
        rows: u64,
        /// What was read just before.
        expected: usize,
    },
    /// A column has another type than lobbyd's tables have.
    #[error("database holds a column that cannot be read")]
    Unreadable(#[source] sqlx::Error),
    /// A row holds a value that means nothing.
    #[error("{0}")]
    Corrupt(String),
    /// The migrations could not be applied.
    #[error("database could not be brought up to date")]
    Migration(#[source] sqlx::migrate::MigrateError),
    /// The URL cannot be used.
    #[error("{0}")]
    Url(String),
}

impl StoreError {
    fn unusable_url(error: &sqlx::Error) -> Self {
        // The error of the URL's parser does not repeat the URL, which may hold a password.
        if let sqlx::Error::Configuration(cause) = error {
            return Self::Url(cause.to_string());
        }
        Self::Url(error.to_string())
    }
}

/// What to do about a due room that somebody else holds: another worker, or whoever joins or chats
/// there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockPolicy {
    /// Pass it over: it is soon free, and others are due as well.
    SkipLocked,
    /// Wait for it: it was passed over again and again.
    Wait,
}

/// One batch of fired timers.
#[derive(Debug, Default)]
pub struct Fired {
    /// The event of each room that was reset.
    pub events: Vec<OutboxEvent>,
    /// Rooms that were open already and only lost their timer.
    pub cleared_timers: usize,
}

impl Fired {
    /// Whether fewer rooms were due than the batch could take, so that it was the last one.
    pub fn is_short_of(&self, limit: u32) -> bool {
        u64::try_from(self.events.len() + self.cleared_timers)
            .is_ok_and(|count| count < u64::from(limit))
    }
}

/// How much waits, for metrics and the daily summary.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Scheduled timers.
    pub timers_pending: u64,
    /// Rows with a timer that can never fire: a type or object without lobby.
    pub timers_unusable: u64,
    /// Events without confirm.
    pub outbox_pending: u64,
    /// When the oldest of them was made.
    pub outbox_oldest: Option<DateTime<Utc>>,
}

/// Sets and fires the timers of rooms.
#[async_trait]
pub trait Timers: Send + Sync + 'static {
    /// Applies one change: arms, moves or disarms the room's timer. `received` is the version of
    /// a change that has none.
    async fn apply(&self, change: &LobbyChange, received: Version) -> Result<Applied>;

    /// Resets the rooms whose timer is due at `now`, at most `limit`, the longest overdue first,
    /// and writes their events to the outbox.
    ///
    /// With `claimed_until` the events are claimed for the caller, who then publishes them.
    async fn fire_due(
        &self,
        now: DateTime<Utc>,
        limit: u32,
        locked: LockPolicy,
        claimed_until: Option<DateTime<Utc>>,
    ) -> Result<Fired>;

    /// The time of the first timer: a past one, if another transaction has locked its room, or
    /// the next one.
    async fn next_due(&self) -> Result<Option<DateTime<Utc>>>;
}

/// Events that wait for their publication.
#[async_trait]
pub trait Outbox: Send + Sync + 'static {
    /// Claims unpublished events that nothing else has claimed, at most `limit`, until `until`.
    async fn claim(
        &self,
        now: DateTime<Utc>,
        limit: u32,
        until: DateTime<Utc>,
    ) -> Result<Vec<OutboxEvent>>;

    /// Ends the claim of these events; they can be claimed again from `available_at` on.
    async fn release(&self, ids: &[EventId], available_at: DateTime<Utc>) -> Result<()>;

    /// Records that the events were confirmed at `now`; they stay as history.
    async fn mark_published(&self, ids: &[EventId], now: DateTime<Utc>) -> Result<()>;

    /// Deletes events that were published before `before`, at most `limit`. Returns their number.
    async fn prune_published(&self, before: DateTime<Utc>, limit: u32) -> Result<u64>;

    /// Deletes events that were created before `before` and never confirmed, at most `limit`.
    /// Returns their number.
    async fn prune_dead(&self, before: DateTime<Utc>, limit: u32) -> Result<u64>;
}

/// The database as a whole: its tables, its time, how to reach it.
#[async_trait]
pub trait Admin: Send + Sync + 'static {
    /// Applies the migrations. Several processes may do so at once.
    async fn migrate(&self) -> Result<()>;

    /// The database's time, the one clock of all workers, in milliseconds rounded down.
    async fn now(&self) -> Result<DateTime<Utc>>;

    /// Has the database parse and plan every statement, so that none fails when it is needed.
    async fn prepare_all(&self) -> Result<()>;

    /// Counts pending timers and events. Reads every row that has a timer.
    async fn backlog(&self) -> Result<Backlog>;

    /// Counts the timers that reset their room at `since` or later, as far as history goes back.
    async fn fired_since(&self, since: DateTime<Utc>) -> Result<u64>;

    /// Checks whether this URL leads to lobbyd's tables.
    async fn try_url(&self, url: &str) -> Result<()>;

    /// Connects by this URL from now on. Connections made by the old one are closed after their
    /// current use.
    fn use_url(&self, url: &str) -> Result<()>;

    /// Closes the connections, and waits for that only briefly.
    async fn close(&self);
}

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// What is announced, and stored for that; `None` if nothing changed.
    pub update: Option<RoomUpdated>,
    /// What was said.
    pub message: Option<ChatMessage>,
    /// The caller's attendee, if he was there with a session.
    pub present: Option<AttendeeId>,
}

/// What the HTTP API does to rooms.
#[async_trait]
pub trait Rooms: Send + Sync + 'static {
    async fn room(&self, token: &RoomToken) -> Result<Option<Room>>;

    /// Makes a room, owned by the caller, and returns what is announced about it. `None` if there is
    /// one with this token.
    async fn create(
        &self,
        token: &RoomToken,
        caller: &Caller,
        new: &NewRoom,
        now: DateTime<Utc>,
    ) -> Result<Option<Vec<RoomUpdated>>>;

    /// Does to a room what the caller commands, or says why not. What is announced about it is in
    /// the outbox then, and what the chat shows is in the chat.
    async fn change(
        &self,
        token: &RoomToken,
        caller: &Caller,
        command: &Command,
        now: DateTime<Utc>,
    ) -> Result<std::result::Result<Changed, Refusal>>;

    /// Reads what everybody sees of a room.
    async fn summary(&self, token: &RoomToken) -> Result<Option<RoomOverview>>;

    /// Reads one participant's part in a room.
    async fn attendee(&self, room: RoomId, actor: &Actor) -> Result<Option<Attendee>>;

    /// The rooms in which a user takes part.
    async fn rooms_of(&self, user: &str) -> Result<Vec<RoomToken>>;

    /// By which those of these rooms that exist are known to have changed.
    async fn room_versions(&self, tokens: &[RoomToken]) -> Result<Vec<RoomVersion>>;

    /// Who has read messages since then, in Unix seconds, in which room.
    async fn read_since(&self, since: i64) -> Result<Vec<(RoomId, Actor)>>;

    /// Notes that these attendees are there.
    async fn touch(&self, attendees: &[AttendeeId], now: DateTime<Utc>) -> Result<()>;

    /// Who is in a room and was not seen since then, at most `limit`, with the room and the session.
    async fn unseen_since(
        &self,
        since: DateTime<Utc>,
        limit: u32,
    ) -> Result<Vec<(RoomToken, Actor, String)>>;

    /// The participants of a room, for one of them who may see that.
    async fn participants(
        &self,
        token: &RoomToken,
        actor: &Actor,
        look: Resource,
    ) -> Result<std::result::Result<Vec<Attendee>, Refusal>>;

    /// Messages of a room's chat, for a participant who may read it: newer ones in their order,
    /// older ones backwards.
    async fn messages(
        &self,
        token: &RoomToken,
        actor: &Actor,
        query: MessageQuery,
        now: DateTime<Utc>,
    ) -> Result<std::result::Result<Vec<ChatMessage>, Refusal>>;
}

/// The users of this server.
#[async_trait]
pub trait Users: Send + Sync + 'static {
    /// Adds a user. Returns false if there is one of this name.
    async fn add_user(&self, user: &User, password_hash: &str) -> Result<bool>;

    /// Removes a user, also from the rooms, as if he went himself. Returns false if there is none of
    /// this name.
    async fn remove_user(&self, id: &str, now: DateTime<Utc>) -> Result<bool>;

    /// Gives a user another password. Returns false if there is none of this name.
    async fn set_user_password(&self, id: &str, password_hash: &str) -> Result<bool>;

    /// Reads a user and the hash of the password.
    async fn user(&self, id: &str) -> Result<Option<(User, String)>>;

    /// All users, by name.
    async fn users(&self) -> Result<Vec<User>>;
}

/// Everything that lobbyd stores.
pub trait Database: Timers + Outbox + Rooms + Users + Admin {}

impl<T: Timers + Outbox + Rooms + Users + Admin> Database for T {}

/// How to reach the database.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Upper bound of open connections.
    pub max_connections: u32,
    /// Longest time that one use of the database may take, waiting for a connection included.
    pub timeout: Duration,
}

/// Opens the store that the URL names. Connects when it is first used, so it succeeds while the
/// database is away; only a URL that cannot be used is an error.
pub fn connect(url: &str, options: Options) -> Result<Arc<dyn Database>> {
    match url.split_once(':').map(|(scheme, _)| scheme) {
        Some("sqlite") => sqlite::connect(url, options),
        Some("postgres" | "postgresql") => postgres::connect(url, options),
        Some("mysql" | "mariadb") => mysql::connect(url, options),
        Some(_) | None => Err(StoreError::Url("expected sqlite:, postgres: or mysql:".to_owned())),
    }
}
