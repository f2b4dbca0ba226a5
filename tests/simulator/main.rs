//! The core of lobbyd in a simulated world: its rules, timer task, consumer, relay and cache, against a
//! database, a broker and a clock that a seed makes fail.
//!
//! Time passes only when nothing else can happen, so that half a minute takes some milliseconds, and a
//! seed always repeats the same history. Safety is checked at every step, liveness after everything works again.
//! The simulated store passes the tests of `store_contract`, and the simulated bus those of
//! `bus_contract`, as the real ones do: both are in tests/it.
//!
//! `LOBBYD_SEED` repeats one history and prints it; `LOBBYD_SEEDS` is the number of histories.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    unreachable_pub,
    reason = "a test fails by panicking, prints what it measures, and nothing of it is public"
)]

mod process;
mod run;
mod scenario;
mod world;

use std::{env, time::Instant};

use self::{
    run::{Report, run},
    world::Bug,
};

/// Histories of a test run. `make prove` runs for a minute.
const SEEDS: u64 = 1000;

/// Within so many histories each planted bug has to be found.
const FOUND_WITHIN: u64 = 1000;

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|value| value.parse().unwrap())
}

#[test]
fn every_history_keeps_the_promises() {
    if let Some(seed) = number("LOBBYD_SEED") {
        let report = run(seed, None);
        println!("{}", report.log.join("\n"));
        return report.assert();
    }
    let (begin, first) = (Instant::now(), number("LOBBYD_FIRST_SEED").unwrap_or(1));
    let seconds = number("LOBBYD_SIMULATE_SECONDS");
    let seeds = number("LOBBYD_SEEDS").unwrap_or(SEEDS);
    let mut total = Report::default();
    let (mut run_seeds, mut violations) = (0, 0);
    for seed in first.. {
        let is_over = match seconds {
            Some(seconds) => begin.elapsed().as_secs() >= seconds,
            None => run_seeds >= seeds,
        };
        if is_over {
            break;
        }
        let report = run(seed, None);
        report.assert();
        total.resets += report.resets;
        violations += report.problems.len();
        total.changes += report.changes;
        total.latest = total.latest.max(report.latest);
        run_seeds += 1;
    }
    println!(
        "simulator: {run_seeds} histories from seed {first} in {:.1} s, {} changes, {} resets, \
         {violations} violations of the promises, beside faulty rooms at most {:.2} s late",
        begin.elapsed().as_secs_f64(),
        total.changes,
        total.resets,
        total.latest.as_secs_f64(),
    );
}

#[test]
fn every_planted_bug_is_found() {
    for bug in Bug::ALL {
        let found = (1..=FOUND_WITHIN).find_map(|seed| {
            let report = run(seed, Some(bug));
            Some((seed, report.problems.first()?.clone()))
        });
        let (seed, problem) = found.unwrap_or_else(|| panic!("{bug:?} is not found"));
        println!("simulator: {bug:?} is found by history {seed}: {problem}");
    }
}

#[test]
fn a_seed_repeats_its_history() {
    for seed in 1..=50 {
        assert_eq!(run(seed, None).log, run(seed, None).log, "seed {seed}");
    }
}
