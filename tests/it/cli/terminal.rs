//! What commands print on a terminal: colours, the width of the terminal, a list that is refreshed.

use std::{
    fs,
    process::{Command, Stdio},
};

use super::{CliFixture, printed};
use crate::support::{daemon::Settings, database::Kind, eventually, server::folder};

/// The start of each sequence that a terminal obeys.
const ESCAPE: char = '\u{1b}';

/// Runs a shell command on a terminal; it writes to a file what the terminal is sent.
fn on_terminal(settings: &Settings, variables: &[(&str, &str)], script: &str) -> (Command, String) {
    let log = folder("terminal-").join("log").display().to_string();
    let script = script.replace("lobbyd", env!("CARGO_BIN_EXE_lobbyd"));
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--flush", "--command", &script, &log]);
    command.envs(settings.iter().cloned()).envs(variables.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::null());
    (command, log)
}

async fn fixture() -> CliFixture {
    let fixture = CliFixture::new(Kind::Sqlite).await;
    fixture.database.insert_rooms("room", 1, fixture.database.now().await - 60).await;
    let name = "A webinar about the numbers of the last quarter, with all of its questions";
    fixture.set("room1", &format!("name = '{name}'")).await;
    fixture
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_fits_the_terminal_and_has_colours() {
    let fixture = fixture().await;
    let shown = |variables: &[(&str, &str)]| {
        let (mut command, log) =
            on_terminal(&fixture.settings, variables, "stty cols 80; lobbyd timers");
        assert!(command.status().unwrap().success());
        fs::read_to_string(log).unwrap()
    };
    let colourful = shown(&[]);
    assert!(colourful.contains(ESCAPE), "{colourful}");
    let plain = shown(&[("NO_COLOR", "1")]);
    assert!(!plain.contains(ESCAPE), "{plain}");
    // The first and the last line are those of `script`.
    let lines: Vec<&str> = plain.lines().filter(|line| !line.starts_with("Script ")).collect();
    assert!(lines.len() > 2, "the name takes several lines: {plain}");
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{plain}");
    // On a pipe, each row is one line.
    let piped = printed(&fixture.settings, &["timers"]);
    assert!(piped.lines().count() == 2 && !piped.contains(ESCAPE), "{piped}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_list_is_refreshed_in_its_place() {
    let fixture = fixture().await;
    let (mut command, log) = on_terminal(&fixture.settings, &[], "lobbyd timers --watch");
    let mut watch = command.spawn().unwrap();
    let shows = async |text: &str| {
        eventually(&format!("{text:?}"), || async {
            let shown = fs::read_to_string(&log).ok()?;
            shown.rsplit("\u{1b}[H\u{1b}[J").next()?.contains(text).then_some(())
        })
        .await;
    };
    shows("room1").await;
    fixture.set("room1", "token = 'another'").await;
    shows("another").await;
    fixture.set("another", "lobby_state = 0").await;
    shows("No timer is set.").await;
    watch.kill().unwrap();
    watch.wait().unwrap();
}
