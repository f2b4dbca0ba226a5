//! The language of the project: plain technical English.

use std::fs;

use super::{files, repository};

/// Words of the idiom in which the project was first written, and what to write instead. Each is
/// split, so that this list is not found itself.
const WORDS: [(&str, &str); 17] = [
    (concat!("who", "ever"), "the participant, client, process or user that is meant"),
    (concat!("who", "m"), "a sentence with the participant, client or user as its subject"),
    (concat!("an", "ew"), "again, or a verb with re-: reload, reread"),
    (concat!("ru", "ng"), "woken"),
    (concat!("de", "af"), "disconnected"),
    (concat!("stran", "ger"), "anonymous visitor, non-member"),
    (concat!("stran", "gers"), "anonymous visitors, non-members"),
    (concat!("h", "e"), "they"),
    (concat!("h", "is"), "their"),
    (concat!("h", "im"), "them"),
    (concat!("hi", "mself"), "themselves"),
    (concat!("good", "bye"), "close, shutdown"),
    (concat!("fare", "well"), "close, shutdown"),
    (concat!("tid", "ied"), "cleared, deleted"),
    (concat!("for ", "ever"), "forever, without limit"),
    (concat!("in ", "place of"), "instead of"),
    (concat!("name for ", "people"), "display name"),
];

#[test]
fn the_old_idiom_does_not_come_back() {
    let mut found = Vec::new();
    for place in [
        "Cargo.toml",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "Makefile",
        "README.md",
        "benches",
        "config",
        "deploy",
        "migrations",
        "src",
        "tests",
    ] {
        for file in files(&repository().join(place)) {
            // A file that is no text has no words.
            let Ok(text) = fs::read_to_string(&file) else { continue };
            let name = file.strip_prefix(repository()).unwrap().display().to_string();
            for (index, line) in text.lines().enumerate() {
                let line = line.to_lowercase();
                for (word, instead) in WORDS {
                    if has_word(&line, word) {
                        found.push(format!("{name}:{}: {word}: write {instead}", index + 1));
                    }
                }
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// Whether the word stands between characters that are no part of a word. The underscores of an
/// identifier are none.
fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(start, word)| {
        let before = line[..start].chars().next_back();
        let after = line[start + word.len()..].chars().next();
        [before, after].into_iter().flatten().all(|c| !c.is_alphanumeric())
    })
}
