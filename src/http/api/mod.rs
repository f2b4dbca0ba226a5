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
mod call;
mod chat;
mod dto;
mod etag;
mod middleware;
mod ocs;
mod openapi;
mod params;
mod participants;
mod proxies;
mod rooms;
mod server_info;
mod webinar;

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderName, StatusCode};
use axum::routing::get;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;

use self::dto::RoomDto;
use self::ocs::{OcsError, OcsResponse, OcsResult};
pub use self::proxies::Proxies;
use super::server;
use super::server::Limits;
use crate::auth::Accounts;
use crate::cache::View;
use crate::domain::commands::Command;
use crate::domain::{Caller, RoomToken, ViewerCapabilities};
use crate::rooms::RoomService;

/// Identifies the server's configuration: clients reload the capabilities when it changes.
const TALK_HASH: HeaderName = HeaderName::from_static("x-nextcloud-talk-hash");

/// What the API needs from the rest of the process.
pub struct ApiDependencies {
    pub service: Arc<RoomService>,
    pub accounts: Arc<Accounts>,
    pub proxies: Proxies,
}

/// What the handlers share.
#[derive(Clone)]
struct Api {
    service: Arc<RoomService>,
    accounts: Arc<Accounts>,
    proxies: Arc<Proxies>,
    talk_hash: Arc<str>,
}

impl Api {
    /// Executes a command that is answered without data.
    async fn execute(&self, token: &RoomToken, caller: &Caller, command: Command) -> OcsResult {
        self.service.change(token, caller, &command).await?;
        Ok(OcsResponse::done())
    }

    /// The room as the caller sees it.
    fn room(&self, view: &View, caller: &Caller) -> RoomDto {
        RoomDto::of(view, self.capabilities_of(Some(caller)))
    }

    fn capabilities_of(&self, caller: Option<&Caller>) -> ViewerCapabilities {
        let may_enable = caller.is_some_and(|caller| caller.may_enable_sip);
        ViewerCapabilities { enable_sip: self.service.sip().configured && may_enable }
    }
}

/// Serves the API on `listener` until `stop`.
pub async fn serve(
    listener: TcpListener,
    dependencies: ApiDependencies,
    limits: Limits,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let ApiDependencies { service, accounts, proxies } = dependencies;
    let talk_hash = server_info::talk_hash(service.sip()).into();
    let api = Api { service, accounts, proxies: Arc::new(proxies), talk_hash };
    server::serve(listener, router(api), limits, stop).await
}

fn router(api: Api) -> Router {
    let (router, document) = routes().with_state(api).split_for_parts();
    let document = openapi::complete(document);
    let router = router
        .route("/openapi.json", get(openapi::serve).with_state(document.into()))
        .fallback(async || OcsError::new(StatusCode::NOT_FOUND, "there is no such path"))
        .method_not_allowed_fallback(async || {
            OcsError::new(StatusCode::METHOD_NOT_ALLOWED, "this path has no such method")
        });
    middleware::apply(router)
}

fn routes() -> OpenApiRouter<Api> {
    let v1 = OpenApiRouter::new()
        .nest("/chat/{token}", chat::routes())
        .nest("/guest/{token}", participants::guest_routes());
    let v4 = OpenApiRouter::new()
        .nest("/room", rooms::routes())
        .nest("/room/{token}", participants::routes())
        .nest("/room/{token}/webinar", webinar::routes())
        .nest("/call/{token}", call::routes());
    OpenApiRouter::with_openapi(openapi::base())
        .nest("/ocs/v2.php/apps/spreed/api/v1", v1)
        .nest("/ocs/v2.php/apps/spreed/api/v4", v4)
        .nest("/ocs/v2.php/cloud", server_info::routes())
        .nest("/ocs/v1.php/cloud", openapi::for_first_version(server_info::routes()))
}

/// Hexadecimal SHA-256, cut to the length of a SHA-1, which Talk uses in these places.
fn digest(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    let digits = digest.iter().take(20).flat_map(|byte| [byte >> 4, byte & 0xf]);
    digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}
