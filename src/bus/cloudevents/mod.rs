//! The bodies of messages. No other module knows CloudEvents or parses the JSON of other programs.

mod incoming;
mod number;

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use self::incoming::{MAX_BODY, Malformed, parse_lobby_changed};
use crate::domain::{
    EventId, LOBBY_CHANGED, Lobby, LobbyChangedPayload, OutboxEvent, ROOM_UPDATED, RoomToken,
    RoomUpdated, TraceParent, Version,
};

/// Media type of the bodies.
pub const CLOUDEVENTS_JSON: &str = "application/cloudevents+json";

const SPECVERSION: &str = "1.0";

const DATA_JSON: &str = "application/json";

/// Source of what lobbyd has done to a room.
const SOURCE: &str = "lobbyd";

/// Source of the events of its command line, which a worker has yet to apply.
const COMMAND_SOURCE: &str = "lobbyd/publish";

/// Deepest nesting of a body: attributes and data need two levels, extensions some more.
const MAX_DEPTH: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// CloudEvents id, also the AMQP message id.
    pub id: EventId,
    /// CloudEvents type, also the AMQP type.
    pub event_type: String,
    pub routing_key: String,
    /// A `CloudEvent` in structured JSON.
    pub body: Vec<u8>,
    /// The span of its publication.
    pub trace: Option<TraceParent>,
}

/// A `CloudEvent` in structured JSON.
#[derive(Serialize)]
struct Envelope<'a, D> {
    specversion: &'static str,
    id: &'a str,
    source: &'static str,
    r#type: &'a str,
    subject: &'a str,
    time: DateTime<Utc>,
    datacontenttype: &'static str,
    data: D,
}

/// The part of an envelope that says what the data is.
#[derive(Deserialize)]
struct Typed<'a> {
    r#type: String,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// Parses a room update for a listener; `None` if this version does not understand it.
pub fn parse_room_updated(body: &[u8]) -> Option<RoomUpdated> {
    if body.len() > MAX_BODY || nesting(body) > MAX_DEPTH {
        return None;
    }
    let event: Typed<'_> = serde_json::from_slice(body).ok()?;
    if event.r#type == ROOM_UPDATED { serde_json::from_str(event.data.get()).ok() } else { None }
}

/// Serialises a lobby change that the command line made at `time`, which is its version.
pub fn lobby_changed(token: &RoomToken, lobby: Lobby, time: DateTime<Utc>, id: EventId) -> Message {
    let data = LobbyChangedPayload::of(token, lobby, Some(Version::of(time)));
    message(id, LOBBY_CHANGED, COMMAND_SOURCE, token, time, data)
}

/// Serialises an event of the outbox. Fails if its data is not JSON, in a row that another program
/// wrote.
pub fn outgoing(
    event: &OutboxEvent,
    trace: Option<TraceParent>,
) -> Result<Message, serde_json::Error> {
    let data: &RawValue = serde_json::from_str(&event.data)?;
    let (id, kind) = (event.id.clone(), &event.event_type);
    Ok(Message { trace, ..message(id, kind, SOURCE, &event.token, event.created_at, data) })
}

fn message(
    id: EventId,
    event_type: &str,
    source: &'static str,
    token: &RoomToken,
    time: DateTime<Utc>,
    data: impl Serialize,
) -> Message {
    let envelope = Envelope {
        specversion: SPECVERSION,
        id: id.as_str(),
        source,
        r#type: event_type,
        subject: token.as_str(),
        time,
        datacontenttype: DATA_JSON,
        data,
    };
    let body =
        serde_json::to_vec(&envelope).expect("an envelope of strings can be written as JSON");
    // "room.updated.v1" of room abc goes to room.updated.abc.
    let kind = event_type.rsplit_once(".v").map_or(event_type, |(kind, _version)| kind);
    let routing_key = format!("{kind}.{token}");
    Message { id, event_type: event_type.to_owned(), routing_key, body, trace: None }
}

/// Parses an object. (serde would accept an array as well, by the order of the fields.)
fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Malformed> {
    match body.trim_ascii_start().first() {
        None | Some(b'{') => {}
        Some(_) => return Err(Malformed::Json("expected an object".to_owned())),
    }
    serde_json::from_slice(body).map_err(|error| Malformed::Json(error.to_string()))
}

/// The depth of nested brackets, found without parsing anything but strings.
fn nesting(body: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for &byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Reason;

    #[test]
    fn an_event_of_the_outbox_becomes_a_cloudevent() {
        let event = OutboxEvent {
            id: EventId::stored("0199-id".to_owned()),
            event_type: "room.updated.v1".to_owned(),
            token: RoomToken::parse("abc").unwrap(),
            data: r#"{"token":"abc","version":5}"#.to_owned(),
            created_at: DateTime::from_timestamp_millis(1_767_225_600_004).unwrap(),
            due_at: None,
        };
        let message = outgoing(&event, None).unwrap();
        assert_eq!(message.routing_key, "room.updated.abc");
        assert!(outgoing(&OutboxEvent { data: "garbage".to_owned(), ..event }, None).is_err());
        let body: serde_json::Value = serde_json::from_slice(&message.body).unwrap();
        let expected = serde_json::json!({
            "specversion": "1.0", "id": "0199-id", "source": "lobbyd", "type": "room.updated.v1",
            "subject": "abc", "time": "2026-01-01T00:00:00.004Z",
            "datacontenttype": "application/json", "data": {"token": "abc", "version": 5},
        });
        assert_eq!(body, expected);
    }

    #[test]
    fn a_listener_understands_room_updates_alone() {
        let envelope = |kind: &str, data: &str| {
            format!(
                r#"{{"specversion":"1.0","id":"1","source":"test","type":"{kind}","data":{data}}}"#
            )
        };
        let data = r#"{"token":"abc","type":3,"lobbyState":0,"lobbyTimer":0,"sipEnabled":0,
            "version":7,"reason":"conversation_renamed"}"#;
        let update = parse_room_updated(envelope(ROOM_UPDATED, data).as_bytes()).unwrap();
        assert_eq!((update.token.as_str(), update.version), ("abc", 7));
        assert_eq!(update.reason, Reason::ConversationRenamed);

        let bare = r#"{"token":"abc","state":1}"#;
        for unknown in [
            envelope(ROOM_UPDATED, bare),
            envelope(LOBBY_CHANGED, bare),
            envelope("room.updated.v2", data),
            bare.to_owned(),
            "[]".to_owned(),
            format!("{}{}", " ".repeat(MAX_BODY), envelope(ROOM_UPDATED, data)),
        ] {
            assert_eq!(parse_room_updated(unknown.as_bytes()), None, "{unknown}");
        }
    }
}
