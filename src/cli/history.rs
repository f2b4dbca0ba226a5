//! `lobbyd history`: which timers fired, how late, and whether subscribers were told.

use std::time::Duration;

use anyhow::{Context, bail};
use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;
use lobbyd::config::Loaded;
use lobbyd::domain::RoomToken;
use lobbyd::store::{HistoryFilter, PastReset};
use serde::Serialize;

use super::access::with_database;
use super::instant::duration;
use super::output::{self, Cell, Format, Mood, Table, Zone};
use super::print;
use super::rooms::unknown_room;

#[derive(Debug, Args)]
#[command(after_help = "\
The lag is the time from the due time of a timer until the broker has confirmed its event. The history \
goes back as far as outbox.history says. An event that is not announced yet is tried again by itself.")]
pub(super) struct History {
    /// Only the timers of this room
    #[arg(value_parser = super::publish::token)]
    token: Option<RoomToken>,

    /// Only the timers that fired within this time, for example 1h
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = duration)]
    since: Option<Duration>,

    /// Maximum number of timers
    #[arg(long, value_name = "NUMBER", default_value_t = 50, allow_negative_numbers = true,
          value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,

    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ResetRow {
    token: String,
    due_at: DateTime<Utc>,
    fired_at: DateTime<Utc>,
    /// `None`: not yet.
    announced_at: Option<DateTime<Utc>>,
    /// From the due time to the announcement.
    lag_milliseconds: Option<i64>,
    /// Whether the timer was overdue already when it was set.
    was_overdue: bool,
    attempts: u32,
    event_id: String,
}

impl ResetRow {
    fn new(reset: &PastReset) -> Self {
        Self {
            token: reset.token.to_string(),
            due_at: reset.due_at,
            fired_at: reset.fired_at,
            announced_at: reset.published_at,
            lag_milliseconds: lag(reset).map(|lag| lag.num_milliseconds()),
            was_overdue: !reset.lag_counts,
            attempts: reset.attempts,
            event_id: reset.event.to_string(),
        }
    }

    fn lag(&self) -> Cell {
        match self.lag_milliseconds {
            None => Cell::new("-", Mood::Faint),
            Some(lag) => {
                let mood = if self.was_overdue {
                    Mood::Faint
                } else if lag > 1000 {
                    Mood::Warning
                } else {
                    Mood::Plain
                };
                Cell::new(output::lag(TimeDelta::milliseconds(lag)), mood)
            }
        }
    }

    fn announced(&self, zone: &Zone) -> Cell {
        if let Some(at) = self.announced_at {
            return zone.time(at).into();
        }
        let attempts = output::counted(self.attempts, "attempt");
        Cell::new(format!("not yet ({attempts})"), Mood::Warning)
    }
}

/// The time from the due time of a timer to its announcement.
pub(super) fn lag(reset: &PastReset) -> Option<TimeDelta> {
    Some(reset.published_at? - reset.due_at)
}

impl History {
    pub(super) async fn run(self, loaded: &Loaded) -> anyhow::Result<()> {
        with_database(loaded, "lobbyd history", async |database| {
            let now = database.now().await?;
            let since = match self.since.map(TimeDelta::from_std).transpose() {
                Ok(None) => DateTime::UNIX_EPOCH,
                Ok(Some(age)) => now.checked_sub_signed(age).context("--since is too long")?,
                Err(_too_long) => DateTime::UNIX_EPOCH,
            };
            let filter = HistoryFilter { since, room: self.token.as_ref() };
            let resets = database.past_resets(filter, self.limit).await?;
            let rows: Vec<_> = resets.iter().map(ResetRow::new).collect();
            match &self.token {
                Some(token) if rows.is_empty() && database.room(token).await?.is_none() => {
                    if self.format.json {
                        show(&rows, self.format)?;
                    }
                    bail!("{}", unknown_room(database, token, &loaded.config).await?)
                }
                Some(_) | None => show(&rows, self.format),
            }
        })
        .await
    }
}

fn show(rows: &[ResetRow], format: Format) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Document<'a> {
        history: &'a [ResetRow],
    }
    if format.json {
        return output::print_json(&Document { history: rows });
    }
    if rows.is_empty() {
        return print("No timer has fired.");
    }
    let zone = Zone::shown();
    let mut table = Table::new(["Room", &zone.header("Due"), "Fired", "Lag", "Announced", "Event"]);
    table.fit(5, [2]);
    for row in rows {
        table.row([
            row.token.as_str().into(),
            zone.time(row.due_at).into(),
            zone.time(row.fired_at).into(),
            row.lag(),
            row.announced(&zone),
            Cell::new(&row.event_id, Mood::Faint),
        ]);
    }
    print(&table.render())
}
