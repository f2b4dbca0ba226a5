//! Values that are never shown: not by `Debug`, not by `lobbyd config check`, not in the log.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};

#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Secret(SecretString);

impl Secret {
    /// The secret itself, for the code that compares it.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.expose_secret().is_empty()
    }
}

impl From<String> for Secret {
    fn from(secret: String) -> Self {
        Self(secret.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

/// What a URL with a password has to look like.
const UNCLEAR: &str = "expected one URL; in its user and password, percent-encode / as %2F, # as %23, \
                       ? as %3F and @ as %40";

/// A URL that may hold a password: shown without it.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct SecretUrl(SecretString);

impl PartialEq for SecretUrl {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl SecretUrl {
    /// The URL with its password, for the code that connects.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Whether it names the bus inside the process, which no other process can reach.
    pub fn is_in_process(&self) -> bool {
        self.expose().starts_with("memory:")
    }

    /// Refuses a URL of which a part may be the rest of a password.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.is_unclear() { Err(UNCLEAR) } else { Ok(()) }
    }

    /// Whether an `@` stands where no user and password end: behind a `/`, `#` or `?` that was not
    /// encoded, in another URL of a list, or in a text that is no URL.
    fn is_unclear(&self) -> bool {
        let Some((scheme, rest)) = self.expose().split_once("://") else { return false };
        let end = rest.find(['/', '\\', '?', '#']).unwrap_or(rest.len());
        let (authority, behind) = rest.split_at(end);
        let is_url = url::Url::parse(self.expose()).is_ok();
        scheme != "sqlite" && (behind.contains('@') || (authority.contains('@') && !is_url))
    }

    /// The URL with stars instead of its password, which can be in a query parameter too.
    pub fn redacted(&self) -> String {
        if self.is_unclear() {
            return "[hidden]".to_owned();
        }
        let Ok(mut url) = url::Url::parse(self.expose()) else {
            return "[not a URL]".to_owned();
        };
        if url.password().is_some() && url.set_password(Some("***")).is_err() {
            return "[hidden]".to_owned();
        }
        let shown: Vec<(String, String)> = url
            .query_pairs()
            .map(|(key, value)| {
                let secret =
                    ["pass", "key", "secret", "token"].iter().any(|word| key.contains(word));
                let value = if secret { "***" } else { &*value };
                (key.into_owned(), value.to_owned())
            })
            .collect();
        if !shown.is_empty() {
            url.query_pairs_mut().clear().extend_pairs(shown);
        }
        url.to_string()
    }
}

impl From<String> for SecretUrl {
    fn from(url: String) -> Self {
        Self(url.into())
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

impl Serialize for SecretUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.redacted())
    }
}
