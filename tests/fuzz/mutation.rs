//! Changes inputs at random.

use std::{fs, ops::Range, path::Path};

use rand::{RngExt, SeedableRng, rngs::StdRng};

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

/// An input of the corpus.
#[derive(Debug, Clone)]
pub struct Original {
    pub name: String,
    pub bytes: Vec<u8>,
}

/// The files of the corpus for a kind of input.
pub fn corpus(kind: &str) -> Vec<Original> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(kind);
    let mut files: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    files
        .iter()
        .map(|file| Original {
            name: file.file_name().unwrap().to_str().unwrap().to_owned(),
            bytes: fs::read(file).unwrap(),
        })
        .collect()
}

pub struct Mutation {
    rng: StdRng,
    corpus: Vec<Original>,
    /// Inputs of the corpus that were tried as they are.
    tried: usize,
    /// Longest input, in bytes.
    longest: usize,
}

impl Mutation {
    pub fn of(corpus: Vec<Original>, longest: usize, seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), corpus, tried: 0, longest }
    }

    pub fn rng(&mut self) -> &mut StdRng {
        &mut self.rng
    }

    /// The next input: first those of the corpus as they are, with their names.
    pub fn next(&mut self) -> (Option<String>, Vec<u8>) {
        if let Some(original) = self.corpus.get(self.tried) {
            self.tried += 1;
            return (Some(original.name.clone()), original.bytes.clone());
        }
        let mut input = self.pick();
        for _ in 0..self.rng.random_range(1..6) {
            self.change(&mut input);
            input.truncate(self.longest);
        }
        (None, input)
    }

    fn pick(&mut self) -> Vec<u8> {
        self.corpus[self.rng.random_range(0..self.corpus.len())].bytes.clone()
    }

    /// A part of the input.
    fn part(&mut self, input: &[u8]) -> Range<usize> {
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
                drop(input.splice(place..place, copy.into_iter().take(self.longest)));
            }
            6 => {
                let other = self.pick();
                let taken = other[self.part(&other)].to_vec();
                drop(input.splice(part, taken));
            }
            7 => input.truncate(place),
            _number => {
                // Another number, where there is one.
                let numbers = numbers(input);
                if !numbers.is_empty() {
                    let digits = numbers[self.rng.random_range(0..numbers.len())].clone();
                    let number: i64 = self.rng.random::<i64>() >> self.rng.random_range(0..63);
                    drop(input.splice(digits, number.to_string().into_bytes()));
                }
            }
        }
    }
}

/// Where there are numbers: the runs of digits.
fn numbers(input: &[u8]) -> Vec<Range<usize>> {
    let mut numbers: Vec<Range<usize>> = Vec::new();
    for (place, _digit) in input.iter().enumerate().filter(|(_, byte)| byte.is_ascii_digit()) {
        match numbers.last_mut() {
            Some(number) if number.end == place => number.end += 1,
            Some(_) | None => numbers.push(place..place + 1),
        }
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TURN;

    #[test]
    fn each_number_is_found() {
        let _turn = TURN.lock();
        assert_eq!(numbers(b"/v2.php 1767: 0"), [2..3, 8..12, 14..15]);
        assert!(numbers(b"none").is_empty());
    }
}
