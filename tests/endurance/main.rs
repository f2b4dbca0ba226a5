//! What a process holds stays the same, however long it works: memory, files, threads and tasks.
//!
//! Worker and API in one process set and fire timers for a thousand clients that come and go, while the
//! connections to the broker or to the database are lost every second, in turns.
//! `cargo test` runs half a minute of it and looks at files, threads and tasks; `make endurance` runs ten
//! minutes, and at the memory too. It fails as well if there was no such load.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    unreachable_pub,
    reason = "a test fails by panicking, prints what it measures, and nothing of it is public"
)]

mod load;
#[path = "../it/support/mod.rs"]
#[expect(dead_code, reason = "it borrows a part of the support")]
mod support;

use std::{
    cell::Cell,
    env, fmt, fs,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{task::JoinSet, time::interval};
use tokio_util::sync::CancellationToken;

use self::{
    load::{Answers, ROOMS, come_and_go, publish},
    support::{
        amqp::Client,
        cluster::TestCluster,
        daemon::Daemon,
        database::Kind,
        eventually,
        proxy::{Mode, Proxy},
        server::{BROKER, POSTGRES, amqp_url},
    },
};

const SECONDS: u64 = 30;

/// In a run of this length, the growth of the memory says something.
const MEASURED_FROM: Duration = Duration::from_mins(5);

/// Allowed growth, in MiB in ten minutes.
const GROWTH: f64 = 1.0;

const CLIENTS: usize = 1000;

/// Files, threads or tasks beyond those before the load: connections of the two pools, of five each,
/// which come and go.
const SLACK: usize = 10;

/// How often each server loses its connections at least: if one file, thread or task were left each
/// time, there would be more than the slack.
const CUTS: usize = SLACK + 5;

/// Requests that wait, and streams that are open, at the same time at least once. On a machine with nothing
/// else to do, there are two hundred.
const HELD: usize = 20;

/// Answers of each kind at least. On a machine with nothing else to do, there are hundreds.
const ANSWERS: u64 = 20;

/// What the process holds at a time.
#[derive(Debug, Clone, Copy)]
struct Sample {
    at: f64,
    memory: u64,
    files: usize,
    threads: usize,
    tasks: usize,
    long_polls: usize,
    streams: usize,
}

impl Sample {
    async fn of(process: &Daemon, begin: Instant) -> Self {
        let count = |folder: &str| {
            fs::read_dir(format!("/proc/{}/{folder}", process.process())).unwrap().count()
        };
        let gauge = async |name: &str| {
            let value = process.metric(name).await;
            usize::try_from(value.unwrap_or_else(|| panic!("no {name}"))).unwrap()
        };
        Self {
            at: begin.elapsed().as_secs_f64(),
            memory: process.memory(),
            files: count("fd"),
            threads: count("task"),
            tasks: gauge(r#"lobbyd_tasks{runtime="main"}"#).await
                + gauge(r#"lobbyd_tasks{runtime="api"}"#).await,
            long_polls: gauge("lobbyd_http_long_polls").await,
            streams: gauge("lobbyd_event_streams").await,
        }
    }

    /// Whether nothing is left of a load that began after `before`.
    fn is_as(&self, before: &Self) -> bool {
        let is_as = |held: fn(&Self) -> usize| held(self) <= held(before) + SLACK;
        let nobody_waits = self.long_polls == 0 && self.streams == 0;
        nobody_waits
            && is_as(|sample| sample.files)
            && is_as(|sample| sample.threads)
            && is_as(|sample| sample.tasks)
    }

    /// Whether clients have waited and followed rooms, each on a connection with a task.
    fn holds_load(&self, before: &Self) -> bool {
        let Self { long_polls, streams, tasks, .. } = *self;
        long_polls >= HELD && streams >= HELD && tasks >= before.tasks + long_polls
    }

    /// The larger one of each number.
    fn max(self, other: Self) -> Self {
        Self {
            at: self.at.max(other.at),
            memory: self.memory.max(other.memory),
            files: self.files.max(other.files),
            threads: self.threads.max(other.threads),
            tasks: self.tasks.max(other.tasks),
            long_polls: self.long_polls.max(other.long_polls),
            streams: self.streams.max(other.streams),
        }
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at: _, memory, files, threads, tasks, long_polls, streams } = self;
        write!(
            formatter,
            "{:.1} MiB, {files} files, {threads} threads, {tasks} tasks, {long_polls} long polls, \
             {streams} streams",
            mebibytes(*memory)
        )
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
    let seconds = Duration::from_secs(seconds);
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
    let begin = Instant::now();
    let before = Sample::of(&process, begin).await;

    let (stop, answers) = (CancellationToken::new(), Arc::new(Answers::default()));
    let client = Client::connect(&cluster.amqp_url, &cluster.exchange).await;
    let mut publisher = JoinSet::new();
    publisher.spawn(publish(client, cluster.database.now().await, stop.child_token()));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (stop, answers, port) = (stop.clone(), Arc::clone(&answers), process.http_port);
        clients.spawn(async move {
            stop.run_until_cancelled(come_and_go(port, &answers)).await;
        });
    }
    let (mut samples, mut most, mut cuts) = (Vec::new(), before, 0);
    let mut tick = interval(Duration::from_secs(1));
    while begin.elapsed() < seconds || cuts < CUTS {
        for proxy in [&to_broker, &to_database] {
            tick.tick().await;
            cut(proxy).await;
            let sample = Sample::of(&process, begin).await;
            samples.push(sample);
            most = most.max(sample);
        }
        cuts += 1;
    }
    println!("endurance: {answers:?} while connections were lost");
    // On a busy machine, clients learn of changes only now.
    let most = Cell::new(most);
    eventually("answers of each kind", || async {
        most.set(most.get().max(Sample::of(&process, begin).await));
        (answers.least() >= ANSWERS && most.get().holds_load(&before)).then_some(())
    })
    .await;
    let most = most.get();
    stop.cancel();
    // Both panic if one of their tasks has.
    let events: u64 = publisher.join_all().await.into_iter().sum();
    clients.join_all().await;

    // What is left of the load ends by itself.
    let after = eventually("files, threads and tasks as before", || async {
        let sample = Sample::of(&process, begin).await;
        sample.is_as(&before).then_some(sample)
    })
    .await;
    process.ready().await;
    cluster.database.all_open().await;
    cluster.database.all_published().await;
    // The first third fills caches and pools.
    let growth = growth(&samples[samples.len() / 3..]);
    let fired = process.metric("lobbyd_timers_fired_total").await.unwrap();
    println!(
        "endurance: {:.0} s, {CLIENTS} clients, {answers:?}; {cuts} times no connection to each server; \
         {events} events, {fired} timers; before {before}; at most {most}; after {after}; memory \
         grows by {growth:.2} MiB in ten minutes",
        after.at
    );
    assert!(events > u64::from(ROOMS) && fired >= events / 4, "{fired} of {events}");
    if seconds >= MEASURED_FROM {
        assert!(growth < GROWTH, "{samples:?}");
    }
}

/// Loses all connections to a server, and waits until there is one again.
async fn cut(proxy: &Proxy) {
    proxy.set(Mode::Cut);
    // The loss is noticed.
    proxy.accepts(1).await;
    tokio::join!(biased; proxy.accepts(1), async { proxy.set(Mode::Pass) });
}
