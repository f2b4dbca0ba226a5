//! What lobbyd cannot be faster than: the same work on the same servers, by the fewest statements
//! and messages, without anything that lobbyd has to decide.

pub mod consumer;
mod mariadb;
mod postgres;
pub mod publisher;
pub mod single;
mod sqlite;
mod statements;

use super::{
    clock,
    support::database::{Database, Kind},
};

/// Seconds since the beginning, and how much is done by then.
pub type Curve = Vec<(f64, f64)>;

/// Rooms of a batch, and messages of one, as in lobbyd's defaults.
pub const BATCH: usize = 500;

/// Opens all due rooms, and writes what lobbyd writes beside each of them.
pub async fn open_rooms(database: &Database) -> Curve {
    let curve = match database.kind {
        Kind::Postgres => postgres::open_rooms(&database.url).await,
        Kind::MariaDb => mariadb::open_rooms(&database.url).await,
        Kind::Sqlite => sqlite::open_rooms(&database.url).await,
    };
    assert_eq!(database.closed_rooms().await, 0);
    curve
}

/// Seconds until everything was done.
pub fn duration(curve: &Curve) -> f64 {
    curve.last().unwrap().0
}

/// How much was done per second.
pub fn rate(curve: &Curve) -> f64 {
    let (seconds, count) = curve.last().unwrap();
    count / seconds
}

/// How much was done per second between its first and its last tenth: what begins and ends slowly,
/// or waits for something else at first, does not count.
pub fn steady_rate(curve: &Curve) -> f64 {
    let total = curve.last().unwrap().1;
    let reached = |share: f64| *curve.iter().find(|(_at, count)| *count >= total * share).unwrap();
    let ((begin, first), (end, last)) = (reached(0.1), reached(0.9));
    (last - first) / (end - begin)
}

/// Counts what is done, from now on.
struct Progress {
    begin: f64,
    /// Times since the beginning, and how much was done by then since the step before.
    steps: Curve,
}

impl Progress {
    fn begin() -> Self {
        Self { begin: clock::now(), steps: Vec::new() }
    }

    fn add(&mut self, count: usize) {
        self.steps.push((clock::now() - self.begin, count as f64));
    }
}

/// The sum of what was done at the same time.
fn curve(steps: impl IntoIterator<Item = Progress>) -> Curve {
    let steps: Vec<Progress> = steps.into_iter().collect();
    let mut all: Curve = steps.into_iter().flat_map(|progress| progress.steps).collect();
    all.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    let mut sum = 0.0;
    for (_time, count) in &mut all {
        sum += *count;
        *count = sum;
    }
    all
}
