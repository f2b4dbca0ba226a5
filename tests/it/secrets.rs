//! No secret appears anywhere: not in the log at the level `trace`, in metrics and health, in answers
//! and errors, nor where the system shows processes.
//!
//! Each secret is a marker of its own, and every use of it occurs here: accepted, refused, reloaded,
//! sent over connections that are cut, and sent by clients in requests that fail. Errors of the
//! configuration are tested in `configuration`, `failover` and `leaks`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::{
    support::{
        cluster::TestCluster,
        daemon::{Daemon, Settings, add_user, program, text},
        database::{Database, Kind},
        eventually,
        http::{Api, Response},
        proxy::{Mode, Proxy},
        server::{BROKER, Server, amqp_url, folder, give_to, start_mariadb, start_postgres_with},
        signaling::SignalingServer,
    },
    talk::Talk,
};

/// What the servers accept, and what they refuse.
const DATABASE: &str = "marker-database-4c1e";
const EVENTS: &str = "marker-events-a95b";
const REFUSED_DATABASE: &str = "marker-refused-database-77d0";
const REFUSED_EVENTS: &str = "marker-refused-events-e0a3";
const RELOADED: &str = "marker-reloaded-51cc";
const SIP: &str = "marker-sip-0f4b";
const PROXY: &str = "marker-proxy-9be2";
const SIGNALING: &str = "marker-signaling-c3d8";
const TALK: &str = "marker-talk-2a6f";
const TALK_PASSWORD: &str = "marker-talk-password-b410";

/// What clients send: passwords of a user and of a room, guesses, and secrets in broken requests.
const USER: &str = "marker-user-6e9a";
const ROOM: &str = "marker-room-d27c";
const GUESS: &str = "marker-guess-38f1";

const SECRETS: [&str; 13] = [
    DATABASE,
    EVENTS,
    REFUSED_DATABASE,
    REFUSED_EVENTS,
    RELOADED,
    SIP,
    PROXY,
    SIGNALING,
    TALK,
    TALK_PASSWORD,
    USER,
    ROOM,
    GUESS,
];

/// lobbyd's own lines, and those of the libraries that handle secrets.
const LEVEL: &str = "trace,sqlx=trace,lapin=trace,hyper=trace,hyper_util=trace,reqwest=trace,\
                     rustls=trace,tower_http=trace";

/// The forms in which a secret could be found: as it is, in Base64 at each of the three offsets, and
/// its bytes as numbers.
fn forms(secret: &str) -> Vec<String> {
    let bytes = secret.as_bytes();
    let written = |write: fn(&u8) -> String, between: &str| {
        bytes.iter().map(write).collect::<Vec<_>>().join(between)
    };
    let mut forms = vec![
        secret.to_owned(),
        written(u8::to_string, ", "),
        written(|byte| format!("{byte:02x}"), ""),
        written(|byte| format!("0x{byte:02x}"), ", "),
    ];
    for (offset, affected) in [(0, 0), (1, 2), (2, 3)] {
        let encoded = STANDARD.encode([&vec![b':'; offset], bytes].concat());
        forms.push(encoded[affected..encoded.len() - 4].to_owned());
    }
    forms
}

#[track_caller]
fn hides<'a>(place: &str, shown: &str, secrets: impl IntoIterator<Item = &'a str>) {
    for secret in secrets {
        for form in forms(secret) {
            let line = shown.lines().find(|line| line.contains(&form));
            assert!(line.is_none(), "{place} shows {secret}: {line:?}");
        }
    }
}

/// What a client can see of an answer.
#[track_caller]
fn answer_hides(response: &Response) {
    let shown = format!("{response:?}");
    let (request, answer) = shown.split_once('\n').unwrap();
    hides(&format!("the answer to {request}"), answer, SECRETS);
}

#[test]
fn each_form_of_a_secret_is_found() {
    for text in ["user:%", "x%", "xx%y", "%"] {
        let shown = STANDARD.encode(text.replace('%', ROOM));
        assert!(forms(ROOM).iter().any(|form| shown.contains(form)), "{shown}");
    }
    let shown = format!("{:?}", format!("\0lobbyd\0{ROOM}").as_bytes());
    assert!(forms(ROOM).iter().any(|form| shown.contains(form)), "{shown}");
}

/// A program with all secrets in files, between proxies.
struct Marked {
    cluster: TestCluster,
    folder: PathBuf,
    database: Proxy,
    events: Proxy,
    daemon: Daemon,
    arguments: Vec<String>,
    settings: Settings,
    _servers: (Server, SignalingServer),
}

impl Marked {
    /// Starts the program with logins that the servers refuse.
    async fn start(kind: Kind, format: &str) -> Self {
        let server = server_with_passwords(kind);
        let database = Database::create_on(kind, server.port).await;
        let set = if kind == Kind::Postgres { "PASSWORD" } else { "IDENTIFIED BY" };
        let user = if kind == Kind::Postgres { "ROLE" } else { "USER" };
        database.execute(&format!("ALTER {user} lobbyd {set} '{DATABASE}'")).await;
        let cluster = TestCluster::on(database, &BROKER.url());
        let name = format!("marked_{format}");
        BROKER.add_user(&name, EVENTS);
        let signaling = SignalingServer::start().await;
        let folder = folder("secrets-");
        let (database, events) =
            (Proxy::to(server.port).await, Proxy::to(BROKER.server.port).await);
        let path = |file: &str| folder.join(file).display().to_string();
        fs::write(folder.join("sip"), SIP).unwrap();
        fs::write(folder.join("proxy"), PROXY).unwrap();
        fs::write(folder.join("signaling"), SIGNALING).unwrap();
        fs::write(
            folder.join("lobbyd.toml"),
            format!(
                "[database]\nurl_file = {:?}\n\
                 [events]\nurl_file = {:?}\n\
                 [http]\ntrusted_proxies = [\"127.0.0.0/8\"]\nuser_header = \"X-Forwarded-User\"\n\
                 user_header_secret_file = {:?}\n\
                 [sip]\ndialin_info = \"dial\"\nshared_secret_file = {:?}\n\
                 [signaling]\nservers = [{{ url = {:?}, backend = {:?}, secret_file = {:?} }}]\n\
                 [log]\nlevel = {LEVEL:?}\nformat = {format:?}\n",
                path("database-url"),
                path("events-url"),
                path("proxy"),
                path("sip"),
                signaling.url(),
                signaling.backend(),
                path("signaling"),
            ),
        )
        .unwrap();
        let mut settings = cluster.settings.clone();
        settings.retain(|(key, _)| !key.ends_with("__URL"));
        let arguments = ["--config".to_owned(), path("lobbyd.toml")].to_vec();
        let login = Login { folder: &folder, name: &name, cluster: &cluster };
        login.write(&database, REFUSED_DATABASE, &events, REFUSED_EVENTS);
        let daemon = Daemon::spawn(program(&settings).arg("run").args(&arguments));
        Self {
            database,
            events,
            daemon,
            arguments,
            settings,
            folder,
            cluster,
            _servers: (server, signaling),
        }
    }

    fn log_in(&self, format: &str, database: &str, events: &str) {
        let name = format!("marked_{format}");
        let login = Login { folder: &self.folder, name: &name, cluster: &self.cluster };
        login.write(&self.database, database, &self.events, events);
    }

    /// What the program shows to those who may ask for it, and to all users of the machine.
    async fn hides_everything(&self) {
        for path in ["/readyz", "/livez", "/metrics", "/status.json", "/"] {
            let (_status, shown) = self.daemon.get(path).await.unwrap();
            hides(path, &shown, SECRETS);
        }
        hides("the log", &self.daemon.log(), SECRETS);
        for file in ["cmdline", "environ"] {
            let shown = fs::read(format!("/proc/{}/{file}", self.daemon.process())).unwrap();
            assert!(!shown.is_empty());
            hides(file, &String::from_utf8_lossy(&shown), SECRETS);
        }
    }

    /// Runs a command with the same configuration.
    fn command_hides(&self, command: &[&str]) {
        let output = program(&self.settings).args(command).args(&self.arguments).output().unwrap();
        hides(&format!("{command:?}"), &text(&output.stdout), SECRETS);
        hides(&format!("{command:?}"), &text(&output.stderr), SECRETS);
    }
}

struct Login<'a> {
    folder: &'a Path,
    name: &'a str,
    cluster: &'a TestCluster,
}

impl Login<'_> {
    fn write(&self, database: &Proxy, password: &str, events: &Proxy, broker_password: &str) {
        let url = self.cluster.database.url_through(database.port);
        let url = url.replace("//lobbyd:lobbyd@", "//lobbyd@");
        let url = url.replace("//lobbyd@", &format!("//lobbyd:{password}@"));
        fs::write(self.folder.join("database-url"), url).unwrap();
        let login = format!("//{}:{broker_password}@", self.name);
        let url = amqp_url(events.port).replace("//lobbyd:lobbyd@", &login);
        fs::write(self.folder.join("events-url"), url).unwrap();
    }
}

/// A server that checks the password of `lobbyd`.
fn server_with_passwords(kind: Kind) -> Server {
    if kind == Kind::MariaDb {
        return start_mariadb();
    }
    let folder = folder("hosts-");
    let hosts = folder.join("pg_hba.conf");
    let rules = "host all lobbyd 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n";
    fs::write(&hosts, rules).unwrap();
    for path in [&folder, &hosts] {
        give_to("postgres", path);
    }
    start_postgres_with(&[format!("hba_file={}", hosts.display())])
}

#[tokio::test(flavor = "multi_thread")]
async fn with_postgres_no_secret_is_shown_in_a_log_of_text() {
    no_secret_is_shown(Kind::Postgres, "text").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_mariadb_no_secret_is_shown_in_a_log_of_json() {
    no_secret_is_shown(Kind::MariaDb, "json").await;
}

async fn no_secret_is_shown(kind: Kind, format: &str) {
    let marked = Marked::start(kind, format).await;
    let Marked { cluster, daemon, .. } = &marked;
    let client = cluster.client().await;

    // Refused, corrected without a signal, and accepted.
    daemon.unready_with("database refuses the login").await;
    marked.hides_everything().await;
    marked.log_in(format, DATABASE, REFUSED_EVENTS);
    daemon.unready_with("consumer: broker refuses the login").await;
    daemon.unready_with("publisher: broker refuses the login").await;
    marked.hides_everything().await;
    marked.log_in(format, DATABASE, EVENTS);
    eventually("the database and the broker to be connected", || async {
        let parts = "/readyz?part=database&part=consumer&part=publisher&part=listener";
        daemon.get(parts).await.filter(|(status, _)| *status == 200)
    })
    .await;

    // A room that opens, of which the signaling server refuses to be told.
    cluster.database.insert_rooms("room", 1, cluster.database.now().await).await;
    client.take_reset(&cluster.updates).await;
    // An operator sees the body of a dead letter, but not in the log.
    client.publish(&json!({"token": "nowhere", "state": 1, "password": GUESS})).await;
    client.publish_bytes(format!("{{\"password\": \"{GUESS}").as_bytes(), "application/json").await;
    requests_show_nothing(&marked).await;
    marked.hides_everything().await;

    // A reload of URLs that do not work, and of a file that cannot be parsed.
    marked.log_in(format, RELOADED, RELOADED);
    daemon.signal(Signal::SIGHUP);
    daemon.logs("database.url does not work, keeping the previous URL").await;
    daemon.logs("events.url does not work, keeping the previous URL").await;
    marked.command_hides(&["config", "check", "--connect"]);
    let file = marked.folder.join("lobbyd.toml");
    let configuration = fs::read_to_string(&file).unwrap();
    let broken = format!("{configuration}[talk]\nsecret = \"{RELOADED}\npassword = {RELOADED}\n");
    fs::write(&file, broken).unwrap();
    daemon.signal(Signal::SIGHUP);
    daemon.logs("configuration invalid, reload skipped").await;
    marked.command_hides(&["config", "check"]);
    fs::write(&file, configuration).unwrap();
    marked.log_in(format, DATABASE, EVENTS);
    daemon.signal(Signal::SIGHUP);
    daemon.metric_becomes("lobbyd_config_reload_ok", 1).await;

    // Connections that are reset in use, and servers that cannot be reached.
    for (proxy, problem) in [(&marked.database, "database"), (&marked.events, "publisher")] {
        for mode in [Mode::Reset, Mode::Cut] {
            proxy.set(mode);
            daemon.unready_with(problem).await;
            marked.hides_everything().await;
            proxy.set(Mode::Pass);
        }
    }
    for command in [
        ["config", "check"].as_slice(),
        &["config", "check", "--connect"],
        &["status"],
        &["rooms"],
        &["health"],
        &["--help"],
        &["run", "--help"],
        &["user", "add", "alice"],
    ] {
        marked.command_hides(command);
    }
    marked.hides_everything().await;
    let log = daemon.log();
    for library in ["lapin", "sqlx"] {
        assert!(log.contains(library), "the lines of {library} are shown");
    }
}

/// Clients send their secrets in good requests and in bad ones.
async fn requests_show_nothing(marked: &Marked) {
    let Marked { cluster, daemon, .. } = marked;
    add_user(&cluster.settings, "alice", USER, &[]);
    let api = Api::new(daemon.http_port);
    let alice = api.user("alice", USER);
    let room = alice.room(3).await;
    let (path, join) = (format!("/room/{room}"), format!("/room/{room}/participants/active"));
    alice.put(&format!("{path}/password"), json!({"password": ROOM})).await.expect(200);
    let guest = api.guest();
    let json = ("content-type", "application/json");
    let ocs = ("ocs-apirequest", "true");
    let long = GUESS.repeat(250);
    let proxy = api.guest().header("x-forwarded-user", "alice");
    let responses = [
        api.user("alice", GUESS).get("/room").await.expect(401),
        guest.post(&join, json!({"password": GUESS})).await.expect(403),
        guest.post(&join, json!({"password": long})).await.expect(400),
        guest.post(&join, json!({"password": [GUESS]})).await.expect(400),
        guest.post(&join, json!({"password": {"a": GUESS}})).await.expect(400),
        guest.post(&join, json!({"password": ROOM, "force": "maybe"})).await.expect(400),
        guest.post(&format!("{join}?password={GUESS}"), json!({})).await,
        guest.form("POST", &join, &[("password", GUESS)]).await.expect(403),
        guest
            .raw("POST", &join, &[json, ocs], format!("{{\"password\": \"{GUESS}"))
            .await
            .expect(400),
        guest.raw("POST", &join, &[ocs], GUESS).await,
        guest.post(&join, json!({"password": ROOM})).await.expect(200),
        guest.get(&path).await.expect(200),
        alice.get(&path).await.expect(200),
        api.guest()
            .header("authorization", &format!("Bearer {GUESS}"))
            .get("/room")
            .await
            .expect(401),
        api.guest()
            .header("authorization", &format!("Basic {GUESS}"))
            .get("/room")
            .await
            .expect(401),
        proxy.header("x-lobbyd-proxy-secret", GUESS).get("/room").await.expect(401),
        proxy.header("x-lobbyd-proxy-secret", PROXY).get("/room").await.expect(200),
        guest.header("talk-sipbridge-checksum", SIP).get(&path).await,
        guest.get(&format!("/{GUESS}")).await,
    ];
    for response in &responses {
        answer_hides(response);
    }
    // The cookie of a guest is all that a guest has to prove.
    let cookies = guest.cookies().unwrap();
    let values: Vec<&str> = cookies
        .split("; ")
        .filter_map(|pair| pair.split_once('='))
        .map(|(_, value)| value)
        .collect();
    assert!(values.iter().any(|value| value.len() > 20), "{cookies}");
    hides("the log", &daemon.log(), values.iter().copied());
    let (_status, metrics) = daemon.get("/metrics").await.unwrap();
    hides("/metrics", &metrics, values);
}

/// Talk refuses the secret of the SIP bridge, and the password of the account.
#[tokio::test(flavor = "multi_thread")]
async fn the_secrets_of_talk_are_not_shown() {
    let talk = Talk::new(Kind::MariaDb).await;
    let cluster = TestCluster::new(Kind::Postgres).await;
    let client = cluster.client().await;
    let folder = folder("secrets-");
    let mut settings = talk.settings();
    settings.retain(|(key, _)| key == "LOBBYD__TALK__URL");
    settings.extend(cluster.settings.iter().cloned());
    let url = talk.database.url.replace("admin:admin@", &format!("admin:{TALK_PASSWORD}@"));
    for (key, name, secret) in [
        ("TALK__SECRET_FILE", "secret", TALK),
        ("TALK__PASSWORD_FILE", "password", TALK_PASSWORD),
        ("TALK__DATABASE_URL_FILE", "database-url", &url),
    ] {
        fs::write(folder.join(name), secret).unwrap();
        let path = folder.join(name).display().to_string();
        settings.push((format!("LOBBYD__{key}"), path));
    }
    for (key, value) in [("TALK__USER", "lobbyd"), ("LOG__LEVEL", LEVEL)] {
        settings.push((format!("LOBBYD__{key}"), value.to_owned()));
    }
    let daemon = Daemon::start_as("talk", &settings);
    daemon.unready_with("database of Talk").await;
    hides("the log", &daemon.log(), SECRETS);
    fs::write(folder.join("database-url"), &talk.database.url).unwrap();
    daemon.logs("consumer connected").await;
    talk.close("abc", 3, 0).await;
    client.publish(&json!({"token": "abc", "state": 1, "version": 1})).await;
    daemon.unready_with("refuses").await;
    daemon.logs("Talk does not accept talk.user with talk.password").await;
    for path in ["/readyz", "/metrics", "/status.json"] {
        let (_status, shown) = daemon.get(path).await.unwrap();
        hides(path, &shown, SECRETS);
    }
    hides("the log", &daemon.log(), SECRETS);
    for file in ["cmdline", "environ"] {
        let shown = fs::read(format!("/proc/{}/{file}", daemon.process())).unwrap();
        hides(file, &String::from_utf8_lossy(&shown), SECRETS);
    }
}
