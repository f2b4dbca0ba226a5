//! Conditional requests: which states a client has, and how long it will wait for another one.
//!
//! `ETag` and `If-None-Match` are those of RFC 9110, `Prefer: wait` is that of RFC 7240. How long
//! polls wait is decided by [`rooms`](crate::rooms); [`Conditional`] only says until when, and
//! whether a state is new to the client.

use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::header::IF_NONE_MATCH;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use headers::{ETag, Header, IfNoneMatch};
use tokio::time::Instant;
use utoipa::{IntoParams, IntoResponses};

use super::digest;
use super::dto::RoomDto;
use super::ocs::{Form, OcsError, OcsResponse};
use crate::cache::{Fingerprint, View};
use crate::domain::ViewerContext;

/// Longest time that a long poll waits, in seconds: shorter than the time that proxies usually wait
/// for a response.
pub(super) const MAX_WAIT: u64 = 50;

/// Bytes of the state of one room, from which its tag is made.
const STATE_BYTES: usize = 2 + size_of::<[Fingerprint; 2]>();

const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

#[derive(Debug, Clone, IntoParams)]
#[into_params(parameter_in = Header)]
pub(super) struct Conditional {
    #[param(ignore)]
    form: Form,
    /// Entity tags of the states that the client has
    #[param(rename = "If-None-Match", value_type = Option<String>)]
    known: Option<IfNoneMatch>,
    /// `wait=N`: wait up to N (50) seconds for a state that the client does not have
    #[param(rename = "Prefer", value_type = Option<String>, example = "wait=1")]
    wait: Option<u64>,
}

/// The client has the current state
#[derive(IntoResponses)]
#[response(status = 304, headers(("ETag" = String, description = "The tag that the client has")))]
pub(super) struct NotModified;

impl<S: Sync> FromRequestParts<S> for Conditional {
    type Rejection = OcsError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, OcsError> {
        let headers = &parts.headers;
        let known = known_tags(headers);
        // Only for a state that the client names: any change could be new to `*`.
        let names_states = known.as_ref().is_some_and(|known| *known != IfNoneMatch::any());
        let may_wait = names_states && parts.method != Method::HEAD;
        let wait = preferred_wait(headers).filter(|_wait| may_wait);
        Ok(Self { form: Form::of_request(parts.uri.query(), headers), known, wait })
    }
}

impl Conditional {
    /// Until when the request waits, if it does.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.wait.map(|seconds| Instant::now() + Duration::from_secs(seconds))
    }

    /// The strong entity tag of these views in the form that the request asks for.
    pub(super) fn tag<'v>(
        &self,
        views: impl IntoIterator<Item = &'v View>,
        viewer: ViewerContext<'_>,
    ) -> ETag {
        let mut state = Vec::with_capacity(STATE_BYTES);
        state.extend([u8::from(viewer.may_enable_sip), u8::from(self.form == Form::Json)]);
        for view in views {
            if let Some(me) = view.attendee() {
                state.extend(view.fingerprint().as_flattened());
                // The client sees its own session.
                let session = me.session(viewer.client).map(|session| session.id.as_bytes());
                state.extend(session.unwrap_or_default());
            } else {
                // Non-members must not learn of changes that they do not see.
                let room = serde_json::to_vec(&RoomDto::of(view, viewer));
                state.extend(room.unwrap_or_default());
            }
        }
        let tag = format!("\"{}\"", digest(&state));
        tag.parse().expect("hexadecimal digits in quotes are an entity tag")
    }

    /// Whether the client does not have the state of this tag.
    pub(super) fn is_news(&self, tag: &ETag) -> bool {
        self.known.as_ref().is_none_or(|known| known.precondition_passes(tag))
    }

    /// 304 if the client has the state, otherwise `response`, which is made for that only.
    pub(super) fn answer(&self, tag: ETag, response: impl FnOnce() -> OcsResponse) -> OcsResponse {
        let response = if self.is_news(&tag) { response() } else { OcsResponse::not_modified() };
        let response = response.typed_header(tag);
        match self.wait {
            Some(wait) => response.header(PREFERENCE_APPLIED, format!("wait={wait}")),
            None => response,
        }
    }
}

/// Whether a request asks to be held until something changes.
pub(super) fn may_wait<B>(request: &Request<B>) -> bool {
    let query = request.uri().query().unwrap_or_default();
    request.headers().contains_key(PREFER) || query.contains("lookIntoFuture=1")
}

/// The tags are copied: in place they would keep the buffer of the whole request while it waits.
fn known_tags(headers: &HeaderMap) -> Option<IfNoneMatch> {
    let values = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let copies: Vec<HeaderValue> =
        values.filter_map(|value| without_encodings(value).try_into().ok()).collect();
    // Without the header it decodes as a list of no tags.
    if copies.is_empty() { None } else { IfNoneMatch::decode(&mut copies.iter()).ok() }
}

/// The header as before a proxy compressed the response: to the tags of the response it added
/// `-gzip`, `;br` or the like, and it does not remove that from the request. Tags of lobbyd have
/// neither character.
fn without_encodings(tags: &str) -> String {
    let parts = tags.split('"').enumerate().map(|(index, part)| match index % 2 {
        0 => part,
        _quoted => part.split(['-', ';']).next().unwrap_or_default(),
    });
    parts.collect::<Vec<_>>().join("\"")
}

/// Seconds of the first `wait` in a list of preferences, which may be spread over several headers.
fn preferred_wait(headers: &HeaderMap) -> Option<u64> {
    let values = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).find_map(wait_seconds)
}

fn wait_seconds(preference: &str) -> Option<u64> {
    let (name, value) = preference.split(';').next()?.split_once('=')?;
    if !name.trim().eq_ignore_ascii_case("wait") {
        return None;
    }
    let seconds: u64 = value.trim().trim_matches('"').parse().ok()?;
    Some(seconds.min(MAX_WAIT))
}

#[cfg(test)]
mod tests {
    use axum::http::header;

    use super::*;

    async fn conditional(headers: &[(HeaderName, &'static str)]) -> Conditional {
        let mut request = Request::new(());
        for (name, value) in headers {
            request.headers_mut().append(name, HeaderValue::from_static(value));
        }
        let (mut parts, ()) = request.into_parts();
        Conditional::from_request_parts(&mut parts, &()).await.unwrap()
    }

    fn tag(tag: &str) -> ETag {
        tag.parse().unwrap()
    }

    #[tokio::test]
    async fn lists_and_weak_forms_match() {
        let tags = [(header::IF_NONE_MATCH, r#""a", W/"b""#), (header::IF_NONE_MATCH, r#""c""#)];
        let several = conditional(&tags).await;
        for known in [r#""a""#, r#""b""#, r#""c""#] {
            assert!(!several.is_news(&tag(known)), "{known}");
        }
        assert!(several.is_news(&tag(r#""d""#)));
        assert!(!conditional(&[(header::IF_NONE_MATCH, "*")]).await.is_news(&tag(r#""d""#)));
        assert!(conditional(&[]).await.is_news(&tag(r#""a""#)));
    }

    #[tokio::test]
    async fn tags_that_a_compressing_proxy_has_changed_match() {
        for known in [r#""a-gzip""#, r#"W/"a;gzip""#, r#""x-br", "a-br""#, r#""a--gzip""#] {
            let conditional = conditional(&[(header::IF_NONE_MATCH, known)]).await;
            assert!(!conditional.is_news(&tag(r#""a""#)), "{known}");
            assert!(conditional.is_news(&tag(r#""b""#)), "{known}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_client_that_has_a_state_waits() {
        let wait = async |prefer: &'static str| {
            let headers = [(header::IF_NONE_MATCH, r#""a""#), (PREFER, prefer)];
            let deadline = conditional(&headers).await.deadline();
            deadline.map(|deadline| (deadline - Instant::now()).as_secs())
        };
        assert_eq!(wait("wait=25").await, Some(25));
        assert_eq!(wait("respond-async, wait=5; x=y").await, Some(5));
        assert_eq!(wait("wait=9999").await, Some(MAX_WAIT));
        assert_eq!(wait("wait=soon").await, None);
        assert_eq!(wait("wait=-1").await, None);
        assert_eq!(conditional(&[(PREFER, "wait=25")]).await.deadline(), None);
        let any = [(header::IF_NONE_MATCH, "*"), (PREFER, "wait=25")];
        assert_eq!(conditional(&any).await.deadline(), None);
    }
}
