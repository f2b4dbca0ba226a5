//! `lobbyd rooms TOKEN` explains why a room is not open, for each reason, and changes nothing.

use super::{CliFixture, json, printed};
use crate::support::{
    daemon::{Daemon, run},
    database::Kind,
    eventually,
};

const FUTURE: i64 = 4_118_119_200;

on_every_database!(crate::cli::CliFixture::new:
    a_room_that_waits_for_its_timer_is_explained,
    a_room_that_cannot_have_a_lobby_is_explained,
    a_room_that_the_database_refuses_is_explained,
    a_locked_room_is_explained,
    a_room_without_worker_is_explained,
    an_announcement_that_is_missing_is_explained,
    a_room_that_is_opened_meanwhile_is_not_called_locked,
    a_room_that_somebody_opened_is_told_from_one_whose_timer_fired,
);

/// Cause and explanation, with the remedy.
fn diagnosis(fixture: &CliFixture, token: &str) -> (String, String) {
    let room = json(&fixture.settings, &["rooms", token])["rooms"][0].clone();
    let text = |key: &str| room[key].as_str().unwrap_or_default().to_owned();
    (text("cause"), format!("{} {}", text("why"), text("remedy")))
}

impl CliFixture {
    /// A room whose timer is overdue by a minute.
    async fn overdue(&self) -> i64 {
        let due = self.database.now().await - 60;
        self.database.insert_rooms("room", 1, due).await;
        due
    }
}

async fn a_room_that_waits_for_its_timer_is_explained(mut fixture: CliFixture) {
    fixture.settings.push(("LOBBYD__EVENTS__URL".to_owned(), "amqp://127.0.0.1:1".to_owned()));
    fixture.database.insert_rooms("room", 1, FUTURE).await;
    let (cause, text) = diagnosis(&fixture, "room1");
    assert_eq!(cause, "scheduled");
    assert!(text.contains("lobbyd lobby clear room1"), "{text}");
    fixture.set("room1", "lobby_timer = NULL").await;
    let (cause, text) = diagnosis(&fixture, "room1");
    assert_eq!(cause, "no_timer");
    assert!(text.contains("lobbyd dead-letters list --token room1"), "{text}");
    // What is to be pasted is read by a shell.
    fixture.set("room1", "token = '$(id)'").await;
    let (_, text) = diagnosis(&fixture, "$(id)");
    assert!(text.contains("lobbyd lobby clear '$(id)'. "), "{text}");
    assert!(text.contains("--token '$(id)'"), "{text}");
    fixture.set("$(id)", "token = 'room1'").await;
    fixture.set("room1", "lobby_state = 0").await;
    assert_eq!(diagnosis(&fixture, "room1").0, "open");
    assert!(printed(&fixture.settings, &["rooms", "room1"]).ends_with("\n\nroom1: it is open\n"));
}

async fn a_room_that_cannot_have_a_lobby_is_explained(fixture: CliFixture) {
    fixture.overdue().await;
    fixture.set("room1", "type = 1").await;
    let (cause, text) = diagnosis(&fixture, "room1");
    assert_eq!(cause, "lobby_not_supported");
    assert!(text.contains("rooms of type 1 cannot have a lobby"), "{text}");
    fixture.set("room1", "type = 3, object_type = 'file'").await;
    let (cause, text) = diagnosis(&fixture, "room1");
    assert_eq!(cause, "lobby_not_supported");
    assert!(text.contains("rooms of the object type \"file\" cannot have a lobby"), "{text}");
}

async fn a_room_that_the_database_refuses_is_explained(fixture: CliFixture) {
    let database = &fixture.database;
    database.insert_rooms("another", 1, database.now().await - 90).await;
    fixture.overdue().await;
    database.refuse_reset("room1").await;
    let (cause, text) = diagnosis(&fixture, "room1");
    assert_eq!(cause, "refused");
    assert!(text.contains("conversation is archived"), "{text}");
    assert_eq!(diagnosis(&fixture, "another1").0, "no_worker");
}

async fn a_locked_room_is_explained(fixture: CliFixture) {
    let database = &fixture.database;
    fixture.overdue().await;
    let holder = database.hold("UPDATE lobbyd_rooms SET name = 'held' WHERE token = 'room1'").await;
    let (cause, text) = diagnosis(&fixture, "room1");
    assert_eq!(cause, "locked");
    assert!(text.contains("another transaction has locked the room"), "{text}");
    drop(holder);
    eventually("the end of the transaction", || async {
        (diagnosis(&fixture, "room1").0 == "no_worker").then_some(())
    })
    .await;
}

async fn a_room_without_worker_is_explained(fixture: CliFixture) {
    let database = &fixture.database;
    fixture.overdue().await;
    let (cause, text) = diagnosis(&fixture, "room1");
    assert_eq!(cause, "no_worker");
    assert!(text.contains("overdue, and nothing is in the way"), "{text}");
    assert!(text.contains("systemctl start lobbyd"), "{text}");
    assert_eq!(database.lobby_state("room1").await, 1, "the trial is rolled back");
    assert_eq!(database.unpublished().await, 0);
    assert_eq!(database.number("SELECT count(*) FROM lobbyd_messages").await, 0);
    // The remedy.
    let worker = Daemon::start_as("run", &fixture.settings);
    database.lobby_becomes("room1", 0).await;
    worker.ready().await;
    database.all_published().await;
    let (cause, text) = diagnosis(&fixture, "room1");
    assert_eq!(cause, "open");
    assert!(text.contains("its last timer has fired"), "{text}");
}

async fn an_announcement_that_is_missing_is_explained(fixture: CliFixture) {
    fixture.overdue().await;
    let store = fixture.database.store().await;
    let now = store.now().await.unwrap();
    store.fire_due(now, lobbyd::store::DueBatch::first(1), None).await.unwrap();
    let (cause, text) = diagnosis(&fixture, "room1");
    assert_eq!(cause, "not_announced");
    assert!(text.contains(", 0 attempts"), "{text}");
    assert!(run(&fixture.settings, &["rooms", "room1"]).status.success());
}

async fn a_room_that_is_opened_meanwhile_is_not_called_locked(fixture: CliFixture) {
    let CliFixture { database, settings } = &fixture;
    fixture.overdue().await;
    let opening =
        "UPDATE lobbyd_rooms SET lobby_state = 0, lobby_timer = NULL WHERE token = 'room1'";
    let mut holder = Some(database.hold(opening).await);
    let others = settings.clone();
    let command = tokio::task::spawn_blocking(move || json(&others, &["rooms", "room1"]));
    if database.kind == Kind::Postgres {
        eventually("the command to meet the lock", || async {
            let connections = "SELECT count(*) FROM pg_stat_activity
                               WHERE application_name = 'lobbyd rooms' AND query = 'ROLLBACK'";
            (command.is_finished() || database.number(connections).await > 0).then_some(())
        })
        .await;
    }
    // The transaction of a worker that opens it.
    database.commit(holder.take().unwrap()).await;
    let room = command.await.unwrap()["rooms"][0].clone();
    assert_eq!((&room["status"], &room["cause"]), (&"open".into(), &"open".into()), "{room}");
}

async fn a_room_that_somebody_opened_is_told_from_one_whose_timer_fired(fixture: CliFixture) {
    let CliFixture { database, settings } = &fixture;
    fixture.overdue().await;
    let worker = Daemon::start_as("run", settings);
    database.lobby_becomes("room1", 0).await;
    database.all_published().await;
    // Another change of the room is no opening.
    fixture.set("room1", "lobby_version = lobby_version + 1").await;
    let (_, text) = diagnosis(&fixture, "room1");
    assert!(text.contains("its last timer has fired"), "{text}");
    json(settings, &["lobby", "set", "room1"]);
    json(settings, &["lobby", "clear", "room1"]);
    database.all_published().await;
    let (cause, text) = diagnosis(&fixture, "room1");
    assert_eq!(cause, "open");
    assert!(text.contains("because somebody opened it"), "{text}");
    drop(worker);
    json(settings, &["lobby", "set", "room1"]);
    json(settings, &["lobby", "clear", "room1"]);
    let (cause, text) = diagnosis(&fixture, "room1");
    assert_eq!(cause, "not_announced");
    assert!(text.contains(", 0 attempts"), "{text}");
}
