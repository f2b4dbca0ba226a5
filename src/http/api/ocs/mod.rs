//! The OCS envelope, in which the API answers, in JSON or XML.
//!
//! A handler returns an [`OcsResponse`] or an [`OcsError`], both without a body. [`Envelope`] writes
//! the body in the form that the request asks for, as Nextcloud does: JSON for `?format=json` or
//! `Accept: application/json`, otherwise XML. Nothing here knows what the data is about.

mod body;
mod error;
mod xml;

use std::borrow::Cow;
use std::fmt::Display;
use std::io;
use std::sync::Arc;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Serialize, Serializer};
use serde_json::json;
use utoipa::ToSchema;

use self::body::BodyWriter;
pub(super) use self::error::{Failure, OcsError};
use super::byte_budget::Reservation;
use crate::logging;

/// What the responses to the same path depend on.
const VARY: HeaderValue =
    HeaderValue::from_static("Accept, Accept-Encoding, Authorization, Cookie");

/// Space for the headers of a 304: most responses are one.
const NOT_MODIFIED_HEADERS: usize = 6;

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
    /// Why the request could not be executed.
    failure: Option<Failure>,
}

/// Data of any type, which is written when the form is known.
trait Data: Send + Sync {
    fn write(&self, meta: Meta, form: Form, target: &mut BodyWriter<'_>) -> io::Result<()>;
}

/// A list whose elements are made while it is written, one by one.
pub(super) trait List: Send + Sync + 'static {
    fn elements(&self) -> impl Iterator<Item = impl Serialize>;
}

/// Makes data of a list.
struct Listed<L>(L);

/// Makes JSON of a list.
struct Elements<'l, L>(&'l L);

impl<T: Serialize + Send + Sync> Data for T {
    fn write(&self, meta: Meta, form: Form, target: &mut BodyWriter<'_>) -> io::Result<()> {
        match form {
            Form::Json => write_json(target, meta, self),
            Form::Xml => xml::write(target, &meta, &serde_json::to_value(self)?),
        }
    }
}

impl<L: List> Data for Listed<L> {
    fn write(&self, meta: Meta, form: Form, target: &mut BodyWriter<'_>) -> io::Result<()> {
        match form {
            Form::Json => write_json(target, meta, Elements(&self.0)),
            Form::Xml => {
                let values = self.0.elements().map(serde_json::to_value);
                let values = values.map(|value| value.expect("elements have text keys"));
                xml::write_list(target, &meta, values)
            }
        }
    }
}

impl<L: List> Serialize for Elements<'_, L> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.elements())
    }
}

fn write_json(target: &mut BodyWriter<'_>, meta: Meta, data: impl Serialize) -> io::Result<()> {
    let envelope = Ocs { ocs: OcsEnvelope { meta, data } };
    Ok(serde_json::to_writer(target, &envelope)?)
}

impl OcsResponse {
    /// 200 with this data.
    pub(super) fn ok(data: impl Serialize + Send + Sync + 'static) -> Self {
        Self::with_status(StatusCode::OK, data)
    }

    /// 200 with this list.
    pub(super) fn list(list: impl List) -> Self {
        Self::of(StatusCode::OK, Listed(list))
    }

    /// Another status with this data.
    pub(super) fn with_status(
        status: StatusCode,
        data: impl Serialize + Send + Sync + 'static,
    ) -> Self {
        Self::of(status, data)
    }

    fn of(status: StatusCode, data: impl Data + 'static) -> Self {
        let message = Cow::Borrowed("OK");
        let content = Content { message, data: Box::new(data), failure: None };
        Self { status, headers: HeaderMap::new(), content: Some(content) }
    }

    /// 200 without data, which Nextcloud writes as an empty list.
    pub(super) fn done() -> Self {
        Self::ok(json!([]))
    }

    /// 304, which has no body.
    pub(super) fn not_modified() -> Self {
        let headers = HeaderMap::with_capacity(NOT_MODIFIED_HEADERS);
        Self { status: StatusCode::NOT_MODIFIED, headers, content: None }
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
    /// Returns why the request could not be executed.
    pub(super) fn write(
        &self,
        response: &mut Response,
        id: impl Display,
        open: impl Fn() -> Reservation,
    ) -> Option<Failure> {
        let content = response.extensions_mut().remove::<Arc<Content>>()?;
        let mut body = BodyWriter::new(&open);
        if let Err(error) = self.write_content(&content, response.status(), &id, &mut body) {
            *response = failure(&error).into_response();
            return self.write(response, id, open);
        }
        let media_type = HeaderValue::from_static(match self.form {
            Form::Json => "application/json; charset=utf-8",
            Form::Xml => "application/xml; charset=utf-8",
        });
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, media_type);
        // The router has set that of the empty body.
        headers.remove(header::CONTENT_LENGTH);
        *response.body_mut() = body.into_body();
        content.failure.clone()
    }

    fn write_content(
        &self,
        content: &Content,
        status: StatusCode,
        id: &impl Display,
        target: &mut BodyWriter<'_>,
    ) -> io::Result<()> {
        let Content { message, data, .. } = content;
        let message = if status.is_server_error() {
            format!("{message} (request {id})")
        } else {
            message.to_string()
        };
        data.write(Meta::new(status, self.first_version, message), self.form, target)
    }
}

/// What a response is replaced by that cannot be written.
fn failure(error: &io::Error) -> OcsError {
    const LIMIT: &str = "response_bytes";
    if error.kind() == io::ErrorKind::OutOfMemory {
        OcsError::overloaded(LIMIT, "too much is being sent, try again")
    } else if error.kind() == io::ErrorKind::FileTooLarge {
        OcsError::too_large(LIMIT)
    } else {
        OcsError::internal(logging::causes(error))
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
