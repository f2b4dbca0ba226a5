//! PostgreSQL: a primary with a synchronous standby.

use std::time::Duration;

use tokio::time::sleep;

use super::{Trial, UNDISTURBED, Watch, load::Load};
use crate::support::{
    cluster::TestCluster,
    database::{Database, Kind},
    eventually,
    server::{BROKER, free_port, start_postgres, start_standby},
};

/// The primary is killed, and the standby promoted two seconds later. The first URL leads to the old
/// primary, which comes back as a standby that nobody may write to.
#[tokio::test(flavor = "multi_thread")]
async fn a_synchronous_standby_is_promoted_under_load() {
    let mut first = start_postgres();
    let database = Database::create_on(Kind::Postgres, first.port).await;
    let mut second = start_standby(&first, free_port());
    database.execute("ALTER SYSTEM SET synchronous_standby_names = '*'").await;
    database.execute("SELECT pg_reload_conf()").await;
    eventually("the standby to be synchronous", || async {
        let standby = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        (database.number(standby).await == 1).then_some(())
    })
    .await;

    let mut cluster = TestCluster::on(database, &BROKER.url());
    let urls = [cluster.database.url.clone(), cluster.database.url_through(second.port)];
    cluster.set("DATABASE__URL", &urls.join(" "));
    let mut workers = [cluster.worker().await, cluster.worker().await];
    let client = cluster.client().await;
    let load = Load::start(&cluster.database, vec![BROKER.url()], &cluster.exchange).await;
    let mut trial = Trial::new("PostgreSQL, synchronous standby, two workers that know both");
    sleep(UNDISTURBED).await;

    let watch = Watch::start(&workers);
    first.kill();
    sleep(Duration::from_secs(2)).await;
    cluster.database = cluster.database.through(second.port);
    eventually("the promotion", || async {
        cluster.database.try_execute("SELECT pg_promote()").await.ok()
    })
    .await;
    trial.is_over("primary killed, promotion after 2 s", watch, &cluster.database).await;

    let _first = start_standby(&second, first.port);
    let watch = Watch::start(&workers[1..]);
    assert!(workers[0].stop().await.success());
    workers[0] = cluster.worker().await;
    let fault = "old primary is the standby, one of the workers restarts";
    trial.is_over(fault, watch, &cluster.database).await;
    trial.ends(load, &cluster, &client).await;
    second.kill();
}
