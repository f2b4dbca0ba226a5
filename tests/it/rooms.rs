//! Rooms, participants, chat and call over HTTP, as far as a webinar needs them, on each database.

use std::time::Instant;

use serde_json::{Value, json};

use crate::support::{app::TestApp, http::Client, participants::Participants};

on_every_database! { crate::support::app::TestApp::new:
    a_missing_required_field_changes_nothing,
    rooms_are_created_changed_and_deleted,
    participants_are_added_promoted_demoted_and_removed,
    guest_moderators_lack_the_rights_of_an_account,
    two_users_share_one_one_to_one_room,
    the_chat_stores_messages,
    a_new_message_answers_the_requests_that_wait_for_it,
    a_call_begins_and_ends,
}

async fn a_missing_required_field_changes_nothing(app: TestApp) {
    let owner = app.user("owner").await;
    let room = owner.room(3).await;
    let path = format!("/room/{room}");
    owner.put(&format!("{path}/password"), json!({"password": "let me in"})).await.expect(200);
    owner.put(&format!("{path}/description"), json!({"description": "About"})).await.expect(200);
    owner.join(&room).await;
    owner.post(&format!("/call/{room}"), json!({})).await.expect(200);
    let guest = app.api.guest();
    let join = json!({"password": "let me in"});
    guest.post(&format!("{path}/participants/active"), join).await.expect(200);
    guest.post(&format!("/guest/{room}/name"), json!({"displayName": "Carol"})).await.expect(200);
    let state = async || {
        let seen = owner.get(&path).await.expect(200).data();
        let participants = owner.get(&format!("{path}/participants")).await.expect(200).data();
        (seen, participants)
    };
    let before = state().await;
    let other = json!({"other": "x"});
    for (client, method, end) in [
        (&owner, "PUT", path.clone()),
        (&owner, "PUT", format!("{path}/password")),
        (&owner, "PUT", format!("{path}/description")),
        (&owner, "PUT", format!("{path}/webinar/lobby")),
        (&owner, "PUT", format!("{path}/webinar/sip")),
        (&owner, "POST", format!("{path}/participants")),
        (&owner, "POST", format!("{path}/moderators")),
        (&owner, "DELETE", format!("{path}/moderators")),
        (&owner, "DELETE", format!("{path}/attendees")),
        (&owner, "PUT", format!("{path}/attendees/permissions")),
        (&owner, "PUT", format!("/call/{room}")),
        (&owner, "POST", format!("/chat/{room}")),
        (&owner, "POST", "/room".to_owned()),
        (&guest, "POST", format!("/guest/{room}/name")),
    ] {
        for body in [json!({}), other.clone()] {
            let response = match method {
                "PUT" => client.put(&end, body).await,
                "POST" => client.post(&end, body).await,
                _ => client.delete(&end, body).await,
            };
            response.expect(400);
        }
    }
    for null in ["password", "description"] {
        owner.put(&format!("{path}/{null}"), json!({null: null})).await.expect(400);
    }
    assert_eq!(state().await, before);
    // The empty text is a value.
    let password = format!("{path}/password");
    owner.put(&password, json!({"password": ""})).await.expect(200);
    assert_eq!(owner.get(&path).await.expect(200).data()["hasPassword"], false);
}

async fn rooms_are_created_changed_and_deleted(app: TestApp) {
    let owner = app.user("owner").await;
    let user = app.user("user").await;
    app.api.guest().post("/room", json!({"roomType": 2, "roomName": "x"})).await.expect(401);
    app.api.guest().get("/room").await.expect(401);
    for bad in [
        json!({"roomType": 2}),
        json!({"roomType": 2, "roomName": " "}),
        json!({"roomName": "x"}),
        json!({"roomType": 4, "roomName": "x"}),
        json!({"roomType": 3, "roomName": "x".repeat(256)}),
        json!({"roomType": 2, "roomName": "x", "password": "y"}),
        json!({"roomType": 2, "roomName": "x", "objectType": "file"}),
        json!({"roomType": 2, "roomName": "x", "lobbyState": 2}),
        json!({"roomType": 2, "roomName": "x", "lobbyState": 1, "lobbyTimer": -1}),
    ] {
        owner.post("/room", bad).await.expect(400);
    }
    let timer = app.database.now().await + 1000;
    let created = owner
        .post(
            "/room",
            json!({"roomType": 3, "roomName": "Ünïcode 🎉", "lobbyState": 1,
                              "lobbyTimer": timer, "password": "p", "description": "About"}),
        )
        .await
        .expect(201)
        .data();
    let expected = json!({
        "name": "Ünïcode 🎉", "displayName": "Ünïcode 🎉", "type": 3, "lobbyState": 1,
        "lobbyTimer": timer, "hasPassword": true, "participantType": 1, "description": "About",
        "canLeaveConversation": true, "canDeleteConversation": true,
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&created[key], value, "{key} of {created}");
    }
    let room = created["token"].as_str().unwrap().to_owned();
    let path = format!("/room/{room}");
    owner.add(&room, "user").await;
    for forbidden in [
        user.put(&path, json!({"roomName": "mine"})).await,
        user.put(&format!("{path}/description"), json!({"description": "mine"})).await,
        user.delete(&format!("{path}/public"), json!({})).await,
        user.delete(&path, json!({})).await,
    ] {
        forbidden.expect(403);
    }
    owner.put(&path, json!({"roomName": "  New name "})).await.expect(200);
    owner.put(&path, json!({"roomName": ""})).await.expect(400);
    let about = format!("{path}/description");
    owner.put(&about, json!({"description": "x".repeat(2001)})).await.expect(400);
    owner.put(&about, json!({"description": "Figures"})).await.expect(200);
    owner.post(&format!("{path}/public"), json!({})).await.expect(400);
    owner.delete(&format!("{path}/public"), json!({})).await.expect(200);
    let seen = user.get(&path).await.expect(200).data();
    assert_eq!((&seen["name"], &seen["type"]), (&json!("New name"), &json!(2)));
    assert_eq!(seen["description"], "Figures");
    let rooms = user.get("/room").await.expect(200).data();
    assert_eq!(rooms.as_array().unwrap().len(), 1);
    owner.delete(&path, json!({})).await.expect(200);
    for client in [&owner, &user] {
        client.get(&path).await.expect(404);
        assert_eq!(client.get("/room").await.expect(200).data(), json!([]));
    }
    for table in ["attendees", "messages", "room_states"] {
        let left = format!("SELECT count(*) FROM lobbyd_{table}");
        assert_eq!(app.database.number(&left).await, 0, "{table}");
    }
}

async fn participants_are_added_promoted_demoted_and_removed(app: TestApp) {
    let owner = app.user("owner").await;
    let user = app.user("user").await;
    let room = owner.room(3).await;
    let people = format!("/room/{room}/participants");
    owner.post(&people, json!({"newParticipant": "nobody"})).await.expect(404);
    owner.post(&people, json!({"newParticipant": "user", "source": "groups"})).await.expect(400);
    user.post(&people, json!({"newParticipant": "owner"})).await.expect(404);
    owner.add(&room, "user").await;
    owner.add(&room, "user").await;
    user.post(&people, json!({"newParticipant": "owner"})).await.expect(403);
    let guest = app.api.guest();
    guest.join(&room).await;
    guest.post(&format!("/guest/{room}/name"), json!({"displayName": "Zoë"})).await.expect(200);
    user.post(&format!("/guest/{room}/name"), json!({"displayName": "X"})).await.expect(403);
    let listed = owner.get(&people).await.expect(200).data();
    let names: Vec<(&str, i64)> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|each| {
            (each["displayName"].as_str().unwrap(), each["participantType"].as_i64().unwrap())
        })
        .collect();
    assert_eq!(names, [("Owner", 1), ("User", 3), ("Zoë", 4)]);

    let moderators = format!("/room/{room}/moderators");
    let id = owner.attendee_id(&room, "user").await;
    let own = owner.attendee_id(&room, "owner").await;
    let guest_id = listed[2]["attendeeId"].clone();
    user.post(&moderators, json!({"attendeeId": id})).await.expect(403);
    owner.post(&moderators, json!({"attendeeId": 999_999})).await.expect(404);
    owner.post(&moderators, json!({"attendeeId": own})).await.expect(400);
    owner.post(&moderators, json!({"attendeeId": guest_id})).await.expect(200);
    owner.post(&moderators, json!({"attendeeId": id})).await.expect(200);
    owner.post(&moderators, json!({"attendeeId": id})).await.expect(400);
    user.delete(&moderators, json!({"attendeeId": id})).await.expect(403);
    user.delete(&moderators, json!({"attendeeId": own})).await.expect(400);
    user.delete(&moderators, json!({"attendeeId": guest_id})).await.expect(200);
    owner.delete(&format!("{moderators}?attendeeId={id}"), json!({})).await.expect(200);

    let permissions = format!("/room/{room}/attendees/permissions");
    owner.put(&permissions, json!({"attendeeId": id, "permissions": 512})).await.expect(400);
    for name in ["mode", "method"] {
        let invalid = json!({"attendeeId": id, "permissions": 1, name: "flip"});
        owner.put(&permissions, invalid).await.expect(400);
    }
    owner.put(&permissions, json!({"attendeeId": own, "permissions": 1})).await.expect(400);
    let mute = json!({"attendeeId": id, "permissions": 128, "mode": "remove"});
    owner.put(&permissions, mute).await.expect(200);
    user.post(&format!("/chat/{room}"), json!({"message": "hm"})).await.expect(403);

    let attendees = format!("/room/{room}/attendees");
    owner.delete(&format!("/room/{room}/participants/self"), json!({})).await.expect(400);
    user.delete(&attendees, json!({"attendeeId": own})).await.expect(403);
    owner.post(&moderators, json!({"attendeeId": id})).await.expect(200);
    user.delete(&attendees, json!({"attendeeId": own})).await.expect(403);
    owner.delete(&attendees, json!({"attendeeId": guest_id})).await.expect(200);
    guest.get(&format!("/chat/{room}?lookIntoFuture=0")).await.expect(404);
    owner.delete(&format!("/room/{room}/participants/self"), json!({})).await.expect(200);
    owner.get(&people).await.expect(404);
}

async fn guest_moderators_lack_the_rights_of_an_account(app: TestApp) {
    let participants = Participants::of(&app).await;
    let room = participants.room.as_str();
    let add = json!({"newParticipant": "owner"});
    participants.guest_moderator.post(&format!("/room/{room}/participants"), add).await.expect(401);
    let public = format!("/room/{room}/public");
    participants.guest_moderator.delete(&public, json!({})).await.expect(401);
}

async fn two_users_share_one_one_to_one_room(app: TestApp) {
    let one = app.user("one").await;
    let other = app.user("other").await;
    let pair_with = |invite: &str| json!({"roomType": 1, "invite": invite});
    one.post("/room", pair_with("nobody")).await.expect(404);
    one.post("/room", pair_with("one")).await.expect(400);
    let created = one.post("/room", pair_with("other")).await.expect(201).data();
    assert_eq!((&created["name"], &created["displayName"]), (&json!("other"), &json!("Other")));
    let again = other.post("/room", pair_with("one")).await.expect(200).data();
    assert_eq!(again["token"], created["token"]);
    assert_eq!((&again["name"], &again["participantType"]), (&json!("one"), &json!(1)));
    let room = created["token"].as_str().unwrap();
    one.delete(&format!("/room/{room}"), json!({})).await.expect(400);
    one.put(&format!("/room/{room}"), json!({"roomName": "x"})).await.expect(400);
    one.delete(&format!("/room/{room}/participants/self"), json!({})).await.expect(200);
    one.get(&format!("/room/{room}")).await.expect(404);
    one.post("/room", pair_with("other")).await.expect(200);
    one.get(&format!("/room/{room}")).await.expect(200);
    for each in [&one, &other] {
        each.delete(&format!("/room/{room}/participants/self"), json!({})).await.expect(200);
    }
    assert_eq!(app.database.number("SELECT count(*) FROM lobbyd_rooms").await, 0);
}

async fn the_chat_stores_messages(app: TestApp) {
    let owner = app.user("owner").await;
    let user = app.user("user").await;
    let room = owner.room(2).await;
    owner.add(&room, "user").await;
    let chat = format!("/chat/{room}");
    owner.post(&chat, json!({"message": ""})).await.expect(400);
    owner.post(&chat, json!({"message": "x".repeat(32_001)})).await.expect(413);
    owner.post(&chat, json!({"message": "a\u{0}b"})).await.expect(400);
    let first =
        owner.post(&chat, json!({"message": "first ✓", "referenceId": "ref"})).await.expect(201);
    let first = first.data();
    assert_eq!((&first["message"], &first["referenceId"]), (&json!("first ✓"), &json!("ref")));
    assert_eq!((&first["actorId"], &first["actorDisplayName"]), (&json!("owner"), &json!("Owner")));
    let reply = json!({"message": "second", "replyTo": first["id"]});
    let second = user.post(&chat, reply).await.expect(201).data();
    assert_eq!(second["parent"]["message"], "first ✓");
    user.post(&chat, json!({"message": "x", "replyTo": 999_999})).await.expect(400);
    user.post(&chat, json!({"message": "third"})).await.expect(201);

    let seen = owner.get(&format!("/room/{room}")).await.expect(200).data();
    assert_eq!(
        (&seen["unreadMessages"], &seen["lastMessage"]["message"]),
        (&json!(2), &json!("third"))
    );
    let texts = |response: &Value| -> Vec<String> {
        let messages = response.as_array().unwrap().iter();
        messages.map(|message| message["message"].as_str().unwrap().to_owned()).collect()
    };
    let history = owner.get(&format!("{chat}?lookIntoFuture=0&limit=2")).await.expect(200);
    assert_eq!(texts(&history.data()), ["third", "second"]);
    assert_eq!(history.header("x-chat-last-given").unwrap(), second["id"].to_string());
    let seen = owner.get(&format!("/room/{room}")).await.expect(200).data();
    assert_eq!(seen["unreadMessages"], 2, "history is not marked as read");
    let known = second["id"].clone();
    let older =
        owner.get(&format!("{chat}?lookIntoFuture=0&limit=1&lastKnownMessageId={known}")).await;
    assert_eq!(texts(&older.expect(200).data()), ["first ✓"]);
    let newer =
        owner.get(&format!("{chat}?lookIntoFuture=1&timeout=0&lastKnownMessageId={known}")).await;
    assert_eq!(texts(&newer.expect(200).data()), ["third"]);
    let including =
        format!("{chat}?lookIntoFuture=1&includeLastKnown=1&lastKnownMessageId={known}");
    assert_eq!(texts(&owner.get(&including).await.expect(200).data()), ["second", "third"]);
    owner
        .get(&format!("{chat}?lookIntoFuture=1&timeout=0&lastKnownMessageId=999999"))
        .await
        .expect(304);
    owner.get(&format!("{chat}?lookIntoFuture=2")).await.expect(400);
    app.user("outsider").await.get(&format!("{chat}?lookIntoFuture=0")).await.expect(404);
}

async fn a_new_message_answers_the_requests_that_wait_for_it(app: TestApp) {
    let owner = app.user("owner").await;
    let guest = app.api.guest();
    let room = owner.room(3).await;
    guest.join(&room).await;
    let chat = format!("/chat/{room}");
    let last =
        owner.post(&chat, json!({"message": "before"})).await.expect(201).data()["id"].clone();
    let poll = format!("{chat}?lookIntoFuture=1&timeout=30&lastKnownMessageId={last}");
    let begin = Instant::now();
    let (received, ()) = tokio::join!(guest.get(&poll), async {
        wait_in_chat(&guest, &chat).await;
        owner.post(&chat, json!({"message": "now"})).await.expect(201);
    });
    assert_eq!(received.expect(200).data()[0]["message"], "now");
    assert!(begin.elapsed().as_secs() < 30, "not answered by the message");
    // Closing the lobby answers the requests of waiting participants.
    let last =
        owner.post(&chat, json!({"message": "again"})).await.expect(201).data()["id"].clone();
    let poll = format!("{chat}?lookIntoFuture=1&timeout=30&lastKnownMessageId={last}");
    let lobby = format!("/room/{room}/webinar/lobby");
    let (received, ()) = tokio::join!(guest.get(&poll), async {
        wait_in_chat(&guest, &chat).await;
        owner.put(&lobby, json!({"state": 1})).await.expect(200);
    });
    received.expect(412);
}

/// Waits for a message for one second in vain. An earlier request waits meanwhile.
async fn wait_in_chat(client: &Client, chat: &str) {
    let newest = i64::MAX;
    let poll = format!("{chat}?lookIntoFuture=1&timeout=1&lastKnownMessageId={newest}");
    client.get(&poll).await.expect(304);
}

async fn a_call_begins_and_ends(app: TestApp) {
    let participants = Participants::of(&app).await;
    let room = participants.room.as_str();
    let call = format!("/call/{room}");
    participants.owner.post(&call, json!({"flags": 3})).await.expect(404);
    for each in [&participants.owner, &participants.user, &participants.guest] {
        each.join(room).await;
    }
    participants.owner.put(&call, json!({"flags": 3})).await.expect(400);
    participants.owner.post(&call, json!({"flags": 99})).await.expect(400);
    participants.owner.post(&call, json!({"flags": 3})).await.expect(200);
    participants.user.post(&call, json!({"flags": 7})).await.expect(200);
    participants.guest.post(&call, json!({})).await.expect(200);
    participants.owner.put(&call, json!({"flags": 1})).await.expect(200);
    participants.owner.put(&call, json!({"flags": 2})).await.expect(400);
    // Another device of a user in the call gets a conflict before it takes over.
    let active = format!("/room/{room}/participants/active");
    let conflict =
        participants.owner.post(&active, json!({"force": false})).await.expect(409).data();
    assert_eq!(conflict["inCall"], 1);
    let seen = participants.user.get(&format!("/room/{room}")).await.expect(200).data();
    assert_eq!((&seen["hasCall"], &seen["callFlag"]), (&json!(true), &json!(7)));
    assert!(seen["callStartTime"].as_i64().unwrap() > 0);
    let peers = participants.user.get(&call).await.expect(200).data();
    assert_eq!(peers.as_array().unwrap().len(), 3);
    // A participant without moderator rights ends only their own part.
    participants.user.delete(&call, json!({"all": true})).await.expect(200);
    let peers = participants.owner.get(&call).await.expect(200).data();
    assert_eq!(peers.as_array().unwrap().len(), 2);
    participants.owner.delete(&format!("{call}?all=true"), json!({})).await.expect(200);
    let seen = participants.guest.get(&format!("/room/{room}")).await.expect(200).data();
    assert_eq!((&seen["hasCall"], &seen["participantFlags"]), (&json!(false), &json!(0)));
    participants.user.post(&call, json!({"flags": 1})).await.expect(200);
    participants.user.delete(&call, json!({})).await.expect(200);
    let messages = participants.owner.system_messages(room).await;
    let calls: Vec<&str> =
        messages.iter().map(String::as_str).filter(|m| m.contains("call")).collect();
    let expected = [
        "call_started",
        "call_joined",
        "call_joined",
        "call_left",
        "call_ended_everyone",
        "call_started",
        "call_ended",
    ];
    assert_eq!(calls, expected);
}
