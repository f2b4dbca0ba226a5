//! The real program, as a process.
//!
//! Tests start it with settings in its environment, signal and kill it, and read its log, its
//! metrics and its health. Nothing here may reach into the process in another way.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::process::ExitStatusExt,
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
    eventually, roles,
    server::{folder, free_port},
};

/// Environment variables of the program.
pub type Settings = Vec<(String, String)>;

pub fn settings(pairs: &[(&str, &str)]) -> Settings {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The program, not started yet, in a new folder and without the environment of the tests.
pub fn program(settings: &Settings) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lobbyd"));
    // The stack size as in the units, the image and the manifests.
    command.env_clear().env("RUST_MIN_STACK", "268435456");
    command.envs(settings.iter().cloned()).current_dir(folder("cwd-"));
    command.stdin(Stdio::null());
    command
}

/// Runs the program to its end.
pub fn run(settings: &Settings, arguments: &[&str]) -> Output {
    program(settings).args(arguments).output().unwrap()
}

/// The same settings for a command that needs more rights: as the owner of the tables.
pub fn as_owner(settings: &Settings) -> Settings {
    let mut settings = settings.clone();
    for (_key, value) in settings.iter_mut().filter(|(key, _)| key == "LOBBYD__DATABASE__URL") {
        *value = roles::as_owner(value);
    }
    settings
}

/// Adds a user of the HTTP API by the command that an administrator uses, as the owner of the tables.
pub fn add_user(settings: &Settings, name: &str, password: &str, groups: &[&str]) {
    let groups = groups.iter().flat_map(|group| ["--group", *group]);
    let arguments: Vec<&str> = ["add", name].into_iter().chain(groups).collect();
    user(settings, &arguments, password);
}

pub fn change_password(settings: &Settings, name: &str, password: &str) {
    user(settings, &["passwd", name], password);
}

fn user(settings: &Settings, arguments: &[&str], password: &str) {
    let mut command = program(&as_owner(settings))
        .arg("user")
        .args(arguments)
        .arg("--password-stdin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that refuses its arguments does not read its input. Its own error says more than
    // the broken pipe.
    writeln!(command.stdin.take().unwrap(), "{password}").ok();
    let output = command.wait_with_output().unwrap();
    assert!(output.status.success(), "user {arguments:?}: {output:?}");
}

/// The running program: a worker, an API, or both. Dropping it kills the process with SIGKILL.
pub struct Daemon {
    child: Child,
    pub ops_port: u16,
    /// Where the HTTP API listens, if the command has one.
    pub http_port: u16,
    log: PathBuf,
}

impl Daemon {
    pub fn start(settings: &Settings) -> Self {
        Self::start_as("worker", settings)
    }

    /// Starts the program with the command `run`, `worker` or `api`.
    pub fn start_as(command: &str, settings: &Settings) -> Self {
        Self::spawn(program(settings).arg(command))
    }

    pub fn spawn(program: &mut Command) -> Self {
        Self::spawn_at(program, free_port(), free_port())
    }

    fn spawn_at(program: &mut Command, ops_port: u16, http_port: u16) -> Self {
        let log = folder("daemon-").join("log");
        let child = program
            .env("LOBBYD__OPS__LISTEN", format!("127.0.0.1:{ops_port}"))
            .env("LOBBYD__HTTP__LISTEN", format!("127.0.0.1:{http_port}"))
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { child, ops_port, http_port, log }
    }

    /// Kills the program.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts the program again where it listened before.
    pub fn start_again(&self, command: &str, settings: &Settings) -> Self {
        Self::spawn_at(program(settings).arg(command), self.ops_port, self.http_port)
    }

    /// Starts the program so that it aborts when it reaches a point, for the time that `times` says.
    pub fn start_to_abort(command: &str, settings: &Settings, point: &str, times: u32) -> Self {
        Self::spawn(
            program(settings).arg(command).env("LOBBYD_FAILPOINT", format!("{point}:{times}")),
        )
    }

    /// Starts a worker and waits until it is ready.
    pub async fn start_ready(settings: &Settings) -> Self {
        let daemon = Self::start(settings);
        daemon.ready().await;
        daemon
    }

    pub async fn ready(&self) {
        eventually("the program to be ready", || async {
            self.get("/readyz").await.filter(|(status, _)| *status == 200)
        })
        .await;
    }

    /// Waits until `/readyz` reports problems, and returns them.
    pub async fn unready(&self) -> String {
        eventually("the program to be unready", || async {
            let (status, problems) = self.get("/readyz").await?;
            (status == 503).then_some(problems)
        })
        .await
    }

    /// Waits until `/readyz` reports a problem with this text, and returns all problems.
    pub async fn unready_with(&self, text: &str) -> String {
        eventually(&format!("{text:?} from /readyz"), || async {
            let (status, problems) = self.get("/readyz").await?;
            (status == 503 && problems.contains(text)).then_some(problems)
        })
        .await
    }

    /// Status and body of a response of the ops listener.
    pub async fn get(&self, path: &str) -> Option<(u16, String)> {
        get(self.ops_port, path).await
    }

    /// The value of a metric, by its name with labels.
    pub async fn metric(&self, name: &str) -> Option<u64> {
        self.sample(name).await?.parse().ok()
    }

    /// The value of a gauge that is not a whole number.
    pub async fn gauge(&self, name: &str) -> Option<f64> {
        self.sample(name).await?.parse().ok()
    }

    async fn sample(&self, name: &str) -> Option<String> {
        let (_status, text) = self.get("/metrics").await?;
        let mut samples = text.lines().filter_map(|line| line.rsplit_once(' '));
        let (_name, value) = samples.find(|(other, _value)| *other == name)?;
        Some(value.to_owned())
    }

    /// Waits until a counter or gauge has this value.
    pub async fn metric_becomes(&self, name: &str, value: u64) {
        eventually(&format!("{name} to be {value}"), || async {
            self.metric(name).await.filter(|current| *current == value)
        })
        .await;
    }

    /// Waits until this many requests of the HTTP API wait for a change.
    pub async fn long_polls_become(&self, number: u64) {
        self.metric_becomes("lobbyd_http_long_polls", number).await;
    }

    /// Waits until this many event streams are open.
    pub async fn event_streams_become(&self, number: u64) {
        self.metric_becomes("lobbyd_event_streams", number).await;
    }

    /// Waits until the log has this text.
    pub async fn logs(&self, text: &str) {
        eventually(&format!("{text:?} in the log"), || async {
            self.log().contains(text).then_some(())
        })
        .await;
    }

    /// Its number.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Stops the program by SIGTERM and waits for its end.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended().await
    }

    /// Its status, if it has ended.
    pub fn status_if_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    pub async fn ended(&mut self) -> ExitStatus {
        let child = std::sync::Mutex::new(&mut self.child);
        eventually("the program to end", || async { child.lock().unwrap().try_wait().unwrap() })
            .await
    }

    /// Waits until it is ready, or has ended.
    pub async fn is_ready_before_its_end(&mut self) -> bool {
        let (child, port) = (std::sync::Mutex::new(&mut self.child), self.ops_port);
        eventually("the program to be ready, or to end", || async {
            let has_ended = child.lock().unwrap().try_wait().unwrap().is_some();
            let is_ready = get(port, "/readyz").await.is_some_and(|(status, _)| status == 200);
            (has_ended || is_ready).then_some(is_ready)
        })
        .await
    }

    /// Waits until it aborts at the point where its settings let it. Returns its log.
    pub async fn aborts(mut self) -> String {
        let status = self.ended().await;
        let signal = status.signal().map(|number| Signal::try_from(number).unwrap());
        let log = self.log();
        assert_eq!(signal, Some(Signal::SIGABRT), "{log}");
        assert!(log.contains("failpoint reached"), "{log}");
        log
    }

    /// Resident memory, in bytes.
    pub fn memory(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most resident memory that the process has had, in bytes.
    pub fn peak_memory(&self) -> u64 {
        self.status("VmHWM:")
    }

    fn status(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        let kibibytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kibibytes * 1024
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

/// Status and body of a response of the ops listener at a port.
pub async fn get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await.ok()?;
    let status = response.split(' ').nth(1)?.parse().ok()?;
    let body = response.split_once("\r\n\r\n")?.1.to_owned();
    Some((status, body))
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
