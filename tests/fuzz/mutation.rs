//! Changes inputs at random.

use std::{fs, path::Path};

use rand::{RngExt, SeedableRng, rngs::StdRng};

/// Longest input, in bytes: somewhat more than the longest event.
const LONGEST: usize = 80_000;

/// What parsers look at.
const WORDS: [&str; 30] = [
    "\"",
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "null",
    "true",
    "-1",
    "0",
    "1e400",
    "9223372036854775808",
    "0.1",
    "\\ud800",
    "\\u0000",
    "\u{feff}",
    "\0",
    "\r\n",
    "\r\n\r\n",
    "'",
    "=",
    "&",
    "%00",
    "%",
    "//",
    "../",
    "é",
    "\u{202e}",
    "<x>",
];

pub struct Mutation {
    rng: StdRng,
    corpus: Vec<Vec<u8>>,
    /// Inputs of the corpus that were tried as they are.
    tried: usize,
}

impl Mutation {
    pub fn of(kind: &str, seed: u64) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(kind);
        let mut files: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let corpus: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
        assert!(!corpus.is_empty());
        Self { rng: StdRng::seed_from_u64(seed), corpus, tried: 0 }
    }

    pub fn rng(&mut self) -> &mut StdRng {
        &mut self.rng
    }

    pub fn next(&mut self) -> Vec<u8> {
        if let Some(input) = self.corpus.get(self.tried) {
            self.tried += 1;
            return input.clone();
        }
        let mut input = self.pick();
        for _ in 0..self.rng.random_range(1..6) {
            self.change(&mut input);
            input.truncate(LONGEST);
        }
        input
    }

    fn pick(&mut self) -> Vec<u8> {
        self.corpus[self.rng.random_range(0..self.corpus.len())].clone()
    }

    /// A part of the input.
    fn part(&mut self, input: &[u8]) -> std::ops::Range<usize> {
        let begin = self.rng.random_range(0..=input.len());
        let longest = (input.len() - begin).min(1 << self.rng.random_range(0..10));
        begin..begin + self.rng.random_range(0..=longest)
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let place = self.rng.random_range(0..=input.len());
        let part = self.part(input);
        match self.rng.random_range(0..9) {
            0 => {
                if let Some(byte) = input.get_mut(place) {
                    *byte ^= 1 << self.rng.random_range(0..8);
                }
            }
            1 => input.insert(place, self.rng.random()),
            2 => drop(input.drain(part)),
            3 => {
                let word = WORDS[self.rng.random_range(0..WORDS.len())];
                drop(input.splice(place..place, word.bytes()));
            }
            4 => {
                let word = WORDS[self.rng.random_range(0..WORDS.len())];
                drop(input.splice(part, word.bytes()));
            }
            5 => {
                // Deep nesting, long texts.
                let copies = 1 << self.rng.random_range(0..13);
                let copy = input[part].repeat(copies);
                drop(input.splice(place..place, copy.into_iter().take(LONGEST)));
            }
            6 => {
                let other = self.pick();
                let taken = other[self.part(&other)].to_vec();
                drop(input.splice(part, taken));
            }
            7 => input.truncate(place),
            _number => {
                // Another number, where there is one.
                let digits = input.iter().position(u8::is_ascii_digit);
                if let Some(digits) = digits {
                    let number: i64 = self.rng.random::<i64>() >> self.rng.random_range(0..63);
                    drop(input.splice(digits..=digits, number.to_string().into_bytes()));
                }
            }
        }
    }
}
