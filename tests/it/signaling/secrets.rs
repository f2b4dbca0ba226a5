//! Servers that refuse the secret, and rooms that a server refuses.

use std::{fs, path::PathBuf};

use nix::sys::signal::Signal;

use super::{
    front::Answer,
    site::{Site, signaling_is},
};
use crate::support::{
    database::Kind,
    server::folder,
    signaling::{SECRET, client::Channel},
};

/// Configures a file with the secret.
fn secret_file(site: &Site, secret: &str) -> PathBuf {
    let file = folder("secret-").join("signaling");
    fs::write(&file, secret).unwrap();
    let (url, backend) = (site.front.url(), site.signaling.backend());
    let path = file.display();
    site.configure_as(&format!(
        r#"{{ url = "{url}", backend = "{backend}/", secret_file = "{path}" }}"#
    ));
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_wrong_secret_nothing_is_sent_until_it_is_corrected() {
    const WRONG: &str = "another-secret";
    let mut site = Site::new(Kind::Postgres).await;
    site.cluster.set("LOG__LEVEL", "trace");
    let (url, secret) = (site.front.url(), secret_file(&site, WRONG));
    let worker = site.worker().await;
    signaling_is(&worker, 200).await;
    let client = site.cluster.client().await;
    let tokens = ["one", "two", "three"];
    let mut guests = Vec::new();
    for token in tokens {
        site.insert_room(token, &["alice"]).await;
        guests.push(site.signaling.guest_in(token).await);
    }
    // All at once: the server must not see ten wrong requests, whatever is due.
    for token in tokens {
        site.close(token, 1).await;
    }
    let problem = signaling_is(&worker, 503).await;
    assert!(problem.contains(&url), "{problem}");
    assert!(problem.contains("server.conf"), "{problem}");
    client.take_resets(&site.cluster.updates, 3).await;
    // Later changes are not sent either.
    site.insert_room("four", &[]).await;
    site.close("four", 1).await;
    assert_eq!(client.take_reset(&site.cluster.updates).await.token(), "four");
    site.database().all_published().await;
    let refused = site.front.all_requests();
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(Site::counted(&worker, &url, "unauthorized", 1).await, 1);
    let said = worker.log().lines().filter(|line| line.contains("refuses the secret")).count();
    assert_eq!(said, 1);

    fs::write(&secret, SECRET).unwrap();
    worker.signal(Signal::SIGHUP);
    for (guest, token) in guests.iter().zip(tokens) {
        guest.is_let_in(Channel::Room, token).await;
    }
    signaling_is(&worker, 200).await;
    site.all_told().await;
    assert_eq!(Site::counted(&worker, &url, "unauthorized", 1).await, 1);
    let log = worker.log();
    assert!(log.contains("DEBUG"), "{log}");
    for secret in [WRONG, SECRET] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None);
    }
    for request in site.front.all_requests() {
        assert!(!log.contains(request.header("spreed-signaling-checksum")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_renewed_needs_no_signal() {
    let site = Site::new(Kind::Postgres).await;
    let secret = secret_file(&site, "that of yesterday");
    let worker = site.worker().await;
    site.insert_room("webinar1", &["alice"]).await;
    let guest = site.signaling.guest_in("webinar1").await;
    site.close("webinar1", 1).await;
    signaling_is(&worker, 503).await;
    fs::write(&secret, SECRET).unwrap();
    guest.is_let_in(Channel::Room, "webinar1").await;
    assert_eq!(site.front.requests("webinar1").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_that_the_server_refuses_holds_up_no_other() {
    let site = Site::new(Kind::Postgres).await;
    let worker = site.worker().await;
    for (status, bad) in [(400, "bad400"), (413, "bad413")] {
        site.front.set_for(bad, Some(Answer::Status(status)));
        site.insert_room(bad, &["alice"]).await;
        site.close(bad, 0).await;
        site.front.receives(bad, 1).await;
        let good = format!("good{status}");
        let guest = site.signaling.guest_in(&good).await;
        site.insert_room(&good, &["alice"]).await;
        site.close(&good, 1).await;
        guest.is_let_in(Channel::Room, &good).await;
        assert_eq!(site.front.requests(&good).len(), 1);
    }
    let url = site.front.url();
    Site::counted(&worker, &url, "refused", 3).await;
    signaling_is(&worker, 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_path_is_reported_and_not_taken_for_a_refused_room() {
    let site = Site::new(Kind::Postgres).await;
    let url = format!("{}/elsewhere", site.signaling.url());
    site.configure(&[(&url, &site.signaling.backend())]);
    let worker = site.worker().await;
    site.insert_room("webinar1", &["alice"]).await;
    site.close("webinar1", 1).await;
    let problem = signaling_is(&worker, 503).await;
    assert!(problem.contains(&format!("{url}: status 404")), "{problem}");
    assert!(problem.contains("wrong path"), "{problem}");
}
