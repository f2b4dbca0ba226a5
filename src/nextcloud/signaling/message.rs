//! What a signaling server is told of a room.
//!
//! An update without its object ends the server, so no type here can be written without it. The server
//! replaces what it knows of the room by these properties, and compares their bytes: each message has
//! all of them, in one order.

use chrono::DateTime;
use serde::Serialize;

use crate::domain::Room;

/// What Talk calls a room for nobody in particular: its name is for its members.
const NAME: &str = "Private conversation";

/// Most users of one message.
const MAX_USERS: usize = 1000;

/// Largest message in bytes: the oldest servers take 64 KiB.
const MAX_BYTES: usize = 60_000;

#[derive(Serialize)]
#[serde(tag = "type", content = "update", rename_all = "lowercase")]
enum Message<'a> {
    Update(Update<'a>),
}

#[derive(Serialize)]
struct Update<'a> {
    /// The users that are told, also those outside of the room.
    userids: &'a [String],
    properties: &'a Properties<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Properties<'a> {
    name: &'static str,
    r#type: i64,
    lobby_state: i64,
    lobby_timer: Option<PhpDate>,
    read_only: i64,
    listable: i64,
    active_since: Option<PhpDate>,
    sip_enabled: i64,
    description: &'a str,
}

/// A time as PHP writes it.
#[derive(Serialize)]
struct PhpDate {
    date: String,
    timezone_type: i64,
    timezone: &'static str,
}

impl<'a> Properties<'a> {
    fn of(room: &'a Room) -> Self {
        Self {
            name: NAME,
            r#type: room.room_type.number(),
            lobby_state: room.lobby.state.number(),
            lobby_timer: room.lobby.timer.map(|timer| PhpDate::of(timer.timestamp())),
            read_only: i64::from(room.read_only),
            listable: 0,
            active_since: room.call.map(|call| PhpDate::of(call.started_at)),
            sip_enabled: room.sip.number(),
            description: &room.description,
        }
    }
}

impl PhpDate {
    fn of(seconds: i64) -> Self {
        let time = DateTime::from_timestamp(seconds, 0).unwrap_or_default();
        let date = time.format("%Y-%m-%d %H:%M:%S.000000").to_string();
        Self { date, timezone_type: 3, timezone: "UTC" }
    }
}

/// The messages about a room, at least one, each for a part of `users`.
pub(super) fn messages(room: &Room, users: &[String]) -> Vec<String> {
    let properties = Properties::of(room);
    let message = |userids: &[String]| write(Update { userids, properties: &properties });
    let budget = MAX_BYTES.saturating_sub(message(&[]).len());
    let mut messages = Vec::new();
    let mut rest = users;
    loop {
        let (part, others) = rest.split_at(fitting(rest, budget));
        messages.push(message(part));
        rest = others;
        if rest.is_empty() {
            return messages;
        }
    }
}

/// A message that changes nothing, because there is no such room.
pub(super) fn empty_message() -> String {
    let properties = Properties {
        name: NAME,
        r#type: 3,
        lobby_state: 0,
        lobby_timer: None,
        read_only: 0,
        listable: 0,
        active_since: None,
        sip_enabled: 0,
        description: "",
    };
    write(Update { userids: &[], properties: &properties })
}

fn write(update: Update<'_>) -> String {
    let message = Message::Update(update);
    serde_json::to_string(&message).expect("texts and numbers can be written as JSON")
}

/// How many of these users fit into one message, at least one if there are any.
fn fitting(users: &[String], budget: usize) -> usize {
    let mut bytes = 0;
    let fit = users.iter().take(MAX_USERS).take_while(|user| {
        bytes += serde_json::to_string(user).map_or(0, |text| text.len()) + 1;
        bytes <= budget
    });
    fit.count().max(1).min(users.len())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::domain::{Call, CallFlags, Lobby, LobbyState};

    fn users(number: usize) -> Vec<String> {
        (0..number).map(|number| format!("user{number}")).collect()
    }

    fn userids(message: &str) -> Vec<String> {
        let message: Value = serde_json::from_str(message).unwrap();
        serde_json::from_value(message["update"]["userids"].clone()).unwrap()
    }

    #[test]
    fn a_message_has_all_properties_in_the_order_of_talk() {
        let room = Room { description: String::new(), ..Room::example() };
        let users = ["alice".to_owned(), "bob".to_owned()];
        let expected = concat!(
            r#"{"type":"update","update":{"userids":["alice","bob"],"properties":{"#,
            r#""name":"Private conversation","type":3,"lobby-state":0,"lobby-timer":null,"#,
            r#""read-only":0,"listable":0,"active-since":null,"sip-enabled":0,"description":""}}}"#
        );
        assert_eq!(messages(&room, &users), [expected]);
    }

    #[test]
    fn times_are_those_of_php() {
        let timer = DateTime::from_timestamp(1_795_346_047, 0);
        let lobby = Lobby { state: LobbyState::NonModerators, timer };
        let call = Some(Call { started_at: 1_795_346_000, flags: CallFlags::IN_CALL });
        let room = Room { lobby, call, ..Room::example() };
        let [message] = &messages(&room, &[])[..] else { panic!("one message") };
        let message: Value = serde_json::from_str(message).unwrap();
        let properties = &message["update"]["properties"];
        let timer = serde_json::json!({
            "date": "2026-11-22 11:14:07.000000", "timezone_type": 3, "timezone": "UTC"
        });
        assert_eq!(properties["lobby-timer"], timer);
        assert_eq!(properties["active-since"]["date"], "2026-11-22 11:13:20.000000");
    }

    #[test]
    fn many_users_are_divided_by_number_and_by_size() {
        let room = Room::example();
        assert_eq!(messages(&room, &[]).len(), 1, "those who have joined the room are told");
        for (users, number) in [(users(2500), 3), (vec!["ü\n\u{1}".repeat(20); 1000], 4)] {
            let messages = messages(&room, &users);
            assert_eq!(messages.len(), number);
            assert!(messages.iter().all(|message| message.len() <= MAX_BYTES));
            let told: Vec<_> = messages.iter().flat_map(|message| userids(message)).collect();
            assert_eq!(told, users);
        }
    }
}
