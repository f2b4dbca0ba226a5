//! The `OpenAPI` document: generated from the handlers, and completed with what they have in
//! common.
//!
//! Handlers describe what is specific to them. Every request can also fail because of its login,
//! its size or the server; every response exists in JSON and XML. This module describes that, and
//! the responses that many handlers share. It adds no path of its own.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use utoipa::openapi::path::Operation;
use utoipa::openapi::request_body::RequestBody;
use utoipa::openapi::schema::{Schema, SchemaType, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Content, ObjectBuilder, RefOr, Required};
use utoipa::{IntoResponses, Modify, OpenApi, PartialSchema, ToSchema, openapi};

use super::Routes;
use super::auth::CLIENT_COOKIE;
use super::dto::RoomDto;
use super::ocs::Ocs;

const JSON: &str = "application/json";
const XML: &str = "application/xml";
const FORM: &str = "application/x-www-form-urlencoded";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "lobbyd",
        description = "Webinars: rooms with a lobby that opens on time. Paths, parameters, status \
            codes and fields are those of Nextcloud Talk's API, version 4.\n\nFor every method, \
            parameters may be sent in a JSON object, in a form, or in the query. Responses are \
            JSON for `Accept: application/json` or `?format=json`, otherwise XML."
    ),
    security(("basic" = []), ("guest" = []), ()),
    modifiers(&SecuritySchemes)
)]
struct Base;

struct SecuritySchemes;

impl Modify for SecuritySchemes {
    fn modify(&self, document: &mut openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let basic = HttpBuilder::new().scheme(HttpAuthScheme::Basic).build();
        components.add_security_scheme("basic", SecurityScheme::Http(basic));
        let cookie = ApiKey::Cookie(ApiKeyValue::new(CLIENT_COOKIE));
        components.add_security_scheme("guest", SecurityScheme::ApiKey(cookie));
    }
}

/// The command was executed; the response has no data
#[derive(IntoResponses)]
#[response(status = 200)]
#[expect(dead_code, reason = "describes the body")]
pub(super) struct Done(#[to_schema] Ocs<Vec<String>>);

/// The room after the change
#[derive(IntoResponses)]
#[response(status = 200)]
#[expect(dead_code, reason = "describes the body")]
pub(super) struct RoomShown(#[to_schema] Ocs<RoomDto>);

/// There is no such room for this participant
#[derive(IntoResponses)]
#[response(status = 404)]
pub(super) struct NoRoom;

/// There is no such room for this participant, or no such attendee in it
#[derive(IntoResponses)]
#[response(status = 404)]
pub(super) struct NoAttendee;

/// There is no such room for this participant, or they have not joined it
#[derive(IntoResponses)]
#[response(status = 404)]
pub(super) struct NotJoined;

/// The participant is not a moderator
#[derive(IntoResponses)]
#[response(status = 403)]
pub(super) struct NotModerator;

/// The participant has to wait in the lobby
#[derive(IntoResponses)]
#[response(status = 412)]
pub(super) struct InLobby;

/// How any request can fail.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes responses that extractors and layers make")]
enum CommonFailure {
    /// A parameter is missing or invalid; the message names it
    #[response(status = 400)]
    InvalidParameter,
    /// User or password is wrong, or the operation needs a user
    #[response(status = 401)]
    Unauthorized,
    /// There is no such path
    #[response(status = 404)]
    NoPath,
    /// The request took too long
    #[response(status = 408)]
    TimedOut,
    /// The body is too large
    #[response(status = 413)]
    TooLarge,
    /// Too many wrong passwords came from this address; retry after `Retry-After`
    #[response(status = 429)]
    Throttled,
    /// Internal error; the message contains the id under which it is logged
    #[response(status = 500)]
    Internal,
    /// The database is unavailable; retry after `Retry-After`
    #[response(status = 503)]
    Unavailable,
}

/// How any changing request can fail, besides.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes responses that extractors and layers make")]
enum CommonFailureOfChange {
    /// A page of another site sent the request
    #[response(status = 403)]
    CrossSite,
    /// The body is neither JSON nor a form
    #[response(status = 415)]
    UnsupportedMediaType,
}

/// Details of a failure, or an empty list.
struct FailureData;

impl PartialSchema for FailureData {
    fn schema() -> RefOr<Schema> {
        let types = SchemaType::from_iter([Type::Array, Type::Object]);
        ObjectBuilder::new().schema_type(types).into()
    }
}

impl ToSchema for FailureData {}

/// The document to which the handlers add their paths.
pub(super) fn base() -> openapi::OpenApi {
    Base::openapi()
}

/// Marks routes as those of the first version of OCS: operation ids are unique in a document.
pub(super) fn for_first_version(mut routes: Routes) -> Routes {
    let items = routes.iter_mut().flat_map(|(_schemas, paths, _methods)| paths.paths.values_mut());
    for operation in items.filter_map(|item| item.get.as_mut()) {
        operation.operation_id = operation.operation_id.take().map(|id| id + "FirstVersion");
        operation.summary = operation.summary.take().map(|summary| summary + ", in OCS 1");
    }
    routes
}

/// Completes the document with what all operations have in common.
pub(super) fn complete(mut document: openapi::OpenApi) -> String {
    for item in document.paths.paths.values_mut() {
        if let Some(operation) = &mut item.get {
            complete_operation(operation);
        }
        let changes = [&mut item.post, &mut item.put, &mut item.delete];
        for operation in changes.into_iter().flatten() {
            add_responses::<CommonFailureOfChange>(operation);
            complete_operation(operation);
        }
    }
    document.to_json().expect("a document has text keys")
}

fn complete_operation(operation: &mut Operation) {
    if let Some(RefOr::T(body)) = &mut operation.request_body {
        allow_form(body);
    }
    add_responses::<CommonFailure>(operation);
    let responses = &mut operation.responses.responses;
    for (_status, response) in responses.iter_mut().filter(|(status, _)| *status != "304") {
        let RefOr::T(response) = response else { continue };
        if response.content.is_empty() {
            let failure = Content::new(Some(Ocs::<FailureData>::schema()));
            response.content.insert(JSON.to_owned(), failure.into());
        }
        response.content.insert(XML.to_owned(), Content::default().into());
    }
}

/// Adds responses with the statuses that the operation does not describe itself.
fn add_responses<R: IntoResponses>(operation: &mut Operation) {
    for (status, response) in R::responses() {
        operation.responses.responses.entry(status).or_insert(response);
    }
}

/// A form can contain the same as JSON; and the query can, so the body is optional.
fn allow_form(body: &mut RequestBody) {
    if let Some(json) = body.content.get(JSON).cloned() {
        body.content.insert(FORM.to_owned(), json);
    }
    body.required = Some(Required::False);
}

pub(super) async fn serve(State(document): State<Arc<str>>) -> Response {
    let headers = [(header::CONTENT_TYPE, JSON), (header::VARY, "Accept-Encoding")];
    (headers, document.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    #[test]
    fn every_response_is_described_in_both_forms() {
        let document = complete(super::super::routes().into_openapi());
        let document: Value = serde_json::from_str(&document).unwrap();
        assert_eq!(document["openapi"], "3.1.0");
        let (mut ids, mut operations, mut responses) = (BTreeSet::new(), 0, 0);
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                ids.insert(operation["operationId"].as_str().unwrap());
                operations += 1;
                for (status, response) in operation["responses"].as_object().unwrap() {
                    let has_body = status != "304";
                    let content = &response["content"];
                    assert_eq!(content[JSON]["schema"].is_object(), has_body, "{method} {path}");
                    assert_eq!(content[XML].is_object(), has_body, "{method} {path}");
                    responses += 1;
                }
            }
        }
        assert_eq!(ids.len(), operations, "operation ids are unique");
        assert!(responses > 200, "{responses}");
    }
}
