//! The HTTP API that follows Nextcloud Talk's, version 4: what clients poll, and what moderators and
//! participants do.
//!
//! Handlers read parameters, give the service a command of the domain, and shape its answer; no rule
//! is here. The document of the API is made of the same handlers.

#![expect(
    unused_qualifications,
    reason = "utoipa's macro qualifies the types of parameters that stand next to a handler"
)]

mod auth;
mod call;
mod chat;
mod dto;
mod etag;
mod ocs;
mod openapi;
mod params;
mod participants;
mod rooms;
mod server_info;
mod webinar;

use std::{fmt::Write, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    http::{HeaderName, Method, StatusCode},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use sha2::{Digest, Sha256};
use tokio::{
    net::TcpListener,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::Instrument;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

pub use self::auth::Proxies;
use self::{
    dto::ViewerCapabilities,
    ocs::{OcsError, RequestId},
};
use super::server::{self, Limits};
use crate::{
    auth::Accounts,
    domain::{Caller, RoomToken, commands::Command},
    rooms::{Service, View},
};

/// Longest body of a request, in bytes: a chat message of 32,000 characters, each written with twelve
/// bytes, as JSON and forms may do.
const MAX_BODY: usize = 512 * 1024;

/// Longest time that a request may take, a minute of being held included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(90);

/// Names the state of the server's configuration: clients read capabilities anew when it changes.
const TALK_HASH: HeaderName = HeaderName::from_static("x-nextcloud-talk-hash");

/// What the API stands in front of.
pub struct ApiDependencies {
    /// The rooms.
    pub service: Arc<Service>,
    /// Who logs in.
    pub accounts: Arc<Accounts>,
    /// Whose headers are believed.
    pub proxies: Proxies,
}

/// What the handlers share.
#[derive(Clone)]
struct Api {
    service: Arc<Service>,
    accounts: Arc<Accounts>,
    proxies: Arc<Proxies>,
    talk_hash: Arc<str>,
}

impl Api {
    /// Gives the service a command, and answers nothing but that it was done.
    async fn command(
        &self,
        token: &RoomToken,
        caller: &Caller,
        command: Command,
    ) -> Result<(), OcsError> {
        self.service.change(token, caller, &command).await?;
        Ok(())
    }

    /// The room as the caller sees it now.
    async fn view(&self, token: &RoomToken, caller: &Caller) -> Result<View, OcsError> {
        Ok(self.service.view(token, Some(&caller.actor)).await?)
    }

    fn rights(&self, caller: Option<&Caller>) -> ViewerCapabilities {
        let may_enable = caller.is_some_and(|caller| caller.may_enable_sip);
        ViewerCapabilities { sip: self.service.sip().configured && may_enable }
    }
}

/// Serves the API on `listener` until `stop`.
///
/// # Errors
///
/// None after the listener was bound.
pub async fn serve(
    listener: TcpListener,
    front: ApiDependencies,
    limits: Limits,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let ApiDependencies { service, accounts, proxies } = front;
    let talk_hash = server_info::talk_hash(service.sip()).into();
    let api = Api { service, accounts, proxies: Arc::new(proxies), talk_hash };
    server::serve(listener, router(api), limits, stop).await
}

fn router(api: Api) -> Router {
    let (routes, document) = routes_and_document();
    routes
        .with_state(api)
        .route("/openapi.json", get(openapi::serve).with_state(Arc::from(document)))
        .fallback(async || OcsError::new(StatusCode::NOT_FOUND, "there is no such path"))
        .method_not_allowed_fallback(async || {
            OcsError::new(StatusCode::METHOD_NOT_ALLOWED, "there is no such method on this path")
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(CatchPanicLayer::custom(ocs::panicked))
        .layer(middleware::from_fn(bounded))
        .layer(middleware::from_fn(ocs::render))
        .layer(middleware::from_fn(observed))
}

/// The routes and the document of them, which cannot differ.
fn routes_and_document() -> (Router<Api>, String) {
    let (routes, document) = OpenApiRouter::with_openapi(openapi::beginning())
        .routes(routes!(rooms::list, rooms::create))
        .routes(routes!(rooms::show, rooms::rename, rooms::delete))
        .routes(routes!(rooms::describe))
        .routes(routes!(rooms::set_password))
        .routes(routes!(rooms::allow_guests, rooms::disallow_guests))
        .routes(routes!(webinar::set_lobby))
        .routes(routes!(webinar::set_sip))
        .routes(routes!(participants::list, participants::add))
        .routes(routes!(participants::join, participants::leave))
        .routes(routes!(participants::remove_self))
        .routes(routes!(participants::remove))
        .routes(routes!(participants::promote, participants::demote))
        .routes(routes!(participants::set_permissions))
        .routes(routes!(participants::name_self))
        .routes(routes!(call::peers, call::join, call::update, call::leave))
        .routes(routes!(chat::receive, chat::send))
        .routes(routes!(server_info::capabilities))
        .routes(routes!(server_info::capabilities_first_version))
        .routes(routes!(server_info::user))
        .routes(routes!(server_info::user_first_version))
        .split_for_parts();
    let document = openapi::complete(&document);
    (routes, document)
}

/// Each method that is counted apart costs memory for ever, and a client may invent any.
fn known_method(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        _other => "other",
    }
}

/// Hexadecimal digits of a SHA-256, as many as a SHA-1 has, which Talk uses in these places.
fn digest(bytes: &[u8]) -> String {
    let mut digits = String::new();
    for byte in Sha256::digest(bytes).iter().take(20) {
        write!(digits, "{byte:02x}").expect("a text takes any text");
    }
    digits
}

/// Bounds the time of a request.
async fn bounded(request: Request, next: Next) -> Response {
    match timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_elapsed) => {
            OcsError::new(StatusCode::REQUEST_TIMEOUT, "the request took too long").into_response()
        }
    }
}

/// Counts and logs a request, under an id that the answer carries.
async fn observed(mut request: Request, next: Next) -> Response {
    let id = Uuid::new_v4().to_string();
    request.extensions_mut().insert(RequestId(id.clone()));
    let method = known_method(request.method());
    let begin = Instant::now();
    let span = tracing::info_span!("request", request.id = id, http.method = method);
    let mut response = next.run(request).instrument(span.clone()).await;
    let status = response.status();
    metrics::counter!(
        crate::metrics::REQUESTS,
        "method" => method,
        "status" => status.as_str().to_owned(),
    )
    .increment(1);
    tracing::debug!(
        parent: span,
        http.status = status.as_u16(),
        seconds = begin.elapsed().as_secs_f64(),
        "request answered"
    );
    if let Ok(id) = id.parse() {
        response.headers_mut().insert(ocs::REQUEST_ID, id);
    }
    response
}
