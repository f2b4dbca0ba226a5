//! Private servers: RabbitMQ, PostgreSQL and MariaDB on free ports in a temporary folder.
//!
//! A server is started when the first test needs it, and ends with the test process however that
//! ends: a shell beside each server reads a pipe from the test process and kills the server when
//! the pipe closes.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        LazyLock, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use serde_json::{Value, json};

use super::{
    PATIENCE,
    root::{in_root, installed, installed_as},
    tools::file,
};

/// Ports below those that the system assigns to outgoing connections (from 32768 on), so that no
/// client takes one before the server listens.
const PORTS: std::ops::Range<u32> = 10_000..32_000;

/// A port that is free now and is not returned again soon.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        // Test processes that run at the same time begin at different ports.
        let number = std::process::id() * 97 + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(PORTS.start + number % (PORTS.end - PORTS.start)).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The temporary folder of this test process; removed when the process has ended.
pub fn sandbox() -> &'static Path {
    static SANDBOX: OnceLock<(PathBuf, Child)> = OnceLock::new();
    let (path, _janitor) = SANDBOX.get_or_init(|| {
        let path = tempfile::Builder::new().prefix("lobbyd-test-").tempdir().unwrap().keep();
        // The servers run as their own users.
        run(Command::new("chmod").arg("755").arg(&path));
        let script = r#"cat >/dev/null; sleep 2; umount --lazy "$1"/disk-*; rm -rf "$1""#;
        let janitor = Command::new("sh")
            .args(["-c", script, "janitor"])
            .arg(&path)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        (path, janitor)
    });
    path
}

/// A new folder in the sandbox.
pub fn folder(name: &str) -> PathBuf {
    tempfile::Builder::new().prefix(name).tempdir_in(sandbox()).unwrap().keep()
}

/// A server process and the shell that kills it when the test process ends.
pub struct Process {
    guard: Child,
}

impl Process {
    pub fn start(command: &Command, log: &Path) -> Self {
        let script = r#"
            log=$1; shift
            exec 3<&0
            (cat <&3 >/dev/null; kill -9 0) &
            "$@" </dev/null 3<&- >>"$log" 2>&1
        "#;
        let mut guard = Command::new("sh");
        guard.args(["-c", script, "guard"]).arg(log).arg(command.get_program());
        guard.args(command.get_args()).process_group(0);
        guard.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        for (key, value) in command.get_envs() {
            guard.env(key, value.unwrap());
        }
        if let Some(folder) = command.get_current_dir() {
            guard.current_dir(folder);
        }
        Self { guard: guard.spawn().unwrap() }
    }

    /// The number of the shell.
    pub fn id(&self) -> u32 {
        self.guard.id()
    }

    fn has_ended(&mut self) -> bool {
        self.guard.try_wait().unwrap().is_some()
    }
}

impl Drop for Process {
    /// Kills the server, as a power failure would.
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        self.guard.wait().unwrap();
    }
}

/// A private server that can be killed and started again, with its data.
pub struct Server {
    pub port: u16,
    folder: PathBuf,
    command: Command,
    /// Another process that the server needs.
    _companion: Option<Process>,
    process: Option<Process>,
}

impl Server {
    pub(super) fn new(
        port: u16,
        folder: PathBuf,
        command: Command,
        companion: Option<Process>,
    ) -> Self {
        let mut server = Self { port, folder, command, _companion: companion, process: None };
        server.start();
        server
    }

    /// Starts the server and waits until it listens.
    pub fn start(&mut self) {
        let begin = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(begin.elapsed() < PATIENCE, "the server does not listen: {}", self.log());
            // After a kill, PostgreSQL exits again until the last of its child processes has ended.
            if self.process.as_mut().is_none_or(Process::has_ended) {
                self.process = Some(Process::start(&self.command, &self.folder.join("log")));
            }
            sleep(Duration::from_millis(50));
        }
    }

    /// Omits an argument from the next start.
    fn forget_argument(&mut self, argument: &str) {
        let mut command = Command::new(self.command.get_program());
        command.args(self.command.get_args().filter(|other| *other != argument));
        command.envs(self.command.get_envs().map(|(key, value)| (key, value.unwrap())));
        command.current_dir(self.command.get_current_dir().unwrap());
        self.command = command;
    }

    /// Kills the server with SIGKILL, and waits until it no longer listens.
    pub fn kill(&mut self) {
        self.process = None;
        let begin = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
            assert!(begin.elapsed() < PATIENCE, "the server was not killed");
            sleep(Duration::from_millis(10));
        }
    }

    /// Sends a signal to the server, and not to the shells beside it.
    pub fn signal(&self, signal: Signal) {
        let guard = format!("PPid:\t{}", self.process.as_ref().unwrap().id());
        let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
        let mut servers = processes.filter_map(|process| {
            let status = fs::read_to_string(process.join("status")).ok()?;
            let has = |line: &str| status.lines().any(|other| other == line);
            let is_server = has(&guard) && !has("Name:\tsh");
            is_server.then(|| process.file_name()?.to_str()?.parse().ok()).flatten()
        });
        kill(Pid::from_raw(servers.next().unwrap()), signal).unwrap();
    }

    /// What it has printed.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

/// Runs a command that must succeed.
fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| {
        panic!("{command:?}: {error}; `make test` installs the servers that the tests need")
    });
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}");
}

fn folder_of(user: &str, name: &str) -> PathBuf {
    let folder = folder(name);
    give_to(user, &folder);
    folder
}

/// Makes the user of a server the owner of a file or folder.
pub fn give_to(user: &str, path: &Path) {
    if nix::unistd::getuid().is_root() {
        run(installed("chown").arg(format!("{user}:{user}")).arg(path));
    }
}

const PGBOUNCER: &str = "/usr/sbin/pgbouncer";

pub fn start_postgres() -> Server {
    start_postgres_with(&[])
}

/// Starts PostgreSQL with these settings, each `name=value`.
pub fn start_postgres_with(settings: &[String]) -> Server {
    start_postgres_in(folder("postgres-"), settings)
}

/// As [`start_postgres_with`], with all its files in this folder.
pub fn start_postgres_in(folder: PathBuf, settings: &[String]) -> Server {
    give_to("postgres", &folder);
    run(installed_as("postgres", newest_postgres().join("initdb"))
        .args(["--auth=trust", "--username=admin", "--no-sync", "--encoding=UTF8", "--pgdata"])
        .arg(folder.join("data"))
        .current_dir(&folder));
    run_postgres(free_port(), folder, settings)
}

/// Starts a standby of a PostgreSQL, on this port.
pub fn start_standby(primary: &Server, port: u16) -> Server {
    let folder = folder_of("postgres", "postgres-");
    run(installed_as("postgres", newest_postgres().join("pg_basebackup"))
        .args(["--host=127.0.0.1", "--username=admin", "--checkpoint=fast", "--no-sync"])
        .args(["--write-recovery-conf", &format!("--port={}", primary.port), "--pgdata"])
        .arg(folder.join("data"))
        .current_dir(&folder));
    run_postgres(port, folder, &[])
}

fn run_postgres(port: u16, folder: PathBuf, settings: &[String]) -> Server {
    let data = folder.join("data");
    let mut command = installed_as("postgres", newest_postgres().join("postgres"));
    command.arg("-D").arg(&data).args(["-p", &port.to_string(), "-h", "127.0.0.1"]);
    command.arg("-k").arg(&folder).args(["-c", "max_connections=300"]).current_dir(&folder);
    command.args(settings.iter().flat_map(|setting| ["-c", setting]));
    Server::new(port, folder, command, None)
}

/// Starts a pgbouncer in front of a PostgreSQL, with this section of its configuration.
pub fn start_pgbouncer(postgres: &Server, section: &str) -> Server {
    let (folder, port) = (folder_of("postgres", "pgbouncer-"), free_port());
    let users = folder.join("users");
    fs::write(&users, "\"lobbyd\" \"\"\n\"lobbyd_owner\" \"\"\n").unwrap();
    let configuration = folder.join("pgbouncer.ini");
    let text = format!(
        "{section}
        listen_addr = 127.0.0.1
        listen_port = {port}
        unix_socket_dir =
        auth_type = trust
        auth_file = {}
        [databases]
        * = host=127.0.0.1 port={}
        ",
        users.display(),
        postgres.port
    );
    fs::write(&configuration, text).unwrap();
    let mut command = installed_as("postgres", PGBOUNCER);
    command.arg(configuration).current_dir(&folder);
    Server::new(port, folder, command, None)
}

/// The version of pgbouncer: 1.24 is 124.
pub fn pgbouncer_version() -> u32 {
    let output = installed(PGBOUNCER).arg("--version").output().unwrap().stdout;
    let text = String::from_utf8(output).unwrap();
    let version = text.lines().next().and_then(|line| line.strip_prefix("PgBouncer ")).unwrap();
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap());
    parts.next().unwrap() * 100 + parts.next().unwrap()
}

/// The folder with PostgreSQL's programs, in the root file system of the servers.
pub fn newest_postgres() -> PathBuf {
    const VERSIONS: &str = "/usr/lib/postgresql";
    let versions = fs::read_dir(in_root(VERSIONS)).into_iter().flatten();
    let folders = versions.map(|version| Path::new(VERSIONS).join(version.unwrap().file_name()));
    folders
        .map(|folder| folder.join("bin"))
        .filter(|programs| in_root(&programs.join("postgres").to_string_lossy()).exists())
        // By number: 9.6 is older than 15.
        .max_by_key(|programs| (programs.as_os_str().len(), programs.clone()))
        .expect("PostgreSQL is not installed; `make test` installs it")
}

/// Starts MariaDB, or MySQL if the root file system has that instead (`make test-mysql`).
pub fn start_mariadb() -> Server {
    start_mariadb_with(&[])
}

/// Starts MariaDB with these settings, each `name=value`.
pub fn start_mariadb_with(settings: &[String]) -> Server {
    start_mariadb_in(folder("mariadb-"), settings)
}

/// As [`start_mariadb_with`], with all its files in this folder.
pub fn start_mariadb_in(folder: PathBuf, settings: &[String]) -> Server {
    prepare_mariadb(&folder);
    run_mariadb(free_port(), folder, settings)
}

const MYSQLD: &str = "/usr/sbin/mysqld";

fn is_mysql() -> bool {
    // The package of MariaDB has a link of this name.
    in_root(MYSQLD).exists() && !in_root("/usr/sbin/mariadbd").exists()
}

/// Fills a folder with the data of a MariaDB, and the statements that make its user.
fn prepare_mariadb(folder: &Path) {
    give_to("mysql", folder);
    let mut create = if is_mysql() {
        let mut create = installed_as("mysql", MYSQLD);
        create.args(["--no-defaults", "--initialize-insecure"]);
        create
    } else {
        let mut create = installed_as("mysql", "/usr/bin/mariadb-install-db");
        create.args([
            "--no-defaults",
            "--skip-test-db",
            "--auth-root-authentication-method=normal",
        ]);
        create
    };
    run(create
        .arg(format!("--datadir={}", folder.join("data").display()))
        // At its start a server removes temporary tables from its folder, also those of others.
        .env("TMPDIR", folder)
        .current_dir(folder));
    fs::write(
        folder.join("users.sql"),
        "CREATE USER IF NOT EXISTS admin@'127.0.0.1' IDENTIFIED BY 'admin';
         GRANT ALL ON *.* TO admin@'127.0.0.1' WITH GRANT OPTION;",
    )
    .unwrap();
}

fn run_mariadb(port: u16, folder: PathBuf, settings: &[String]) -> Server {
    let mut command = if is_mysql() {
        let mut command = installed_as("mysql", MYSQLD);
        command.args(["--no-defaults", "--mysqlx=OFF", "--secure-file-priv="]);
        command
    } else {
        let mut command = installed_as("mysql", "/usr/sbin/mariadbd");
        command.arg("--no-defaults");
        command
    };
    command.args(["--bind-address=127.0.0.1", "--skip-name-resolve"]);
    command.arg(format!("--port={port}"));
    command.arg(format!("--datadir={}", folder.join("data").display()));
    command.arg(format!("--socket={}", folder.join("socket").display()));
    command.arg(format!("--init-file={}", folder.join("users.sql").display()));
    command.env("TMPDIR", &folder).current_dir(&folder);
    command.args(settings.iter().map(|setting| format!("--{setting}")));
    Server::new(port, folder, command, None)
}

/// Starts MariaDB servers that form a Galera cluster.
pub fn start_galera(number: usize) -> Vec<Server> {
    let ports: Vec<u16> = (0..number).map(|_| free_port()).collect();
    let nodes: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let node = |index: usize| {
        let (group, transfer) = (ports[index], free_port());
        let mut settings: Vec<String> = [
            "wsrep-on=ON",
            "wsrep-provider=/usr/lib/galera/libgalera_smm.so",
            "wsrep-sst-method=rsync",
            "binlog-format=ROW",
            "innodb-autoinc-lock-mode=2",
            "innodb-flush-log-at-trx-commit=0",
        ]
        .map(str::to_owned)
        .to_vec();
        settings.push(format!("wsrep-cluster-address=gcomm://{}", nodes.join(",")));
        settings.push("wsrep-node-address=127.0.0.1".to_owned());
        settings.push(format!("wsrep-node-name=node{index}"));
        // While it sends its data to a node that joins, a node takes no commit.
        settings.push(format!("wsrep-sst-donor=node{},", number - 1));
        settings.push(format!("wsrep-sst-receive-address=127.0.0.1:{transfer}"));
        settings.push(format!(
            "wsrep-provider-options=base_host=127.0.0.1;base_port={group};\
             gmcast.listen_addr=tcp://127.0.0.1:{group};\
             ist.recv_addr=127.0.0.1:{};pc.recovery=false",
            free_port()
        ));
        settings
    };
    // A node that is started again joins the others, so only the first process may found the cluster.
    let mut servers = Vec::new();
    for index in 0..number {
        let mut settings = node(index);
        if index == 0 {
            settings.push("wsrep-new-cluster".to_owned());
        }
        let mut server = start_mariadb_in(folder("mariadb-"), &settings);
        if index == 0 {
            server.forget_argument("--wsrep-new-cluster");
        }
        servers.push(server);
    }
    servers
}

/// A private RabbitMQ.
pub struct Broker {
    pub server: Server,
    environment: Vec<(&'static str, String)>,
}

/// Debian's folder of RabbitMQ's own programs; the programs in the path use the system's node.
const RABBITMQ: &str = "/usr/lib/rabbitmq/bin";

impl Broker {
    pub fn start() -> Self {
        Self::start_with(free_port(), "")
    }

    /// Starts a broker with these lines in its configuration. They make it listen on `port`.
    pub fn start_with(port: u16, lines: &str) -> Self {
        Self::node(port, lines, &folder("rabbitmq-home-"), free_port())
    }

    /// Starts brokers that form a cluster.
    pub fn cluster(number: usize) -> Vec<Self> {
        let (home, names_port) = (folder("rabbitmq-home-"), free_port());
        let brokers: Vec<Self> =
            (0..number).map(|_| Self::node(free_port(), "", &home, names_port)).collect();
        for other in &brokers[1..] {
            other.control(&["stop_app"]);
            other.control(&["join_cluster", &brokers[0].name()]);
            other.control(&["start_app"]);
        }
        brokers
    }

    /// Nodes with one home have the same secret, and those with one name service find each other.
    fn node(port: u16, lines: &str, home: &Path, names_port: u16) -> Self {
        let folder = folder("rabbitmq-");
        fs::write(folder.join("plugins"), "[].").unwrap();
        fs::write(folder.join("users.json"), users().to_string()).unwrap();
        let users = folder.join("users.json").display().to_string();
        let lines = format!("disk_free_limit.absolute = 50MB\nload_definitions = {users}\n{lines}");
        fs::write(folder.join("rabbitmq.conf"), lines).unwrap();
        fs::write(folder.join("rabbitmq-env.conf"), "").unwrap();
        let path = |name: &str| folder.join(name).display().to_string();
        let environment = vec![
            ("HOME", home.display().to_string()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
            ("ERL_EPMD_PORT", names_port.to_string()),
            ("RABBITMQ_NODENAME", node_name(port)),
            ("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1".to_owned()),
            ("RABBITMQ_NODE_PORT", port.to_string()),
            ("RABBITMQ_DIST_PORT", free_port().to_string()),
            ("RABBITMQ_MNESIA_BASE", path("data")),
            ("RABBITMQ_LOG_BASE", path("logs")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", path("plugins")),
            ("RABBITMQ_CONFIG_FILE", path("rabbitmq.conf")),
            ("RABBITMQ_CONF_ENV_FILE", path("rabbitmq-env.conf")),
        ];
        // Otherwise Erlang starts its name service as a daemon that outlives the test process. Of
        // several for one port, the first serves.
        let mut names = installed("epmd");
        names.envs(environment.iter().cloned());
        let names = Process::start(&names, &folder.join("epmd.log"));
        let mut command = installed(format!("{RABBITMQ}/rabbitmq-server"));
        command.envs(environment.iter().cloned()).current_dir(&folder);
        Self { server: Server::new(port, folder, command, Some(names)), environment }
    }

    /// The name of this node in its cluster.
    pub fn name(&self) -> String {
        node_name(self.server.port)
    }

    /// Runs `rabbitmqctl` on this broker.
    pub fn control(&self, arguments: &[&str]) {
        let mut command = installed(format!("{RABBITMQ}/rabbitmqctl"));
        run(command.args(arguments).envs(self.environment.iter().cloned()));
    }

    /// Runs `rabbitmqctl` on this broker, and returns what it prints.
    pub fn report(&self, arguments: &[&str]) -> String {
        let mut command = installed(format!("{RABBITMQ}/rabbitmqctl"));
        command.arg("--quiet").args(arguments).envs(self.environment.iter().cloned());
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    }

    /// Runs a shell script with RabbitMQ's commands for this broker.
    pub fn shell(&self, script: &str) {
        let mut command = installed("sh");
        let script = format!("PATH={RABBITMQ}:$PATH; {script}");
        run(command.args(["-ec", &script]).envs(self.environment.iter().cloned()));
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        let folder = self.server.folder.join("logs");
        let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
        files.map(|file| fs::read_to_string(file).unwrap_or_default()).collect()
    }

    /// Enables a plugin of RabbitMQ while the broker runs.
    pub fn enable(&self, plugin: &str) {
        let mut command = installed(format!("{RABBITMQ}/rabbitmq-plugins"));
        run(command.args(["enable", plugin]).envs(self.environment.iter().cloned()));
    }

    /// With this, programs use it.
    pub fn url(&self) -> String {
        amqp_url(self.server.port)
    }

    /// Adds a user with the permissions of lobbyd's user.
    pub fn add_user(&self, user: &str, password: &str) {
        let [configure, write, read] = documented_permissions();
        self.control(&["add_user", user, password]);
        self.control(&["set_permissions", user, &configure, &write, &read]);
    }
}

/// The URL with which programs use the broker at a port.
pub fn amqp_url(port: u16) -> String {
    format!("amqp://lobbyd:lobbyd@127.0.0.1:{port}/%2f")
}

/// The same broker as other programs use it, with all permissions.
pub fn amqp_url_of_another(url: &str) -> String {
    url.replace("//lobbyd:lobbyd@", "//guest:guest@")
}

/// What lobbyd's user may configure, write and read, if lobbyd declares its queues.
fn documented_permissions() -> [String; 3] {
    let readme = fs::read_to_string(file("deploy/rabbitmq/README.md")).unwrap();
    let command = readme.split_once("rabbitmqctl set_permissions lobbyd ").unwrap().1;
    [1, 3, 5].map(|part| command.split('\'').nth(part).unwrap().to_owned())
}

/// The users that a broker has from its start.
fn users() -> Value {
    let [configure, write, read] = documented_permissions();
    let permission = |user: &str, [configure, write, read]: [&str; 3]| json!({"user": user, "vhost": "/", "configure": configure, "write": write, "read": read});
    json!({
        "vhosts": [{"name": "/"}],
        "users": [
            {"name": "guest", "password": "guest", "tags": "administrator"},
            {"name": "lobbyd", "password": "lobbyd", "tags": ""},
        ],
        "permissions": [
            permission("guest", [".*"; 3]),
            permission("lobbyd", [&configure, &write, &read]),
        ],
    })
}

fn node_name(port: u16) -> String {
    format!("lobbyd-test-{port}@localhost")
}

/// The broker that tests share; each test uses its own names.
pub static BROKER: LazyLock<Broker> = LazyLock::new(|| {
    let broker = Broker::start();
    let limit = [r"\.lobby-changed$", r#"{"delivery-limit": 20}"#];
    broker.control(&[&["set_policy", "--apply-to", "queues", "limit"], &limit[..]].concat());
    broker
});

/// The PostgreSQL that tests share; each test uses its own database.
pub static POSTGRES: LazyLock<Server> =
    LazyLock::new(|| start_postgres_with(&unsynced("fsync=off")));

/// The MariaDB that tests share; each test uses its own database.
pub static MARIADB: LazyLock<Server> =
    LazyLock::new(|| start_mariadb_with(&unsynced("innodb-flush-log-at-trx-commit=0")));

/// Nothing kills the machine, so tests need not wait for its disk. Benchmarks do.
fn unsynced(setting: &str) -> Vec<String> {
    if cfg!(test) { vec![setting.to_owned()] } else { Vec::new() }
}
