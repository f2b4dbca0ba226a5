//! What lobbyd stores, and the only place that knows SQL.
//!
//! Every method of the traits is a whole use case in one transaction: it happens completely or not
//! at all, and may be repeated after an error. A future that is dropped midway leaves nothing
//! behind but a closed connection. The rules come from `domain`; this module publishes
//! nothing, and retries only what another transaction was in the way of while a person waits. The tasks, the rooms and the command line use it.
//!
//! One flow for all databases: `statements` has the texts, `dialect` hides sqlx's types, `tables`
//! reads and writes a table at a time, and above them there is a file per trait.

mod acquire;
mod admin;
mod changes;
mod claims;
mod commands;
mod commits;
mod connection;
mod contention;
mod dialect;
mod due;
mod error;
mod file;
mod lobby_changes;
mod migration;
mod no_signaling;
mod operations;
mod outbox;
mod pool;
mod rooms;
mod rows;
mod servers;
mod signaling;
mod statements;
mod tables;
mod talk;
mod talk_records;
mod timers;
mod users;

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::{MySql, Postgres, Sqlite};

pub use self::claims::{Available, ClaimedRows, Division, Pending};
pub use self::commands::{Changed, Created};
pub use self::due::{DueBatch, Fired, LockPolicy, NotFired, Patience};
pub use self::error::{CommandError, Result, StoreError};
pub use self::file::{create_file_for_owner, sqlite_file};
pub use self::operations::{HistoryFilter, ListedRoom, Opening, Operations, PastReset, ResetTrial};
use self::pool::SqlStore;
pub use self::pool::{PoolGroup, PoolOptions};
pub use self::signaling::Signaling;
pub use self::talk::{Leadership, TALK_COLUMNS, TalkRooms, TalkRow, connect_talk, is_table_name};
pub use self::talk_records::TalkRecords;
use crate::domain::commands::{Command, NewRoom, Resource};
use crate::domain::{
    Actor, Applied, Attendee, Ban, Caller, ChatPage, EventId, IncomingChange, MessageQuery,
    OutboxRow, PendingTimer, Room, RoomId, RoomOverview, RoomToken, RoomVersion, TimerKey, User,
};

/// Numbers of pending timers and events, each counted up to [`LIMIT`](Self::LIMIT), so that the count
/// costs some milliseconds at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    pub timers_pending: u64,
    /// Events without publisher confirm.
    pub outbox_pending: u64,
}

impl Backlog {
    pub const LIMIT: u32 = 10_000;
}

/// A participant's session in a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InactiveSession {
    pub room: RoomToken,
    pub actor: Actor,
    pub session_id: String,
}

/// The result of each change, and what announces them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppliedSet {
    pub results: Vec<Applied>,
    pub rows: Vec<OutboxRow>,
}

/// Sets and fires the timers of rooms.
#[async_trait]
pub trait Timers: Send + Sync + 'static {
    /// Applies changes in one transaction, one after the other, and announces each one that takes
    /// effect: arms, moves or disarms the timers of their rooms. Does not wait for rooms that another
    /// transaction has locked; several changes of such a room cost no more than one, so none has to
    /// be left out. After an error nothing has changed.
    ///
    /// With `claimed_until` the events are claimed for the caller, who then publishes them.
    async fn apply(
        &self,
        changes: &[IncomingChange],
        patience: Patience,
        now: DateTime<Utc>,
        claimed_until: Option<DateTime<Utc>>,
    ) -> Result<AppliedSet>;

    /// Deletes identities of events that were applied before `before`, at most `limit`. Returns
    /// their number.
    async fn prune_applied(&self, before: DateTime<Utc>, limit: u32) -> Result<u64>;

    /// Resets the closed rooms whose timer is due at `now`, the longest overdue first, and stores
    /// their events.
    ///
    /// With `claimed_until` the events are claimed for the caller, who then publishes them.
    async fn fire_due(
        &self,
        now: DateTime<Utc>,
        batch: DueBatch<'_>,
        claimed_until: Option<DateTime<Utc>>,
    ) -> Result<Fired, NotFired>;

    /// The first timer after another one, without some, whether it is due or not and whether its
    /// room is locked or not.
    async fn next_due(
        &self,
        after: Option<TimerKey>,
        except: &[TimerKey],
    ) -> Result<Option<PendingTimer>>;

    /// Removes timers of open rooms, which never fire, at most `limit`. Returns their number.
    /// Rooms that are locked keep theirs.
    async fn clear_timers_of_open_rooms(&self, limit: u32) -> Result<u64>;
}

/// Events that wait for their publication.
#[async_trait]
pub trait Outbox: Send + Sync + 'static {
    /// Claims unpublished rows that nothing else has claimed, until `until`: those that became
    /// available first, with at most `limit` events, or one row that has more.
    async fn claim(
        &self,
        available: Available<'_>,
        limit: u32,
        until: DateTime<Utc>,
    ) -> Result<ClaimedRows>;

    /// The row that a claim begins with. Leaves out those that another transaction has locked.
    async fn first_available(&self, available: Available<'_>) -> Result<Option<EventId>>;

    /// Ends the claim of these rows; they can be claimed again from `available_at` on. Does nothing
    /// to rows that are published, or claimed by another process since.
    async fn release(
        &self,
        ids: &[EventId],
        claimed_until: DateTime<Utc>,
        available_at: DateTime<Utc>,
    ) -> Result<()>;

    /// Records that the events of these rows were confirmed at `now`; they stay as history.
    async fn mark_published(&self, ids: &[EventId], now: DateTime<Utc>) -> Result<()>;

    /// Replaces a row by others: for its confirmed events, for each refused one, and for the rest.
    /// Does nothing if another process has claimed it since.
    async fn divide(
        &self,
        row: &EventId,
        claimed_until: DateTime<Utc>,
        division: Division,
    ) -> Result<()>;

    /// Gives each event of an unpublished row a row of its own. Returns whether there were several.
    async fn take_apart(&self, row: &EventId) -> Result<bool>;

    /// Reads which events are not published, apart from `except`. Those that had so many `attempts`
    /// count as refused.
    async fn pending(&self, except: &[EventId], attempts: u32) -> Result<Option<Pending>>;

    /// Ends claims and delays beyond `latest`, at most `limit`: the database's clock was ahead when
    /// they began. Returns their number.
    async fn end_claims(
        &self,
        now: DateTime<Utc>,
        latest: DateTime<Utc>,
        limit: u32,
    ) -> Result<u64>;

    /// Deletes events that were published before `before`, at most `limit`. Returns their number.
    async fn prune_published(&self, before: DateTime<Utc>, limit: u32) -> Result<u64>;

    /// Deletes events that were created before `before` and never confirmed, at most `limit`.
    /// Returns their number.
    async fn prune_dead(&self, before: DateTime<Utc>, limit: u32) -> Result<u64>;
}

/// What the HTTP API does to rooms, and what it and the cache read of them.
#[async_trait]
pub trait Rooms: Send + Sync + 'static {
    /// Creates a room, owned by the caller, who has an account. `None` if there is one with this token.
    async fn create(
        &self,
        token: &RoomToken,
        caller: &Caller,
        new: &NewRoom,
        now: DateTime<Utc>,
    ) -> Result<Option<Created>, CommandError>;

    /// Executes a caller's command, or refuses it. The chat's message and the events about it are
    /// stored as well.
    async fn change(
        &self,
        token: &RoomToken,
        caller: &Caller,
        command: &Command,
        now: DateTime<Utc>,
    ) -> Result<Changed, CommandError>;

    async fn room(&self, token: &RoomToken) -> Result<Option<Room>>;

    /// Reads what all participants see of a room.
    async fn overview(&self, token: &RoomToken) -> Result<Option<RoomOverview>>;

    async fn attendee(&self, room: RoomId, actor: &Actor) -> Result<Option<Attendee>>;

    /// The rooms in which a user takes part.
    async fn rooms_of(&self, user: &str) -> Result<Vec<RoomToken>>;

    /// The number of rooms that a user owns.
    async fn owned_rooms(&self, user: &str) -> Result<i64>;

    /// The number of guests of a room.
    async fn guests(&self, room: RoomId) -> Result<i64>;

    /// The versions of those of these rooms that exist.
    async fn room_versions(&self, tokens: &[RoomToken]) -> Result<Vec<RoomVersion>>;

    /// Participants who have read messages since this time, in Unix seconds.
    async fn read_since(&self, since: i64) -> Result<Vec<(RoomId, Actor)>>;

    /// Records that these sessions are active.
    async fn touch(&self, sessions: &[String], now: DateTime<Utc>) -> Result<()>;

    /// Sessions without activity since then, at most `limit`.
    async fn inactive_since(
        &self,
        since: DateTime<Utc>,
        limit: u32,
    ) -> Result<Vec<InactiveSession>>;

    /// The participants of a room, and the room, for one of them who may see that.
    async fn participants(
        &self,
        token: &RoomToken,
        actor: &Actor,
        resource: Resource,
    ) -> Result<(Room, Vec<Attendee>), CommandError>;

    /// The bans of a room, for one of its moderators.
    async fn bans(&self, token: &RoomToken, actor: &Actor) -> Result<Vec<Ban>, CommandError>;

    /// Messages of a room's chat, for a participant who may read it: newer ones in order, older
    /// ones backwards.
    async fn messages(
        &self,
        token: &RoomToken,
        actor: &Actor,
        query: MessageQuery,
        now: DateTime<Utc>,
    ) -> Result<ChatPage, CommandError>;
}

#[async_trait]
pub trait Users: Send + Sync + 'static {
    /// Returns false if there is a user of this id already.
    async fn add_user(&self, user: &User, password_hash: &str) -> Result<bool>;

    /// Removes a user and their memberships, as if they had left each room. Nobody returns to their
    /// one-to-one rooms, also not a later user of this id. Returns false if there is no user of this
    /// id.
    async fn remove_user(&self, id: &str, now: DateTime<Utc>) -> Result<bool>;

    /// Returns false if there is no user of this id.
    async fn set_user_password(&self, id: &str, password_hash: &str) -> Result<bool>;

    /// Reads a user and the hash of the password.
    async fn user(&self, id: &str) -> Result<Option<(User, String)>>;

    /// A number that is another one after a user was removed or has another password.
    async fn users_version(&self) -> Result<i64>;

    /// The key of the secrets of clients: `proposed`, if there was none.
    async fn client_key(&self, proposed: &str) -> Result<String>;

    /// All users, by id.
    async fn users(&self) -> Result<Vec<User>>;
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

    async fn backlog(&self) -> Result<Backlog>;

    /// Counts the timers of rooms that cannot have a lobby: they never fire. Reads every room.
    async fn unusable_timers(&self) -> Result<u64>;

    /// Fails while the database has not answered a commit, though it may answer queries.
    fn check_commits(&self) -> Result<()>;

    /// Commits a row of lobbyd's own. Fails while the database cannot be written, though it may answer
    /// queries.
    async fn check_writable(&self) -> Result<()>;

    /// Counts the timers that reset their room at `since` or later, as far as history goes back.
    async fn fired_since(&self, since: DateTime<Utc>) -> Result<u64>;

    /// Checks whether one of these URLs leads to lobbyd's tables.
    async fn try_urls(&self, urls: &[&str]) -> Result<()>;

    /// Connects by these URLs from now on. Connections made by the old ones are closed after their
    /// current use.
    fn use_urls(&self, urls: &[&str]) -> Result<()>;

    /// Closes the connections, and waits for that only briefly.
    async fn close(&self);
}

/// Everything that lobbyd stores.
pub trait Database:
    Timers + Outbox + Rooms + Users + TalkRecords + Signaling + Operations + Admin
{
}

impl<T: Timers + Outbox + Rooms + Users + TalkRecords + Signaling + Operations + Admin> Database
    for T
{
}

/// Opens the store that the URLs name, which are tried in turn. Connects when it is first used, so it
/// succeeds while the database is unavailable; only a URL that cannot be used is an error.
pub fn connect(urls: &[&str], options: PoolOptions) -> Result<Arc<dyn Database>> {
    let all = |schemes: &[&str]| {
        let is_one = |url: &&str| url.split_once(':').is_some_and(|(it, _)| schemes.contains(&it));
        !urls.is_empty() && urls.iter().all(is_one)
    };
    Ok(if urls.len() == 1 && all(&["sqlite"]) {
        Arc::new(SqlStore::<Sqlite>::open(urls, options)?)
    } else if all(&["postgres", "postgresql"]) {
        Arc::new(SqlStore::<Postgres>::open(urls, options)?)
    } else if all(&["mysql", "mariadb"]) {
        Arc::new(SqlStore::<MySql>::open(urls, options)?)
    } else {
        return Err(StoreError::Url(
            "expected sqlite:, postgres: or mysql:, and one file only".to_owned(),
        ));
    })
}
