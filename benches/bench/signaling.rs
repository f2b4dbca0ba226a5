//! Timers that fall due one at a time, as clients with a websocket learn of them: guests who have
//! joined their room at a real signaling server of Talk. The worker is a process of its own.

use serde_json::json;

use super::{
    clock,
    options::{Options, Section},
    report::{Figure, Report, Unit},
    stats,
    support::{
        cluster::TestCluster,
        database::Kind,
        http::{Api, Client},
        signaling::{SECRET, SignalingServer, checksum, client::Channel},
    },
};

/// Seconds, at least, before the first timer.
const LEAD: i64 = 2;

pub async fn run(options: &Options, report: &mut Report) {
    let mut cluster = TestCluster::new(Kind::Postgres).await;
    let signaling = SignalingServer::start().await;
    let (url, backend) = (signaling.url(), signaling.backend());
    let servers = format!(r#"[{{ url = "{url}", backend = "{backend}", secret = "{SECRET}" }}]"#);
    cluster.set("SIGNALING__SERVERS", &servers);
    // Its queue takes the updates.
    let client = cluster.client().await;
    let worker = cluster.worker().await;
    let api = Api::new(signaling.server.port).guest();
    let tokens: Vec<String> =
        (1..=options.told_timers()).map(|number| format!("timer{number}")).collect();
    let mut guests = Vec::new();
    for token in &tokens {
        guests.push(signaling.guest_in(token).await);
    }
    let first = clock::second() + LEAD;
    let due: Vec<i64> = (first..).take(tokens.len()).collect();
    for (token, due) in tokens.iter().zip(&due) {
        let timer = cluster.database.timestamp_sql(*due);
        let insert = "INSERT INTO lobbyd_rooms (token, type, name, lobby_state, lobby_timer)";
        cluster
            .database
            .execute(&format!("{insert} VALUES ('{token}', 3, 'Webinar', 1, {timer})"))
            .await;
    }
    assert!(clock::second() < first, "the preparation took too long");
    let (mut lags, mut limits) = (Vec::new(), Vec::new());
    for ((token, due), guest) in tokens.iter().zip(due).zip(&guests) {
        lags.push((guest.is_let_in(Channel::Room, token).await - due as f64) * 1000.0);
        let sent = clock::now();
        post(&api, &signaling, token).await;
        limits.push((guest.is_told_lobby(Channel::Room, token, 1).await - sent) * 1000.0);
    }
    drop((worker, client));
    for percent in [50, 99] {
        let name = format!(
            "due to a guest's websocket (limit: from the request on), p{percent} of {}",
            lags.len()
        );
        let lag = [stats::percentile(&lags, percent)];
        let figure = Figure::new(Section::Signaling, name, Unit::Milliseconds, &lag);
        report.add(figure.beside(&[stats::percentile(&limits, percent)]));
    }
}

/// Tells the server, without lobbyd, that a room has a lobby again.
async fn post(api: &Client, signaling: &SignalingServer, token: &str) {
    let random = format!("{token:x>64}");
    let properties = json!({ "lobby-state": 1 });
    let update = json!({ "type": "update", "update": { "userids": [], "properties": properties } });
    let body = update.to_string();
    let checksum = checksum(SECRET, &random, body.as_bytes());
    let headers = [
        ("content-type", "application/json"),
        ("spreed-signaling-random", random.as_str()),
        ("spreed-signaling-checksum", &checksum),
        ("spreed-signaling-backend", &signaling.backend()),
    ];
    api.raw("POST", &format!("/api/v1/room/{token}"), &headers, body).await.expect(200);
}
