//! API processes that abort while a client closes a room. The setting is complete, with its announcement
//! and its timer, or there is nothing of it.

use std::collections::BTreeMap;

use serde_json::json;

use crate::support::{
    amqp::Published,
    app::PASSWORD,
    cluster::TestCluster,
    daemon::{Daemon, add_user},
    http::{Api, Client},
};

const PUBLICATION: &str = "after-commit-before-publish";

/// Seconds from a request that sets a timer until that is due.
const SOON: i64 = 15;

on_every_database! { crate::support::cluster::TestCluster::new:
    a_setting_is_not_made_if_an_abort_of_the_api_precedes_its_commit,
    a_setting_is_made_if_an_abort_of_the_api_follows_its_commit,
    a_setting_is_made_if_an_abort_of_the_api_precedes_its_publication,
}

async fn a_setting_is_not_made_if_an_abort_of_the_api_precedes_its_commit(cluster: TestCluster) {
    survives_in_an_api(cluster, "before-commit", false).await;
}

async fn a_setting_is_made_if_an_abort_of_the_api_follows_its_commit(cluster: TestCluster) {
    survives_in_an_api(cluster, "after-commit", true).await;
}

async fn a_setting_is_made_if_an_abort_of_the_api_precedes_its_publication(cluster: TestCluster) {
    survives_in_an_api(cluster, PUBLICATION, true).await;
}

/// Has API processes without a worker abort, each with a request that closes a room. Later processes
/// complete what is made, and one of the clients sends its request again.
async fn survives_in_an_api(cluster: TestCluster, point: &str, is_made: bool) {
    let (client, database) = (cluster.client().await, &cluster.database);
    // It declares the queues.
    drop(cluster.worker().await);
    let mut api = cluster.api().await;
    add_user(&cluster.settings, "owner", PASSWORD, &[]);
    let owner = owner(&api);
    let mut rooms = Vec::new();
    for _ in 0..8 {
        rooms.push(owner.room(3).await);
    }
    assert!(api.stop().await.success());
    database.all_published().await;
    client.take_rest(&cluster.updates).await;

    let (once, due_at) = aborts_while_closing(&cluster, point, &mut rooms, SOON, is_made).await;
    let (again, later) = aborts_while_closing(&cluster, point, &mut rooms, 3600, is_made).await;
    let (_worker, api) = (cluster.worker().await, cluster.api().await);
    let owner = self::owner(&api);
    let before = owner.get(&format!("/room/{again}")).await.expect(200).data();
    assert_eq!(before["lobbyState"], i64::from(is_made));
    let after = owner.put(&lobby(&again), json!({"state": 1, "timer": later})).await.expect(200);
    assert_eq!(
        (&after.data()["lobbyState"], &after.data()["lobbyTimer"]),
        (&json!(1), &json!(later))
    );
    // As another program moves it.
    let now = database.timestamp_sql(database.now().await);
    let due = format!("UPDATE lobbyd_rooms SET lobby_timer = {now} WHERE token = '{again}'");
    assert_eq!(database.execute(&due).await, 1);
    database.all_open().await;
    database.all_published().await;

    let resets = database.resets().await;
    let reset = resets.values().find(|reset| reset.token == once);
    assert_eq!(reset.map(|reset| reset.due_at.unwrap().timestamp()), is_made.then_some(due_at));
    let mut updates = BTreeMap::new();
    for update in client.take_rest(&cluster.updates).await {
        updates.insert(update.message_id.clone(), update);
    }
    let reasons = |room: &str| {
        let updates = updates.values().filter(|update| update.token() == room);
        let mut reasons: Vec<String> = updates.map(Published::reason).collect();
        // What the aborted process had claimed is published last.
        reasons.sort();
        reasons
    };
    let (made, reset) = ("lobby_non_moderators", "lobby_timer_reached");
    let of_both: [&[&str]; 2] = if is_made {
        [&[made, reset], &[made, "lobby_timer_changed", reset]]
    } else {
        [&[], &[made, reset]]
    };
    assert_eq!([reasons(&once), reasons(&again)], of_both);
    updates.retain(|_id, update| update.is_reset());
    cluster.each_announced(&client, updates).await;
}

/// Has an API process abort while it closes one of these rooms. Returns the room, which has all of the
/// setting or nothing, and its timer.
async fn aborts_while_closing(
    cluster: &TestCluster,
    point: &str,
    rooms: &mut Vec<String>,
    seconds: i64,
    is_made: bool,
) -> (String, i64) {
    let database = &cluster.database;
    // Its first commit is that of its check whether it can write.
    let times = if point == PUBLICATION { 1 } else { 2 };
    loop {
        let room = rooms.pop().expect("a process that aborts in the request");
        let mut api = Daemon::start_to_abort("api", &cluster.settings, point, times);
        if !api.is_ready_before_its_end().await {
            continue;
        }
        let due_at = database.now().await + seconds;
        let request = json!({"state": 1, "timer": due_at});
        let answer = owner(&api).try_put(&lobby(&room), &request).await;
        let log = api.aborts().await;
        let line = log.lines().find(|line| line.contains("failpoint reached")).unwrap();
        let is_in_request = line.contains("http.method=\"PUT\"");
        if point == PUBLICATION || is_in_request {
            assert!(answer.is_err() || !is_in_request, "{answer:?}");
            assert_eq!(database.lobby_state(&room).await, i64::from(is_made));
            assert_eq!(database.waiting().await.contains(&room), is_made);
            return (room, due_at);
        }
        // The check was repeated in between.
        let open = "UPDATE lobbyd_rooms SET lobby_state = 0, lobby_timer = NULL WHERE token";
        database.execute(&format!("{open} = '{room}'")).await;
    }
}

fn owner(api: &Daemon) -> Client {
    Api::new(api.http_port).user("owner", PASSWORD)
}

fn lobby(room: &str) -> String {
    format!("/room/{room}/webinar/lobby")
}
