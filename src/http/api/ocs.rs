//! The OCS envelope: every answer of the API, in JSON or in XML.
//!
//! A handler answers with a [`OcsResponse`] or a [`OcsError`]; [`render`] writes it in the form that the
//! request asks for, as Nextcloud does: JSON for `?format=json` or `Accept: application/json`, else
//! XML. What went wrong inside is logged under an id, and never sent.

use std::{fmt::Display, time::Duration};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::{
    domain::{Presence, commands::Refusal},
    logging,
    rooms::{CommandError, StoreError},
};

/// Names a request, so that an error can be searched for in the log.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The same, within the program.
#[derive(Debug, Clone)]
pub(super) struct RequestId(pub(super) String);

/// How a user logs in, RFC 7617.
const CHALLENGE: &str = "Basic realm=\"lobbyd\", charset=\"UTF-8\"";

/// How long a client should wait before it asks again while the database is away, in seconds.
const BUSY_RETRY: Duration = Duration::from_secs(2);

/// What a handler returns.
pub(super) type OcsResult = Result<OcsResponse, OcsError>;

/// An answer before it is written.
#[derive(Debug, Clone)]
pub(super) struct OcsResponse {
    status: StatusCode,
    headers: HeaderMap,
    message: String,
    data: Value,
}

impl OcsResponse {
    /// 200 with this data.
    pub(super) fn ok(data: impl Serialize) -> Self {
        Self::with(StatusCode::OK, data)
    }

    /// Another status with this data.
    pub(super) fn with(status: StatusCode, data: impl Serialize) -> Self {
        let data = serde_json::to_value(data).expect("shapes can be written as JSON");
        Self { status, headers: HeaderMap::new(), message: "OK".to_owned(), data }
    }

    /// 200 with nothing to say, which Nextcloud writes as an empty list.
    pub(super) fn done() -> Self {
        Self::ok(json!([]))
    }

    /// 304, which has no body.
    pub(super) fn not_modified() -> Self {
        Self::with(StatusCode::NOT_MODIFIED, Value::Null)
    }

    /// The same with one more header. A value that is no header's value is left out.
    pub(super) fn header(mut self, name: HeaderName, value: impl Display) -> Self {
        if let Ok(value) = HeaderValue::from_str(&format!("{value}")) {
            self.headers.append(name, value);
        }
        self
    }
}

impl IntoResponse for OcsResponse {
    /// Without a body: [`render`] writes it.
    fn into_response(mut self) -> Response {
        let mut response = self.status.into_response();
        response.headers_mut().extend(std::mem::take(&mut self.headers));
        response.extensions_mut().insert(self);
        response
    }
}

/// A refusal or a failure.
#[derive(Debug)]
pub(super) struct OcsError {
    status: StatusCode,
    message: String,
    /// Talk's word for what is wrong, or what the client needs to go on.
    data: Value,
    retry_after: Option<Duration>,
}

impl OcsError {
    /// A status with a sentence that says what is wrong.
    pub(super) fn new(status: StatusCode, message: impl Display) -> Self {
        Self { status, message: format!("{message}"), data: json!([]), retry_after: None }
    }

    /// 400: the request itself is wrong.
    pub(super) fn invalid(what: &str, message: impl Display) -> Self {
        Self { data: json!({ "error": what }), ..Self::new(StatusCode::BAD_REQUEST, message) }
    }

    /// 401.
    pub(super) fn login_needed() -> Self {
        Self::from(Refusal::LoginNeeded)
    }

    /// 429: too many passwords from this address were wrong.
    pub(super) fn throttled(wait: Duration) -> Self {
        let message = "too many wrong passwords from this address, try again later";
        Self { retry_after: Some(wait), ..Self::new(StatusCode::TOO_MANY_REQUESTS, message) }
    }

    /// 500. The log says more, under the request's id.
    fn internal(cause: &str) -> Self {
        tracing::error!(error = cause, "request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error")
    }
}

impl From<Refusal> for OcsError {
    fn from(refusal: Refusal) -> Self {
        let status = match &refusal {
            Refusal::NoRoom | Refusal::NoParticipant | Refusal::NoUser | Refusal::NotJoined => {
                StatusCode::NOT_FOUND
            }
            Refusal::LoginNeeded | Refusal::SipNotAllowed => StatusCode::UNAUTHORIZED,
            Refusal::NotModerator | Refusal::Forbidden(_) | Refusal::WrongPassword => {
                StatusCode::FORBIDDEN
            }
            Refusal::Invalid { .. } | Refusal::InvalidLobby(_) => StatusCode::BAD_REQUEST,
            Refusal::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
            Refusal::Lobby | Refusal::SipNotConfigured => StatusCode::PRECONDITION_FAILED,
            Refusal::AlreadyJoined(_) => StatusCode::CONFLICT,
        };
        let data =
            if let Refusal::AlreadyJoined(Presence { session_id, in_call, last_ping }) = &refusal {
                json!({ "sessionId": session_id, "inCall": in_call.bits(), "lastPing": last_ping })
            } else if let Some(what) = refusal.what() {
                json!({ "error": what })
            } else {
                json!([])
            };
        Self { data, ..Self::new(status, refusal) }
    }
}

impl From<CommandError> for OcsError {
    fn from(failure: CommandError) -> Self {
        match failure {
            CommandError::Refused(refusal) => refusal.into(),
            CommandError::Throttled(wait) => Self::throttled(wait),
            CommandError::Store(error) => error.into(),
        }
    }
}

impl From<StoreError> for OcsError {
    fn from(error: StoreError) -> Self {
        let cause = logging::causes(&error);
        match error {
            StoreError::Unavailable(_) | StoreError::TimedOut(_) | StoreError::Conflict { .. } => {
                tracing::warn!(error = cause, "database unavailable, request refused");
                Self {
                    retry_after: Some(BUSY_RETRY),
                    ..Self::new(
                        StatusCode::SERVICE_UNAVAILABLE,
                        "the database is not reached, try again",
                    )
                }
            }
            StoreError::Rejected(_)
            | StoreError::Unreadable(_)
            | StoreError::Corrupt(_)
            | StoreError::Migration(_)
            | StoreError::Url(_) => Self::internal(&cause),
        }
    }
}

impl IntoResponse for OcsError {
    fn into_response(self) -> Response {
        let mut headers = HeaderMap::new();
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
        }
        if let Some(wait) = self.retry_after {
            headers.insert(header::RETRY_AFTER, wait.as_secs().saturating_add(1).into());
        }
        let Self { status, message, data, .. } = self;
        OcsResponse { status, headers, message, data }.into_response()
    }
}

/// What a panic in a handler becomes.
#[expect(clippy::needless_pass_by_value, reason = "the layer hands the panic over")]
pub(super) fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response {
    let cause = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (None, Some(text)) => text.clone(),
        (None, None) => "a panic without a word".to_owned(),
    };
    OcsError::internal(&cause).into_response()
}

/// The envelope, as the document describes it.
#[derive(Serialize, ToSchema)]
pub(super) struct Ocs<T> {
    // Inline, because the name of a generic type's schema does not tell one list from another.
    #[schema(inline)]
    ocs: Envelope<T>,
}

/// Inside of the envelope.
#[derive(Serialize, ToSchema)]
pub(super) struct Envelope<T> {
    meta: Meta,
    data: T,
}

/// How it went.
#[derive(Serialize, ToSchema)]
pub(super) struct Meta {
    /// `ok` or `failure`.
    #[schema(example = "ok")]
    status: &'static str,
    /// The HTTP status; 100 for 200 under `/ocs/v1.php`.
    #[schema(example = 200)]
    statuscode: u16,
    /// For people: what is wrong and what to do about it.
    #[schema(example = "OK")]
    message: String,
}

impl<T> Ocs<T> {
    /// The envelope around `data`.
    pub(super) fn new(status: StatusCode, first_version: bool, message: String, data: T) -> Self {
        let fine = status.is_success();
        let statuscode =
            if first_version && status == StatusCode::OK { 100 } else { status.into() };
        let meta = Meta { status: if fine { "ok" } else { "failure" }, statuscode, message };
        Self { ocs: Envelope { meta, data } }
    }
}

/// The two forms of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Form {
    /// `application/json`
    Json,
    /// `application/xml`
    Xml,
}

impl Form {
    /// The form that a request asks for.
    pub(super) fn asked_for(query: Option<&str>, headers: &HeaderMap) -> Self {
        let asked = query.and_then(|query| {
            form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "format")
        });
        let json = match asked {
            Some((_, format)) => format == "json",
            None => headers
                .get_all(header::ACCEPT)
                .iter()
                .filter_map(|value| value.to_str().ok())
                .any(|value| value.contains("application/json")),
        };
        if json { Self::Json } else { Self::Xml }
    }
}

/// Writes the reply of what is inside, in the form that the request asks for.
pub(super) async fn render(request: Request, next: Next) -> Response {
    let form = Form::asked_for(request.uri().query(), request.headers());
    let first_version = request.uri().path().starts_with("/ocs/v1.php");
    let id = request.extensions().get::<RequestId>().cloned();
    let mut response = next.run(request).await;
    let Some(reply) = response.extensions_mut().remove::<OcsResponse>() else {
        return response;
    };
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("private, no-cache"));
    if reply.status == StatusCode::NOT_MODIFIED {
        return response;
    }
    let OcsResponse { status, mut message, data, .. } = reply;
    if let Some(RequestId(id)) = id.filter(|_| status.is_server_error()) {
        message = format!("{message} (request {id})");
    }
    let ocs = Ocs::new(status, first_version, message, data);
    let (media_type, body) = match form {
        Form::Json => ("application/json; charset=utf-8", json_text(&ocs)),
        Form::Xml => ("application/xml; charset=utf-8", xml_text(&ocs)),
    };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    *response.body_mut() = Body::from(body);
    response
}

pub(super) fn json_text(ocs: &Ocs<Value>) -> String {
    serde_json::to_string(ocs).expect("an envelope can be written as JSON")
}

/// The envelope in XML, with Nextcloud's conventions: members of lists are called `element`, true
/// is `1`, false and null are empty.
pub(super) fn xml_text(ocs: &Ocs<Value>) -> String {
    let Envelope { meta: Meta { status, statuscode, message }, data } = &ocs.ocs;
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 1);
    let written =
        writer.write_event(Event::Decl(BytesDecl::new("1.0", None, None))).and_then(|()| {
            writer
                .create_element("ocs")
                .write_inner_content(|writer| {
                    writer.create_element("meta").write_inner_content(|writer| {
                        write_element(writer, "status", &json!(status))?;
                        write_element(writer, "statuscode", &json!(statuscode))?;
                        write_element(writer, "message", &json!(message))
                    })?;
                    write_element(writer, "data", data)
                })
                .map(drop)
        });
    written.expect("writing to memory does not fail");
    String::from_utf8(writer.into_inner()).expect("XML of texts is a text")
}

fn write_members(writer: &mut Writer<Vec<u8>>, value: &Value) -> std::io::Result<()> {
    match value {
        Value::Object(members) => {
            members.iter().try_for_each(|(name, member)| write_element(writer, name, member))
        }
        Value::Array(members) => {
            members.iter().try_for_each(|member| write_element(writer, "element", member))
        }
        Value::Null | Value::Bool(false) => Ok(()),
        Value::Bool(true) => writer.write_event(Event::Text(BytesText::new("1"))),
        Value::Number(number) => {
            writer.write_event(Event::Text(BytesText::new(&number.to_string())))
        }
        Value::String(text) => writer.write_event(Event::Text(BytesText::new(&printable(text)))),
    }
}

fn write_element(writer: &mut Writer<Vec<u8>>, name: &str, value: &Value) -> std::io::Result<()> {
    let empty = match value {
        Value::Null | Value::Bool(false) => true,
        Value::Object(members) => members.is_empty(),
        Value::Array(members) => members.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    };
    let element = writer.create_element(name);
    if empty {
        element.write_empty()?;
    } else {
        element.write_inner_content(|writer| write_members(writer, value))?;
    }
    Ok(())
}

/// XML 1.0 has no way to write most control characters.
fn printable(text: &str) -> String {
    let allowed =
        |c: char| matches!(c, '\t' | '\n' | '\r') || c >= ' ' && c != '\u{fffe}' && c != '\u{ffff}';
    text.chars().map(|c| if allowed(c) { c } else { char::REPLACEMENT_CHARACTER }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(accept: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))])
    }

    #[test]
    fn the_form_is_that_of_the_request() {
        let none = HeaderMap::new();
        assert_eq!(Form::asked_for(None, &none), Form::Xml);
        assert_eq!(Form::asked_for(Some("a=b&format=json"), &none), Form::Json);
        assert_eq!(Form::asked_for(None, &headers("text/html, application/json")), Form::Json);
        assert_eq!(Form::asked_for(None, &headers("*/*")), Form::Xml);
        assert_eq!(Form::asked_for(Some("format=xml"), &headers("application/json")), Form::Xml);
    }

    #[test]
    fn xml_follows_nextclouds_conventions() {
        let data = json!({
            "list": [1, {"a": true}], "none": null, "no": false, "empty": [], "text": "<&\u{1}>",
        });
        let ocs = Ocs::new(StatusCode::OK, true, "OK".to_owned(), data);
        let expected = "\
<?xml version=\"1.0\"?>
<ocs>
 <meta>
  <status>ok</status>
  <statuscode>100</statuscode>
  <message>OK</message>
 </meta>
 <data>
  <empty/>
  <list>
   <element>1</element>
   <element>
    <a>1</a>
   </element>
  </list>
  <no/>
  <none/>
  <text>&lt;&amp;\u{fffd}&gt;</text>
 </data>
</ocs>";
        assert_eq!(xml_text(&ocs), expected);
    }

    #[test]
    fn refusals_have_talks_status() {
        let status = |refusal: Refusal| OcsError::from(refusal).status.as_u16();
        assert_eq!(status(Refusal::Lobby), 412);
        assert_eq!(status(Refusal::SipNotConfigured), 412);
        assert_eq!(status(Refusal::LoginNeeded), 401);
        assert_eq!(status(Refusal::NoRoom), 404);
        assert_eq!(status(Refusal::TooLong), 413);
    }
}
