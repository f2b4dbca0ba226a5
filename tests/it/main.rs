//! The integration tests: one binary, one harness, real servers.
//!
//! One file per subject. `store_contract` runs each promise of the store on every database;
//! `chain`, `crash` and `outage` run the real program against real servers; the others look at the
//! program and the repository from outside.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    unreachable_pub,
    reason = "a test fails by panicking, prints what it measures, and nothing of it is public"
)]

mod chain;
mod crash;
mod house_rules;
mod lifecycle;
mod migrations;
mod outage;
mod race;
mod store_contract;
mod support;
