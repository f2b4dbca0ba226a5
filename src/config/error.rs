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
