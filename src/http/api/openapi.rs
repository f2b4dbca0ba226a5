//! The `OpenAPI` document: made of the handlers, and completed with what they have in common.
//!
//! Handlers say what is their own; every one of them can also refuse a login, be throttled, time
//! out or fail, and answers in JSON and XML. Each answer gets an example that fits its schema.

#![expect(
    clippy::indexing_slicing,
    reason = "a JSON value gives null for what is not there, and a document that lacks something is \
              found by the tests"
)]

use std::sync::Arc;

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};
use utoipa::{
    OpenApi,
    openapi::{
        self,
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use super::ocs::{self, Ocs};

/// Names of the two ways to say who one is.
const BASIC: &str = "basic";
const COOKIE: &str = "guest";

/// What any request may be answered, with what it means.
const COMMON: [(&str, &str); 8] = [
    ("400", "Parameters cannot be used: the message says which, and why"),
    ("401", "User or password is wrong, or only users may do this"),
    ("404", "There is no such path"),
    ("408", "The request took too long"),
    ("413", "The body is too large"),
    ("429", "Too many failed guesses from this address, wait as long as Retry-After says"),
    ("500", "Internal error, with an id to search the log for"),
    ("503", "The database is not reached, try again after Retry-After"),
];

/// And what any change may be answered besides.
const COMMON_TO_CHANGES: [(&str, &str); 2] = [
    ("403", "A page of another site asked for it"),
    ("415", "The body is neither JSON nor a form"),
];

#[derive(OpenApi)]
#[openapi(info(
    title = "lobbyd",
    description = "Webinars: rooms with a lobby that opens on time. Paths, parameters, status \
        codes and fields are those of Nextcloud Talk's API, version 4.\n\nParameters may stand in \
        a JSON object, in a form, or in the query, for every method. Answers are JSON for \
        `Accept: application/json` or `?format=json`, else XML."
))]
struct Beginning;

/// The document before the handlers add their paths.
pub(super) fn beginning() -> openapi::OpenApi {
    let mut document = Beginning::openapi();
    let components = document.components.get_or_insert_default();
    let basic = HttpBuilder::new().scheme(HttpAuthScheme::Basic).build();
    components.add_security_scheme(BASIC, SecurityScheme::Http(basic));
    let cookie = ApiKey::Cookie(ApiKeyValue::new("lobbyd_guest"));
    components.add_security_scheme(COOKIE, SecurityScheme::ApiKey(cookie));
    document
}

/// The document after they did, completed.
pub(super) fn complete(document: &openapi::OpenApi) -> String {
    let mut document = serde_json::to_value(document).expect("a document can be written as JSON");
    document["security"] = json!([{ BASIC: [] }, { COOKIE: [] }, {}]);
    let schemas = document["components"]["schemas"].clone();
    let paths = document["paths"].as_object_mut();
    for (path, operations) in paths.into_iter().flatten() {
        let first_version = path.starts_with("/ocs/v1.php");
        for (method, operation) in operations.as_object_mut().into_iter().flatten() {
            if let Some(body) = operation.get_mut("requestBody") {
                also_as_form(body);
            }
            let responses = operation["responses"].as_object_mut();
            let responses = responses.expect("every handler has a response");
            let changes = COMMON_TO_CHANGES.iter().filter(|_| method != "get");
            for (status, description) in COMMON.iter().chain(changes) {
                responses.entry(*status).or_insert_with(|| json!({ "description": description }));
            }
            complete_responses(responses, first_version, &schemas);
        }
    }
    serde_json::to_string(&document).expect("a document can be written as JSON")
}

/// What may stand in JSON may stand in a form; and in the query, so there need be none.
fn also_as_form(body: &mut Value) {
    let json = body["content"]["application/json"].clone();
    body["content"]["application/x-www-form-urlencoded"] = json;
    body["required"] = json!(false);
}

fn complete_responses(responses: &mut Map<String, Value>, first_version: bool, schemas: &Value) {
    for (status, response) in responses {
        let status: StatusCode = status.parse().expect("handlers name their status by number");
        if status == StatusCode::NOT_MODIFIED {
            continue;
        }
        let own = response.pointer("/content/application~1json/schema").cloned();
        let schema = own.unwrap_or_else(failure_schema);
        let description = response["description"].as_str().unwrap_or_default();
        let message = if status.is_success() { "OK" } else { description }.to_owned();
        let data = example(&resolved(&schema, schemas)["properties"]["ocs"], schemas);
        let ocs = Ocs::new(status, first_version, message, data["data"].clone());
        response["content"] = json!({
            "application/json": {
                "schema": schema,
                "example": serde_json::to_value(&ocs).unwrap_or_default(),
            },
            "application/xml": { "example": ocs::xml_text(&ocs) },
        });
    }
}

/// The envelope of a refusal. Its data is mostly empty.
fn failure_schema() -> Value {
    json!({
        "type": "object",
        "required": ["ocs"],
        "properties": { "ocs": {
            "type": "object",
            "required": ["meta", "data"],
            "properties": {
                "meta": { "$ref": "#/components/schemas/Meta" },
                "data": { "type": ["array", "object"] },
            },
        } },
    })
}

fn resolved<'s>(schema: &'s Value, schemas: &'s Value) -> &'s Value {
    match schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next()) {
        Some(name) => resolved(&schemas[name], schemas),
        None => schema,
    }
}

/// A value that fits the schema: what stands there as an example, or the least one.
fn example(schema: &Value, schemas: &Value) -> Value {
    let schema = resolved(schema, schemas);
    if let Some(example) = schema.get("example").or_else(|| schema.get("default")) {
        return example.clone();
    }
    if let Some(first) = schema["oneOf"].get(0).or_else(|| schema["allOf"].get(0)) {
        return example(first, schemas);
    }
    let kind = &schema["type"];
    match kind.get(0).unwrap_or(kind).as_str() {
        Some("object") => {
            let required = schema["required"].as_array().cloned().unwrap_or_default();
            let properties = schema["properties"].as_object().cloned().unwrap_or_default();
            properties
                .into_iter()
                .filter(|(name, _)| required.iter().any(|each| each == name))
                .map(|(name, property)| (name, example(&property, schemas)))
                .collect::<Map<_, _>>()
                .into()
        }
        Some("array") => match resolved(&schema["items"], schemas)["type"].as_str() {
            Some("object") => json!([example(&schema["items"], schemas)]),
            _plain => json!([]),
        },
        Some("string") => json!(""),
        Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or(json!(0)),
        Some("boolean") => json!(false),
        _any => json!([]),
    }
}

/// The document itself.
pub(super) async fn serve(State(document): State<Arc<str>>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], document.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_has_an_example_that_names_its_status() {
        let (_routes, document) = super::super::routes_and_document();
        let document: Value = serde_json::from_str(&document).unwrap();
        assert_eq!(document["openapi"], "3.1.0");
        let mut answers = 0;
        for (path, operations) in document["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                let body = operation.get("requestBody");
                assert!(body.is_none_or(|body| body["content"].is_object()), "{method} {path}");
                for (status, response) in operation["responses"].as_object().unwrap() {
                    let example = &response["content"]["application/json"]["example"];
                    let xml = &response["content"]["application/xml"]["example"];
                    if status == "304" {
                        assert!(response["content"].is_null(), "{method} {path} {status}");
                        continue;
                    }
                    let number: u16 = status.parse().unwrap();
                    let meta = &example["ocs"]["meta"];
                    let said =
                        if number == 200 && path.starts_with("/ocs/v1") { 100 } else { number };
                    assert_eq!(meta["statuscode"], said, "{method} {path} {example}");
                    assert!(xml.as_str().unwrap().starts_with("<?xml"), "{method} {path}");
                    answers += 1;
                }
            }
        }
        assert!(answers > 200, "{answers}");
    }

    #[test]
    fn an_example_is_made_of_its_schema() {
        let schemas = json!({ "Inner": { "type": "object", "required": ["a", "b"], "properties": {
            "a": { "type": "integer", "minimum": 1 },
            "b": { "type": "string", "example": "text" },
            "c": { "type": "string" },
        } } });
        let schema = json!({ "type": "array", "items": { "$ref": "#/components/schemas/Inner" } });
        assert_eq!(example(&schema, &schemas), json!([{ "a": 1, "b": "text" }]));
        assert_eq!(example(&json!({ "type": ["integer", "null"] }), &schemas), json!(0));
    }
}
