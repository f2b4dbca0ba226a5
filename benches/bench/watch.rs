//! What a worker has done, read from its metrics while it works.

use std::time::Duration;

use tokio::{
    net::TcpStream,
    time::{MissedTickBehavior, interval, sleep},
};

use super::{clock, http::Connection, support::daemon::Daemon};

const OPENED: &str = "lobbyd_timers_fired_total";
const APPLIED: &str = r#"lobbyd_events_received_total{outcome="applied"}"#;
const CONFIRMED: &str = r#"lobbyd_events_published_total{outcome="confirmed"}"#;

/// How often the metrics are read. Each time costs the worker almost a millisecond of its processor,
/// which the limits beside it do not pay.
const INTERVAL: Duration = Duration::from_millis(25);

/// Longest wait for the worker.
const PATIENCE: f64 = 180.0;

/// How much a worker has done.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Unix seconds.
    pub at: f64,
    /// Rooms whose timer was due.
    pub opened: u64,
    /// Updates with a publisher confirm.
    pub confirmed: u64,
    /// Lobby changes that came in.
    pub applied: u64,
}

pub struct Watch {
    metrics: Connection,
    start: Sample,
}

impl Watch {
    /// Counts from now on.
    pub async fn begin(worker: &Daemon) -> Self {
        let mut metrics = Connection::open(worker.ops_port).await;
        let start = read(&mut metrics).await;
        Self { metrics, start }
    }

    /// Counts from the start of a worker on.
    pub async fn from_start(worker: &Daemon) -> Self {
        while TcpStream::connect(("127.0.0.1", worker.ops_port)).await.is_err() {
            sleep(INTERVAL).await;
        }
        let metrics = Connection::open(worker.ops_port).await;
        Self { metrics, start: Sample { at: clock::now(), opened: 0, confirmed: 0, applied: 0 } }
    }

    /// Reads the metrics until the worker has done as much as that.
    pub async fn until(mut self, is_done: impl Fn(&Sample) -> bool) -> Vec<Sample> {
        let mut tick = interval(INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut samples = Vec::new();
        loop {
            tick.tick().await;
            let sample = read(&mut self.metrics).await.since(self.start);
            samples.push(sample);
            if is_done(&sample) {
                return samples;
            }
            assert!(sample.at - self.start.at < PATIENCE, "{sample:?}");
        }
    }
}

impl Sample {
    fn since(self, start: Self) -> Self {
        Self {
            at: self.at,
            opened: self.opened - start.opened,
            confirmed: self.confirmed - start.confirmed,
            applied: self.applied - start.applied,
        }
    }
}

async fn read(metrics: &mut Connection) -> Sample {
    let text = metrics.get("/metrics").await.body;
    let at = clock::now();
    let value = |name: &str| {
        let mut samples = text.lines().filter_map(|line| line.rsplit_once(' '));
        samples.find(|(other, _value)| *other == name).unwrap().1.parse().unwrap()
    };
    Sample { at, opened: value(OPENED), confirmed: value(CONFIRMED), applied: value(APPLIED) }
}
