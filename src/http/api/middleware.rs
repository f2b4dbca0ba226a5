//! What surrounds all routes of the API: request ids, logs and metrics, the OCS envelope, a limit of
//! time, and protection from other sites and from panics.
//!
//! It applies to every path, also to unknown ones, and does not know what a request asks for. Most
//! of it is one function instead of layers of tower: each layer would allocate several times for
//! each poll.

use std::any::Any;
use std::collections::HashMap;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::LazyLock;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use hyper::body::Incoming;
use metrics::Counter;
use parking_lot::RwLock;
use tokio::time::{Instant, timeout_at};
use tower::{Layer, Service, service_fn};
use tower_http::csrf::{Csrf, CsrfLayer, ProtectionError};
use tracing::Instrument;
use uuid::{Builder, Uuid};

use super::ocs::{Envelope, OcsError};

/// Longest time that a request may take, including a long poll of a minute.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(90);

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Clients of Nextcloud send it with every request. A page of another site cannot: browsers would
/// ask for permission first, which is never given.
const OCS_API_REQUEST: HeaderName = HeaderName::from_static("ocs-apirequest");

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The routes, which refuse requests that pages of other sites send.
type Routes = Csrf<Router, fn(ProtectionError) -> Response>;

/// The service that answers requests to these routes.
pub(super) fn around(
    routes: Router,
) -> impl Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send> + Clone
{
    let routes = protected(routes);
    service_fn(move |request| answer(routes.clone(), request))
}

fn protected(routes: Router) -> Routes {
    let refuse: fn(ProtectionError) -> Response = refuse_cross_site;
    CsrfLayer::new().with_rejection_response(refuse).layer(routes)
}

/// Answers, counts and logs a request, under the id that its response carries. Clients do not choose
/// the ids under which their requests are logged.
async fn answer<B>(routes: Routes, mut request: Request<B>) -> Result<Response, Infallible>
where
    Router: Service<Request<B>, Response = Response, Error = Infallible, Future: Send>,
{
    // `Uuid::new_v4` would ask the kernel for its randomness.
    let id = Builder::from_random_bytes(rand::random()).into_uuid();
    let mut buffer = Uuid::encode_buffer();
    let id_text: &str = id.hyphenated().encode_lower(&mut buffer);
    let method = method_label(request.method());
    let envelope = Envelope::of_request(&request);
    exempt_ocs_clients(request.headers_mut());
    let span = tracing::info_span!("request", request.id = id_text, http.method = method);
    let mut response = execute(routes, request).instrument(span).await;
    count(method, response.status());
    envelope.write(&mut response, id);
    let id = HeaderValue::from_str(id.hyphenated().encode_lower(&mut buffer));
    response.headers_mut().insert(REQUEST_ID, id.expect("digits and hyphens"));
    Ok(response)
}

/// Executes and logs a request, in limited time and protected from panics.
async fn execute<B>(mut routes: Routes, request: Request<B>) -> Response
where
    Router: Service<Request<B>, Response = Response, Error = Infallible, Future: Send>,
{
    let begin = Instant::now();
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

/// Counts an answered request. The counters are kept: to find one by its labels costs as much as the
/// rest of a poll's way through here.
fn count(method: &'static str, status: StatusCode) {
    static COUNTERS: LazyLock<RwLock<HashMap<(&str, StatusCode), Counter>>> =
        LazyLock::new(RwLock::default);
    if let Some(counter) = COUNTERS.read().get(&(method, status)) {
        return counter.increment(1);
    }
    let counter = metrics::counter!(
        crate::metrics::REQUESTS,
        "method" => method,
        "status" => status.as_str().to_owned(),
    );
    counter.increment(1);
    COUNTERS.write().insert((method, status), counter);
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

/// Browsers add a remembered login to every request, also to those that pages of other sites send.
fn refuse_cross_site(_error: ProtectionError) -> Response {
    let message = "a request from another site needs the header OCS-APIRequest: true";
    OcsError::new(StatusCode::FORBIDDEN, message).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::post;

    use super::*;

    async fn answer(headers: &[(HeaderName, &'static str)]) -> Response {
        let mut request = Request::post("/").body(Body::empty()).unwrap();
        for (name, value) in headers {
            request.headers_mut().append(name, HeaderValue::from_static(value));
        }
        let routes = Router::new().route("/", post(async || StatusCode::OK));
        super::answer(protected(routes), request).await.unwrap()
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
