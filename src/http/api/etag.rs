//! Conditional requests: which states a client has, and how long it will wait for another one.
//!
//! `ETag` and `If-None-Match` are those of RFC 9110, `Prefer: wait` is that of RFC 7240. How long
//! polls wait is decided by [`rooms`](crate::rooms); [`Conditional`] only says until when, and
//! whether a state is new to the client.

use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::header::{ETAG, IF_NONE_MATCH};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method};
use tokio::time::Instant;
use utoipa::{IntoParams, IntoResponses};

use super::digest;
use super::dto::RoomDto;
use super::header_names::{PREFER, PREFERENCE_APPLIED};
use super::ocs::{Form, OcsError, OcsResponse};
use crate::cache::{Fingerprint, View};
use crate::domain::ViewerContext;

/// Longest time that a long poll waits, in seconds: shorter than the time that proxies usually wait
/// for a response.
pub(super) const MAX_WAIT: u64 = 50;

/// Bytes of the state of one room, from which its tag is made.
const STATE_BYTES: usize = 2 + size_of::<[Fingerprint; 2]>();

/// Added to the tag of a compressed response, which is another representation of the same state.
const GZIP: &str = "-gzip";

/// Identifies a state: hexadecimal digits.
pub(super) struct Tag(String);

impl Tag {
    pub(super) fn of(state: &[u8]) -> Self {
        Self(digest([state]))
    }

    pub(super) fn value(&self) -> HeaderValue {
        quoted(&self.0)
    }
}

/// The value of `ETag`, of hexadecimal digits or of what was in the header of a request.
fn quoted(tag: &str) -> HeaderValue {
    HeaderValue::try_from(["\"", tag, "\""].concat()).expect("a part of a header is one")
}

/// What `If-None-Match` names.
#[derive(Debug, Clone)]
enum Known {
    /// Any state, as `*` does.
    Any,
    /// Tags as the client sent them, without quotes.
    Tags(Vec<Box<str>>),
}

#[derive(Debug, Clone, IntoParams)]
#[into_params(parameter_in = Header)]
pub(super) struct Conditional {
    #[param(ignore)]
    form: Form,
    /// Entity tags of the states that the client has
    #[param(rename = "If-None-Match", value_type = String, required = false)]
    known: Option<Known>,
    /// `wait=N`: wait up to N (50) seconds for a state that the client does not have
    #[param(rename = "Prefer", value_type = String, required = false, example = "wait=1")]
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
        let known = Known::of_request(headers);
        // Only for a state that the client names: any change could be new to `*`.
        let may_wait = matches!(known, Some(Known::Tags(_))) && parts.method != Method::HEAD;
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
    ) -> Tag {
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
        Tag::of(&state)
    }

    /// Whether the client does not have the state of this tag.
    pub(super) fn is_news(&self, tag: &Tag) -> bool {
        self.known.as_ref().is_none_or(|known| known.find(tag).is_none())
    }

    /// The tag as the client knows it, if it has the state.
    pub(super) fn known(&self, tag: &Tag) -> Option<HeaderValue> {
        self.known.as_ref()?.find(tag).map(quoted)
    }

    /// 304 if the client has the state, otherwise `response`, which is made for that only. A 304
    /// names the tag that the client sent, which is that of its own representation.
    pub(super) fn answer(&self, tag: &Tag, response: impl FnOnce() -> OcsResponse) -> OcsResponse {
        let response = match self.known(tag) {
            Some(known) => OcsResponse::not_modified().header(ETAG, known),
            None => response().header(ETAG, tag.value()),
        };
        match self.wait {
            Some(wait) => response.header(PREFERENCE_APPLIED, format!("wait={wait}")),
            None => response,
        }
    }
}

impl Known {
    /// The tags are copied: in place they would keep the buffer of the whole request while it waits.
    fn of_request(headers: &HeaderMap) -> Option<Self> {
        let values = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        let mut tags = Vec::new();
        for value in values {
            if value.trim() == "*" {
                return Some(Self::Any);
            }
            // A weak tag has its mark before the quotes; here it means the same.
            tags.extend(value.split('"').skip(1).step_by(2).map(Box::from));
        }
        (!tags.is_empty()).then_some(Self::Tags(tags))
    }

    /// The tag as the client knows it, if it does. To the tags of a compressed response, lobbyd and
    /// proxies add `-gzip`, `;br` or the like; those of lobbyd have neither character before.
    fn find<'t>(&'t self, tag: &'t Tag) -> Option<&'t str> {
        let is_same = |known: &&str| known.split(['-', ';']).next() == Some(&tag.0);
        match self {
            Self::Any => Some(&tag.0),
            Self::Tags(tags) => tags.iter().map(AsRef::as_ref).find(is_same),
        }
    }
}

/// Gives a response that is being compressed the tag of its compressed representation.
pub(super) fn mark_compressed(headers: &mut HeaderMap) {
    let tag = headers.get(ETAG).and_then(|tag| tag.to_str().ok()?.strip_suffix('"'));
    if let Some(tag) = tag.and_then(|tag| HeaderValue::try_from(format!("{tag}{GZIP}\"")).ok()) {
        headers.insert(ETAG, tag);
    }
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
    use axum::http::{HeaderName, Request, header};

    use super::*;

    async fn conditional(headers: &[(HeaderName, &'static str)]) -> Conditional {
        let mut request = Request::new(());
        for (name, value) in headers {
            request.headers_mut().append(name, HeaderValue::from_static(value));
        }
        let (mut parts, ()) = request.into_parts();
        Conditional::from_request_parts(&mut parts, &()).await.unwrap()
    }

    fn tag(tag: &str) -> Tag {
        Tag(tag.to_owned())
    }

    #[tokio::test]
    async fn lists_and_weak_forms_match() {
        let tags = [(header::IF_NONE_MATCH, r#""a", W/"b""#), (header::IF_NONE_MATCH, r#""c""#)];
        let several = conditional(&tags).await;
        for known in ["a", "b", "c"] {
            assert!(!several.is_news(&tag(known)), "{known}");
        }
        assert!(several.is_news(&tag("d")));
        assert!(!conditional(&[(header::IF_NONE_MATCH, "*")]).await.is_news(&tag("d")));
        assert!(conditional(&[]).await.is_news(&tag("a")));
        assert!(conditional(&[(header::IF_NONE_MATCH, "a")]).await.is_news(&tag("a")));
    }

    #[tokio::test]
    async fn tags_of_compressed_responses_match() {
        for known in [r#""a-gzip""#, r#"W/"a;gzip""#, r#""x-br", "a-br""#, r#""a--gzip""#] {
            let conditional = conditional(&[(header::IF_NONE_MATCH, known)]).await;
            assert!(!conditional.is_news(&tag("a")), "{known}");
            assert!(conditional.is_news(&tag("b")), "{known}");
        }
        let mut headers = HeaderMap::from_iter([(ETAG, HeaderValue::from_static(r#""a""#))]);
        mark_compressed(&mut headers);
        assert_eq!(headers[ETAG], r#""a-gzip""#);
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
