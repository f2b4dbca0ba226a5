//! The real program, as a process.

use std::{
    fs::{self, File},
    io::Write,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Output, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    eventually,
    server::{folder, free_port},
};

/// Settings, as the environment gives them.
pub type Settings = Vec<(String, String)>;

/// Settings of these keys.
pub fn settings(pairs: &[(&str, &str)]) -> Settings {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// What a program has printed.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The program, not started: alone in a new folder, without the environment of the tests.
pub fn program(settings: &Settings) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lobbyd"));
    command.env_clear().envs(settings.iter().cloned()).current_dir(folder("cwd-"));
    command.stdin(Stdio::null());
    command
}

/// Runs the program to its end.
pub fn run(settings: &Settings, arguments: &[&str]) -> Output {
    program(settings).args(arguments).output().unwrap()
}

/// Adds a user of the HTTP API, as an administrator does.
pub fn add_user(settings: &Settings, name: &str, password: &str, groups: &[&str]) {
    let mut adding = program(settings)
        .args(["user", "add", name, "--password-stdin"])
        .args(groups.iter().flat_map(|group| ["--group", group]))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that refuses its arguments reads nothing; what it says is worth more than that.
    writeln!(adding.stdin.take().unwrap(), "{password}").ok();
    let output = adding.wait_with_output().unwrap();
    assert!(output.status.success(), "user add {name}: {output:?}");
}

/// The running program: a worker, an API, or both. Dropping it kills it with SIGKILL.
pub struct Daemon {
    child: Child,
    pub ops_port: u16,
    /// Where the HTTP API listens, if the command has one.
    pub http_port: u16,
    log: PathBuf,
}

impl Daemon {
    /// Starts a worker.
    pub fn start(settings: &Settings) -> Self {
        Self::start_as("worker", settings)
    }

    /// Starts one that does what `command` says: `run`, `worker` or `api`.
    pub fn start_as(command: &str, settings: &Settings) -> Self {
        Self::spawn(program(settings).arg(command))
    }

    /// Starts this program.
    pub fn spawn(program: &mut Command) -> Self {
        let log = folder("daemon-").join("log");
        let (ops_port, http_port) = (free_port(), free_port());
        let child = program
            .env("LOBBYD__OPS__LISTEN", format!("127.0.0.1:{ops_port}"))
            .env("LOBBYD__HTTP__LISTEN", format!("127.0.0.1:{http_port}"))
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { child, ops_port, http_port, log }
    }

    /// Starts a worker and waits until it is ready.
    pub async fn start_ready(settings: &Settings) -> Self {
        let daemon = Self::start(settings);
        daemon.ready().await;
        daemon
    }

    pub async fn ready(&self) {
        eventually("a program that is ready", || async {
            self.get("/readyz").await.filter(|(status, _)| *status == 200)
        })
        .await;
    }

    /// Waits until it says that something is not reached, and returns what.
    pub async fn unready(&self) -> String {
        eventually("a program that is not ready", || async {
            let (status, problems) = self.get("/readyz").await?;
            (status == 503).then_some(problems)
        })
        .await
    }

    /// Asks the ops listener: status and body.
    pub async fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.ops_port)).await.ok()?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        let body = answer.split_once("\r\n\r\n")?.1.to_owned();
        Some((status, body))
    }

    /// The value of a metric, by its name with labels.
    pub async fn metric(&self, name: &str) -> Option<u64> {
        let (_status, text) = self.get("/metrics").await?;
        let line =
            text.lines().find(|line| line.rsplit_once(' ').is_some_and(|(n, _)| n == name))?;
        line.rsplit_once(' ')?.1.parse().ok()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Asks it to stop, and waits until it has.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended().await
    }

    pub async fn ended(&mut self) -> ExitStatus {
        let child = std::cell::RefCell::new(&mut self.child);
        eventually("the end of the program", || async { child.borrow_mut().try_wait().unwrap() })
            .await
    }

    /// Resident memory in bytes.
    pub fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        let kibibytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kibibytes * 1024
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        if std::thread::panicking() {
            eprintln!("log of the program:\n{}", self.log());
        }
    }
}
