//! TLS to broker and databases, with a private certificate authority: lobbyd refuses servers
//! without a certificate of this authority for the right name, and does not fall back to plain
//! text.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use crate::support::{
    cluster::TestCluster,
    daemon::{Daemon, Settings, add_user, run},
    database::{Database, Kind},
    eventually,
    http::Api,
    server::{
        BROKER, Broker, Server, folder, free_port, give_to, start_mariadb_with, start_postgres_with,
    },
    tools::{debian, file, printed},
};
use crate::talk::Talk;

/// A certificate authority in its own directory.
struct Authority {
    folder: PathBuf,
}

impl Authority {
    fn new(name: &str) -> Self {
        let authority = Self { folder: folder("authority-") };
        let new = "req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -days 2";
        let subject = format!("/CN={name}");
        authority.openssl(new, &["-subj", &subject, "-keyout", "ca.key", "-out", "ca.pem"]);
        authority
    }

    fn openssl(&self, words: &str, rest: &[&str]) {
        let mut openssl = debian("/usr/bin/openssl");
        printed(openssl.args(words.split(' ')).args(rest).current_dir(&self.folder));
    }

    fn ca(&self) -> String {
        self.folder.join("ca.pem").display().to_string()
    }

    /// A directory that belongs to this user, with a certificate for localhost, its key, and the
    /// certificate of the authority.
    fn certify(&self, user: &str) -> PathBuf {
        let new = "req -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1";
        let request = ["-subj", "/CN=server", "-keyout", "server.key", "-out", "server.csr"];
        self.openssl(new, &request);
        fs::write(self.folder.join("names"), "subjectAltName=DNS:localhost").unwrap();
        let sign = "x509 -req -days 2 -CA ca.pem -CAkey ca.key -CAcreateserial -extfile names";
        self.openssl(sign, &["-in", "server.csr", "-out", "server.pem"]);
        let folder = folder("certificate-");
        for name in ["ca.pem", "server.pem", "server.key"] {
            fs::copy(self.folder.join(name), folder.join(name)).unwrap();
            give_to(user, &folder.join(name));
        }
        give_to(user, &folder);
        folder
    }
}

/// An authority that has signed none of the servers' certificates.
static OTHER_AUTHORITY: LazyLock<Authority> = LazyLock::new(|| Authority::new("other"));
static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| Authority::new("authority"));

/// A RabbitMQ with `deploy/rabbitmq/tls.conf`, except for port and paths.
static SECURE_BROKER: LazyLock<Broker> = LazyLock::new(|| {
    // The broker runs as the user that runs the tests.
    let certificate = AUTHORITY.certify("root").display().to_string();
    let port = free_port();
    let lines = fs::read_to_string(file("deploy/rabbitmq/tls.conf")).unwrap();
    let lines = lines.replace("/etc/rabbitmq/tls", &certificate);
    let lines = lines.replace("= 5671", &format!("= 127.0.0.1:{port}"));
    Broker::start_with(port, &lines)
});

/// A PostgreSQL that accepts only TLS connections.
static SECURE_POSTGRES: LazyLock<Server> = LazyLock::new(|| {
    let certificate = AUTHORITY.certify("postgres");
    let hosts = certificate.join("pg_hba.conf");
    fs::write(&hosts, "hostssl all all 127.0.0.1/32 trust\n").unwrap();
    let path = |name: &str| certificate.join(name).display().to_string();
    start_postgres_with(&[
        "ssl=on".to_owned(),
        format!("ssl_cert_file={}", path("server.pem")),
        format!("ssl_key_file={}", path("server.key")),
        format!("hba_file={}", hosts.display()),
    ])
});

/// A MariaDB that accepts only TLS connections.
static SECURE_MARIADB: LazyLock<Server> = LazyLock::new(|| {
    let certificate = AUTHORITY.certify("mysql");
    let path = |name: &str| certificate.join(name).display().to_string();
    start_mariadb_with(&[
        format!("ssl-cert={}", path("server.pem")),
        format!("ssl-key={}", path("server.key")),
        "require-secure-transport=ON".to_owned(),
    ])
});

fn secure(kind: Kind) -> &'static Server {
    if kind == Kind::Postgres { &SECURE_POSTGRES } else { &SECURE_MARIADB }
}

/// The URL of the database with this host name and full verification against this authority.
fn verified(database: &Database, host: &str, ca: &str) -> String {
    let parameters = if database.kind == Kind::Postgres {
        format!("sslmode=verify-full&sslrootcert={ca}")
    } else {
        format!("ssl-mode=VERIFY_IDENTITY&ssl-ca={ca}")
    };
    format!("{}?{parameters}", database.url.replace("127.0.0.1", host))
}

fn secure_broker(host: &str) -> String {
    format!("amqps://lobbyd:lobbyd@{host}:{}/%2f", SECURE_BROKER.server.port)
}

#[tokio::test(flavor = "multi_thread")]
async fn with_postgres_all_connections_are_verified() {
    all_connections_are_verified(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_mariadb_all_connections_are_verified() {
    all_connections_are_verified(Kind::MariaDb).await;
}

async fn all_connections_are_verified(kind: Kind) {
    let database = Database::create_on(kind, secure(kind).port).await;
    let mut cluster = TestCluster::on(database, &secure_broker("localhost"));
    let url = verified(&cluster.database, "localhost", &AUTHORITY.ca());
    cluster.set("DATABASE__URL", &url);
    cluster.settings.push(("SSL_CERT_FILE".to_owned(), AUTHORITY.ca()));
    let worker = cluster.worker().await;
    let api = cluster.api().await;

    add_user(&cluster.settings, "alice", "correct horse", &[]);
    let alice = Api::new(api.http_port).user("alice", "correct horse");
    let room = alice.room(3).await;
    let published = run(&cluster.settings, &["publish", &room, "--state", "1", "--in", "1s"]);
    assert!(published.status.success(), "{published:?}");
    eventually("the reset", || async {
        let resets = "SELECT count(*) FROM lobbyd_outbox WHERE data LIKE '%lobby_timer_reached%'";
        (cluster.database.number(resets).await == 1).then_some(())
    })
    .await;
    assert_eq!(cluster.database.lobby_state(&room).await, 0);
    // A queue took the event: the API's own queue.
    cluster.database.all_published().await;
    worker.ready().await;
    api.ready().await;
}

/// The error of a command that cannot use the configured database or broker.
fn error_of(settings: &Settings, arguments: &[&str]) -> String {
    let output = run(settings, arguments);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_the_right_certificate_is_refused() {
    for kind in [Kind::Postgres, Kind::MariaDb] {
        let database = Database::as_owner_on(kind, secure(kind).port).await;
        let plain = Database::as_owner(kind).await;
        let unverified =
            if kind == Kind::Postgres { "sslmode=disable" } else { "ssl-mode=DISABLED" };
        for (url, reasons) in [
            (verified(&database, "localhost", &OTHER_AUTHORITY.ca()), ["UnknownIssuer"].as_slice()),
            (verified(&database, "127.0.0.1", &AUTHORITY.ca()), &["not valid for name"]),
            // Neither side falls back to plain text.
            (format!("{}?{unverified}", database.url), &["no encryption", "Access denied"]),
            (verified(&plain, "localhost", &AUTHORITY.ca()), &["does not support TLS"]),
        ] {
            let settings = vec![("LOBBYD__DATABASE__URL".to_owned(), url.clone())];
            let said = error_of(&settings, &["migrate"]);
            assert!(reasons.iter().any(|reason| said.contains(reason)), "{url}: {said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_without_the_right_certificate_is_refused() {
    let trusting = |authority: &Authority, url: &str| {
        vec![
            ("SSL_CERT_FILE".to_owned(), authority.ca()),
            ("LOBBYD__EVENTS__URL".to_owned(), url.to_owned()),
        ]
    };
    let plain_text = secure_broker("localhost").replace("amqps:", "amqp:");
    let without_tls = BROKER.url().replace("amqp:", "amqps:");
    for (settings, reason) in [
        (trusting(&OTHER_AUTHORITY, &secure_broker("localhost")), "UnknownIssuer"),
        (trusting(&AUTHORITY, &secure_broker("127.0.0.1")), "not valid for name"),
        (trusting(&AUTHORITY, &plain_text), "broker unavailable"),
        (trusting(&AUTHORITY, &without_tls), "broker unavailable"),
    ] {
        let said = error_of(&settings, &["publish", "webinar", "--state", "0"]);
        assert!(said.contains(reason), "{settings:?}: {said}");
    }
    // The readiness of a worker gives the same reason.
    let database = Database::create(Kind::Sqlite).await;
    let mut cluster = TestCluster::on(database, &secure_broker("localhost"));
    cluster.settings.push(("SSL_CERT_FILE".to_owned(), OTHER_AUTHORITY.ca()));
    let worker = Daemon::start(&cluster.settings);
    eventually("the reason", || async {
        worker.unready().await.contains("UnknownIssuer").then_some(())
    })
    .await;
    assert_eq!(worker.get("/livez").await.unwrap().0, 200);
}

/// Answers by TLS at a port of localhost, and forwards to another port, until the result is dropped.
async fn terminate_tls(certificate: &Path, target: u16) -> (u16, JoinSet<()>) {
    let chain = CertificateDer::from_pem_file(certificate.join("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(certificate.join("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (client, _address) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            connections.spawn(async move {
                // A client that does not trust the certificate ends the handshake.
                let Ok(mut client) = acceptor.accept(client).await else { return };
                let mut server = TcpStream::connect(("127.0.0.1", target)).await.unwrap();
                copy_bidirectional(&mut client, &mut server).await.ok();
            });
        }
    });
    (port, serving)
}

#[tokio::test(flavor = "multi_thread")]
async fn talk_is_requested_only_with_a_certificate_of_the_authority() {
    let (authority, other) = (Authority::new("lobbyd test"), Authority::new("other"));
    let talk = Talk::new(Kind::Postgres).await;
    let (port, _serving) = terminate_tls(&authority.certify("root"), talk.port).await;
    let settings_with = |authority: &Authority, host: &str| {
        let mut settings = talk.settings();
        settings.retain(|(key, _)| key != "LOBBYD__TALK__URL");
        settings.push(("LOBBYD__TALK__URL".to_owned(), format!("https://{host}:{port}")));
        settings.push(("SSL_CERT_FILE".to_owned(), authority.ca()));
        settings
    };
    for refused in [settings_with(&other, "localhost"), settings_with(&authority, "127.0.0.1")] {
        let daemon = Daemon::start_as("talk", &refused);
        daemon.unready_with("Nextcloud cannot be reached").await;
    }
    assert!(talk.all_requests().is_empty());
    let daemon = Daemon::start_as("talk", &settings_with(&authority, "localhost"));
    daemon.ready().await;
    talk.close("abc", 2, 1).await;
    talk.opens("abc").await;
}
