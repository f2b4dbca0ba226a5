//! The layers around all routes of the API: request ids, logs and metrics, the OCS envelope, limits
//! of time and size, and protection from other sites and from panics.
//!
//! They apply to every path, also to unknown ones. None of them knows what a request asks for.

use std::any::Any;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderName, Method, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use tokio::time::{Instant, timeout};
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::csrf::{CsrfLayer, ProtectionError};
use tower_http::request_id::{
    MakeRequestUuid, PropagateRequestIdLayer, RequestId, SetRequestIdLayer,
};
use tracing::Instrument;

use super::ocs;
use super::ocs::OcsError;

/// Largest body of a request, in bytes: a chat message of 32,000 characters, each encoded in twelve
/// bytes, as JSON and forms may do.
const MAX_BODY: usize = 512 * 1024;

/// Longest time that a request may take, including a long poll of a minute.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(90);

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Clients of Nextcloud send it with every request. A page of another site cannot: browsers would
/// ask for permission first, which is never given.
const OCS_API_REQUEST: HeaderName = HeaderName::from_static("ocs-apirequest");

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Wraps the routes in all layers, the outermost first.
pub(super) fn apply(router: Router) -> Router {
    router.layer(
        ServiceBuilder::new()
            .map_request(discard_request_id)
            .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
            .layer(PropagateRequestIdLayer::x_request_id())
            .layer(from_fn(observe))
            .layer(from_fn(ocs::render))
            .layer(from_fn(limit_time))
            .layer(CatchPanicLayer::custom(answer_panic))
            .map_request(exempt_ocs_clients)
            .layer(CsrfLayer::new().with_rejection_response(refuse_cross_site))
            .layer(DefaultBodyLimit::max(MAX_BODY)),
    )
}

/// Clients do not choose the ids under which their requests are logged.
fn discard_request_id(mut request: Request) -> Request {
    request.headers_mut().remove(REQUEST_ID);
    request
}

/// Counts and logs a request, under the id that its response carries.
async fn observe(request: Request, next: Next) -> Response {
    let id = request.extensions().get::<RequestId>().map(RequestId::header_value);
    let id = id.and_then(|id| id.to_str().ok()).unwrap_or_default();
    let method = method_label(request.method());
    let begin = Instant::now();
    let span = tracing::info_span!("request", request.id = id, http.method = method);
    let response = next.run(request).instrument(span.clone()).await;
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
    response
}

/// Clients can invent methods, and each value of a label takes memory forever.
fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        _other => "other",
    }
}

/// As tower-http's `TimeoutLayer`, but with an OCS response.
async fn limit_time(request: Request, next: Next) -> Response {
    timeout(REQUEST_TIMEOUT, next.run(request)).await.unwrap_or_else(|_elapsed| {
        OcsError::new(StatusCode::REQUEST_TIMEOUT, "the request took too long").into_response()
    })
}

#[expect(clippy::needless_pass_by_value, reason = "the layer passes the panic by value")]
fn answer_panic(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    OcsError::internal(text.unwrap_or("panic without a message")).into_response()
}

/// Hides from the cross-site check what a browser says about the page that sent the request.
fn exempt_ocs_clients(mut request: Request) -> Request {
    let headers = request.headers_mut();
    if headers.contains_key(OCS_API_REQUEST) {
        headers.remove(SEC_FETCH_SITE);
        headers.remove(header::ORIGIN);
    }
    request
}

/// Browsers add a remembered login to every request, also to those that pages of other sites send.
fn refuse_cross_site(_error: ProtectionError) -> Response {
    let message = "a request from another site needs the header OCS-APIRequest: true";
    OcsError::new(StatusCode::FORBIDDEN, message).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::HeaderValue;
    use axum::routing::post;
    use tower::Service;

    use super::*;

    async fn answer(headers: &[(HeaderName, &'static str)]) -> Response {
        let mut request = Request::post("/").body(Body::empty()).unwrap();
        for (name, value) in headers {
            request.headers_mut().append(name, HeaderValue::from_static(value));
        }
        let mut router = apply(Router::new().route("/", post(async || StatusCode::OK)));
        router.call(request).await.unwrap()
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

    #[tokio::test]
    async fn clients_do_not_choose_the_id_of_a_request() {
        let response = answer(&[(REQUEST_ID, "chosen")]).await;
        let ids: Vec<_> = response.headers().get_all(REQUEST_ID).iter().collect();
        assert!(ids.len() == 1 && ids != ["chosen"], "{ids:?}");
    }
}
