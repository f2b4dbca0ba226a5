//! What the API's side of the store promises, on each database.

mod participants;
mod rooms;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use lobbyd::{
    domain::{
        Actor, Caller, Content, Lobby, MessageQuery, NewMessage, RoomToken,
        commands::{Command, NewRoom, Refusal},
    },
    store::{Changed, Database as Stored},
};

use crate::support::database::{Database, Kind};

pub struct StoreFixture {
    pub database: Database,
    pub store: Arc<dyn Stored>,
}

impl StoreFixture {
    pub async fn new(kind: Kind) -> Self {
        let database = Database::create(kind).await;
        let store = database.store().await;
        Self { database, store }
    }

    /// Makes a room that alice owns.
    pub async fn room(&self, room: &str) {
        let made = self.store.create(&token(room), &caller("alice"), &new(), at(0)).await.unwrap();
        assert_eq!(made.unwrap().len(), 1);
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
        self.store.change(&token(room), &caller(user), &command, at(1)).await.unwrap()
    }

    pub async fn attendee(&self, room: &str, user: &str) -> Option<lobbyd::domain::Attendee> {
        let room = self.store.summary(&token(room)).await.unwrap().unwrap().room;
        self.store.attendee(room.id, &Actor::user(user)).await.unwrap()
    }

    pub async fn said(&self, room: &str, user: &str, query: MessageQuery) -> Vec<String> {
        let messages =
            self.store.messages(&token(room), &Actor::user(user), query, at(2)).await.unwrap();
        messages
            .unwrap()
            .into_iter()
            .map(|each| match each.message.content {
                Content::Comment(text) => text,
                Content::System { reason, .. } => reason.name(),
            })
            .collect()
    }

    pub async fn events(&self) -> Vec<(String, String)> {
        let events = self.store.claim(at(60), 100, at(90)).await.unwrap();
        events
            .into_iter()
            .map(|event| {
                let data: serde_json::Value = serde_json::from_str(&event.data).unwrap();
                let what = data.get("reason").unwrap_or(&data["state"]);
                (event.event_type, what.to_string())
            })
            .collect()
    }
}

/// 2026-01-01T00:00:00Z, and some seconds.
pub fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_767_225_600 + seconds, 0).unwrap()
}

pub fn token(text: &str) -> RoomToken {
    RoomToken::parse(text).unwrap()
}

pub fn caller(user: &str) -> Caller {
    Caller { actor: Actor::user(user), display_name: user.to_uppercase(), may_enable_sip: true }
}

pub fn new() -> NewRoom {
    NewRoom {
        room_type: 3,
        name: "Webinar".to_owned(),
        description: "About".to_owned(),
        object_type: "event".to_owned(),
        object_id: "7".to_owned(),
        password_hash: String::new(),
        lobby: Lobby::OPEN,
        other: None,
    }
}

pub fn closed_until(timer: i64) -> Command {
    Command::SetLobby { state: 1, timer: Some(at(timer).timestamp()) }
}

pub fn add(user: &str) -> Command {
    Command::Add { user: Actor::user(user), display_name: user.to_uppercase() }
}

pub fn join(session: &str) -> Command {
    Command::Join { session: session.to_owned(), force: true, proven: None }
}

pub fn say(text: &str, reply_to: Option<i64>) -> Command {
    Command::Send(NewMessage { text: text.to_owned(), reference_id: String::new(), reply_to })
}

pub const HISTORY: MessageQuery =
    MessageQuery { newer: false, known: 0, including: false, limit: 100, mark_read: false };
