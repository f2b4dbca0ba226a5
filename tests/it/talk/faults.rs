//! Faults of Talk, of its database and of lobbyd's own: what each of them delays, and what not.

use std::fs;

use nix::sys::signal::Signal;

use super::stand_in::{Fault, SECRET, Talk};
use super::{announced, set, start};
use crate::support::{
    daemon::Daemon,
    database::{Database, Kind},
    eventually,
    proxy::{Mode, Proxy},
    server::{folder, start_postgres},
};

#[tokio::test(flavor = "multi_thread")]
async fn rooms_open_after_the_maintenance() {
    let talk = Talk::new(Kind::Postgres).await;
    talk.set_fault(Fault::Maintenance);
    let settings = talk.settings();
    let daemon = Daemon::start_as("talk", &settings);
    daemon.unready_with("maintenance").await;
    talk.close_many("room", 20, 0).await;
    eventually("a request", || async { (!talk.all_requests().is_empty()).then_some(()) }).await;
    talk.set_fault(None);
    talk.all_open().await;
    daemon.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_stops_the_requests_until_its_file_changes() {
    let talk = Talk::new(Kind::Postgres).await;
    talk.set_secret("renewed");
    let file = folder("secret-").join("talk-secret");
    fs::write(&file, SECRET).unwrap();
    let mut settings = talk.settings();
    settings.retain(|(key, _)| key != "LOBBYD__TALK__SECRET");
    set(&mut settings, "TALK__SECRET_FILE", file.to_str().unwrap());
    let daemon = start(&settings).await;
    talk.close_many("room", 20, 0).await;
    daemon.unready_with("does not accept the secret").await;
    daemon.metric_becomes("lobbyd_talk_due", 20).await;
    // As many as may be under way at once, and no more.
    let requests = talk.all_requests().len();
    assert!(requests <= 4, "{requests}");
    fs::write(&file, "renewed\n").unwrap();
    talk.all_open().await;
    daemon.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_renewed_by_a_reload() {
    let talk = Talk::new(Kind::Postgres).await;
    talk.set_secret("renewed");
    let mut settings = talk.settings();
    settings.retain(|(key, _)| key != "LOBBYD__TALK__SECRET");
    let file = folder("configuration-").join("lobbyd.toml");
    let write =
        |secret: &str| fs::write(&file, format!("[talk]\nsecret = \"{secret}\"\n")).unwrap();
    write(SECRET);
    let mut program = crate::support::daemon::program(&settings);
    let daemon = Daemon::spawn(program.args(["talk", "--config", file.to_str().unwrap()]));
    talk.close("abc", 2, 0).await;
    daemon.unready_with("does not accept the secret").await;
    write("renewed");
    daemon.signal(Signal::SIGHUP);
    daemon.logs("configuration reloaded").await;
    talk.opens("abc").await;
    daemon.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_that_talk_does_not_show_is_asked_for_once() {
    let talk = Talk::new(Kind::Postgres).await;
    for index in 1..=2 {
        talk.set_fault_of(&format!("room{index}"), Some(Fault::Hides));
    }
    let settings = talk.settings();
    let daemon = start(&settings).await;
    talk.close_many("room", 2, 0).await;
    daemon.metric_becomes("lobbyd_talk_refused", 2).await;
    talk.close("other", 3, 2).await;
    talk.opens("other").await;
    assert_eq!(talk.all_requests().len(), 3);
    daemon.ready().await;
    daemon.logs("Talk does not open this room").await;
    // With another timer it is another matter.
    talk.set_fault_of("room1", None);
    talk.set_timer("room1", Some(talk.database.now().await)).await;
    talk.opens("room1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_talk_that_shows_no_room_is_not_asked_for_each() {
    let talk = Talk::new(Kind::MariaDb).await;
    talk.set_fault(Fault::Hides);
    let daemon = start(&talk.settings()).await;
    talk.close_many("room", 50, 0).await;
    daemon.unready_with("no Talk answers").await;
    daemon.metric_becomes("lobbyd_talk_due", 50).await;
    let requests = talk.all_requests().len();
    assert!(requests <= 7, "{requests}");
}

#[tokio::test(flavor = "multi_thread")]
async fn talks_protection_from_brute_force_is_obeyed() {
    let talk = Talk::new(Kind::Postgres).await;
    talk.set_blocking(true);
    let settings = talk.settings();
    let daemon = start(&settings).await;
    talk.close_many("room", 50, 0).await;
    let problem = daemon.unready_with("brute force").await;
    assert!(problem.contains("whitelist"), "{problem}");
    daemon.metric_becomes("lobbyd_talk_due", 50).await;
    let requests = talk.all_requests().len();
    assert!(requests <= 4, "{requests}");
    let log = daemon.log();
    assert_eq!(log.matches("brute force").count(), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_that_fail_or_hang_delay_no_other_room() {
    let talk = Talk::new(Kind::Postgres).await;
    for index in 1..=4 {
        let fault = if index % 2 == 0 { Fault::Hangs } else { Fault::Fails };
        talk.set_fault_of(&format!("bad{index}"), Some(fault));
    }
    let settings = talk.settings();
    let daemon = start(&settings).await;
    talk.close_many("bad", 4, 0).await;
    talk.asked("bad1", 3).await;
    talk.asked("bad2", 1).await;
    talk.close_many("good", 50, 1).await;
    for index in 1..=50 {
        talk.opens(&format!("good{index}")).await;
    }
    assert!(!talk.is_open("bad1").await && !talk.is_open("bad2").await);
    daemon.unready_with("of Talk is due").await;
    for index in 1..=4 {
        talk.set_fault_of(&format!("bad{index}"), None);
    }
    talk.all_open().await;
    daemon.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_reported_and_not_followed() {
    let talk = Talk::new(Kind::Postgres).await;
    talk.set_fault(Fault::Redirects);
    let daemon = Daemon::start_as("talk", &talk.settings());
    talk.close("abc", 3, 0).await;
    daemon.unready_with("redirects to http://127.0.0.1:1/elsewhere").await;
    talk.set_fault(None);
    talk.opens("abc").await;
    daemon.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_is_down_opens_its_rooms_when_it_is_back() {
    let talk = Talk::new(Kind::Postgres).await;
    talk.close("abc", 3, 0).await;
    let mut settings = talk.settings();
    let proxy = Proxy::to(talk.port).await;
    proxy.set(Mode::Cut);
    set(&mut settings, "TALK__URL", &format!("http://127.0.0.1:{}/", proxy.port));
    let daemon = Daemon::start_as("talk", &settings);
    daemon.unready_with("Nextcloud cannot be reached").await;
    proxy.set(Mode::Pass);
    talk.opens("abc").await;
    daemon.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_talk_that_restarts_delays_rooms_and_loses_none() {
    let mut server = start_postgres();
    let talk = Talk::on(Database::of_another_on(Kind::Postgres, server.port).await).await;
    let settings = talk.settings();
    let daemon = start(&settings).await;
    talk.close("abc", 3, 4).await;
    server.kill();
    daemon.unready_with("database of Talk").await;
    server.start();
    daemon.ready().await;
    talk.opens("abc").await;
    announced(&settings, &["abc"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_lobbyd_that_is_unavailable_delays_announcements_only() {
    let mut server = start_postgres();
    let own = Database::create_on(Kind::Postgres, server.port).await;
    let talk = Talk::new(Kind::Postgres).await;
    let mut settings = talk.settings();
    set(&mut settings, "DATABASE__URL", &own.url);
    set(&mut settings, "DATABASE__MIGRATE", "false");
    let daemon = start(&settings).await;
    server.kill();
    talk.close("abc", 3, 1).await;
    talk.opens("abc").await;
    daemon.unready_with("database").await;
    server.start();
    daemon.ready().await;
    eventually("the announcement", || async {
        let resets = own.resets().await;
        (resets.len() == 1).then_some(())
    })
    .await;
    own.all_published().await;
}

/// lobbyd's own database stays away: only its announcements wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn rooms_open_after_a_restart_of_talks_database_without_that_of_lobbyd() {
    let (mut server, mut own_server) = (start_postgres(), start_postgres());
    let own = Database::create_on(Kind::Postgres, own_server.port).await;
    let talk = Talk::on(Database::of_another_on(Kind::Postgres, server.port).await).await;
    let mut settings = talk.settings();
    set(&mut settings, "DATABASE__URL", &own.url);
    set(&mut settings, "DATABASE__MIGRATE", "false");
    let daemon = start(&settings).await;
    own_server.kill();
    talk.close("one", 3, 1).await;
    talk.opens("one").await;
    server.kill();
    daemon.unready_with("database of Talk").await;
    server.start();
    eventually("the other room", || async {
        let now = talk.database.try_execute("SELECT 1").await;
        now.is_ok().then_some(())
    })
    .await;
    talk.close("two", 3, 1).await;
    talk.opens("two").await;
    own_server.start();
    daemon.ready().await;
    eventually("both announcements", || async { (own.resets().await.len() == 2).then_some(()) })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_ready_while_talk_refuses_a_room() {
    let talk = Talk::new(Kind::Postgres).await;
    talk.set_fault_of("bad", Some(Fault::Hides));
    let leader = start(&talk.settings()).await;
    talk.close("bad", 3, 0).await;
    leader.metric_becomes("lobbyd_talk_refused", 1).await;
    let standby = start(&talk.settings()).await;
    standby.logs("standing by").await;
    assert_eq!(standby.gauge("lobbyd_talk_overdue_seconds").await, Some(0.0));
    standby.ready().await;
}
