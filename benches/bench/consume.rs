//! Lobby changes from the broker, applied to rooms.

use lapin::Confirmation;
use serde_json::json;

use super::{
    clock,
    limits::{self, Curve, consumer},
    options::{Options, Section},
    recorder::Recorder,
    report::{Figure, Goal, Report, Unit},
    rooms,
    support::{amqp::Client, cluster::TestCluster, daemon::Daemon, database::Kind},
    watch::Watch,
};

/// Lobby changes that are published before their confirms are awaited.
const IN_FLIGHT: u32 = 1_000;

const SECTION: Section = Section::Consume;

/// Tables and queues, filled again for each run while no worker runs.
struct Source {
    cluster: TestCluster,
    client: Client,
    recorder: Recorder,
    /// Lobby changes of a run, each of another room.
    changes: u32,
}

pub async fn run(options: &Options, report: &mut Report) {
    let (lobbyd, bare) = (Source::new(options).await, Source::new(options).await);
    let (mut applied, mut announced, mut limit) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.runs() {
        lobbyd.fill().await;
        let (applied_rate, announced_seconds) = lobbyd.drain().await;
        applied.push(applied_rate);
        announced.push(announced_seconds);
        bare.fill().await;
        limit.push(limits::rate(&bare.drain_without_lobbyd().await));
    }
    let name = "lobby changes from a full queue: applied";
    let figure = Figure::new(SECTION, name, Unit::PerSecond, &applied).beside(&limit);
    report.add(figure.goal(Goal::RatioAtLeast(0.7)));
    let figure = Figure::new(
        SECTION,
        "lobby changes from a full queue: applied, absolute",
        Unit::PerSecond,
        &applied,
    );
    report.add(figure.goal(Goal::AtLeast(5_000.0)));
    let name = "first lobby change applied to last announced";
    report.add(Figure::new(SECTION, name, Unit::Seconds, &announced));
}

impl Source {
    async fn new(options: &Options) -> Self {
        let cluster = TestCluster::new(Kind::Postgres).await;
        // It declares exchange and queues, and creates the tables.
        cluster.worker().await.stop().await;
        let client = Client::connect(&cluster.amqp_url, &cluster.exchange).await;
        let recorder = Recorder::new(&cluster).await;
        Self { cluster, client, recorder, changes: options.changes() }
    }

    /// Fills the queue with changes that close rooms until a time in two hours.
    async fn fill(&self) {
        let Self { cluster, client, recorder, changes } = self;
        recorder.clear().await;
        rooms::clear(&cluster.database).await;
        rooms::add_open(&cluster.database, "room", *changes).await;
        rooms::settle(&cluster.database).await;
        let now = clock::second();
        let time = chrono::DateTime::from_timestamp(now, 0).unwrap().to_rfc3339();
        let mut confirms = Vec::new();
        for number in 1..=*changes {
            let change = json!({
                "specversion": "1.0", "id": format!("change-{number}"), "source": "/bench",
                "type": "lobby.changed.v1", "time": time, "datacontenttype": "application/json",
                "data": {"token": format!("room{number}"), "state": 1, "timer": now + 7200},
            });
            let body = change.to_string();
            let content_type = "application/cloudevents+json";
            confirms.push(client.send("lobby.changed", body.as_bytes(), content_type).await);
            if number % IN_FLIGHT == 0 {
                for confirm in confirms.drain(..) {
                    assert_eq!(confirm.await.unwrap(), Confirmation::Ack(None));
                }
            }
        }
    }

    /// Starts a worker. Returns the changes per second that it applies, and the seconds until all of
    /// them are announced.
    async fn drain(&self) -> (f64, f64) {
        let mut worker = Daemon::start(&self.cluster.settings);
        let all = u64::from(self.changes);
        let watch = Watch::from_start(&worker).await;
        let samples = watch.until(|sample| sample.applied >= all && sample.confirmed >= all).await;
        let first = samples.iter().find(|sample| sample.applied > 0).unwrap();
        let last = samples.iter().find(|sample| sample.applied >= all).unwrap();
        let rate = (all - first.applied) as f64 / (last.at - first.at);
        worker.stop().await;
        (rate, samples.last().unwrap().at - first.at)
    }

    async fn drain_without_lobbyd(&self) -> Curve {
        let Self { cluster, changes, .. } = self;
        let applying = consumer::apply_changes(
            &cluster.amqp_url,
            &cluster.queue,
            &cluster.database.url,
            usize::try_from(*changes).unwrap(),
        );
        let curve = applying.await;
        assert_eq!(cluster.database.closed_rooms().await, i64::from(*changes));
        curve
    }
}
