//! Tests that need a system of their own, and run only when they are asked for.
//!
//! `booted` is a Debian with systemd and the package: `make test-systemd`. `killed` are the servers of
//! clusters, and pgbouncer: `make test-servers`. `LOBBYD_TEST_ROOT` names the root file system of both.

#![expect(
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    unreachable_pub,
    reason = "a test fails by panicking, prints what it measures, and borrows a part of the support"
)]

mod booted;
mod killed;
#[path = "../it/support/mod.rs"]
mod support;
