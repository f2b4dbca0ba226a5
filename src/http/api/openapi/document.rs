//! Completes the document that is generated from the handlers: what is the same in many operations is
//! described once, and referred to by its name.
//!
//! It works on the JSON of the document and knows no operation.

#![expect(clippy::indexing_slicing, reason = "a member that JSON does not have is null, or added")]

use serde_json::{Map, Value, json};

use super::{EVENT_STREAM, FORM, JSON, XML, failure_schema};

/// How a request can fail besides what its operation describes.
struct Failure {
    status: u16,
    name: &'static str,
    description: &'static str,
    applies: fn(&Request) -> bool,
}

/// What matters of an operation for its failures.
struct Request {
    changes: bool,
    has_body: bool,
    has_parameters: bool,
}

const FAILURES: [Failure; 10] = [
    Failure {
        status: 400,
        name: "InvalidParameter",
        description: "A parameter is missing or invalid; the message names it",
        applies: |request| request.has_body || request.has_parameters,
    },
    Failure {
        status: 401,
        name: "Unauthorized",
        description: "User or password is wrong, or the operation needs a user",
        applies: |_| true,
    },
    Failure {
        status: 403,
        name: "CrossSite",
        description: "A page of another site sent the request",
        applies: |request| request.changes,
    },
    Failure {
        status: 408,
        name: "TimedOut",
        description: "The request took too long",
        applies: |_| true,
    },
    Failure {
        status: 413,
        name: "TooLarge",
        description: "The body is too large",
        applies: |request| request.has_body,
    },
    Failure {
        status: 415,
        name: "UnsupportedMediaType",
        description: "The body is neither JSON nor a form",
        applies: |request| request.has_body,
    },
    Failure {
        status: 421,
        name: "Misdirected",
        description: "The server does not have the name that the request gives",
        applies: |_| true,
    },
    Failure {
        status: 429,
        name: "TooMany",
        description: "This client exceeds a limit, or too many wrong passwords came from its \
            address; retry after `Retry-After`",
        applies: |_| true,
    },
    Failure {
        status: 500,
        name: "Internal",
        description: "Internal error; the message contains the id under which it is logged",
        applies: |_| true,
    },
    Failure {
        status: 503,
        name: "Unavailable",
        description: "The database is unavailable, or all clients together exceed a limit; retry \
            after `Retry-After`",
        applies: |_| true,
    },
];

/// A header of responses.
struct Header {
    component: &'static str,
    name: &'static str,
    /// Which responses have it; empty for all.
    statuses: &'static [&'static str],
    description: &'static str,
}

const HEADERS: [Header; 3] = [
    Header {
        component: "RequestId",
        name: "X-Request-Id",
        statuses: &[],
        description: "Under which the server logs the request",
    },
    Header {
        component: "RetryAfter",
        name: "Retry-After",
        statuses: &["429", "503"],
        description: "Seconds after which it may be tried again",
    },
    Header {
        component: "Challenge",
        name: "WWW-Authenticate",
        statuses: &["401"],
        description: "How users log in",
    },
];

/// Completes the document.
pub(super) fn complete(mut document: Value) -> Value {
    let mut components = document["components"].take();
    let schemas = members(&mut components["schemas"]);
    // utoipa names the type of a list, without that of its elements.
    schemas.remove("Vec");
    let named = schemas.clone();
    for schema in schemas.values_mut() {
        each_child(schema, |child| refer(child, &named));
    }
    schemas.insert("Failure".to_owned(), failure_schema());
    components["parameters"] = parameters();
    components["headers"] = HEADERS.iter().map(header).collect::<Map<_, _>>().into();
    components["responses"] = FAILURES.iter().map(response).collect::<Map<_, _>>().into();
    refer(&mut document["paths"], &named);
    for item in members(&mut document["paths"]).values_mut() {
        for (method, operation) in members(item) {
            complete_operation(method, operation);
        }
    }
    document["components"] = components;
    document
}

fn complete_operation(method: &str, operation: &mut Value) {
    let request = Request {
        changes: method != "get",
        has_body: operation.get("requestBody").is_some(),
        has_parameters: operation.get("parameters").is_some(),
    };
    if request.has_body {
        // A form can contain the same as JSON; and the query can, so the body is optional.
        let body = &mut operation["requestBody"];
        body["content"][FORM] = body["content"][JSON].clone();
        body["required"] = false.into();
    }
    let mut parameters = operation["parameters"].take();
    let all = if let Value::Array(all) = &mut parameters { std::mem::take(all) } else { vec![] };
    let shared = ["Format", "OcsApiRequest"]
        .map(|name| json!({ "$ref": format!("#/components/parameters/{name}") }));
    operation["parameters"] = all.into_iter().chain(shared).collect();
    let responses = members(&mut operation["responses"]);
    for (status, response) in responses.iter_mut() {
        complete_response(status, response);
    }
    for Failure { status, name, applies, .. } in FAILURES {
        if applies(&request) {
            let reference = json!({ "$ref": format!("#/components/responses/{name}") });
            responses.entry(status.to_string()).or_insert(reference);
        }
    }
}

fn complete_response(status: &str, response: &mut Value) {
    for Header { component, name, statuses, .. } in HEADERS {
        if statuses.is_empty() || statuses.contains(&status) {
            response["headers"][name] =
                json!({ "$ref": format!("#/components/headers/{component}") });
        }
    }
    if status == "304" {
        return;
    }
    if response.get("content").is_none() {
        response["content"] =
            json!({ JSON: { "schema": { "$ref": "#/components/schemas/Failure" } } });
    }
    if response["content"].get(EVENT_STREAM).is_none() {
        response["content"][XML] = json!({});
    }
}

fn response(Failure { status, name, description, .. }: &Failure) -> (String, Value) {
    let mut response = json!({ "description": description });
    complete_response(&status.to_string(), &mut response);
    ((*name).to_owned(), response)
}

fn header(Header { component, description, .. }: &Header) -> (String, Value) {
    let header =
        json!({ "description": description, "required": true, "schema": { "type": "string" } });
    ((*component).to_owned(), header)
}

fn parameters() -> Value {
    json!({
        "Format": {
            "name": "format", "in": "query",
            "description": "Form of the response, instead of `Accept`",
            "schema": { "type": "string", "enum": ["json", "xml"] },
        },
        "OcsApiRequest": {
            "name": "OCS-APIRequest", "in": "header",
            "description": "Shows that no page of another site sends the request. In browsers, \
                other changes of such pages are refused with 403, and their other requests are \
                those of anonymous visitors",
            "schema": { "type": "string", "enum": ["true"] },
        },
    })
}

/// Replaces each copy of a named schema by a reference.
fn refer(value: &mut Value, named: &Map<String, Value>) {
    let name = named.iter().find(|(_name, schema)| *schema == value).map(|(name, _schema)| name);
    match name {
        Some(name) => *value = json!({ "$ref": format!("#/components/schemas/{name}") }),
        None => each_child(value, |child| refer(child, named)),
    }
}

fn each_child(value: &mut Value, mut change: impl FnMut(&mut Value)) {
    match value {
        Value::Object(members) => members.values_mut().for_each(&mut change),
        Value::Array(members) => members.iter_mut().for_each(&mut change),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The members of an object of the document.
fn members(value: &mut Value) -> &mut Map<String, Value> {
    value.as_object_mut().expect("the document has this object")
}
