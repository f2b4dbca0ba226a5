//! The configuration: embedded defaults, then a file, then systemd's credentials, then the
//! environment.
//!
//! `config/lobbyd.toml` is the defaults and the reference in one file. This module reads the layers
//! and checks each value by its type; a value that only its user can judge (a URL, a schedule) is
//! checked when `app` builds that part, also before anything starts. Only `app` and the command line
//! see these types: every other module is given plain values.

mod change;
mod error;
mod secret;
mod sections;

use std::path::{Path, PathBuf};

use ::config::{Environment, File, FileFormat};
use serde::{Deserialize, Serialize};

pub use self::error::ConfigError;
pub use self::secret::{Secret, SecretUrl};
pub use self::sections::{
    DatabaseConfig, EventsConfig, HousekeepingConfig, HttpConfig, LimitsConfig, LogConfig,
    OpsConfig, OutboxConfig, ShutdownConfig, SipConfig, TimersConfig, TracesConfig,
};

/// The defaults, and the reference.
pub const DEFAULTS: &str = include_str!("../../config/lobbyd.toml");

/// The file that is read when no other one is named.
const SYSTEM_FILE: &str = "/etc/lobbyd/lobbyd.toml";

/// Prefix of the environment variables.
const PREFIX: &str = "LOBBYD";

/// Separates prefix, section and key. Two underscores, because Kubernetes injects `LOBBYD_PORT` and
/// the like for a service of that name.
const SEPARATOR: &str = "__";

/// The variable that holds the folder of systemd's credentials, see `LoadCredential=`.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

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
    pub ops: OpsConfig,
    pub traces: TracesConfig,
    pub log: LogConfig,
    pub shutdown: ShutdownConfig,
}

impl Config {
    /// Reads all layers. `file` replaces the system's file and has to exist.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let file = match file {
            Some(path) => File::from(path),
            None => File::from(Path::new(SYSTEM_FILE)).required(false),
        };
        let environment = Environment::with_prefix(PREFIX)
            .prefix_separator(SEPARATOR)
            .separator(SEPARATOR)
            .ignore_empty(true);
        let overrides =
            ::config::Config::builder().add_source(environment.clone()).build().map_err(
                |_shows_the_value| ConfigError::new("environment", "a variable is not Unicode"),
            )?;
        let mut config: Self = ::config::Config::builder()
            .add_source(File::from_str(DEFAULTS, FileFormat::Toml))
            .add_source(file.format(FileFormat::Toml))
            .add_source(environment)
            .build()?
            .try_deserialize()?;
        config.choose_secret_files(&overrides);
        config.read_secret_files()?;
        config.check_urls()?;
        Ok(config)
    }

    /// The defaults alone, without file and environment.
    pub fn defaults() -> Self {
        ::config::Config::builder()
            .add_source(File::from_str(DEFAULTS, FileFormat::Toml))
            .build()
            .and_then(::config::Config::try_deserialize)
            .expect("the embedded defaults are complete")
    }

    /// The effective configuration as TOML, secrets hidden.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("the configuration consists of tables and plain values")
    }

    /// Decides for each secret whether it is read from a file, and from which: a secret in the
    /// environment wins over a file that a lower layer names, and that file over a credential.
    fn choose_secret_files(&mut self, environment: &::config::Config) {
        let credentials = std::env::var_os(CREDENTIALS).map(PathBuf::from);
        for (key, file, credential) in [
            ("database.url", &mut self.database.url_file, "database-url"),
            ("events.url", &mut self.events.url_file, "events-url"),
            ("sip.shared_secret", &mut self.sip.shared_secret_file, "sip-secret"),
            (
                "http.user_header_secret",
                &mut self.http.user_header_secret_file,
                "user-header-secret",
            ),
        ] {
            if environment.get_string(&format!("{key}_file")).is_ok() {
                continue;
            }
            if environment.get_string(key).is_ok() {
                *file = None;
            } else if file.is_none() {
                let credential = credentials.as_ref().map(|folder| folder.join(credential));
                *file = credential.filter(|credential| credential.exists());
            }
        }
    }

    fn check_urls(&self) -> Result<(), ConfigError> {
        let urls = [("database.url", &self.database.url), ("events.url", &self.events.url)];
        let endpoint = self.traces.endpoint.iter().map(|url| ("traces.endpoint", url));
        urls.into_iter().chain(endpoint).try_for_each(|(key, url)| {
            url.check().map_err(|problem| ConfigError::new(key, problem))
        })
    }

    fn read_secret_files(&mut self) -> Result<(), ConfigError> {
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
        if let Some(file) = &self.http.user_header_secret_file {
            let secret = read_secret("http.user_header_secret_file", file)?;
            self.http.user_header_secret = Some(secret.into());
        }
        Ok(())
    }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_embedded_defaults_are_complete() {
        let config = Config::defaults();
        assert_eq!(config.database.url.expose(), "sqlite://lobbyd.db?mode=rwc");
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
        config.traces.endpoint = Some("x".to_owned().into());
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
            "postgres://lobbyd:/marker-secret@db/lobbyd",
            "mysql://lobbyd:?marker-secret@db/lobbyd",
            "amqp://lobbyd:#marker-secret@mq/%2f",
            "amqp://lobbyd:a/marker-secret@mq/%2f",
            "amqp://lobbyd:a\\marker-secret@mq:port/%2f",
            "amqp://lobbyd:marker-secret@mq1,amqp://lobbyd:marker-secret@mq2",
            "amqp://lobbyd:marker-secret@mq1:5672,mq2:5672/%2f",
        ] {
            let mut config = Config::defaults();
            config.events.url = url.to_owned().into();
            assert!(!config.to_toml().contains("marker-secret"), "{}", config.to_toml());
            assert!(!format!("{config:?}").contains("marker-secret"));
        }
    }
}
