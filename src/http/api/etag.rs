//! Conditional requests: what a poller knows already, and how long it is ready to wait for more.
//!
//! `ETag` and `If-None-Match` are those of RFC 9110, `Prefer: wait` is that of RFC 7240.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderName, header, request::Parts},
};
use tokio::time::Instant;

use super::{
    dto::{RoomDto, ViewerCapabilities},
    ocs::{Form, OcsError, OcsResponse},
};
use crate::rooms::View;

/// Longest time that a request is held, in seconds.
const LONGEST_WAIT: u64 = 60;

const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// What a poller says besides what it asks for.
#[derive(Debug, Clone)]
pub(super) struct Conditional {
    form: Form,
    /// The entity tags that the client has; `*` stands for any.
    known: Vec<String>,
    /// Seconds to wait for another one: nothing for a client that knows none.
    wait: Option<u64>,
}

impl<S: Sync> FromRequestParts<S> for Conditional {
    type Rejection = OcsError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, OcsError> {
        let headers = &parts.headers;
        let known: Vec<String> = members(headers, &header::IF_NONE_MATCH).map(opaque).collect();
        let wait = members(headers, &PREFER).find_map(seconds).filter(|_wait| !known.is_empty());
        Ok(Self { form: Form::asked_for(parts.uri.query(), headers), known, wait })
    }
}

impl Conditional {
    /// Until when the request may be held.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + Duration::from_secs(self.wait.unwrap_or_default())
    }

    /// The strong entity tag of these views in the form that is asked for.
    pub(super) fn tag(&self, views: &[View], rights: ViewerCapabilities) -> String {
        let mut hasher = DefaultHasher::new();
        for view in views {
            match view.attendee() {
                Some(_) => view.fingerprint().hash(&mut hasher),
                // Strangers do not even learn when something happens that they do not see.
                None => serde_json::to_string(&RoomDto::of(view, rights)).ok().hash(&mut hasher),
            }
        }
        (rights, self.form).hash(&mut hasher);
        format!("\"{:016x}\"", hasher.finish())
    }

    /// Whether the client has what this tag stands for.
    pub(super) fn knows(&self, tag: &str) -> bool {
        self.known.iter().any(|known| known == tag || known == "*")
    }

    /// 304 if the client has it already, else the reply with the tag.
    pub(super) fn answer(&self, tag: &str, reply: impl FnOnce() -> OcsResponse) -> OcsResponse {
        let reply = if self.knows(tag) { OcsResponse::not_modified() } else { reply() };
        let reply = reply.header(header::ETAG, tag);
        match self.wait {
            Some(wait) => reply.header(PREFERENCE_APPLIED, format_args!("wait={wait}")),
            None => reply,
        }
    }
}

/// The members of a list that may be spread over several headers of this name.
fn members<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|member| !member.is_empty())
}

/// `If-None-Match` compares weakly: `W/"a"` matches `"a"`.
fn opaque(tag: &str) -> String {
    tag.strip_prefix("W/").unwrap_or(tag).to_owned()
}

fn seconds(preference: &str) -> Option<u64> {
    let (name, value) = preference.split(';').next()?.split_once('=')?;
    if !name.trim().eq_ignore_ascii_case("wait") {
        return None;
    }
    let seconds: u64 = value.trim().trim_matches('"').parse().ok()?;
    Some(seconds.min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderValue, Request};

    use super::*;

    async fn conditional(headers: &[(HeaderName, &'static str)]) -> Conditional {
        let mut request = Request::new(());
        for (name, value) in headers {
            request.headers_mut().append(name, HeaderValue::from_static(value));
        }
        let (mut parts, ()) = request.into_parts();
        Conditional::from_request_parts(&mut parts, &()).await.unwrap()
    }

    #[tokio::test]
    async fn lists_and_weak_forms_match() {
        let tags = [(header::IF_NONE_MATCH, r#""a", W/"b""#), (header::IF_NONE_MATCH, r#""c""#)];
        let several = conditional(&tags).await;
        for tag in [r#""a""#, r#""b""#, r#""c""#] {
            assert!(several.knows(tag), "{tag}");
        }
        assert!(!several.knows(r#""d""#));
        assert!(conditional(&[(header::IF_NONE_MATCH, "*")]).await.knows(r#""d""#));
        assert!(!conditional(&[]).await.knows(r#""a""#));
    }

    #[tokio::test(start_paused = true)]
    async fn only_who_knows_a_state_waits() {
        let wait = async |prefer: &'static str| {
            let headers = [(header::IF_NONE_MATCH, r#""a""#), (PREFER, prefer)];
            (conditional(&headers).await.deadline() - Instant::now()).as_secs()
        };
        assert_eq!(wait("wait=25").await, 25);
        assert_eq!(wait("respond-async, wait=5; x=y").await, 5);
        assert_eq!(wait("wait=9999").await, LONGEST_WAIT);
        assert_eq!(wait("wait=soon").await, 0);
        assert_eq!(wait("wait=-1").await, 0);
        assert_eq!(conditional(&[(PREFER, "wait=25")]).await.deadline(), Instant::now());
    }
}
