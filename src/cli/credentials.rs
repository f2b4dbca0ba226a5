//! The credentials of the service, for commands that root runs beside it.
//!
//! systemd gives credentials to the processes that it starts. A command that an administrator runs
//! has none, and would use another database than the service, so root's commands read the same files.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use lobbyd::config::{Layers, Origins};
use rustix::process::geteuid;

/// Where `LoadCredential=` of the units finds files.
const CREDSTORE: &str = "/etc/credstore";

/// Where it finds encrypted ones.
const ENCRYPTED: &str = "/etc/credstore.encrypted";

/// The URLs, and the files of their credentials.
const URLS: [(&str, &str); 2] =
    [("database.url", "lobbyd.database-url"), ("events.url", "lobbyd.events-url")];

/// The layers of a command. Another configuration file than the service's has its own URLs, and what
/// other users may change is not believed.
pub(super) fn layers(file: Option<PathBuf>) -> Layers {
    let uses_store = file.is_none() && geteuid().is_root() && is_private(Path::new(CREDSTORE));
    Layers { file, credstore: uses_store.then(|| CREDSTORE.into()) }
}

/// Whether only root can change the folder.
fn is_private(folder: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    folder.metadata().is_ok_and(|folder| folder.uid() == 0 && folder.mode() & 0o022 == 0)
}

/// Says which credentials are used, and which ones the service may use instead.
pub(super) fn report(origins: &Origins, layers: &Layers) -> io::Result<()> {
    let used = layers.credstore.is_some();
    let mut error = io::stderr().lock();
    for file in origins.credentials().filter(|_| used) {
        writeln!(error, "lobbyd: using the service's credential {}", file.display())?;
    }
    for (key, credential) in URLS {
        if layers.file.is_some() || !origins.is_default(key) {
            continue;
        }
        let encrypted = Path::new(ENCRYPTED).join(credential);
        if encrypted.exists() {
            let file = encrypted.display();
            writeln!(error, "lobbyd: {key}: {file} of the service is not read, name the URL")?;
        } else if !geteuid().is_root() && Path::new(CREDSTORE).exists() {
            let file = Path::new(CREDSTORE).join(credential);
            let file = file.display();
            writeln!(error, "lobbyd: {key}: only root can read {file}, if the service has it")?;
        }
    }
    Ok(())
}
