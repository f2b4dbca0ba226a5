//! Signaling servers that are down, that fail, or that are slow, and workers that are killed: nobody
//! stays without an update, and nothing else is late.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;
use tokio::{
    net::TcpListener,
    time::{Instant, timeout},
};

use super::{
    front::Answer,
    site::{Site, date, signaling_is},
};
use crate::support::{
    database::Kind,
    eventually,
    signaling::{SignalingServer, client::Channel},
};

/// How a server is taken away, and comes back.
#[derive(Debug, Clone, Copy)]
enum Outage {
    Killed,
    Frozen,
}

impl Outage {
    fn begin(self, signaling: &mut SignalingServer) {
        match self {
            Self::Killed => signaling.server.kill(),
            Self::Frozen => signaling.server.signal(Signal::SIGSTOP),
        }
    }

    fn end(self, signaling: &mut SignalingServer) {
        match self {
            Self::Killed => signaling.server.start(),
            Self::Frozen => signaling.server.signal(Signal::SIGCONT),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_down_delays_nothing_else_and_is_told_later() {
    outage(Outage::Killed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_frozen_delays_nothing_else_and_is_told_later() {
    outage(Outage::Frozen).await;
}

async fn outage(outage: Outage) {
    let mut site = Site::new(Kind::Postgres).await;
    let other = SignalingServer::start().await;
    let backend = site.signaling.backend();
    let url = match outage {
        Outage::Killed => site.front.url(),
        Outage::Frozen => site.signaling.url(),
    };
    site.configure(&[(&url, &backend), (&other.url(), &other.backend())]);
    let worker = site.worker().await;
    let client = site.cluster.client().await;
    for token in ["one", "two"] {
        site.insert_room(token, &["alice"]).await;
    }
    let before = site.signaling.user("alice").await;
    outage.begin(&mut site.signaling);
    for token in ["one", "two"] {
        let guest = other.guest_in(token).await;
        site.close(token, 1).await;
        guest.is_let_in(Channel::Room, token).await;
        assert_eq!(client.take_reset(&site.cluster.updates).await.token(), token);
    }
    let problem = signaling_is(&worker, 503).await;
    assert!(problem.contains(&url) && !problem.contains(&other.url()), "{problem}");
    // Nobody would be there to be told, right after the start.
    site.front.set(Answer::Cut);
    outage.end(&mut site.signaling);
    let alice = match outage {
        Outage::Killed => site.signaling.user("alice").await,
        // What arrived while it was frozen is told before it takes another connection.
        Outage::Frozen => before,
    };
    site.front.set(Answer::Pass);
    for token in ["one", "two"] {
        alice.is_let_in(Channel::List, token).await;
    }
    site.all_told().await;
    Site::counted(&worker, &url, "ok", 1).await;
    assert_eq!(Site::counted(&worker, &other.url(), "ok", 2).await, 2);
    worker.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_never_answers_is_reported_until_it_does() {
    let site = Site::new(Kind::Postgres).await;
    let worker = site.worker().await;
    site.insert_room("first", &[]).await;
    site.close("first", 1).await;
    site.front.receives("first", 1).await;
    site.all_told().await;
    site.front.set(Answer::Hold);
    site.insert_room("webinar1", &["alice"]).await;
    site.close("webinar1", 1).await;
    let warning = "signaling server does not take rooms, they wait";
    worker.logs(warning).await;
    let problem = "does not answer in time";
    eventually("the reason", || async {
        let (_status, text) = worker.get("/readyz?part=signaling").await?;
        text.contains(problem).then_some(())
    })
    .await;
    eventually("two probes", || async {
        let (status, text) = worker.get("/readyz?part=signaling").await?;
        assert!(status == 503 && text.contains(problem), "{text}");
        (site.front.requests("webinar1").len() > 3).then_some(())
    })
    .await;
    assert_eq!(worker.log().matches(warning).count(), 1);
    site.front.set(Answer::Pass);
    signaling_is(&worker, 200).await;
    site.all_told().await;
    assert_eq!(worker.log().matches(warning).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_is_kept_though_lobbyd_is_killed_while_the_server_is_down() {
    for kind in [Kind::Postgres, Kind::MariaDb, Kind::Sqlite] {
        let mut site = Site::new(kind).await;
        let (url, backend) = (site.signaling.url(), site.signaling.backend());
        site.configure(&[(&url, &backend)]);
        let worker = site.worker().await;
        site.insert_room("webinar1", &["bob"]).await;
        site.signaling.server.kill();
        site.close("webinar1", 1).await;
        site.database().lobby_becomes("webinar1", 0).await;
        drop(worker);
        assert!(site.untold().await > 0, "{kind:?}");
        site.signaling.server.start();
        let bob = site.signaling.user("bob").await;
        let _worker = site.worker().await;
        bob.is_let_in(Channel::List, "webinar1").await;
        site.all_told().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_of_one_room_delays_no_other_and_it_is_told_afterwards() {
    let site = Site::new(Kind::Postgres).await;
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _worker = site.worker().await;
    // The server has accepted the secret.
    site.insert_room("first", &[]).await;
    site.close("first", 1).await;
    site.front.receives("first", 1).await;
    let faults = [
        Answer::Status(500),
        Answer::Status(502),
        Answer::Status(404),
        Answer::Cut,
        Answer::CutAfter,
        Answer::Redirect(elsewhere.local_addr().unwrap().port()),
        Answer::Late(Duration::from_secs(12)),
    ];
    for (number, fault) in faults.into_iter().enumerate() {
        let (bad, good) = (format!("bad{number}"), format!("good{number}"));
        let (refused, let_in) =
            (site.signaling.guest_in(&bad).await, site.signaling.guest_in(&good).await);
        site.front.set_for(&bad, Some(fault));
        site.insert_room(&bad, &["alice"]).await;
        site.close(&bad, 0).await;
        site.front.receives(&bad, 1).await;
        site.insert_room(&good, &["alice"]).await;
        site.close(&good, 1).await;
        let_in.is_let_in(Channel::Room, &good).await;
        let requests = site.front.receives(&bad, 2).await;
        let pause = requests[1].at - requests[0].at;
        assert!(pause > Duration::from_millis(100), "{fault:?}: again after {pause:?}");
        site.front.set_for(&bad, None);
        refused.is_let_in(Channel::Room, &bad).await;
        site.all_told().await;
        assert_eq!(site.front.requests(&good).len(), 1, "{fault:?}");
        assert_eq!(site.front.most_at_once(&bad), 1, "{fault:?}");
    }
    // The redirect was not followed: no connection waits to be accepted.
    assert!(timeout(Duration::ZERO, elsewhere.accept()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_changes_of_one_room_are_told_one_after_the_other_and_the_last_one_wins() {
    let site = Site::new(Kind::Postgres).await;
    let _worker = site.worker().await;
    let client = site.cluster.client().await;
    site.insert_room("webinar1", &["alice"]).await;
    let guest = site.signaling.guest_in("webinar1").await;
    site.front.set(Answer::Hold);
    let version = site.database().now_millis().await - 1000;
    let timer = version / 1000 + 7200;
    let change = |number: i64| {
        json!({
            "token": "webinar1", "state": number % 2, "timer": timer + number,
            "version": version + number,
        })
    };
    client.publish(&change(1)).await;
    site.front.receives("webinar1", 1).await;
    for number in 2..=21 {
        client.publish(&change(number)).await;
    }
    eventually("the last change", || async {
        let last = "SELECT lobby_version FROM lobbyd_rooms";
        (site.database().number(last).await == version + 21).then_some(())
    })
    .await;
    site.front.set(Answer::Late(Duration::from_millis(20)));
    let last = date(timer + 21);
    guest.is_told(Channel::Room, "webinar1", "lobby-timer", &last).await;
    site.all_told().await;
    let requests = site.front.requests("webinar1");
    assert_eq!(requests.last().unwrap().properties()["lobby-timer"], last);
    assert!(requests.len() < 10, "{} requests for 21 changes", requests.len());
    assert_eq!(site.front.most_at_once("webinar1"), 1);
    assert_eq!(guest.properties(Channel::Room, "webinar1").last().unwrap()["lobby-timer"], last);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_tell_each_change_once() {
    let site = Site::new(Kind::Postgres).await;
    let _workers = [site.worker().await, site.worker().await];
    let tokens: Vec<String> = (1..=50).map(|number| format!("room{number}")).collect();
    let timer = site.database().now().await + 2;
    site.database().insert_rooms("room", 50, timer).await;
    for token in &tokens {
        site.front.receives(token, 1).await;
    }
    site.all_told().await;
    for token in &tokens {
        assert_eq!(site.front.requests(token).len(), 1, "{token}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_worker_tells_what_a_killed_one_was_about_to_tell() {
    let site = Site::new(Kind::Postgres).await;
    let first = site.worker().await;
    let tokens: Vec<String> = (1..=10).map(|number| format!("room{number}")).collect();
    let mut guests = Vec::new();
    for token in &tokens {
        guests.push(site.signaling.guest_in(token).await);
    }
    site.front.set(Answer::Hold);
    site.database().insert_rooms("room", 10, site.database().now().await + 1).await;
    eventually("a request", || async { site.front.all_requests().first().cloned() }).await;
    let second = site.worker().await;
    drop(first);
    site.front.set(Answer::Pass);
    let begin = Instant::now();
    for (guest, token) in guests.iter().zip(&tokens) {
        guest.is_let_in(Channel::Room, token).await;
    }
    println!("told {:?} after the other worker was killed", begin.elapsed());
    site.all_told().await;
    second.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_a_server_cannot_be_told_is_given_up() {
    let mut site = Site::new(Kind::Postgres).await;
    site.cluster.set("SIGNALING__GIVE_UP_AFTER", "2s");
    site.cluster.set("HOUSEKEEPING__PRUNE", "* * * * * *");
    let worker = site.worker().await;
    site.insert_room("webinar1", &["alice"]).await;
    site.front.set(Answer::Status(503));
    site.close("webinar1", 1).await;
    site.front.receives("webinar1", 1).await;
    worker.metric_becomes("lobbyd_signaling_dropped_total", 1).await;
    assert_eq!(site.untold().await, 0);
    signaling_is(&worker, 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_given_up_once_though_a_request_is_under_way() {
    let mut site = Site::new(Kind::Postgres).await;
    site.cluster.set("SIGNALING__GIVE_UP_AFTER", "2s");
    site.cluster.set("HOUSEKEEPING__PRUNE", "* * * * * *");
    let worker = site.worker().await;
    site.insert_room("webinar1", &["alice"]).await;
    site.front.set(Answer::Hold);
    site.close("webinar1", 1).await;
    worker.metric_becomes("lobbyd_signaling_dropped_total", 1).await;
    Site::counted(&worker, &site.front.url(), "unanswered", 1).await;
    assert_eq!(site.untold().await, 0);
    assert_eq!(worker.metric("lobbyd_signaling_dropped_total").await, Some(1));
}
