//! What `lobbyd demo` shows in a terminal.

use super::{OPEN, WAITING};
use crate::support::{browser::Browser, daemon::settings, terminal::Terminal};

/// Notes what the page shows: a busy machine may look at it only after it has opened.
const NOTE: &str = "
    window.shown = '';
    new MutationObserver(() => {
        for (const id of ['headline', 'countdown']) {
            window.shown += `${id}: ${document.getElementById(id)?.textContent}\\n`;
        }
    }).observe(document, { childList: true, characterData: true, subtree: true });
";

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_opens_its_page_for_a_guest_who_waits() {
    // The shell would be interrupted as well, if it were still there.
    let mut terminal = Terminal::run(&settings(&[]), "exec lobbyd demo --in 2");
    let url = terminal.shows("/call/").await;
    let browser = Browser::open().await;
    browser.prepare(NOTE).await;
    browser.go(&url).await;
    browser.enter("Carol").await;
    browser.shows("#headline", OPEN).await;
    let shown = browser.run("return window.shown").await;
    let shown = shown.as_str().unwrap();
    assert!(shown.contains(&format!("headline: {WAITING}")), "{shown}");
    let counted = shown.lines().filter_map(|line| line.strip_prefix("countdown: "));
    assert!(counted.filter(|text| text.contains('s')).count() > 1, "{shown}");
    terminal.shows("the page says so").await;
    // Ctrl-C.
    terminal.press(b"\x03");
    assert_eq!(terminal.ended().await.code(), Some(0));
}
