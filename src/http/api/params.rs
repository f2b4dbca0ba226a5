//! Request parameters: the room's token in the path, and everything else from the query, a form or
//! a JSON object, in any of which Nextcloud's clients may send it.
//!
//! Forms and queries contain only texts, and some clients write numbers as texts in JSON as well,
//! so the deserializers accept both. A value that cannot be interpreted is refused with a message
//! that names it. What a value means, and which values a room allows, is decided by `domain`.
//! Handlers use this module through the extractors [`RoomPath`] and [`Params`].

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use utoipa::IntoParams;

use super::ocs::OcsError;
use crate::domain::RoomToken;
use crate::domain::commands::Refusal;

/// Largest body of most requests, in bytes.
const MAX_BODY: usize = 16 * 1024;

/// Largest body with a description of 2,000 characters, each encoded in twelve bytes, as JSON and
/// forms may do.
pub(super) const MAX_DESCRIPTION_BODY: usize = 32 * 1024;

/// Largest body with a chat message of 32,000 characters.
pub(super) const MAX_MESSAGE_BODY: usize = 512 * 1024;

/// The token in the path. A text that cannot be a token is answered like an unknown room.
#[derive(IntoParams)]
#[into_params(names("token"), parameter_in = Path)]
pub(super) struct RoomPath(
    /// Token of the room
    #[param(value_type = String)]
    pub(super) RoomToken,
);

impl<S: Send + Sync> FromRequestParts<S> for RoomPath {
    type Rejection = OcsError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, OcsError> {
        let path = Path::<String>::from_request_parts(parts, state).await.ok();
        let token = path.and_then(|Path(token)| RoomToken::parse(&token).ok());
        token.map(Self).ok_or_else(|| Refusal::NoRoom.into())
    }
}

/// The room's token, and the id of something in that room.
#[derive(IntoParams)]
#[into_params(names("token", "id"), parameter_in = Path)]
pub(super) struct RoomItemPath(
    /// Token of the room
    #[param(value_type = String)]
    pub(super) RoomToken,
    /// Id within the room
    pub(super) i64,
);

impl<S: Send + Sync> FromRequestParts<S> for RoomItemPath {
    type Rejection = OcsError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, OcsError> {
        let path = Path::<(String, i64)>::from_request_parts(parts, state).await.ok();
        let item =
            path.and_then(|Path((token, id))| Some(Self(RoomToken::parse(&token).ok()?, id)));
        item.ok_or_else(|| Refusal::NoRoom.into())
    }
}

/// Parameters from query and body. Where both contain one, the body takes precedence.
pub(super) struct Params<T, const MAX: usize = MAX_BODY>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync, const MAX: usize> FromRequest<S> for Params<T, MAX> {
    type Rejection = OcsError;

    async fn from_request(mut request: Request, state: &S) -> Result<Self, OcsError> {
        let mut values = Map::new();
        add_pairs(&mut values, request.uri().query().unwrap_or_default().as_bytes());
        let headers = request.headers().clone();
        DefaultBodyLimit::max(MAX).apply(&mut request);
        let body = Bytes::from_request(request, state).await.map_err(|rejection| {
            OcsError::new(rejection.status(), "the body could not be read, or is too large")
        })?;
        if !body.trim_ascii().is_empty() {
            add_body(&mut values, &headers, &body)?;
        }
        let params = serde_json::from_value(Value::Object(values));
        params.map(Self).map_err(|error| OcsError::invalid("parameters", error))
    }
}

fn add_body(
    values: &mut Map<String, Value>,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<(), OcsError> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    match media_type.to_ascii_lowercase().as_str() {
        "application/x-www-form-urlencoded" => add_pairs(values, body),
        "application/json" => match serde_json::from_slice(body) {
            Ok(Value::Object(members)) => values.extend(members),
            Ok(_) => return Err(OcsError::invalid("body", "the JSON body is not an object")),
            Err(error) => {
                return Err(OcsError::invalid("body", format!("the body is not JSON: {error}")));
            }
        },
        _other => {
            let message = "send application/json or application/x-www-form-urlencoded";
            return Err(OcsError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
        }
    }
    Ok(())
}

fn add_pairs(values: &mut Map<String, Value>, pairs: &[u8]) {
    for (key, value) in form_urlencoded::parse(pairs) {
        values.insert(key.into_owned(), Value::String(value.into_owned()));
    }
}

/// Reads a whole number, which may be written as a text.
pub(super) fn integer<'de, D: Deserializer<'de>>(value: D) -> Result<i64, D::Error> {
    whole(&Value::deserialize(value)?)?
        .ok_or_else(|| Error::custom("expected a whole number, found nothing"))
}

/// Reads an optional whole number: null and the empty text mean `None`.
pub(super) fn optional_integer<'de, D: Deserializer<'de>>(
    value: D,
) -> Result<Option<i64>, D::Error> {
    whole(&Value::deserialize(value)?)
}

fn whole<E: Error>(value: &Value) -> Result<Option<i64>, E> {
    let number = match value {
        Value::Null => return Ok(None),
        Value::String(text) if text.is_empty() => return Ok(None),
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.as_i64().or_else(|| without_fraction(number.as_f64()?)),
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    number.map(Some).ok_or_else(|| E::custom(format!("expected a whole number, found {value}")))
}

/// `5.0` is a whole number in JSON, within the range in which floats are exact.
fn without_fraction(number: f64) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.fract() != 0.0 || number.abs() > EXACT {
        return None;
    }
    format!("{number:.0}").parse().ok()
}

/// Reads true or false as Nextcloud does, also from 0, 1 and texts.
pub(super) fn flag<'de, D: Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    match Value::deserialize(value)? {
        Value::Bool(flag) => Ok(flag),
        Value::Number(number) if number.as_i64() == Some(1) => Ok(true),
        Value::Number(number) if number.as_i64() == Some(0) => Ok(false),
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "1" | "true" => Ok(true),
            "" | "0" | "false" => Ok(false),
            _other => Err(Error::custom(format!("expected true or false, found {text:?}"))),
        },
        Value::Null => Ok(false),
        other @ (Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            Err(Error::custom(format!("expected true or false, found {other}")))
        }
    }
}

/// Reads a text, which may be written as a number. NUL is refused: PostgreSQL cannot store it.
pub(super) fn text<'de, D: Deserializer<'de>>(value: D) -> Result<String, D::Error> {
    let text = match Value::deserialize(value)? {
        Value::String(text) => text,
        Value::Number(number) => number.to_string(),
        // The value may be a password, so it is not repeated.
        Value::Null => return Err(Error::custom("expected a text, found null")),
        Value::Bool(_) => return Err(Error::custom("expected a text, found true or false")),
        Value::Array(_) => return Err(Error::custom("expected a text, found an array")),
        Value::Object(_) => return Err(Error::custom("expected a text, found an object")),
    };
    if text.contains('\0') {
        return Err(Error::custom("a text cannot contain the character NUL"));
    }
    Ok(text)
}

/// As [`text`], for a text that may be absent: null means the empty text.
pub(super) fn optional_text<'de, D: Deserializer<'de>>(value: D) -> Result<String, D::Error> {
    let value = Value::deserialize(value)?;
    if value.is_null() { Ok(String::new()) } else { text(value).map_err(Error::custom) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Example {
        #[serde(deserialize_with = "integer")]
        state: i64,
        #[serde(default, deserialize_with = "optional_integer")]
        timer: Option<i64>,
        #[serde(default, deserialize_with = "flag")]
        force: bool,
        #[serde(default, deserialize_with = "optional_text")]
        name: String,
    }

    fn read(value: Value) -> Result<Example, String> {
        serde_json::from_value(value).map_err(|error: serde_json::Error| error.to_string())
    }

    #[test]
    fn texts_and_numbers_are_read_alike() {
        let expected = Example { state: 1, timer: Some(7), force: true, name: "12".to_owned() };
        for value in [
            json!({"state": 1, "timer": 7, "force": true, "name": "12"}),
            json!({"state": "1", "timer": "7", "force": "1", "name": 12}),
            json!({"state": 1.0, "timer": 7.0, "force": "true", "name": "12", "unknown": []}),
        ] {
            assert_eq!(read(value).as_ref(), Ok(&expected));
        }
        let least = Example { state: 0, timer: None, force: false, name: String::new() };
        assert_eq!(read(json!({"state": 0})).as_ref(), Ok(&least));
        assert_eq!(read(json!({"state": 0, "timer": ""})).as_ref(), Ok(&least));
    }

    #[test]
    fn values_that_cannot_be_interpreted_are_refused() {
        for value in [
            json!({}),
            json!({"state": null}),
            json!({"state": true}),
            json!({"state": "one"}),
            json!({"state": 1.5}),
            json!({"state": 1e300}),
            json!({"state": 1, "timer": "soon"}),
            json!({"state": 1, "timer": 1.5}),
            json!({"state": 1, "timer": "1.5"}),
            json!({"state": 1, "force": "perhaps"}),
            json!({"state": 1, "name": "a\u{0}b"}),
            json!({"state": 1, "name": []}),
        ] {
            assert!(read(value.clone()).is_err(), "{value}");
        }
    }

    #[test]
    fn a_required_text_is_not_null() {
        assert_eq!(text(json!("")).unwrap(), "");
        assert!(text(json!(null)).is_err());
        assert_eq!(optional_text(json!(null)).unwrap(), "");
    }

    #[test]
    fn the_body_takes_precedence_over_the_query() {
        let mut values = Map::new();
        add_pairs(&mut values, b"state=0&timer=5");
        let json = HeaderMap::from_iter([(
            header::CONTENT_TYPE,
            header::HeaderValue::from_static("application/json; charset=utf-8"),
        )]);
        add_body(&mut values, &json, br#"{"state":1}"#).unwrap();
        assert_eq!(Value::Object(values), json!({"state": 1, "timer": "5"}));
        assert!(add_body(&mut Map::new(), &json, b"[1]").is_err());
        assert!(add_body(&mut Map::new(), &HeaderMap::new(), b"a=b").is_err());
    }
}
