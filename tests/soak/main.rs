//! The soak: the real program on real servers while everything around it is broken.
//!
//! Three workers and two API processes share a database and a broker, which each of them reaches
//! through proxies of its own. Clients set, move and cancel timers by events, by SQL and by HTTP
//! (`load`), while processes and servers are killed, connections freeze and clocks step (`faults`).
//! What happens when is drawn from a seed (`plan`). Meanwhile, workers are asked whether they are ready
//! (`readiness`). At the end, a log that a trigger of the database
//! has written (`change_log`), a queue with all announcements (`recorder`) and what the clients have
//! noted (`notes`) are compared (`check`), and a table is printed (`report`).
//!
//! `cargo test` runs a short form. `make soak` runs as long as it is told to.

#![expect(
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    unreachable_pub,
    reason = "a test fails by panicking, prints what it measures, and borrows a part of the support"
)]

mod change_log;
mod check;
mod faults;
mod load;
mod notes;
mod plan;
mod readiness;
mod recorder;
mod report;
mod run;
mod site;
#[path = "../it/support/mod.rs"]
mod support;

#[tokio::test(flavor = "multi_thread")]
async fn the_promises_hold_while_everything_is_broken() {
    run::run(plan::Options::from_environment()).await;
}
