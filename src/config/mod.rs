//! The configuration: embedded defaults, then a file, then systemd's credentials, then the
//! environment.
//!
//! `config/lobbyd.toml` is the defaults and the reference in one file. This module reads the layers
//! and checks each value by its type; a value that only its user can judge (a URL, a schedule) is
//! checked when `app` builds that part, also before anything starts. Only `app` and the command line
//! see these types: every other module is given plain values.

mod change;
mod error;
mod layers;
mod secret;
mod sections;
mod urls;

use std::path::Path;

use ::config::{Environment, File, FileFormat};
use serde::{Deserialize, Serialize};

pub use self::error::ConfigError;
pub use self::layers::{Layers, Origin, Origins, SYSTEM_FILE};
pub use self::secret::Secret;
pub use self::sections::{
    DatabaseConfig, EventsConfig, HousekeepingConfig, HttpConfig, LimitsConfig, LogConfig,
    OpsConfig, OutboxConfig, ShutdownConfig, SignalingConfig, SignalingServer, SipConfig,
    TalkConfig, TimersConfig, TracesConfig,
};
pub use self::urls::{SecretUrl, SecretUrls};

/// The defaults, and the reference.
pub const DEFAULTS: &str = include_str!("../../config/lobbyd.toml");

/// Prefix of the environment variables.
const PREFIX: &str = "LOBBYD";

/// Separates prefix, section and key. Two underscores, because Kubernetes injects `LOBBYD_PORT` and
/// the like for a service of that name.
const SEPARATOR: &str = "__";

/// A configuration that was read.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    pub origins: Origins,
}

/// The kinds of the servers that a configuration names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kinds {
    pub database: &'static str,
    pub events: &'static str,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub database: DatabaseConfig,
    pub events: EventsConfig,
    pub timers: TimersConfig,
    pub outbox: OutboxConfig,
    pub housekeeping: HousekeepingConfig,
    pub http: HttpConfig,
    pub limits: LimitsConfig,
    pub sip: SipConfig,
    pub talk: TalkConfig,
    pub signaling: SignalingConfig,
    pub ops: OpsConfig,
    pub traces: TracesConfig,
    pub log: LogConfig,
    pub shutdown: ShutdownConfig,
}

impl Config {
    /// Reads all layers.
    pub fn load(layers: &Layers) -> Result<Loaded, ConfigError> {
        let file = layers.read_file()?;
        let environment = Environment::with_prefix(PREFIX)
            .prefix_separator(SEPARATOR)
            .separator(SEPARATOR)
            .ignore_empty(true);
        ::config::Config::builder().add_source(environment.clone()).build().map_err(
            |_shows_the_value| ConfigError::new("environment", "a variable is not Unicode"),
        )?;
        let mut values =
            ::config::Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
        if let Some(file) = &file {
            values = values.add_source(file.clone());
        }
        let values = values.add_source(environment).build()?;
        let mut origins = Origins::of(&values, file.as_ref())?;
        let read = values.try_deserialize::<Self>();
        let mut config = read.map_err(|error| of_variable(error.into()))?;
        config.read_secrets(layers, &mut origins)?;
        config.check_urls()?;
        Ok(Loaded { config, origins })
    }

    /// The defaults alone, without file and environment.
    pub fn defaults() -> Self {
        ::config::Config::builder()
            .add_source(File::from_str(DEFAULTS, FileFormat::Toml))
            .build()
            .and_then(::config::Config::try_deserialize)
            .expect("the embedded defaults are complete")
    }

    /// Which kinds of servers it names.
    pub fn kinds(&self) -> Kinds {
        let urls = self.database.url.expose();
        let scheme = urls.first().and_then(|url| url.split(':').next());
        Kinds {
            database: match scheme.unwrap_or_default() {
                "postgres" | "postgresql" => "postgres",
                "mysql" | "mariadb" => "mysql",
                _file => "sqlite",
            },
            events: if self.events.url.is_in_process() { "memory" } else { "amqp" },
        }
    }

    /// The effective configuration as TOML, secrets hidden.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("the configuration consists of tables and plain values")
    }

    /// Reads the secrets that are in files: a secret in the environment wins over a file that a lower
    /// layer names, and that file over a credential.
    fn read_secrets(&mut self, layers: &Layers, origins: &mut Origins) -> Result<(), ConfigError> {
        let credentials = layers.credentials();
        for (key, name, file, secret) in [
            (
                "database.url",
                "database-url",
                &mut self.database.url_file,
                Target::Url(&mut self.database.url),
            ),
            (
                "events.url",
                "events-url",
                &mut self.events.url_file,
                Target::Url(&mut self.events.url),
            ),
            (
                "sip.shared_secret",
                "sip-secret",
                &mut self.sip.shared_secret_file,
                Target::Secret(&mut self.sip.shared_secret),
            ),
            (
                "http.user_header_secret",
                "user-header-secret",
                &mut self.http.user_header_secret_file,
                Target::Secret(&mut self.http.user_header_secret),
            ),
            (
                "talk.secret",
                "talk-secret",
                &mut self.talk.secret_file,
                Target::Secret(&mut self.talk.secret),
            ),
            (
                "talk.database_url",
                "talk-database-url",
                &mut self.talk.database_url_file,
                Target::OptionalUrl(&mut self.talk.database_url),
            ),
            (
                "talk.password",
                "talk-password",
                &mut self.talk.password_file,
                Target::Secret(&mut self.talk.password),
            ),
        ] {
            let file_key = format!("{key}_file");
            if origins.is_in_environment(key) && !origins.is_in_environment(&file_key) {
                *file = None;
                continue;
            }
            let is_named = file.is_some();
            if !is_named && let Some(credentials) = &credentials {
                *file = credentials.find(name)?;
            }
            let Some(file) = file else { continue };
            secret.set(read_secret(&file_key, file)?);
            let path = file.clone();
            origins.read_from(
                key,
                if is_named { Origin::File(path) } else { Origin::Credential(path) },
            );
        }
        for (index, server) in self.signaling.servers.iter_mut().enumerate() {
            if let Some(file) = &server.secret_file {
                let key = format!("signaling.servers[{index}].secret");
                server.secret = Some(read_secret(&format!("{key}_file"), file)?.into());
                origins.read_from(&key, Origin::File(file.clone()));
            }
        }
        Ok(())
    }

    fn check_urls(&self) -> Result<(), ConfigError> {
        let refuse = |key: &'static str| move |problem| ConfigError::new(key, problem);
        self.database.url.check().map_err(refuse("database.url"))?;
        self.events.url.check().map_err(refuse("events.url"))?;
        let endpoint = self.traces.endpoint.as_ref();
        endpoint.map_or(Ok(()), SecretUrl::check).map_err(refuse("traces.endpoint"))?;
        let talk = &self.talk;
        talk.url.as_ref().map_or(Ok(()), SecretUrl::check).map_err(refuse("talk.url"))?;
        for (index, server) in self.signaling.servers.iter().enumerate() {
            for (name, url) in [("url", &server.url), ("backend", &server.backend)] {
                url.check().map_err(|problem| {
                    ConfigError::new(&format!("signaling.servers[{index}].{name}"), problem)
                })?;
            }
        }
        let database = talk.database_url.as_ref();
        database.map_or(Ok(()), SecretUrls::check).map_err(refuse("talk.database_url"))
    }
}

/// Names the environment variable of an unknown key, if it comes from one.
fn of_variable(error: ConfigError) -> ConfigError {
    let Some(path) = error.unknown_path(SEPARATOR) else { return error };
    let path = format!("{PREFIX}{SEPARATOR}{path}").to_uppercase();
    let is_it = |name: &String| {
        let name = name.to_uppercase();
        name.strip_prefix(&path).is_some_and(|rest| rest.is_empty() || rest.starts_with(SEPARATOR))
    };
    let mut names = std::env::vars_os().filter_map(|(name, _value)| name.into_string().ok());
    match names.find(is_it) {
        Some(name) => error.of(&name),
        None => error,
    }
}

/// Where a secret goes.
enum Target<'a> {
    Url(&'a mut SecretUrls),
    OptionalUrl(&'a mut Option<SecretUrls>),
    Secret(&'a mut Option<Secret>),
}

impl Target<'_> {
    fn set(self, text: String) {
        match self {
            Self::Url(url) => *url = text.into(),
            Self::OptionalUrl(url) => *url = Some(text.into()),
            Self::Secret(secret) => *secret = Some(text.into()),
        }
    }
}

fn read_secret(key: &str, file: &Path) -> Result<String, ConfigError> {
    let read = std::fs::read_to_string(file);
    let file = std::path::absolute(file).unwrap_or_else(|_no_folder| file.to_owned());
    match read {
        Ok(text) if text.trim().is_empty() => {
            Err(ConfigError::new(key, format_args!("{} is empty", file.display())))
        }
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) => {
            Err(ConfigError::new(key, format_args!("cannot read {}: {error}", file.display())))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_embedded_defaults_are_complete() {
        let config = Config::defaults();
        assert_eq!(config.database.url.expose(), ["sqlite://lobbyd.db?mode=rwc"]);
        assert!(config.events.url.is_in_process());
        assert_eq!(config.ops.listen.to_string(), "127.0.0.1:9464");
        assert_eq!(config.http.listen.to_string(), "127.0.0.1:8080");
        assert!(!config.sip.is_configured());
    }

    #[test]
    fn the_reference_lists_every_optional_key() {
        let mut config = Config::defaults();
        config.database.url_file = Some("x".into());
        config.events.url_file = Some("x".into());
        config.http.user_header = Some("x".into());
        config.http.user_header_secret = Some("x".to_owned().into());
        config.http.user_header_secret_file = Some("x".into());
        config.http.join_url = Some("x".into());
        config.traces.endpoint = Some("x".to_owned().into());
        config.sip.dialin_info = Some("x".into());
        config.sip.shared_secret = Some("x".to_owned().into());
        config.sip.shared_secret_file = Some("x".into());
        config.talk.url = Some("x".to_owned().into());
        config.talk.secret = Some("x".to_owned().into());
        config.talk.secret_file = Some("x".into());
        config.talk.database_url = Some("x".to_owned().into());
        config.talk.database_url_file = Some("x".into());
        config.talk.user = Some("x".to_owned());
        config.talk.password = Some("x".to_owned().into());
        config.talk.password_file = Some("x".into());
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
            "postgres://lobbyd:/marker-secret@db/lobbyd",
            "mysql://lobbyd:?marker-secret@db/lobbyd",
            "amqp://lobbyd:#marker-secret@mq/%2f",
            "amqp://lobbyd:a/marker-secret@mq/%2f",
            "amqp://lobbyd:a\\marker-secret@mq:port/%2f",
            "amqp://lobbyd:marker-secret@mq1,amqp://lobbyd:marker-secret@mq2",
            "amqp://lobbyd:marker-secret@mq1:5672,mq2:5672/%2f",
            "postgres:/lobbyd:marker-secret@db/lobbyd",
            "mysql:lobbyd:marker-secret@db/lobbyd",
            "postgres://lobbyd:marker-secret@db1,db2/lobbyd",
        ] {
            let mut config = Config::defaults();
            config.events.url = url.to_owned().into();
            assert!(!config.to_toml().contains("marker-secret"), "{}", config.to_toml());
            assert!(!format!("{config:?}").contains("marker-secret"));
        }
    }
}
