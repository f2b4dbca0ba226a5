//! `lobbyd status` shows what works, and fails if something does not.

use serde_json::{Value, json};

use super::{cells, failure, printed};
use crate::support::{
    cluster::TestCluster,
    daemon::run,
    database::{Database, Kind},
    eventually,
};

/// What the command finds, whether it succeeds or not.
fn status(cluster: &TestCluster) -> Value {
    let output = run(&cluster.settings, &["status", "--json"]);
    let status: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_eq!(output.status.success(), status["healthy"] == true, "{output:?}");
    status
}

fn problems(status: &Value) -> String {
    status["problems"].to_string()
}

async fn cluster(kind: Kind) -> TestCluster {
    TestCluster::new(kind).await
}

on_every_database!(super::cluster: the_status_is_healthy_while_all_works,);

async fn the_status_is_healthy_while_all_works(mut cluster: TestCluster) {
    cluster.set("OPS__OVERDUE_AFTER", "1s");
    let client = cluster.client().await;
    let mut worker = cluster.worker().await;
    cluster.set("OPS__LISTEN", &format!("127.0.0.1:{}", worker.ops_port));
    let database = &cluster.database;
    database.insert_rooms("now", 3, database.now().await + 1).await;
    database.insert_rooms("later", 1, database.now().await + 3600).await;
    database.lobby_becomes("now1", 0).await;
    database.all_published().await;
    client.publish(&json!({"token": "nowhere", "state": 1})).await;
    eventually("a dead letter", || async {
        (client.count(&cluster.dead_letters).await == 1).then_some(())
    })
    .await;

    let found = status(&cluster);
    assert_eq!(found["healthy"], true, "{found}");
    assert_eq!(found["servers"].as_array().unwrap().len(), 2);
    assert_eq!(found["process"]["ready"], true);
    assert_eq!(found["queues"][0]["name"], *cluster.queue);
    assert_eq!(found["queues"][0]["consumers"], 1);
    assert_eq!(found["queues"][2]["messages"], 1);
    assert_eq!(found["schedule"]["next"]["token"], "later1");
    assert_eq!(found["schedule"]["overdue"], 0);
    assert_eq!(found["outbox"]["pending"], 0);
    assert_eq!(found["lag"]["timers"], 3);
    let table = cells(&printed(&cluster.settings, &["status"]));
    assert_eq!(table[0], ["Part", "State", "Details (times: UTC)"]);
    assert_eq!(table[3][..2], ["process", "ready"]);

    worker.stop().await;
    client.consumer_ends(&cluster.queue).await;
    database.insert_rooms("late", 1, database.now().await - 60).await;
    let found = status(&cluster);
    assert_eq!(found["process"]["ready"], Value::Null);
    assert_eq!(found["schedule"]["firstOverdue"]["token"], "late1");
    let problems = problems(&found);
    assert!(problems.contains("no worker consumes the queue"), "{problems}");
    assert!(problems.contains("room late1 is 1m"), "{problems}");
    assert!(failure(&cluster.settings, &["status"]).contains("lobbyd rooms late1 says why"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_names_the_server_that_does_not_answer() {
    let mut cluster = TestCluster::on(Database::create(Kind::Sqlite).await, "amqp://127.0.0.1:1");
    drop(cluster.database.store().await);
    cluster.set("OPS__LISTEN", "127.0.0.1:1");
    let found = status(&cluster);
    assert_eq!(found["servers"][0]["error"], Value::Null);
    assert!(found["servers"][1]["error"].as_str().unwrap().contains("broker"), "{found}");
    assert_eq!(found["schedule"]["overdue"], 0, "the rest is shown");
    cluster.set("DATABASE__URL", "postgres://lobbyd@127.0.0.1:1/lobbyd");
    cluster.set("DATABASE__TIMEOUT", "1s");
    let found = status(&cluster);
    assert!(problems(&found).contains("database postgres://lobbyd@127.0.0.1:1"), "{found}");
    assert_eq!(found["schedule"], Value::Null);
    let error = failure(&cluster.settings, &["rooms"]);
    assert!(error.contains("`lobbyd config check --connect` tries the servers"), "{error}");
}
