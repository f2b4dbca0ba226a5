//! Lobby changes from the broker, applied to rooms.
//!
//! lobbyd announces each of them as well, and confirms and marks take processor time of the same
//! machine. So it is measured twice: with its announcements held back, beside a loop that only
//! applies; and announcing, beside that loop and a publisher of as many updates.

use lapin::Confirmation;
use serde_json::json;

use super::{
    clock,
    limits::{self, Curve, consumer, publisher::Publisher},
    options::{Options, Section},
    recorder::Recorder,
    report::{Figure, Goal, Report, Unit},
    rooms,
    support::{amqp::Client, cluster::TestCluster, daemon::Daemon, database::Kind},
    watch::{Sample, Watch},
};

/// Lobby changes that are published before their confirms are awaited.
const IN_FLIGHT: u32 = 1_000;

/// Updates of lobbyd that the limit publishes again and again.
const UPDATES: usize = 1_000;

const SECTION: Section = Section::Consume;

/// Tables and queues, filled again for each run while no worker runs.
struct Source {
    cluster: TestCluster,
    client: Client,
    recorder: Recorder,
    /// Lobby changes of a run, each of another room.
    changes: u32,
}

/// What lobbyd does with the updates.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Announcing {
    /// Nothing, because a queue that is required does not exist.
    HeldBack,
    AsUsual,
}

/// How lobby changes were worked off.
struct Drain {
    applied_per_second: f64,
    /// From the first that was applied to the last that was announced.
    seconds: f64,
}

pub async fn run(options: &Options, report: &mut Report) {
    let (lobbyd, bare) = (Source::new(options).await, Source::new(options).await);
    lobbyd.fill().await;
    lobbyd.drain(Announcing::AsUsual).await;
    let updates = lobbyd.recorder.take(UPDATES).await;
    let publisher = Publisher::connect(&lobbyd.cluster.amqp_url, updates).await;
    let (mut alone, mut loop_alone) = (Vec::new(), Vec::new());
    let (mut announcing, mut loop_beside) = (Vec::new(), Vec::new());
    for _ in 0..options.runs() {
        lobbyd.fill().await;
        alone.push(lobbyd.drain(Announcing::HeldBack).await);
        bare.fill().await;
        loop_alone.push(bare.drain_without_lobbyd(None).await);
        lobbyd.fill().await;
        announcing.push(lobbyd.drain(Announcing::AsUsual).await);
        lobbyd.recorder.clear().await;
        bare.fill().await;
        loop_beside.push(bare.drain_without_lobbyd(Some(&publisher)).await);
    }
    let rates =
        |drains: &[Drain]| drains.iter().map(|it| it.applied_per_second).collect::<Vec<_>>();
    let seconds = |drains: &[Drain]| drains.iter().map(|it| it.seconds).collect::<Vec<_>>();
    let rate = |name, drains: &[Drain]| Figure::new(SECTION, name, Unit::PerSecond, &rates(drains));
    let figure = rate("lobby changes applied, announcements held back; a bare loop", &alone);
    report.add(figure.beside(&rates(&loop_alone)).goal(Goal::RatioAtLeast(0.7)));
    let figure = rate("lobby changes applied while they are announced", &announcing);
    report.add(figure.goal(Goal::AtLeast(5_000.0)));
    let name = "the same; a bare loop beside a publisher of as many updates";
    report.add(rate(name, &announcing).beside(&rates(&loop_beside)));
    let name = "first applied to last announced; the slower of loop and publisher";
    let figure = Figure::new(SECTION, name, Unit::Seconds, &seconds(&announcing));
    report.add(figure.beside(&seconds(&loop_beside)));
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

    /// Starts a worker, and waits until it has done everything.
    async fn drain(&self, announcing: Announcing) -> Drain {
        let mut settings = self.cluster.settings.clone();
        if announcing == Announcing::HeldBack {
            let missing = r#"["missing"]"#.to_owned();
            settings.push(("LOBBYD__EVENTS__REQUIRED_QUEUES".to_owned(), missing));
        }
        let mut worker = Daemon::start(&settings);
        let all = u64::from(self.changes);
        let watch = Watch::from_start(&worker).await;
        let is_done = |sample: &Sample| {
            let is_announced = announcing == Announcing::HeldBack || sample.confirmed >= all;
            sample.applied >= all && is_announced
        };
        let samples = watch.until(is_done).await;
        let first = samples.iter().find(|sample| sample.applied > 0).unwrap();
        let last = samples.iter().find(|sample| sample.applied >= all).unwrap();
        let applied_per_second = (all - first.applied) as f64 / (last.at - first.at);
        worker.stop().await;
        Drain { applied_per_second, seconds: samples.last().unwrap().at - first.at }
    }

    /// Does the same without lobbyd, while a publisher sends as many updates.
    async fn drain_without_lobbyd(&self, publisher: Option<&Publisher>) -> Drain {
        let Self { cluster, changes, .. } = self;
        let applying = consumer::apply_changes(
            &cluster.amqp_url,
            &cluster.queue,
            &cluster.database.url,
            usize::try_from(*changes).unwrap(),
        );
        let sending = async {
            match publisher {
                Some(publisher) => limits::duration(&publisher.publish(*changes).await),
                None => 0.0,
            }
        };
        let (curve, sent) = tokio::join!(applying, sending);
        assert_eq!(cluster.database.closed_rooms().await, i64::from(*changes));
        let seconds = limits::duration(&curve).max(sent);
        Drain { applied_per_second: rate_after_first(&curve), seconds }
    }
}

/// What was done per second after the first step, from which on lobbyd is measured as well.
fn rate_after_first(curve: &Curve) -> f64 {
    let ((begin, first), (end, all)) = (curve[0], *curve.last().unwrap());
    (all - first) / (end - begin)
}
