//! The waiting room: the page to which an invitation leads.
//!
//! Its script uses the API as any other client does. The page is the same for every room, so it says
//! nothing about which rooms exist.

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;

use super::Api;
use super::auth::AuthenticatedUser;
use super::ocs::OcsError;
use crate::http::pages::{Asset, JoinUrl, Page};

/// Browsers send a login to all paths below that of the page that has asked for it: this one is below
/// `/`, as those of the API are.
const LOGIN: &str = "/call";
const PAGE: &str = "/call/{token}";

/// Damaged links.
const NO_ROOM: &str = "/call/";
const WITH_SLASH: &str = "/call/{token}/";

const ASSET: &str = "/call/assets/{version}/{name}";

/// The paths, for the metrics.
pub(super) const PATHS: [&str; 5] = [LOGIN, PAGE, NO_ROOM, WITH_SLASH, ASSET];

const HTML: &str = include_str!("../pages/assets/call/page.html");

macro_rules! assets {
    ($($name:literal),*) => {
        &[$(Asset { name: $name, text: include_str!(concat!("../pages/assets/call/", $name)) }),*]
    };
}

const ASSETS: &[Asset] = assets![
    "page.css",
    "icon.svg",
    "page.js",
    "api.js",
    "clock.js",
    "follower.js",
    "moderation.js",
    "texts.js"
];

/// The routes of the page, which are no part of the API's description.
pub(super) fn router(api: Api) -> Router {
    Router::new()
        .route(PAGE, get(show))
        .route(NO_ROOM, get(show_no_room))
        .route(WITH_SLASH, get(leave_out_slash))
        .route(LOGIN, get(log_in))
        .route(ASSET, get(asset))
        .with_state(api)
}

/// The page, which leads to `join_url` when the room is open.
pub(super) fn page(join_url: Option<&JoinUrl>) -> Page {
    Page::new(HTML, ASSETS, &[("join_url", join_url.map_or("", JoinUrl::template))])
}

async fn show(State(api): State<Api>, headers: HeaderMap) -> Response {
    api.waiting_room.html(StatusCode::OK, &headers)
}

async fn show_no_room(State(api): State<Api>, headers: HeaderMap) -> Response {
    api.waiting_room.html(StatusCode::NOT_FOUND, &headers)
}

async fn leave_out_slash(uri: Uri) -> Redirect {
    Redirect::permanent(uri.path().trim_end_matches('/'))
}

async fn asset(State(api): State<Api>, Path((version, name)): Path<(String, String)>) -> Response {
    api.waiting_room.asset(&version, &name)
}

/// Has the browser ask for a login, which it then sends with each request of the page, and leads back
/// to the page. If the user gives none, the browser shows the page, whose script leads back too.
async fn log_in(
    State(api): State<Api>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    user: Result<AuthenticatedUser, OcsError>,
) -> Response {
    let error = match user {
        Ok(AuthenticatedUser(_caller)) => {
            let query = query.unwrap_or_default();
            let mut pairs = form_urlencoded::parse(query.as_bytes());
            let token = pairs.find_map(|(key, value)| (key == "token").then_some(value));
            let token = token.unwrap_or_default();
            let token: String = form_urlencoded::byte_serialize(token.as_bytes()).collect();
            return Redirect::to(&format!("/call/{token}")).into_response();
        }
        Err(error) => error.into_response(),
    };
    let Some(challenge) = error.headers().get(header::WWW_AUTHENTICATE).cloned() else {
        return error;
    };
    let mut page = api.waiting_room.html(StatusCode::UNAUTHORIZED, &headers);
    page.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    page
}
