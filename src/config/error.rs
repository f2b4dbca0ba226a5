//! Configuration errors: one line that names the key and never shows a value.

use std::fmt;

/// A configuration that cannot be used. The text is one line and says what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("configuration: {0}")]
pub struct ConfigError(String);

impl ConfigError {
    /// The value of `key` cannot be used. `problem` must not repeat it.
    pub fn new(key: &str, problem: impl fmt::Display) -> Self {
        Self::one_line(&format!("{key}: {problem}"))
    }

    /// Section and key that the configuration does not know, if that is the problem.
    pub(super) fn unknown_path(&self, separator: &str) -> Option<String> {
        let (section, rest) = self.0.split_once("unknown field `")?;
        let (key, _expected) = rest.split_once('`')?;
        Some(format!("{}{key}", section.replace(": ", separator)))
    }

    /// The same problem, of a variable or a file.
    pub(super) fn of(self, origin: &str) -> Self {
        Self(format!("{origin}: {}", self.0))
    }

    fn one_line(text: &str) -> Self {
        Self(text.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

impl From<::config::ConfigError> for ConfigError {
    fn from(error: ::config::ConfigError) -> Self {
        Self::one_line(&without_values(&error))
    }
}

/// What the library reports, without the value that it found, which may be a secret.
fn without_values(error: &::config::ConfigError) -> String {
    use ::config::ConfigError as Error;
    let (key, origin, problem) = match error {
        Error::Type { key, origin, expected, .. } => (key, origin, format!("expected {expected}")),
        Error::At { key, origin, error } => (key, origin, without_values(error)),
        Error::Message(message) => return without_value(message),
        Error::FileParse { uri, cause } => (&None, uri, position_and_message(cause.as_ref())),
        Error::NotFound(key) => return format!("{key}: missing"),
        // From reading the file or the environment: neither repeats what it has read.
        Error::Foreign(cause) | Error::PathParse { cause } => return cause.to_string(),
        Error::Frozen | _ => return "cannot be read".to_owned(),
    };
    let key = key.as_ref().map(|key| format!("{key}: ")).unwrap_or_default();
    let origin = origin.as_ref().map(|origin| format!(", in {origin}")).unwrap_or_default();
    format!("{key}{problem}{origin}")
}

/// serde writes `unknown field …` about a key, and `…, expected …` after a value.
fn without_value(message: &str) -> String {
    if message.starts_with("unknown field ") {
        return message.to_owned();
    }
    match message.rsplit_once(", expected ") {
        Some((_value, expected)) => format!("expected {expected}"),
        None => "invalid value; config/lobbyd.toml explains every key".to_owned(),
    }
}

/// The first line says where; the lines below it show the source.
fn position_and_message(error: &(dyn std::error::Error + 'static)) -> String {
    let text = error.to_string();
    let first_line = text.lines().next().unwrap_or_default();
    match error.downcast_ref::<toml::de::Error>() {
        Some(error) => format!("{first_line}: {}", error.message()),
        None => first_line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use ::config::{File, FileFormat};

    use super::*;
    use crate::config::Config;

    #[test]
    fn an_error_names_the_key_and_the_type_but_not_the_value() {
        for (toml, expected) in [
            ("database.timeout = 'marker'", "database.timeout: expected a duration"),
            ("database.timeout = 'marker, expected x'", "database.timeout: expected a duration"),
            ("database = 'marker'", "database: expected struct DatabaseConfig"),
            ("events.declare = 'marker'", "events.declare: expected a boolean"),
            ("events.prefetch = 0", "events.prefetch: expected a nonzero u16"),
            ("ops.listen = 'marker'", "ops.listen: invalid value"),
            ("log.format = 'marker'", "log.format: invalid value"),
            ("http.trusted_proxies = ['marker']", "http.trusted_proxies: invalid value"),
            ("ops.listne = 'marker'", "ops: unknown field `listne`, expected `listen`"),
            ("database.url = \"marker", "TOML parse error at line 1, column 23: invalid basic"),
        ] {
            let error = ::config::Config::builder()
                .add_source(File::from_str(crate::config::DEFAULTS, FileFormat::Toml))
                .add_source(File::from_str(toml, FileFormat::Toml))
                .build()
                .and_then(::config::Config::try_deserialize::<Config>)
                .unwrap_err();
            let text = ConfigError::from(error).to_string();
            assert!(text.starts_with(&format!("configuration: {expected}")), "{text}");
            assert!(!text.contains("marker"), "{text}");
        }
    }
}
