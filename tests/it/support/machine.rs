//! A Debian that is booted with systemd as PID 1, in a container of its own.
//!
//! Its root file system is that of `LOBBYD_TEST_ROOT`, under a layer that takes all changes. It has
//! a network of its own, without any other machine. It ends with the test process.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use super::{
    eventually,
    server::{Process, folder},
    tools::output,
};

/// Runs in PID and mount namespaces of its own: all of it ends with the process that made these.
const BOOT: &str = r#"
    folder=$1 root=$2
    mount -t overlay overlay -o "lowerdir=$root,upperdir=$folder/upper,workdir=$folder/work" "$folder/root"
    mkdir -p /run/systemd/nspawn
    mount -t tmpfs tmpfs /run/systemd/nspawn
    status=133
    # The status of a machine that reboots.
    while [ "$status" = 133 ]; do
        status=0
        SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 systemd-nspawn --quiet --directory="$folder/root" \
            --boot --private-network --register=no --keep-unit --link-journal=no \
            --console=pipe --machine=lobbyd-test || status=$?
    done
"#;

/// Bound of a command's run time, in seconds.
const LIMIT: &str = "120";

pub struct Machine {
    folder: PathBuf,
    container: Process,
}

impl Machine {
    /// Starts to boot.
    pub fn boot() -> Self {
        let root = env::var_os("LOBBYD_TEST_ROOT").expect("`make test-systemd` names the system");
        let folder = folder("machine-");
        for part in ["upper", "work", "root"] {
            fs::create_dir(folder.join(part)).unwrap();
        }
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.args(["sh", "-ec", BOOT, "boot"]).arg(&folder).arg(root);
        let container = Process::start(&command, &folder.join("log"));
        Self { folder, container }
    }

    /// Waits until systemd has started everything, and returns what it says: `running` or `degraded`.
    pub async fn booted(&self) -> String {
        eventually("the system to be booted", || async {
            let state = output(&mut self.command(&["systemctl", "is-system-running"])?);
            let state = String::from_utf8(state.stdout).unwrap().trim().to_owned();
            ["running", "degraded"].contains(&state.as_str()).then_some(state)
        })
        .await
    }

    /// Waits for the end of a reboot, and returns how long it took.
    pub async fn reboot(&self) -> Duration {
        let (begin, before) = (Instant::now(), self.init());
        self.run("systemctl reboot");
        eventually("the system to end", || async { (self.init() != before).then_some(()) }).await;
        self.booted().await;
        begin.elapsed()
    }

    /// The process that is PID 1 of the system, by its number in this one.
    fn init(&self) -> Option<u32> {
        let mut parents = vec![self.container.id()];
        while !parents.is_empty() {
            let children: Vec<(u32, String)> =
                parents.iter().flat_map(|parent| children(*parent)).collect();
            if let Some((process, _)) = children.iter().find(|(_, name)| name == "systemd") {
                return Some(*process);
            }
            parents = children.into_iter().map(|(process, _)| process).collect();
        }
        None
    }

    /// A command inside the system, if that runs.
    fn command(&self, command: &[&str]) -> Option<Command> {
        let mut inside = Command::new("nsenter");
        inside
            .args(["--all", "--target", &self.init()?.to_string(), "timeout", LIMIT])
            .args(command);
        inside.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C.UTF-8");
        Some(inside)
    }

    /// Runs a shell script inside.
    pub fn try_run(&self, script: &str) -> Output {
        output(&mut self.command(&["sh", "-ec", script]).expect("the system does not run"))
    }

    /// Runs a shell script that must succeed, and returns what it prints.
    pub fn run(&self, script: &str) -> String {
        let output = self.try_run(script);
        let [text, errors] =
            [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        assert!(output.status.success(), "{script}: {}\n{text}{errors}", output.status);
        text.trim().to_owned()
    }

    /// Waits until a script succeeds, and returns what it prints.
    pub async fn eventually(&self, script: &str) -> String {
        eventually(script, || async {
            let output = self.try_run(script);
            let text = String::from_utf8(output.stdout).unwrap();
            output.status.success().then(|| text.trim().to_owned())
        })
        .await
    }

    /// Copies a file into the system.
    pub fn copy(&self, file: &Path, to: &str) {
        fs::copy(file, self.path(to)).unwrap();
    }

    pub fn write(&self, file: &str, text: &str) {
        fs::write(self.path(file), text).unwrap();
    }

    /// A path inside as a path of this machine. A directory in which the system has mounted something
    /// is empty here.
    fn path(&self, inside: &str) -> PathBuf {
        let init = self.init().expect("the system does not run");
        Path::new("/proc").join(init.to_string()).join("root").join(inside.trim_start_matches('/'))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let journal = self.try_run("journalctl --no-pager --lines=80 --unit='lobbyd*'");
            eprintln!("journal:\n{}", String::from_utf8_lossy(&journal.stdout));
            eprintln!("{}", fs::read_to_string(self.folder.join("log")).unwrap_or_default());
        }
    }
}

/// The children of a process, with their names.
fn children(parent: u32) -> Vec<(u32, String)> {
    let parent = parent.to_string();
    let listed = output(Command::new("ps").args(["-o", "pid=,comm=", "--ppid", &parent])).stdout;
    let lines = String::from_utf8(listed).unwrap();
    let child = |line: &str| {
        let (process, name) = line.trim().split_once(' ')?;
        Some((process.parse().ok()?, name.trim().to_owned()))
    };
    lines.lines().filter_map(child).collect()
}
