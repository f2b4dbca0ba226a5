//! The integration tests: one binary, one harness, real servers.
//!
//! One file per subject. `store_contract` runs each promise of the store on every database;
//! `chain`, `crash` and `outage` run the real program against real servers; the others look at the
//! program and the repository from outside.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    unreachable_pub,
    reason = "a test fails by panicking, stands beside the clock of the program, and its name says \
              what it shows"
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
