//! One soak, from the start of the servers to the table.

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use crate::{
    change_log,
    check::{check, history::History},
    faults::{self, Tally},
    load::{self, Clients, Rooms},
    notes::{Clock, Notes},
    plan::{self, Options},
    readiness,
    recorder::{Recorded, Recorder},
    report::Report,
    site::{OWNER, Site, without_digits},
    support::{PATIENCE, amqp::Client, database::Database},
};

/// Rooms for each second, so many that none is used twice: an event that comes late must not look as
/// if the next use had overtaken it.
const ROOMS: u64 = 150;

/// Between two looks at what is left to do.
const PAUSE: Duration = Duration::from_millis(20);

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
    let breaking = async {
        tokio::join!(
            faults::run(Arc::clone(&site), plan, options, Arc::clone(&tally)),
            load::run(clients, Arc::clone(&rooms), options),
        )
    };
    let mut answers = Vec::new();
    tokio::select! {
        ((), ()) = breaking => {}
        () = readiness::watch(&site, &rooms, &notes, &mut answers) => {}
    }
    let lasted = begin.elapsed();
    let recovered = all_done(&site, &tally).await;

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
        answers,
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

/// Waits until nothing is left to do, and returns how long it took: every event is settled, every
/// timer has fired, every announcement is published and received. Then every process has to become
/// ready, which takes a minute if a room is refused. What does not happen in time is wrong.
async fn all_done(site: &Site, tally: &Tally) -> Duration {
    let begin = Instant::now();
    let mut shown = String::new();
    let took = loop {
        let left = left(site).await.join(", ");
        let took = begin.elapsed();
        if left.is_empty() {
            println!("soak: all done after {took:?}");
            break took;
        }
        if took > PATIENCE {
            tally.add_wrong(Some(format!("{left} after {took:?}")));
            break took;
        }
        if without_digits(&left) != without_digits(&shown) {
            println!("soak: {left} after {took:?}");
            shown = left;
        }
        sleep(PAUSE).await;
    };
    for process in &site.processes {
        tally.add_wrong(process.ready().await);
    }
    println!("soak: every process was asked after {:?}", begin.elapsed());
    took
}

/// What is left to do. Work goes from the queues of events through the database to that of the
/// announcements, so the queues are looked at before and after.
async fn left(site: &Site) -> Vec<String> {
    let (cluster, database) = (&site.cluster, &site.cluster.database);
    let retry = cluster.setting("EVENTS__RETRY_QUEUE");
    let queues = [cluster.queue.as_str(), &retry, &cluster.updates];
    let mut left = site.not_empty(&queues).await;
    let pending = "SELECT count(*) FROM lobbyd_rooms
         WHERE lobby_state = 1 AND lobby_timer IS NOT NULL
               AND token NOT IN (SELECT token FROM soak_refused)";
    for (number, what) in [
        (database.number(pending).await, "timers did not fire"),
        (database.unpublished().await, "announcements are not published"),
    ] {
        left.extend((number > 0).then(|| format!("{number} {what}")));
    }
    if left.is_empty() { site.not_empty(&queues).await } else { left }
}
