//! What Talk's answers mean for the next request.

use std::time::Duration;

use reqwest::header::{LOCATION, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use serde_json::Value;

use crate::domain::SipState;
use crate::logging;

/// Shortest and longest time that Talk may ask to wait.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_mins(30);

/// How Talk answered the request for a room. The row says whether the room is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// With the state of the dial-in, if Talk tells it.
    Read(Option<SipState>),
    /// Talk has no such room, or does not show it. To ask again counts as an attack.
    NotFound,
    /// Talk failed, perhaps after it has opened the room.
    Failed(u16),
    /// The connection ended without an answer, or none came in time.
    Unanswered,
    /// Every other request would be answered in the same way.
    Trouble(Trouble),
}

/// Why no request can succeed at present.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    #[error("Talk does not accept the secret: talk.secret_file has to be that of its SIP bridge")]
    Unauthorized,
    /// With the time after which Talk allows another request, if it tells.
    #[error(
        "Talk's protection from brute force blocks lobbyd's address: exempt it (occ config:app:set \
         bruteForce whitelist_N --value=ADDRESS/32, with an N that is not in use)"
    )]
    Blocked(Option<Duration>),
    #[error("Nextcloud is in maintenance mode or not available (status 503)")]
    Maintenance,
    #[error("Nextcloud redirects to {0}: talk.url has to be the address without redirects")]
    Redirected(String),
    #[error("Nextcloud cannot be reached: {0}")]
    Unreachable(String),
    /// With the status.
    #[error("no Talk answers at talk.url (status {0}): is the app enabled, is the address right?")]
    Missing(u16),
    #[error("Talk fails for every room (last: {0})")]
    Failing(String),
}

/// Why a lobby was not set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("lobbies in Talk are set by an account, and talk.user is not configured")]
    NoAccount,
    /// Talk would refuse the same request again.
    #[error("Talk refused the lobby: {0}")]
    Final(String),
    /// The same request may succeed later.
    #[error("Talk could not set the lobby: {0}")]
    Failed(String),
    /// No lobby can be set at present.
    #[error("{}", account_problem(.0))]
    Trouble(Trouble),
}

impl Answer {
    /// The name of the outcome in the metric.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Read(_) => "ok",
            Self::NotFound | Self::Trouble(Trouble::Missing(_)) => "not_found",
            Self::Failed(_) => "failed",
            Self::Unanswered => "unanswered",
            Self::Trouble(Trouble::Unauthorized) => "unauthorized",
            Self::Trouble(Trouble::Blocked(_)) => "blocked",
            Self::Trouble(Trouble::Maintenance) => "maintenance",
            Self::Trouble(Trouble::Redirected(_)) => "redirected",
            Self::Trouble(Trouble::Unreachable(_) | Trouble::Failing(_)) => "unreachable",
        }
    }

    /// The problem of an answer that is none for the room, for people.
    pub fn problem(&self) -> String {
        match self {
            Self::Read(_) => "Talk does not open the room".to_owned(),
            Self::NotFound => "Talk does not show the room (status 404)".to_owned(),
            Self::Failed(status) => format!("status {status}"),
            Self::Unanswered => "no answer".to_owned(),
            Self::Trouble(trouble) => trouble.to_string(),
        }
    }

    pub(super) fn trouble(self) -> Trouble {
        match self {
            Self::Trouble(trouble) => trouble,
            Self::Read(_) | Self::NotFound | Self::Failed(_) | Self::Unanswered => {
                Trouble::Failing(self.problem())
            }
        }
    }

    /// The meaning of a status that concerns one room.
    pub(super) fn of(status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => Self::NotFound,
            other => Self::Failed(other.as_u16()),
        }
    }

    pub(super) fn of_response(response: &Response) -> Self {
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let retry_after = || {
            let seconds = header(RETRY_AFTER)?.parse().ok();
            seconds.map(|seconds| Duration::from_secs(seconds).clamp(SHORTEST_WAIT, LONGEST_WAIT))
        };
        Self::Trouble(match response.status() {
            StatusCode::UNAUTHORIZED => Trouble::Unauthorized,
            StatusCode::TOO_MANY_REQUESTS => Trouble::Blocked(retry_after()),
            StatusCode::SERVICE_UNAVAILABLE => Trouble::Maintenance,
            status if status.is_redirection() => {
                let target = header(LOCATION).unwrap_or("another address");
                Trouble::Redirected(target.chars().take(200).collect())
            }
            status => return Self::of(status),
        })
    }

    pub(super) fn of_error(error: reqwest::Error) -> Self {
        if error.is_timeout() && !error.is_connect() {
            return Self::Unanswered;
        }
        let is_sent = !error.is_connect() && !error.is_builder();
        let problem = logging::causes(&error.without_url());
        // A connection that ends without an answer may be the fault of one room.
        if is_sent { Self::Unanswered } else { Self::Trouble(Trouble::Unreachable(problem)) }
    }
}

/// The problem of a request of the account.
fn account_problem(trouble: &Trouble) -> String {
    if *trouble == Trouble::Unauthorized {
        "Talk does not accept talk.user with talk.password".to_owned()
    } else {
        trouble.to_string()
    }
}

impl Refused {
    pub(super) fn of(status: StatusCode, body: &Value) -> Self {
        let reason = body.pointer("/ocs/data/error").and_then(Value::as_str);
        let text = match reason {
            Some(reason) => format!("status {} ({reason})", status.as_u16()),
            None => format!("status {}", status.as_u16()),
        };
        if status.is_client_error() { Self::Final(text) } else { Self::Failed(text) }
    }
}
