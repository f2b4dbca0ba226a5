//! Rooms: how they are created, changed and deleted, and what is announced.

use std::sync::Arc;

use lobbyd::{
    domain::{
        Actor, AttendeeId, CallFlags, Content, Lobby, LobbyRequest, ParticipantType, Reason,
        Version,
        commands::{AttendeeCommand, Command, NewRoom, Refusal},
    },
    store::{DueBatch, LockPolicy},
};

use crate::support::fixtures::{
    HISTORY, StoreFixture, add, at, caller, change, close_until, closed_until, join, new_room,
    send, token,
};

on_every_database! { crate::support::fixtures::StoreFixture::new:
    a_room_is_created_with_owner_lobby_and_messages,
    a_token_is_assigned_once,
    a_change_and_its_events_are_one_transaction,
    a_refused_change_leaves_nothing_behind,
    a_command_without_effect_is_not_announced,
    changes_by_api_and_by_event_are_ordered_by_version,
    a_reset_adds_a_chat_message_with_its_time,
    an_event_adds_a_chat_message_and_removes_waiting_participants_from_the_call,
    room_versions_show_which_rooms_changed,
    a_deleted_room_leaves_nothing_behind,
    concurrent_changes_are_serialised,
    a_busy_room_opens_too,
}

async fn a_room_is_created_with_owner_lobby_and_messages(fixture: StoreFixture) {
    let timer = at(100);
    let request = NewRoom {
        password_hash: "hash".to_owned(),
        lobby: closed_until(Some(timer)),
        ..new_room()
    };
    fixture.account("alice").await;
    let result = fixture
        .store
        .create(&token("a"), &caller("alice"), &request, at(0))
        .await
        .unwrap()
        .unwrap();
    let reasons: Vec<Reason> = result.updates.iter().map(|update| update.reason).collect();
    assert_eq!(reasons, [Reason::ConversationCreated, Reason::LobbyNonModerators]);
    let created = fixture.store.overview(&token("a")).await.unwrap().unwrap();
    assert_eq!(created.room.lobby, request.lobby);
    assert_eq!(
        (created.room.name.as_str(), created.room.description.as_str()),
        ("Webinar", "About")
    );
    assert_eq!(
        (created.room.object_type.as_str(), created.room.object_id.as_str()),
        ("event", "7")
    );
    assert_eq!((created.room.password_hash.as_str(), created.moderators), ("hash", 1));
    let owner = fixture.attendee("a", "alice").await.unwrap();
    assert_eq!(owner.participant_type, ParticipantType::Owner);
    assert_eq!(owner.display_name, "ALICE");
    assert_eq!((result.overview, result.owner), (created, owner));
    assert_eq!(fixture.store.rooms_of("alice").await.unwrap(), [token("a")]);
    let expected = ["lobby_non_moderators", "conversation_created"];
    assert_eq!(fixture.chat("a", "alice", HISTORY).await, expected);
    // The timer is found like any other timer.
    assert_eq!(
        fixture.store.next_due(None, &[]).await.unwrap().map(|timer| timer.key.due_at),
        Some(timer)
    );
}

async fn a_token_is_assigned_once(fixture: StoreFixture) {
    fixture.create_room("a").await;
    let again =
        fixture.store.create(&token("a"), &caller("bob"), &new_room(), at(1)).await.unwrap();
    assert_eq!(again, None);
    assert_eq!(fixture.store.rooms_of("bob").await.unwrap(), []);
}

async fn a_change_and_its_events_are_one_transaction(fixture: StoreFixture) {
    fixture.create_room("a").await;
    let before = fixture.store.overview(&token("a")).await.unwrap().unwrap().room.version;
    let changed = fixture.change("a", "alice", close_until(50)).await;
    let update = changed.update.unwrap();
    assert_eq!(update.reason, Reason::LobbyNonModerators);
    let room = fixture.store.overview(&token("a")).await.unwrap().unwrap().room;
    assert_eq!(room.version.milliseconds(), update.version);
    assert!(room.version > before);
    assert_eq!(room.version, Version::of(at(1)), "the version is the time of the change");
    let expected = [
        ("room.updated.v1", "\"conversation_created\""),
        ("room.updated.v1", "\"lobby_non_moderators\""),
        ("lobby.changed.v1", "1"),
    ];
    let mut events = fixture.events().await;
    events.sort();
    let mut expected: Vec<(String, String)> =
        expected.map(|(kind, what)| (kind.to_owned(), what.to_owned())).to_vec();
    expected.sort();
    assert_eq!(events, expected);
}

async fn a_refused_change_leaves_nothing_behind(fixture: StoreFixture) {
    fixture.create_room("a").await;
    fixture.change("a", "alice", add("bob")).await;
    let before = fixture.store.overview(&token("a")).await.unwrap();
    let events = fixture.database.number("SELECT count(*) FROM lobbyd_outbox").await;
    for (user, command, refusal) in [
        ("bob", close_until(50), Refusal::NotModerator),
        ("carol", close_until(50), Refusal::NoRoom),
        (
            "alice",
            Command::Attendee(AttendeeId(999_999), AttendeeCommand::Remove),
            Refusal::NoParticipant,
        ),
        ("alice", Command::JoinCall(CallFlags::IN_CALL), Refusal::NotJoined),
    ] {
        assert_eq!(fixture.try_change("a", user, command).await, Err(refusal));
    }
    assert_eq!(fixture.try_change("b", "alice", join("s")).await, Err(Refusal::NoRoom));
    let reply = fixture.try_change("a", "alice", send("x", Some(999_999))).await;
    assert!(matches!(reply, Err(Refusal::Invalid { .. })), "{reply:?}");
    assert_eq!(fixture.store.overview(&token("a")).await.unwrap(), before);
    assert_eq!(fixture.database.number("SELECT count(*) FROM lobbyd_outbox").await, events);
}

async fn a_command_without_effect_is_not_announced(fixture: StoreFixture) {
    fixture.create_room("a").await;
    let before = fixture.store.overview(&token("a")).await.unwrap();
    for command in [Command::Rename("Webinar".to_owned()), add("alice"), Command::Leave] {
        assert_eq!(fixture.change("a", "alice", command).await.update, None);
    }
    assert_eq!(fixture.store.overview(&token("a")).await.unwrap(), before);
}

async fn changes_by_api_and_by_event_are_ordered_by_version(fixture: StoreFixture) {
    fixture.create_room("a").await;
    fixture.change("a", "alice", close_until(50)).await;
    // Chat messages do not make a later lobby change look stale.
    for _ in 0..20 {
        fixture.change("a", "alice", send("hello", None)).await;
    }
    let by_event = |milliseconds: i64, timer: i64| {
        change("a", closed_until(Some(at(timer))), at(1).timestamp_millis() + milliseconds)
    };
    fixture.apply(&by_event(-1, 60)).await;
    let lobby = fixture.store.overview(&token("a")).await.unwrap().unwrap().room.lobby;
    assert_eq!(lobby.timer, Some(at(50)), "an older change is ignored");
    fixture.apply(&by_event(500, 70)).await;
    let lobby = fixture.store.overview(&token("a")).await.unwrap().unwrap().room.lobby;
    assert_eq!(lobby.timer, Some(at(70)), "a newer change wins");
    assert!(
        fixture.store.fire_due(at(65), DueBatch::first(10), None).await.unwrap().rows.is_empty()
    );
}

async fn a_reset_adds_a_chat_message_with_its_time(fixture: StoreFixture) {
    fixture.create_room("a").await;
    fixture.change("a", "alice", close_until(50)).await;
    let fired = fixture.store.fire_due(at(51), DueBatch::first(10), None).await.unwrap();
    assert_eq!(fired.rows.len(), 1);
    let last = fixture.store.overview(&token("a")).await.unwrap().unwrap().last_message;
    let last = last.unwrap();
    assert_eq!((last.actor.clone(), last.created_at), (Actor::system(), at(51).timestamp()));
    let content = Content::System { reason: Reason::LobbyTimerReached, about: None };
    assert_eq!(last.content, content);
}

async fn an_event_adds_a_chat_message_and_removes_waiting_participants_from_the_call(
    fixture: StoreFixture,
) {
    fixture.create_room("a").await;
    fixture.change("a", "alice", add("bob")).await;
    for user in ["alice", "bob"] {
        fixture.change("a", user, join(user)).await;
        fixture.change("a", user, Command::JoinCall(CallFlags::IN_CALL | CallFlags::AUDIO)).await;
    }
    let _earlier = fixture.events().await;
    let apply = async |seconds, lobby| {
        let change = change("a", lobby, at(seconds).timestamp_millis());
        fixture.apply_all(&[change], at(10)).await;
    };
    // A lobby whose timer has passed removes no participant from the call.
    apply(10, closed_until(Some(at(5)))).await;
    assert_eq!(fixture.attendee("a", "bob").await.unwrap().call_flags().bits(), 3);
    apply(11, Lobby::OPEN).await;
    apply(12, closed_until(None)).await;
    assert_eq!(fixture.attendee("a", "bob").await.unwrap().call_flags().bits(), 0);
    assert_eq!(fixture.attendee("a", "alice").await.unwrap().call_flags().bits(), 3);
    let last: Vec<String> = fixture.chat("a", "alice", HISTORY).await.into_iter().take(3).collect();
    assert_eq!(last, ["lobby_non_moderators", "lobby_none", "lobby_non_moderators"]);
    // Each change is announced, and none is published as a change for the workers.
    let events = fixture.events().await;
    let update = |reason: &str| ("room.updated.v1".to_owned(), format!("{reason:?}"));
    assert_eq!(events, last.iter().rev().map(|reason| update(reason)).collect::<Vec<_>>());
}

async fn room_versions_show_which_rooms_changed(fixture: StoreFixture) {
    fixture.create_room("a").await;
    fixture.create_room("A").await;
    let tokens = [token("a"), token("A"), token("nowhere")];
    let mut room_versions = fixture.store.room_versions(&tokens).await.unwrap();
    room_versions.sort_by(|one, other| one.token.cmp(&other.token));
    let names: Vec<&str> =
        room_versions.iter().map(|room_version| room_version.token.as_str()).collect();
    assert_eq!(names, ["A", "a"]);
    fixture.change("a", "alice", close_until(50)).await;
    let room_version = fixture.store.room_versions(&[token("a")]).await.unwrap().remove(0);
    assert_eq!(room_version.lobby.timer, Some(at(50)));
    assert!(room_version.version > room_versions[1].version);
    assert_eq!(fixture.store.room_versions(&[]).await.unwrap(), []);
}

async fn a_deleted_room_leaves_nothing_behind(fixture: StoreFixture) {
    fixture.create_room("a").await;
    fixture.change("a", "alice", send("hello", None)).await;
    let update = fixture.change("a", "alice", Command::Delete).await.update.unwrap();
    assert_eq!(update.reason, Reason::ConversationDeleted);
    assert_eq!(fixture.store.overview(&token("a")).await.unwrap(), None);
    for table in ["rooms", "room_states", "attendees", "messages"] {
        let left = format!("SELECT count(*) FROM lobbyd_{table}");
        assert_eq!(fixture.database.number(&left).await, 0, "{table}");
    }
}

/// Many tasks change one room while a worker resets it: each change has its own version.
async fn concurrent_changes_are_serialised(fixture: StoreFixture) {
    fixture.create_room("a").await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..40 {
        let store = Arc::clone(&fixture.store);
        tasks.spawn(async move {
            let command = match number % 4 {
                0 => close_until(2),
                1 => Command::SetLobby(LobbyRequest { state: 0, timer: None }),
                2 => send(&number.to_string(), None),
                _reset => {
                    store.fire_due(at(3), DueBatch::first(10), None).await.unwrap();
                    return None;
                }
            };
            let changed = store.change(&token("a"), &caller("alice"), &command, at(1)).await;
            changed.unwrap().update.map(|update| update.version)
        });
    }
    let mut versions: Vec<i64> = tasks.join_all().await.into_iter().flatten().collect();
    versions.sort_unstable();
    let before = versions.len();
    versions.dedup();
    assert_eq!((versions.len(), before), (30, 30), "two changes have the same version");
    let room = fixture.store.overview(&token("a")).await.unwrap().unwrap().room;
    assert_eq!(room.comments, 10);
    let resets = "SELECT count(*) FROM lobbyd_outbox WHERE data LIKE '%lobby_timer_reached%'";
    let announced = "SELECT count(*) FROM lobbyd_messages WHERE kind = 'lobby_timer_reached'";
    assert_eq!(fixture.database.number(resets).await, fixture.database.number(announced).await);
}

/// Participants who join or chat lock the room for a moment, again and again.
async fn a_busy_room_opens_too(fixture: StoreFixture) {
    fixture.create_room("a").await;
    fixture.change("a", "alice", close_until(2)).await;
    let mut chatting = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let store = Arc::clone(&fixture.store);
        chatting.spawn(async move {
            for _ in 0..25 {
                let (room, by) = (token("a"), caller("alice"));
                store.change(&room, &by, &send("hi", None), at(3)).await.unwrap();
            }
        });
    }
    tokio::task::yield_now().await;
    let batch = DueBatch { locked: LockPolicy::Wait, ..DueBatch::first(10) };
    let fired = fixture.store.fire_due(at(4), batch, None).await.unwrap();
    assert_eq!(fired.rows.len(), 1);
    chatting.join_all().await;
    let room = fixture.store.overview(&token("a")).await.unwrap().unwrap().room;
    assert_eq!((room.lobby, room.comments), (Lobby::OPEN, 100));
}
