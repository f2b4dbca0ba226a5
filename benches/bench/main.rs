//! How close lobbyd comes to what database, broker and HTTP stack can do: `make bench`.
//!
//! It runs the release build as a user would, on servers of its own, and reads from outside what it
//! does. Beside each figure stands its limit where there is one: the same work done by the fewest
//! statements and messages that can do it, in the same run, on the same servers, in turn with
//! lobbyd. [`report`] has the table, [`limits`] has the limits.

#![expect(
    dead_code,
    unreachable_pub,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "a benchmark fails by panicking, counts in floats, and borrows a part of the tests' support"
)]

mod api;
mod attacks;
mod chart;
mod clock;
mod consume;
mod day;
mod herd;
mod http;
mod limits;
mod machine;
mod options;
mod peers;
mod pending;
mod process;
mod queues;
mod recorder;
mod report;
mod resources;
mod rooms;
mod signaling;
mod single;
mod site;
mod stats;
mod subscriber;
#[path = "../../tests/it/support/mod.rs"]
mod support;
mod watch;

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use clap::Parser;

use options::{Options, Section};
use report::Report;
use support::database::Kind;

#[tokio::main]
async fn main() {
    let options = Options::parse();
    if let Some(port) = options.serve_constant {
        return api::serve_constant(port).await;
    }
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let mut report = Report::new(machine::description());
    for section in options.sections() {
        let begin = Instant::now();
        println!("{section}");
        match section {
            Section::Herd => herd::measure(Kind::Postgres, &options, &mut report).await,
            Section::Crowd => herd::crowd(&options, &mut report).await,
            Section::Single => single::run(&options, &mut report).await,
            Section::Signaling => signaling::run(&options, &mut report).await,
            Section::Consume => consume::run(&options, &mut report).await,
            Section::Resources => resources::run(&options, &mut report).await,
            Section::Mariadb => herd::measure(Kind::MariaDb, &options, &mut report).await,
            Section::Sqlite => herd::measure(Kind::Sqlite, &options, &mut report).await,
            Section::Api => api::run(&options, &mut report).await,
            Section::Streams => api::streams(&options, &mut report).await,
            Section::Attacks => attacks::run(&options, &mut report).await,
            Section::Queues => queues::run(&options, &mut report).await,
            Section::Peers => peers::run(&options, &mut report).await,
            Section::Day => day::run(&options, &mut report).await,
        }
        println!("  {:.0} s", begin.elapsed().as_secs_f64());
    }
    report.finish(&folder());
}

/// Where the results are written.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench")
}
