//! The servers, and the processes between proxies of their own.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use nix::{libc::SIGTERM, sys::signal::Signal};
use tokio::{
    task::spawn_blocking,
    time::{sleep, timeout},
};

use crate::{
    plan::{Options, PROCESSES, STEPPED, Server, WORKERS},
    support::{
        PATIENCE,
        cluster::TestCluster,
        daemon::{Daemon, Settings, add_user, get},
        database::{Database, Kind},
        proxy::{Mode, Proxy},
        server::{self, Broker, amqp_url, folder, start_mariadb, start_postgres},
        tools::file,
    },
};

/// Between two questions whether a process is ready.
const PAUSE: Duration = Duration::from_millis(20);

/// The user who moderates all rooms, and their password.
pub const OWNER: (&str, &str) = ("owner", "correct horse");

pub struct Site {
    pub cluster: TestCluster,
    pub processes: Vec<Process>,
    database: Arc<Mutex<server::Server>>,
    broker: Arc<Mutex<Broker>>,
    /// What libfaketime adds to the wall clock of a worker.
    clock: PathBuf,
    /// Where the logs of all processes are kept.
    pub logs: PathBuf,
}

/// A worker or an API, one process after another.
pub struct Process {
    pub name: String,
    command: &'static str,
    settings: Settings,
    /// While a fault has it, it is the fault of that alone.
    pub daemon: tokio::sync::Mutex<Daemon>,
    pub http_port: u16,
    ops_port: u16,
    database: Proxy,
    events: Proxy,
    log: PathBuf,
}

impl Site {
    /// Starts everything, with tables and a user, and waits until it is ready.
    pub async fn start(options: &Options) -> Self {
        let kind = options.kind;
        let server = spawn_blocking(move || match kind {
            Kind::MariaDb => start_mariadb(),
            Kind::Postgres | Kind::Sqlite => start_postgres(),
        });
        let broker = spawn_blocking(Broker::start);
        let (server, broker) = (server.await.unwrap(), broker.await.unwrap());
        let limit = [r"\.lobby-changed$", r#"{"delivery-limit": 20}"#];
        broker.control(&[&["set_policy", "--apply-to", "queues", "limit"], &limit[..]].concat());
        let database = Database::create_on(kind, server.port).await;
        let mut cluster = TestCluster::on(database, &broker.url());
        cluster.set("LIMITS__CHANGES_PER_MINUTE", "1000000");
        drop(cluster.database.store().await);
        let (name, password) = OWNER;
        add_user(&cluster.settings, name, password, &[]);

        let logs = file("target/soak").join(format!("{}-{}", options.database(), options.seed));
        fs::remove_dir_all(&logs).ok();
        fs::create_dir_all(&logs).unwrap();
        let clock = folder("clock-").join("offset");
        fs::write(&clock, "+0").unwrap();
        let mut processes = Vec::new();
        for index in 0..PROCESSES {
            let process = Process::start(index, &cluster, &server, &broker, &clock, &logs);
            processes.push(process.await);
        }
        let (database, broker) = (Arc::new(Mutex::new(server)), Arc::new(Mutex::new(broker)));
        let site = Self { cluster, processes, database, broker, clock, logs };
        for process in &site.processes {
            process.daemon.lock().await.ready().await;
        }
        site
    }

    pub async fn kill_server(&self, server: Server, down: Duration) {
        let (database, broker) = (Arc::clone(&self.database), Arc::clone(&self.broker));
        spawn_blocking(move || {
            let restart = |server: &mut server::Server| {
                server.kill();
                std::thread::sleep(down);
                server.start();
            };
            match server {
                Server::Database => restart(&mut database.lock().unwrap()),
                Server::Broker => {
                    let mut broker = broker.lock().unwrap();
                    restart(&mut broker.server);
                    // A RabbitMQ that is killed just after its start may refuse a queue forever.
                    std::thread::sleep(Duration::from_secs(10));
                }
            }
        })
        .await
        .unwrap();
    }

    /// Lets the broker run out of memory for a time: it takes no messages.
    pub async fn alarm(&self, lasts: Duration) {
        self.control(&["set_vm_memory_high_watermark", "absolute", "1000000"], lasts).await;
        self.control(&["set_vm_memory_high_watermark", "0.4"], Duration::ZERO).await;
    }

    async fn control(&self, arguments: &'static [&str], then: Duration) {
        let broker = Arc::clone(&self.broker);
        spawn_blocking(move || {
            let broker = broker.lock().unwrap();
            broker.control(arguments);
            std::thread::sleep(then);
        })
        .await
        .unwrap();
    }

    /// The queues that have a message, either ready or at a consumer.
    pub async fn not_empty(&self, queues: &[&str]) -> Vec<String> {
        let broker = Arc::clone(&self.broker);
        let listing = ["list_queues", "--no-table-headers", "name", "messages"];
        let report = spawn_blocking(move || broker.lock().unwrap().report(&listing));
        let report = report.await.unwrap();
        let messages = |queue: &str| {
            let mut lines = report.lines().filter_map(|line| line.split_once('\t'));
            lines.find_map(|(name, messages)| (name == queue).then_some(messages)).unwrap_or("?")
        };
        let lengths = queues.iter().map(|queue| (queue, messages(queue)));
        lengths
            .filter(|(_queue, messages)| *messages != "0")
            .map(|(queue, messages)| format!("{messages} messages in {queue}"))
            .collect()
    }

    /// The versions of the servers.
    pub async fn versions(&self) -> String {
        let database = &self.cluster.database;
        let (name, sql) = match database.kind {
            Kind::MariaDb => ("MariaDB", "SELECT version()"),
            Kind::Postgres | Kind::Sqlite => ("PostgreSQL", "SHOW server_version"),
        };
        let version = database.texts(sql).await.join("");
        let broker = Arc::clone(&self.broker);
        let report = spawn_blocking(move || broker.lock().unwrap().report(&["version"]));
        let number =
            |text: &str| text.split([' ', '-']).next().unwrap_or_default().trim().to_owned();
        format!("{name} {}, RabbitMQ {}", number(&version), number(&report.await.unwrap()))
    }

    pub async fn step_clock(&self, offset: &str, lasts: Duration) {
        fs::write(&self.clock, offset).unwrap();
        sleep(lasts).await;
        fs::write(&self.clock, "+0").unwrap();
    }

    /// Sets the mode of connections to a server, of one process or of all of them.
    pub fn network(&self, server: Server, process: Option<usize>, mode: Mode) {
        for (index, other) in self.processes.iter().enumerate() {
            if process.is_none_or(|process| process == index) {
                match server {
                    Server::Database => other.database.set(mode),
                    Server::Broker => other.events.set(mode),
                }
            }
        }
    }
}

impl Process {
    async fn start(
        index: usize,
        cluster: &TestCluster,
        database: &server::Server,
        broker: &Broker,
        clock: &Path,
        logs: &Path,
    ) -> Self {
        let (command, name) = if index < WORKERS {
            ("worker", format!("worker{}", index + 1))
        } else {
            ("api", format!("api{}", index + 1 - WORKERS))
        };
        let database = Proxy::to(database.port).await;
        let events = Proxy::to(broker.server.port).await;
        let mut settings = cluster.settings.clone();
        let mut set = |key: &str, value: &str| {
            settings.retain(|(other, _)| other != key);
            settings.push((key.to_owned(), value.to_owned()));
        };
        set("LOBBYD__DATABASE__URL", &cluster.database.url_through(database.port));
        set("LOBBYD__EVENTS__URL", &amqp_url(events.port));
        if index == STEPPED {
            // The loader replaces $LIB by the folder of libraries of this machine.
            set("LD_PRELOAD", "/usr/$LIB/faketime/libfaketimeMT.so.1");
            set("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap());
            set("FAKETIME_NO_CACHE", "1");
            set("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        let daemon = Daemon::start_as(command, &settings);
        Self {
            log: logs.join(format!("{name}.log")),
            name,
            command,
            settings,
            http_port: daemon.http_port,
            ops_port: daemon.ops_port,
            daemon: tokio::sync::Mutex::new(daemon),
            database,
            events,
        }
    }

    /// Kills the process and starts another one. Returns what was wrong with the old one.
    pub async fn kill(&self, down: Duration) -> Option<String> {
        let mut daemon = self.daemon.lock().await;
        let wrong = self.has_ended(&mut daemon);
        if wrong.is_none() {
            daemon.kill();
        }
        sleep(down).await;
        self.start_again(&mut daemon);
        wrong
    }

    /// Stops the process and starts another one. Returns what was wrong with the old one.
    pub async fn terminate(&self) -> Option<String> {
        let mut daemon = self.daemon.lock().await;
        let mut wrong = self.has_ended(&mut daemon);
        if wrong.is_none() {
            let status = daemon.stop().await;
            // A process that has just begun does not know the signal yet.
            let is_new = status.signal() == Some(SIGTERM) && daemon.log().is_empty();
            let is_right = status.success() || is_new;
            wrong = (!is_right).then(|| format!("{}: {status} after SIGTERM", self.name));
        }
        self.start_again(&mut daemon);
        wrong
    }

    /// Waits until it is ready, and prints what it waits for. Returns why it did not become ready.
    pub async fn ready(&self) -> Option<String> {
        let daemon = self.daemon.lock().await;
        let begin = Instant::now();
        let mut shown = String::new();
        loop {
            let answer = daemon.get("/readyz").await;
            if matches!(answer, Some((200, _))) {
                return None;
            }
            let reason = answer.map_or_else(|| "no answer".to_owned(), |(_status, reason)| reason);
            if begin.elapsed() > PATIENCE {
                return Some(format!("{} is not ready: {reason}", self.name));
            }
            if without_digits(&shown) != without_digits(&reason) {
                println!("soak: {} is not ready: {}", self.name, reason.replace('\n', "; "));
                shown = reason;
            }
            sleep(PAUSE).await;
        }
    }

    /// Whether it says that it is ready, if it answers within this time.
    pub async fn is_ready(&self, limit: Duration) -> Option<bool> {
        let (status, _reason) = timeout(limit, get(self.ops_port, "/readyz")).await.ok()??;
        Some(status == 200)
    }

    /// The number of its process, unless a fault has it.
    pub fn undisturbed(&self) -> Option<u32> {
        self.daemon.try_lock().ok().map(|daemon| daemon.process())
    }

    pub async fn pause(&self, lasts: Duration) {
        let daemon = self.daemon.lock().await;
        daemon.signal(Signal::SIGSTOP);
        sleep(lasts).await;
        daemon.signal(Signal::SIGCONT);
    }

    /// Stops the process for good.
    pub async fn end(&self) -> Option<String> {
        let mut daemon = self.daemon.lock().await;
        let mut wrong = self.has_ended(&mut daemon);
        if wrong.is_none() {
            let status = daemon.stop().await;
            wrong = (!status.success()).then(|| format!("{}: {status} at the end", self.name));
        }
        self.keep_log(&daemon);
        wrong
    }

    /// A process must not end by itself.
    fn has_ended(&self, daemon: &mut Daemon) -> Option<String> {
        let status = daemon.status_if_ended()?;
        let log = daemon.log();
        let last: Vec<&str> = log.lines().rev().take(3).collect();
        Some(format!("{} has ended by itself: {status}: {last:?}", self.name))
    }

    fn start_again(&self, daemon: &mut Daemon) {
        self.keep_log(daemon);
        *daemon = daemon.start_again(self.command, &self.settings);
    }

    fn keep_log(&self, daemon: &Daemon) {
        let mut log = OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        write!(log, "--- process {}\n{}", daemon.process(), daemon.log()).unwrap();
    }
}

/// What stays the same while a number changes.
pub fn without_digits(text: &str) -> String {
    text.replace(|letter: char| letter.is_ascii_digit(), "")
}
