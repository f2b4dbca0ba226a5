//! URLs that may hold a password.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a URL with a password has to look like.
const UNCLEAR: &str = "expected a URL; in its user and password, percent-encode / as %2F, # as %23, \
                       ? as %3F and @ as %40";

/// How several servers are named.
const SEVERAL: &str = "expected one host in each URL; several URLs are a list, [\"…\", \"…\"], or are \
                       separated by white space";

const SESSION_ATTRS: &str =
    "expected target_session_attrs=read-write, or none: lobbyd has to write";

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

    /// Refuses a URL of which a part may be the rest of a password, or which names several servers.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let attributes = self.expose().split_once("target_session_attrs=");
        if self.names_several() {
            Err(SEVERAL)
        } else if attributes.is_some_and(|(_, value)| !value.starts_with("read-write")) {
            Err(SESSION_ATTRS)
        } else if self.is_unclear() {
            Err(UNCLEAR)
        } else {
            Ok(())
        }
    }

    /// Whether there is another URL in this one, or several hosts.
    fn names_several(&self) -> bool {
        let Some((scheme, rest)) = self.expose().split_once("://") else { return false };
        if scheme == "sqlite" {
            return false;
        }
        let (authority, behind) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let hosts = authority.rsplit('@').next().unwrap_or_default();
        let mut parameters = behind.split(['?', '&']).skip(1);
        let several = |parameter: &str| parameter.starts_with("host") && parameter.contains(',');
        hosts.contains(',') || behind.contains("://") || parameters.any(several)
    }

    /// Whether an `@` stands where no user and password end: behind a `/`, `#` or `?` that was not
    /// encoded, in another URL of a list, in a text that is no URL, or where slashes are missing.
    fn is_unclear(&self) -> bool {
        let Some((scheme, rest)) = self.expose().split_once("://") else {
            return !self.expose().starts_with("sqlite:") && self.expose().contains('@');
        };
        let end = rest.find(['/', '\\', '?', '#']).unwrap_or(rest.len());
        let (authority, behind) = rest.split_at(end);
        let is_url = url::Url::parse(self.expose()).is_ok();
        scheme != "sqlite" && (behind.contains('@') || (authority.contains('@') && !is_url))
    }

    /// The URL with stars instead of its password, which can be in a query parameter too.
    pub fn redacted(&self) -> String {
        if self.is_unclear() || self.names_several() {
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

/// The URLs of one database or broker, which are tried in turn. In a text they are separated by white
/// space.
#[derive(Debug, Clone, PartialEq)]
pub struct SecretUrls(Vec<SecretUrl>);

impl SecretUrls {
    /// The URLs with their passwords, for the code that connects.
    pub fn expose(&self) -> Vec<&str> {
        self.iter().map(SecretUrl::expose).collect()
    }

    pub fn iter(&self) -> impl Iterator<Item = &SecretUrl> {
        self.0.iter()
    }

    /// Whether they name the bus inside the process, which no other process can reach.
    pub fn is_in_process(&self) -> bool {
        self.iter().any(|url| url.expose().starts_with("memory:"))
    }

    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.0.is_empty() {
            return Err("expected a URL");
        }
        self.iter().try_for_each(SecretUrl::check)
    }

    /// The URLs without their passwords.
    pub fn redacted(&self) -> String {
        self.iter().map(SecretUrl::redacted).collect::<Vec<_>>().join(" ")
    }
}

impl From<String> for SecretUrls {
    fn from(text: String) -> Self {
        let parts: Vec<&str> = text.split_whitespace().collect();
        // A file's name may have spaces.
        if parts.iter().all(|part| part.contains(':')) {
            Self(parts.into_iter().map(|part| part.to_owned().into()).collect())
        } else {
            Self(vec![text.into()])
        }
    }
}

impl<'de> Deserialize<'de> for SecretUrls {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a URL or a list of URLs")]
        enum Urls {
            One(String),
            Several(Vec<SecretUrl>),
        }
        Ok(match Urls::deserialize(value)? {
            Urls::One(text) => text.into(),
            Urls::Several(urls) => Self(urls),
        })
    }
}

impl Serialize for SecretUrls {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [url] => url.serialize(serializer),
            urls => urls.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_a_list_or_separated_by_white_space() {
        let read = |toml: &str| -> Vec<String> {
            #[derive(Deserialize)]
            struct Section {
                url: SecretUrls,
            }
            let section: Section = toml::from_str(toml).unwrap();
            section.url.expose().into_iter().map(str::to_owned).collect()
        };
        let two = ["amqp://u:p@a/%2f", "amqp://u:p@b/%2f"];
        assert_eq!(read(r#"url = ["amqp://u:p@a/%2f", "amqp://u:p@b/%2f"]"#), two);
        assert_eq!(read(r#"url = "amqp://u:p@a/%2f  amqp://u:p@b/%2f""#), two);
        assert_eq!(read(r#"url = """amqp://u:p@a/%2f\namqp://u:p@b/%2f""""#), two);
        assert_eq!(read(r#"url = "sqlite:///my files/a.db""#), ["sqlite:///my files/a.db"]);
        assert_eq!(
            SecretUrls::from(two.join(" ")).redacted(),
            "amqp://u:***@a/%2f amqp://u:***@b/%2f"
        );
    }

    #[test]
    fn one_host_stands_in_a_url() {
        let check = |url: &str| SecretUrl::from(url.to_owned()).check();
        for url in [
            "postgres://a/x",
            "postgres://u:p,q@a:5432/x?sslmode=verify-full&target_session_attrs=read-write",
            "amqp://u:p@[::1]:5672/a,b",
            "sqlite:///a,b.db",
        ] {
            assert_eq!(check(url), Ok(()), "{url}");
        }
        for url in ["amqp://a,b/%2f", "amqp://a/%2f,amqp://b/%2f", "postgres:///x?hostaddr=a,b"] {
            assert_eq!(check(url), Err(SEVERAL), "{url}");
        }
        let standby = check("postgres://a/x?target_session_attrs=prefer-standby");
        assert_eq!(standby, Err(SESSION_ATTRS));
    }
}
