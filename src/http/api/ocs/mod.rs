//! The OCS envelope, in which the API answers, in JSON or XML.
//!
//! A handler returns an [`OcsResponse`] or an [`OcsError`], both without a body. [`Envelope`] writes
//! the body in the form that the request asks for, as Nextcloud does: JSON for `?format=json` or
//! `Accept: application/json`, otherwise XML. Nothing here knows what the data is about.

mod error;
mod xml;

use std::borrow::Cow;
use std::fmt::Display;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

pub(super) use self::error::OcsError;
use super::byte_budget::Reservation;

/// Largest body whose memory is not counted, in bytes.
const SMALL_BODY: usize = 64 * 1024;

/// What the responses to the same path depend on.
const VARY: HeaderValue =
    HeaderValue::from_static("Accept, Accept-Encoding, Authorization, Cookie");

/// What a handler returns.
pub(super) type OcsResult = Result<OcsResponse, OcsError>;

/// A response before its body is written.
pub(super) struct OcsResponse {
    status: StatusCode,
    headers: HeaderMap,
    /// `None` for a response without a body.
    content: Option<Content>,
}

/// What the envelope contains.
struct Content {
    message: Cow<'static, str>,
    data: Box<dyn Data>,
}

/// Data of any type, which is written when the form is known.
trait Data: Send + Sync {
    fn write(&self, meta: Meta, form: Form) -> String;
}

impl<T: Serialize + Send + Sync> Data for T {
    fn write(&self, meta: Meta, form: Form) -> String {
        let ocs = Ocs { ocs: OcsEnvelope { meta, data: self } };
        match form {
            Form::Json => serde_json::to_string(&ocs),
            Form::Xml => serde_json::to_value(self).map(|data| xml::write(&ocs.ocs.meta, &data)),
        }
        .expect("the types of responses have text keys")
    }
}

impl OcsResponse {
    /// 200 with this data.
    pub(super) fn ok(data: impl Serialize + Send + Sync + 'static) -> Self {
        Self::with_status(StatusCode::OK, data)
    }

    /// Another status with this data.
    pub(super) fn with_status(
        status: StatusCode,
        data: impl Serialize + Send + Sync + 'static,
    ) -> Self {
        let content = Content { message: Cow::Borrowed("OK"), data: Box::new(data) };
        Self { status, headers: HeaderMap::new(), content: Some(content) }
    }

    /// 200 without data, which Nextcloud writes as an empty list.
    pub(super) fn done() -> Self {
        Self::ok(json!([]))
    }

    /// 304, which has no body.
    pub(super) fn not_modified() -> Self {
        Self { status: StatusCode::NOT_MODIFIED, headers: HeaderMap::new(), content: None }
    }

    /// Adds a header, unless its value cannot be one.
    pub(super) fn header(mut self, name: HeaderName, value: impl TryInto<HeaderValue>) -> Self {
        if let Ok(value) = value.try_into() {
            self.headers.append(name, value);
        }
        self
    }
}

impl IntoResponse for OcsResponse {
    /// Without a body: [`Envelope`] writes it.
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        if let Some(content) = self.content {
            response.extensions_mut().insert(Arc::new(content));
        }
        let headers = response.headers_mut();
        *headers = self.headers;
        headers.insert(header::VARY, VARY);
        let private = HeaderValue::from_static("private, no-cache");
        headers.entry(header::CACHE_CONTROL).or_insert(private);
        response
    }
}

#[derive(Serialize, ToSchema)]
pub(super) struct Ocs<T> {
    // Inline, because the names of generic schemas do not differ between lists of different types.
    #[schema(inline)]
    ocs: OcsEnvelope<T>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct OcsEnvelope<T> {
    meta: Meta,
    data: T,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Meta {
    /// `ok` or `failure`.
    #[schema(example = "ok")]
    status: &'static str,
    /// The HTTP status; 100 for 200 under `/ocs/v1.php`.
    #[schema(example = 200)]
    statuscode: u16,
    /// Text for users: what is wrong and what to do about it.
    #[schema(example = "OK")]
    message: String,
}

impl Meta {
    fn new(status: StatusCode, first_version: bool, message: String) -> Self {
        let statuscode =
            if first_version && status == StatusCode::OK { 100 } else { status.into() };
        let status = if status.is_success() { "ok" } else { "failure" };
        Self { status, statuscode, message }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Form {
    Json,
    Xml,
}

impl Form {
    /// The form that a request asks for.
    pub(super) fn of_request(query: Option<&str>, headers: &HeaderMap) -> Self {
        let format = query.and_then(|query| {
            form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "format")
        });
        let json = match format {
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

/// How the response to a request is written.
pub(super) struct Envelope {
    form: Form,
    first_version: bool,
}

impl Envelope {
    pub(super) fn of_request<B>(request: &Request<B>) -> Self {
        let uri = request.uri();
        Self {
            form: Form::of_request(uri.query(), request.headers()),
            first_version: uri.path().starts_with("/ocs/v1.php"),
        }
    }

    /// Writes the body of a response that handlers return. `id` is that of the request, and `open`
    /// the client's share of what may be sent at once: a large body occupies it until it is sent.
    pub(super) fn write(
        &self,
        response: &mut Response,
        id: impl Display,
        open: impl FnOnce() -> Reservation,
    ) {
        let Some(body) = self.body(response, &id) else { return };
        let body = if body.len() <= SMALL_BODY {
            Bytes::from(body)
        } else {
            let mut reservation = open();
            if reservation.extend(body.len()) {
                Bytes::from_owner(Reserved { body, _reservation: reservation })
            } else {
                let message = "too much is being sent, try again";
                *response = OcsError::overloaded("response_bytes", message).into_response();
                self.body(response, &id).unwrap_or_default().into()
            }
        };
        let media_type = HeaderValue::from_static(match self.form {
            Form::Json => "application/json; charset=utf-8",
            Form::Xml => "application/xml; charset=utf-8",
        });
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, media_type);
        // The router has set that of the empty body.
        headers.remove(header::CONTENT_LENGTH);
        *response.body_mut() = Body::from(body);
    }

    fn body(&self, response: &mut Response, id: &impl Display) -> Option<String> {
        let content: Arc<Content> = response.extensions_mut().remove()?;
        let Content { message, data } = &*content;
        let status = response.status();
        let message = if status.is_server_error() {
            format!("{message} (request {id})")
        } else {
            message.to_string()
        };
        Some(data.write(Meta::new(status, self.first_version, message), self.form))
    }
}

/// A body that occupies memory until its last byte is sent.
struct Reserved {
    body: String,
    _reservation: Reservation,
}

impl AsRef<[u8]> for Reserved {
    fn as_ref(&self) -> &[u8] {
        self.body.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(accept: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))])
    }

    #[test]
    fn the_request_chooses_the_form() {
        let none = HeaderMap::new();
        assert_eq!(Form::of_request(None, &none), Form::Xml);
        assert_eq!(Form::of_request(Some("a=b&format=json"), &none), Form::Json);
        assert_eq!(Form::of_request(None, &headers("text/html, application/json")), Form::Json);
        assert_eq!(Form::of_request(None, &headers("*/*")), Form::Xml);
        assert_eq!(Form::of_request(Some("format=xml"), &headers("application/json")), Form::Xml);
    }
}
