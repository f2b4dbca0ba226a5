//! What clients of Talk expect of the chat: read marks, mentions, texts for the viewer.

use serde_json::{Value, json};

use crate::support::{app::TestApp, eventually, http::Client, participants::Participants};

on_every_database! { crate::support::app::TestApp::new:
    only_new_messages_are_marked_as_read_by_reading,
    a_read_marker_makes_the_room_a_modified_one,
    the_last_message_that_all_users_have_read_is_known,
    participants_are_mentioned,
    system_messages_address_the_viewer,
    a_chat_that_cannot_be_read_is_refused_before_its_parameters,
}

async fn seen(client: &Client, room: &str) -> Value {
    client.get(&format!("/room/{room}")).await.expect(200).data()
}

async fn say(client: &Client, room: &str, text: &str) -> Value {
    client.post(&format!("/chat/{room}"), json!({"message": text})).await.expect(201).data()
}

async fn only_new_messages_are_marked_as_read_by_reading(app: TestApp) {
    let participants = Participants::of(&app).await;
    let (room, user) = (participants.room.as_str(), &participants.user);
    say(&participants.owner, room, "hello").await;
    let unread = async || seen(user, room).await["unreadMessages"].clone();
    let history = format!("/chat/{room}?lookIntoFuture=0");
    let newer = format!("/chat/{room}?lookIntoFuture=1&timeout=0");
    user.get(&history).await.expect(200);
    user.get(&format!("{history}&setReadMarker=1")).await.expect(200);
    user.get(&format!("{newer}&setReadMarker=0")).await.expect(200);
    user.raw("HEAD", &newer, &[], "").await.expect(200);
    user.raw("GET", &newer, &[("sec-fetch-site", "cross-site")], "").await.expect(404);
    assert_eq!(unread().await, 1);
    user.get(&newer).await.expect(200);
    assert_eq!(unread().await, 0);
}

async fn a_read_marker_makes_the_room_a_modified_one(app: TestApp) {
    let participants = Participants::of(&app).await;
    let (room, user) = (participants.room.as_str(), &participants.user);
    say(&participants.owner, room, "hello").await;
    let later = app.database.now().await + 2;
    eventually("a later second", || async { (app.database.now().await >= later).then_some(()) })
        .await;
    let list = format!("/room?modifiedSince={later}");
    assert_eq!(user.get(&list).await.expect(200).data(), json!([]));
    user.get(&format!("/chat/{room}?lookIntoFuture=1&timeout=0")).await.expect(200);
    let listed = user.get(&list).await.expect(200).data();
    assert_eq!((&listed[0]["token"], &listed[0]["unreadMessages"]), (&json!(room), &json!(0)));
    assert_eq!(participants.moderator.get(&list).await.expect(200).data(), json!([]));
}

async fn the_last_message_that_all_users_have_read_is_known(app: TestApp) {
    let owner = app.user("owner").await;
    let user = app.user("user").await;
    let room = owner.room(3).await;
    owner.add(&room, "user").await;
    app.api.guest().join(&room).await;
    let message = say(&owner, &room, "hello").await["id"].to_string();
    let newer = format!("/chat/{room}?lookIntoFuture=1&timeout=0");
    let common = async |client: &Client| {
        let response = client.get(&newer).await.expect(200);
        response.header("x-chat-last-common-read").unwrap().to_owned()
    };
    assert_ne!(common(&owner).await, message);
    user.get(&newer).await.expect(200);
    assert_eq!(common(&owner).await, message, "guests do not count");
    let none = format!("{newer}&lastKnownMessageId={message}");
    let response = owner.get(&none).await.expect(304);
    assert_eq!(response.header("x-chat-last-common-read").unwrap(), message);
}

async fn participants_are_mentioned(app: TestApp) {
    let participants = Participants::of(&app).await;
    let (room, owner, user) = (participants.room.as_str(), &participants.owner, &participants.user);
    let guest = participants.guest.join(room).await["actorId"].clone();
    let guest = guest.as_str().unwrap();
    let before = seen(user, room).await;
    assert_eq!(
        (&before["unreadMention"], &before["unreadMentionDirect"]),
        (&json!(false), &json!(false))
    );
    let text = format!("@user, @nobody and @\"guest/{guest}\": a@user.example @user");
    let sent = say(owner, room, &text).await;
    let message = sent["message"].as_str().unwrap();
    let parameters = sent["messageParameters"].as_object().unwrap();
    assert_eq!(parameters.len(), 2, "{sent}");
    let user_key = parameters.iter().find(|(_, each)| each["id"] == "user").unwrap().0;
    let client_key = parameters.iter().find(|(_, each)| each["type"] == "guest").unwrap().0;
    let expected =
        format!("{{{user_key}}}, @nobody and {{{client_key}}}: a@user.example {{{user_key}}}");
    assert_eq!(message, expected);
    let mention = &parameters[user_key];
    assert_eq!((&mention["name"], &mention["mention-id"]), (&json!("User"), &json!("user")));
    assert_eq!(parameters[client_key]["name"], "Guest");
    for mentioned in [user, &participants.guest] {
        let view = seen(mentioned, room).await;
        assert_eq!(
            (&view["unreadMention"], &view["unreadMentionDirect"]),
            (&json!(true), &json!(true))
        );
        assert_eq!(view["lastMessage"]["message"], expected);
    }
    assert_eq!(seen(&participants.moderator, room).await["unreadMention"], false);
    user.get(&format!("/chat/{room}?lookIntoFuture=1&timeout=0")).await.expect(200);
    assert_eq!(seen(user, room).await["unreadMention"], false);
}

async fn system_messages_address_the_viewer(app: TestApp) {
    let owner = app.user("owner").await;
    let user = app.user("user").await;
    let room = owner.room(3).await;
    owner.add(&room, "user").await;
    let texts = async |client: &Client| {
        let chat = format!("/chat/{room}?lookIntoFuture=1&timeout=0");
        let messages = client.get(&chat).await.expect(200).data();
        let all = messages.as_array().unwrap().iter();
        all.map(|each| each["message"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(texts(&owner).await, ["You created the conversation", "You added {user}"]);
    assert_eq!(texts(&user).await, ["{actor} created the conversation", "{actor} added you"]);
    let last = async |client: &Client| seen(client, &room).await["lastMessage"]["message"].clone();
    assert_eq!(last(&owner).await, "You added {user}");
    assert_eq!(last(&user).await, "{actor} added you");
    // Everything that is named is explained.
    user.delete(&format!("/room/{room}/participants/self"), json!({})).await.expect(200);
    let left = seen(&owner, &room).await["lastMessage"].clone();
    assert_eq!(left["message"], "{actor} left the conversation");
    assert_eq!(left["messageParameters"]["user"]["id"], "user");
}

async fn a_chat_that_cannot_be_read_is_refused_before_its_parameters(app: TestApp) {
    let participants = Participants::of(&app).await;
    let (room, owner) = (participants.room.as_str(), &participants.owner);
    let outsider = app.user("outsider").await;
    for (client, chat) in
        [(owner, "/chat/nowhere".to_owned()), (&outsider, format!("/chat/{room}"))]
    {
        client.get(&chat).await.expect(404);
        client.get(&format!("{chat}?lookIntoFuture=2")).await.expect(404);
        client.post(&chat, json!({})).await.expect(404);
    }
    owner.put(&format!("/room/{room}/webinar/lobby"), json!({"state": 1})).await.expect(200);
    participants.user.post(&format!("/chat/{room}"), json!({})).await.expect(412);
    owner.get(&format!("/chat/{room}")).await.expect(400);
}
