//! The file of a SQLite database that root creates.

use std::io;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use rustix::process::geteuid;
use sqlx::sqlite::SqliteConnectOptions;

/// Creates the file of a new SQLite database, if root does so, for the owner of its folder: the
/// service that uses it. SQLite gives the files beside it the same owner.
pub fn create_file_for_owner(url: &str) -> io::Result<()> {
    let creates = url.starts_with("sqlite:") && url.contains("mode=rwc");
    if !creates || !geteuid().is_root() {
        return Ok(());
    }
    let Ok(options) = url.parse::<SqliteConnectOptions>() else { return Ok(()) };
    let file = options.get_filename();
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    let Ok(folder) = folder.unwrap_or(Path::new(".")).metadata() else { return Ok(()) };
    match std::fs::File::create_new(file) {
        Ok(_file) => chown(file, Some(folder.uid()), Some(folder.gid())),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}
