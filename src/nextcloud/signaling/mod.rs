//! Requests to a signaling server of Talk, the "High Performance Backend", as its Talk sends them.
//!
//! The server passes the properties of a room on to its users and to all who have joined it. It takes
//! them for the newest, whatever they say: the caller sends the requests about a room one after the
//! other, each with the room as it is then.

mod message;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use reqwest::header::{CONTENT_TYPE, LOCATION, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};

use self::message::{empty_message, messages};
use super::signature;
use crate::domain::{Room, RoomToken};
use crate::logging;

/// Bound of a request. The server reads and writes for 15 seconds at most.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Shortest and longest time that a server may ask to wait.
const RETRY_AFTER_BOUNDS: [Duration; 2] = [Duration::from_secs(10), Duration::from_mins(30)];

/// Tokens of Talk have no hyphen.
const NO_ROOM: &str = "lobbyd-check";

/// Characters of what a server says that are shown.
const MAX_SHOWN: usize = 200;

/// Why a room was not told to a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignalingFault {
    /// To send more would do harm.
    #[error(transparent)]
    Stop(#[from] SignalingStop),
    /// The server does not work, perhaps for a moment.
    #[error("{0}")]
    Failing(String),
    /// The server has not answered in time. It may do so yet, and a refusal is answered late.
    #[error("the signaling server does not answer in time")]
    Unanswered,
    /// The server does not take this room.
    #[error("the signaling server does not take this room: status {0}")]
    Refused(u16),
}

/// Why nothing may be sent to a server for a while.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignalingStop {
    #[error(
        "the signaling server refuses the secret, or does not know the backend: `secret` and `backend` \
         of signaling.servers have to be those of a backend in its server.conf"
    )]
    Unauthorized,
    /// With the time after which the server takes another request, if it tells.
    #[error(
        "the signaling server's protection from brute force blocks lobbyd's address, after requests \
         with a wrong secret"
    )]
    Blocked(Option<Duration>),
}

impl SignalingFault {
    fn of_error(error: reqwest::Error) -> Self {
        if error.is_timeout() && !error.is_connect() {
            Self::Unanswered
        } else {
            Self::Failing(logging::causes(&error.without_url()))
        }
    }

    /// The name of the outcome in the metric.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Stop(SignalingStop::Unauthorized) => "unauthorized",
            Self::Stop(SignalingStop::Blocked(_)) => "blocked",
            Self::Failing(_) => "failed",
            Self::Unanswered => "unanswered",
            Self::Refused(_) => "refused",
        }
    }
}

/// A signaling server, and the backend for which it is told of rooms.
pub struct SignalingClient {
    /// Ends in a slash.
    base: Url,
    backend: Url,
    http: Client,
    secret: RwLock<SecretString>,
    /// How often the secret was replaced.
    replaced: AtomicU64,
}

impl fmt::Debug for SignalingClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignalingClient").field("base", &self.base.as_str()).finish_non_exhaustive()
    }
}

impl SignalingClient {
    /// `url` is that of the server, as clients or as Talk are given it; `backend` that of the
    /// Nextcloud. Connects when it is first used. Returns what is wrong with a URL, and with which.
    pub fn new(
        url: &str,
        backend: &str,
        secret: SecretString,
    ) -> Result<Self, (&'static str, String)> {
        let base = server_url(url).map_err(|problem| ("url", problem))?;
        let backend = super::base_url(backend).map_err(|problem| ("backend", problem))?;
        let http = super::client(TIMEOUT).user_agent(concat!("lobbyd/", env!("CARGO_PKG_VERSION")));
        let http = http.build().map_err(|error| ("url", logging::causes(&error)))?;
        let (secret, replaced) = (RwLock::new(secret), AtomicU64::new(0));
        Ok(Self { base, backend, http, secret, replaced })
    }

    /// Its address, which identifies it.
    pub fn url(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// Whether it is the client of the server at this address.
    pub fn is_for(&self, url: &str) -> bool {
        server_url(url).is_ok_and(|url| url == self.base)
    }

    /// Another number after the secret was replaced.
    pub fn secret_version(&self) -> u64 {
        self.replaced.load(Ordering::Relaxed)
    }

    /// Uses this secret from now on. Returns whether it is another one.
    pub fn use_secret(&self, secret: SecretString) -> bool {
        let mut current = self.secret.write();
        let is_new = current.expose_secret() != secret.expose_secret();
        *current = secret;
        self.replaced.fetch_add(u64::from(is_new), Ordering::Relaxed);
        is_new
    }

    /// Takes the secret for another one, because the server may accept it now.
    pub fn try_secret_again(&self) {
        self.replaced.fetch_add(1, Ordering::Relaxed);
    }

    /// The messages that tell a room to these users, wherever they are connected, and to all who have
    /// joined it: one, or several for many users.
    pub fn messages(room: &Room, users: &[String]) -> Vec<String> {
        messages(room, users)
    }

    /// Sends one of the messages about a room. May be dropped at any time: then nobody knows who was
    /// told.
    pub async fn tell(&self, token: &RoomToken, message: String) -> Result<(), SignalingFault> {
        self.send(&self.endpoint(token.as_str()), message).await
    }

    /// Tries address, backend and secret, by a request that changes nothing.
    pub async fn check(&self) -> Result<(), SignalingFault> {
        self.send(&self.endpoint(NO_ROOM), empty_message()).await
    }

    fn endpoint(&self, token: &str) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(["api", "v1", "room", token]);
        }
        url
    }

    /// Sends the bytes that are signed.
    async fn send(&self, url: &Url, message: String) -> Result<(), SignalingFault> {
        let (random, checksum) = signature::sign(self.secret.read().expose_secret(), &message);
        let request = self
            .http
            .post(url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header("Spreed-Signaling-Random", random)
            .header("Spreed-Signaling-Checksum", checksum)
            .header("Spreed-Signaling-Backend", self.backend.as_str())
            .body(message);
        let mut response = request.send().await.map_err(SignalingFault::of_error)?;
        outcome(&response)?;
        // To its end, so that the connection can be used again.
        while response.chunk().await.map_err(SignalingFault::of_error)?.is_some() {}
        Ok(())
    }
}

/// The URL of requests. Talk may have that of websockets.
fn server_url(url: &str) -> Result<Url, String> {
    match url.split_once("://") {
        Some(("ws", rest)) => super::base_url(&format!("http://{rest}")),
        Some(("wss", rest)) => super::base_url(&format!("https://{rest}")),
        _other => super::base_url(url),
    }
}

/// What a status says about the room, or about all of them.
fn outcome(response: &Response) -> Result<(), SignalingFault> {
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    Err(match response.status() {
        status if status.is_success() => {
            let is_json = header(CONTENT_TYPE).is_some_and(|it| it.starts_with("application/json"));
            if is_json {
                return Ok(());
            }
            SignalingFault::Failing("the server at this address is no signaling server".to_owned())
        }
        StatusCode::FORBIDDEN => SignalingStop::Unauthorized.into(),
        StatusCode::TOO_MANY_REQUESTS => {
            let seconds = header(RETRY_AFTER).and_then(|seconds| seconds.parse().ok());
            let [shortest, longest] = RETRY_AFTER_BOUNDS;
            let wait = seconds.map(|it| Duration::from_secs(it).clamp(shortest, longest));
            SignalingStop::Blocked(wait).into()
        }
        status if status.is_redirection() => {
            let target: String =
                header(LOCATION).unwrap_or("another address").chars().take(MAX_SHOWN).collect();
            SignalingFault::Failing(format!(
                "the signaling server redirects to {target}: `url` in signaling.servers has to be the \
                 address without redirects"
            ))
        }
        status @ (StatusCode::BAD_REQUEST
        | StatusCode::LENGTH_REQUIRED
        | StatusCode::PAYLOAD_TOO_LARGE) => SignalingFault::Refused(status.as_u16()),
        // The server itself takes every token of Talk, known or not.
        status if status.is_client_error() => SignalingFault::Failing(format!(
            "status {}: `url` in signaling.servers may have the wrong path",
            status.as_u16()
        )),
        status => SignalingFault::Failing(format!("status {}", status.as_u16())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_websockets_is_that_of_requests() {
        for (url, expected) in [
            ("wss://hpb.example", "https://hpb.example/"),
            ("ws://127.0.0.1:8080/", "http://127.0.0.1:8080/"),
            ("https://hpb.example/signaling/", "https://hpb.example/signaling/"),
        ] {
            assert_eq!(server_url(url).unwrap().as_str(), expected);
        }
        for url in ["ftp://hpb.example", "https://user@hpb.example", "hpb.example"] {
            assert!(server_url(url).is_err(), "{url}");
        }
    }
}
