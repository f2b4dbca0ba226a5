//! Inputs that nobody would write: what comes from the broker, over HTTP and in the configuration is
//! changed at random, and may be refused, but never ends the program, hangs, or takes memory beyond what
//! its size explains.
//!
//! The corpus is the beginning; `LOBBYD_SEED` repeats a run, and `LOBBYD_FUZZ_SECONDS` is the time for each
//! kind of input: `make fuzz SECONDS=600`. What is tried is in `target/fuzz/KIND.last`, also after an input
//! that ended the tests themselves.

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
mod record;
mod requests;
#[path = "../it/support/mod.rs"]
#[expect(dead_code, reason = "it borrows a part of the support")]
mod support;

use std::{
    env, fs,
    io::{self, Write},
    path::Path,
    process,
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};
use peak_alloc::PeakAlloc;

use self::{
    mutation::{Mutation, Original},
    record::Record,
};

/// Measures what an input takes.
#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// The kinds of input are tried one after the other, because they are measured.
static TURN: Mutex<()> = Mutex::new(());

/// How long each kind of input is tried by default.
const SECONDS: u64 = 4;

/// How many inputs are tried at least, on a busy machine as well.
const INPUTS: u64 = 200;

/// No input takes longer, on a busy machine either.
const PATIENCE: Duration = Duration::from_secs(20);

/// An input that takes so long is not going to return.
const HANGING: Duration = Duration::from_secs(30);

/// What is tried until the time is over.
struct Run {
    kind: &'static str,
    mutation: Mutation,
    record: Record,
    seed: u64,
    /// When the first input was asked for.
    begin: Option<Instant>,
    inputs: u64,
    longest: Duration,
    _turn: MutexGuard<'static, ()>,
}

impl Run {
    /// Changes of a corpus, to inputs of so many bytes at most.
    fn new(kind: &'static str, corpus: impl FnOnce() -> Vec<Original>, longest: usize) -> Self {
        let turn = TURN.lock();
        let number = |name| env::var(name).ok().map(|value: String| value.parse().unwrap());
        let seed = number("LOBBYD_SEED").unwrap_or_else(rand::random);
        println!("fuzz: {kind}, LOBBYD_SEED={seed}");
        Self {
            kind,
            mutation: Mutation::of(corpus(), longest, seed),
            record: Record::new(kind, HANGING, end_hanging),
            seed,
            begin: None,
            inputs: 0,
            longest: Duration::ZERO,
            _turn: turn,
        }
    }

    /// The next input, with its name if it is one of the corpus as it is.
    fn next(&mut self) -> Option<(Option<String>, Vec<u8>)> {
        let seconds =
            env::var("LOBBYD_FUZZ_SECONDS").map_or(SECONDS, |value| value.parse().unwrap());
        let begin = *self.begin.get_or_insert_with(Instant::now);
        if begin.elapsed() > Duration::from_secs(seconds) && self.inputs >= INPUTS {
            let Self { kind, seed, inputs, longest, .. } = self;
            println!("fuzz: {kind}: {inputs} inputs of seed {seed}, the longest took {longest:?}");
            return None;
        }
        self.inputs += 1;
        Some(self.mutation.next())
    }

    /// Tries an input, and bounds its time.
    fn time<T>(&mut self, input: &[u8], attempt: impl FnOnce() -> T) -> T {
        let Self { kind, seed, inputs, .. } = self;
        let origin = format!("fuzz: {kind}: input {inputs} of LOBBYD_SEED={seed}");
        let begin = Instant::now();
        let result = self.record.attempt(&origin, input, attempt);
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

/// Shows an input that hangs, and ends the tests, whose output so far is not shown.
fn end_hanging(path: &Path) {
    let input = fs::read(path).unwrap();
    let (path, input) = (path.display(), String::from_utf8_lossy(&input));
    let text = format!("no end after {HANGING:?} of what is in {path}:\n{input}\n");
    // Unlike `eprintln`, whose output would be kept for the end of the test.
    io::stderr().write_all(text.as_bytes()).unwrap();
    process::abort();
}
