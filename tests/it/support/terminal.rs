//! A shell command on a terminal.

use std::{
    fs::File,
    io::{Read, Write},
    process::{Child, Command, ExitStatus},
    sync::{Arc, Mutex},
    thread,
};

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};

use super::{daemon::Settings, eventually, server::folder};

/// Dropping it ends the command, and prints what the terminal was sent if the test fails.
pub struct Terminal {
    child: Child,
    keyboard: File,
    /// Until the command has ended.
    reader: Option<thread::JoinHandle<()>>,
    sent: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// Runs a shell command, in which `lobbyd` is the program under test.
    pub fn run(settings: &Settings, command: &str) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let terminal = openpt(flags).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let line = ioctl_tiocgptpeer(&terminal, flags).unwrap();
        let command = command.replace("lobbyd", env!("CARGO_BIN_EXE_lobbyd"));
        // Its process becomes the shell.
        let child = Command::new("setsid")
            .args(["--ctty", "sh", "-c", &command])
            .env_remove("NO_COLOR")
            .env("TERM", "xterm")
            .envs(settings.iter().cloned())
            .current_dir(folder("terminal-"))
            .stdin(line.try_clone().unwrap())
            .stdout(line.try_clone().unwrap())
            .stderr(line)
            .spawn()
            .unwrap();
        let keyboard = File::from(terminal);
        let mut screen = keyboard.try_clone().unwrap();
        let sent = Arc::new(Mutex::new(Vec::new()));
        let reader = thread::spawn({
            let sent = Arc::clone(&sent);
            move || {
                let mut part = [0; 4096];
                // Fails when the last process has closed the other end.
                while let Ok(length @ 1..) = screen.read(&mut part) {
                    sent.lock().unwrap().extend_from_slice(&part[..length]);
                }
            }
        });
        Self { child, keyboard, reader: Some(reader), sent }
    }

    /// What it was sent, with the sequences that it obeys.
    pub fn sent(&self) -> String {
        String::from_utf8_lossy(&self.sent.lock().unwrap()).into_owned()
    }

    /// Presses keys.
    pub fn press(&self, keys: &[u8]) {
        (&self.keyboard).write_all(keys).unwrap();
    }

    /// Waits until a line that the terminal was sent has this text, and returns the line.
    pub async fn shows(&self, text: &str) -> String {
        eventually(&format!("{text:?} on the terminal"), || async {
            let has_ended = self.reader.as_ref().is_none_or(thread::JoinHandle::is_finished);
            let sent = self.sent();
            let line = sent.lines().find(|line| line.contains(text));
            assert!(line.is_some() || !has_ended, "the command has ended without {text:?}");
            line.map(|line| line.trim().to_owned())
        })
        .await
    }

    /// Waits until the command has ended.
    pub async fn ended(&mut self) -> ExitStatus {
        let child = std::cell::RefCell::new(&mut self.child);
        let status = eventually("the end of the command", || async {
            child.borrow_mut().try_wait().unwrap()
        })
        .await;
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        status
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if thread::panicking() {
            eprintln!("the terminal was sent:\n{}", self.sent());
        }
    }
}
