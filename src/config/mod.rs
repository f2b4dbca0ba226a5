//! The configuration: embedded defaults, a file over them, the environment over both.
//!
//! `config/lobbyd.toml` is default and documentation in one. This module reads and checks single
//! values; what only a part can judge (a URL, a schedule) that part refuses when `app` builds it,
//! also before anything starts. Its types stop at `app` and the command line.

mod change;
mod secret;

use std::{
    fmt,
    net::SocketAddr,
    num::{NonZeroU16, NonZeroU32, NonZeroUsize},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use ::config::{Environment, File, FileFormat};
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize};

pub use self::secret::{Secret, SecretUrl};
use crate::logging::LogFormat;

/// The defaults, and the reference.
pub const DEFAULTS: &str = include_str!("../../config/lobbyd.toml");

/// The file that is read without being asked for.
const SYSTEM_FILE: &str = "/etc/lobbyd/lobbyd.toml";

/// Prefix and separator of the environment. Two underscores, because Kubernetes injects
/// `LOBBYD_PORT` and the like for a service of that name.
const SEPARATOR: &str = "__";

/// Names the folder of the secrets that systemd passes to a service, see `LoadCredential=`.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// All of it.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where rooms and outbox are.
    pub database: Database,
    /// Where events come from and go to.
    pub events: Events,
    /// The timer loop.
    pub timers: Timers,
    /// What is kept of published events.
    pub outbox: Outbox,
    /// Schedules of what is not punctual.
    pub housekeeping: Housekeeping,
    /// The HTTP API.
    pub http: Http,
    /// Dial-in.
    pub sip: Sip,
    /// Probes and metrics.
    pub ops: Ops,
    /// Where spans go.
    pub traces: Traces,
    /// What is logged, and how.
    pub log: Log,
    /// How the process ends.
    pub shutdown: Shutdown,
}

/// Section `database`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// `sqlite:`, `postgres:` or `mysql:`.
    pub url: SecretUrl,
    /// A file with the URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url_file: Option<PathBuf>,
    /// Upper bound of open connections.
    pub max_connections: NonZeroU32,
    /// Bound of one use.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Whether to migrate at the start.
    pub migrate: bool,
}

/// Section `events`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Events {
    /// `memory:`, `amqp:` or `amqps:`.
    pub url: SecretUrl,
    /// A file with the URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url_file: Option<PathBuf>,
    /// Topic exchange.
    pub exchange: String,
    /// Queue of lobby changes.
    pub queue: String,
    /// Queue of what cannot be applied.
    pub dead_letter_queue: String,
    /// Whether to declare the topology.
    pub declare: bool,
    /// Bound of unacknowledged deliveries.
    pub prefetch: NonZeroU16,
    /// How long an event waits for its room.
    #[serde(with = "humantime_serde")]
    pub unknown_room_grace: Duration,
}

/// Section `timers`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Timers {
    /// Rooms per transaction, events per round of publishing.
    pub batch: NonZeroU32,
}

/// Section `outbox`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Outbox {
    /// Age at which published events go.
    #[serde(with = "humantime_serde")]
    pub history: Duration,
    /// Age at which unpublished events go.
    #[serde(with = "humantime_serde")]
    pub dead_after: Duration,
}

/// Section `housekeeping`: cron schedules with seconds.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Housekeeping {
    /// Deletes old rows.
    pub prune: String,
    /// Counts what waits.
    pub gauges: String,
    /// Logs a line about the day.
    pub summary: String,
    /// Ends sessions.
    pub sessions: String,
}

/// Section `http`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Upper bound of open connections.
    pub max_connections: NonZeroUsize,
    /// The same, of one address.
    pub max_connections_per_address: NonZeroUsize,
    /// How long a session lasts without a sign of life.
    #[serde(with = "humantime_serde")]
    pub session_timeout: Duration,
    /// Networks of proxies whose headers are believed.
    #[serde(deserialize_with = "list")]
    pub trusted_proxies: Vec<IpNet>,
    /// Header in which they name a user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_header: Option<String>,
}

/// Section `sip`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Sip {
    /// How to dial in, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialin_info: Option<String>,
    /// Shared with the SIP bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_secret: Option<Secret>,
    /// A file with the secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_secret_file: Option<PathBuf>,
    /// Groups that may enable it, empty for all.
    #[serde(deserialize_with = "list")]
    pub groups: Vec<String>,
}

impl Sip {
    /// Whether there is a dial-in.
    pub fn is_configured(&self) -> bool {
        let secret = self.shared_secret.as_ref().is_some_and(|secret| !secret.is_empty());
        secret && self.dialin_info.as_ref().is_some_and(|info| !info.is_empty())
    }
}

/// A list, also one that the environment gives as a text with commas.
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
        .map(|member| {
            member.parse().map_err(|error| serde::de::Error::custom(format!("{member}: {error}")))
        })
        .collect()
}

/// Section `ops`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Ops {
    /// Address to listen on.
    pub listen: SocketAddr,
}

/// Section `traces`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Traces {
    /// A collector's address for OTLP over HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
}

/// Section `log`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// For people or for machines.
    pub format: LogFormat,
    /// Level or filter.
    pub level: String,
}

/// Section `shutdown`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Shutdown {
    /// Bound of a graceful end.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
}

/// A configuration that cannot be used, and what to do about it, in one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("configuration: {0}")]
pub struct ConfigError(String);

impl ConfigError {
    /// The value of `key` cannot be used.
    pub fn new(key: &str, problem: impl fmt::Display) -> Self {
        Self(one_line(&format!("{key}: {problem}")))
    }
}

impl Config {
    /// Reads all layers. `file` replaces the system's file and has to exist.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let defaults = File::from_str(DEFAULTS, FileFormat::Toml);
        let builder = ::config::Config::builder().add_source(defaults);
        let builder = match file {
            Some(path) => builder.add_source(File::from(path).format(FileFormat::Toml)),
            None => builder.add_source(
                File::from(Path::new(SYSTEM_FILE)).format(FileFormat::Toml).required(false),
            ),
        };
        let environment = Environment::with_prefix("LOBBYD")
            .prefix_separator(SEPARATOR)
            .separator(SEPARATOR)
            .ignore_empty(true);
        let above = ::config::Config::builder()
            .add_source(environment.clone())
            .build()
            .map_err(|error| unusable(&error))?;
        let mut loaded: Self = builder
            .add_source(environment)
            .build()
            .and_then(::config::Config::try_deserialize)
            .map_err(|error| unusable(&error))?;
        let credentials = std::env::var_os(CREDENTIALS).map(PathBuf::from);
        for (key, file, credential) in [
            ("database.url", &mut loaded.database.url_file, "database-url"),
            ("events.url", &mut loaded.events.url_file, "events-url"),
            ("sip.shared_secret", &mut loaded.sip.shared_secret_file, "sip-secret"),
        ] {
            if above.get_string(&format!("{key}_file")).is_ok() {
                continue;
            }
            if above.get_string(key).is_ok() {
                // A secret in the environment stands over a file with it that is named below.
                *file = None;
            } else if file.is_none() {
                let credential = credentials.as_ref().map(|folder| folder.join(credential));
                *file = credential.filter(|credential| credential.exists());
            }
        }
        loaded.with_secrets()
    }

    /// The defaults alone, whatever file and environment say.
    ///
    /// # Panics
    ///
    /// Never: a test reads them.
    pub fn defaults() -> Self {
        ::config::Config::builder()
            .add_source(File::from_str(DEFAULTS, FileFormat::Toml))
            .build()
            .and_then(::config::Config::try_deserialize)
            .expect("the embedded defaults are complete")
    }

    /// The effective configuration as TOML, secrets hidden.
    ///
    /// # Panics
    ///
    /// Never: tables and plain values can be written as TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("the configuration consists of tables and plain values")
    }

    fn with_secrets(mut self) -> Result<Self, ConfigError> {
        if let Some(file) = &self.database.url_file {
            self.database.url = read_secret("database.url_file", file)?.into();
        }
        if let Some(file) = &self.events.url_file {
            self.events.url = read_secret("events.url_file", file)?.into();
        }
        if let Some(file) = &self.sip.shared_secret_file {
            let secret = read_secret("sip.shared_secret_file", file)?;
            self.sip.shared_secret = Some(secret.into());
        }
        Ok(self)
    }
}

/// Says what is wrong without the values that are there: one of them may be a secret.
fn unusable(error: &::config::ConfigError) -> ConfigError {
    let mut text = error.to_string();
    if let Some((before, rest)) = text.split_once("string \"")
        && let Some((_value, after)) = rest.rsplit_once("\", expected")
    {
        text = format!("{before}a text, expected{after}");
    }
    // The parser of TOML shows the line in question beside a rule.
    let shown = |line: &&str| match line.split_once('|') {
        Some((number, _source)) => !number.trim().chars().all(|c| c.is_ascii_digit()),
        None => true,
    };
    ConfigError(one_line(&text.lines().filter(shown).collect::<Vec<_>>().join(" ")))
}

fn read_secret(key: &str, file: &Path) -> Result<String, ConfigError> {
    match std::fs::read_to_string(file) {
        Ok(text) if text.trim().is_empty() => {
            Err(ConfigError::new(key, format_args!("{} is empty", file.display())))
        }
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) => {
            Err(ConfigError::new(key, format_args!("cannot read {}: {error}", file.display())))
        }
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_embedded_defaults_are_complete() {
        let config = Config::defaults();
        assert_eq!(config.database.url.expose(), "sqlite://lobbyd.db?mode=rwc");
        assert_eq!(config.events.url.expose(), "memory:");
        assert_eq!(config.ops.listen.to_string(), "127.0.0.1:9464");
        assert_eq!(config.http.listen.to_string(), "127.0.0.1:8080");
        assert!(!config.sip.is_configured());
    }

    #[test]
    fn a_list_may_be_a_text_with_commas() {
        let read = |groups: &str| -> Vec<String> {
            let sip: Sip = toml::from_str(&format!("groups = {groups}")).unwrap();
            sip.groups
        };
        assert_eq!(read(r#"["staff", "phone"]"#), ["staff", "phone"]);
        assert_eq!(read(r#""staff, phone""#), ["staff", "phone"]);
        assert!(read(r#""""#).is_empty() && read("[]").is_empty());
    }

    #[test]
    fn every_optional_key_stands_in_the_reference() {
        let mut config = Config::defaults();
        config.database.url_file = Some("x".into());
        config.events.url_file = Some("x".into());
        config.http.user_header = Some("x".into());
        config.traces.endpoint = Some("x".into());
        config.sip.dialin_info = Some("x".into());
        config.sip.shared_secret = Some("x".to_owned().into());
        config.sip.shared_secret_file = Some("x".into());
        let keys = |text: &str| -> BTreeSet<String> {
            let mut section = String::new();
            let mut keys = BTreeSet::new();
            for line in text.lines().map(|line| line.trim_start_matches("# ")) {
                if let Some((key, _value)) = line.split_once(" = ") {
                    keys.insert(format!("{section}{key}"));
                } else if line.starts_with('[') {
                    section = line.to_owned();
                }
            }
            keys
        };
        assert_eq!(keys(&config.to_toml()), keys(DEFAULTS));
    }

    #[test]
    fn a_password_is_never_shown() {
        for url in [
            "postgres://lobbyd:marker-secret@db/lobbyd",
            "amqps://lobbyd:marker-secret@mq/%2f?heartbeat=10",
            "postgres://db/lobbyd?user=lobbyd&password=marker-secret",
            "no url, but marker-secret",
        ] {
            let mut config = Config::defaults();
            config.events.url = url.to_owned().into();
            assert!(!config.to_toml().contains("marker-secret"), "{}", config.to_toml());
            assert!(!format!("{config:?}").contains("marker-secret"));
        }
    }
}
