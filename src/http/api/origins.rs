//! Pages of other origins that may use the API (CORS), none by default.
//!
//! A page of an allowed origin is trusted as one of this server is: its requests carry the login and
//! the cookies of the browser, and it may read the responses. [`middleware`](super::middleware)
//! treats the requests of all other pages as those of anonymous visitors.

use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use tower_http::cors::CorsLayer;
use url::Url;

use super::header_names::{
    LAST_COMMON_READ, LAST_EVENT_ID, LAST_GIVEN, MODIFIED_BEFORE, OCS_API_REQUEST, PREFER,
    PREFERENCE_APPLIED, REQUEST_ID, SEC_FETCH_SITE, TALK_HASH,
};
use super::response_layer;

/// How long browsers remember what they may send.
const PREFLIGHT_AGE: Duration = Duration::from_hours(1);

/// Origins as browsers write them; empty for none.
#[derive(Debug, Clone, Default)]
pub struct Origins {
    allowed: Vec<HeaderValue>,
    layer: CorsLayer,
}

/// What a page of an allowed origin asks the server for.
pub(super) struct PageRequest {
    method: Method,
    origin: HeaderValue,
    /// A question of the browser whether the page may send a request.
    is_preflight: bool,
}

/// Marks requests of pages that are not of this site. Their cookies are those of third parties.
#[derive(Debug, Clone, Copy)]
pub(super) struct FromOtherSite;

impl Origins {
    /// Accepts exact origins.
    pub fn new(origins: &[String]) -> Result<Self, String> {
        let allowed: Vec<_> = origins.iter().map(|text| parse(text)).collect::<Result<_, _>>()?;
        Ok(Self { layer: layer(allowed.clone()), allowed })
    }

    /// Recognises a request of an allowed page, and hides from the cross-site check where it is
    /// from.
    pub(super) fn admit<B>(&self, request: &mut Request<B>) -> Option<PageRequest> {
        if self.allowed.is_empty() {
            return None;
        }
        let mut origins = request.headers().get_all(header::ORIGIN).iter();
        let origin = origins.next().filter(|origin| self.allowed.contains(origin))?.clone();
        if origins.next().is_some() {
            return None;
        }
        let headers = request.headers_mut();
        headers.remove(header::ORIGIN);
        let site = headers.remove(SEC_FETCH_SITE);
        let is_preflight = headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        if site.is_some_and(|site| site == "cross-site") {
            request.extensions_mut().insert(FromOtherSite);
        }
        Some(PageRequest { method: request.method().clone(), origin, is_preflight })
    }

    /// The response with the permission to read it, or, for a preflight of a path that exists, the
    /// permission to send the request.
    pub(super) async fn share(&self, page: PageRequest, response: Response) -> Response {
        let PageRequest { method, origin, is_preflight } = page;
        let path_exists = response.status() == StatusCode::METHOD_NOT_ALLOWED;
        if method == Method::OPTIONS && !(is_preflight && path_exists) {
            return response;
        }
        // The layer would take each OPTIONS for a preflight, also of a path that does not exist.
        let mut request = Request::new(response);
        *request.method_mut() = method;
        request.headers_mut().insert(header::ORIGIN, origin);
        response_layer::apply(&self.layer, request).await
    }

    /// What responses to others depend on.
    pub(super) fn vary(&self) -> Option<HeaderValue> {
        (!self.allowed.is_empty()).then(|| HeaderValue::from_static("Origin"))
    }
}

fn layer(allowed: Vec<HeaderValue>) -> CorsLayer {
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_credentials(true)
        .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE])
        .allow_headers([
            header::ACCEPT,
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::IF_NONE_MATCH,
            LAST_EVENT_ID,
            OCS_API_REQUEST,
            PREFER,
        ])
        .expose_headers(EXPOSED)
        .vary([header::ORIGIN])
        .max_age(PREFLIGHT_AGE)
}

/// Headers of responses that pages may read.
const EXPOSED: [HeaderName; 8] = [
    header::ETAG,
    header::RETRY_AFTER,
    PREFERENCE_APPLIED,
    TALK_HASH,
    MODIFIED_BEFORE,
    LAST_GIVEN,
    LAST_COMMON_READ,
    REQUEST_ID,
];

fn parse(text: &str) -> Result<HeaderValue, String> {
    let origin = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let origin = origin.map(|url| url.origin().ascii_serialization());
    match origin {
        Some(origin) if origin == text => {
            HeaderValue::from_str(text).map_err(|error| error.to_string())
        }
        Some(origin) => Err(format!("{text:?} is no origin, write {origin:?}")),
        None => Err(format!("{text:?} is no origin such as \"https://app.example.org\"")),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    const APP: &str = "https://app.example";

    fn request(method: Method, headers: &[(HeaderName, &'static str)]) -> Request {
        let mut request = Request::new(Body::empty());
        *request.method_mut() = method;
        for (name, value) in headers {
            request.headers_mut().append(name, HeaderValue::from_static(value));
        }
        request
    }

    #[test]
    fn only_exact_origins_are_configured() {
        for right in [APP, "http://localhost:3000", "http://[::1]:3000"] {
            assert!(Origins::new(&[right.to_owned()]).is_ok(), "{right}");
        }
        for (wrong, hint) in [
            ("https://app.example/", APP),
            ("https://App.example", APP),
            ("https://app.example:443", APP),
            ("https://user@app.example/path", APP),
            ("app.example", "such as"),
            ("*", "such as"),
            ("null", "such as"),
            ("file:///x", "such as"),
        ] {
            let problem = Origins::new(&[wrong.to_owned()]).unwrap_err();
            assert!(problem.contains(hint), "{wrong}: {problem}");
        }
    }

    #[test]
    fn only_pages_of_the_origins_are_admitted() {
        let origins = Origins::new(&[APP.to_owned()]).unwrap();
        let is_admitted = |given: &[&'static str]| {
            let headers: Vec<_> = given.iter().map(|origin| (header::ORIGIN, *origin)).collect();
            let mut request = request(Method::POST, &headers);
            let page = origins.admit(&mut request);
            assert_eq!(page.is_some(), !request.headers().contains_key(header::ORIGIN));
            page.is_some()
        };
        assert!(is_admitted(&[APP]));
        for others in
            [["https://evil.example"].as_slice(), &["null"], &[APP, APP], &["http://app.example"]]
        {
            assert!(!is_admitted(others), "{others:?}");
        }
        assert!(
            Origins::default()
                .admit(&mut request(Method::POST, &[(header::ORIGIN, APP)]))
                .is_none()
        );
    }
}
