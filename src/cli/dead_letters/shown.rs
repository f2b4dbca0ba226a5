//! How dead letters are shown.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use lobbyd::bus::DeadLetter;
use serde::Serialize;

use super::selection::room;
use crate::cli::output::{self, Cell, Format, Mood, Table, Zone};
use crate::cli::print;

/// So many characters of a body are listed.
const LISTED_CHARS: usize = 60;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Letter {
    /// Its place in the queue, from 1 on.
    number: u32,
    id: String,
    reason: Option<String>,
    /// The room that it is about.
    token: Option<String>,
    exchange: String,
    routing_key: String,
    content_type: Option<String>,
    dead_lettered_at: Option<DateTime<Utc>>,
    age_seconds: Option<i64>,
    /// Length of the body in bytes, as it was published.
    size: usize,
    /// The first line of the body.
    body: String,
}

/// All that is known of one.
#[derive(Serialize)]
struct Whole<'a> {
    #[serde(flatten)]
    letter: &'a Letter,
    headers: &'a BTreeMap<String, String>,
    #[serde(rename = "wholeBody")]
    body: &'a str,
}

impl Letter {
    pub(super) fn new(number: u32, letter: &DeadLetter, now: DateTime<Utc>) -> Self {
        let body = String::from_utf8_lossy(&letter.body);
        Self {
            number,
            id: letter.id.clone(),
            reason: letter.reason.clone(),
            token: room(letter),
            exchange: letter.exchange.clone(),
            routing_key: letter.routing_key.clone(),
            content_type: letter.content_type.clone(),
            dead_lettered_at: letter.since,
            age_seconds: letter.since.map(|since| (now - since).num_seconds()),
            size: letter.body_length,
            body: body.lines().next().unwrap_or_default().to_owned(),
        }
    }

    fn age(&self) -> Cell {
        match self.age_seconds {
            Some(age) => output::duration(TimeDelta::seconds(age.max(0))).into(),
            None => Cell::new("-", Mood::Faint),
        }
    }

    fn reason(&self) -> &str {
        self.reason.as_deref().unwrap_or("-")
    }
}

/// Lists dead letters; `waiting` are in the queue, and `unread` of them were not looked at.
pub(super) fn list(
    letters: &[Letter],
    waiting: u32,
    unread: u32,
    format: Format,
) -> anyhow::Result<()> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Document<'a> {
        total: u32,
        unread: u32,
        dead_letters: &'a [Letter],
    }
    if format.json {
        return output::print_json(&Document { total: waiting, unread, dead_letters: letters });
    }
    let bound = match unread {
        0 => String::new(),
        unread => format!("; the last {unread} were not looked at, --max-read reads more"),
    };
    if letters.is_empty() {
        return print(&format!("None of {waiting} dead letters{bound}."));
    }
    let mut table = Table::new(["No.", "Id", "Reason", "Routing key", "Age", "Size", "Body"]);
    for letter in letters {
        let body: String = letter.body.chars().take(LISTED_CHARS).collect();
        table.row([
            letter.number.to_string().into(),
            letter.id.as_str().into(),
            Cell::new(letter.reason(), Mood::Warning),
            letter.routing_key.as_str().into(),
            letter.age(),
            letter.size.to_string().into(),
            Cell::new(body, Mood::Faint),
        ]);
    }
    print(&table.render())?;
    let shown = u32::try_from(letters.len())?;
    if shown < waiting {
        return print(&format!("{shown} of {waiting} dead letters{bound}"));
    }
    Ok(())
}

/// Shows one dead letter completely.
pub(super) fn show(letter: &Letter, whole: &DeadLetter, format: Format) -> anyhow::Result<()> {
    let text = String::from_utf8_lossy(&whole.body);
    if format.json {
        return output::print_json(&Whole { letter, headers: &whole.headers, body: &text });
    }
    let zone = Zone::shown();
    let mut table = Table::new(["Property", "Value"]);
    let since = letter.dead_lettered_at.map(|since| zone.time(since));
    let since_title = zone.header("since");
    for (name, value) in [
        ("id", letter.id.clone()),
        ("reason", letter.reason().to_owned()),
        (since_title.as_str(), since.unwrap_or_else(|| "-".to_owned())),
        ("room", letter.token.clone().unwrap_or_else(|| "-".to_owned())),
        ("exchange", letter.exchange.clone()),
        ("routing key", letter.routing_key.clone()),
        ("content type", letter.content_type.clone().unwrap_or_else(|| "-".to_owned())),
        ("size", letter.size.to_string()),
    ] {
        table.row([name.into(), value.into()]);
    }
    for (name, value) in &whole.headers {
        table.row([Cell::new(format!("header {name}"), Mood::Faint), value.into()]);
    }
    print(&table.render())?;
    // As it came: parsed, a key that occurs twice would be shown once.
    print(&format!("\n{}", output::printable_lines(&text)))
}
