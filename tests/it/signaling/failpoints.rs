//! A process that aborts after a signaling server has accepted a room.

use super::site::Site;

on_every_database! { crate::signaling::site::Site::new:
    a_room_that_was_told_before_an_abort_is_told_again,
}

async fn a_room_that_was_told_before_an_abort_is_told_again(site: Site) {
    drop(site.worker().await);
    for times in 1..=3 {
        let room = format!("webinar{times}");
        site.insert_room(&room, &["alice"]).await;
        site.close(&room, 0).await;
        site.start_to_abort("after-tell-before-mark").aborts().await;
        site.front.receives(&room, 1).await;
        assert!(site.untold().await > 0);
    }
    let _worker = site.worker().await;
    site.all_told().await;
    site.database().all_open().await;
    for times in 1..=3 {
        let told = site.front.requests(&format!("webinar{times}"));
        assert!(told.len() > 1, "{told:?}");
        assert!(told.iter().all(|request| request.properties()["lobby-state"] == 0), "{told:?}");
    }
    assert_eq!(site.database().resets().await.len(), 3);
}
