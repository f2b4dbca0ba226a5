//! `lobbyd lobby` sets and removes lobbies without a broker.

use super::{CliFixture, failure, json, printed, usage_error};
use crate::support::{
    daemon::{Daemon, run, text},
    database::Kind,
    eventually,
};

on_every_database!(crate::cli::CliFixture::new:
    a_lobby_is_set_and_cleared_without_a_worker,
    a_running_worker_fires_and_announces_what_was_set,
    what_cannot_be_set_is_refused,
    a_locked_room_is_waited_for,
);

async fn a_lobby_is_set_and_cleared_without_a_worker(fixture: CliFixture) {
    let CliFixture { database, settings } = &fixture;
    database.insert_room("abc").await;
    let set = json(settings, &["lobby", "set", "abc", "--at", "2100-07-01 12:00"]);
    assert_eq!(set["rooms"][0]["lobbyTimer"], "2100-07-01T10:00:00Z");
    assert_eq!(set["rooms"][0]["status"], "scheduled");
    assert_eq!(database.lobby_state("abc").await, 1);
    let first = database.number("SELECT lobby_version FROM lobbyd_rooms").await;
    assert!((first - database.now_millis().await).abs() < 600_000, "by the database's clock");
    let set = printed(settings, &["lobby", "set", "abc"]);
    assert!(set.contains("abc: it is closed, and no timer is set"), "{set}");
    assert!(set.ends_with("  Open it now: lobbyd lobby clear abc\n"), "{set}");
    let cleared = printed(settings, &["lobby", "clear", "abc"]);
    assert!(cleared.contains("abc: it is open"), "{cleared}");
    assert_eq!(database.lobby_state("abc").await, 0);
    assert!(database.number("SELECT lobby_version FROM lobbyd_rooms").await > first);
    // Each change is announced, when there is a worker.
    assert_eq!(database.unpublished().await, 3);
}

async fn a_running_worker_fires_and_announces_what_was_set(fixture: CliFixture) {
    let CliFixture { database, settings } = &fixture;
    database.insert_room("abc").await;
    let worker = Daemon::start_as("run", settings);
    worker.ready().await;
    json(settings, &["lobby", "set", "abc", "--in", "2s"]);
    database.lobby_becomes("abc", 0).await;
    let reset = database.resets().await.into_values().next().unwrap();
    assert!(reset.fired_at >= reset.due_at);
    json(settings, &["lobby", "set", "abc", "--in", "1h"]);
    json(settings, &["lobby", "clear", "abc"]);
    database.all_published().await;
    assert_eq!(database.resets().await.len(), 1);
    assert_eq!(json(settings, &["history"])["history"][0]["token"], "abc");
}

async fn what_cannot_be_set_is_refused(fixture: CliFixture) {
    let CliFixture { database, settings } = &fixture;
    database.insert_room("abc").await;
    let error = failure(settings, &["lobby", "set", "abc", "--at", "2020-01-01 10:00"]);
    assert!(error.contains("2020-01-01 10:00:00 (Europe/Berlin) is over"), "{error}");
    assert!(error.contains("lobbyd lobby clear abc"), "{error}");
    let error = usage_error(settings, &["lobby", "set", "abc", "--at", "2099-03-29 02:30"]);
    assert!(error.contains("2099-03-29 02:30 does not exist in Europe/Berlin"), "{error}");
    let error = usage_error(settings, &["lobby", "set", "abc", "--at", "soon"]);
    assert!(error.contains("expected a time such as"), "{error}");
    assert_eq!(database.lobby_state("abc").await, 0);
    let error = failure(settings, &["lobby", "set", "other"]);
    assert_eq!(error, "lobbyd: there is no room other\n");
    fixture.set("abc", "type = 1").await;
    let error = failure(settings, &["lobby", "set", "abc"]);
    assert!(error.contains("abc: rooms of type 1 cannot have a lobby"), "{error}");
    // A timer that never fires can be removed.
    fixture.set("abc", "lobby_state = 1").await;
    json(settings, &["lobby", "clear", "abc"]);
    assert_eq!(database.lobby_state("abc").await, 0);
    fixture.set("abc", "lobby_state = 1").await;
    database.refuse_reset("abc").await;
    let error = failure(settings, &["lobby", "clear", "abc"]);
    assert!(error.contains("abc: database refused the change"), "{error}");
    assert!(error.contains("conversation is archived. Remove what refuses: a trigger"), "{error}");
}

async fn a_locked_room_is_waited_for(fixture: CliFixture) {
    let CliFixture { database, settings } = &fixture;
    database.insert_room("abc").await;
    let holder = database.hold("UPDATE lobbyd_rooms SET name = 'held' WHERE token = 'abc'").await;
    let others = settings.clone();
    let command =
        tokio::task::spawn_blocking(move || json(&others, &["lobby", "set", "abc", "--in", "1h"]));
    if database.kind == Kind::Postgres {
        eventually("the command to meet the lock", || async {
            let connections = "SELECT count(*) FROM pg_stat_activity
                               WHERE application_name = 'lobbyd lobby' AND query = 'ROLLBACK'";
            (database.number(connections).await > 0).then_some(())
        })
        .await;
    }
    drop(holder);
    assert_eq!(command.await.unwrap()["rooms"][0]["status"], "scheduled");
}

/// Silently, it would be a time in UTC.
#[tokio::test(flavor = "multi_thread")]
async fn a_time_in_an_unknown_zone_is_refused() {
    let mut fixture = CliFixture::new(Kind::Sqlite).await;
    fixture.database.insert_room("abc").await;
    fixture.settings.retain(|(key, _)| key != "TZ");
    fixture.settings.push(("TZ".to_owned(), "Europe/Nowhere".to_owned()));
    let settings = &fixture.settings;
    let error = usage_error(settings, &["lobby", "set", "abc", "--at", "tomorrow 10:00"]);
    for part in ["TZ=Europe/Nowhere", "tzdata", "2026-11-27T10:00:00+01:00"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert_eq!(fixture.database.lobby_state("abc").await, 0);
    // An instant says its offset.
    let set = ["lobby", "set", "abc", "--at", "2100-07-01T12:00:00+02:00"];
    let output = run(settings, &set);
    assert!(output.status.success(), "{output:?}");
    let (shown, warning) = (text(&output.stdout), text(&output.stderr));
    assert!(shown.contains("Timer (UTC)") && shown.contains("2100-07-01 10:00:00"), "{shown}");
    assert_eq!(warning.matches("TZ=Europe/Nowhere").count(), 1, "{warning}");
    assert!(warning.contains("times are in UTC"), "{warning}");
    let output = run(settings, &["rooms", "--json"]);
    assert!(output.stderr.is_empty(), "{output:?}");
}
