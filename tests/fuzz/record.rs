//! What is left of an input that hangs, or that ends the process of the tests: each is written down before
//! it is tried, and a thread watches how long it takes.

use std::{
    fs::{self, File},
    io::{Seek, Write},
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::support::tools;

pub struct Record {
    file: File,
    /// When the input was begun that is being tried.
    begun: Arc<Mutex<Option<Instant>>>,
}

impl Record {
    /// In target/fuzz/KIND.last. An input that takes longer than `patience` is reported, once, while it
    /// is still being tried.
    pub fn new(
        kind: &str,
        patience: Duration,
        report: impl FnOnce(&Path) + Send + 'static,
    ) -> Self {
        let folder = tools::file("target/fuzz");
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join(format!("{kind}.last"));
        let begun = Arc::<Mutex<Option<Instant>>>::default();
        let watched = Arc::downgrade(&begun);
        let file = File::create(&path).unwrap();
        thread::spawn(move || {
            while let Some(begun) = watched.upgrade() {
                if begun.lock().is_some_and(|begun| begun.elapsed() > patience) {
                    return report(&path);
                }
                drop(begun);
                thread::sleep(patience / 20);
            }
        });
        Self { file, begun }
    }

    /// Tries an input, after a line that says how it was made.
    pub fn attempt<T>(&mut self, origin: &str, input: &[u8], attempt: impl FnOnce() -> T) -> T {
        self.file.rewind().unwrap();
        self.file.set_len(0).unwrap();
        self.file.write_all(&[origin.as_bytes(), b"\n", input].concat()).unwrap();
        *self.begun.lock() = Some(Instant::now());
        let result = attempt();
        *self.begun.lock() = None;
        result
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::{TURN, support::PATIENCE};

    #[test]
    fn an_input_is_written_down_before_it_is_tried() {
        let _turn = TURN.lock();
        let mut record = Record::new("record", PATIENCE, |_path| panic!("it does not hang"));
        let path = tools::file("target/fuzz/record.last");
        record.attempt("seed 7, input 1", b"a longer input", || ());
        let written = record.attempt("seed 7, input 2", b"\xff", || fs::read(path).unwrap());
        assert_eq!(written, b"seed 7, input 2\n\xff");
    }

    #[test]
    fn an_input_that_hangs_is_reported_while_it_does() {
        let _turn = TURN.lock();
        let (reports, reported) = mpsc::channel();
        let report = move |path: &Path| reports.send(fs::read(path).unwrap()).unwrap();
        let mut record = Record::new("record-hanging", Duration::from_millis(20), report);
        let hang = || reported.recv_timeout(PATIENCE).unwrap();
        let report = record.attempt("seed 7, input 1", b"\xff", hang);
        assert_eq!(report, b"seed 7, input 1\n\xff");
    }
}
