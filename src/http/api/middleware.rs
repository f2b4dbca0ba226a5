//! What surrounds all routes of the API: request ids, logs and metrics, the OCS envelope, a limit of
//! time, and protection from other sites and from panics.
//!
//! It applies to every path, also to unknown ones, and does not know what a request asks for. Most
//! of it is one function instead of layers of tower: each layer would allocate several times for
//! each poll.

use std::any::Any;
use std::convert::Infallible;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};
use tower::{Layer, Service, service_fn};
use tower_http::csrf::{Csrf, CsrfLayer, ProtectionError};
use tracing::level_filters::LevelFilter;
use tracing::{Instrument, Span};
use uuid::{Builder, Uuid};

use super::byte_budget::{ByteBudget, Reservation};
use super::compression;
use super::header_names::{OCS_API_REQUEST, REQUEST_ID, SEC_FETCH_SITE};
use super::hosts::Hosts;
use super::ocs::{Envelope, Failure, OcsError};
use super::origins::Origins;
use super::proxies::Proxies;
use super::request_body::RequestBody;
use super::request_metrics::RequestMetrics;
use crate::http::server::Peer;

/// Longest time that a request may take, including a long poll.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(90);

/// Browsers take each response for what its type says, show none of it as a page unless it says
/// otherwise, and do not tell other sites from which room a link was followed.
const SECURITY_HEADERS: [(HeaderName, HeaderValue); 3] = [
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"),
    ),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
];

/// The routes, which refuse requests that pages of other sites send.
type Routes = Csrf<Router, fn(ProtectionError) -> Response>;

/// Bytes of bodies that may be in memory at once.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    pub requests: usize,
    pub responses: usize,
}

/// What each request passes.
struct Surroundings {
    routes: Routes,
    metrics: RequestMetrics,
    proxies: Proxies,
    hosts: Hosts,
    origins: Origins,
    /// Bodies that are being received, and those that are being sent.
    received: ByteBudget,
    sent: ByteBudget,
}

/// The service that answers requests to these routes.
pub(super) fn around(
    routes: Router,
    metrics: RequestMetrics,
    proxies: Proxies,
    hosts: Hosts,
    origins: Origins,
    memory: Memory,
) -> impl Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send> + Clone
{
    let surroundings = Arc::new(Surroundings {
        routes: protected(routes),
        metrics,
        proxies,
        hosts,
        origins,
        received: ByteBudget::new(memory.requests),
        sent: ByteBudget::new(memory.responses),
    });
    service_fn(move |request: Request<Incoming>| {
        let body =
            |body: Incoming| if body.is_end_stream() { Body::empty() } else { Body::new(body) };
        Arc::clone(&surroundings).answer(request.map(body))
    })
}

fn protected(routes: Router) -> Routes {
    let refuse: fn(ProtectionError) -> Response = refuse_cross_site;
    CsrfLayer::new().with_rejection_response(refuse).layer(routes)
}

impl Surroundings {
    /// Answers, counts and logs a request, under the id that its response carries. Clients do not
    /// choose the ids under which their requests are logged.
    async fn answer(self: Arc<Self>, mut request: Request) -> Result<Response, Infallible> {
        // `Uuid::new_v4` would ask the kernel for its randomness.
        let id = Builder::from_random_bytes(rand::random()).into_uuid();
        let begin = Instant::now();
        let labels = self.metrics.labels(&request);
        let method = labels.method;
        let envelope = Envelope::of_request(&request);
        let Peer(peer) = *request.extensions().get().expect("the server adds the peer");
        let client = self.proxies.client(peer, request.headers());
        let accepts_gzip = compression::is_accepted(request.headers());
        let page = self.origins.admit(&mut request);
        exempt_ocs_clients(request.headers_mut());
        if request.method().is_safe() && is_sent_by_foreign_page(request.headers()) {
            self.forget_login(request.headers_mut());
        }
        let is_safe = request.method().is_safe();
        // The log says who changed what, and from where.
        let new_span = || span(id, method, (!is_safe).then_some(client));
        // A poll would spend a part of its time on one that no line is logged in.
        let is_followed = !is_safe || LevelFilter::current() >= LevelFilter::DEBUG;
        let span = if is_followed { new_span() } else { Span::none() };
        let (request, body) = RequestBody::of(request, || self.received.open(client));
        let mut response = if self.hosts.allow(&request) {
            execute(self.routes.clone(), request, begin).instrument(span.clone()).await
        } else {
            let message = "this server has another name, see http.hosts in its configuration";
            OcsError::new(StatusCode::MISDIRECTED_REQUEST, message).into_response()
        };
        if let Some(body) = body {
            if let Some(failure) = body.failure() {
                response = OcsError::from(failure).into_response();
            }
            if !Box::pin(body.skip_rest()).await {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
        }
        let open = || self.sent.open(client);
        if let Some(failure) = write(&envelope, &mut response, id, open) {
            let span = if is_followed { span } else { new_span() };
            span.in_scope(|| failure.log());
        }
        if accepts_gzip && compression::is_worthwhile(&response) {
            response = Box::pin(compression::compress(response, open)).await;
        }
        if response.status() == StatusCode::NOT_MODIFIED {
            // It would be the length of the response that the client has.
            response.headers_mut().remove(header::CONTENT_LENGTH);
        } else {
            for (name, value) in SECURITY_HEADERS {
                // The waiting room has a policy of its own.
                response.headers_mut().entry(name).or_insert(value);
            }
        }
        if let Some(page) = page {
            response = Box::pin(self.origins.share(page, response)).await;
        } else if let Some(vary) = self.origins.vary() {
            response.headers_mut().append(header::VARY, vary);
        }
        self.metrics.record(labels, response.status(), begin.elapsed());
        let id = HeaderValue::from_str(id.hyphenated().encode_lower(&mut Uuid::encode_buffer()));
        response.headers_mut().insert(REQUEST_ID, id.expect("digits and hyphens"));
        Ok(response)
    }

    /// Makes the requester an anonymous visitor. A page of another site can have the browser read
    /// with a remembered login: that would show the user as present, and mark messages as read.
    fn forget_login(&self, headers: &mut HeaderMap) {
        headers.remove(header::AUTHORIZATION);
        headers.remove(header::COOKIE);
        self.proxies.forget_user(headers);
    }
}

/// Under which the log has what happens to a request. A log that is quiet except for changes has it
/// too.
fn span(id: Uuid, method: &str, client: Option<IpAddr>) -> Span {
    let mut buffer = Uuid::encode_buffer();
    let id: &str = id.hyphenated().encode_lower(&mut buffer);
    tracing::info_span!(
        target: "lobbyd::audit",
        "request",
        request.id = id,
        http.method = method,
        client.address = client.map(display)
    )
}

/// Executes and logs a request, in limited time and protected from panics.
async fn execute(mut routes: Routes, request: Request, begin: Instant) -> Response {
    let answering = AssertUnwindSafe(async move { routes.call(request).await }).catch_unwind();
    let response = match timeout_at(begin + REQUEST_TIMEOUT, answering).await {
        Ok(Ok(Ok(response))) => response,
        Ok(Ok(Err(never))) => match never {},
        Ok(Err(panic)) => answer_panic(panic),
        Err(_elapsed) => {
            let message = "the request took too long";
            OcsError::new(StatusCode::REQUEST_TIMEOUT, message).into_response()
        }
    };
    tracing::debug!(
        http.status = response.status().as_u16(),
        seconds = begin.elapsed().as_secs_f64(),
        "request answered"
    );
    response
}

/// Writes the body of a response, protected from panics: the elements of lists are made meanwhile.
/// Returns why the request could not be executed.
fn write(
    envelope: &Envelope,
    response: &mut Response,
    id: Uuid,
    open: impl Fn() -> Reservation,
) -> Option<Failure> {
    let writing = AssertUnwindSafe(|| envelope.write(response, id, &open));
    catch_unwind(writing).unwrap_or_else(|panic| {
        *response = answer_panic(panic);
        envelope.write(response, id, open)
    })
}

#[expect(clippy::needless_pass_by_value, reason = "a panic is passed by value")]
fn answer_panic(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    OcsError::internal(text.unwrap_or("panic without a message")).into_response()
}

/// Hides from the cross-site check what a browser says about the page that sent the request.
fn exempt_ocs_clients(headers: &mut HeaderMap) {
    if headers.contains_key(OCS_API_REQUEST) {
        headers.remove(SEC_FETCH_SITE);
        headers.remove(header::ORIGIN);
    }
}

/// Whether a browser says so of a request that changes nothing. A page of the same site may still be
/// that of somebody else.
fn is_sent_by_foreign_page(headers: &HeaderMap) -> bool {
    match headers.get(SEC_FETCH_SITE) {
        Some(site) => site == "cross-site" || site == "same-site",
        // Older browsers name only the origin, for such requests only if it is another one.
        None => headers.contains_key(header::ORIGIN),
    }
}

/// Browsers add a remembered login to every request, also to those that pages of other sites send.
fn refuse_cross_site(_error: ProtectionError) -> Response {
    let message = "a request from another site needs the header OCS-APIRequest: true";
    OcsError::new(StatusCode::FORBIDDEN, message).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use axum::routing::{MethodRouter, post};
    use serde::Serialize;

    use super::super::ocs::{List, OcsResponse};
    use super::*;

    async fn answer(headers: &[(HeaderName, &'static str)]) -> Response {
        answer_by(post(async || StatusCode::OK), headers).await
    }

    async fn answer_by(handler: MethodRouter, headers: &[(HeaderName, &'static str)]) -> Response {
        let mut request = Request::post("/").body(Body::empty()).unwrap();
        for (name, value) in headers {
            request.headers_mut().append(name, HeaderValue::from_static(value));
        }
        request.extensions_mut().insert(Peer(IpAddr::from([192, 0, 2, 1])));
        let surroundings = Arc::new(Surroundings {
            routes: protected(Router::new().route("/", handler)),
            metrics: RequestMetrics::default(),
            proxies: Proxies::default(),
            hosts: Hosts::default(),
            origins: Origins::default(),
            received: ByteBudget::new(1),
            sent: ByteBudget::new(1),
        });
        surroundings.answer(request).await.unwrap()
    }

    #[tokio::test]
    async fn a_page_of_another_site_cannot_use_a_login_that_the_browser_remembers() {
        let is_refused = async |headers: &[(HeaderName, &'static str)]| {
            answer(headers).await.status() == StatusCode::FORBIDDEN
        };
        assert!(is_refused(&[(SEC_FETCH_SITE, "cross-site")]).await);
        let client = [(SEC_FETCH_SITE, "cross-site"), (OCS_API_REQUEST, "true")];
        assert!(!is_refused(&client).await);
        assert!(!is_refused(&[]).await);
        let page = |origin| [(header::ORIGIN, origin), (header::HOST, "lobby.example")];
        assert!(!is_refused(&page("http://lobby.example")).await);
        assert!(is_refused(&page("http://evil.example")).await);
        assert!(is_refused(&[(SEC_FETCH_SITE, "same-site")]).await);
    }

    /// A list whose elements cannot be made.
    struct Broken;

    impl List for Broken {
        fn elements(&self) -> impl Iterator<Item = impl Serialize> {
            (0..3).inspect(|number| assert!(*number < 2, "out of luck"))
        }
    }

    #[tokio::test]
    async fn a_panic_while_a_list_is_written_is_answered() {
        let broken = post(async || OcsResponse::list(Broken));
        let response = answer_by(broken, &[]).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let body = String::from_utf8(body.to_vec()).unwrap();
        assert!(body.contains("internal error (request "), "{body}");
        assert!(body.ends_with("</ocs>"), "{body}");
    }

    #[tokio::test]
    async fn clients_do_not_choose_the_id_of_a_request() {
        let response = answer(&[(REQUEST_ID, "chosen")]).await;
        let ids: Vec<_> = response.headers().get_all(REQUEST_ID).iter().collect();
        assert!(ids.len() == 1 && ids != ["chosen"], "{ids:?}");
    }
}
