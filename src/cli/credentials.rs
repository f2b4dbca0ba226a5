//! The credentials of the service, for commands that root runs beside it.
//!
//! systemd gives credentials to the processes that it starts. A command that an administrator runs
//! has none, and would use another database than the service, so root's commands read the same files.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use lobbyd::config::{Layers, Origins, SYSTEM_FILE};
use rustix::process::geteuid;

/// Where `LoadCredential=` of the units finds files.
const CREDSTORE: &str = "/etc/credstore";

/// Where it finds encrypted ones.
const ENCRYPTED: &str = "/etc/credstore.encrypted";

/// The URLs, and the files of their credentials.
const URLS: [(&str, &str); 3] = [
    ("database.url", "lobbyd.database-url"),
    ("events.url", "lobbyd.events-url"),
    ("talk.database_url", "lobbyd.talk-database-url"),
];

/// The layers of a command. Another configuration file than the service's has its own URLs, and what
/// other users may change is not believed.
pub(super) fn layers(file: Option<PathBuf>) -> Layers {
    let uses_store = is_of_service(file.as_deref()) && geteuid().is_root() && is_private();
    Layers { file, credstore: uses_store.then(|| CREDSTORE.into()) }
}

fn is_of_service(file: Option<&Path>) -> bool {
    file.is_none_or(|file| file == Path::new(SYSTEM_FILE))
}

/// Whether only root can change the credentials.
fn is_private() -> bool {
    use std::os::unix::fs::MetadataExt;
    Path::new(CREDSTORE)
        .metadata()
        .is_ok_and(|folder| folder.uid() == 0 && folder.mode() & 0o022 == 0)
}

/// Says which credentials are used, and which ones the service may use instead.
pub(super) fn report(origins: &Origins, layers: &Layers) -> io::Result<()> {
    let used = layers.credstore.is_some();
    let mut error = io::stderr().lock();
    for file in origins.credentials().filter(|_| used) {
        writeln!(error, "lobbyd: using the service's credential {}", file.display())?;
    }
    for (key, credential) in URLS {
        if !is_of_service(layers.file.as_deref()) || !origins.is_default(key) {
            continue;
        }
        let encrypted = Path::new(ENCRYPTED).join(credential);
        if encrypted.exists() {
            let file = encrypted.display();
            writeln!(error, "lobbyd: {key}: {file} of the service is not read, name the URL")?;
            continue;
        }
        let file = Path::new(CREDSTORE).join(credential);
        let file = file.display();
        if !geteuid().is_root() && Path::new(CREDSTORE).exists() {
            writeln!(error, "lobbyd: {key}: only root can read {file}, if the service has it")?;
        } else if !is_private() && Path::new(CREDSTORE).join(credential).exists() {
            writeln!(error, "lobbyd: {key}: {file} is not read, others can change its folder")?;
        }
    }
    Ok(())
}
