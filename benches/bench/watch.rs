//! What a worker has done, read from its metrics while it works.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::{clock, http::Connection, support::daemon::Daemon};

const OPENED: &str = "lobbyd_timers_fired_total";
const CONFIRMED: &str = r#"lobbyd_events_published_total{outcome="confirmed"}"#;

/// How often the metrics are read. It takes less than a tenth of a millisecond of the worker.
const INTERVAL: Duration = Duration::from_millis(10);

/// Longest wait for the worker.
const PATIENCE: f64 = 180.0;

/// How many rooms a worker has opened, and how many updates the broker has confirmed.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Unix seconds.
    pub at: f64,
    pub opened: u64,
    pub confirmed: u64,
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

    /// Reads the metrics until so many rooms are open and announced.
    pub async fn until(mut self, rooms: u64) -> Vec<Sample> {
        let mut tick = interval(INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut samples = Vec::new();
        loop {
            tick.tick().await;
            let Sample { at, opened, confirmed } = read(&mut self.metrics).await;
            let sample = Sample {
                at,
                opened: opened - self.start.opened,
                confirmed: confirmed - self.start.confirmed,
            };
            samples.push(sample);
            if sample.opened.min(sample.confirmed) >= rooms {
                return samples;
            }
            assert!(at - self.start.at < PATIENCE, "{rooms} rooms, {sample:?}");
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
    Sample { at, opened: value(OPENED), confirmed: value(CONFIRMED) }
}
