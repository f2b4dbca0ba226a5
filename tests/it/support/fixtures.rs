//! Values and a store for the contract tests.
//!
//! Unlike the rest of `support`, this file uses the types of the program: the contract tests call
//! the store itself. It must not repeat a rule of the program; a fixture only says what a test
//! starts from. `store_contract`, `room_contract` and `race` use it.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use lobbyd::{
    bus::{EventProperties, cloudevents},
    domain::{
        Actor, Applied, Attendee, Caller, ChangeOrder, Content, DeliveryIdentity, IncomingChange,
        Lobby, LobbyRequest, LobbyState, MessageQuery, NewMessage, OutboxRow, Permissions,
        RoomToken, RoomType, User, Version,
        commands::{Command, NewRoom, Refusal},
    },
    store::{self, Available, Changed, CommandError, DueBatch, Patience},
};

use super::database::{Database, Kind};

/// The newest messages of a chat, newest first.
pub const HISTORY: MessageQuery =
    MessageQuery { newer: false, known: 0, including: false, limit: 100, mark_read: false };

/// 2026-01-01T00:00:00Z plus some seconds.
pub fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_767_225_600 + seconds, 0).unwrap()
}

/// All events that can be claimed at `now`.
pub fn available(now: DateTime<Utc>) -> Available<'static> {
    Available { after: None, now, except: &[] }
}

pub fn token(text: &str) -> RoomToken {
    RoomToken::parse(text).unwrap()
}

pub fn closed_until(timer: Option<DateTime<Utc>>) -> Lobby {
    Lobby { state: LobbyState::NonModerators, timer }
}

/// A lobby change as an event carries it.
pub fn change(room: &str, lobby: Lobby, version: i64) -> IncomingChange {
    let order = ChangeOrder::Version(Version::parse(version).unwrap());
    IncomingChange { token: token(room), lobby, order, identity: None, own: false }
}

/// A lobby change without version, as it is received at `at(seconds)` for the first time.
pub fn bare(room: &str, lobby: Lobby, seconds: i64) -> IncomingChange {
    let identity = DeliveryIdentity { key: format!("{room} {lobby:?}"), duplicate_since: None };
    IncomingChange {
        order: ChangeOrder::ReceivedNow(Version::of(at(seconds))),
        identity: Some(identity),
        ..change(room, lobby, 0)
    }
}

/// Parses an event that is received long after it was sent.
pub fn parse(body: &[u8], content_type: &str) -> IncomingChange {
    let content_type = Some(content_type.to_owned());
    let properties = EventProperties { content_type, ..EventProperties::default() };
    let later = at(365 * 24 * 60 * 60);
    cloudevents::parse_lobby_changed(body, &properties, later, Duration::ZERO).unwrap()
}

pub fn caller(user: &str) -> Caller {
    Caller {
        actor: Actor::user(user),
        client: None,
        display_name: user.to_uppercase(),
        may_enable_sip: true,
    }
}

pub fn new_room() -> NewRoom {
    NewRoom {
        room_type: RoomType::Public,
        name: "Webinar".to_owned(),
        description: "About".to_owned(),
        object_type: "event".to_owned(),
        object_id: "7".to_owned(),
        password_hash: String::new(),
        default_permissions: Permissions::DEFAULT,
        read_only: false,
        lobby: Lobby::OPEN,
        other: None,
    }
}

/// Closes the lobby until `at(seconds)`.
pub fn close_until(seconds: i64) -> Command {
    Command::SetLobby(LobbyRequest { state: 1, timer: Some(at(seconds).timestamp()) })
}

pub fn add(user: &str) -> Command {
    Command::Add { user: Actor::user(user), display_name: user.to_uppercase() }
}

pub fn join(session: &str) -> Command {
    Command::Join { session_id: session.to_owned(), force: true, verified: None }
}

pub fn send(body: &str, reply_to: Option<i64>) -> Command {
    Command::Send(NewMessage { body: body.to_owned(), reference_id: String::new(), reply_to })
}

/// A program that shares the database with lobbyd.
pub trait OtherProgram {
    /// Inserts an open room.
    async fn insert_room(&self, token: &str);

    /// Inserts rooms PREFIX1, PREFIX2, … with a lobby until `timer` (Unix seconds).
    async fn insert_rooms(&self, prefix: &str, number: u32, timer: i64);

    /// Makes the database refuse to open this room.
    async fn refuse_reset(&self, token: &str);
}

impl OtherProgram for Database {
    async fn insert_room(&self, token: &str) {
        self.insert_room(token).await;
    }

    async fn insert_rooms(&self, prefix: &str, number: u32, timer: i64) {
        self.insert_rooms(prefix, number, timer).await;
    }

    async fn refuse_reset(&self, token: &str) {
        self.refuse_reset(token).await;
    }
}

/// A store on a database without rows.
pub struct StoreFixture<D = Database> {
    pub database: D,
    pub store: Arc<dyn store::Database>,
    /// The same as the owner of the tables uses it, who migrates and manages users.
    pub owner: Arc<dyn store::Database>,
}

impl StoreFixture {
    pub async fn new(kind: Kind) -> Self {
        let database = Database::create(kind).await;
        let store = database.store().await;
        Self { owner: database.owner_store(), database, store }
    }
}

impl<D> StoreFixture<D> {
    pub async fn lobby(&self, room: &str) -> Lobby {
        self.store.room(&token(room)).await.unwrap().unwrap().lobby
    }

    pub async fn version(&self, room: &str) -> i64 {
        self.store.room(&token(room)).await.unwrap().unwrap().version.milliseconds()
    }

    /// Applies a change at `at(0)`.
    pub async fn apply(&self, change: &IncomingChange) -> Applied {
        self.apply_all(std::slice::from_ref(change), at(0)).await[0]
    }

    pub async fn apply_all(&self, changes: &[IncomingChange], now: DateTime<Utc>) -> Vec<Applied> {
        let applied = self.store.apply(changes, Patience::Full, now, None).await.unwrap();
        assert_eq!(applied.results.len(), changes.len());
        applied.results
    }

    /// Fires all timers that are due at `now`. Returns the tokens of the rooms that were reset.
    pub async fn fire(&self, now: DateTime<Utc>) -> Vec<String> {
        let fired = self.store.fire_due(now, DueBatch::first(100), None).await.unwrap();
        fired.events().map(|event| event.token.to_string()).collect()
    }

    /// Gives a user an account, unless they have one.
    pub async fn account(&self, user: &str) {
        let (id, display_name) = (user.to_owned(), user.to_uppercase());
        let user = User { id, display_name, groups: Vec::new() };
        self.owner.add_user(&user, "hash").await.unwrap();
    }

    /// Creates a room that alice owns.
    pub async fn create_room(&self, room: &str) {
        self.account("alice").await;
        let created =
            self.store.create(&token(room), &caller("alice"), &new_room(), at(0)).await.unwrap();
        assert_eq!(created.unwrap().updates.len(), 1);
    }

    pub async fn change(&self, room: &str, user: &str, command: Command) -> Changed {
        self.try_change(room, user, command).await.unwrap()
    }

    pub async fn try_change(
        &self,
        room: &str,
        user: &str,
        command: Command,
    ) -> Result<Changed, Refusal> {
        if let Command::Join { .. } | Command::Return = &command {
            self.account(user).await;
        }
        if let Command::Add { user, .. } = &command {
            self.account(&user.id).await;
        }
        let result = self.store.change(&token(room), &caller(user), &command, at(1)).await;
        let changed = unless_refused(result)?;
        if changed.update.is_some() {
            // What the command returns is what the database holds.
            let overview = self.store.overview(&token(room)).await.unwrap();
            assert_eq!(changed.overview, overview, "{command:?}");
            if overview.is_some() {
                assert_eq!(changed.attendee, self.attendee(room, user).await, "{command:?}");
            }
        }
        Ok(changed)
    }

    pub async fn attendee(&self, room: &str, user: &str) -> Option<Attendee> {
        let room = self.store.overview(&token(room)).await.unwrap().unwrap().room;
        self.store.attendee(room.id, &Actor::user(user)).await.unwrap()
    }

    /// The texts of comments and the names of system messages that the query returns.
    pub async fn chat(&self, room: &str, user: &str, query: MessageQuery) -> Vec<String> {
        let page =
            self.store.messages(&token(room), &Actor::user(user), query, at(2)).await.unwrap();
        page.messages
            .into_iter()
            .map(|each| match each.message.content {
                Content::Comment(text) => text,
                Content::Deleted { by: (actor, _name) } => format!("deleted by {}", actor.id),
                Content::System { reason, .. } => reason.name(),
            })
            .collect()
    }

    pub async fn claim(
        &self,
        available: Available<'_>,
        limit: u32,
        until: DateTime<Utc>,
    ) -> store::Result<Vec<OutboxRow>> {
        self.store.claim(available, limit, until).await.map(|claimed| claimed.rows)
    }

    /// Type, and reason or state, of the events in the outbox.
    pub async fn events(&self) -> Vec<(String, String)> {
        let rows = self.claim(available(at(60)), 100, at(90)).await.unwrap();
        rows.into_iter()
            .flat_map(|row| row.events)
            .map(|event| {
                let data: serde_json::Value = serde_json::from_str(&event.data).unwrap();
                let what = data.get("reason").unwrap_or(&data["state"]);
                (event.event_type, what.to_string())
            })
            .collect()
    }
}

/// The result of a command that the database must not fail.
pub fn unless_refused<T>(result: Result<T, CommandError>) -> Result<T, Refusal> {
    result.map_err(|error| match error {
        CommandError::Refused(refusal) => refusal,
        CommandError::Store(error) => panic!("{error:?}"),
    })
}
