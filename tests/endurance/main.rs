//! What a process holds stays the same, however long it works: memory, files and threads.
//!
//! Worker and API in one process set and fire timers for a thousand clients that come and go, while a
//! connection to the broker and to the database is lost every second, in turns. `cargo test` runs half a
//! minute of it and looks at files and threads; `make endurance` runs ten minutes, and at the memory too.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    unreachable_pub,
    reason = "a test fails by panicking, prints what it measures, and nothing of it is public"
)]

#[path = "../it/support/mod.rs"]
#[expect(dead_code, reason = "it borrows a part of the support")]
mod support;

use std::{
    env, fs,
    time::{Duration, Instant},
};

use rand::RngExt;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{interval, sleep, timeout},
};

use self::support::{
    amqp::Client,
    cluster::TestCluster,
    daemon::Daemon,
    database::Kind,
    eventually,
    proxy::{Mode, Proxy},
    server::{BROKER, POSTGRES, amqp_url},
};

const SECONDS: u64 = 30;

/// From so many seconds on the growth of the memory says something.
const MEASURED_FROM: u64 = 300;

/// Allowed growth, in MiB in ten minutes.
const GROWTH: f64 = 1.0;

const CLIENTS: usize = 1000;

const ROOMS: u32 = 50;

/// Files beyond those before the load: connections of the pools, which come and go.
const FILES: usize = 24;

/// What the process holds at a time.
#[derive(Debug, Clone, Copy)]
struct Sample {
    at: f64,
    memory: u64,
    files: usize,
    threads: usize,
}

impl Sample {
    fn of(process: &Daemon, begin: Instant) -> Self {
        let count = |folder: &str| {
            fs::read_dir(format!("/proc/{}/{folder}", process.process())).unwrap().count()
        };
        let (files, threads) = (count("fd"), count("task"));
        Self { at: begin.elapsed().as_secs_f64(), memory: process.memory(), files, threads }
    }
}

/// The growth of the memory by least squares, in MiB in ten minutes.
fn growth(samples: &[Sample]) -> f64 {
    let number = samples.iter().map(|_| 1.0).sum::<f64>();
    let mean = |value: &dyn Fn(&Sample) -> f64| samples.iter().map(value).sum::<f64>() / number;
    let memory = |sample: &Sample| mebibytes(sample.memory);
    let (time, level) = (mean(&|sample| sample.at), mean(&memory));
    let along = |sample: &Sample| (sample.at - time) * (memory(sample) - level);
    let spread = |sample: &Sample| (sample.at - time).powi(2);
    600.0 * mean(&along) / mean(&spread)
}

#[expect(clippy::cast_precision_loss, clippy::as_conversions, reason = "it is for people")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_holds_no_more_after_long_work() {
    let seconds =
        env::var("LOBBYD_ENDURANCE_SECONDS").map_or(SECONDS, |text| text.parse().unwrap());
    let (to_broker, to_database) =
        (Proxy::to(BROKER.server.port).await, Proxy::to(POSTGRES.port).await);
    let mut cluster = TestCluster::new(Kind::Postgres).await;
    cluster.set("EVENTS__URL", &amqp_url(to_broker.port));
    let url = cluster.setting("DATABASE__URL");
    let through = |port: u16| url.replace(&format!(":{}/", POSTGRES.port), &format!(":{port}/"));
    cluster.set("DATABASE__URL", &through(to_database.port));
    cluster.set("HTTP__MAX_CONNECTIONS_PER_ADDRESS", "4000");
    cluster.set("LIMITS__LONG_POLLS_PER_CLIENT", "4000");
    let process = Daemon::start_as("run", &cluster.settings);
    process.ready().await;
    cluster.database.open_rooms("room", ROOMS).await;
    let (begin, before) = (Instant::now(), Sample::of(&process, Instant::now()));

    let mut load = JoinSet::new();
    for _ in 0..CLIENTS {
        load.spawn(come_and_go(process.http_port));
    }
    load.spawn(publish(
        cluster.amqp_url.clone(),
        cluster.exchange.clone(),
        cluster.database.now().await,
    ));
    let mut samples = Vec::new();
    let mut second = interval(Duration::from_secs(1));
    for number in 0..seconds {
        second.tick().await;
        let proxy = if number % 2 == 0 { &to_broker } else { &to_database };
        proxy.set(Mode::Cut);
        sleep(Duration::from_millis(20)).await;
        proxy.set(Mode::Pass);
        samples.push(Sample::of(&process, begin));
    }
    load.shutdown().await;

    // What is left of the load ends by itself.
    let after = eventually("files and threads as before", || async {
        let sample = Sample::of(&process, begin);
        let is_as_before =
            sample.files <= before.files + FILES && sample.threads <= before.threads.max(64);
        is_as_before.then_some(sample)
    })
    .await;
    process.ready().await;
    cluster.database.all_open().await;
    // The first third fills caches and pools.
    let growth = growth(&samples[samples.len() / 3..]);
    let fired = process.metric("lobbyd_timer_lag_seconds_count").await;
    println!(
        "endurance: {seconds} s, {CLIENTS} clients, {seconds} lost connections, {fired:?} timers; before \
         {:.1} MiB, {} files, {} threads; at most {:.1} MiB, {} files, {} threads; after {:.1} MiB, {} \
         files, {} threads; memory grows by {growth:.2} MiB in ten minutes",
        mebibytes(before.memory),
        before.files,
        before.threads,
        mebibytes(samples.iter().map(|sample| sample.memory).max().unwrap()),
        samples.iter().map(|sample| sample.files).max().unwrap(),
        samples.iter().map(|sample| sample.threads).max().unwrap(),
        mebibytes(after.memory),
        after.files,
        after.threads,
    );
    if seconds >= MEASURED_FROM {
        assert!(growth < GROWTH, "{samples:?}");
    }
}

/// A client that reads rooms, waits for changes, follows a room, and leaves in the middle of that.
async fn come_and_go(port: u16) {
    loop {
        let (room, wait, kind) = {
            let mut rng = rand::rng();
            (rng.random_range(1..=ROOMS), rng.random_range(500..6000), rng.random_range(0..3))
        };
        let path = format!("/ocs/v2.php/apps/spreed/api/v4/room/room{room}");
        let (path, more) = match kind {
            0 => (path, ""),
            1 => (path, "Prefer: wait=30\r\nIf-None-Match: \"none\"\r\n"),
            _follows => (format!("{path}/events"), ""),
        };
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nOCS-APIRequest: true\r\nAccept: application/json\r\n\
             {more}\r\n"
        );
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await
            && stream.write_all(request.as_bytes()).await.is_ok()
        {
            let mut answer = Vec::new();
            let reading = stream.read_to_end(&mut answer);
            timeout(Duration::from_millis(wait), reading).await.ok();
        }
        sleep(Duration::from_millis(wait)).await;
    }
}

/// Closes rooms for a second or two, again and again.
async fn publish(url: String, exchange: String, now: i64) {
    let client = Client::connect(&url, &exchange).await;
    let begin = Instant::now();
    for number in 0_u32.. {
        let second = now + i64::try_from(begin.elapsed().as_secs()).unwrap();
        let token = format!("room{}", number % ROOMS + 1);
        client.publish(&json!({"token": token, "state": 1, "timer": second + 2})).await;
        sleep(Duration::from_millis(50)).await;
    }
}
