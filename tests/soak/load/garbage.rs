//! Events that cannot be applied: malformed ones, and those of rooms that do not exist, do not exist
//! yet, or may not be changed.

use std::sync::Arc;

use serde_json::json;

use super::{Clients, publisher::Message, wait};
use crate::{
    check::history::{DeadLetter, Route},
    support::database::Kind,
};

/// The key of all lobby changes.
pub const KEY: &str = "lobby.changed";

/// Seconds from an event to the insertion of its room: shorter than lobbyd waits for it.
const LATE: f64 = 0.5;

/// How long lobbyd waits for a room, in milliseconds: `events.unknown_room_grace` of the tests.
const GRACE: i64 = 2_000;

async fn publish_bad(clients: &Clients, message: Message, what: &'static str) {
    let dead_letter = DeadLetter { body: message.body.clone(), required: true };
    clients.notes.expect_dead_letter(dead_letter);
    clients.publisher.publish(&message).await;
    clients.notes.count(what, 1);
}

pub async fn malformed(clients: Arc<Clients>, number: u64) {
    let future = clients.notes.now() + 86_400_000;
    let json = |body: serde_json::Value| Message::json(KEY, &body);
    let mut message = match number % 10 {
        0 => json(json!({"token": format!("bad{number}")})),
        1 => json(json!({"token": format!("bad{number}"), "state": 7})),
        2 => json(json!({"token": format!("bad {number}"), "state": 1})),
        3 => json(json!({"token": "room1", "state": 1, "version": future + 1, "n": number})),
        4 => json(json!({"token": "room1", "state": 1.5, "n": number})),
        5 => Message::json(
            "lobby.changed.room2",
            &json!({"token": "room1", "state": 1, "n": number}),
        ),
        6 => json(json!([number])),
        7 => json(json!({"specversion": "1.0", "id": number, "data": "room1"})),
        _ => json(json!({"token": "room1", "state": 1, "timer": -5, "n": number})),
    };
    match number % 20 {
        8 => drop(message.body.pop()),
        18 => message.body.insert(9, 0xff),
        _ => {}
    }
    publish_bad(&clients, message, "malformed events").await;
}

pub async fn unknown_room(clients: Arc<Clients>, number: u64) {
    let body = json!({"token": format!("nowhere{number}"), "state": 1});
    publish_bad(&clients, Message::json(KEY, &body), "events of unknown rooms").await;
}

/// The event overtakes the commit that creates its room.
pub async fn late_room(clients: Arc<Clients>, number: u64) {
    let token = format!("late{number}");
    let now = clients.notes.now();
    let timer = now / 1000 + 4;
    let route = Route::Event { version: now };
    let asked = clients.notes.ask(&[&token], route, 1, Some(timer));
    let body = json!({"token": token, "state": 1, "timer": timer, "version": now});
    let message = Message::json(KEY, &body);
    let publishing = clients.publisher.publish(&message);
    let inserting = async {
        wait(LATE).await;
        // The insertion may have been committed without an answer.
        let ignore = match clients.sql.kind() {
            Kind::MariaDb => "ON DUPLICATE KEY UPDATE name = name",
            Kind::Postgres | Kind::Sqlite => "ON CONFLICT DO NOTHING",
        };
        let insert = "INSERT INTO lobbyd_rooms (token, type, name) VALUES";
        clients.sql.insist(&format!("{insert} ('{token}', 3, 'Webinar') {ignore}")).await;
        clients.notes.now()
    };
    let (_published, inserted_at) = tokio::join!(publishing, inserting);
    if inserted_at < now + GRACE {
        clients.notes.confirm(&asked);
    } else {
        // It came too late, or just in time.
        clients.notes.expect_dead_letter(DeadLetter { body: message.body, required: false });
    }
    clients.notes.count("events before their room", 1);
}

/// The database refuses every change of this room.
pub async fn frozen_room(clients: Arc<Clients>, number: u64) {
    let token = format!("frozen{number}");
    let statements = match clients.sql.kind() {
        Kind::MariaDb => [
            format!(
                "INSERT IGNORE INTO lobbyd_rooms (token, type, name) VALUES ('{token}', 3, '')"
            ),
            format!("INSERT IGNORE INTO soak_refused VALUES ('{token}', 1)"),
        ],
        Kind::Postgres | Kind::Sqlite => [
            format!(
                "INSERT INTO lobbyd_rooms (token, type, name) VALUES ('{token}', 3, '')
                 ON CONFLICT DO NOTHING"
            ),
            format!("INSERT INTO soak_refused VALUES ('{token}', 1) ON CONFLICT DO NOTHING"),
        ],
    };
    for statement in statements {
        clients.sql.insist(&statement).await;
    }
    let body = json!({"token": token, "state": 1, "version": clients.notes.now()});
    publish_bad(&clients, Message::json(KEY, &body), "events that the database refuses").await;
}
