//! The rules of lobby and password over HTTP, on each database.

use serde_json::{Value, json};

use crate::support::{app::TestApp, eventually, participants::Participants};

on_every_database! { crate::support::app::TestApp::new:
    only_moderators_with_an_account_set_the_lobby,
    only_group_and_public_rooms_have_a_lobby,
    a_timer_is_accepted_as_json_form_and_query,
    an_invalid_timer_is_refused,
    a_timer_in_the_past_opens_the_room_at_once,
    a_due_timer_opens_the_room_for_clients,
    the_lobby_keeps_participants_without_permission_waiting,
    waiting_participants_see_only_the_fields_that_talk_shows,
    waiting_participants_can_join_leave_and_quit_the_room,
    closing_the_lobby_removes_waiting_participants_from_the_call,
    participants_who_join_by_link_need_the_password,
    participants_who_lose_lobby_permission_leave_the_call,
}

async fn only_moderators_with_an_account_set_the_lobby(app: TestApp) {
    let participants = Participants::of(&app).await;
    let path = format!("/room/{}/webinar/lobby", participants.room);
    let set = json!({"state": 1});
    participants.guest.put(&path, set.clone()).await.expect(401);
    participants.guest_moderator.put(&path, set.clone()).await.expect(401);
    app.api.guest().put(&path, set.clone()).await.expect(401);
    participants.user.put(&path, set.clone()).await.expect(403);
    participants.self_joined.put(&path, set.clone()).await.expect(403);
    // A client without permission gets 403 even for an invalid value.
    participants.user.put(&path, json!({"state": 9})).await.expect(403);
    app.user("outsider").await.put(&path, set.clone()).await.expect(404);
    participants.owner.put("/room/nowhere/webinar/lobby", set.clone()).await.expect(404);
    for moderator in [&participants.owner, &participants.moderator] {
        let room = moderator.put(&path, set.clone()).await.expect(200).data();
        assert_eq!((&room["lobbyState"], &room["lobbyTimer"]), (&json!(1), &json!(0)));
        assert_eq!(room["token"], participants.room);
        let room = moderator.put(&path, json!({"state": 0})).await.expect(200).data();
        assert_eq!(room["lobbyState"], 0);
    }
    participants.owner.put(&path, json!({"state": 2})).await.expect(400);
    participants.owner.put(&path, json!({"state": -1})).await.expect(400);
    participants.owner.put(&path, json!({})).await.expect(400);
    let shown = participants.owner.system_messages(&participants.room).await;
    let lobby: Vec<&str> =
        shown.iter().map(String::as_str).filter(|m| m.contains("lobby")).collect();
    let twice = ["lobby_non_moderators", "lobby_none", "lobby_non_moderators", "lobby_none"];
    assert_eq!(lobby, twice);
}

async fn only_group_and_public_rooms_have_a_lobby(app: TestApp) {
    let owner = app.user("owner").await;
    app.user("other").await;
    let pair = owner.post("/room", json!({"roomType": 1, "invite": "other"})).await.expect(201);
    let pair = pair.data()["token"].as_str().unwrap().to_owned();
    let closed = json!({"state": 1});
    let lobby = |room: &str| format!("/room/{room}/webinar/lobby");
    owner.put(&lobby(&pair), closed.clone()).await.expect(400);
    for (object, status) in [
        ("", 200),
        ("event", 200),
        ("emails", 200),
        ("extended_conversation", 200),
        ("instant_meeting", 200),
        ("file", 400),
        ("share:password", 400),
        ("sample", 400),
        ("room", 400),
    ] {
        let room = owner.room(2).await;
        let set =
            format!("UPDATE lobbyd_rooms SET object_type = '{object}' WHERE token = '{room}'");
        app.database.execute(&set).await;
        owner.put(&lobby(&room), closed.clone()).await.expect(status);
    }
}

async fn a_timer_is_accepted_as_json_form_and_query(app: TestApp) {
    let owner = app.user("owner").await;
    let room = owner.room(2).await;
    let path = format!("/room/{room}/webinar/lobby");
    let timer = app.database.now().await + 1000;
    let expect = |room: Value, timer: i64| {
        assert_eq!((&room["lobbyState"], &room["lobbyTimer"]), (&json!(1), &json!(timer)));
    };
    let json = json!({"state": 1, "timer": timer});
    expect(owner.put(&path, json).await.expect(200).data(), timer);
    let text = (timer + 1).to_string();
    let form = owner.form("PUT", &path, &[("state", "1"), ("timer", &text)]).await.expect(200);
    expect(form.data(), timer + 1);
    let query = format!("{path}?state=1&timer={}&format=json", timer + 2);
    expect(owner.raw("PUT", &query, &[], "").await.expect(200).data(), timer + 2);
    for none in
        [json!({"state": 1}), json!({"state": 1, "timer": null}), json!({"state": 1, "timer": 0})]
    {
        expect(owner.put(&path, none).await.expect(200).data(), 0);
    }
    // An open room has no timer.
    let open = owner.put(&path, json!({"state": 0, "timer": timer})).await.expect(200).data();
    assert_eq!((&open["lobbyState"], &open["lobbyTimer"]), (&json!(0), &json!(0)));
}

async fn an_invalid_timer_is_refused(app: TestApp) {
    let owner = app.user("owner").await;
    let room = owner.room(2).await;
    let path = format!("/room/{room}/webinar/lobby");
    let last = json!({"state": 1, "timer": 253_402_300_799_i64});
    owner.put(&path, last).await.expect(200);
    for timer in [
        json!(-1),
        json!(1.5),
        json!("soon"),
        json!("1.5"),
        json!(true),
        json!([]),
        json!(253_402_300_800_i64),
        json!(1e300),
    ] {
        let response = owner.put(&path, json!({"state": 1, "timer": timer})).await.expect(400);
        assert!(response.data()["error"].is_string(), "{response:?}");
    }
    let room = owner.get(&format!("/room/{room}")).await.expect(200).data();
    assert_eq!(room["lobbyTimer"], 253_402_300_799_i64, "a refused timer changed the room");
}

async fn a_timer_in_the_past_opens_the_room_at_once(app: TestApp) {
    let owner = app.user("owner").await;
    let room = owner.room(2).await;
    let path = format!("/room/{room}/webinar/lobby");
    owner.put(&path, json!({"state": 1})).await.expect(200);
    let past = app.database.now().await - 10;
    let open = owner.put(&path, json!({"state": 1, "timer": past})).await.expect(200).data();
    assert_eq!((&open["lobbyState"], &open["lobbyTimer"]), (&json!(0), &json!(0)));
}

async fn a_due_timer_opens_the_room_for_clients(app: TestApp) {
    let owner = app.user("owner").await;
    let guest = app.api.guest();
    let room = owner.room(3).await;
    guest.join(&room).await;
    let path = format!("/room/{room}/webinar/lobby");
    owner.put(&path, json!({"state": 1})).await.expect(200);
    guest.get(&format!("/chat/{room}?lookIntoFuture=0")).await.expect(412);
    let timer = app.database.now().await + 2;
    owner.put(&path, json!({"state": 1, "timer": timer})).await.expect(200);
    eventually("the open room", || async {
        let room = guest.get(&format!("/room/{room}")).await.expect(200).data();
        (room["lobbyState"] == 0 && room["lobbyTimer"] == 0).then_some(())
    })
    .await;
    assert!(app.database.now().await >= timer, "opened early");
    // The timer task opens this sentinel later, so it would have reset the room twice by now.
    app.database.insert_rooms("sentinel", 1, app.database.now().await).await;
    app.database.lobby_becomes("sentinel1", 0).await;
    let chat = guest.get(&format!("/chat/{room}?lookIntoFuture=0")).await.expect(200).data();
    let reached: Vec<&Value> = chat
        .as_array()
        .unwrap()
        .iter()
        .filter(|message| message["systemMessage"] == "lobby_timer_reached")
        .collect();
    assert_eq!(reached.len(), 1, "{chat}");
    assert_eq!(reached[0]["actorId"], "system");
    assert!(reached[0]["timestamp"].as_i64().unwrap() >= timer);
    assert_eq!(reached[0]["message"], "The conversation is now open to everyone");
}

async fn the_lobby_keeps_participants_without_permission_waiting(app: TestApp) {
    let participants = Participants::of(&app).await;
    let room = participants.room.as_str();
    for each in participants.all() {
        each.join(room).await;
    }
    participants
        .owner
        .put(&format!("/room/{room}/webinar/lobby"), json!({"state": 1}))
        .await
        .expect(200);
    let chat = format!("/chat/{room}");
    let (call, read) = (format!("/call/{room}"), format!("{chat}?lookIntoFuture=0"));
    let list = format!("/room/{room}/participants");
    for waiting in [&participants.user, &participants.self_joined, &participants.guest] {
        waiting.get(&read).await.expect(412);
        waiting.get(&format!("{chat}?lookIntoFuture=1&timeout=0")).await.expect(412);
        waiting.post(&chat, json!({"message": "hello"})).await.expect(412);
        waiting.get(&call).await.expect(412);
        waiting.post(&call, json!({"flags": 3})).await.expect(412);
    }
    participants.user.get(&list).await.expect(412);
    participants.guest.get(&list).await.expect(403);
    for passing in [&participants.owner, &participants.moderator, &participants.guest_moderator] {
        passing.get(&read).await.expect(200);
        passing.post(&chat, json!({"message": "hello"})).await.expect(201);
        passing.post(&call, json!({"flags": 3})).await.expect(200);
        passing.get(&call).await.expect(200);
        passing.get(&list).await.expect(200);
    }
    // A moderator can admit one participant.
    let user = participants.owner.attendee_id(room, "user").await;
    let admit = json!({"attendeeId": user, "mode": "add", "permissions": 8});
    participants.owner.put(&format!("/room/{room}/attendees/permissions"), admit).await.expect(200);
    participants.user.get(&read).await.expect(200);
    participants.user.post(&chat, json!({"message": "in"})).await.expect(201);
    participants.guest.get(&read).await.expect(412);
    participants
        .owner
        .put(&format!("/room/{room}/webinar/lobby"), json!({"state": 0}))
        .await
        .expect(200);
    for open in [&participants.user, &participants.self_joined, &participants.guest] {
        open.get(&read).await.expect(200);
        open.post(&call, json!({"flags": 1})).await.expect(200);
    }
}

async fn waiting_participants_see_only_the_fields_that_talk_shows(app: TestApp) {
    let participants = Participants::of(&app).await;
    let room = participants.room.as_str();
    participants.owner.join(room).await;
    participants
        .owner
        .post(&format!("/chat/{room}"), json!({"message": "secret"}))
        .await
        .expect(201);
    participants.owner.post(&format!("/call/{room}"), json!({})).await.expect(200);
    let timer = app.database.now().await + 1000;
    let lobby = format!("/room/{room}/webinar/lobby");
    participants.owner.put(&lobby, json!({"state": 1, "timer": timer})).await.expect(200);
    for waiting in [&participants.user, &participants.guest] {
        let seen = waiting.get(&format!("/room/{room}")).await.expect(200).data();
        let expected = json!({
            "name": "Webinar", "lobbyState": 1, "lobbyTimer": timer, "hasCall": false,
            "canLeaveConversation": true, "canStartCall": false, "canEnableSIP": false,
            "canDeleteConversation": false, "lastMessage": [], "unreadMessages": 0,
            "lastReadMessage": 0, "callFlag": 7, "type": 3,
        });
        for (key, value) in expected.as_object().unwrap() {
            assert_eq!(&seen[key], value, "{key} of {seen}");
        }
        assert!(!seen.to_string().contains("secret"));
    }
    let seen = participants.moderator.get(&format!("/room/{room}")).await.expect(200).data();
    assert_eq!(
        (&seen["hasCall"], &seen["lastMessage"]["systemMessage"]),
        (&json!(true), &json!("lobby_non_moderators"))
    );
    assert_eq!(seen["unreadMessages"], 1);
    // A user who is not a member sees little of a public room, and nothing of a group room.
    let outsider = app.user("outsider").await;
    let public_view = outsider.get(&format!("/room/{room}")).await.expect(200).data();
    assert_eq!((&public_view["attendeeId"], &public_view["lastMessage"]), (&json!(0), &json!([])));
    let group = participants.owner.room(2).await;
    outsider.get(&format!("/room/{group}")).await.expect(404);
    app.api.guest().get(&format!("/room/{group}")).await.expect(404);
}

async fn waiting_participants_can_join_leave_and_quit_the_room(app: TestApp) {
    let participants = Participants::of(&app).await;
    let room = participants.room.as_str();
    participants
        .owner
        .put(&format!("/room/{room}/webinar/lobby"), json!({"state": 1}))
        .await
        .expect(200);
    let active = format!("/room/{room}/participants/active");
    for waiting in [&participants.user, &participants.self_joined, &participants.guest] {
        let first = waiting.join(room).await["sessionId"].clone();
        assert_ne!(first, "0");
        let again = waiting.post(&active, json!({"force": false})).await.expect(200).data();
        assert_ne!(again["sessionId"], first);
        waiting.delete(&active, json!({})).await.expect(200);
        waiting.join(room).await;
        waiting.delete(&format!("/room/{room}/participants/self"), json!({})).await.expect(200);
        waiting.delete(&active, json!({})).await.expect(404);
    }
    // A guest who comes back is a guest again; a guest moderator stays a moderator.
    participants.guest_moderator.delete(&active, json!({})).await.expect(200);
    let back = participants.guest_moderator.join(room).await;
    assert_eq!(back["participantType"], 6);
    assert_eq!(participants.guest.join(room).await["participantType"], 4);
}

async fn closing_the_lobby_removes_waiting_participants_from_the_call(app: TestApp) {
    let participants = Participants::of(&app).await;
    let room = participants.room.as_str();
    let call = format!("/call/{room}");
    for each in participants.all() {
        each.join(room).await;
        each.post(&call, json!({"flags": 7})).await.expect(200);
    }
    let peers = async || {
        let peers = participants.owner.get(&call).await.expect(200).data();
        peers.as_array().unwrap().len()
    };
    assert_eq!(peers().await, 6);
    let lobby = format!("/room/{room}/webinar/lobby");
    participants.moderator.put(&lobby, json!({"state": 1})).await.expect(200);
    assert_eq!(peers().await, 3);
    let guest = participants.guest.get(&format!("/room/{room}")).await.expect(200).data();
    assert_eq!(guest["participantFlags"], 0);
    assert_ne!(guest["sessionId"], "0", "the guest is still in the room");
}

async fn participants_who_join_by_link_need_the_password(app: TestApp) {
    let owner = app.user("owner").await;
    let outsider = app.user("outsider").await;
    let room = owner.room(3).await;
    let password = format!("/room/{room}/password");
    outsider.put(&password, json!({"password": "x"})).await.expect(404);
    owner.put(&password, json!({"password": "let me in"})).await.expect(200);
    let guest = app.api.guest();
    let active = format!("/room/{room}/participants/active");
    for visitor in [&outsider, &guest] {
        let public_view = visitor.get(&format!("/room/{room}")).await.expect(200).data();
        assert_eq!((&public_view["hasPassword"], &public_view["name"]), (&json!(true), &json!("")));
        visitor.post(&active, json!({})).await.expect(403);
        visitor.post(&active, json!({"password": "wrong"})).await.expect(403);
        visitor.get(&format!("/chat/{room}?lookIntoFuture=0")).await.expect(404);
        let joined = visitor.post(&active, json!({"password": "let me in"})).await.expect(200);
        assert_eq!(joined.data()["name"], "Webinar");
        visitor.get(&format!("/chat/{room}?lookIntoFuture=0")).await.expect(200);
        // A participant who has joined needs no password again.
        visitor.post(&active, json!({})).await.expect(200);
    }
    owner.put(&password, json!({"password": ""})).await.expect(200);
    app.api.guest().join(&room).await;
    let group = owner.room(2).await;
    owner.put(&format!("/room/{group}/password"), json!({"password": "x"})).await.expect(403);
}

async fn participants_who_lose_lobby_permission_leave_the_call(app: TestApp) {
    let participants = Participants::of(&app).await;
    let room = participants.room.as_str();
    let permissions = format!("/room/{room}/attendees/permissions");
    let (user, moderator) = (
        participants.owner.attendee_id(room, "user").await,
        participants.owner.attendee_id(room, "moderator").await,
    );
    let admit = json!({"attendeeId": user, "permissions": 8, "mode": "add"});
    participants.owner.put(&permissions, admit).await.expect(200);
    participants
        .owner
        .put(&format!("/room/{room}/webinar/lobby"), json!({"state": 1}))
        .await
        .expect(200);
    for each in [&participants.owner, &participants.user, &participants.moderator] {
        each.join(room).await;
        each.post(&format!("/call/{room}"), json!({"flags": 1})).await.expect(200);
    }
    let peers = async || {
        let peers = participants.owner.get(&format!("/call/{room}")).await.expect(200).data();
        peers.as_array().unwrap().len()
    };
    assert_eq!(peers().await, 3);
    let retract = json!({"attendeeId": user, "permissions": 8, "mode": "remove"});
    participants.owner.put(&permissions, retract).await.expect(200);
    assert_eq!(peers().await, 2);
    let demote = json!({"attendeeId": moderator});
    participants.owner.delete(&format!("/room/{room}/moderators"), demote).await.expect(200);
    assert_eq!(peers().await, 1);
    participants.moderator.get(&format!("/call/{room}")).await.expect(412);
}
