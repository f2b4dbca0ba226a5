//! What the API's side of the store promises, on each database.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use lobbyd::{
    domain::{
        Actor, AttendeeId, Caller, Content, Lobby, LobbyChanged, LobbyState, MessageQuery,
        Modification, NewMessage, ParticipantType, Permissions, Reason, RoomToken, Version,
        rules::{Command, Look, NewRoom, Refusal},
    },
    store::{Changed, Database as Stored, Held, User},
};

use crate::support::database::{Database, Kind};

struct Subject {
    database: Database,
    store: Arc<dyn Stored>,
}

impl Subject {
    async fn new(kind: Kind) -> Self {
        let database = Database::create(kind).await;
        let store = database.store().await;
        Self { database, store }
    }

    /// Makes a room that alice owns.
    async fn room(&self, room: &str) {
        let made = self.store.create(&token(room), &caller("alice"), &new(), at(0)).await.unwrap();
        assert_eq!(made.unwrap().len(), 1);
    }

    async fn change(&self, room: &str, user: &str, command: Command) -> Changed {
        self.try_change(room, user, command).await.unwrap()
    }

    async fn try_change(
        &self,
        room: &str,
        user: &str,
        command: Command,
    ) -> Result<Changed, Refusal> {
        self.store.change(&token(room), &caller(user), &command, at(1)).await.unwrap()
    }

    async fn attendee(&self, room: &str, user: &str) -> Option<lobbyd::domain::Attendee> {
        let room = self.store.summary(&token(room)).await.unwrap().unwrap().room;
        self.store.attendee(room.id, &Actor::user(user)).await.unwrap()
    }

    async fn said(&self, room: &str, user: &str, query: MessageQuery) -> Vec<String> {
        let messages =
            self.store.messages(&token(room), &Actor::user(user), query, at(2)).await.unwrap();
        messages
            .unwrap()
            .into_iter()
            .map(|each| match each.message.content {
                Content::Comment(text) => text,
                Content::System { reason, .. } => reason.name(),
            })
            .collect()
    }

    async fn events(&self) -> Vec<(String, String)> {
        let events = self.store.claim_outbox(at(60), 100, at(90)).await.unwrap();
        events
            .into_iter()
            .map(|event| {
                let data: serde_json::Value = serde_json::from_str(&event.data).unwrap();
                let what = data.get("reason").unwrap_or(&data["state"]);
                (event.event_type, what.to_string())
            })
            .collect()
    }
}

on_every_database! { super::Subject::new:
    a_room_is_made_with_what_it_begins_with,
    a_token_is_given_once,
    a_change_is_one_transaction_with_what_is_told,
    a_refused_change_leaves_nothing_behind,
    a_change_that_is_none_is_not_told,
    a_setting_of_the_api_and_one_by_event_compete_by_version,
    a_reset_is_told_in_the_chat_at_its_instant,
    an_event_is_told_in_the_chat_and_empties_the_call,
    attendees_come_change_and_go,
    pins_are_given_and_taken,
    a_call_lasts_as_long_as_anybody_is_in_it,
    messages_are_read_both_ways,
    who_waits_reads_nothing,
    marks_tell_which_rooms_changed,
    a_deleted_room_leaves_nothing_behind,
    users_are_added_changed_and_removed,
    changes_at_once_are_serialised,
    a_busy_room_opens_all_the_same,
    who_was_not_seen_is_found,
    who_has_read_is_found,
}

/// 2026-01-01T00:00:00Z, and some seconds.
fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_767_225_600 + seconds, 0).unwrap()
}

fn token(text: &str) -> RoomToken {
    RoomToken::parse(text).unwrap()
}

fn caller(user: &str) -> Caller {
    Caller { actor: Actor::user(user), display_name: user.to_uppercase(), may_enable_sip: true }
}

fn new() -> NewRoom {
    NewRoom {
        room_type: 3,
        name: "Webinar".to_owned(),
        description: "About".to_owned(),
        object_type: "event".to_owned(),
        object_id: "7".to_owned(),
        password_hash: String::new(),
        lobby: Lobby::OPEN,
        other: None,
    }
}

fn closed_until(timer: i64) -> Command {
    Command::SetLobby { state: 1, timer: Some(at(timer).timestamp()) }
}

fn add(user: &str) -> Command {
    Command::Add { user: Actor::user(user), display_name: user.to_uppercase() }
}

fn join(session: &str) -> Command {
    Command::Join { session: session.to_owned(), force: true, proven: None }
}

fn say(text: &str, reply_to: Option<i64>) -> Command {
    Command::Send(NewMessage { text: text.to_owned(), reference_id: String::new(), reply_to })
}

const HISTORY: MessageQuery =
    MessageQuery { newer: false, known: 0, including: false, limit: 100, mark_read: false };

async fn a_room_is_made_with_what_it_begins_with(subject: Subject) {
    let timer = at(100);
    let wanted = NewRoom {
        password_hash: "hash".to_owned(),
        lobby: Lobby { state: LobbyState::NonModerators, timer: Some(timer) },
        ..new()
    };
    let told =
        subject.store.create(&token("a"), &caller("alice"), &wanted, at(0)).await.unwrap().unwrap();
    let reasons: Vec<Reason> = told.iter().map(|update| update.reason).collect();
    assert_eq!(reasons, [Reason::ConversationCreated, Reason::LobbyNonModerators]);
    let made = subject.store.summary(&token("a")).await.unwrap().unwrap();
    assert_eq!(made.room.lobby, wanted.lobby);
    assert_eq!((made.room.name.as_str(), made.room.description.as_str()), ("Webinar", "About"));
    assert_eq!((made.room.object_type.as_str(), made.room.object_id.as_str()), ("event", "7"));
    assert_eq!((made.room.password_hash.as_str(), made.moderators), ("hash", 1));
    let owner = subject.attendee("a", "alice").await.unwrap();
    assert_eq!(owner.participant_type, ParticipantType::Owner);
    assert_eq!(owner.display_name, "ALICE");
    assert_eq!(subject.store.rooms_of("alice").await.unwrap(), [token("a")]);
    let expected = ["lobby_non_moderators", "conversation_created"];
    assert_eq!(subject.said("a", "alice", HISTORY).await, expected);
    // The timer is a timer like any other.
    assert_eq!(subject.store.next_due().await.unwrap(), Some(timer));
}

async fn a_token_is_given_once(subject: Subject) {
    subject.room("a").await;
    let again = subject.store.create(&token("a"), &caller("bob"), &new(), at(1)).await.unwrap();
    assert_eq!(again, None);
    assert_eq!(subject.store.rooms_of("bob").await.unwrap(), []);
}

async fn a_change_is_one_transaction_with_what_is_told(subject: Subject) {
    subject.room("a").await;
    let before = subject.store.summary(&token("a")).await.unwrap().unwrap().room.version;
    let changed = subject.change("a", "alice", closed_until(50)).await;
    let update = changed.update.unwrap();
    assert_eq!(update.reason, Reason::LobbyNonModerators);
    let room = subject.store.summary(&token("a")).await.unwrap().unwrap().room;
    assert_eq!(room.version.milliseconds(), update.version);
    assert!(room.version > before);
    assert_eq!(room.version, Version::of(at(1)), "the setting is dated by the clock");
    let expected = [
        ("room.updated.v1", "\"conversation_created\""),
        ("room.updated.v1", "\"lobby_non_moderators\""),
        ("lobby.changed.v1", "1"),
    ];
    let mut events = subject.events().await;
    events.sort();
    let mut expected: Vec<(String, String)> =
        expected.map(|(kind, what)| (kind.to_owned(), what.to_owned())).to_vec();
    expected.sort();
    assert_eq!(events, expected);
}

async fn a_refused_change_leaves_nothing_behind(subject: Subject) {
    subject.room("a").await;
    subject.change("a", "alice", add("bob")).await;
    let before = subject.store.summary(&token("a")).await.unwrap();
    let events = subject.database.number("SELECT count(*) FROM lobbyd_outbox").await;
    for (user, command, refusal) in [
        ("bob", closed_until(50), Refusal::NotModerator),
        ("carol", closed_until(50), Refusal::NoRoom),
        ("alice", Command::Remove(AttendeeId(999_999)), Refusal::NoParticipant),
        ("alice", Command::JoinCall(1), Refusal::NotJoined),
    ] {
        assert_eq!(subject.try_change("a", user, command).await, Err(refusal));
    }
    assert_eq!(subject.try_change("b", "alice", join("s")).await, Err(Refusal::NoRoom));
    let reply = subject.try_change("a", "alice", say("x", Some(999_999))).await;
    assert!(matches!(reply, Err(Refusal::Invalid { .. })), "{reply:?}");
    assert_eq!(subject.store.summary(&token("a")).await.unwrap(), before);
    assert_eq!(subject.database.number("SELECT count(*) FROM lobbyd_outbox").await, events);
}

async fn a_change_that_is_none_is_not_told(subject: Subject) {
    subject.room("a").await;
    let before = subject.store.summary(&token("a")).await.unwrap();
    for command in [Command::Rename("Webinar".to_owned()), add("alice"), Command::Leave] {
        assert_eq!(subject.change("a", "alice", command).await.update, None);
    }
    assert_eq!(subject.store.summary(&token("a")).await.unwrap(), before);
}

async fn a_setting_of_the_api_and_one_by_event_compete_by_version(subject: Subject) {
    subject.room("a").await;
    subject.change("a", "alice", closed_until(50)).await;
    // Chatter does not make a later setting look old.
    for _ in 0..20 {
        subject.change("a", "alice", say("hello", None)).await;
    }
    let by_event = |milliseconds: i64, timer: i64| LobbyChanged {
        token: token("a"),
        lobby: Lobby { state: LobbyState::NonModerators, timer: Some(at(timer)) },
        version: Version::parse(at(1).timestamp_millis() + milliseconds),
    };
    let received = Version::of(at(2));
    subject.store.apply(&by_event(-1, 60), received).await.unwrap();
    let lobby = subject.store.summary(&token("a")).await.unwrap().unwrap().room.lobby;
    assert_eq!(lobby.timer, Some(at(50)), "an older one changes nothing");
    subject.store.apply(&by_event(500, 70), received).await.unwrap();
    let lobby = subject.store.summary(&token("a")).await.unwrap().unwrap().room.lobby;
    assert_eq!(lobby.timer, Some(at(70)), "a newer one wins");
    assert!(
        subject.store.fire_due(at(65), 10, Held::PassOver, None).await.unwrap().events.is_empty()
    );
}

async fn a_reset_is_told_in_the_chat_at_its_instant(subject: Subject) {
    subject.room("a").await;
    subject.change("a", "alice", closed_until(50)).await;
    let fired = subject.store.fire_due(at(51), 10, Held::PassOver, None).await.unwrap();
    assert_eq!(fired.events.len(), 1);
    let last = subject.store.summary(&token("a")).await.unwrap().unwrap().last_message;
    let last = last.unwrap();
    assert_eq!((last.actor.clone(), last.created_at), (Actor::system(), at(51).timestamp()));
    let content = Content::System { reason: Reason::LobbyTimerReached, about: None };
    assert_eq!(last.content, content);
    // A row that is only tidied says nothing.
    let tidy = format!(
        "UPDATE lobbyd_rooms SET lobby_state = 0, lobby_timer = {}",
        subject.database.instant(at(60).timestamp())
    );
    subject.database.execute(&tidy).await;
    assert_eq!(subject.store.fire_due(at(61), 10, Held::PassOver, None).await.unwrap().tidied, 1);
    let now = subject.store.summary(&token("a")).await.unwrap().unwrap().last_message;
    assert_eq!(now, Some(last));
}

async fn an_event_is_told_in_the_chat_and_empties_the_call(subject: Subject) {
    subject.room("a").await;
    subject.change("a", "alice", add("bob")).await;
    for user in ["alice", "bob"] {
        subject.change("a", user, join(user)).await;
        subject.change("a", user, Command::JoinCall(3)).await;
    }
    let told = subject.database.number("SELECT count(*) FROM lobbyd_outbox").await;
    let change = |version: i64, state, timer| LobbyChanged {
        token: token("a"),
        lobby: Lobby { state, timer },
        version: Version::parse(at(version).timestamp_millis()),
    };
    let received = Version::of(at(10));
    // A lobby whose timer is over sends nobody out.
    let over = change(10, LobbyState::NonModerators, Some(at(5)));
    subject.store.apply(&over, received).await.unwrap();
    assert_eq!(subject.attendee("a", "bob").await.unwrap().in_call(), 3);
    let open = change(11, LobbyState::None, None);
    subject.store.apply(&open, received).await.unwrap();
    let closed = change(12, LobbyState::NonModerators, None);
    subject.store.apply(&closed, received).await.unwrap();
    assert_eq!(subject.attendee("a", "bob").await.unwrap().in_call(), 0);
    assert_eq!(subject.attendee("a", "alice").await.unwrap().in_call(), 3);
    let last: Vec<String> = subject.said("a", "alice", HISTORY).await.into_iter().take(3).collect();
    assert_eq!(last, ["lobby_non_moderators", "lobby_none", "lobby_non_moderators"]);
    // Whoever sent the events tells its clients.
    assert_eq!(subject.database.number("SELECT count(*) FROM lobbyd_outbox").await, told);
}

async fn attendees_come_change_and_go(subject: Subject) {
    subject.room("a").await;
    let update = subject.change("a", "alice", add("bob")).await.update.unwrap();
    assert_eq!(update.about, Some(Actor::user("bob")));
    let bob = subject.attendee("a", "bob").await.unwrap();
    assert_eq!((bob.participant_type, bob.display_name.as_str()), (ParticipantType::User, "BOB"));
    subject.change("a", "bob", join("session")).await;
    subject.change("a", "alice", Command::Promote(bob.id)).await;
    let moderator = subject.attendee("a", "bob").await.unwrap();
    assert_eq!(moderator.participant_type, ParticipantType::Moderator);
    assert_eq!(moderator.session.unwrap().id, "session");
    subject.change("a", "alice", Command::Demote(bob.id)).await;
    let permissions = Permissions::parse(8).unwrap();
    let give = Command::SetPermissions(bob.id, Modification::Set, permissions);
    subject.change("a", "alice", give).await;
    let bob = subject.attendee("a", "bob").await.unwrap();
    assert_eq!(bob.permissions.number(), 9);
    let (room, actor) = (token("a"), Actor::user("bob"));
    let all = subject.store.participants(&room, &actor, Look::Participants).await.unwrap();
    assert_eq!(all.unwrap().len(), 2);
    subject.change("a", "alice", Command::Remove(bob.id)).await;
    assert_eq!(subject.attendee("a", "bob").await, None);
    let guest = Caller { actor: Actor::guest("g"), ..caller("") };
    let change = subject.store.change(&token("a"), &guest, &join("x"), at(1)).await.unwrap();
    assert!(change.is_ok());
    subject.change("a", "alice", Command::SetPublic(false)).await;
    let left = "SELECT count(*) FROM lobbyd_attendees";
    assert_eq!(subject.database.number(left).await, 1, "who came by the link had to go");
}

async fn pins_are_given_and_taken(subject: Subject) {
    subject.room("1234567").await;
    let room = "1234567";
    subject.change(room, "alice", add("bob")).await;
    let sip = |state| Command::SetSip { state, configured: true };
    subject.change(room, "alice", sip(1)).await;
    subject.change(room, "alice", add("carol")).await;
    let mut pins = Vec::new();
    for user in ["alice", "bob", "carol"] {
        pins.push(subject.attendee(room, user).await.unwrap().pin.unwrap());
    }
    pins.sort();
    pins.dedup();
    assert_eq!(pins.len(), 3, "{pins:?}");
    subject.change(room, "alice", sip(2)).await;
    assert_eq!(subject.attendee(room, "bob").await.unwrap().pin, None);
}

async fn a_call_lasts_as_long_as_anybody_is_in_it(subject: Subject) {
    subject.room("a").await;
    subject.change("a", "alice", add("bob")).await;
    let call = async || subject.store.summary(&token("a")).await.unwrap().unwrap().room.call;
    for (user, flags) in [("alice", 3), ("bob", 5)] {
        subject.change("a", user, join(user)).await;
        subject.change("a", user, Command::JoinCall(flags)).await;
    }
    let going_on = call().await.unwrap();
    assert_eq!((going_on.started_at, going_on.flags), (at(1).timestamp(), 7));
    subject.change("a", "alice", Command::LeaveCall).await;
    assert!(call().await.is_some());
    // Who leaves the room leaves the call.
    subject.change("a", "bob", Command::Leave).await;
    assert_eq!(call().await, None);
    subject.change("a", "alice", Command::JoinCall(1)).await;
    subject.change("a", "alice", Command::EndCall).await;
    assert_eq!(call().await, None);
    assert_eq!(subject.attendee("a", "alice").await.unwrap().in_call(), 0);
}

async fn messages_are_read_both_ways(subject: Subject) {
    subject.room("a").await;
    subject.change("a", "alice", add("bob")).await;
    let mut ids = Vec::new();
    for text in ["one", "two", "three"] {
        let said = subject.change("a", "alice", say(text, ids.first().copied())).await;
        ids.push(said.message.unwrap().message.id);
    }
    let query = |newer, known, limit, including| MessageQuery {
        newer,
        known,
        limit,
        including,
        mark_read: false,
    };
    assert_eq!(subject.said("a", "bob", query(false, 0, 2, false)).await, ["three", "two"]);
    assert_eq!(subject.said("a", "bob", query(false, ids[1], 1, false)).await, ["one"]);
    assert_eq!(subject.said("a", "bob", query(true, ids[0], 100, false)).await, ["two", "three"]);
    assert_eq!(subject.said("a", "bob", query(true, ids[2], 100, true)).await, ["three"]);
    assert_eq!(subject.said("a", "bob", query(true, i64::MAX, 100, false)).await, [""; 0]);
    let actor = Actor::user("bob");
    let page = query(false, 0, 1, false);
    let last = subject.store.messages(&token("a"), &actor, page, at(2)).await.unwrap().unwrap();
    assert_eq!(last[0].parent.as_ref().unwrap().id, ids[0]);

    let unread = async || {
        let room = subject.store.summary(&token("a")).await.unwrap().unwrap().room;
        room.comments - subject.attendee("a", "bob").await.unwrap().comments_read
    };
    assert_eq!(unread().await, 3);
    let read = MessageQuery { mark_read: true, ..query(true, 0, 4, false) };
    subject.said("a", "bob", read).await;
    let first_two = subject.attendee("a", "bob").await.unwrap().last_read_message;
    assert!(first_two >= ids[0] && first_two < ids[2]);
    subject.said("a", "bob", MessageQuery { mark_read: true, ..HISTORY }).await;
    assert_eq!(unread().await, 0);
    assert_eq!(subject.attendee("a", "bob").await.unwrap().last_read_message, ids[2]);
    // Older ones that are read later do not make newer ones unread.
    subject
        .said("a", "bob", MessageQuery { mark_read: true, ..query(false, ids[1], 1, false) })
        .await;
    assert_eq!(unread().await, 0);
}

async fn who_waits_reads_nothing(subject: Subject) {
    subject.room("a").await;
    subject.change("a", "alice", add("bob")).await;
    subject.change("a", "alice", closed_until(50)).await;
    let bob = Actor::user("bob");
    for look in [Look::Participants, Look::Peers] {
        let answer = subject.store.participants(&token("a"), &bob, look).await.unwrap();
        assert_eq!(answer, Err(Refusal::Lobby));
    }
    let answer = subject.store.messages(&token("a"), &bob, HISTORY, at(2)).await.unwrap();
    assert_eq!(answer, Err(Refusal::Lobby));
    let stranger = Actor::user("carol");
    let answer = subject.store.messages(&token("a"), &stranger, HISTORY, at(2)).await.unwrap();
    assert_eq!(answer, Err(Refusal::NoRoom));
}

async fn marks_tell_which_rooms_changed(subject: Subject) {
    subject.room("a").await;
    subject.room("A").await;
    let tokens = [token("a"), token("A"), token("nowhere")];
    let mut marks = subject.store.marks(&tokens).await.unwrap();
    marks.sort_by(|one, other| one.token.cmp(&other.token));
    let names: Vec<&str> = marks.iter().map(|mark| mark.token.as_str()).collect();
    assert_eq!(names, ["A", "a"]);
    subject.change("a", "alice", closed_until(50)).await;
    let mark = subject.store.marks(&[token("a")]).await.unwrap().remove(0);
    assert_eq!(mark.lobby.timer, Some(at(50)));
    assert!(mark.version > marks[1].version);
    assert_eq!(subject.store.marks(&[]).await.unwrap(), []);
}

async fn a_deleted_room_leaves_nothing_behind(subject: Subject) {
    subject.room("a").await;
    subject.change("a", "alice", say("hello", None)).await;
    let update = subject.change("a", "alice", Command::Delete).await.update.unwrap();
    assert_eq!(update.reason, Reason::ConversationDeleted);
    assert_eq!(subject.store.summary(&token("a")).await.unwrap(), None);
    for table in ["rooms", "room_states", "attendees", "messages"] {
        let left = format!("SELECT count(*) FROM lobbyd_{table}");
        assert_eq!(subject.database.number(&left).await, 0, "{table}");
    }
}

async fn users_are_added_changed_and_removed(subject: Subject) {
    let groups = vec!["phone".to_owned(), "staff".to_owned()];
    let alice = User { id: "alice".to_owned(), display_name: "Alice ✓".to_owned(), groups };
    assert!(subject.store.add_user(&alice, "hash").await.unwrap());
    assert!(!subject.store.add_user(&alice, "other").await.unwrap());
    let read = subject.store.user("alice").await.unwrap();
    assert_eq!(read, Some((alice.clone(), "hash".to_owned())));
    assert_eq!(subject.store.user("Alice").await.unwrap(), None);
    assert_eq!(subject.store.users().await.unwrap(), [alice]);
    assert!(subject.store.set_user_password("alice", "new").await.unwrap());
    assert!(!subject.store.set_user_password("bob", "new").await.unwrap());
    assert_eq!(subject.store.user("alice").await.unwrap().unwrap().1, "new");
    subject.room("a").await;
    assert!(subject.store.remove_user("alice", at(5)).await.unwrap());
    assert!(!subject.store.remove_user("alice", at(5)).await.unwrap());
    assert_eq!(subject.store.rooms_of("alice").await.unwrap(), []);
    assert_eq!(subject.store.users().await.unwrap(), []);
}

/// Many change one room while a worker resets it: each change has a version of its own.
async fn changes_at_once_are_serialised(subject: Subject) {
    subject.room("a").await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..40 {
        let store = Arc::clone(&subject.store);
        tasks.spawn(async move {
            let command = match number % 4 {
                0 => closed_until(2),
                1 => Command::SetLobby { state: 0, timer: None },
                2 => say(&number.to_string(), None),
                _reset => {
                    store.fire_due(at(3), 10, Held::PassOver, None).await.unwrap();
                    return None;
                }
            };
            let changed = store.change(&token("a"), &caller("alice"), &command, at(1)).await;
            changed.unwrap().unwrap().update.map(|update| update.version)
        });
    }
    let mut versions: Vec<i64> = tasks.join_all().await.into_iter().flatten().collect();
    versions.sort_unstable();
    let before = versions.len();
    versions.dedup();
    assert_eq!((versions.len(), before), (30, 30), "two changes have the same version");
    let room = subject.store.summary(&token("a")).await.unwrap().unwrap().room;
    assert_eq!(room.comments, 10);
    let resets = "SELECT count(*) FROM lobbyd_outbox WHERE due_at IS NOT NULL";
    let told = "SELECT count(*) FROM lobbyd_messages WHERE kind = 'lobby_timer_reached'";
    assert_eq!(subject.database.number(resets).await, subject.database.number(told).await);
}

/// Whoever joins or chats holds the room for a moment, again and again.
async fn a_busy_room_opens_all_the_same(subject: Subject) {
    subject.room("a").await;
    subject.change("a", "alice", closed_until(2)).await;
    let mut crowd = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let store = Arc::clone(&subject.store);
        crowd.spawn(async move {
            for _ in 0..25 {
                let (room, by) = (token("a"), caller("alice"));
                store.change(&room, &by, &say("hi", None), at(3)).await.unwrap().unwrap();
            }
        });
    }
    tokio::task::yield_now().await;
    let fired = subject.store.fire_due(at(4), 10, Held::Await, None).await.unwrap();
    assert_eq!(fired.events.len(), 1);
    crowd.join_all().await;
    let room = subject.store.summary(&token("a")).await.unwrap().unwrap().room;
    assert_eq!((room.lobby, room.comments), (Lobby::OPEN, 100));
}

async fn who_was_not_seen_is_found(subject: Subject) {
    subject.room("a").await;
    subject.change("a", "alice", add("bob")).await;
    for user in ["alice", "bob"] {
        subject.change("a", user, join(user)).await;
    }
    let unseen = async |seconds| {
        let unseen = subject.store.unseen_since(at(seconds), 10).await.unwrap();
        unseen.into_iter().map(|(_room, actor, _session)| actor.id).collect::<Vec<_>>()
    };
    assert_eq!(unseen(1).await, [""; 0]);
    let alice = subject.attendee("a", "alice").await.unwrap().id;
    subject.store.touch(&[alice], at(50)).await.unwrap();
    assert_eq!(unseen(40).await, ["bob"]);
    assert_eq!(unseen(51).await.len(), 2);
    subject.change("a", "bob", Command::Leave).await;
    assert_eq!(unseen(40).await, [""; 0]);
}

async fn who_has_read_is_found(subject: Subject) {
    subject.room("a").await;
    subject.change("a", "alice", add("bob")).await;
    subject.change("a", "alice", say("hello", None)).await;
    let readers = async |since: i64| {
        let readers = subject.store.read_since(at(since).timestamp()).await.unwrap();
        readers.into_iter().map(|(_room, actor)| actor.id).collect::<Vec<_>>()
    };
    assert_eq!(readers(2).await, [""; 0]);
    subject.said("a", "bob", MessageQuery { mark_read: true, ..HISTORY }).await;
    assert_eq!(readers(2).await, ["bob"]);
    assert_eq!(readers(3).await, [""; 0]);
}
