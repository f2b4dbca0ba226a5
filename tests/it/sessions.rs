//! The clients of one user: each has a session of its own in a room.

use serde_json::{Value, json};

use crate::support::{
    app::{PASSWORD, TestApp},
    http::Client,
};

on_every_database! { crate::support::app::TestApp::new:
    two_clients_of_a_user_are_in_the_room_at_once,
    a_client_that_leaves_takes_no_other_with_it,
    a_guest_has_one_session,
}

async fn seen(client: &Client, room: &str) -> Value {
    client.get(&format!("/room/{room}")).await.expect(200).data()
}

async fn in_call(client: &Client, room: &str) -> Vec<Value> {
    let peers = client.get(&format!("/call/{room}")).await.expect(200).data();
    peers.as_array().unwrap().iter().map(|peer| peer["sessionId"].clone()).collect()
}

async fn two_clients_of_a_user_are_in_the_room_at_once(app: TestApp) {
    let desktop = app.user("owner").await;
    let phone = app.api.user("owner", PASSWORD);
    let room = desktop.room(2).await;
    let first = desktop.join(&room).await["sessionId"].clone();
    let second = phone.join(&room).await["sessionId"].clone();
    assert_ne!(first, second);
    assert_eq!(seen(&desktop, &room).await["sessionId"], first);
    assert_eq!(seen(&phone, &room).await["sessionId"], second);
    for (client, flags) in [(&desktop, 3), (&phone, 5)] {
        client.post(&format!("/call/{room}"), json!({"flags": flags})).await.expect(200);
    }
    assert_eq!(in_call(&desktop, &room).await, [first.clone(), second.clone()]);
    assert_eq!(seen(&desktop, &room).await["participantFlags"], 3);
    assert_eq!(seen(&phone, &room).await["participantFlags"], 5);
    let participants = desktop.get(&format!("/room/{room}/participants")).await.expect(200).data();
    assert_eq!(participants[0]["sessionIds"], json!([first, second]));
    assert_eq!(participants[0]["inCall"], 7);
    // Only one of them started or joined the call, as far as the chat is concerned.
    let shown = desktop.system_messages(&room).await;
    assert_eq!(shown, ["conversation_created", "call_started"]);
    // The same client joins again: its session is replaced.
    let again = phone.join(&room).await["sessionId"].clone();
    assert_ne!(again, second);
    assert_eq!(in_call(&desktop, &room).await, [first]);
}

async fn a_client_that_leaves_takes_no_other_with_it(app: TestApp) {
    let desktop = app.user("owner").await;
    let phone = app.api.user("owner", PASSWORD);
    let room = desktop.room(3).await;
    let first = desktop.join(&room).await["sessionId"].clone();
    phone.join(&room).await;
    let (call, active) = (format!("/call/{room}"), format!("/room/{room}/participants/active"));
    for client in [&desktop, &phone] {
        client.post(&call, json!({})).await.expect(200);
    }
    phone.delete(&active, json!({})).await.expect(200);
    assert_eq!(seen(&phone, &room).await["sessionId"], "0");
    let still = seen(&desktop, &room).await;
    assert_eq!((&still["sessionId"], &still["hasCall"]), (&first, &json!(true)));
    assert_eq!(in_call(&desktop, &room).await, [first]);
    phone.post(&call, json!({})).await.expect(404);
    phone.join(&room).await;
    phone.post(&call, json!({})).await.expect(200);
    desktop.delete(&call, json!({})).await.expect(200);
    assert_eq!(seen(&phone, &room).await["hasCall"], true);
    // A user who joined by link remains a participant until the last session ends.
    let (one, other) = (app.user("self").await, app.api.user("self", PASSWORD));
    one.join(&room).await;
    other.join(&room).await;
    one.delete(&active, json!({})).await.expect(200);
    assert_eq!(seen(&other, &room).await["participantType"], 5);
    other.delete(&active, json!({})).await.expect(200);
    assert_eq!(seen(&other, &room).await["attendeeId"], 0);
}

async fn a_guest_has_one_session(app: TestApp) {
    let owner = app.user("owner").await;
    let room = owner.room(3).await;
    let guest = app.api.guest();
    let first = guest.join(&room).await["sessionId"].clone();
    let second = guest.join(&room).await["sessionId"].clone();
    assert_ne!(first, second);
    let all = owner.get(&format!("/room/{room}/participants")).await.expect(200).data();
    assert_eq!(all[1]["sessionIds"], json!([second]));
}
