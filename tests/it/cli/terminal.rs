//! What commands print on a terminal: colours, the width of the terminal, a list that is refreshed.

use super::{CliFixture, cells, printed};
use crate::support::{daemon::settings, database::Kind, eventually, terminal::Terminal};

/// The start of each sequence that a terminal obeys.
const ESCAPE: char = '\u{1b}';

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
    let shown = async |variables: &[(&str, &str)]| {
        let settings = [fixture.settings.clone(), settings(variables)].concat();
        let mut terminal = Terminal::run(&settings, "stty cols 80; lobbyd timers");
        assert_eq!(terminal.ended().await.code(), Some(0));
        terminal.sent()
    };
    let colourful = shown(&[]).await;
    assert!(colourful.contains(ESCAPE), "{colourful}");
    let plain = shown(&[("NO_COLOR", "1")]).await;
    assert!(!plain.contains(ESCAPE), "{plain}");
    let lines: Vec<&str> = plain.lines().collect();
    assert!(lines.len() > 2, "the name takes several lines: {plain}");
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{plain}");
    // On a pipe, each row is one line.
    let piped = printed(&fixture.settings, &["timers"]);
    assert!(piped.lines().count() == 2 && !piped.contains(ESCAPE), "{piped}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_narrow_table_keeps_words_whole() {
    let fixture = fixture().await;
    fixture.set("room1", "token = 'all-hands'").await;
    let timer = cells(&printed(&fixture.settings, &["rooms"]))[1][4].clone();
    for width in [80, 60] {
        let mut terminal = Terminal::run(
            &fixture.settings,
            &format!("stty cols {width}; NO_COLOR=1 lobbyd rooms"),
        );
        assert_eq!(terminal.ended().await.code(), Some(0));
        let shown = terminal.sent();
        for whole in ["all-hands ", "overdue 1m", &timer, "Lobby", "webinar"] {
            assert!(shown.contains(whole), "{whole}: {shown}");
        }
        assert_eq!(shown.contains("Participants"), width == 80, "{shown}");
        assert!(shown.lines().all(|line| line.chars().count() <= width), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_shows_that_it_is_under_way() {
    let fixture = CliFixture::new(Kind::Sqlite).await;
    let mut terminal = Terminal::run(&fixture.settings, "lobbyd migrate");
    assert_eq!(terminal.ended().await.code(), Some(0));
    let shown = terminal.sent();
    let (progress, end) = shown.split_once(" is up to date").unwrap();
    assert!(
        progress.contains("updating the tables of sqlite:") && end.trim().is_empty(),
        "{shown}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_typed_is_not_shown() {
    let fixture = CliFixture::new(Kind::Sqlite).await;
    let add = "trap : INT; lobbyd user add alice --password-stdin; echo status $?; stty -a";
    for (keys, outcome) in [(b"\x03".as_slice(), "status 1"), (b"marker-secret\n", "alice: added")]
    {
        let mut terminal = Terminal::run(&fixture.settings, add);
        terminal.shows("Password:").await;
        terminal.press(keys);
        terminal.ended().await;
        let sent = terminal.sent();
        assert!(sent.contains(outcome) && !sent.contains("marker"), "{sent}");
        assert!(sent.contains(" echo "), "the terminal shows again what is typed: {sent}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_list_is_refreshed_in_its_place() {
    let fixture = fixture().await;
    let watch = Terminal::run(&fixture.settings, "lobbyd timers --watch");
    let shows = async |text: &str| {
        eventually(&format!("{text:?}"), || async {
            let shown = watch.sent();
            shown.rsplit("\u{1b}[H\u{1b}[J").next()?.contains(text).then_some(())
        })
        .await;
    };
    shows("room1").await;
    fixture.set("room1", "token = 'another'").await;
    shows("another").await;
    fixture.set("another", "lobby_state = 0").await;
    shows("No timer is set.").await;
}
