//! The OCS envelope, in which the API answers, in JSON or XML.
//!
//! A handler returns an [`OcsResponse`] or an [`OcsError`], both without a body. [`render`] writes
//! the body in the form that the request asks for, as Nextcloud does: JSON for `?format=json` or
//! `Accept: application/json`, otherwise XML. Nothing here knows what the data is about.

mod error;
mod xml;

use std::fmt::Display;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use headers::{Header, HeaderMapExt};
use serde::Serialize;
use serde_json::{Value, json};
use tower_http::request_id::RequestId;
use utoipa::ToSchema;

pub(super) use self::error::OcsError;

/// What a handler returns.
pub(super) type OcsResult = Result<OcsResponse, OcsError>;

/// A response before its body is written.
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
        Self::with_status(StatusCode::OK, data)
    }

    /// Another status with this data.
    pub(super) fn with_status(status: StatusCode, data: impl Serialize) -> Self {
        let data = serde_json::to_value(data).expect("the types of responses have text keys");
        Self { status, headers: HeaderMap::new(), message: "OK".to_owned(), data }
    }

    /// 200 without data, which Nextcloud writes as an empty list.
    pub(super) fn done() -> Self {
        Self::ok(json!([]))
    }

    /// 304, which has no body.
    pub(super) fn not_modified() -> Self {
        Self::with_status(StatusCode::NOT_MODIFIED, Value::Null)
    }

    /// Adds a header, unless its value cannot be one.
    pub(super) fn header(mut self, name: HeaderName, value: impl Display) -> Self {
        if let Ok(value) = HeaderValue::from_str(&value.to_string()) {
            self.headers.append(name, value);
        }
        self
    }

    pub(super) fn typed_header(mut self, header: impl Header) -> Self {
        self.headers.typed_insert(header);
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

impl Ocs<Value> {
    fn new(status: StatusCode, first_version: bool, message: String, data: Value) -> Self {
        let statuscode =
            if first_version && status == StatusCode::OK { 100 } else { status.into() };
        let status = if status.is_success() { "ok" } else { "failure" };
        Self { ocs: OcsEnvelope { meta: Meta { status, statuscode, message }, data } }
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

/// Writes the body of a response that the handlers return, in the form that the request asks for.
pub(super) async fn render(request: Request, next: Next) -> Response {
    let form = Form::of_request(request.uri().query(), request.headers());
    let first_version = request.uri().path().starts_with("/ocs/v1.php");
    let id = request.extensions().get::<RequestId>().cloned();
    let mut response = next.run(request).await;
    let Some(OcsResponse { status, mut message, data, .. }) = response.extensions_mut().remove()
    else {
        return response;
    };
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("private, no-cache"));
    if status == StatusCode::NOT_MODIFIED {
        return response;
    }
    if let Some(id) = id.filter(|_id| status.is_server_error()) {
        message = format!("{message} (request {})", id.header_value().to_str().unwrap_or_default());
    }
    let ocs = Ocs::new(status, first_version, message, data);
    let (media_type, body) = match form {
        Form::Json => ("application/json; charset=utf-8", json_text(&ocs)),
        Form::Xml => ("application/xml; charset=utf-8", xml::write(&ocs)),
    };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    *response.body_mut() = Body::from(body);
    response
}

fn json_text(ocs: &Ocs<Value>) -> String {
    serde_json::to_string(ocs).expect("an envelope has text keys")
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
