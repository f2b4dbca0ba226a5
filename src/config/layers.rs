//! The layers above the defaults: which files are read, and where each value came from.
//!
//! A file that does not exist is passed over; one that exists and cannot be read is an error. The log
//! names the files at the start, and `lobbyd config check` shows the origin of each value.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use ::config::{FileFormat, Format, Map, Source, Value};

use super::ConfigError;

/// The file that is read when no other one is named.
pub const SYSTEM_FILE: &str = "/etc/lobbyd/lobbyd.toml";

/// The variable that holds the folder of systemd's credentials, see `LoadCredential=`.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// What lies between the defaults and the environment.
#[derive(Debug, Clone, Default)]
pub struct Layers {
    /// Replaces the system's file, and has to exist.
    pub file: Option<PathBuf>,
    /// Folder of the service's credentials, for commands that systemd does not start.
    pub credstore: Option<PathBuf>,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    /// Of the configuration, or of a secret.
    File(PathBuf),
    Credential(PathBuf),
    Environment,
}

/// Where the values of a configuration came from.
#[derive(Debug, Clone, Default)]
pub struct Origins {
    /// By section and key, with a dot.
    values: BTreeMap<String, Origin>,
    /// In the order in which they were read.
    files: Vec<PathBuf>,
}

/// A configuration file that was read.
#[derive(Debug, Clone)]
pub(super) struct ReadFile {
    path: PathBuf,
    text: String,
}

/// Where the credentials of a service are.
pub(super) struct Credentials {
    folder: PathBuf,
    prefix: &'static str,
}

impl Layers {
    /// Reads the configuration file, if there is one.
    pub(super) fn read_file(&self) -> Result<Option<ReadFile>, ConfigError> {
        let path = self.file.as_deref().unwrap_or(Path::new(SYSTEM_FILE));
        read(path, self.file.is_some())
    }

    pub(super) fn credentials(&self) -> Option<Credentials> {
        if let Some(folder) = std::env::var_os(CREDENTIALS) {
            return Some(Credentials { folder: folder.into(), prefix: "" });
        }
        // There they have the name of the service, as the units expect it.
        let folder = self.credstore.clone()?;
        Some(Credentials { folder, prefix: "lobbyd." })
    }
}

/// Reads a configuration file. One that is not required may be missing, and nothing else.
fn read(path: &Path, required: bool) -> Result<Option<ReadFile>, ConfigError> {
    // Messages are read from another folder than that of the process.
    let path = std::path::absolute(path).unwrap_or_else(|_no_folder| path.to_owned());
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(ReadFile { path, text })),
        Err(error) if error.kind() == ErrorKind::NotFound && !required => Ok(None),
        Err(error) => Err(unreadable(&path, &error)),
    }
}

impl Credentials {
    /// The file of a credential, if it exists.
    pub(super) fn find(&self, name: &str) -> Result<Option<PathBuf>, ConfigError> {
        let mut file = OsString::from(self.prefix);
        file.push(name);
        let path = self.folder.join(file);
        match path.try_exists() {
            Ok(exists) => Ok(exists.then_some(path)),
            Err(error) => Err(unreadable(&path, &error)),
        }
    }
}

fn unreadable(path: &Path, error: &io::Error) -> ConfigError {
    ConfigError::new(&path.display().to_string(), format_args!("cannot be read: {error}"))
}

impl Source for ReadFile {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ::config::ConfigError> {
        let uri = Some(self.path.display().to_string());
        let parsed = FileFormat::Toml.parse(uri.as_ref(), &self.text);
        parsed.map_err(|cause| ::config::ConfigError::FileParse { uri, cause })
    }
}

impl Origins {
    /// The origins of values that the library has read.
    pub(super) fn of(
        values: &::config::Config,
        file: Option<&ReadFile>,
    ) -> Result<Self, ::config::ConfigError> {
        let mut origins = Self::default();
        origins.files.extend(file.map(|file| file.path.clone()));
        for (section, keys) in values.collect()? {
            let Ok(keys) = keys.into_table() else { continue };
            for (key, value) in keys {
                let origin = match (value.origin(), file) {
                    (None, _) => Origin::Default,
                    (Some(uri), Some(file)) if uri == file.path.display().to_string() => {
                        Origin::File(file.path.clone())
                    }
                    (Some(_other), _) => Origin::Environment,
                };
                origins.values.insert(format!("{section}.{key}"), origin);
            }
        }
        Ok(origins)
    }

    pub(super) fn is_in_environment(&self, key: &str) -> bool {
        self.values.get(key) == Some(&Origin::Environment)
    }

    /// Records that a secret was read from a file.
    pub(super) fn read_from(&mut self, key: &str, origin: Origin) {
        if let Origin::File(path) | Origin::Credential(path) = &origin {
            self.files.push(path.clone());
        }
        if let Origin::Credential(_) = &origin {
            self.values.insert(format!("{key}_file"), origin.clone());
        }
        self.values.insert(key.to_owned(), origin);
    }

    /// The files that were read.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Whether nothing but the defaults says what this value is.
    pub fn is_default(&self, key: &str) -> bool {
        self.values.get(key).is_none_or(|origin| *origin == Origin::Default)
    }

    /// The files of credentials that were read.
    pub fn credentials(&self) -> impl Iterator<Item = &Path> {
        let files = self.values.iter().filter(|(key, _origin)| key.ends_with("_file"));
        files.filter_map(|(_key, origin)| match origin {
            Origin::Credential(path) => Some(path.as_path()),
            Origin::Default | Origin::File(_) | Origin::Environment => None,
        })
    }

    /// Adds the origin to each line of a configuration.
    pub fn annotate(&self, toml: &str) -> String {
        let mut section = "";
        let mut annotated = String::new();
        for line in toml.lines() {
            annotated.push_str(line);
            if let Some(name) = line.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
                // A table of a list comes from where the list comes from.
                section = name.trim_matches(['[', ']']);
            } else if let Some((key, _value)) = line.split_once(" = ") {
                let origin = self.values.get(&format!("{section}.{key}"));
                let origin = origin.or_else(|| self.values.get(section));
                let origin = origin.unwrap_or(&Origin::Default);
                write!(annotated, "  # {origin}").expect("writing to a String does not fail");
            }
            annotated.push('\n');
        }
        annotated
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Environment => f.write_str("environment"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Credential(path) => write!(f, "credential {}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// Root may read everything, so the test uses what nobody can read as a file.
    #[test]
    fn a_file_is_passed_over_only_if_it_does_not_exist() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("lobbyd/lobbyd.toml");
        assert!(read(&missing, false).unwrap().is_none());
        assert!(read(&missing, true).is_err());
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(read(&file, false).unwrap().is_some());
        for unreadable in [folder.path(), &file.join("lobbyd.toml")] {
            let error = read(unreadable, false).unwrap_err().to_string();
            let expected = format!("configuration: {}: cannot be read: ", unreadable.display());
            assert!(error.starts_with(&expected), "{error}");
        }
    }

    #[test]
    fn commands_find_the_credentials_of_the_service_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("lobbyd.database-url");
        fs::write(&secret, "postgres://lobbyd:marker-secret@db/lobbyd\n").unwrap();
        fs::write(folder.path().join("events-url"), "amqp://other@mq/%2f").unwrap();
        let layers = Layers { credstore: Some(folder.path().to_owned()), ..Layers::default() };
        let loaded = Config::load(&layers).unwrap();
        assert_eq!(loaded.config.database.url.redacted(), "postgres://lobbyd:***@db/lobbyd");
        assert!(loaded.config.events.url.is_in_process(), "it belongs to another service");
        assert_eq!(loaded.origins.credentials().collect::<Vec<_>>(), [secret.as_path()]);
        let shown = loaded.origins.annotate(&loaded.config.to_toml());
        let line = format!(
            "url = \"postgres://lobbyd:***@db/lobbyd\"  # credential {}\n",
            secret.display()
        );
        assert!(shown.contains(&line), "{shown}");
        assert!(shown.contains("batch = 500  # default\n"), "{shown}");
    }
}
