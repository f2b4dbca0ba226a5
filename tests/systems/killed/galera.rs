//! MariaDB: a Galera cluster of three nodes, with a worker on each of two.

use tokio::time::sleep;

use super::{Trial, UNDISTURBED, Watch, load::Load};
use crate::support::{
    cluster::TestCluster,
    database::{Database, Kind},
    eventually,
    server::{BROKER, start_galera},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_a_galera_cluster_is_killed_under_load() {
    let mut nodes = start_galera(3);
    let database = Database::create_on(Kind::MariaDb, nodes[2].port).await;
    let size = "SELECT CAST(variable_value AS SIGNED) FROM information_schema.global_status
                WHERE variable_name = 'wsrep_cluster_size'";
    eventually("the cluster to be complete", || async {
        (database.number(size).await == 3).then_some(())
    })
    .await;
    let mut cluster = TestCluster::on(database, &BROKER.url());
    let urls: Vec<String> =
        nodes.iter().map(|node| cluster.database.url_through(node.port)).collect();
    let mut workers = Vec::new();
    // Each has a node of its own, and the others for the case that it fails.
    for own in 0..2 {
        let (before, after) = urls.split_at(own);
        cluster.set("DATABASE__URL", &[after, before].concat().join(" "));
        workers.push(cluster.worker().await);
    }
    let client = cluster.client().await;
    let load = Load::start(&cluster.database, vec![BROKER.url()], &cluster.exchange).await;
    let mut trial = Trial::new("Galera, three nodes, a worker on each of two");
    sleep(UNDISTURBED).await;
    trial.is_over("none", Watch::start(&workers), &cluster.database).await;

    let watch = Watch::start(&workers);
    nodes[0].kill();
    sleep(UNDISTURBED).await;
    nodes[0].start();
    trial.is_over("node of one worker killed, started after 8 s", watch, &cluster.database).await;
    trial.ends(load, &cluster, &client).await;
}
