//! A database with a million timers that are not due.

use tokio::sync::OnceCell;

use super::{
    clock, rooms,
    support::{cluster::TestCluster, database::Kind},
};

pub const FEW: u32 = 1_000;
pub const MANY: u32 = 1_000_000;

/// Seconds until the first of the timers, and the number of seconds over which they are spread.
const AHEAD: i64 = 24 * 3600;
const SPREAD: u32 = 7 * 24 * 3600;

/// The cluster with a million pending timers that all sections share.
pub async fn many() -> &'static TestCluster {
    static MANY_PENDING: OnceCell<TestCluster> = OnceCell::const_new();
    MANY_PENDING.get_or_init(|| cluster(MANY)).await
}

/// A cluster with so many pending timers.
pub async fn cluster(number: u32) -> TestCluster {
    let mut cluster = TestCluster::new(Kind::Postgres).await;
    cluster.set("LOG__FORMAT", "json");
    let database = &cluster.database;
    database.store().await;
    let first = clock::second() + AHEAD;
    let timer = format!("to_timestamp({first} + n::bigint * 7919 % {SPREAD})");
    rooms::add(database, "pending", number, &timer).await;
    rooms::settle(database).await;
    cluster
}
