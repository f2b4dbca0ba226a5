//! The rules of SIP dial-in over HTTP, on each database.

use serde_json::json;

use crate::support::{app::TestApp, http::Client};

on_every_database! { crate::support::app::TestApp::new:
    dial_in_depends_on_groups_and_assigns_pins,
    dial_in_must_be_configured,
}

async fn dial_in_depends_on_groups_and_assigns_pins(mut app: TestApp) {
    app.set("SIP__DIALIN_INFO", "dial 1234");
    app.set("SIP__SHARED_SECRET", "marker-secret");
    app.set("SIP__GROUPS", "phone,staff");
    app.restart().await;
    let owner = app.user_in("owner", &["staff"]).await;
    let other = app.user_in("other", &["visitors"]).await;
    let room = owner.room(3).await;
    let sip = format!("/room/{room}/webinar/sip");
    app.api.guest().put(&sip, json!({"state": 1})).await.expect(401);
    other.put(&sip, json!({"state": 1})).await.expect(404);
    owner.add(&room, "other").await;
    other.put(&sip, json!({"state": 1})).await.expect(401);
    let helper = app.user_in("helper", &["phone"]).await;
    owner.add(&room, "helper").await;
    helper.put(&sip, json!({"state": 1})).await.expect(403);
    let guest = app.api.guest();
    guest.join(&room).await;

    owner.put(&sip, json!({"state": 3})).await.expect(400);
    owner.put(&sip, json!({"state": 0})).await.expect(400);
    let on = owner.put(&sip, json!({"state": 1})).await.expect(200).data();
    assert_eq!((&on["sipEnabled"], &on["canEnableSIP"]), (&json!(1), &json!(true)));
    owner.put(&sip, json!({"state": 1})).await.expect(400);
    let pin = async |client: &Client| {
        let seen = client.get(&format!("/room/{room}")).await.expect(200).data();
        seen["attendeePin"].as_str().unwrap().to_owned()
    };
    let late = app.user("late").await;
    owner.add(&room, "late").await;
    let pins = [pin(&owner).await, pin(&other).await, pin(&late).await];
    for one in &pins {
        assert_eq!(one.len(), 7, "{pins:?}");
    }
    assert!(pins[0] != pins[1] && pins[1] != pins[2] && pins[0] != pins[2], "{pins:?}");
    assert_eq!(pin(&guest).await, "");
    let other_view = other.get(&format!("/room/{room}/participants")).await.expect(200);
    assert!(!String::from_utf8_lossy(&other_view.body).contains(&pins[0]));
    owner.put(&sip, json!({"state": 2})).await.expect(200);
    assert_eq!((pin(&owner).await.as_str(), pin(&other).await.as_str()), ("", ""));
    owner.put(&sip, json!({"state": 0})).await.expect(200);
    // A telephone cannot dial letters.
    app.database
        .execute(&format!("UPDATE lobbyd_rooms SET token = 'word' WHERE token = '{room}'"))
        .await;
    owner.put("/room/word/webinar/sip", json!({"state": 1})).await.expect(400);
    assert!(!app.log().contains("marker-secret"));
}

async fn dial_in_must_be_configured(app: TestApp) {
    let owner = app.user("owner").await;
    let room = owner.room(2).await;
    owner.put(&format!("/room/{room}/webinar/sip"), json!({"state": 1})).await.expect(412);
    let seen = owner.get(&format!("/room/{room}")).await.expect(200).data();
    assert_eq!(seen["canEnableSIP"], false);
}
