//! The sections of the configuration, as types. `config/lobbyd.toml` documents their keys.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use serde::de::{DeserializeOwned, Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::{Secret, SecretUrl, SecretUrls};
use crate::logging::LogFormat;

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseConfig {
    pub url: SecretUrls,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url_file: Option<PathBuf>,
    pub max_connections: NonZeroU32,
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    pub migrate: bool,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EventsConfig {
    pub url: SecretUrls,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url_file: Option<PathBuf>,
    pub exchange: String,
    pub queue: String,
    pub dead_letter_queue: String,
    pub retry_queue: String,
    pub updates_exchange: String,
    #[serde(deserialize_with = "list")]
    pub required_queues: Vec<String>,
    pub declare: bool,
    pub prefetch: NonZeroU16,
    #[serde(with = "humantime_serde")]
    pub unknown_room_grace: Duration,
    #[serde(with = "humantime_serde")]
    pub max_clock_skew: Duration,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TimersConfig {
    pub batch: NonZeroU32,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct OutboxConfig {
    #[serde(with = "humantime_serde")]
    pub history: Duration,
    #[serde(with = "humantime_serde")]
    pub dead_after: Duration,
}

/// Cron schedules with seconds.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HousekeepingConfig {
    pub prune: String,
    pub summary: String,
    pub sessions: String,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {
    pub listen: SocketAddr,
    pub max_connections: NonZeroUsize,
    pub max_connections_per_address: NonZeroUsize,
    #[serde(with = "humantime_serde")]
    pub session_timeout: Duration,
    #[serde(deserialize_with = "list")]
    pub trusted_proxies: Vec<IpNet>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_header: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_header_secret: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_header_secret_file: Option<PathBuf>,
    #[serde(deserialize_with = "list")]
    pub hosts: Vec<String>,
    #[serde(deserialize_with = "list")]
    pub allowed_origins: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join_url: Option<String>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsConfig {
    pub rooms_per_user: NonZeroU32,
    pub guests_per_room: NonZeroU32,
    pub changes_per_minute: NonZeroU32,
    pub joins_per_minute: NonZeroU32,
    pub long_polls_per_client: NonZeroUsize,
    pub request_memory: NonZeroUsize,
    pub response_memory: NonZeroUsize,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SipConfig {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialin_info: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_secret: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_secret_file: Option<PathBuf>,
    #[serde(deserialize_with = "list")]
    pub groups: Vec<String>,
}

impl SipConfig {
    pub fn is_configured(&self) -> bool {
        let secret = self.shared_secret.as_ref().is_some_and(|secret| !secret.is_empty());
        secret && self.dialin_info.as_ref().is_some_and(|info| !info.is_empty())
    }
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TalkConfig {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<SecretUrl>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_url: Option<SecretUrls>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database_url_file: Option<PathBuf>,
    pub table: String,
    pub concurrency: NonZeroUsize,
    pub user_agent: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SignalingConfig {
    #[serde(with = "humantime_serde")]
    pub give_up_after: Duration,
    #[serde(deserialize_with = "tables")]
    pub servers: Vec<SignalingServer>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SignalingServer {
    pub url: SecretUrl,
    pub backend: SecretUrl,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secret>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
}

impl SignalingConfig {
    /// Takes over the secrets of the same servers, which a running program reloads.
    pub fn take_secrets(&mut self, next: &Self) {
        for server in &mut self.servers {
            if let Some(next) = next.servers.iter().find(|next| next.url == server.url) {
                server.secret.clone_from(&next.secret);
                server.secret_file.clone_from(&next.secret_file);
            }
        }
    }
}

impl SignalingServer {
    /// Whether its secret is in the same file.
    pub fn has_same_secret_file(&self, other: &Self) -> bool {
        self.url == other.url && self.secret_file.is_some() && self.secret_file == other.secret_file
    }
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct OpsConfig {
    pub listen: SocketAddr,
    #[serde(with = "humantime_serde")]
    pub overdue_after: Duration,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TracesConfig {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<SecretUrl>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    pub format: LogFormat,
    pub level: String,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ShutdownConfig {
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
}

/// A list, or a string with commas, which is how the environment gives one.
fn list<'de, D, T>(value: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Members {
        List(Vec<String>),
        Text(String),
    }
    let members = match Members::deserialize(value)? {
        Members::List(members) => members,
        Members::Text(text) => text.split(',').map(|member| member.trim().to_owned()).collect(),
    };
    members
        .into_iter()
        .filter(|member| !member.is_empty())
        .map(|member| member.parse().map_err(Error::custom))
        .collect()
}

/// A list of tables, in the environment as the text of a TOML array.
fn tables<'de, D, T>(value: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    struct Tables<T>(PhantomData<T>);

    impl<'de, T: DeserializeOwned> Visitor<'de> for Tables<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of tables, [{ … }, { … }]")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut tables: A) -> Result<Vec<T>, A::Error> {
            let mut all = Vec::new();
            while let Some(table) = tables.next_element()? {
                all.push(table);
            }
            Ok(all)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Vec<T>, E> {
            let table = toml::from_str::<BTreeMap<String, Vec<T>>>(&format!("list = {text}"));
            // The message of the parser would show the text, with its secrets.
            let mut table = table.map_err(|_shows_the_text| {
                E::custom("expected a TOML array of tables, [{ … }, { … }], with the keys of the reference")
            })?;
            Ok(table.remove("list").unwrap_or_default())
        }
    }

    value.deserialize_any(Tables(PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_may_be_a_string_with_commas() {
        let read = |groups: &str| -> Vec<String> {
            let sip: SipConfig = toml::from_str(&format!("groups = {groups}")).unwrap();
            sip.groups
        };
        assert_eq!(read(r#"["staff", "phone"]"#), ["staff", "phone"]);
        assert_eq!(read(r#""staff, phone""#), ["staff", "phone"]);
        assert!(read(r#""""#).is_empty() && read("[]").is_empty());
    }
}
