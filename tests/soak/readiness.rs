//! Asks the workers whether they are ready, while rooms are overdue or not.
//!
//! Once a second it reads the rooms whose timer is over by a direct connection, asks, and reads again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::future::join_all;
use sqlx::{AssertSqlSafe, MySqlPool, PgPool};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::{
    change_log,
    check::history::{Answer, Overdue},
    load::Rooms,
    notes::Notes,
    plan::WORKERS,
    site::{Process, Site},
    support::database::{Database, Kind},
};

const INTERVAL: Duration = Duration::from_secs(1);

/// How long a worker may take for its answer.
const LIMIT: Duration = Duration::from_secs(1);

/// How long the database may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A room, and its timer that is over.
type Due = (String, i64);

/// Asks until it is dropped.
pub async fn watch(site: &Site, rooms: &Rooms, notes: &Notes, answers: &mut Vec<Answer>) {
    let reader = Reader::new(&site.cluster.database);
    let mut workers: Vec<Worker> = site.processes[..WORKERS].iter().map(Worker::new).collect();
    let mut seen = Seen::default();
    let mut tick = interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        // The database is unavailable now and then.
        let Some(due) = reader.due().await else { continue };
        seen.note(due, Instant::now());
        let asked = join_all(workers.iter_mut().map(|worker| worker.ask(notes))).await;
        let Some(due) = reader.due().await else { continue };
        let overdue = seen.overdue(&due, &rooms.held().collect());
        let asked = asked.into_iter().flatten();
        answers.extend(asked.map(|answer| Answer { overdue: overdue.clone(), ..answer }));
    }
}

/// When each timer that is over was first seen to be, and when that was looked at last.
#[derive(Default)]
struct Seen {
    first: BTreeMap<Due, Instant>,
    last: Option<Instant>,
}

impl Seen {
    fn note(&mut self, due: BTreeSet<Due>, now: Instant) {
        self.first.retain(|before, _at| due.contains(before));
        for due in due {
            self.first.entry(due).or_insert(now);
        }
        self.last = Some(now);
    }

    /// The room that was overdue for longest and still is, unless something holds it.
    fn overdue(&self, still: &BTreeSet<Due>, held: &BTreeSet<String>) -> Option<Overdue> {
        let overdue =
            self.first.iter().filter(|(due, _at)| still.contains(*due) && !held.contains(&due.0));
        let ((token, timer), at) = overdue.min_by_key(|(_due, at)| **at)?;
        let seen = millis(self.last? - *at);
        Some(Overdue { token: token.clone(), timer: *timer, seen })
    }
}

struct Worker<'a> {
    process: &'a Process,
    /// Its number, and since when it has run undisturbed.
    running: Option<(u32, Instant)>,
}

impl<'a> Worker<'a> {
    fn new(process: &'a Process) -> Self {
        Self { process, running: None }
    }

    /// Asks the worker, unless a fault has it.
    async fn ask(&mut self, notes: &Notes) -> Option<Answer> {
        let number = self.process.undisturbed();
        if self.running.map(|(number, _since)| number) != number {
            self.running = number.map(|number| (number, Instant::now()));
        }
        let (number, since) = self.running?;
        let running = millis(since.elapsed());
        let is_ready = self.process.is_ready(LIMIT).await?;
        if self.process.undisturbed() != Some(number) {
            self.running = None;
            return None;
        }
        let worker = self.process.name.clone();
        Some(Answer { worker, at: notes.now(), is_ready, running, overdue: None })
    }
}

/// A direct connection to the database.
struct Reader {
    pool: Pool,
    sql: String,
}

enum Pool {
    Postgres(PgPool),
    MariaDb(MySqlPool),
}

impl Reader {
    fn new(database: &Database) -> Self {
        let url = &database.admin_url;
        let pool = match database.kind {
            Kind::MariaDb => Pool::MariaDb(MySqlPool::connect_lazy(url).unwrap()),
            Kind::Postgres | Kind::Sqlite => Pool::Postgres(PgPool::connect_lazy(url).unwrap()),
        };
        Self { pool, sql: change_log::overdue(database.kind) }
    }

    /// The rooms that are due.
    async fn due(&self) -> Option<BTreeSet<Due>> {
        let lines = timeout(PATIENCE, self.lines()).await.ok()?.ok()?;
        let due = |line: String| {
            let (token, timer) = line.split_once('|').unwrap();
            (token.to_owned(), timer.parse().unwrap())
        };
        Some(lines.into_iter().map(due).collect())
    }

    async fn lines(&self) -> sqlx::Result<Vec<String>> {
        let sql = AssertSqlSafe(self.sql.clone());
        match &self.pool {
            Pool::Postgres(pool) => sqlx::query_scalar(sql).fetch_all(pool).await,
            Pool::MariaDb(pool) => sqlx::query_scalar(sql).fetch_all(pool).await,
        }
    }
}

fn millis(duration: Duration) -> i64 {
    duration.as_millis().try_into().unwrap()
}

#[test]
fn a_room_is_overdue_from_when_it_was_seen_to_be_until_it_is_not() {
    let due = |tokens: &[&str]| tokens.iter().map(|token| ((*token).to_owned(), 5)).collect();
    let begin = Instant::now();
    let mut seen = Seen::default();
    seen.note(due(&["a", "b"]), begin);
    seen.note(due(&["b", "c"]), begin + INTERVAL);
    seen.note(due(&["a", "b", "c"]), begin + INTERVAL * 3);
    let overdue = |still: &[&str], held: &[&str]| {
        let held = held.iter().map(|token| (*token).to_owned()).collect();
        seen.overdue(&due(still), &held).map(|overdue| (overdue.token, overdue.seen))
    };
    assert_eq!(overdue(&["a", "b", "c"], &[]), Some(("b".to_owned(), 3_000)));
    assert_eq!(overdue(&["a", "b", "c"], &["b"]), Some(("c".to_owned(), 2_000)));
    assert_eq!(overdue(&["a"], &[]), Some(("a".to_owned(), 0)), "it was open meanwhile");
    assert_eq!(overdue(&[], &[]), None);
}
