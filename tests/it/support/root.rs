//! The root file system whose servers the tests run: that of this machine, or of another release of
//! Debian.
//!
//! `LOBBYD_TEST_ROOT` names the other one (`make test-servers` creates it). Its programs run by
//! chroot, as root, with the temporary folder, the network and the processes of this machine.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

static ROOT: LazyLock<Option<PathBuf>> =
    LazyLock::new(|| env::var_os("LOBBYD_TEST_ROOT").map(PathBuf::from));

/// The mounts end with the last process that sees them.
const ENTER: &str = r#"
    root=$1 temporary=$2; shift 2
    mount --bind "$temporary" "$root$temporary"
    mount --bind /proc "$root/proc"
    mount --rbind /dev "$root/dev"
    exec chroot "$root" "$@"
"#;

/// A program of the servers' root file system.
pub fn installed(program: impl AsRef<Path>) -> Command {
    let Some(root) = &*ROOT else { return Command::new(program.as_ref()) };
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", ENTER, "enter"]).arg(root);
    command.arg(env::temp_dir()).arg(program.as_ref());
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C.UTF-8");
    command
}

/// Servers refuse to run as root. Then they run as the user that their package created.
pub fn installed_as(user: &str, program: impl AsRef<Path>) -> Command {
    if !nix::unistd::getuid().is_root() {
        return installed(program);
    }
    let mut command = installed("setpriv");
    command.args(["--reuid", user, "--regid", user, "--clear-groups"]).arg(program.as_ref());
    command
}

/// A file of the servers' root file system, as a path of this machine.
pub fn in_root(path: &str) -> PathBuf {
    match &*ROOT {
        None => PathBuf::from(path),
        Some(root) => root.join(path.trim_start_matches('/')),
    }
}
