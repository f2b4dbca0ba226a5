//! Parses the lobby changes of other programs.
//!
//! A body may be anything, so its size, encoding and depth are checked before it is parsed. Every
//! error says what is wrong and what was expected: it becomes the reason of the dead letter.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::number::WholeNumber;
use super::{CLOUDEVENTS_JSON, DATA_JSON, MAX_DEPTH, SOURCE, SPECVERSION, json, nesting};
use crate::bus::{EventProperties, Waited};
use crate::domain::{
    ChangeOrder, DeliveryIdentity, IncomingChange, InvalidLobby, InvalidToken, LOBBY_CHANGED,
    Lobby, LobbyRequest, RoomToken, Version,
};

/// Largest body of a lobby change, in bytes: a hundred times the usual size.
pub const MAX_BODY: usize = 64 * 1024;

/// How long a message id identifies an event.
const MESSAGE_ID_LASTS: TimeDelta = TimeDelta::days(1);

/// How long a delivery may stay unacknowledged: RabbitMQ's default, after which it closes the
/// channel.
const DELIVERY_LASTS: TimeDelta = TimeDelta::minutes(30);

/// AMQP timestamps from here on count milliseconds: as seconds it would be the year 5138.
const FIRST_MILLISECONDS: i64 = 100_000_000_000;

/// Why a message is not a lobby change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("body has {0} bytes, at most {MAX_BODY} are allowed")]
    TooLarge(usize),
    #[error("body is compressed ({0}), send it uncompressed")]
    Compressed(String),
    #[error("body is UTF-16, send UTF-8")]
    Utf16,
    #[error("body is nested more than {MAX_DEPTH} levels deep")]
    TooDeep,
    /// The sender says that the body is not JSON.
    #[error("content type {0} is not supported, use {CLOUDEVENTS_JSON} or application/json")]
    ContentType(String),
    #[error(
        "binary mode of CloudEvents is not supported, use structured mode ({CLOUDEVENTS_JSON})"
    )]
    BinaryMode,
    #[error("body cannot be parsed: {0}")]
    Json(String),
    /// A `CloudEvent` of another type or version.
    #[error("{attribute} {value:?} is not supported, expected {expected:?}")]
    Unsupported { attribute: &'static str, value: String, expected: &'static str },
    #[error("attribute {0} is empty")]
    Empty(&'static str),
    /// The data of a `CloudEvent` is not an object.
    #[error("{0}, expected data as a JSON object")]
    Data(&'static str),
    #[error("invalid token: {0}")]
    Token(#[from] InvalidToken),
    #[error("routing key {key} is for another room than {token}, which the body names")]
    RoutingKey { key: String, token: RoomToken },
    #[error(transparent)]
    Lobby(#[from] InvalidLobby),
    #[error("{origin} {milliseconds} is before 1970, expected milliseconds since then")]
    BeforeEpoch { origin: &'static str, milliseconds: i64 },
    #[error(
        "event from the future: {origin} {milliseconds} (milliseconds since 1970) is {ahead} ahead \
         of the database's clock, at most {allowed} is allowed; check the clock that set it"
    )]
    FromFuture { origin: &'static str, milliseconds: i64, ahead: String, allowed: String },
}

/// The data of a lobby change.
#[derive(Deserialize)]
struct Data {
    token: String,
    state: WholeNumber,
    timer: Option<WholeNumber>,
    version: Option<WholeNumber>,
}

/// Distinguishes a `CloudEvent` from bare data.
#[derive(Deserialize)]
struct Probe {
    #[serde(default)]
    specversion: Option<IgnoredAny>,
}

/// A `CloudEvent` in structured JSON.
#[derive(Deserialize)]
struct Event {
    specversion: String,
    id: String,
    source: String,
    r#type: String,
    time: Option<DateTime<Utc>>,
    datacontenttype: Option<String>,
    data: Option<Box<RawValue>>,
    data_base64: Option<IgnoredAny>,
}

/// The times that an event may have.
struct Bounds {
    now: DateTime<Utc>,
    max_clock_skew: Duration,
}

/// Parses a lobby change that was received at `now`: a `CloudEvent`, or only its data.
pub fn parse_lobby_changed(
    body: &[u8],
    properties: &EventProperties,
    now: DateTime<Utc>,
    max_clock_skew: Duration,
) -> Result<IncomingChange, Malformed> {
    let json_body = checked_body(body, properties)?;
    let event = parse_event(json_body, properties)?;
    let data: Data = match &event {
        Some(event) => json(checked_data(event)?.get().as_bytes())?,
        None => json(json_body)?,
    };
    let token = RoomToken::parse(&data.token)?;
    check_routing_key(&properties.routing_key, &token)?;
    let timer = data.timer.map(|WholeNumber(seconds)| seconds);
    let lobby = Lobby::parse(LobbyRequest { state: data.state.0, timer })?;

    let own = event.as_ref().is_some_and(|event| event.source == SOURCE);
    let bounds = Bounds { now, max_clock_skew };
    let time = event.and_then(|event| event.time).map(|time| time.timestamp_millis());
    let (order, identity) = match (data.version, time) {
        (Some(WholeNumber(version)), _) if own => (bounds.bounded(version), None),
        (Some(WholeNumber(version)), _) => (bounds.version("version", version)?, None),
        (None, Some(time)) => (bounds.version("time", time)?, None),
        (None, None) => {
            let (order, duplicate_since) = match properties.waited {
                Some(waited) => bounds.after_waiting(waited),
                None => bounds.first_receipt(properties)?,
            };
            let key = identity_key(body, properties);
            (order, Some(DeliveryIdentity { key, duplicate_since }))
        }
    };
    Ok(IncomingChange { token, lobby, order, identity, own })
}

/// The JSON of a body, without a byte-order mark, which RFC 8259 lets a parser ignore.
fn checked_body<'a>(body: &'a [u8], properties: &EventProperties) -> Result<&'a [u8], Malformed> {
    if body.len() > MAX_BODY {
        return Err(Malformed::TooLarge(body.len()));
    }
    let json_body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    match json_body {
        [0x1f, 0x8b, ..] => return Err(Malformed::Compressed("gzip".to_owned())),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [b'{', 0, ..] | [0, b'{', ..] => {
            return Err(Malformed::Utf16);
        }
        _other => {}
    }
    let encoding = properties.content_encoding.as_deref().unwrap_or_default().to_ascii_lowercase();
    let is_compressed = matches!(
        encoding.as_str(),
        "gzip" | "x-gzip" | "deflate" | "compress" | "br" | "zstd" | "lz4" | "snappy" | "bzip2"
    );
    if is_compressed && json_body.trim_ascii_start().first() != Some(&b'{') {
        return Err(Malformed::Compressed(encoding));
    }
    if nesting(json_body) > MAX_DEPTH {
        return Err(Malformed::TooDeep);
    }
    Ok(json_body)
}

/// Parses a `CloudEvent`; `None` if the body is only the data of one.
fn parse_event(body: &[u8], properties: &EventProperties) -> Result<Option<Event>, Malformed> {
    let content_type = properties.content_type.as_deref();
    if is_cloudevent(content_type)? || json::<Probe>(body)?.specversion.is_some() {
        json(body).map(Some)
    } else if properties.binary_cloudevent {
        Err(Malformed::BinaryMode)
    } else {
        Ok(None)
    }
}

/// Whether the content type promises a `CloudEvent`. Without one, or with one that scripts and
/// clients send by default, the body decides.
fn is_cloudevent(content_type: Option<&str>) -> Result<bool, Malformed> {
    let full = content_type.unwrap_or_default();
    match media_type(full).as_str() {
        CLOUDEVENTS_JSON => Ok(true),
        "" | DATA_JSON | "text/json" | "text/plain" | "application/octet-stream" => Ok(false),
        _other => Err(Malformed::ContentType(full.to_owned())),
    }
}

fn media_type(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn checked_data(event: &Event) -> Result<&RawValue, Malformed> {
    let expect = |attribute, value: &str, expected| {
        if value == expected {
            return Ok(());
        }
        Err(Malformed::Unsupported { attribute, value: value.to_owned(), expected })
    };
    expect("specversion", &event.specversion, SPECVERSION)?;
    expect("type", &event.r#type, LOBBY_CHANGED)?;
    if let Some(content_type) = &event.datacontenttype {
        let media_type = media_type(content_type);
        if media_type != "text/json" && !media_type.ends_with("+json") {
            expect("datacontenttype", &media_type, DATA_JSON)?;
        }
    }
    for (attribute, value) in [("id", &event.id), ("source", &event.source)] {
        if value.is_empty() {
            return Err(Malformed::Empty(attribute));
        }
    }
    match &event.data {
        Some(data) if data.get().starts_with('"') => Err(Malformed::Data("data is a string")),
        Some(data) => Ok(data),
        None if event.data_base64.is_some() => Err(Malformed::Data("data_base64 is not supported")),
        None => Err(Malformed::Data("data is missing")),
    }
}

/// Checks that a sender who may publish only with the routing key of one room changes no other.
fn check_routing_key(key: &str, token: &RoomToken) -> Result<(), Malformed> {
    match key.strip_prefix("lobby.changed.") {
        Some(named) if named != token.as_str() => {
            Err(Malformed::RoutingKey { key: key.to_owned(), token: token.clone() })
        }
        Some(_) | None => Ok(()),
    }
}

impl Bounds {
    /// The latest version, by a clock that is ahead as far as it may be.
    fn latest(&self) -> i64 {
        self.now.timestamp_millis().saturating_add(self.skew())
    }

    fn skew(&self) -> i64 {
        i64::try_from(self.max_clock_skew.as_millis()).unwrap_or(i64::MAX)
    }

    fn version(&self, origin: &'static str, milliseconds: i64) -> Result<ChangeOrder, Malformed> {
        self.checked(origin, milliseconds).map(ChangeOrder::Version)
    }

    fn checked(&self, origin: &'static str, milliseconds: i64) -> Result<Version, Malformed> {
        if milliseconds > self.latest() {
            let ahead = milliseconds.abs_diff(self.now.timestamp_millis());
            let seconds = Duration::from_secs(ahead / 1000);
            return Err(Malformed::FromFuture {
                origin,
                milliseconds,
                ahead: humantime::format_duration(seconds).to_string(),
                allowed: humantime::format_duration(self.max_clock_skew).to_string(),
            });
        }
        Version::parse(milliseconds).ok_or(Malformed::BeforeEpoch { origin, milliseconds })
    }

    /// The version of a change that lobbyd has made, or has set aside. A room that another program
    /// has given a version far in the future must not make a dead letter of each of them.
    fn bounded(&self, milliseconds: i64) -> ChangeOrder {
        ChangeOrder::Version(Version::stored(milliseconds.clamp(0, self.latest())))
    }

    /// What an event had when it was set aside. The broker may have given it another timestamp. If it
    /// was no duplicate then, its version tells a repetition from an equal event that waits as well.
    fn after_waiting(&self, waited: Waited) -> (ChangeOrder, Option<DateTime<Utc>>) {
        (self.bounded(waited.version.milliseconds()), waited.duplicate_since)
    }

    /// The order of an event that does not say when the change was made, and since when an equal one
    /// makes it a duplicate: with a message id, or if the broker says that it may be one.
    fn first_receipt(
        &self,
        properties: &EventProperties,
    ) -> Result<(ChangeOrder, Option<DateTime<Utc>>), Malformed> {
        let order = self.order_of_delivery(properties)?;
        let duplicate_since = if message_id(properties).is_some() {
            Some(self.now - MESSAGE_ID_LASTS)
        } else if properties.redelivered {
            self.sent_after(order).max(Some(self.now - DELIVERY_LASTS))
        } else {
            None
        };
        Ok((order, duplicate_since))
    }

    /// By the timestamp of the broker, else by that of the sender, else by the receipt.
    fn order_of_delivery(&self, properties: &EventProperties) -> Result<ChangeOrder, Malformed> {
        let now = self.now.timestamp_millis();
        if let Some(milliseconds) = properties.broker_timestamp {
            return self.version("timestamp_in_ms", milliseconds);
        }
        match properties.timestamp.filter(|&timestamp| timestamp > 0) {
            Some(milliseconds) if milliseconds >= FIRST_MILLISECONDS => {
                self.version("timestamp", milliseconds)
            }
            Some(seconds) => {
                let begin = seconds * 1000;
                self.checked("timestamp", begin)?;
                Ok(ChangeOrder::WithinSecond {
                    estimate: Version::stored(now.clamp(begin, begin + 500)),
                    end: Version::stored(begin + 999),
                })
            }
            None => Ok(ChangeOrder::ReceivedNow(Version::stored(now))),
        }
    }

    /// The earliest time at which an event may have been sent: an equal one that was applied before
    /// it is another event.
    fn sent_after(&self, order: ChangeOrder) -> Option<DateTime<Utc>> {
        let version = match order {
            ChangeOrder::ReceivedNow(_) => return None,
            ChangeOrder::Version(version) => version.milliseconds(),
            ChangeOrder::WithinSecond { end, .. } => end.milliseconds() - 999,
        };
        DateTime::from_timestamp_millis(version.saturating_sub(self.skew()))
    }
}

/// By what a repeated delivery is recognised. The body counts even with a message id, because some
/// senders give all their messages the same one.
fn identity_key(body: &[u8], properties: &EventProperties) -> String {
    let id = message_id(properties).unwrap_or_default();
    let key = Sha256::new().chain_update(id).chain_update([0]).chain_update(body).finalize();
    let digits = key.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

fn message_id(properties: &EventProperties) -> Option<&str> {
    properties.message_id.as_deref().filter(|id| !id.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::bus::cloudevents::lobby_changed;
    use crate::domain::{EventId, LobbyState};

    const BARE: &str = r#"{"token":"abc","state":1,"timer":1767225600}"#;

    const SKEW: Duration = Duration::from_mins(1);

    /// 2026-01-01T00:00:00.5Z.
    const NOW: i64 = 1_767_225_600_500;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp_millis(NOW).unwrap()
    }

    fn json_type() -> EventProperties {
        EventProperties {
            routing_key: "lobby.changed".to_owned(),
            content_type: Some("application/json".to_owned()),
            ..EventProperties::default()
        }
    }

    fn parse(body: impl AsRef<[u8]>) -> Result<IncomingChange, Malformed> {
        parse_with(body, &json_type())
    }

    fn parse_with(
        body: impl AsRef<[u8]>,
        properties: &EventProperties,
    ) -> Result<IncomingChange, Malformed> {
        parse_lobby_changed(body.as_ref(), properties, now(), SKEW)
    }

    fn reason(body: impl AsRef<[u8]>) -> String {
        parse(body).unwrap_err().to_string()
    }

    fn order(properties: &EventProperties) -> ChangeOrder {
        parse_with(BARE, properties).unwrap().order
    }

    fn version(milliseconds: i64) -> ChangeOrder {
        ChangeOrder::Version(Version::stored(milliseconds))
    }

    fn lobby(state: LobbyState, timer: Option<i64>) -> Lobby {
        Lobby { state, timer: timer.and_then(|seconds| DateTime::from_timestamp(seconds, 0)) }
    }

    /// A `CloudEvent` with additional attributes.
    fn event(attributes: &str, data: &str) -> String {
        format!(
            r#"{{"specversion":"1.0","id":"1","source":"test","type":"lobby.changed.v1"{attributes},
                "data":{data}}}"#
        )
    }

    #[test]
    fn bare_data_is_parsed() {
        let closed = lobby(LobbyState::NonModerators, Some(1_767_225_600));
        for content_type in [None, Some("text/plain"), Some("Application/JSON; charset=x")] {
            let content_type = content_type.map(ToOwned::to_owned);
            let change =
                parse_with(BARE, &EventProperties { content_type, ..json_type() }).unwrap();
            assert_eq!((change.token.as_str(), change.lobby), ("abc", closed));
            assert_eq!(change.order, ChangeOrder::ReceivedNow(Version::stored(NOW)));
            assert!(!change.own);
        }
    }

    #[test]
    fn no_timer_can_be_written_in_several_ways() {
        for timer in [r#","timer":null"#, r#","timer":0"#, r#","timer":"0""#, ""] {
            let change = parse(format!(r#"{{"token":"abc","state":1{timer},"unknown":[1]}}"#));
            assert_eq!(change.unwrap().lobby, lobby(LobbyState::NonModerators, None));
        }
        let change = parse(r#"{"token":"abc","state":0,"timer":1767225600}"#);
        assert_eq!(change.unwrap().lobby, Lobby::OPEN);
    }

    #[test]
    fn numbers_can_be_written_in_several_ways() {
        for (state, timer, milliseconds) in [
            ("1", "1767225600", "77"),
            ("1.0", "1767225600.0", "7.7e1"),
            ("\"1\"", "\"1767225600.0\"", "\"77\""),
        ] {
            let body = format!(
                r#"{{"token":"abc","state":{state},"timer":{timer},"version":{milliseconds}}}"#
            );
            let change = parse(body).unwrap();
            assert_eq!(change.lobby, lobby(LobbyState::NonModerators, Some(1_767_225_600)));
            assert_eq!((change.order, change.identity), (version(77), None));
        }
    }

    #[test]
    fn the_time_of_a_cloudevent_replaces_a_missing_version() {
        let time = r#","time":"2026-01-01T01:00:00.25+01:00""#;
        for content_type in [CLOUDEVENTS_JSON, DATA_JSON, "text/plain", ""] {
            let content_type = Some(content_type.to_owned());
            let properties = EventProperties { content_type, ..json_type() };
            let change = parse_with(event(time, r#"{"token":"abc","state":1}"#), &properties);
            let change = change.unwrap();
            assert_eq!((change.order, change.identity), (version(1_767_225_600_250), None));
        }
        let change = parse(event(time, r#"{"token":"abc","state":1,"version":7}"#)).unwrap();
        assert_eq!(change.order, version(7));
    }

    #[test]
    fn the_broker_or_the_sender_may_say_when_a_bare_event_was_sent() {
        let stamped = EventProperties { timestamp: Some(NOW / 1000), ..json_type() };
        let within = |estimate, end| ChangeOrder::WithinSecond {
            estimate: Version::stored(estimate),
            end: Version::stored(end),
        };
        assert_eq!(order(&stamped), within(NOW, 1_767_225_600_999));
        let earlier = EventProperties { timestamp: Some(1_767_225_500), ..json_type() };
        let expected = within(1_767_225_500_500, 1_767_225_500_999);
        assert_eq!(order(&earlier), expected, "later ones of the second are newer");
        let milliseconds = EventProperties { timestamp: Some(NOW - 7), ..json_type() };
        assert_eq!(order(&milliseconds), version(NOW - 7));
        let by_broker = EventProperties { broker_timestamp: Some(NOW - 3), ..stamped };
        assert_eq!(order(&by_broker), version(NOW - 3));
        let unset = EventProperties { timestamp: Some(0), ..json_type() };
        assert_eq!(order(&unset), ChangeOrder::ReceivedNow(Version::stored(NOW)));
    }

    #[test]
    fn an_event_that_has_waited_keeps_its_order_and_identity() {
        let first = parse(BARE).unwrap().identity.unwrap();
        let time = |milliseconds| DateTime::from_timestamp_millis(milliseconds).unwrap();
        let waited = |version, duplicate_since: Option<i64>| EventProperties {
            // The broker has given it another one.
            broker_timestamp: Some(NOW),
            waited: Some(Waited {
                first_received: time(NOW - 900),
                version: Version::stored(version),
                duplicate_since: duplicate_since.map(time),
            }),
            ..json_type()
        };
        for (properties, expected, since) in [
            (waited(NOW - 950, None), NOW - 950, None),
            (waited(NOW - 950, Some(NOW - 9000)), NOW - 950, Some(NOW - 9000)),
            (waited(2 * NOW, None), NOW + 60_000, None),
        ] {
            let change = parse_with(BARE, &properties).unwrap();
            assert_eq!(change.order, version(expected));
            let identity = change.identity.unwrap();
            assert_eq!(
                (identity.key, identity.duplicate_since),
                (first.key.clone(), since.map(time))
            );
        }
    }

    #[test]
    fn a_repeated_delivery_has_the_same_identity() {
        let identity = |body, properties: &EventProperties| {
            parse_with(body, properties).unwrap().identity.unwrap()
        };
        let first = identity(BARE, &json_type());
        assert_eq!((first.key.len(), first.duplicate_since), (64, None));
        let redelivered = EventProperties { redelivered: true, ..json_type() };
        let again = identity(BARE, &redelivered);
        assert_eq!(again.key, first.key);
        assert_eq!(again.duplicate_since, Some(now() - TimeDelta::minutes(30)));
        // What was applied before an event was sent is another one.
        let stamped = EventProperties { broker_timestamp: Some(NOW - 1000), ..redelivered };
        let since = identity(BARE, &stamped).duplicate_since;
        assert_eq!(since, Some(now() - TimeDelta::seconds(61)));

        let named = EventProperties { message_id: Some("7".to_owned()), ..json_type() };
        let by_id = identity(BARE, &named);
        assert_ne!(by_id.key, first.key);
        assert_eq!(by_id.duplicate_since, Some(now() - TimeDelta::days(1)));
        let other = identity(r#"{"token":"abc","state":0}"#, &named);
        assert_ne!(other.key, by_id.key, "a constant message id");
    }

    #[test]
    fn an_event_from_the_future_is_refused() {
        let latest = NOW + 60_000;
        let versioned = |version| format!(r#"{{"token":"abc","state":1,"version":{version}}}"#);
        assert_eq!(parse(versioned(latest)).unwrap().order, version(latest));
        let reason_of = |body: String, properties: &EventProperties| {
            parse_with(body, properties).unwrap_err().to_string()
        };
        assert_eq!(
            reason(versioned(latest + 1)),
            "event from the future: version 1767225660501 (milliseconds since 1970) is 1m ahead of \
             the database's clock, at most 1m is allowed; check the clock that set it"
        );
        let found = reason(event(r#","time":"9999-01-01T00:00:00Z""#, BARE));
        assert!(found.starts_with("event from the future: time 253370764800000"), "{found}");
        let stamped = EventProperties { timestamp: Some(NOW / 1000 + 61), ..json_type() };
        let found = reason_of(BARE.to_owned(), &stamped);
        assert!(found.contains("timestamp 1767225661000"), "{found}");
        let stamped = EventProperties { broker_timestamp: Some(latest + 1), ..json_type() };
        let found = reason_of(BARE.to_owned(), &stamped);
        assert!(found.contains("timestamp_in_ms 1767225660501"), "{found}");
    }

    #[test]
    fn lobbyds_own_change_is_never_from_the_future() {
        let own = |version: i64| {
            event("", &format!(r#"{{"token":"abc","state":1,"version":{version}}}"#))
                .replace(r#""source":"test""#, r#""source":"lobbyd""#)
        };
        let change = parse(own(100_000_000_000_000)).unwrap();
        assert_eq!((change.own, change.order), (true, version(NOW + 60_000)));
        assert_eq!(parse(own(7)).unwrap().order, version(7));
    }

    #[test]
    fn a_routing_key_names_the_room_of_the_body() {
        let with_key = |key: &str| {
            parse_with(BARE, &EventProperties { routing_key: key.to_owned(), ..json_type() })
        };
        for key in ["lobby.changed", "lobby.changed.abc", "lobbyd.lobby-changed", ""] {
            assert!(with_key(key).is_ok(), "{key}");
        }
        for key in ["lobby.changed.", "lobby.changed.abd", "lobby.changed.abc.d"] {
            let found = with_key(key).unwrap_err().to_string();
            assert!(
                found.ends_with("is for another room than abc, which the body names"),
                "{found}"
            );
        }
    }

    #[test]
    fn a_serialised_change_can_be_parsed() {
        let lobby = lobby(LobbyState::NonModerators, Some(1_767_225_600));
        let id = EventId::stored("0199-id".to_owned());
        let token = RoomToken::parse("abc").unwrap();
        let message = lobby_changed(&token, lobby, now(), id);
        assert_eq!(message.routing_key, "lobby.changed.abc");
        let properties = EventProperties {
            routing_key: message.routing_key,
            content_type: Some(format!("{CLOUDEVENTS_JSON}; charset=utf-8")),
            ..EventProperties::default()
        };
        let change = parse_with(&message.body, &properties).unwrap();
        assert!(!change.own, "a worker has yet to apply it");
        assert_eq!((change.token, change.lobby, change.order), (token, lobby, version(NOW)));
    }

    #[test]
    fn an_encoding_is_understood_or_named() {
        let marked = [b"\xef\xbb\xbf", BARE.as_bytes()].concat();
        assert!(parse(&marked).is_ok());
        let named = |encoding: &str| EventProperties {
            content_encoding: Some(encoding.to_owned()),
            ..json_type()
        };
        assert!(parse_with(BARE, &named("utf-8")).is_ok());
        assert!(parse_with(BARE, &named("gzip")).is_ok(), "the body is not compressed");
        assert_eq!(
            reason(b"\x1f\x8b\x08\0\0\0\0\0"),
            "body is compressed (gzip), send it uncompressed"
        );
        let deflated = parse_with(b"\x78\x9c\xab", &named("deflate")).unwrap_err().to_string();
        assert_eq!(deflated, "body is compressed (deflate), send it uncompressed");
        for utf16 in ["\u{feff}{", "{"] {
            let body: Vec<u8> = utf16.encode_utf16().flat_map(u16::to_le_bytes).collect();
            assert_eq!(reason(&body), "body is UTF-16, send UTF-8");
        }
    }

    #[test]
    fn binary_mode_is_refused() {
        let binary = EventProperties { binary_cloudevent: true, ..json_type() };
        assert_eq!(
            parse_with(BARE, &binary).unwrap_err().to_string(),
            "binary mode of CloudEvents is not supported, use structured mode \
             (application/cloudevents+json)"
        );
        assert!(parse_with(event("", BARE), &binary).is_ok(), "structured as well");
    }

    #[test]
    fn an_error_says_what_is_wrong() {
        let cases = [
            ("", "body cannot be parsed: EOF"),
            ("nonsense", "body cannot be parsed: expected an object"),
            (r#"["abc",1]"#, "expected an object"),
            (r#"{"state":1}"#, "missing field `token`"),
            (r#"{"token":"abc"}"#, "missing field `state`"),
            (r#"{"token":"abc","state":1,"state":0}"#, "duplicate field `state`"),
            (r#"{"token":"abc","state":"x"}"#, r#""x" is not a whole number"#),
            (r#"{"token":"abc","state":true}"#, "expected a whole number"),
            (r#"{"token":"abc","state":2}"#, "state 2 is unknown"),
            (r#"{"token":"","state":1}"#, "a token has 1 to 32 characters"),
            (r#"{"token":"abc","state":1,"timer":1.5}"#, "1.5 is not a whole number"),
            (r#"{"token":"abc","state":1,"timer":"1.5"}"#, "1.5 is not a whole number"),
            (r#"{"token":"abc","state":1,"timer":1e30}"#, "is too large"),
            (r#"{"token":"abc","state":1,"timer":-1}"#, "timer -1 is out of range"),
            (r#"{"token":"abc","state":1,"timer":1767225600000}"#, "expected seconds since 1970"),
            (
                r#"{"token":"abc","state":1,"version":1767225600000000}"#,
                "version 1767225600000000 (milliseconds since 1970)",
            ),
            (r#"{"token":"abc","state":1,"version":-1}"#, "version -1 is before 1970"),
        ];
        for (body, expected) in cases {
            let reason = reason(body);
            assert!(reason.contains(expected), "{body}: {reason}");
        }
        let xml = EventProperties {
            content_type: Some("application/xml".to_owned()),
            ..EventProperties::default()
        };
        let xml = parse_with("<token/>", &xml).unwrap_err().to_string();
        assert!(xml.starts_with("content type application/xml is not supported"), "{xml}");
        let large = reason(" ".repeat(MAX_BODY + 1));
        assert_eq!(large, "body has 65537 bytes, at most 65536 are allowed");
        assert_eq!(reason("[".repeat(10_000)), "body is nested more than 16 levels deep");
        assert!(parse([0x80]).is_err());
    }

    #[test]
    fn an_error_says_what_is_wrong_with_a_cloudevent() {
        let valid = event("", BARE);
        for content_type in ["application/vnd.acme+json", "text/json", "application/JSON; x=y"] {
            let attribute = format!(r#","datacontenttype":"{content_type}""#);
            assert!(parse(event(&attribute, BARE)).is_ok(), "{content_type}");
        }
        let data = format!(r#""data":{BARE}"#);
        let cases = [
            (r#""1.0""#, r#""0.3""#, r#"specversion "0.3" is not supported, expected "1.0""#),
            (
                "lobby.changed.v1",
                "lobby.changed.v2",
                r#"type "lobby.changed.v2" is not supported, expected "lobby.changed.v1""#,
            ),
            (r#""id":"1""#, r#""id":"""#, "attribute id is empty"),
            (r#""source":"test""#, r#""source":"""#, "attribute source is empty"),
            (&data, r#""data":["abc",0]"#, "expected an object"),
            (&data, r#""data":"{}""#, "data is a string, expected data as a JSON object"),
            (&data, r#""data_base64":"e30=""#, "data_base64 is not supported, expected data"),
            (&data, r#""more":1"#, "data is missing"),
        ];
        for (part, replacement, expected) in cases {
            let body = valid.replace(part, replacement);
            assert_ne!(body, valid, "{part}");
            let reason = reason(&body);
            assert!(reason.contains(expected), "{body}: {reason}");
        }
        let xml = reason(event(r#","datacontenttype":"text/xml""#, BARE));
        assert!(xml.starts_with(r#"datacontenttype "text/xml" is not supported"#), "{xml}");
    }

    proptest! {
        /// Any body is parsed or refused, and never panics.
        #[test]
        fn any_bytes_are_refused(body in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(parse(&body).is_err());
        }

        /// So is a body that is almost correct.
        #[test]
        fn a_damaged_event_is_parsed_or_refused(position in 0_usize..60, byte in any::<u8>()) {
            let mut body = br#"{"token":"abc","state":1,"timer":1767225600,"version":12}"#.to_vec();
            if let Some(place) = body.get_mut(position) {
                *place = byte;
            }
            drop(parse(&body));
        }

        /// Whatever a message says, no accepted order is later than the clock and its skew, up to
        /// the end of a second.
        #[test]
        fn no_order_is_far_in_the_future(
            timestamp in prop::option::of(0_i64..2 * NOW),
            broker_timestamp in prop::option::of(0_i64..2 * NOW),
            waited in prop::option::of(0_i64..2 * NOW),
        ) {
            let waited = waited.map(|version| Waited {
                first_received: now(),
                version: Version::stored(version),
                duplicate_since: None,
            });
            let properties =
                EventProperties { timestamp, broker_timestamp, waited, ..json_type() };
            if let Ok(change) = parse_with(BARE, &properties) {
                prop_assert!(change.order.version().milliseconds() < NOW + 61_000);
            }
        }
    }
}
