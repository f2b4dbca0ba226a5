//! How many updates a second the broker confirms, by the type of the subscriber's queue.

use super::{
    limits::{self, publisher::Publisher},
    options::{Options, Section},
    recorder::Recorder,
    report::{Figure, Report, Unit},
    site::Site,
    support::database::Kind,
};

const UPDATES: u32 = 20_000;

/// Rooms that are opened to have updates as lobbyd publishes them, and the first updates of a queue,
/// which are not counted.
const WARM_UP: u32 = 2_000;

pub async fn run(options: &Options, report: &mut Report) {
    let site = Site::new(Kind::Postgres).await;
    site.drain(WARM_UP, 0).await;
    let updates = site.take_updates(WARM_UP).await;
    let publisher = Publisher::connect(&site.cluster.amqp_url, updates).await;
    let (cluster, _worker) = site.unsubscribe().await;
    for queue_type in ["classic", "quorum", "stream"] {
        let mut rates = Vec::new();
        for _ in 0..options.runs() {
            let recorder = Recorder::of_type(&cluster, queue_type).await;
            publisher.publish(WARM_UP).await;
            rates.push(limits::rate(&publisher.publish(UPDATES).await));
            recorder.delete().await;
        }
        let name = format!("bare publishing, subscriber has a {queue_type} queue");
        report.add(Figure::new(Section::Queues, name, Unit::PerSecond, &rates));
    }
}
