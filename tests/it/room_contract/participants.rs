//! The participants of a room, of its call and of its chat.

use lobbyd::domain::{
    Actor, Attendee, CallFlags, Caller, ClientId, MessageQuery, ParticipantType, PermissionChange,
    Permissions, SipState, User,
    commands::{AttendeeCommand, Command, Refusal, Resource},
};

use crate::support::fixtures::{
    HISTORY, StoreFixture, add, at, caller, close_until, join, send, token, unless_refused,
};

on_every_database! { crate::support::fixtures::StoreFixture::new:
    attendees_are_added_changed_and_removed,
    pins_are_assigned_and_removed,
    a_call_lasts_until_its_last_participant_leaves,
    changes_of_many_attendees_agree_with_the_rules,
    messages_are_read_in_both_directions,
    a_participant_waiting_in_the_lobby_reads_nothing,
    users_are_added_changed_and_removed,
    inactive_sessions_are_found,
    each_client_has_its_own_session,
    participants_who_have_read_messages_are_found,
}

async fn attendees_are_added_changed_and_removed(fixture: StoreFixture) {
    fixture.create_room("a").await;
    let update = fixture.change("a", "alice", add("bob")).await.update.unwrap();
    assert_eq!(update.about, Some(Actor::user("bob")));
    let bob = fixture.attendee("a", "bob").await.unwrap();
    assert_eq!((bob.participant_type, bob.display_name.as_str()), (ParticipantType::User, "BOB"));
    fixture.change("a", "bob", join("session")).await;
    fixture.change("a", "alice", Command::Attendee(bob.id, AttendeeCommand::Promote)).await;
    let moderator = fixture.attendee("a", "bob").await.unwrap();
    assert_eq!(moderator.participant_type, ParticipantType::Moderator);
    assert_eq!(moderator.sessions[0].id, "session");
    fixture.change("a", "alice", Command::Attendee(bob.id, AttendeeCommand::Demote)).await;
    let permissions = Permissions::parse(8).unwrap();
    let give = Command::Attendee(
        bob.id,
        AttendeeCommand::SetPermissions(PermissionChange::Set, permissions),
    );
    fixture.change("a", "alice", give).await;
    let bob = fixture.attendee("a", "bob").await.unwrap();
    assert_eq!(bob.permissions.bits(), 9);
    let (room, actor) = (token("a"), Actor::user("bob"));
    let all = fixture.store.participants(&room, &actor, Resource::Participants).await.unwrap();
    assert_eq!(all.1.len(), 2);
    fixture.change("a", "alice", Command::Attendee(bob.id, AttendeeCommand::Remove)).await;
    assert_eq!(fixture.attendee("a", "bob").await, None);
    let guest = Caller { actor: Actor::guest("g"), ..caller("") };
    fixture.store.change(&token("a"), &guest, &join("x"), at(1)).await.unwrap();
    fixture.change("a", "alice", Command::SetPublic(false)).await;
    let left = "SELECT count(*) FROM lobbyd_attendees";
    assert_eq!(fixture.database.number(left).await, 1, "the guest who joined by link was removed");
}

async fn pins_are_assigned_and_removed(fixture: StoreFixture) {
    fixture.create_room("1234567").await;
    let room = "1234567";
    fixture.change(room, "alice", add("bob")).await;
    let sip = |state| Command::SetSip { state, configured: true };
    fixture.change(room, "alice", sip(SipState::WithPin)).await;
    fixture.change(room, "alice", add("carol")).await;
    let mut pins = Vec::new();
    for user in ["alice", "bob", "carol"] {
        pins.push(fixture.attendee(room, user).await.unwrap().pin.unwrap());
    }
    pins.sort();
    pins.dedup();
    assert_eq!(pins.len(), 3, "{pins:?}");
    fixture.change(room, "alice", sip(SipState::WithoutPin)).await;
    assert_eq!(fixture.attendee(room, "bob").await.unwrap().pin, None);
}

async fn a_call_lasts_until_its_last_participant_leaves(fixture: StoreFixture) {
    fixture.create_room("a").await;
    fixture.change("a", "alice", add("bob")).await;
    let call = async || fixture.store.overview(&token("a")).await.unwrap().unwrap().room.call;
    for (user, flags) in [("alice", 3), ("bob", 5)] {
        fixture.change("a", user, join(user)).await;
        fixture.change("a", user, Command::JoinCall(CallFlags::from_bits_retain(flags))).await;
    }
    let started = call().await.unwrap();
    assert_eq!((started.started_at, started.flags.bits()), (at(1).timestamp(), 7));
    fixture.change("a", "alice", Command::LeaveCall).await;
    assert!(call().await.is_some());
    // A participant who leaves the room leaves the call.
    fixture.change("a", "bob", Command::Leave).await;
    assert_eq!(call().await, None);
    fixture.change("a", "alice", Command::JoinCall(CallFlags::IN_CALL)).await;
    fixture.change("a", "alice", Command::EndCall).await;
    assert_eq!(call().await, None);
    assert_eq!(fixture.attendee("a", "alice").await.unwrap().call_flags().bits(), 0);
}

/// The statements that change many attendees repeat rules of the domain.
async fn changes_of_many_attendees_agree_with_the_rules(fixture: StoreFixture) {
    fixture.create_room("a").await;
    for participant_type in 1..=6 {
        for permissions in [0, 1, 8, 9, 254, 255] {
            let insert = format!(
                "INSERT INTO lobbyd_attendees (room_id, actor_type, actor_id, participant_type,
                                               permissions)
                 SELECT id, 'users', '{participant_type}-{permissions}', {participant_type},
                        {permissions}
                 FROM lobbyd_rooms WHERE token = 'a'"
            );
            fixture.database.execute(&insert).await;
        }
    }
    let insert = "INSERT INTO lobbyd_sessions (room_id, attendee_id, session_id, client, in_call,
                                               last_ping)
                  SELECT room_id, id, actor_id, 'client', 1, 0 FROM lobbyd_attendees";
    fixture.database.execute(insert).await;
    let alice = Actor::user("alice");
    let others = async || {
        let all = fixture.store.participants(&token("a"), &alice, Resource::Participants).await;
        let (_room, mut all) = all.unwrap();
        all.retain(|attendee| attendee.actor != alice);
        all
    };
    assert!(others().await.iter().all(Attendee::is_in_call));
    fixture.change("a", "alice", close_until(50)).await;
    let room = fixture.store.room(&token("a")).await.unwrap().unwrap();
    let mut expected = others().await;
    for attendee in &expected {
        assert_eq!(attendee.is_in_call(), !attendee.is_waiting(&room), "{attendee:?}");
    }
    fixture.change("a", "alice", Command::SetPublic(false)).await;
    expected.retain(|attendee| !attendee.participant_type.is_uninvited());
    assert_eq!(others().await, expected);
}

async fn messages_are_read_in_both_directions(fixture: StoreFixture) {
    fixture.create_room("a").await;
    fixture.change("a", "alice", add("bob")).await;
    let mut ids = Vec::new();
    for text in ["one", "two", "three"] {
        let sent = fixture.change("a", "alice", send(text, ids.first().copied())).await;
        ids.push(sent.message.unwrap().message.id);
    }
    let query = |newer, known, limit, including| MessageQuery {
        newer,
        known,
        limit,
        including,
        mark_read: false,
    };
    assert_eq!(fixture.chat("a", "bob", query(false, 0, 2, false)).await, ["three", "two"]);
    assert_eq!(fixture.chat("a", "bob", query(false, ids[1], 1, false)).await, ["one"]);
    assert_eq!(fixture.chat("a", "bob", query(true, ids[0], 100, false)).await, ["two", "three"]);
    assert_eq!(fixture.chat("a", "bob", query(true, ids[2], 100, true)).await, ["three"]);
    assert_eq!(fixture.chat("a", "bob", query(true, i64::MAX, 100, false)).await, [""; 0]);
    let actor = Actor::user("bob");
    let page = query(false, 0, 1, false);
    let last = fixture.store.messages(&token("a"), &actor, page, at(2)).await.unwrap();
    assert_eq!(last.messages[0].parent.as_ref().unwrap().id, ids[0]);

    let unread = async || {
        let room = fixture.store.overview(&token("a")).await.unwrap().unwrap().room;
        room.comments - fixture.attendee("a", "bob").await.unwrap().comments_read
    };
    assert_eq!(unread().await, 3);
    let read = MessageQuery { mark_read: true, ..query(true, 0, 4, false) };
    fixture.chat("a", "bob", read).await;
    let first_two = fixture.attendee("a", "bob").await.unwrap().last_read_message;
    assert!(first_two >= ids[0] && first_two < ids[2]);
    fixture.chat("a", "bob", MessageQuery { mark_read: true, ..HISTORY }).await;
    assert_eq!(unread().await, 0);
    assert_eq!(fixture.attendee("a", "bob").await.unwrap().last_read_message, ids[2]);
    // Reading older messages later does not make newer ones unread.
    fixture
        .chat("a", "bob", MessageQuery { mark_read: true, ..query(false, ids[1], 1, false) })
        .await;
    assert_eq!(unread().await, 0);
}

async fn a_participant_waiting_in_the_lobby_reads_nothing(fixture: StoreFixture) {
    fixture.create_room("a").await;
    fixture.change("a", "alice", add("bob")).await;
    fixture.change("a", "alice", close_until(50)).await;
    let bob = Actor::user("bob");
    for resource in [Resource::Participants, Resource::Peers] {
        let answer = unless_refused(fixture.store.participants(&token("a"), &bob, resource).await);
        assert_eq!(answer, Err(Refusal::Lobby));
    }
    let answer = unless_refused(fixture.store.messages(&token("a"), &bob, HISTORY, at(2)).await);
    assert_eq!(answer, Err(Refusal::Lobby));
    let outsider = Actor::user("carol");
    let answer =
        unless_refused(fixture.store.messages(&token("a"), &outsider, HISTORY, at(2)).await);
    assert_eq!(answer, Err(Refusal::NoRoom));
}

async fn users_are_added_changed_and_removed(fixture: StoreFixture) {
    let groups = vec!["phone".to_owned(), "staff".to_owned()];
    let alice = User { id: "alice".to_owned(), display_name: "Alice ✓".to_owned(), groups };
    assert!(fixture.owner.add_user(&alice, "hash").await.unwrap());
    assert!(!fixture.owner.add_user(&alice, "other").await.unwrap());
    let read = fixture.store.user("alice").await.unwrap();
    assert_eq!(read, Some((alice.clone(), "hash".to_owned())));
    assert_eq!(fixture.store.user("Alice").await.unwrap(), None);
    assert_eq!(fixture.store.users().await.unwrap(), [alice]);
    assert!(fixture.owner.set_user_password("alice", "new").await.unwrap());
    assert!(!fixture.owner.set_user_password("bob", "new").await.unwrap());
    assert_eq!(fixture.store.user("alice").await.unwrap().unwrap().1, "new");
    fixture.create_room("a").await;
    assert!(fixture.owner.remove_user("alice", at(5)).await.unwrap());
    assert!(!fixture.owner.remove_user("alice", at(5)).await.unwrap());
    assert_eq!(fixture.store.rooms_of("alice").await.unwrap(), []);
    assert_eq!(fixture.store.users().await.unwrap(), []);
}

async fn inactive_sessions_are_found(fixture: StoreFixture) {
    fixture.create_room("a").await;
    fixture.change("a", "alice", add("bob")).await;
    for user in ["alice", "bob"] {
        fixture.change("a", user, join(user)).await;
    }
    let inactive = async |seconds| {
        let inactive = fixture.store.inactive_since(at(seconds), 10).await.unwrap();
        inactive.into_iter().map(|session| session.actor.id).collect::<Vec<_>>()
    };
    assert_eq!(inactive(1).await, [""; 0]);
    fixture.store.touch(&["alice".to_owned()], at(50)).await.unwrap();
    assert_eq!(inactive(40).await, ["bob"]);
    assert_eq!(inactive(51).await.len(), 2);
    fixture.change("a", "bob", Command::Leave).await;
    assert_eq!(inactive(40).await, [""; 0]);
}

async fn each_client_has_its_own_session(fixture: StoreFixture) {
    fixture.create_room("a").await;
    let by = |client: &str| Caller { client: Some(ClientId(client.to_owned())), ..caller("alice") };
    let run = async |client: &str, command: Command| {
        let changed = fixture.store.change(&token("a"), &by(client), &command, at(1)).await;
        unless_refused(changed)
    };
    let sessions = async || {
        let alice = fixture.attendee("a", "alice").await.unwrap();
        let flags = alice.call_flags().bits();
        (alice.sessions.into_iter().map(|session| session.id).collect::<Vec<_>>(), flags)
    };
    run("desktop", join("1")).await.unwrap();
    run("phone", join("2")).await.unwrap();
    let call = |flags| Command::JoinCall(CallFlags::from_bits_retain(flags));
    run("desktop", call(3)).await.unwrap();
    run("phone", call(5)).await.unwrap();
    assert_eq!(sessions().await, (vec!["1".to_owned(), "2".to_owned()], 7));
    // A client that joins again replaces its own session only.
    let gently = Command::Join { session_id: "3".to_owned(), force: false, verified: None };
    let refused = run("phone", gently.clone()).await.unwrap_err();
    assert!(matches!(refused, Refusal::AlreadyJoined(session) if session.id == "2"));
    run("tablet", gently).await.unwrap();
    run("phone", join("4")).await.unwrap();
    let all = ["1", "3", "4"].map(str::to_owned).to_vec();
    assert_eq!(sessions().await, (all, 3));
    // A client without cookies acts in the newest session.
    fixture.change("a", "alice", Command::Leave).await;
    run("phone", Command::Leave).await.unwrap();
    assert_eq!(run("phone", Command::LeaveCall).await, Err(Refusal::NotJoined));
    run("tablet", Command::EndSession("3".to_owned())).await.unwrap();
    assert_eq!(sessions().await, (vec!["1".to_owned()], 3));
    // The number of sessions is bounded: the oldest ends.
    for session in 10..17 {
        run(&session.to_string(), join(&session.to_string())).await.unwrap();
    }
    assert_eq!(sessions().await.0.len(), 8);
    run("one more", join("18")).await.unwrap();
    let (left, flags) = sessions().await;
    assert_eq!((left.len(), flags), (8, 0), "{left:?}");
    let overview = fixture.store.overview(&token("a")).await.unwrap().unwrap();
    assert_eq!(overview.room.call, None, "the call ended with its last session");
}

async fn participants_who_have_read_messages_are_found(fixture: StoreFixture) {
    fixture.create_room("a").await;
    fixture.change("a", "alice", add("bob")).await;
    fixture.change("a", "alice", send("hello", None)).await;
    let readers = async |since: i64| {
        let readers = fixture.store.read_since(at(since).timestamp()).await.unwrap();
        readers.into_iter().map(|(_room, actor)| actor.id).collect::<Vec<_>>()
    };
    assert_eq!(readers(2).await, [""; 0]);
    fixture.chat("a", "bob", MessageQuery { mark_read: true, ..HISTORY }).await;
    assert_eq!(readers(2).await, ["bob"]);
    assert_eq!(readers(3).await, [""; 0]);
}
