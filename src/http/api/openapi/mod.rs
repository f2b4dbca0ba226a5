//! The `OpenAPI` document: generated from the handlers, and completed with what they have in
//! common.
//!
//! Handlers describe what is specific to them. This module describes the responses that many of them
//! share; how any request can fail, and what is the same for all, is in [`document`]. It adds no path
//! of its own.

mod document;

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use utoipa::openapi::schema::{Schema, SchemaType, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ObjectBuilder, RefOr};
use utoipa::{IntoResponses, Modify, OpenApi, PartialSchema, ToSchema, openapi};

use super::Routes;
use super::auth::CLIENT_COOKIE;
use super::dto::{ParticipantDto, PeerDto, RoomDto};
use super::etag::{Conditional, Tag};
use super::ocs::Ocs;

const JSON: &str = "application/json";
const XML: &str = "application/xml";
const EVENT_STREAM: &str = "text/event-stream";
const FORM: &str = "application/x-www-form-urlencoded";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "lobbyd",
        description = "Webinars: rooms with a lobby that opens on time. Paths, parameters, status \
            codes and fields are those of Nextcloud Talk's API, version 4.\n\nFor every method, \
            parameters may be sent in a JSON object, in a form, or in the query. Responses are \
            JSON for `Accept: application/json` or `?format=json`, otherwise XML. A path \
            answers methods that it does not have with 405."
    ),
    servers((url = "/", description = "This server")),
    security(("basic" = []), ("guest" = [])),
    // Those that occur only in lists.
    components(schemas(ParticipantDto, PeerDto)),
    modifiers(&SecuritySchemes)
)]
struct Base;

struct SecuritySchemes;

impl Modify for SecuritySchemes {
    fn modify(&self, document: &mut openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let basic = HttpBuilder::new().scheme(HttpAuthScheme::Basic).build();
        components.add_security_scheme("basic", SecurityScheme::Http(basic));
        let description =
            "Set when a client joins a room. With TLS, its name begins with `__Host-`.";
        let cookie = ApiKey::Cookie(ApiKeyValue::with_description(CLIENT_COOKIE, description));
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

fn failure_schema() -> Value {
    serde_json::to_value(Ocs::<FailureData>::schema()).expect("a schema has text keys")
}

/// The document as it is served.
pub(super) struct Document {
    text: Bytes,
    tag: Tag,
}

impl Document {
    /// Completes the document with what all operations have in common.
    pub(super) fn of(document: &openapi::OpenApi) -> Self {
        let generated = serde_json::to_value(document).expect("a document has text keys");
        let text = Bytes::from(document::complete(generated).to_string());
        Self { tag: Tag::of(&text), text }
    }
}

pub(super) async fn serve(
    State(document): State<Arc<Document>>,
    conditional: Conditional,
) -> Response {
    let Document { text, tag } = &*document;
    let headers = |tag| {
        [
            (header::CONTENT_TYPE, HeaderValue::from_static(JSON)),
            (header::VARY, HeaderValue::from_static("Accept-Encoding")),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
            (header::ETAG, tag),
        ]
    };
    match conditional.known(tag) {
        Some(known) => (StatusCode::NOT_MODIFIED, headers(known)).into_response(),
        None => (headers(tag.value()), text.clone()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn document() -> Value {
        let document = Document::of(&super::super::routes().into_openapi());
        serde_json::from_slice(&document.text).unwrap()
    }

    /// The value, or what it refers to.
    fn resolve<'d>(document: &'d Value, value: &'d Value) -> &'d Value {
        let pointer = value["$ref"].as_str().map(|reference| &reference[1..]);
        pointer.map_or(value, |pointer| document.pointer(pointer).unwrap())
    }

    #[test]
    fn every_response_except_a_stream_is_described_in_both_forms() {
        let document = document();
        assert_eq!(document["openapi"], "3.1.0");
        let (mut ids, mut operations, mut responses) = (BTreeSet::new(), 0, 0);
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                ids.insert(operation["operationId"].as_str().unwrap());
                operations += 1;
                for (status, response) in operation["responses"].as_object().unwrap() {
                    let has_body = status != "304";
                    let content = &resolve(&document, response)["content"];
                    if content[EVENT_STREAM]["schema"].is_object() {
                        continue;
                    }
                    assert_eq!(content[JSON]["schema"].is_object(), has_body, "{method} {path}");
                    assert_eq!(content[XML].is_object(), has_body, "{method} {path}");
                    responses += 1;
                }
            }
        }
        assert_eq!(ids.len(), operations, "operation ids are unique");
        assert!(responses > 200, "{responses}");
    }

    #[test]
    fn what_is_repeated_is_named() {
        let document = document();
        let data = |operation: &str, status: &str| {
            let pointer = format!(
                "/paths/~1ocs~1v2.php~1{}/responses/{status}/content/application~1json/schema\
                 /properties/ocs/properties/data",
                operation.replacen(' ', "/", 1)
            );
            document.pointer(&pointer).unwrap_or_else(|| panic!("{pointer}")).clone()
        };
        for (operation, status, name) in [
            ("apps~1spreed~1api~1v4~1room~1{token} get", "200", "Room"),
            ("apps~1spreed~1api~1v4~1room~1{token}~1webinar~1lobby put", "200", "Room"),
            ("apps~1spreed~1api~1v4~1room post", "201", "Room"),
            ("apps~1spreed~1api~1v1~1ban~1{token} post", "200", "Ban"),
            ("cloud~1user get", "200", "Account"),
            ("cloud~1capabilities get", "200", "Server"),
        ] {
            let reference = format!("#/components/schemas/{name}");
            assert_eq!(data(operation, status)["$ref"], reference, "{operation}");
        }
        for (operation, name) in [
            ("apps~1spreed~1api~1v4~1room get", "Room"),
            ("apps~1spreed~1api~1v4~1room~1{token}~1participants get", "Participant"),
            ("apps~1spreed~1api~1v4~1call~1{token} get", "Peer"),
            ("apps~1spreed~1api~1v1~1chat~1{token} get", "Message"),
        ] {
            let reference = format!("#/components/schemas/{name}");
            assert_eq!(data(operation, "200")["items"]["$ref"], reference, "{operation}");
        }
        let size = document.to_string().len();
        assert!(size < 100_000, "{size} bytes");
    }
}
