//! Server-sent events: a room as one viewer sees it, at once and then after each change.
//!
//! Each event has the complete room, so that clients merge nothing, and a client that missed some is
//! up to date after the next. [`rooms`](crate::rooms) waits for changes; what a viewer does not see
//! of them sends nothing. A client that reads slowly is sent the newest state when it has read what is
//! on the way, of which the [`server`](crate::http::server) keeps little; one that does not read is
//! disconnected by it.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::Stream;
use futures_util::stream::{empty, unfold};
use sha2::{Digest, Sha256};
use utoipa::IntoParams;
use utoipa_axum::routes;

use super::auth::{Login, Requester};
use super::dto::RoomDto;
use super::header_names::{ACCEL_BUFFERING, LAST_EVENT_ID};
use super::ocs::OcsError;
use super::openapi::NoRoom;
use super::params::RoomPath;
use super::{Api, Routes};
use crate::auth::LoginError;
use crate::cache::View;
use crate::domain::{Audience, Version};
use crate::http::server::WaitingBody;
use crate::logging;
use crate::rooms::{Followed, Follower};

/// How often a comment is sent while nothing changes, so that proxies keep the connection open.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Milliseconds after which a client connects again. Random, so that not all do so at once.
const RETRY: std::ops::Range<u64> = 1_000..5_000;

pub(super) fn routes() -> Routes {
    vec![routes!(follow)]
}

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(super) struct Reconnection {
    /// Id of the last event that the client has: the first event is not older
    #[param(rename = "Last-Event-ID", value_type = String, required = false)]
    known: Option<Version>,
    /// Whether only the header of the response is asked for.
    #[param(ignore)]
    is_head: bool,
}

impl<S: Sync> FromRequestParts<S> for Reconnection {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        let known = parts.headers.get(LAST_EVENT_ID);
        let known = known.and_then(|known| known.to_str().ok()?.parse().ok());
        Ok(Self { known: known.and_then(Version::parse), is_head: parts.method == Method::HEAD })
    }
}

/// Follow a room by server-sent events
///
/// An event `room` has the room as in `GET /room/{token}`, without the envelope, as JSON: the first
/// one as it is, then one after each change that the viewer can see. For participants, its id is the
/// version of the room. Changes that come fast are one event. An event `end` is the last one, after
/// the room was deleted or the viewer removed from it. Otherwise clients connect again when the
/// response ends, which it does within an hour, and when the viewer's login is no longer valid. A stream
/// counts as a request that waits.
#[utoipa::path(
    get, path = "/", tag = "rooms", operation_id = "followRoom",
    security(("basic" = []), ("guest" = []), ()), params(RoomPath, Reconnection),
    responses(NoRoom, (
        status = 200, description = "The events", content_type = "text/event-stream",
        body = String,
        example = "event: room\nid: 1767222000001\ndata: {\"id\":1,\"token\":\"webinar\"}\n\n",
    ))
)]
pub(super) async fn follow(
    State(api): State<Api>,
    Requester { caller, address, login, .. }: Requester,
    Reconnection { known, is_head }: Reconnection,
    RoomPath(token): RoomPath,
) -> Result<Response, OcsError> {
    if is_head {
        let caller = caller.as_ref();
        let found = api.service.view_when(&token, caller, address, None, |_| (), |()| true);
        found.await?;
        return Ok(response(empty()));
    }
    let follower = api.service.follow(token, caller, address, known).await?;
    let events = Events { api, follower, login, stage: Stage::First };
    Ok(response(unfold(events, Events::next)))
}

fn response(events: impl Stream<Item = Result<Event, Infallible>> + Send + 'static) -> Response {
    let events = Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT));
    let mut response = events.into_response();
    response.headers_mut().insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response.extensions_mut().insert(WaitingBody);
    response
}

/// The events of one stream.
struct Events {
    api: Api,
    follower: Follower,
    login: Login,
    stage: Stage,
}

enum Stage {
    First,
    /// The digest of the room that was sent last.
    Sent([u8; 32]),
    Ended,
}

impl Events {
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        if matches!(self.stage, Stage::Ended) {
            return None;
        }
        loop {
            let followed = self.follower.next().await?;
            match self.login.check(&self.api).await {
                Ok(()) => {}
                // The follower looks again soon. Until then nothing is shown.
                Err(LoginError::Store(error)) => {
                    let error = logging::causes(&error);
                    tracing::debug!(error, "login of an event stream not checked");
                    continue;
                }
                // The client connects again, and is refused.
                Err(LoginError::Wrong | LoginError::Throttled(_)) => return None,
            }
            let event = match followed {
                Followed::View(view) => self.news(&view),
                Followed::Gone => {
                    self.stage = Stage::Ended;
                    Some(Event::default().event("end").data("{}"))
                }
            };
            if let Some(event) = event {
                return Some((Ok(event), self));
            }
        }
    }

    /// The event about a view, unless it looks as the last one did.
    fn news(&mut self, view: &View) -> Option<Event> {
        let room = RoomDto::json(view, self.api.viewer(self.follower.caller()));
        let digest: [u8; 32] = Sha256::digest(&room).into();
        let mut event = Event::default().event("room");
        match self.stage {
            Stage::Sent(last) if last == digest => return None,
            Stage::Sent(_) | Stage::Ended => {}
            Stage::First => {
                let retry = Duration::from_millis(rand::random_range(RETRY));
                event = event.retry(retry);
            }
        }
        self.stage = Stage::Sent(digest);
        // Non-members must not learn when something changes that they do not see.
        if view.audience() != Audience::NonMembers {
            event = event.id(view.overview().room.version.milliseconds().to_string());
        }
        Some(event.data(room))
    }
}
