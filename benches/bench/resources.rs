//! Memory, start-up time and idle processor time of a worker, with few and with many pending timers.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{
    options::{Options, Section},
    pending, process,
    report::{Figure, Goal, Report, Unit},
    support::{cluster::TestCluster, daemon::Daemon},
};

/// Time after the start until memory is read.
const SETTLING: Duration = Duration::from_millis(500);

/// How often readiness is asked for after a start.
const PROBE_INTERVAL: Duration = Duration::from_millis(2);

const SECTION: Section = Section::Resources;

/// What starts of a worker showed, each in one value.
#[derive(Default)]
struct Starts {
    seconds: Vec<f64>,
    resident: Vec<f64>,
    proportional: Vec<f64>,
}

pub async fn run(options: &Options, report: &mut Report) {
    let few_pending = pending::cluster(pending::FEW).await;
    let many_pending = pending::many().await;
    let (mut few, mut many) = (Starts::default(), Starts::default());
    for _ in 0..options.runs() {
        few.add(&few_pending).await;
        many.add(many_pending).await;
    }
    for (starts, number) in [(&few, "1,000"), (&many, "1,000,000")] {
        let name = format!("start to ready, {number} pending");
        report.add(Figure::new(SECTION, name, Unit::Seconds, &starts.seconds));
    }
    let differences: Vec<f64> =
        many.seconds.iter().zip(&few.seconds).map(|(many, few)| many - few).collect();
    let figure = Figure::new(
        SECTION,
        "start to ready, 1,000,000 pending, longer than with 1,000",
        Unit::Seconds,
        &differences,
    );
    report.add(figure.goal(Goal::AtMost(1.0)));
    for (starts, number) in [(&few, "1,000"), (&many, "1,000,000")] {
        let name = format!("memory (RSS), {number} pending");
        let figure = Figure::new(SECTION, name, Unit::Mebibytes, &starts.resident);
        report.add(figure.goal(Goal::Below(30.0)));
        let name = format!("memory (PSS), {number} pending");
        report.add(Figure::new(SECTION, name, Unit::Mebibytes, &starts.proportional));
    }
    let idle = [idle_share(many_pending, options.idle_time()).await * 100.0];
    let name = "processor time while idle, of one core";
    report.add(Figure::new(SECTION, name, Unit::Percent, &idle).goal(Goal::Below(0.5)));
}

impl Starts {
    async fn add(&mut self, cluster: &TestCluster) {
        let begin = Instant::now();
        let worker = Daemon::start(&cluster.settings);
        while worker.get("/readyz").await.is_none_or(|(status, _problems)| status != 200) {
            sleep(PROBE_INTERVAL).await;
        }
        self.seconds.push(begin.elapsed().as_secs_f64());
        sleep(SETTLING).await;
        let (resident, proportional) = process::memory(&worker);
        self.resident.push(resident);
        self.proportional.push(proportional);
    }
}

/// The share of a core that a worker without work takes.
async fn idle_share(cluster: &TestCluster, time: Duration) -> f64 {
    let worker = cluster.worker().await;
    sleep(SETTLING).await;
    let before = process::processor_time(&worker);
    sleep(time).await;
    (process::processor_time(&worker) - before) / time.as_secs_f64()
}
