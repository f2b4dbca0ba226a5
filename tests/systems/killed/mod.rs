//! Servers of a cluster that are killed under load: `make test-servers`.
//!
//! Each test prints what a fault cost: how long a worker was not ready, how late the latest room was
//! opened and announced. Nothing may be lost, opened twice or early, or become a dead letter.

mod galera;
mod load;
mod pgbouncer;
mod postgres;
mod rabbitmq;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{task::JoinSet, time::sleep};

use crate::support::{
    amqp::Client,
    cluster::TestCluster,
    daemon::{Daemon, get},
    database::{Database, Kind},
    table::{Table, seconds},
};

use load::Load;

/// Load before and after a fault.
const UNDISTURBED: Duration = Duration::from_secs(8);

/// After this time without a problem, a fault is over.
const OVER: Duration = Duration::from_secs(10);

struct Trial {
    table: Table,
    name: &'static str,
}

impl Trial {
    fn new(name: &'static str) -> Self {
        let columns =
            ["fault", "a worker was not ready", "latest opening", "latest update", "changes"];
        Self { table: Table::new(&columns), name }
    }

    /// Adds a row for a fault, after it is over for all workers.
    async fn is_over(&mut self, fault: &str, watch: Watch, database: &Database) {
        let begin = watch.begin;
        let unready = watch.end().await;
        let since = database.now().await - i64::try_from(begin.elapsed().as_secs()).unwrap();
        let [opened, published] = latest(database, since).await;
        let unready = unready.map_or_else(
            || "–".to_owned(),
            |[from, until]| format!("{} to {} after it", seconds(from), seconds(until)),
        );
        self.table.add(&[fault, &unready, &seconds(opened), &seconds(published), "–"]);
    }

    /// Ends the load, checks that nothing was lost, and prints the table.
    async fn ends(mut self, load: Load, cluster: &TestCluster, client: &Client) {
        let changes = load.end().await;
        cluster.all_done(client, changes).await;
        let [opened, published] = latest(&cluster.database, 0).await;
        let all = changes.to_string();
        self.table.add(&[
            "all, lost 0, twice 0, early 0",
            "",
            &seconds(opened),
            &seconds(published),
            &all,
        ]);
        println!("\n{}\n\n{}", self.name, self.table);
    }
}

/// Asks workers whether they are ready, from a fault on.
struct Watch {
    begin: Instant,
    is_done: Arc<AtomicBool>,
    asking: JoinSet<Option<[Duration; 2]>>,
}

impl Watch {
    fn start(workers: &[Daemon]) -> Self {
        let begin = Instant::now();
        let is_done = Arc::new(AtomicBool::new(false));
        let ports = workers.iter().map(|worker| worker.ops_port).collect();
        let mut asking = JoinSet::new();
        asking.spawn(unready(ports, begin, Arc::clone(&is_done)));
        Self { begin, is_done, asking }
    }

    /// Waits until all workers are ready again, and returns from when until when one was not.
    async fn end(mut self) -> Option<[Duration; 2]> {
        self.is_done.store(true, Ordering::Relaxed);
        self.asking.join_next().await.unwrap().unwrap()
    }
}

/// From when until when a worker was not ready, once nothing is left to happen and all have been
/// ready for some time.
async fn unready(
    ports: Vec<u16>,
    begin: Instant,
    is_done: Arc<AtomicBool>,
) -> Option<[Duration; 2]> {
    let (mut unready, mut done) = (None, None);
    loop {
        for port in &ports {
            if get(*port, "/readyz").await.is_none_or(|(status, _)| status != 200) {
                let now = begin.elapsed();
                unready = Some(unready.map_or([now, now], |[from, _]: [Duration; 2]| [from, now]));
            }
        }
        let now = begin.elapsed();
        if is_done.load(Ordering::Relaxed) {
            let done = *done.get_or_insert(now);
            if now > OVER + unready.map_or(done, |[_, until]| until.max(done)) {
                return unready;
            }
        }
        assert!(now < Duration::from_mins(3), "a worker does not become ready again");
        sleep(Duration::from_millis(20)).await;
    }
}

/// How long after its time the latest room was opened, and announced, of those that were due since.
async fn latest(database: &Database, since: i64) -> [Duration; 2] {
    let since = database.timestamp_sql(since);
    let mut latest = [Duration::ZERO; 2];
    for (latest, column) in latest.iter_mut().zip(["created_at", "published_at"]) {
        // Many events share a row, and are in its data.
        let (difference, time, shared) = match database.kind {
            Kind::Postgres => (
                "floor(extract(epoch FROM max(done_at - due_at)) * 1000)::bigint",
                "to_timestamp((event ->> 'due_at')::bigint)",
                "(SELECT * FROM lobbyd_outbox WHERE events > 1) AS shared,
                 jsonb_array_elements(data::jsonb) AS event",
            ),
            Kind::MariaDb => (
                "CAST(max(TIMESTAMPDIFF(MICROSECOND, due_at, done_at)) / 1000 AS SIGNED)",
                "'1970-01-01' + INTERVAL event.due SECOND",
                "(SELECT * FROM lobbyd_outbox WHERE events > 1) AS shared,
                 JSON_TABLE(data, '$[*]' COLUMNS (due BIGINT PATH '$.due_at')) AS event",
            ),
            Kind::Sqlite => unreachable!("SQLite has no server"),
        };
        let sql = format!(
            "SELECT coalesce({difference}, 0) FROM (
                 SELECT {column} AS done_at, due_at FROM lobbyd_outbox WHERE events = 1
                 UNION ALL SELECT {column}, {time} FROM {shared}
             ) AS events WHERE due_at >= {since}"
        );
        *latest = Duration::from_millis(database.number(&sql).await.try_into().unwrap());
    }
    latest
}
