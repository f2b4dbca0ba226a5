//! Commands that list: rooms, timers and history.

use lobbyd::{
    domain::EventId,
    store::{Available, DueBatch},
};

use super::{CliFixture, cells, failure, json, printed};
use crate::support::{
    daemon::{program, run, settings, text},
    server::folder,
};

/// 2100-07-01T10:00:00Z, in summer.
const FUTURE: i64 = 4_118_119_200;

on_every_database!(crate::cli::CliFixture::new:
    rooms_are_listed,
    timers_are_listed_in_their_order,
    the_history_names_each_reset,
    an_unknown_room_is_an_error_with_similar_tokens,
);

async fn rooms_are_listed(fixture: CliFixture) {
    let CliFixture { database, settings } = &fixture;
    let none = printed(settings, &["rooms"]);
    assert!(
        none.starts_with("There is no room. Clients create rooms through the HTTP API"),
        "{none}"
    );
    database.insert_rooms("closed", 1, FUTURE).await;
    database.insert_room("open").await;
    fixture.set("open", "object_type = 'event', sip_enabled = 1, lobby_version = 7").await;
    database
        .execute(
            "INSERT INTO lobbyd_attendees (room_id, actor_type, actor_id, participant_type)
             SELECT id, 'users', 'alice', 1 FROM lobbyd_rooms WHERE token = 'open'",
        )
        .await;

    let table = cells(&printed(settings, &["rooms"]));
    assert_eq!(
        table[0],
        ["Room", "Name", "Type", "Lobby", "Timer (Europe/Berlin)", "Dial-in", "Participants"]
    );
    let open = ["open", "Webinar", "public, of event", "open", "-", "with PIN", "1"];
    assert_eq!(table[1], open, "the newest is first");
    assert_eq!(table[2][..3], ["closed1", "Webinar", "public"]);
    assert!(table[2][3].starts_with("opens in 7"), "{table:?}");
    assert_eq!(table[2][4], "2100-07-01 12:00:00");

    let rooms = &json(settings, &["rooms"])["rooms"];
    assert_eq!(rooms[0]["token"], "open");
    assert_eq!((&rooms[0]["status"], &rooms[0]["lobbyTimer"]), (&"open".into(), &().into()));
    assert_eq!((&rooms[0]["sipEnabled"], &rooms[0]["participants"]), (&1.into(), &1.into()));
    assert_eq!(rooms[1]["lobbyTimer"], "2100-07-01T10:00:00Z");
    assert_eq!((&rooms[1]["status"], &rooms[1]["type"]), (&"scheduled".into(), &3.into()));
    let rooms = &json(settings, &["rooms", "--limit", "1"])["rooms"];
    assert_eq!(rooms.as_array().unwrap().len(), 1);

    let rooms = &json(settings, &["rooms", "closed1", "open"])["rooms"];
    assert_eq!((&rooms[0]["token"], &rooms[1]["token"]), (&"closed1".into(), &"open".into()));
    assert_eq!((&rooms[0]["cause"], &rooms[1]["cause"]), (&"scheduled".into(), &"open".into()));
}

async fn timers_are_listed_in_their_order(fixture: CliFixture) {
    let CliFixture { database, settings } = &fixture;
    assert_eq!(printed(settings, &["timers"]), "No timer is set.\n");
    database.insert_rooms("later", 1, FUTURE + 3600).await;
    database.insert_rooms("next", 1, FUTURE).await;
    database.insert_rooms("overdue", 1, database.now().await - 3661).await;
    // No timer of these fires.
    database.insert_rooms("file", 1, FUTURE).await;
    fixture.set("file1", "object_type = 'file'").await;
    database.insert_room("open").await;

    let table = cells(&printed(settings, &["timers"]));
    assert_eq!(table[0], ["Room", "Name", "Due (Europe/Berlin)", "Opens", "Participants"]);
    let rooms: Vec<&str> = table[1..].iter().map(|row| row[0].as_str()).collect();
    assert_eq!(rooms, ["overdue1", "next1", "later1"]);
    assert_eq!(table[1][3], "overdue 1h 1m");
    assert_eq!(table[2][2], "2100-07-01 12:00:00");
    let timers = &json(settings, &["timers", "--limit", "2"]);
    assert!(timers["now"].as_str().unwrap().ends_with('Z'), "{timers}");
    assert_eq!(timers["timers"][1]["lobbyTimer"], "2100-07-01T10:00:00Z");
    assert_eq!(timers["timers"].as_array().unwrap().len(), 2);

    let mut elsewhere = settings.clone();
    elsewhere.retain(|(key, _)| key != "TZ");
    elsewhere.push(("TZ".to_owned(), "America/New_York".to_owned()));
    let table = cells(&printed(&elsewhere, &["timers"]));
    assert_eq!(
        (table[0][2].as_str(), table[2][2].as_str()),
        ("Due (America/New_York)", "2100-07-01 06:00:00")
    );
    assert_eq!(failure(settings, &["timers", "--watch"]), "lobbyd: --watch needs a terminal\n");
}

async fn the_history_names_each_reset(fixture: CliFixture) {
    let CliFixture { database, settings } = &fixture;
    assert_eq!(printed(settings, &["history"]), "No timer has fired.\n");
    let store = database.store().await;
    let due = database.now().await - 100;
    // A row of its own, and a row that many share.
    database.insert_rooms("single", 1, due).await;
    let fire = async || {
        let now = store.now().await.unwrap();
        store.fire_due(now, DueBatch::first(500), None).await.unwrap()
    };
    let fired = fire().await;
    let published: Vec<EventId> = fired.rows.iter().map(|row| row.id.clone()).collect();
    store.mark_published(&published, store.now().await.unwrap()).await.unwrap();
    database.insert_rooms("herd", 100, due).await;
    fire().await;
    database.insert_rooms("tried", 1, due).await;
    fire().await;
    let now = store.now().await.unwrap();
    let available = Available { after: None, now, except: &[] };
    store.claim(available, 500, now).await.unwrap();

    let history = json(settings, &["history", "--limit", "1000"])["history"].clone();
    let history = history.as_array().unwrap();
    assert_eq!(history.len(), 102);
    assert_eq!((&history[0]["token"], &history[0]["attempts"]), (&"tried1".into(), &1.into()));
    assert_eq!(history[0]["announcedAt"], serde_json::Value::Null);
    let single = &history[101];
    assert_eq!(single["token"], "single1");
    assert_eq!(single["eventId"], published[0].as_str());
    assert!(single["lagMilliseconds"].as_i64().unwrap() >= 100_000, "{single}");
    assert_eq!(single["wasOverdue"], false);
    let ids: std::collections::BTreeSet<&str> =
        history.iter().map(|reset| reset["eventId"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 102);

    let of_one = json(settings, &["history", "herd77"]);
    assert_eq!(of_one["history"].as_array().unwrap().len(), 1);
    assert_eq!(of_one["history"][0]["token"], "herd77");
    let limited = json(settings, &["history", "--limit", "5"]);
    assert_eq!(limited["history"].as_array().unwrap().len(), 5);
    database.insert_room("quiet").await;
    assert_eq!(printed(settings, &["history", "quiet"]), "No timer has fired.\n");
    assert_eq!(
        failure(settings, &["history", "single"]),
        "lobbyd: there is no room single (similar: single1)\n"
    );
    let table = cells(&printed(settings, &["history", "--since", "1h", "--limit", "1000"]));
    assert_eq!(table[0][..4], ["Room", "Due (Europe/Berlin)", "Fired", "Lag"]);
    assert_eq!((table[1][0].as_str(), table[1][4].as_str()), ("tried1", "not yet (1 attempt)"));
    assert_eq!(table.len(), 103);
    assert!(table[102][3].starts_with("1m 4"), "{:?}", table[102]);
}

async fn an_unknown_room_is_an_error_with_similar_tokens(mut fixture: CliFixture) {
    let CliFixture { database, settings } = &mut fixture;
    for token in ["webinar", "Board", "weekly-1"] {
        database.insert_room(token).await;
    }
    // Without a broker there are no dead letters.
    let error = failure(settings, &["rooms", "wehinar"]);
    assert_eq!(error, "lobbyd: there is no room wehinar (similar: webinar)\n");
    settings.push(("LOBBYD__EVENTS__URL".to_owned(), "amqp://127.0.0.1:1".to_owned()));
    for (token, pasted) in [("$(id)", "--token '$(id)'"), ("-x", "--token -x")] {
        let error = failure(settings, &["rooms", "--", token]);
        assert!(error.ends_with(&format!(": lobbyd dead-letters list {pasted}\n")), "{error}");
    }
    let error = failure(settings, &["rooms", "wehinar"]);
    assert_eq!(
        error,
        "lobbyd: there is no room wehinar (similar: webinar); changes of its lobby become dead \
         letters: lobbyd dead-letters list --token wehinar\n"
    );
    let error = failure(settings, &["lobby", "clear", "board"]);
    assert!(error.contains("there is no room board (similar: Board)"), "{error}");
    let output = run(settings, &["rooms", "zzzz", "webinar", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let rooms: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(rooms["rooms"][0]["token"], "webinar", "the others are shown");
}

/// Each says what to set, and none creates a database.
#[test]
fn without_the_services_database_each_command_says_what_to_set() {
    for command in [
        ["rooms"].as_slice(),
        &["timers"],
        &["history"],
        &["status"],
        &["lobby", "clear", "abc"],
        &["user", "list"],
        &["user", "remove", "bob"],
        &["user", "passwd", "bob", "--password-stdin"],
    ] {
        let mut program = program(&settings(&[]));
        let output = program.args(command).output().unwrap();
        let folder = program.get_current_dir().unwrap();
        assert!(folder.read_dir().unwrap().next().is_none(), "{command:?}");
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        let error = text(&output.stderr);
        assert!(error.contains("database.url: nothing names the database"), "{error}");
        assert!(error.contains("set LOBBYD__DATABASE__URL"), "{error}");
    }
    let file = folder("none-").join("rooms.db");
    let url = format!("sqlite://{}?mode=rwc", file.display());
    let settings = settings(&[("LOBBYD__DATABASE__URL", &url)]);
    let error = text(&run(&settings, &["rooms"]).stderr);
    assert!(error.contains("there is no file"), "{error}");
    assert!(!file.exists());
    std::fs::write(&file, "").unwrap();
    let error = failure(&settings, &["rooms"]);
    assert!(error.contains("lobbyd migrate creates the tables"), "{error}");
    let output = run(&settings, &["dead-letters", "list"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output.stderr).contains("set LOBBYD__EVENTS__URL"), "{output:?}");
}
