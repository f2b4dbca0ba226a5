//! The bodies of messages. No other module knows CloudEvents or parses the JSON of other programs.
//!
//! An incoming body may be anything, so its size and depth are checked before it is parsed. Every
//! error says what is wrong and what was expected: it becomes the reason of the dead letter.

use chrono::{DateTime, Utc};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::domain::{
    EventId, InvalidLobby, InvalidToken, LOBBY_CHANGED, Lobby, LobbyChange, LobbyChangedPayload,
    LobbyRequest, OutboxEvent, ROOM_UPDATED, RoomToken, RoomUpdated, TraceParent, Version,
};

/// Media type of the bodies.
pub const CLOUDEVENTS_JSON: &str = "application/cloudevents+json";

const SPECVERSION: &str = "1.0";

const DATA_JSON: &str = "application/json";

const SOURCE: &str = "lobbyd";

/// Largest body of a lobby change, in bytes: a hundred times the usual size.
pub const MAX_BODY: usize = 64 * 1024;

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

/// Why a body is not a lobby change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("body has {0} bytes, at most {MAX_BODY} are allowed")]
    TooLarge(usize),
    #[error("body is nested more than {MAX_DEPTH} levels deep")]
    TooDeep,
    /// The sender says that the body is not JSON.
    #[error("content type {0} is not supported, use {CLOUDEVENTS_JSON} or application/json")]
    ContentType(String),
    #[error("body cannot be parsed: {0}")]
    Json(String),
    /// A `CloudEvent` of another type or version.
    #[error("{attribute} {value:?} is not supported, expected {expected:?}")]
    Unsupported { attribute: &'static str, value: String, expected: &'static str },
    #[error("attribute {0} is empty")]
    Empty(&'static str),
    #[error("invalid token: {0}")]
    Token(#[from] InvalidToken),
    #[error(transparent)]
    Lobby(#[from] InvalidLobby),
    #[error("version {0} is out of range, expected milliseconds since 1970")]
    Version(i64),
}

/// A `CloudEvent` in structured JSON.
#[derive(Serialize, Deserialize)]
struct Envelope<D> {
    specversion: String,
    id: String,
    source: String,
    r#type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    time: Option<DateTime<Utc>>,
    datacontenttype: Option<String>,
    data: D,
}

/// Distinguishes a `CloudEvent` from bare data.
#[derive(Deserialize)]
struct Probe {
    #[serde(default)]
    specversion: Option<IgnoredAny>,
}

/// Parses a lobby change: a `CloudEvent`, or only its data.
pub fn parse_lobby_changed(
    body: &[u8],
    content_type: Option<&str>,
) -> Result<LobbyChange, Malformed> {
    if body.len() > MAX_BODY {
        return Err(Malformed::TooLarge(body.len()));
    }
    if nesting(body) > MAX_DEPTH {
        return Err(Malformed::TooDeep);
    }
    if is_cloudevent(content_type)? || json::<Probe>(body)?.specversion.is_some() {
        lobby_change_in(&json(body)?)
    } else {
        lobby_change(&json(body)?)
    }
}

/// Parses the data of a `CloudEvent`, whose time replaces a missing version.
fn lobby_change_in(envelope: &Envelope<Box<RawValue>>) -> Result<LobbyChange, Malformed> {
    let time = envelope.time.map(|time| time.timestamp_millis());
    let data = checked_data(envelope)?;
    lobby_change(&LobbyChangedPayload { version: data.version.or(time), ..data })
}

/// Whether the content type promises a `CloudEvent`. Without one, or with one that scripts and
/// clients send by default, the body decides.
fn is_cloudevent(content_type: Option<&str>) -> Result<bool, Malformed> {
    let full = content_type.unwrap_or_default();
    let media_type = full.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match media_type.as_str() {
        CLOUDEVENTS_JSON => Ok(true),
        "" | "application/json" | "text/json" | "text/plain" | "application/octet-stream" => {
            Ok(false)
        }
        _other => Err(Malformed::ContentType(full.to_owned())),
    }
}

fn checked_data(envelope: &Envelope<Box<RawValue>>) -> Result<LobbyChangedPayload, Malformed> {
    let expect = |attribute, value: &str, expected| {
        if value == expected {
            return Ok(());
        }
        Err(Malformed::Unsupported { attribute, value: value.to_owned(), expected })
    };
    expect("specversion", &envelope.specversion, SPECVERSION)?;
    expect("type", &envelope.r#type, LOBBY_CHANGED)?;
    if let Some(content_type) = &envelope.datacontenttype {
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        expect("datacontenttype", &media_type.to_ascii_lowercase(), DATA_JSON)?;
    }
    for (attribute, value) in [("id", &envelope.id), ("source", &envelope.source)] {
        if value.is_empty() {
            return Err(Malformed::Empty(attribute));
        }
    }
    json(envelope.data.get().as_bytes())
}

fn lobby_change(data: &LobbyChangedPayload) -> Result<LobbyChange, Malformed> {
    let version = data
        .version
        .map(|version| Version::parse(version).ok_or(Malformed::Version(version)))
        .transpose()?;
    Ok(LobbyChange {
        token: RoomToken::parse(&data.token)?,
        lobby: Lobby::parse(LobbyRequest { state: data.state, timer: data.timer })?,
        version,
    })
}

/// An event that a listener observes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    RoomUpdated(RoomUpdated),
    /// A change is on its way to a worker.
    LobbyChange(LobbyChange),
}

/// Parses an event for a listener; `None` if this version does not understand it.
pub fn parse_observed(body: &[u8]) -> Option<Observed> {
    if body.len() > MAX_BODY || nesting(body) > MAX_DEPTH {
        return None;
    }
    match json::<Envelope<Box<RawValue>>>(body) {
        Ok(envelope) if envelope.r#type == ROOM_UPDATED => {
            json(envelope.data.get().as_bytes()).ok().map(Observed::RoomUpdated)
        }
        Ok(envelope) => lobby_change_in(&envelope).ok().map(Observed::LobbyChange),
        // Only the data of a lobby change.
        Err(_) => parse_lobby_changed(body, None).ok().map(Observed::LobbyChange),
    }
}

/// Serialises a lobby change that was made at `time`, by the clock of its sender.
pub fn lobby_changed(change: &LobbyChange, id: EventId, time: DateTime<Utc>) -> Message {
    let data = LobbyChangedPayload::of(&change.token, change.lobby, change.version);
    message(id, LOBBY_CHANGED, &change.token, time, data)
}

/// Serialises an event of the outbox. Fails if its data is not JSON, in a row that another program
/// wrote.
pub fn outgoing(
    event: &OutboxEvent,
    trace: Option<TraceParent>,
) -> Result<Message, serde_json::Error> {
    let data = RawValue::from_string(event.data.clone())?;
    let (id, kind) = (event.id.clone(), &event.event_type);
    Ok(Message { trace, ..message(id, kind, &event.token, event.created_at, data) })
}

fn message(
    id: EventId,
    event_type: &str,
    token: &RoomToken,
    time: DateTime<Utc>,
    data: impl Serialize,
) -> Message {
    let envelope = Envelope {
        specversion: SPECVERSION.to_owned(),
        id: id.as_str().to_owned(),
        source: SOURCE.to_owned(),
        r#type: event_type.to_owned(),
        subject: Some(token.as_str().to_owned()),
        time: Some(time),
        datacontenttype: Some(DATA_JSON.to_owned()),
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
    use proptest::prelude::*;

    use super::*;
    use crate::domain::LobbyState;

    const JSON: Option<&str> = Some("application/json");
    const CLOUDEVENT: Option<&str> = Some("application/cloudevents+json; charset=utf-8");

    fn change(state: LobbyState, timer: Option<i64>, version: Option<i64>) -> LobbyChange {
        LobbyChange {
            token: RoomToken::parse("abc").unwrap(),
            lobby: Lobby { state, timer: timer.and_then(|s| DateTime::from_timestamp(s, 0)) },
            version: version.and_then(Version::parse),
        }
    }

    fn reason(body: &str, content_type: Option<&str>) -> String {
        parse_lobby_changed(body.as_bytes(), content_type).unwrap_err().to_string()
    }

    #[test]
    fn bare_data_is_parsed() {
        let body = br#"{"token":"abc","state":1,"timer":1767225600}"#;
        let expected = change(LobbyState::NonModerators, Some(1_767_225_600), None);
        for content_type in [JSON, None, Some("text/plain"), Some("Application/JSON; charset=x")] {
            assert_eq!(parse_lobby_changed(body, content_type), Ok(expected.clone()));
        }
    }

    #[test]
    fn no_timer_can_be_written_in_several_ways() {
        for timer in [r#","timer":null"#, r#","timer":0"#, ""] {
            let body = format!(r#"{{"token":"abc","state":1{timer},"unknown":[1]}}"#);
            let expected = change(LobbyState::NonModerators, None, None);
            assert_eq!(parse_lobby_changed(body.as_bytes(), JSON), Ok(expected));
        }
        let body = br#"{"token":"abc","state":0,"timer":1767225600}"#;
        assert_eq!(parse_lobby_changed(body, JSON), Ok(change(LobbyState::None, None, None)));
    }

    #[test]
    fn the_time_of_a_cloudevent_replaces_a_missing_version() {
        let event = |version: &str| {
            format!(
                r#"{{"specversion":"1.0","id":"1","source":"test","type":"lobby.changed.v1",
                    "time":"2026-01-01T01:00:00.25+01:00",
                    "data":{{"token":"abc","state":1{version}}}}}"#
            )
        };
        for content_type in [CLOUDEVENT, JSON, None] {
            let timed = parse_lobby_changed(event("").as_bytes(), content_type).unwrap();
            assert_eq!(timed.version, Version::parse(1_767_225_600_250));
        }
        let versioned = parse_lobby_changed(event(r#","version":7"#).as_bytes(), JSON).unwrap();
        assert_eq!(versioned.version, Version::parse(7));
    }

    #[test]
    fn a_serialised_change_can_be_parsed() {
        let change = change(LobbyState::NonModerators, Some(1_767_225_600), Some(77));
        let time = DateTime::from_timestamp(1_767_225_000, 0).unwrap();
        let message = lobby_changed(&change, EventId::stored("0199-id".to_owned()), time);
        assert_eq!(message.routing_key, "lobby.changed.abc");
        assert_eq!(parse_lobby_changed(&message.body, CLOUDEVENT), Ok(change));
    }

    #[test]
    fn an_event_of_the_outbox_becomes_a_cloudevent() {
        let event = OutboxEvent {
            id: EventId::stored("0199-id".to_owned()),
            event_type: "room.updated.v1".to_owned(),
            token: RoomToken::parse("abc").unwrap(),
            data: r#"{"token":"abc","version":5}"#.to_owned(),
            created_at: DateTime::from_timestamp_millis(1_767_225_600_004).unwrap(),
            due_at: None,
            attempt: 1,
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
    fn a_listener_observes_room_updates_and_lobby_changes() {
        let change = change(LobbyState::NonModerators, Some(1_767_225_600), None);
        let envelope = |kind: &str, data: &str| {
            format!(
                r#"{{"specversion":"1.0","id":"1","source":"test","type":"{kind}","data":{data}}}"#
            )
        };
        let bare = r#"{"token":"abc","state":1,"timer":1767225600}"#;
        let expected = Some(Observed::LobbyChange(change));
        assert_eq!(parse_observed(bare.as_bytes()), expected);
        assert_eq!(parse_observed(envelope(LOBBY_CHANGED, bare).as_bytes()), expected);

        let data = r#"{"token":"abc","type":3,"lobbyState":0,"lobbyTimer":0,"sipEnabled":0,
            "version":7,"reason":"conversation_renamed"}"#;
        let Some(Observed::RoomUpdated(update)) =
            parse_observed(envelope(ROOM_UPDATED, data).as_bytes())
        else {
            panic!("a room update was not recognised");
        };
        assert_eq!((update.token.as_str(), update.version), ("abc", 7));

        for unknown in
            [envelope(ROOM_UPDATED, bare), envelope("room.updated.v2", data), "[]".to_owned()]
        {
            assert_eq!(parse_observed(unknown.as_bytes()), None, "{unknown}");
        }
    }

    #[test]
    fn an_error_says_what_is_wrong() {
        let cases = [
            ("", "body cannot be parsed: EOF"),
            ("nonsense", "body cannot be parsed: expected an object"),
            (r#"["abc",1]"#, "expected an object"),
            (
                r#"{"specversion":"1.0","id":"1","source":"t","type":"lobby.changed.v1",
                    "data":["abc",0]}"#,
                "expected an object",
            ),
            (r#"{"state":1}"#, "missing field `token`"),
            (r#"{"token":"abc"}"#, "missing field `state`"),
            (r#"{"token":"abc","state":1,"state":0}"#, "duplicate field `state`"),
            (r#"{"token":"abc","state":"1"}"#, "invalid type: string"),
            (r#"{"token":"abc","state":2}"#, "state 2 is unknown"),
            (r#"{"token":"","state":1}"#, "a token has 1 to 32 characters"),
            (r#"{"token":"abc","state":1,"timer":1.5}"#, "invalid type: floating point"),
            (r#"{"token":"abc","state":1,"timer":-1}"#, "timer -1 is out of range"),
            (r#"{"token":"abc","state":1,"timer":1767225600000}"#, "expected seconds since 1970"),
            (r#"{"token":"abc","state":1,"version":1767225600000000}"#, "expected milliseconds"),
            (
                r#"{"specversion":"1.0","id":"1","source":"t","type":"lobby.changed.v1",
                    "time":"9999-01-01T00:00:00Z","data":{"token":"abc","state":1}}"#,
                "version 253370764800000 is out of range",
            ),
            (
                r#"{"specversion":"0.3","id":"1","source":"t","type":"lobby.changed.v1",
                    "data":{"token":"abc","state":1}}"#,
                r#"specversion "0.3" is not supported, expected "1.0""#,
            ),
            (
                r#"{"specversion":"1.0","id":"1","source":"t","type":"lobby.changed.v2",
                    "data":{"token":"abc","state":1}}"#,
                r#"type "lobby.changed.v2" is not supported, expected "lobby.changed.v1""#,
            ),
            (
                r#"{"specversion":"1.0","id":"","source":"t","type":"lobby.changed.v1",
                    "data":{"token":"abc","state":1}}"#,
                "attribute id is empty",
            ),
            (
                r#"{"specversion":"1.0","id":"1","source":"t","type":"lobby.changed.v1"}"#,
                "missing field `data`",
            ),
        ];
        for (body, expected) in cases {
            let reason = reason(body, JSON);
            assert!(reason.contains(expected), "{body}: {reason}");
        }
        let xml = reason("<token/>", Some("application/xml"));
        assert!(xml.starts_with("content type application/xml is not supported"), "{xml}");
        let large = reason(&" ".repeat(MAX_BODY + 1), JSON);
        assert_eq!(large, "body has 65537 bytes, at most 65536 are allowed");
        assert_eq!(reason(&"[".repeat(10_000), JSON), "body is nested more than 16 levels deep");
        assert!(parse_lobby_changed(&[0xff, 0xfe], JSON).is_err());
    }

    proptest! {
        /// Any body is parsed or refused, and never panics.
        #[test]
        fn any_bytes_are_refused(body in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(parse_lobby_changed(&body, JSON).is_err());
        }

        /// So is a body that is almost correct.
        #[test]
        fn a_damaged_event_is_parsed_or_refused(position in 0_usize..60, byte in any::<u8>()) {
            let mut body = br#"{"token":"abc","state":1,"timer":1767225600,"version":12}"#.to_vec();
            if let Some(place) = body.get_mut(position) {
                *place = byte;
            }
            drop(parse_lobby_changed(&body, JSON));
        }
    }
}
