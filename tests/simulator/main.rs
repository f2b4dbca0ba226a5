//! The core of lobbyd in a simulated world: its rules, timer task, consumer, relay and cache, against a
//! database, a broker and a clock that a seed makes fail.
//!
//! Time passes only when nothing else can happen, so that twenty seconds take some milliseconds, and a
//! seed always repeats the same history. Safety is checked at every step, liveness after everything
//! works again.
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
    let (mut total, mut histories) = (Report::default(), 0);
    for seed in first.. {
        let is_over = match seconds {
            Some(seconds) => begin.elapsed().as_secs() >= seconds,
            None => histories >= seeds,
        };
        if is_over || !total.problems.is_empty() {
            break;
        }
        let Report { resets, changes, latest, .. } = total;
        total = run(seed, None);
        total.resets += resets;
        total.changes += changes;
        total.latest = total.latest.max(latest);
        histories += 1;
    }
    println!(
        "simulator: {histories} histories from seed {first} in {:.1} s, {} changes, {} resets, \
         {} violations of the promises, beside faulty rooms at most {:.2} s late",
        begin.elapsed().as_secs_f64(),
        total.changes,
        total.resets,
        total.problems.len(),
        total.latest.as_secs_f64(),
    );
    total.assert();
}

#[test]
fn every_planted_bug_is_found() {
    for (bug, promise) in Bug::ALL {
        let found = (1..=FOUND_WITHIN).find_map(|seed| {
            let problems = run(seed, Some(bug)).problems;
            let broken = problems.into_iter().find(|problem| {
                problem.split_once(':').is_some_and(|(broken, _what)| broken == promise)
            });
            Some((seed, broken?))
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
