//! One soak, from the start of the servers to the table.

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    change_log,
    check::{check, history::History},
    faults::{self, Tally},
    load::{self, Clients, Rooms},
    notes::{Clock, Notes},
    plan::{self, Options},
    recorder::{Recorded, Recorder},
    report::Report,
    site::{OWNER, Site},
    support::{amqp::Client, database::Database, eventually},
};

/// Rooms for each second, so many that none is used twice: an event that comes late must not look as
/// if the next use had overtaken it.
const ROOMS: u64 = 150;

/// Rooms that are inserted at once.
const INSERTED: u64 = 5_000;

pub async fn run(options: Options) {
    println!("soak: {options}");
    let site = Arc::new(Site::start(&options).await);
    let database = &site.cluster.database;
    let client = site.cluster.client_with_quorum_queue().await;
    drop(client);
    change_log::install(database).await;
    let number = options.seconds * ROOMS;
    insert_rooms(database, number).await;
    let recorder = Recorder::start(site.cluster.amqp_url.clone(), site.cluster.updates.clone());
    let notes = Arc::new(Notes::new(Clock::read(database).await));
    let rooms = Arc::new(Rooms::new(number));
    let clients = Clients::new(&site, Arc::clone(&notes));

    let begin = Instant::now();
    let tally = Arc::new(Tally::default());
    let plan = plan::faults(&options);
    println!("soak: {} faults are planned, logs in {}", plan.len(), site.logs.display());
    tokio::join!(
        faults::run(Arc::clone(&site), plan, options, Arc::clone(&tally)),
        load::run(clients, Arc::clone(&rooms), options),
    );
    let lasted = begin.elapsed();
    let recovered = all_done(&site).await;

    for process in &site.processes {
        tally.add_wrong(process.end().await);
    }
    let client = Client::connect(&site.cluster.amqp_url, &site.cluster.exchange).await;
    let dead_letters = client.take_rest(&site.cluster.dead_letters).await;
    let Recorded { announcements, unreadable } = recorder.recorded();
    let history = History {
        settings: notes.settings(),
        changes: change_log::read(database).await,
        announcements,
        unreadable,
        dead_letters: dead_letters.into_iter().map(|letter| letter.body).collect(),
        expected_dead_letters: notes.dead_letters(),
        rooms: change_log::rooms(database).await,
        refused: rooms.refused().collect(),
        held: rooms.held().collect(),
        ended_at: database.now_millis().await,
        clock_step: notes.clock_step(database).await,
    };
    let findings = check(&history);
    let report = Report {
        options,
        history,
        findings,
        tally,
        notes,
        lasted,
        recovered,
        versions: site.versions().await,
    };
    println!("\n{report}");
    let name = format!("{}-{}.md", options.database(), options.seed);
    fs::write(site.logs.with_file_name(name), report.to_string()).unwrap();
    report.assert_kept();
}

/// Inserts the rooms, all moderated by one user.
async fn insert_rooms(database: &Database, number: u64) {
    for before in (0..number).step_by(INSERTED.try_into().unwrap()) {
        let values: Vec<String> = (before + 1..=number.min(before + INSERTED))
            .map(|number| format!("('room{number}', 3, 'Webinar')"))
            .collect();
        let insert = "INSERT INTO lobbyd_rooms (token, type, name) VALUES";
        database.execute(&format!("{insert} {}", values.join(","))).await;
    }
    let owner = OWNER.0;
    database
        .execute(&format!(
            "INSERT INTO lobbyd_attendees (room_id, actor_type, actor_id, display_name, participant_type)
             SELECT id, 'users', '{owner}', '{owner}', 1 FROM lobbyd_rooms"
        ))
        .await;
}

/// Waits until nothing is left to do, and returns how long it took: every timer has fired, every
/// event is settled, every announcement is received. Then every process has to become ready, which
/// takes a minute if a room is refused.
async fn all_done(site: &Site) -> Duration {
    let begin = Instant::now();
    let done = |what: &str| println!("soak: {what} after {:?}", begin.elapsed());
    let cluster = &site.cluster;
    eventually("every timer to fire", || async {
        let pending = "SELECT count(*) FROM lobbyd_rooms
             WHERE lobby_state = 1 AND lobby_timer IS NOT NULL
                   AND token NOT IN (SELECT token FROM soak_refused)";
        (cluster.database.number(pending).await == 0).then_some(())
    })
    .await;
    done("every timer fired");
    let retry = cluster.setting("EVENTS__RETRY_QUEUE");
    site.drained(&[&cluster.queue, &retry]).await;
    done("every event settled");
    cluster.database.all_published().await;
    site.drained(&[&cluster.updates]).await;
    done("every announcement received");
    let took = begin.elapsed();
    site.ready().await;
    done("every process ready");
    took
}
