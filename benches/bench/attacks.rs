//! How late timers are while clients of the API do their worst, in a process that has both.
//!
//! The clients are on the machine too, with the lowest priority: what they take of the processors
//! must not count against lobbyd.

use std::{sync::mpsc, thread, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::future::{BoxFuture, join_all};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime,
    time::{interval, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    clock,
    options::{Options, Section},
    process,
    report::{Figure, Goal, Report, Unit},
    rooms, single, stats,
    support::{
        amqp::Client,
        app::PASSWORD,
        cluster::TestCluster,
        daemon::{Daemon, add_user},
        database::Kind,
        http::Api,
    },
};

/// Timers that fall due together, each second.
const TIMERS: u32 = 5;

/// How long memory is left to settle.
const SETTLING: Duration = Duration::from_secs(3);

/// Rooms of the user who requests lists, by default the most that one may own.
const ROOMS: u32 = 1000;

const USER: &str = "mallory";

const OCS: &str = "/ocs/v2.php/apps/spreed/api";

/// The workers log each update.
const LOG_LEVEL: &str = "info,lobbyd::tasks::outbox_relay=debug";

/// The program, and what its attackers use.
struct Target {
    cluster: TestCluster,
    lobbyd: Daemon,
    room: String,
    /// The cookies of a guest, in whose room a message of 128 KB has 100 replies.
    guest: String,
}

/// What attackers do at the same time, until it is dropped.
type Attack = fn(&Target) -> Vec<BoxFuture<'static, ()>>;

pub async fn run(options: &Options, report: &mut Report) {
    let mut target = Target::start().await;
    let seconds = options.attacked_seconds();
    let quiet = target.lags("quiet", seconds).await;
    let attacks: [(&str, Attack); 6] = [
        ("32 connections request a list of 1,000 rooms", request_lists),
        ("100 waiting lists of 1,000 rooms are told of 5 messages a second", wait_for_lists),
        ("100 connections request long chats and do not read", read_nothing),
        ("1,000 bodies do not arrive", send_incomplete_bodies),
        ("200 passwords are set at once", set_passwords),
        ("100 visitors join again and again", join_again),
    ];
    for (index, (name, attack)) in attacks.into_iter().enumerate() {
        target.restart().await;
        let attackers = Attackers::start(attack(&target));
        let lags = target.lags(&format!("attack{index}x"), seconds).await;
        let (during, _shared) = process::memory(&target.lobbyd);
        attackers.end();
        sleep(SETTLING).await;
        let (after, _shared) = process::memory(&target.lobbyd);
        let percentile = |lags: &[f64]| stats::percentile(lags, 99);
        let (late, limit) = (percentile(&lags), percentile(&quiet));
        let title =
            format!("timer to the confirm, p99 of {}, while {name} (limit: no load)", lags.len());
        let figure = Figure::new(Section::Attacks, title, Unit::Milliseconds, &[late]);
        report.add(figure.beside(&[limit]).goal(Goal::AtMost(limit + 20.0)));
        for (when, memory, goal) in [("while", during, 256.0), ("after", after, 64.0)] {
            let title = format!("memory {when} {name}");
            let figure = Figure::new(Section::Attacks, title, Unit::Mebibytes, &[memory]);
            report.add(figure.goal(Goal::Below(goal)));
        }
    }
}

impl Target {
    async fn start() -> Self {
        let mut cluster = TestCluster::new(Kind::Postgres).await;
        cluster.set("LOG__LEVEL", LOG_LEVEL);
        cluster.set("LOG__FORMAT", "json");
        // As in the units and in the image.
        for threshold in ["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"] {
            cluster.settings.push((threshold.to_owned(), "1048576".to_owned()));
        }
        let lobbyd = Daemon::start_as("run", &cluster.settings);
        lobbyd.ready().await;
        add_user(&cluster.settings, USER, PASSWORD, &[]);
        let api = Api::new(lobbyd.http_port);
        let user = api.user(USER, PASSWORD);
        let room = user.room(3).await;
        let guest = api.guest();
        guest.join(&room).await;
        let chat = format!("/chat/{room}");
        let long = guest.post(&chat, json!({"message": "\u{1f600}".repeat(32_000)})).await;
        let reply = json!({"message": "x", "replyTo": long.expect(201).data()["id"]});
        for _ in 0..100 {
            guest.post(&chat, reply.clone()).await.expect(201);
        }
        rooms::add_open(&cluster.database, "listed", ROOMS - 1).await;
        let (name, description) = ("n".repeat(255), "d".repeat(2000));
        cluster
            .database
            .execute(&format!(
                "UPDATE lobbyd_rooms SET name = '{name}', description = '{description}'
                 WHERE token LIKE 'listed%'"
            ))
            .await;
        cluster
            .database
            .execute(&format!(
                "INSERT INTO lobbyd_attendees (room_id, actor_type, actor_id, participant_type)
                 SELECT id, 'users', '{USER}', 1 FROM lobbyd_rooms WHERE token LIKE 'listed%'"
            ))
            .await;
        Client::connect(&cluster.amqp_url, &cluster.exchange).await.record(&cluster.updates).await;
        Self { cluster, lobbyd, room, guest: guest.cookies().unwrap() }
    }

    /// Each attack begins with a fresh process.
    async fn restart(&mut self) {
        assert!(self.lobbyd.stop().await.success());
        self.lobbyd = Daemon::start_as("run", &self.cluster.settings);
        self.lobbyd.ready().await;
    }

    /// How late timers were, in milliseconds.
    async fn lags(&self, prefix: &str, seconds: u32) -> Vec<f64> {
        let first = clock::second() + 2;
        let due = format!("to_timestamp({first} + n / {TIMERS})");
        rooms::add(&self.cluster.database, prefix, TIMERS * seconds, &due).await;
        clock::sleep_until((first + i64::from(seconds)) as f64 + 0.5).await;
        self.cluster.database.all_open().await;
        self.cluster.database.all_published().await;
        single::lags(&self.lobbyd, prefix)
    }
}

/// A thread of the lowest priority.
struct Attackers {
    stop: CancellationToken,
    ended: mpsc::Receiver<()>,
}

impl Attackers {
    fn start(attackers: Vec<BoxFuture<'static, ()>>) -> Self {
        let stop = CancellationToken::new();
        let (sender, ended) = mpsc::channel();
        let stopped = stop.clone();
        thread::spawn(move || {
            rustix::process::nice(19).unwrap();
            let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(stopped.run_until_cancelled(join_all(attackers)));
            drop(runtime);
            sender.send(()).unwrap();
        });
        Self { stop, ended }
    }

    fn end(self) {
        self.stop.cancel();
        self.ended.recv().unwrap();
    }
}

fn request_lists(target: &Target) -> Vec<BoxFuture<'static, ()>> {
    let Target { lobbyd, .. } = target;
    let port = lobbyd.http_port;
    let request = format!("GET {OCS}/v4/room HTTP/1.1\r\n{}\r\n", headers());
    (0..32).map(|_| repeat(port, request.clone())).collect()
}

fn wait_for_lists(target: &Target) -> Vec<BoxFuture<'static, ()>> {
    let Target { lobbyd, room, .. } = target;
    let port = lobbyd.http_port;
    let mut attackers: Vec<_> = (0..100).map(|_| wait_for_list(port)).collect();
    let message = post(&format!("{OCS}/v1/chat/{room}"), &headers(), r#"{"message":"x"}"#);
    attackers.push(Box::pin(async move {
        let mut tick = interval(Duration::from_millis(200));
        let mut connection = connect(port).await;
        loop {
            tick.tick().await;
            if connection.write_all(message.as_bytes()).await.is_err() {
                connection = connect(port).await;
            }
        }
    }));
    attackers
}

/// Waits for a list that stays empty, whatever changes.
fn wait_for_list(port: u16) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let list = format!("GET {OCS}/v4/room?modifiedSince=9999999999 HTTP/1.1\r\n{}", headers());
        let mut connection = connect(port).await;
        connection.write_all(format!("{list}\r\n").as_bytes()).await.unwrap();
        let head = read_answer(&mut connection, &mut vec![0; 4096]).await.unwrap();
        let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
        repeat(port, format!("{list}If-None-Match: {tag}\r\nPrefer: wait=50\r\n\r\n")).await;
    })
}

fn read_nothing(target: &Target) -> Vec<BoxFuture<'static, ()>> {
    let Target { lobbyd, room, guest, .. } = target;
    let port = lobbyd.http_port;
    let request = format!(
        "GET {OCS}/v1/chat/{room}?lookIntoFuture=0&limit=200 HTTP/1.1\r\nHost: x\r\n\
         Cookie: {guest}\r\nAccept: application/json\r\n\r\n"
    );
    (0..100).map(|_| send_and_hold(port, request.clone())).collect()
}

fn send_incomplete_bodies(target: &Target) -> Vec<BoxFuture<'static, ()>> {
    let Target { lobbyd, room, .. } = target;
    let port = lobbyd.http_port;
    let request = format!(
        "POST {OCS}/v1/chat/{room} HTTP/1.1\r\nContent-Length: 524201\r\n\
         Content-Type: application/json\r\n{}\r\n{}",
        headers(),
        " ".repeat(524_100)
    );
    (0..1000).map(|_| send_and_hold(port, request.clone())).collect()
}

fn set_passwords(target: &Target) -> Vec<BoxFuture<'static, ()>> {
    let Target { lobbyd, room, .. } = target;
    let port = lobbyd.http_port;
    let body = r#"{"password":"correct horse battery"}"#;
    let request = post(&format!("{OCS}/v4/room/{room}/password"), &headers(), body);
    let request = request.replacen("POST", "PUT", 1);
    (0..200).map(|_| repeat(port, request.clone())).collect()
}

fn join_again(target: &Target) -> Vec<BoxFuture<'static, ()>> {
    let Target { lobbyd, room, .. } = target;
    let port = lobbyd.http_port;
    let path = format!("{OCS}/v4/room/{room}/participants/active");
    let request = post(&path, "Host: x\r\nOCS-APIRequest: true\r\n", "{}");
    (0..100).map(|_| repeat(port, request.clone())).collect()
}

/// The headers of the user's requests.
fn headers() -> String {
    let login = STANDARD.encode(format!("{USER}:{PASSWORD}"));
    format!(
        "Host: x\r\nOCS-APIRequest: true\r\nAccept: application/json\r\n\
         Authorization: Basic {login}\r\n"
    )
}

fn post(path: &str, headers: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\n{headers}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn connect(port: u16) -> TcpStream {
    loop {
        if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)).await {
            return stream;
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// Sends the request again whenever it was answered.
fn repeat(port: u16, request: String) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let mut connection = connect(port).await;
            while connection.write_all(request.as_bytes()).await.is_ok()
                && read_answer(&mut connection, &mut buffer).await.is_some()
            {}
        }
    })
}

/// Reads an answer, and returns its header in small letters.
async fn read_answer(connection: &mut TcpStream, buffer: &mut [u8]) -> Option<String> {
    let mut received = 0;
    let (head, length) = loop {
        received += read(connection, &mut buffer[received..]).await?;
        if let Some(answer) = head(&buffer[..received]) {
            break answer;
        }
    };
    while received < length {
        received += read(connection, buffer).await?;
    }
    Some(head)
}

async fn read(connection: &mut TcpStream, buffer: &mut [u8]) -> Option<usize> {
    connection.read(buffer).await.ok().filter(|count| *count > 0)
}

/// The header of the answer that begins with these bytes, and the length of the answer.
fn head(bytes: &[u8]) -> Option<(String, usize)> {
    let length = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..length]).to_lowercase();
    let body = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let body: usize = body.map_or(0, |length| length.trim().parse().unwrap());
    Some((head, length + body))
}

/// Sends the request, and reads nothing until the server ends the connection; then again.
fn send_and_hold(port: u16, request: String) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        loop {
            let mut connection = connect(port).await;
            connection.write_all(request.as_bytes()).await.ok();
            // An end shows without reading.
            while connection.peek(&mut [0]).await.is_ok_and(|count| count > 0) {
                sleep(Duration::from_millis(200)).await;
                if connection.write_all(b" ").await.is_err() {
                    break;
                }
            }
        }
    })
}
