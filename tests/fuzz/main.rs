//! Inputs that nobody would write: what comes from the broker, over HTTP and in the configuration is
//! changed at random, and may be refused, but never ends the program, hangs, or takes memory beyond what
//! its size explains.
//!
//! The corpus is the beginning; `LOBBYD_SEED` repeats a run, and `LOBBYD_FUZZ_SECONDS` is the time for each
//! kind of input: `make fuzz SECONDS=600`.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    unreachable_pub,
    reason = "a test fails by panicking, prints what it measures, and nothing of it is public"
)]

mod configuration;
mod events;
mod mutation;
mod requests;
#[path = "../it/support/mod.rs"]
#[expect(dead_code, reason = "it borrows a part of the support")]
mod support;

use std::{
    env,
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};
use peak_alloc::PeakAlloc;

use self::mutation::Mutation;

/// Measures what an input takes.
#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// The kinds of input are tried one after the other, because they are measured.
static TURN: Mutex<()> = Mutex::new(());

/// How long each kind of input is tried by default.
const SECONDS: u64 = 4;

/// No input takes longer, on a busy machine either.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is tried until the time is over.
struct Run {
    kind: &'static str,
    mutation: Mutation,
    seed: u64,
    begin: Instant,
    inputs: u64,
    longest: Duration,
    _turn: MutexGuard<'static, ()>,
}

impl Run {
    fn new(kind: &'static str) -> Self {
        let turn = TURN.lock();
        let number = |name| env::var(name).ok().map(|value: String| value.parse().unwrap());
        let seed = number("LOBBYD_SEED").unwrap_or_else(rand::random);
        println!("fuzz: {kind}, LOBBYD_SEED={seed}");
        Self {
            kind,
            mutation: Mutation::of(kind, seed),
            seed,
            begin: Instant::now(),
            inputs: 0,
            longest: Duration::ZERO,
            _turn: turn,
        }
    }

    /// The next input: first those of the corpus as they are.
    fn next(&mut self) -> Option<Vec<u8>> {
        let seconds =
            env::var("LOBBYD_FUZZ_SECONDS").map_or(SECONDS, |value| value.parse().unwrap());
        if self.begin.elapsed() > Duration::from_secs(seconds) {
            let Self { kind, seed, inputs, longest, .. } = self;
            println!("fuzz: {kind}: {inputs} inputs of seed {seed}, the longest took {longest:?}");
            return None;
        }
        self.inputs += 1;
        Some(self.mutation.next())
    }

    /// Tries an input, and bounds its time.
    fn time<T>(&mut self, input: &[u8], attempt: impl FnOnce() -> T) -> T {
        let begin = Instant::now();
        let result = attempt();
        let took = begin.elapsed();
        self.longest = self.longest.max(took);
        assert!(took < PATIENCE, "{took:?} for {:?}", String::from_utf8_lossy(input));
        result
    }

    /// Tries an input, and bounds its time, and its memory to a multiple of its size.
    fn measure<T>(&mut self, input: &[u8], bound: usize, attempt: impl FnOnce() -> T) -> T {
        MEMORY.reset_peak_usage();
        let before = MEMORY.peak_usage();
        let result = self.time(input, attempt);
        let taken = MEMORY.peak_usage().saturating_sub(before);
        let allowed = bound + 64 * input.len();
        assert!(
            taken < allowed,
            "{taken} bytes, {allowed} are allowed, for {:?}",
            String::from_utf8_lossy(input)
        );
        result
    }
}
