//! Worker and API as processes of their own, with a broker between them.

use super::*;

/// A user who owns a public room.
async fn owner(settings: &Settings, api: &Daemon) -> (Client, String) {
    add_user(settings, "owner", PASSWORD, &[]);
    let owner = Api::new(api.http_port).user("owner", PASSWORD);
    let room = owner.room(3).await;
    (owner, room)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_to_another_process_is_shown_no_older_room() {
    let cluster = TestCluster::new(Kind::Postgres).await;
    let (_worker, mut first, second) =
        (cluster.worker().await, cluster.api().await, cluster.api().await);
    let (here, room) = owner(&cluster.settings, &first).await;
    let there = Api::new(second.http_port).user("owner", PASSWORD);
    let mut stream = there.follow(&room).await;
    for number in 0..20 {
        let name = format!("Name {number}");
        rename(&here, &room, &name).await;
        let told = here.follow(&room).await.event().await;
        let known = there.header("last-event-id", &told.id.unwrap().to_string());
        let shown = known.follow(&room).await.event().await;
        assert_eq!((&shown.data["name"], shown.id), (&json!(name), told.id));
        stream.until(|room| room["name"] == name.as_str()).await;
    }
    // The other process goes on for clients of one that dies.
    let mut lost = here.follow(&room).await;
    let known = lost.event().await;
    first.signal(nix::sys::signal::Signal::SIGKILL);
    assert_eq!(lost.block().await, None);
    assert!(!first.ended().await.success());
    let again = there.header("last-event-id", &known.id.unwrap().to_string());
    let mut again = again.follow(&room).await;
    assert!(again.event().await.id >= known.id);
    close(&there, &room, Some(cluster.database.now().await + 2)).await;
    again.until(|room| room["lobbyState"] == 1).await;
    again.until(|room| room["lobbyState"] == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_shown_no_older_room_while_the_broker_takes_no_updates() {
    let broker = Broker::start();
    let cluster = TestCluster::on(Database::create(Kind::Postgres).await, &broker.url());
    let (first, second) = (cluster.api().await, cluster.api().await);
    let (here, room) = owner(&cluster.settings, &first).await;
    let there = Api::new(second.http_port).user("owner", PASSWORD);
    add_user(&cluster.settings, "user", PASSWORD, &[]);
    here.add(&room, "user").await;
    let user = Api::new(second.http_port).user("user", PASSWORD);
    let mut stream = user.follow(&room).await;
    assert_eq!(stream.room().await["participantType"], 3);
    broker.control(&["set_vm_memory_high_watermark", "absolute", "1000000"]);
    rename(&here, &room, "Before").await;
    first.metric_becomes("lobbyd_broker_blocked", 1).await;
    for number in 0..4 {
        rename(&here, &room, &format!("Name {number}")).await;
        let told = here.follow(&room).await.event().await;
        let known = there.header("last-event-id", &told.id.unwrap().to_string());
        let shown = known.follow(&room).await.event().await;
        assert_eq!((&shown.data["name"], shown.id), (&told.data["name"], told.id));
    }
    // What has changed of the viewer is not announced either.
    let id = here.attendee_id(&room, "user").await;
    let moderators = format!("/room/{room}/moderators");
    here.post(&moderators, json!({"attendeeId": id})).await.expect(200);
    let told = here.follow(&room).await.event().await;
    let known = user.header("last-event-id", &told.id.unwrap().to_string());
    assert_eq!(known.follow(&room).await.room().await["participantType"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_outlives_an_outage_of_the_database() {
    let mut cluster = TestCluster::new(Kind::Postgres).await;
    let worker = cluster.worker().await;
    let proxy = Proxy::to(crate::support::server::POSTGRES.port).await;
    cluster.set("DATABASE__URL", &cluster.database.url_through(proxy.port));
    let api = cluster.api().await;
    let (owner, room) = owner(&cluster.settings, &api).await;
    let mut stream = owner.follow(&room).await;
    let timer = cluster.database.now().await + 3;
    close(&owner, &room, Some(timer)).await;
    stream.until(|room| room["lobbyTimer"] == timer).await;
    proxy.set(Mode::Cut);
    // The worker opens the room and says so; this process cannot read it.
    cluster.database.lobby_becomes(&room, 0).await;
    assert!(api.unready().await.contains("database"));
    proxy.set(Mode::Pass);
    let open = stream.until(|room| room["lobbyState"] == 0).await;
    assert_eq!(open.data, read(&owner, &room).await);
    drop(worker);
}
