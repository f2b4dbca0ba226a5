//! The owner of the files of a SQLite database: root may create, copy or restore them.

use std::io;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
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

/// The file of a SQLite database; `None` for a URL of another database.
pub fn sqlite_file(url: &str) -> Option<PathBuf> {
    let options = url.starts_with("sqlite:").then(|| url.parse::<SqliteConnectOptions>().ok());
    options.flatten().map(|options| options.get_filename().to_owned())
}

/// A file of this database that may not be written because it belongs to another user, in words.
pub(super) fn foreign_file(database: &Path) -> Option<String> {
    ["", "-wal", "-shm"].into_iter().find_map(|suffix| {
        let mut file = database.as_os_str().to_owned();
        file.push(suffix);
        let owner = std::fs::metadata(&file).ok()?.uid();
        let is_foreign = owner != geteuid().as_raw() && access(&file, Access::WRITE_OK).is_err();
        let owner = if owner == 0 { "root".to_owned() } else { format!("user {owner}") };
        is_foreign.then(|| format!("{} belongs to {owner}", Path::new(&file).display()))
    })
}
