//! Requests to a Nextcloud Talk.
//!
//! Reading a room makes Talk reset it when its timer is over. The request is signed as the one of
//! the SIP bridge, an operation that Talk publishes; without the secret, anybody may read public
//! rooms. No status says whether a room is open: the caller reads the row.

mod answer;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

pub use self::answer::{Answer, Refused, Trouble};
use super::signature;
use crate::domain::{Lobby, RoomToken, SipState};
use crate::logging;

/// Bound of a request. A busy Talk answers within seconds; PHP gives up after 30 of them, and goes on
/// without its client until then.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A room is about 2 KiB. Of a longer body nothing is used.
const MAX_BODY_BYTES: usize = 256 * 1024;

/// What identifies lobbyd to a Talk.
#[derive(Clone, Default)]
pub struct Credentials {
    /// The secret of Talk's SIP bridge.
    pub secret: Option<SecretString>,
    /// User and app password, for changes of lobbies.
    pub account: Option<(String, SecretString)>,
}

/// A Nextcloud with Talk.
pub struct TalkClient {
    /// Ends in a slash.
    base: Url,
    http: Client,
    credentials: RwLock<Credentials>,
    /// How often secrets were replaced.
    replaced: AtomicU64,
}

impl fmt::Debug for TalkClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TalkClient").field("base", &self.base.as_str()).finish_non_exhaustive()
    }
}

impl TalkClient {
    /// `url` is that of the Nextcloud, with the path of a subfolder if it has one. Connects when it
    /// is first used. Returns what is wrong with the URL or the user agent.
    pub fn new(url: &str, user_agent: &str, credentials: Credentials) -> Result<Self, String> {
        let base = super::base_url(url)?;
        let http = super::client(TIMEOUT)
            .user_agent(user_agent)
            .build()
            .map_err(|error| logging::causes(&error))?;
        Ok(Self { base, http, credentials: RwLock::new(credentials), replaced: AtomicU64::new(0) })
    }

    /// The URL of the Nextcloud.
    pub fn url(&self) -> &str {
        self.base.as_str()
    }

    /// Whether rooms can be read that are not public.
    pub fn has_secret(&self) -> bool {
        self.credentials.read().secret.is_some()
    }

    /// Whether lobbies can be set.
    pub fn has_account(&self) -> bool {
        self.credentials.read().account.is_some()
    }

    /// How often secrets were replaced.
    pub fn secret_version(&self) -> u64 {
        self.replaced.load(Ordering::Relaxed)
    }

    /// Uses other credentials from now on.
    pub fn use_credentials(&self, credentials: Credentials) {
        *self.credentials.write() = credentials;
        self.replaced.fetch_add(1, Ordering::Relaxed);
    }

    /// Reads a room, which resets it if its timer is over. May be dropped at any time.
    pub async fn read_room(&self, token: &RoomToken) -> Answer {
        let mut request = self.http.get(self.endpoint(&["room", token.as_str()]));
        if let Some(secret) = &self.credentials.read().secret {
            let (random, checksum) = signature::sign(secret.expose_secret(), token.as_str());
            request = request
                .header("Talk-SIPBridge-Random", random)
                .header("Talk-SIPBridge-Checksum", checksum);
        }
        match self.send(request).await {
            Ok((StatusCode::OK, body)) => Answer::Read(sip_state(&body)),
            Ok((StatusCode::NOT_FOUND, body)) if is_unknown_app(&body) => {
                Answer::Trouble(Trouble::Missing(StatusCode::NOT_FOUND.as_u16()))
            }
            Ok((status, _body)) => Answer::of(status),
            Err(answer) => answer,
        }
    }

    /// Sets the lobby of a room, as the user of the account. Returns the state of the dial-in, if Talk
    /// tells it. May be dropped at any time: then nobody knows whether the lobby is set.
    pub async fn set_lobby(
        &self,
        token: &RoomToken,
        lobby: Lobby,
    ) -> Result<Option<SipState>, Refused> {
        let account = self.credentials.read().account.clone();
        let (user, password) = account.ok_or(Refused::NoAccount)?;
        let timer = lobby.timer.map(|timer| timer.timestamp());
        let body = json!({ "state": lobby.state.number(), "timer": timer });
        let request = self
            .http
            .put(self.endpoint(&["room", token.as_str(), "webinar", "lobby"]))
            .basic_auth(user, Some(password.expose_secret()))
            .header("Content-Type", "application/json")
            .body(body.to_string());
        match self.send(request).await {
            Ok((StatusCode::OK, body)) => Ok(sip_state(&body)),
            Ok((status, body)) => Err(Refused::of(status, &body)),
            Err(Answer::Unanswered) => Err(Refused::Failed("no answer".to_owned())),
            Err(answer) => Err(Refused::Trouble(answer.trouble())),
        }
    }

    /// Asks whether the Nextcloud is there, without any room. Returns the time that it tells, as in the
    /// header `Date`.
    pub async fn check(&self) -> Result<Option<String>, Trouble> {
        let mut url = self.base.clone();
        url.set_path(&format!("{}status.php", self.base.path()));
        let response = match self.http.get(url).send().await {
            Ok(response) => response,
            Err(error) => return Err(Trouble::Unreachable(logging::causes(&error.without_url()))),
        };
        let status = response.status();
        if status.is_redirection() || status.is_server_error() {
            return Err(Answer::of_response(&response).trouble());
        }
        let date = response.headers().get("date").and_then(|date| date.to_str().ok());
        let date = date.map(str::to_owned);
        let body = body_of(response).await.unwrap_or_default();
        match (body.get("installed"), body.get("maintenance")) {
            (Some(_), Some(Value::Bool(true))) => Err(Trouble::Maintenance),
            (Some(_), _) => Ok(date),
            (None, _) => Err(Trouble::Missing(status.as_u16())),
        }
    }

    fn endpoint(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments
                .pop_if_empty()
                .extend(["ocs", "v2.php", "apps", "spreed", "api", "v4"])
                .extend(path);
        }
        url
    }

    /// Sends a request of Talk's API. Answers other than redirects and those that stand for all
    /// requests are returned with their body.
    async fn send(&self, request: RequestBuilder) -> Result<(StatusCode, Value), Answer> {
        let request = request.header("OCS-APIRequest", "true").header("Accept", "application/json");
        let response = request.send().await.map_err(Answer::of_error)?;
        let status = response.status();
        if status.is_redirection() || matches!(status.as_u16(), 401 | 429 | 503) {
            let answer = Answer::of_response(&response);
            // Otherwise the connection could not be used again.
            body_of(response).await.ok();
            return Err(answer);
        }
        Ok((status, body_of(response).await.map_err(Answer::of_error)?))
    }
}

/// Reads a body to its end, so that the connection can be used again. A body that is not JSON or too
/// long is null.
async fn body_of(mut response: Response) -> reqwest::Result<Value> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_BODY_BYTES {
            return Ok(Value::Null);
        }
    }
    Ok(serde_json::from_slice(&body).unwrap_or_default())
}

/// Whether Nextcloud itself has answered, because Talk is disabled: OCS 998.
fn is_unknown_app(body: &Value) -> bool {
    body.pointer("/ocs/meta/statuscode").and_then(Value::as_i64) == Some(998)
}

/// What Talk says about dial-in to a room, in the body of a response.
fn sip_state(body: &Value) -> Option<SipState> {
    body.pointer("/ocs/data/sipEnabled").and_then(Value::as_i64).map(SipState::from)
}
