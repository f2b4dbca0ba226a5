//! Rooms whose timer cannot fire for a time: another transaction has locked them, or the database
//! refuses to open them.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use super::{Clients, Room, rooms::By, wait};
use crate::support::database::Kind;

/// Sets a timer by SQL, and locks the rooms from before it is due.
pub async fn lock(clients: Arc<Clients>, rooms: Vec<Arc<Room>>, lasts: Duration) {
    let mut tokens = Vec::new();
    for room in &rooms {
        room.hold();
        if room.set(&clients, By::Sql { with_event: false }, 1, Some(2)).await.is_confirmed {
            tokens.push(room.token.as_str());
        }
    }
    wait(1.0).await;
    if let Some(lock) = clients.sql.lock(&tokens).await {
        sleep(lasts).await;
        drop(lock);
        clients
            .notes
            .count("rooms locked while they were due", u64::try_from(tokens.len()).unwrap());
    }
}

/// Lets the database refuse to open a room, for a time or until the end.
pub async fn refuse(clients: Arc<Clients>, room: Arc<Room>, lasts: Option<Duration>) {
    let token = &room.token;
    match lasts {
        Some(_) => room.hold(),
        None => room.refuse(),
    }
    let ignore = match clients.sql.kind() {
        Kind::MariaDb => "ON DUPLICATE KEY UPDATE everything = 0",
        Kind::Postgres | Kind::Sqlite => "ON CONFLICT DO NOTHING",
    };
    clients.sql.insist(&format!("INSERT INTO soak_refused VALUES ('{token}', 0) {ignore}")).await;
    room.set(&clients, By::Sql { with_event: false }, 1, Some(1)).await;
    let Some(lasts) = lasts else {
        clients.notes.count("rooms that the database refused to open until the end", 1);
        return;
    };
    sleep(lasts).await;
    clients.sql.insist(&format!("DELETE FROM soak_refused WHERE token = '{token}'")).await;
    clients.notes.count("rooms that the database refused to open for a time", 1);
}
