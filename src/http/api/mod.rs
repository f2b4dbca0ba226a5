//! The HTTP API, which follows version 4 of Nextcloud Talk's: what clients poll, and what
//! moderators and participants do.
//!
//! Handlers read parameters, pass a command or a query of the domain to the service, and convert
//! its result to Talk's JSON; no rule is here. Each file of handlers has its `routes()`, from which
//! the `OpenAPI` document is generated as well. [`app`](crate::app) calls [`serve`].

#![expect(
    unused_qualifications,
    reason = "utoipa's macro qualifies the types of parameters that stand next to a handler"
)]

mod auth;
mod byte_budget;
mod call;
mod chat;
mod compression;
mod dto;
mod etag;
mod events;
mod header_names;
mod hosts;
mod middleware;
mod moderation;
mod ocs;
mod openapi;
mod origins;
mod params;
mod participants;
mod proxies;
mod request_body;
mod request_metrics;
mod response_layer;
mod rooms;
mod server_info;
mod unsupported;
mod waiting_room;
mod webinar;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderValue, StatusCode};
use axum::routing::get;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use utoipa::openapi::Paths;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

use self::dto::RoomDto;
pub use self::hosts::Hosts;
pub use self::middleware::Memory;
use self::ocs::{OcsError, OcsResponse, OcsResult};
pub use self::origins::Origins;
pub use self::proxies::{Proxies, UserHeader};
use self::request_metrics::RequestMetrics;
use super::connections::Limits;
use super::pages::{JoinUrl, Page};
use super::server;
use crate::auth::{Accounts, ClientSecrets};
use crate::cache::View;
use crate::domain::commands::Command;
use crate::domain::{Caller, RoomToken, ViewerContext};
use crate::rooms::RoomService;

/// How long a connection stays open without a request, or with an incomplete header: longer than
/// proxies keep theirs open, which would otherwise send a request on a connection that is closed.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// Path of the description of the API.
const OPENAPI: &str = "/openapi.json";

/// What the API needs from the rest of the process.
pub struct ApiDependencies {
    pub service: Arc<RoomService>,
    pub accounts: Arc<Accounts>,
    pub clients: ClientSecrets,
    pub proxies: Proxies,
    pub hosts: Hosts,
    pub origins: Origins,
    pub memory: Memory,
    /// Where the waiting room leads.
    pub join_url: Option<JoinUrl>,
}

/// The routes of one file, with their descriptions for the `OpenAPI` document.
type Routes = Vec<UtoipaMethodRouter<Api>>;

type Api = Arc<Shared>;

/// What the handlers share.
struct Shared {
    service: Arc<RoomService>,
    accounts: Arc<Accounts>,
    clients: ClientSecrets,
    proxies: Proxies,
    talk_hash: HeaderValue,
    waiting_room: Page,
}

impl Shared {
    /// Executes a command that is answered without data.
    async fn execute(&self, token: &RoomToken, caller: &Caller, command: Command) -> OcsResult {
        self.service.change(token, caller, &command).await?;
        Ok(OcsResponse::done())
    }

    /// Executes a command that is answered with the room after it.
    async fn show_after(&self, token: &RoomToken, caller: &Caller, command: &Command) -> OcsResult {
        let view = self.service.view_after(token, caller, command).await?;
        Ok(OcsResponse::ok(self.room(&view, caller)))
    }

    /// The room as the caller sees it.
    fn room(&self, view: &View, caller: &Caller) -> RoomDto {
        RoomDto::of(view, self.viewer(Some(caller)))
    }

    fn viewer<'c>(&self, caller: Option<&'c Caller>) -> ViewerContext<'c> {
        let may_enable = caller.is_some_and(|caller| caller.may_enable_sip);
        ViewerContext {
            may_enable_sip: self.service.sip().configured && may_enable,
            client: caller.and_then(|caller| caller.client.as_ref()),
        }
    }
}

/// Serves the API on `listener` until `stop`.
pub async fn serve(
    listener: TcpListener,
    dependencies: ApiDependencies,
    limits: Limits,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let ApiDependencies { service, accounts, clients, proxies, hosts, origins, memory, join_url } =
        dependencies;
    let talk_hash = server_info::talk_hash(service.sip()).try_into()?;
    let rooms = Arc::clone(&service);
    let waiting_room = waiting_room::page(join_url.as_ref());
    let proxied = proxies.clone();
    let shared = Shared { service, accounts, clients, proxies: proxied, talk_hash, waiting_room };
    let (routes, paths) = router(Arc::new(shared));
    let metrics = RequestMetrics::of(paths)?;
    let service = middleware::around(routes, metrics, proxies, hosts, origins, memory);
    let served = server::serve(listener, service, limits, KEEP_ALIVE, stop).await;
    rooms.finish().await;
    served
}

/// The routes, and their paths.
fn router(api: Api) -> (Router, Vec<String>) {
    let waiting_room = waiting_room::router(Arc::clone(&api));
    let (router, document) = routes().with_state(api).split_for_parts();
    let paths = document.paths.paths.keys().map(String::as_str);
    let paths = paths.chain([OPENAPI]).chain(waiting_room::PATHS);
    let paths = paths.map(str::to_owned).collect();
    let document = openapi::Document::of(&document);
    let router = router
        .route(OPENAPI, get(openapi::serve).with_state(Arc::new(document)))
        .merge(waiting_room)
        .fallback(async || OcsError::new(StatusCode::NOT_FOUND, "there is no such path"))
        .method_not_allowed_fallback(async || {
            OcsError::new(StatusCode::METHOD_NOT_ALLOWED, "this path has no such method")
        });
    (router, paths)
}

fn routes() -> OpenApiRouter<Api> {
    let spreed = "/ocs/v2.php/apps/spreed/api";
    let places = [
        (format!("{spreed}/v1/chat/{{token}}"), chat::routes()),
        (format!("{spreed}/v1/ban/{{token}}"), moderation::ban_routes()),
        (format!("{spreed}/v1/guest/{{token}}"), participants::guest_routes()),
        (format!("{spreed}/v4/room"), rooms::routes()),
        (format!("{spreed}/v4/room/{{token}}/events"), events::routes()),
        (format!("{spreed}/v4/room/{{token}}"), participants::routes()),
        (format!("{spreed}/v4/room/{{token}}"), moderation::routes()),
        (format!("{spreed}/v4/room/{{token}}/webinar"), webinar::routes()),
        (format!("{spreed}/v4/call/{{token}}"), call::routes()),
        ("/ocs/v2.php/cloud".to_owned(), server_info::routes()),
        ("/ocs/v1.php/cloud".to_owned(), openapi::for_first_version(server_info::routes())),
    ];
    let mut router = OpenApiRouter::with_openapi(openapi::base());
    for (prefix, routes) in places {
        for (schemas, paths, methods) in routes {
            router = router.routes((schemas, under(&prefix, paths), methods));
        }
    }
    router
}

/// As nesting a router, which would rewrite the path of each request.
fn under(prefix: &str, mut paths: Paths) -> Paths {
    let items = std::mem::take(&mut paths.paths).into_iter();
    let path = |path: String| format!("{prefix}{}", path.trim_end_matches('/'));
    paths.paths = items.map(|(end, item)| (path(end), item)).collect();
    paths
}

/// Hexadecimal SHA-256, cut to the length of a SHA-1, which Talk uses in these places.
fn digest<const N: usize>(parts: [&[u8]; N]) -> String {
    const BYTES: usize = 20;
    let mut digits = String::with_capacity(2 * BYTES);
    let digest = parts.iter().fold(Sha256::new(), Sha256::chain_update);
    for byte in digest.finalize().iter().take(BYTES) {
        digits.push(hexadecimal(byte >> 4));
        digits.push(hexadecimal(byte & 0xf));
    }
    digits
}

fn hexadecimal(digit: u8) -> char {
    char::from(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 })
}
