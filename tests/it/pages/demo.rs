//! What `lobbyd demo` shows in a terminal.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};

use tokio::task::spawn_blocking;

use super::{OPEN, WAITING};
use crate::support::{browser::Browser, server::folder};

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_opens_its_page_for_a_guest_who_waits() {
    let demo = format!("{} demo --in 2", env!("CARGO_BIN_EXE_lobbyd"));
    // It gives the program a terminal.
    let mut terminal = Command::new("/usr/bin/script")
        .args(["--quiet", "--flush", "--return", "--command", &demo, "/dev/null"])
        .current_dir(folder("demo-"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut keys = terminal.stdin.take().unwrap();
    let mut lines = BufReader::new(terminal.stdout.take().unwrap()).lines().map(Result::unwrap);
    let (url, mut lines) = spawn_blocking(move || {
        let url = lines.find_map(|line| line.contains("/call/").then(|| line.trim().to_owned()));
        (url.unwrap(), lines)
    })
    .await
    .unwrap();
    let browser = Browser::open().await;
    browser.go(&url).await;
    browser.enter("Carol").await;
    browser.shows("#headline", WAITING).await;
    browser.shows("#countdown", "s").await;
    browser.shows("#headline", OPEN).await;
    let lines = spawn_blocking(move || {
        lines.find(|line| line.contains("opened")).unwrap();
        lines
    });
    let lines = lines.await.unwrap();
    // Ctrl-C.
    keys.write_all(b"\x03").unwrap();
    let rest = spawn_blocking(move || lines.collect::<Vec<String>>()).await.unwrap();
    assert!(terminal.wait().unwrap().success(), "{rest:?}");
}
