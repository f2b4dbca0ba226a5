//! Errors of the API: which status and which data a refusal or a failure is answered with.
//!
//! Whether something is refused is decided by `domain`. The causes of failures are never sent;
//! [`middleware`](super::super::middleware) logs them. Every extractor and handler returns this
//! error.

use std::fmt::Display;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::{Content, OcsResponse};
use crate::auth::LoginError;
use crate::domain::Session;
use crate::domain::commands::Refusal;
use crate::logging;
use crate::rooms::{Limit, RoomError};

/// How users log in, RFC 7617.
const CHALLENGE: &str = "Basic realm=\"lobbyd\", charset=\"UTF-8\"";

/// How long clients should wait before they retry while the database is unavailable.
const UNAVAILABLE_RETRY: Duration = Duration::from_secs(2);

/// How long clients should wait before they retry while others occupy the memory.
const OVERLOADED_RETRY: Duration = Duration::from_secs(1);

/// A refusal or a failure.
#[derive(Debug)]
pub(in crate::http::api) struct OcsError {
    status: StatusCode,
    message: String,
    /// Talk's identifier of the problem, or what the client needs to proceed.
    data: Value,
    retry_after: Option<Duration>,
    failure: Option<Failure>,
}

/// What the log says about a request that could not be executed, with the cause.
#[derive(Debug, Clone)]
pub(in crate::http::api) enum Failure {
    DatabaseUnavailable(String),
    Internal(String),
}

impl Failure {
    pub(in crate::http::api) fn log(&self) {
        match self {
            Self::DatabaseUnavailable(cause) => {
                tracing::warn!(error = cause, "database unavailable, request refused");
            }
            Self::Internal(cause) => tracing::error!(error = cause, "request failed"),
        }
    }
}

impl OcsError {
    pub(in crate::http::api) fn new(status: StatusCode, message: impl Display) -> Self {
        let message = message.to_string();
        Self { status, message, data: json!([]), retry_after: None, failure: None }
    }

    /// 400 with Talk's identifier of the problem.
    pub(in crate::http::api) fn invalid(problem: &str, message: impl Display) -> Self {
        Self { data: json!({ "error": problem }), ..Self::new(StatusCode::BAD_REQUEST, message) }
    }

    /// 429: too many wrong passwords came from this address.
    fn throttled(wait: Duration) -> Self {
        let message = "too many wrong passwords from this address, try again later";
        Self { retry_after: Some(wait), ..Self::new(StatusCode::TOO_MANY_REQUESTS, message) }
    }

    /// 429, or 503 if it is not this client that does too much.
    fn limited(limit: Limit, wait: Duration) -> Self {
        metrics::counter!(crate::metrics::LIMITED, "limit" => limit.name()).increment(1);
        let status = match limit {
            Limit::AllLongPolls => StatusCode::SERVICE_UNAVAILABLE,
            Limit::Changes(_)
            | Limit::Joins(_)
            | Limit::LongPolls(_)
            | Limit::Rooms(_)
            | Limit::Guests(_)
            | Limit::Hashes
            | Limit::UnknownRooms => StatusCode::TOO_MANY_REQUESTS,
        };
        Self { retry_after: Some(wait), ..Self::new(status, limit) }
    }

    /// 503: all clients together ask for more than the `limit` allows.
    pub(in crate::http::api) fn overloaded(limit: &'static str, message: impl Display) -> Self {
        metrics::counter!(crate::metrics::LIMITED, "limit" => limit).increment(1);
        let retry_after = Some(OVERLOADED_RETRY);
        Self { retry_after, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message) }
    }

    /// 500: this response alone exceeds the `limit`, also when it is asked for again.
    pub(in crate::http::api) fn too_large(limit: &'static str) -> Self {
        metrics::counter!(crate::metrics::LIMITED, "limit" => limit).increment(1);
        let message = "the response is too large, ask for a part of it".to_owned();
        Self { message, ..Self::internal("a response exceeds a quarter of limits.response_memory") }
    }

    /// 500. The log contains the cause, under the request's id.
    pub(in crate::http::api) fn internal(cause: impl Into<String>) -> Self {
        let failure = Some(Failure::Internal(cause.into()));
        Self { failure, ..Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error") }
    }
}

impl From<Refusal> for OcsError {
    fn from(refusal: Refusal) -> Self {
        let status = match &refusal {
            Refusal::NoRoom
            | Refusal::NoParticipant
            | Refusal::NoUser
            | Refusal::NoMessage
            | Refusal::NoBan
            | Refusal::NotJoined => StatusCode::NOT_FOUND,
            Refusal::NotDeletable => StatusCode::METHOD_NOT_ALLOWED,
            Refusal::LoginNeeded | Refusal::SipNotAllowed => StatusCode::UNAUTHORIZED,
            Refusal::NotModerator
            | Refusal::Forbidden(_)
            | Refusal::WrongPassword
            | Refusal::Banned => StatusCode::FORBIDDEN,
            Refusal::Invalid { .. } | Refusal::InvalidLobby(_) => StatusCode::BAD_REQUEST,
            Refusal::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
            Refusal::Lobby | Refusal::SipNotConfigured => StatusCode::PRECONDITION_FAILED,
            Refusal::AlreadyJoined(_) => StatusCode::CONFLICT,
        };
        let data = match (&refusal, refusal.what()) {
            (Refusal::AlreadyJoined(Session { id, in_call, last_ping, .. }), _) => {
                json!({ "sessionId": id, "inCall": in_call.bits(), "lastPing": last_ping })
            }
            (_, Some(problem)) => json!({ "error": problem }),
            (_, None) => json!([]),
        };
        Self { data, ..Self::new(status, refusal) }
    }
}

impl From<RoomError> for OcsError {
    fn from(error: RoomError) -> Self {
        match error {
            RoomError::Refused(refusal) => refusal.into(),
            RoomError::Throttled(wait) => Self::throttled(wait),
            RoomError::Limited { limit, wait } => Self::limited(limit, wait),
            RoomError::Unavailable(error) => Self {
                retry_after: Some(UNAVAILABLE_RETRY),
                failure: Some(Failure::DatabaseUnavailable(logging::causes(&error))),
                ..Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the database is unavailable, try again",
                )
            },
            RoomError::Internal(error) => Self::internal(logging::causes(&error)),
        }
    }
}

impl From<LoginError> for OcsError {
    fn from(error: LoginError) -> Self {
        match error {
            LoginError::Wrong => Self::new(StatusCode::UNAUTHORIZED, "user or password is wrong"),
            LoginError::Throttled(wait) => Self::throttled(wait),
            LoginError::Store(error) => RoomError::from(error).into(),
        }
    }
}

impl IntoResponse for OcsError {
    fn into_response(self) -> Response {
        let mut headers = HeaderMap::new();
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
        }
        if let Some(wait) = self.retry_after {
            headers.insert(header::RETRY_AFTER, wait.as_secs().saturating_add(1).into());
        }
        let Self { message, data, failure, .. } = self;
        let content = Content { message: message.into(), data: Box::new(data), failure };
        OcsResponse { status: self.status, headers, content: Some(content) }.into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_talks_status() {
        let status = |refusal: Refusal| OcsError::from(refusal).status.as_u16();
        assert_eq!(status(Refusal::Lobby), 412);
        assert_eq!(status(Refusal::SipNotConfigured), 412);
        assert_eq!(status(Refusal::LoginNeeded), 401);
        assert_eq!(status(Refusal::NoRoom), 404);
        assert_eq!(status(Refusal::TooLong), 413);
    }
}
