//! What moderators restrict: permissions of all, writing, messages, and who may join.

use serde_json::{Value, json};

use crate::support::{app::TestApp, http::Client, participants::Participants};

on_every_database! { crate::support::app::TestApp::new:
    default_permissions_make_an_audience_that_listens,
    default_permissions_can_let_all_ignore_the_lobby,
    a_room_is_created_with_what_was_asked_for_or_refused,
    nobody_writes_in_a_read_only_room,
    moderators_delete_messages_and_others_their_own,
    a_banned_guest_cannot_join_again,
    only_an_account_can_delete_the_room_and_the_only_user_can_leave_it,
}

async fn seen(client: &Client, room: &str) -> Value {
    client.get(&format!("/room/{room}")).await.expect(200).data()
}

async fn default_permissions_make_an_audience_that_listens(app: TestApp) {
    let participants = Participants::of(&app).await;
    let (room, owner) = (participants.room.as_str(), &participants.owner);
    let path = format!("/room/{room}/permissions/default");
    let (listen, chat, call) =
        (json!({"permissions": 4}), format!("/chat/{room}"), format!("/call/{room}"));
    participants.user.put(&path, listen.clone()).await.expect(403);
    app.user("outsider").await.put(&path, listen.clone()).await.expect(404);
    owner.put(&path, json!({"permissions": 512})).await.expect(400);
    owner.put(&path, json!({})).await.expect(400);
    for each in participants.all() {
        each.join(room).await;
    }
    // Custom permissions do not outlast a change of the defaults.
    let user = owner.attendee_id(room, "user").await;
    let custom = json!({"attendeeId": user, "mode": "set", "permissions": 130});
    let attendee = format!("/room/{room}/attendees/permissions");
    owner.put(&attendee, custom.clone()).await.expect(200);
    let after = owner.put(&path, listen).await.expect(200).data();
    assert_eq!((&after["defaultPermissions"], &after["permissions"]), (&json!(5), &json!(254)));
    owner.post(&call, json!({"flags": 7})).await.expect(200);
    for listener in [&participants.user, &participants.self_joined, &participants.guest] {
        let view = seen(listener, room).await;
        assert_eq!((&view["permissions"], &view["attendeePermissions"]), (&json!(5), &json!(0)));
        assert_eq!(view["canStartCall"], false);
        listener.post(&chat, json!({"message": "hello"})).await.expect(403);
        listener.post(&call, json!({"flags": 7})).await.expect(200);
        assert_eq!(seen(listener, room).await["participantFlags"], 1, "without audio and video");
    }
    participants.guest_moderator.post(&chat, json!({"message": "hello"})).await.expect(201);
    let all = owner.get(&format!("/room/{room}/participants")).await.expect(200).data();
    let shown = |actor: &str| {
        let mut all = all.as_array().unwrap().iter();
        all.find(|each| each["actorId"] == actor).unwrap()["permissions"].clone()
    };
    assert_eq!((shown("owner"), shown("user")), (json!(254), json!(5)));
    // One of them may speak.
    let speaker = json!({"attendeeId": user, "mode": "add", "permissions": 144});
    owner.put(&attendee, speaker).await.expect(200);
    participants.user.post(&chat, json!({"message": "hello"})).await.expect(201);
    participants.user.put(&call, json!({"flags": 3})).await.expect(200);
    assert_eq!(seen(&participants.user, room).await["participantFlags"], 3);
    let back = owner.put(&path, json!({"permissions": 0})).await.expect(200).data();
    assert_eq!(back["defaultPermissions"], 0);
    assert_eq!(seen(&participants.guest, room).await["permissions"], 246);
}

async fn default_permissions_can_let_all_ignore_the_lobby(app: TestApp) {
    let participants = Participants::of(&app).await;
    let (room, owner) = (participants.room.as_str(), &participants.owner);
    let path = format!("/room/{room}/permissions/default");
    let lobby = format!("/room/{room}/webinar/lobby");
    let chat = format!("/chat/{room}?lookIntoFuture=0");
    owner.put(&lobby, json!({"state": 1})).await.expect(200);
    participants.guest.get(&chat).await.expect(412);
    let all = json!({"permissions": 254});
    assert_eq!(owner.put(&path, all).await.expect(200).data()["defaultPermissions"], 255);
    participants.guest.get(&chat).await.expect(200);
    participants.guest.join(room).await;
    participants.guest.post(&format!("/call/{room}"), json!({})).await.expect(200);
    // The lobby closes again, and they stay in the call until they lose the permission.
    owner.put(&lobby, json!({"state": 0})).await.expect(200);
    owner.put(&lobby, json!({"state": 1})).await.expect(200);
    assert_eq!(seen(&participants.guest, room).await["hasCall"], true);
    owner.put(&path, json!({"permissions": 0})).await.expect(200);
    assert_eq!(seen(&participants.guest, room).await["participantFlags"], 0);
    assert_eq!(seen(owner, room).await["hasCall"], false);
}

async fn a_room_is_created_with_what_was_asked_for_or_refused(app: TestApp) {
    let owner = app.user("owner").await;
    let with = |name: &str, value: Value| {
        let mut request = json!({"roomType": 3, "roomName": "Webinar"});
        request[name] = value;
        request
    };
    let room = owner.post("/room", with("permissions", json!(8))).await.expect(201).data();
    assert_eq!(room["defaultPermissions"], 9);
    let room = owner.post("/room", with("readOnly", json!(1))).await.expect(201).data();
    assert_eq!(room["readOnly"], 1);
    for (name, value, error) in [
        ("permissions", json!(512), "permissions"),
        ("readOnly", json!(2), "read-only"),
        ("listable", json!(1), "listable"),
        ("messageExpiration", json!(60), "message-expiration"),
        ("mentionPermissions", json!("1"), "mention-permissions"),
        ("participants", json!({"users": ["bob"]}), "invite"),
        ("roomName", json!(""), "name"),
        ("description", json!("d".repeat(2001)), "description"),
        ("objectType", json!("file"), "object-type"),
        ("lobbyState", json!(2), "lobby"),
        ("roomType", json!(4), "type"),
    ] {
        let refused = owner.post("/room", with(name, value)).await.expect(400).data();
        assert_eq!(refused["error"], error, "{name}");
    }
    let mut timer = with("lobbyState", json!(1));
    timer["lobbyTimer"] = json!(-1);
    assert_eq!(owner.post("/room", timer).await.expect(400).data()["error"], "lobby-timer");
    // What asks for nothing is accepted.
    owner.post("/room", with("listable", json!(0))).await.expect(201);
    owner.post("/room", with("participants", json!({}))).await.expect(201);
}

async fn nobody_writes_in_a_read_only_room(app: TestApp) {
    let participants = Participants::of(&app).await;
    let (room, owner) = (participants.room.as_str(), &participants.owner);
    let path = format!("/room/{room}/read-only");
    let (chat, call) = (format!("/chat/{room}"), format!("/call/{room}"));
    for (client, status) in [
        (&participants.guest, 401),
        (&participants.guest_moderator, 401),
        (&participants.user, 403),
    ] {
        client.put(&path, json!({"state": 1})).await.expect(status);
    }
    owner.put(&path, json!({"state": 2})).await.expect(400);
    owner.join(room).await;
    owner.post(&call, json!({})).await.expect(200);
    assert_eq!(seen(owner, room).await["hasCall"], true);
    let locked = owner.put(&path, json!({"state": 1})).await.expect(200).data();
    assert_eq!((&locked["readOnly"], &locked["hasCall"]), (&json!(1), &json!(false)));
    assert_eq!(locked["canStartCall"], false);
    owner.put(&path, json!({"state": 1})).await.expect(200);
    for client in [owner, &participants.guest] {
        client.post(&chat, json!({"message": "hello"})).await.expect(403);
        client.get(&format!("{chat}?lookIntoFuture=0")).await.expect(200);
    }
    owner.post(&call, json!({})).await.expect(403);
    assert_eq!(owner.system_messages(room).await.last().unwrap(), "read_only");
    owner.put(&path, json!({"state": 0})).await.expect(200);
    participants.guest.post(&chat, json!({"message": "hello"})).await.expect(201);
}

async fn moderators_delete_messages_and_others_their_own(app: TestApp) {
    let participants = Participants::of(&app).await;
    let (room, owner) = (participants.room.as_str(), &participants.owner);
    let chat = format!("/chat/{room}");
    let say = async |client: &Client, text: &str| {
        client.post(&chat, json!({"message": text})).await.expect(201).data()["id"].clone()
    };
    let rude = say(&participants.guest, "rude").await;
    let own = say(&participants.user, "oops").await;
    let message = |id: &Value| format!("{chat}/{id}");
    participants.user.delete(&message(&rude), json!({})).await.expect(403);
    owner.delete(&message(&json!(999_999)), json!({})).await.expect(404);
    owner.delete(&format!("{chat}/nonsense"), json!({})).await.expect(404);
    let deleted = owner.delete(&message(&rude), json!({})).await.expect(200).data();
    assert_eq!(deleted["systemMessage"], "message_deleted");
    assert_eq!(deleted["message"], "You deleted a message");
    let parent = &deleted["parent"];
    assert_eq!((&parent["id"], &parent["messageType"]), (&rude, &json!("comment_deleted")));
    assert_eq!(parent["message"], "Message deleted by you");
    owner.delete(&message(&rude), json!({})).await.expect(405);
    owner.delete(&message(&deleted["id"]), json!({})).await.expect(405);
    participants.user.delete(&message(&own), json!({})).await.expect(200);
    let history = participants.guest.get(&format!("{chat}?lookIntoFuture=0")).await.expect(200);
    let text = history.json().to_string();
    assert!(!text.contains("rude") && !text.contains("oops"), "{text}");
    let history = history.data();
    let found = |id: &Value| {
        let mut all = history.as_array().unwrap().iter();
        all.find(|each| each["id"] == *id).unwrap()["message"].clone()
    };
    assert_eq!(found(&rude), "Message deleted by {actor}");
    assert_eq!(found(&own), "Message deleted by author");
    // A deleted message cannot be replied to.
    owner.post(&chat, json!({"message": "reply", "replyTo": rude})).await.expect(400);
    let waiting = json!({"state": 1});
    owner.put(&format!("/room/{room}/webinar/lobby"), waiting).await.expect(200);
    participants.user.delete(&message(&own), json!({})).await.expect(412);
}

async fn a_banned_guest_cannot_join_again(app: TestApp) {
    let participants = Participants::of(&app).await;
    let (room, owner) = (participants.room.as_str(), &participants.owner);
    let bans = format!("/ocs/v2.php/apps/spreed/api/v1/ban/{room}");
    let actor = participants.guest.join(room).await["actorId"].clone();
    let ban = json!({"actorType": "guests", "actorId": actor, "internalNote": "rude"});
    participants.user.post(&bans, ban.clone()).await.expect(403);
    participants.guest.post(&bans, ban.clone()).await.expect(401);
    for (kind, id, error) in [
        ("users", "owner", "self"),
        ("users", "moderator", "moderator"),
        ("ip", "127.0.0.1", "bannedActor"),
    ] {
        let refused =
            owner.post(&bans, json!({"actorType": kind, "actorId": id})).await.expect(400);
        assert_eq!(refused.data()["error"], error);
    }
    let banned = owner.post(&bans, ban.clone()).await.expect(200).data();
    assert_eq!((&banned["bannedActorId"], &banned["internalNote"]), (&actor, &json!("rude")));
    assert_eq!(banned["moderatorActorId"], "owner");
    assert_eq!(seen(&participants.guest, room).await["attendeeId"], 0, "the guest was removed");
    let active = format!("/room/{room}/participants/active");
    let refused = participants.guest.post(&active, json!({})).await.expect(403).data();
    assert_eq!(refused["error"], "ban");
    // A user who joined by link is banned as well, others are not.
    let user = json!({"actorType": "users", "actorId": "self"});
    owner.post(&bans, user).await.expect(200);
    participants.self_joined.post(&active, json!({})).await.expect(403);
    participants.user.join(room).await;
    participants.user.get(&bans).await.expect(403);
    let listed = owner.get(&bans).await.expect(200).data();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    let one = format!("{bans}/{}", banned["id"]);
    owner.delete(&one, json!({})).await.expect(200);
    owner.delete(&one, json!({})).await.expect(404);
    participants.guest.join(room).await;
    owner.delete(&format!("/room/{room}"), json!({})).await.expect(200);
    assert_eq!(app.database.number("SELECT count(*) FROM lobbyd_bans").await, 0);
}

async fn only_an_account_can_delete_the_room_and_the_only_user_can_leave_it(app: TestApp) {
    let participants = Participants::of(&app).await;
    let room = participants.room.as_str();
    let path = format!("/room/{room}");
    // What the room says can be done agrees with what is done.
    for (client, can_delete) in [
        (&participants.guest_moderator, false),
        (&participants.guest, false),
        (&participants.user, false),
        (&participants.moderator, true),
    ] {
        assert_eq!(seen(client, room).await["canDeleteConversation"], can_delete);
        assert_eq!(seen(client, room).await["canLeaveConversation"], true);
    }
    participants.guest_moderator.delete(&path, json!({})).await.expect(401);
    participants.user.delete(&path, json!({})).await.expect(403);
    let leave = format!("{path}/participants/self");
    participants.guest_moderator.delete(&leave, json!({})).await.expect(200);
    participants.moderator.delete(&leave, json!({})).await.expect(200);
    assert_eq!(seen(&participants.owner, room).await["canLeaveConversation"], false);
    let refused = participants.owner.delete(&leave, json!({})).await.expect(400).data();
    assert_eq!(refused["error"], "last-moderator");
    for user in [&participants.user, &participants.self_joined] {
        user.delete(&leave, json!({})).await.expect(200);
    }
    assert_eq!(seen(&participants.owner, room).await["canLeaveConversation"], true);
    participants.owner.delete(&leave, json!({})).await.expect(200);
    participants.owner.get(&path).await.expect(404);
    participants.guest.get(&path).await.expect(404);
}
