//! Requests to a Nextcloud: to its [Talk](TalkClient), and to Talk's [signaling
//! servers](SignalingClient). These are the only HTTP clients of lobbyd.
//!
//! Each request is sent once, over TLS by rustls if the URL says so, in limited time, and follows no
//! redirect: its headers would prove to another server that the sender knows the secret. The callers
//! decide what is tried again, and when. Secrets are in headers only, which no error and no log line
//! shows.

mod signaling;
mod signature;
mod talk;

use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, Url};

pub use self::signaling::{SignalingClient, SignalingFault, SignalingStop};
pub use self::talk::{Answer, Credentials, Refused, TalkClient, Trouble};

/// Bound of a connection attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long an idle connection is kept: web servers close theirs after some seconds too.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// A client that follows no redirects. A request may take up to `timeout`.
fn client(timeout: Duration) -> ClientBuilder {
    Client::builder()
        .redirect(Policy::none())
        // The other side has to see lobbyd's own address.
        .no_proxy()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(timeout)
        .pool_idle_timeout(IDLE_TIMEOUT)
}

/// The base of the URLs of a server, which ends in a slash. Returns what is wrong with `url`.
fn base_url(url: &str) -> Result<Url, String> {
    let mut base = Url::parse(url).map_err(|error| error.to_string())?;
    if !matches!(base.scheme(), "http" | "https") || !base.has_host() {
        return Err("expected https://host, perhaps with a path".to_owned());
    }
    if !base.username().is_empty() || base.password().is_some() {
        return Err("expected no user and no password in it".to_owned());
    }
    if base.query().is_some() || base.fragment().is_some() {
        return Err("expected no query and no fragment".to_owned());
    }
    if !base.path().ends_with('/') {
        base.set_path(&format!("{}/", base.path()));
    }
    Ok(base)
}
