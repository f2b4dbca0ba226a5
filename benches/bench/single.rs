//! Timers that fall due one at a time, one per second, while a million others wait and lobby
//! changes come in.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};

use super::{
    chart::{self, Labels},
    clock,
    limits::{Curve, single::Single},
    options::{Options, Section},
    pending,
    recorder::Recorder,
    report::{Figure, Goal, Report, Unit},
    rooms, stats,
    subscriber::Subscriber,
    support::{
        amqp::Client,
        cluster::TestCluster,
        daemon::Daemon,
        database::{Database, Kind},
    },
};

/// Rooms whose lobbies are changed meanwhile, and the time between two changes.
const CHANGED_ROOMS: u32 = 2_000;
const CHANGE_INTERVAL: Duration = Duration::from_millis(5);

/// The workers log each update, but not each lobby change.
const LOG_LEVEL: &str = "info,lobbyd::tasks::timers=debug,lobbyd::tasks::outbox_relay=debug";

/// Seconds, at least, before the first timer of a block.
const LEAD: i64 = 1;

/// How late timers were, in milliseconds.
#[derive(Default)]
struct Lags {
    /// Until the worker had the publisher confirm, as it logs it.
    confirmed: Vec<f64>,
    /// Until a subscriber had the update.
    received: Vec<f64>,
    /// How long the same statement, the same message and its confirm take without lobbyd.
    limit: Vec<f64>,
}

pub async fn run(options: &Options, report: &mut Report) {
    let cluster = pending::many().await;
    let client = Client::connect(&cluster.amqp_url, &cluster.exchange).await;
    rooms::add_open(&cluster.database, "changed", CHANGED_ROOMS).await;
    let mut settings = cluster.settings.clone();
    settings.push(("LOBBYD__LOG__LEVEL".to_owned(), LOG_LEVEL.to_owned()));
    let first = Daemon::start_ready(&settings).await;
    let recorder = Recorder::new(cluster).await;
    let limit = limit(cluster, &recorder).await;
    let (mut one, mut two) = (Lags::default(), Lags::default());
    tokio::select! {
        () = change_lobbies(&client) => {}
        () = async {
            for block in 0..options.blocks() {
                let timers = options.block();
                let name = format!("one{block}x");
                one.add_block(cluster, &[&first], &limit, &name, timers).await;
                let second = Daemon::start_ready(&settings).await;
                let name = format!("two{block}x");
                two.add_block(cluster, &[&first, &second], &limit, &name, timers).await;
            }
        } => {}
    }
    add_figures(report, &one, &two);
    report.add_picture("single.svg", picture(&one, &two));
    recorder.clear().await;
}

/// A database for the limit, and the message that it publishes: an update that lobbyd published.
async fn limit(cluster: &TestCluster, recorder: &Recorder) -> Single {
    cluster.database.insert_rooms("first", 1, clock::second()).await;
    let update = recorder.take(1).await.remove(0);
    let database = Database::create(Kind::Postgres).await;
    database.store().await;
    Single::new(database, &cluster.amqp_url, update).await
}

/// Publishes lobby changes until it is dropped.
async fn change_lobbies(client: &Client) {
    let mut tick = interval(CHANGE_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in 0_u64.. {
        tick.tick().await;
        let room = number % u64::from(CHANGED_ROOMS) + 1;
        let change = json!({
            "token": format!("changed{room}"), "state": 1,
            "timer": clock::second() + 24 * 3600 + i64::try_from(number).unwrap(),
            "version": clock::second() * 1000 + i64::try_from(number % 1000).unwrap(),
        });
        drop(client.send("lobby.changed", change.to_string().as_bytes(), "application/json").await);
    }
}

impl Lags {
    /// Lets timers fall due, one per second, and measures the limit between them.
    async fn add_block(
        &mut self,
        cluster: &TestCluster,
        workers: &[&Daemon],
        limit: &Single,
        prefix: &str,
        timers: u32,
    ) {
        let tokens: Vec<String> = (1..=timers).map(|number| format!("{prefix}{number}")).collect();
        let mut subscriber = Subscriber::new(cluster, &tokens).await;
        let first = clock::second() + LEAD;
        rooms::add(&cluster.database, prefix, timers, &format!("to_timestamp({first} + n)")).await;
        for second in (1..).take(tokens.len()) {
            let due = (first + second) as f64;
            self.received.push((subscriber.next().await.at - due) * 1000.0);
            clock::sleep_until(due + 0.5).await;
            self.limit.push(limit.measure().await * 1000.0);
        }
        let logged: Vec<f64> = workers.iter().flat_map(|worker| lags(worker, prefix)).collect();
        assert_eq!(logged.len(), tokens.len());
        self.confirmed.extend(logged);
    }
}

/// How late the updates of these rooms were confirmed, as the worker logged it.
pub fn lags(worker: &Daemon, prefix: &str) -> Vec<f64> {
    let log = worker.log();
    log.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|entry| {
            let token = entry["room.token"].as_str();
            entry["message"] == "event published" && token.is_some_and(|it| it.starts_with(prefix))
        })
        .map(|entry| entry["lag_seconds"].as_f64().unwrap() * 1000.0)
        .collect()
}

fn add_figures(report: &mut Report, one: &Lags, two: &Lags) {
    let single = |name: &str, values: &[f64], percent: usize| {
        let name = format!("{name}, p{percent} of {}", values.len());
        let value = [stats::percentile(values, percent)];
        Figure::new(Section::Single, name, Unit::Milliseconds, &value)
    };
    for (percent, goal) in [(50, Goal::Below(4.0)), (99, Goal::Below(12.0))] {
        let limit = stats::percentile(&one.limit, percent);
        let name = "single timer to the confirm, 1 M others pending, 200 changes/s";
        report.add(single(name, &one.confirmed, percent).beside(&[limit]).goal(goal));
        report.add(single("single timer, received by a subscriber", &one.received, percent));
    }
    let limit = stats::median(&one.confirmed);
    let figure =
        single("single timer to the confirm, two workers (limit: one)", &two.confirmed, 50);
    report.add(figure.beside(&[limit]).goal(Goal::RatioAtMost(1.1)));
}

fn picture(one: &Lags, two: &Lags) -> String {
    let labels = Labels {
        title: "Single timers: due time to publisher confirm",
        x: "milliseconds",
        y: "share of the timers in %",
    };
    let lines = [
        ("one worker", distribution(&one.confirmed)),
        ("two workers", distribution(&two.confirmed)),
        ("the same statement and message without lobbyd", distribution(&one.limit)),
    ];
    chart::lines(&labels, &lines)
}

/// The share of the values, in percent, that a value does not exceed.
fn distribution(values: &[f64]) -> Curve {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let share = |place: usize| (place + 1) as f64 * 100.0 / values.len() as f64;
    sorted.into_iter().enumerate().map(|(place, value)| (value, share(place))).collect()
}
