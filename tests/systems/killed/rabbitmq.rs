//! RabbitMQ: a cluster of three nodes.

use tokio::time::sleep;

use super::{Trial, UNDISTURBED, Watch, load::Load};
use crate::support::{
    amqp::Client,
    cluster::TestCluster,
    database::{Database, Kind},
    eventually,
    server::Broker,
};

/// Each time the node that leads the queue, to which the workers are connected at first.
#[tokio::test(flavor = "multi_thread")]
async fn the_leader_of_a_rabbitmq_cluster_is_killed_under_load() {
    let mut nodes = Broker::cluster(3);
    let urls: Vec<String> = nodes.iter().map(Broker::url).collect();
    let mut cluster = TestCluster::on(Database::create(Kind::Postgres).await, &urls[0]);
    cluster.set("EVENTS__URL", &urls.join(" "));
    let workers = [cluster.worker().await, cluster.worker().await];
    let client = Client::connect(&urls[0], &cluster.exchange).await;
    client.record_in_quorum_queue(&cluster.updates).await;
    drop(client);
    let load = Load::start(&cluster.database, urls.clone(), &cluster.exchange).await;
    let mut trial = Trial::new("RabbitMQ, three nodes, two workers that know all three");
    sleep(UNDISTURBED).await;
    for round in 1..=3 {
        let leader = leader(&nodes[0], &cluster.queue);
        let killed = nodes.iter().position(|node| node.name() == leader).unwrap();
        let watch = Watch::start(&workers);
        nodes[killed].server.kill();
        sleep(UNDISTURBED).await;
        trial.is_over(&format!("leader killed ({round})"), watch, &cluster.database).await;
        nodes[killed].server.start();
        eventually("the node to be back in every queue", || async {
            let queues = nodes[killed].report(&["list_queues", "--no-table-headers", "online"]);
            let is_back = |line: &str| line.matches('@').count() == 3;
            (!queues.is_empty() && queues.lines().all(is_back)).then_some(())
        })
        .await;
    }
    let client = Client::connect(&urls[0], &cluster.exchange).await;
    trial.ends(load, &cluster, &client).await;
}

/// The name of the node that leads a queue.
fn leader(node: &Broker, queue: &str) -> String {
    let queues = node.report(&["list_queues", "--no-table-headers", "name", "leader"]);
    let mut queues = queues.lines().filter_map(|line| line.split_once('\t'));
    queues.find(|(name, _leader)| *name == queue).unwrap().1.to_owned()
}
