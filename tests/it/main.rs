//! The integration tests: one binary, one harness, real servers.
//!
//! One file per subject. `store_contract`, `shared_rows` and `room_contract` test each promise of
//! the store on every database, `bus_contract` those of the bus, and `timers` the rules of timers with
//! a manual clock. `chain`, `crash`, `failpoints`, `outage`, `race` and `reload` run the real program
//! against real servers. `webinar`, `dial_in`, `rooms`, `polling`, `event_streams`, `http_server`,
//! `origins`, `bounds`, `compression` and `leaks` use its HTTP API, `clients` does so with programs of
//! other projects, and `pages` with a browser. `failover` has several servers. `talk` runs beside a stand-in for Nextcloud Talk, and `signaling` beside a real signaling
//! server of Talk. `cli` runs the commands. `deploy` tests the files in deploy/, and `house_rules`
//! reads the source. `support` is the environment that they share; `harness` tests it. What needs a
//! system of its own is in tests/systems.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    unreachable_pub,
    reason = "a test fails by panicking, prints what it measures, and nothing of it is public"
)]

/// Makes each function a test per database. Its argument is the result of `$setup` for the kind of
/// database.
macro_rules! on_every_database {
    ($setup:path: $($test:ident,)*) => {
        on_every_database!(@ sqlite, Sqlite, $setup: $($test,)*);
        on_every_database!(@ postgres, Postgres, $setup: $($test,)*);
        on_every_database!(@ mariadb, MariaDb, $setup: $($test,)*);
    };
    (@ $module:ident, $kind:ident, $setup:path: $($test:ident,)*) => {
        mod $module {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                let fixture = $setup($crate::support::database::Kind::$kind).await;
                super::$test(fixture).await;
            })*
        }
    };
}

/// Makes each function a test of the simulator's database. Its argument is the result of `$setup`.
macro_rules! on_the_simulated_database {
    ($setup:ident: $($test:ident,)*) => {
        mod simulated {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::$setup()).await;
            })*
        }
    };
}

mod bounds;
mod bus_contract;
mod chain;
mod chat;
mod cli;
mod clients;
mod compression;
mod configuration;
mod crash;
mod deploy;
mod dial_in;
mod event_streams;
mod exhausted;
mod failover;
#[cfg(feature = "failpoints")]
mod failpoints;
mod harness;
mod house_rules;
mod http_server;
mod leaks;
mod lifecycle;
mod lobby_changes;
mod migrations;
mod moderation;
mod origins;
mod outage;
mod pages;
mod poison;
mod polling;
mod race;
mod redelivery;
mod reload;
mod room_contract;
mod rooms;
mod secrets;
mod sessions;
mod shared_rows;
mod signaling;
#[path = "../simulator/world/mod.rs"]
#[expect(dead_code, reason = "tests/simulator uses the rest")]
mod simulated_world;
mod store_contract;
#[expect(dead_code, reason = "tests/systems uses the rest")]
mod support;
mod talk;
mod timers;
#[cfg(feature = "otlp")]
mod traces;
mod webinar;
