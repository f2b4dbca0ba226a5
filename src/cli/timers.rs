//! `lobbyd timers`: the rooms that are closed until a time, and how long that is.

use std::io::{self, IsTerminal};
use std::time::Duration;

use anyhow::ensure;
use chrono::{DateTime, Utc};
use clap::Args;
use lobbyd::config::Loaded;
use lobbyd::store::Database;
use serde::Serialize;
use tokio::time::sleep;

use super::access::with_database;
use super::output::{self, Format, Table, Zone};
use super::print;
use super::rooms::RoomRow;

/// How often the list is read again.
const REFRESH: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
#[command(after_help = "\
Rooms that are overdue come first: `lobbyd rooms TOKEN` says why one of them is not open.")]
pub(super) struct Timers {
    /// Maximum number of timers
    #[arg(long, value_name = "NUMBER", default_value_t = 50, allow_negative_numbers = true,
          value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,

    /// Refresh the list every second, until Ctrl-C
    #[arg(long, conflicts_with = "json")]
    watch: bool,

    #[command(flatten)]
    format: Format,
}

impl Timers {
    pub(super) async fn run(self, loaded: &Loaded) -> anyhow::Result<()> {
        ensure!(!self.watch || io::stdout().is_terminal(), "--watch needs a terminal");
        with_database(loaded, "lobbyd timers", async |database| {
            if !self.watch {
                let (rows, now) = self.read(database).await?;
                return self.show(&rows, now);
            }
            loop {
                let (rows, now) = self.read(database).await?;
                output::refresh(&listing(&rows, now))?;
                sleep(REFRESH).await;
            }
        })
        .await
    }

    async fn read(&self, database: &dyn Database) -> anyhow::Result<(Vec<RoomRow>, DateTime<Utc>)> {
        let now = database.now().await?;
        let rooms = database.scheduled_rooms(self.limit).await?;
        Ok((rooms.iter().map(|room| RoomRow::new(room, now)).collect(), now))
    }

    fn show(&self, rows: &[RoomRow], now: DateTime<Utc>) -> anyhow::Result<()> {
        #[derive(Serialize)]
        struct Document<'a> {
            now: DateTime<Utc>,
            timers: &'a [RoomRow],
        }
        if self.format.json {
            output::print_json(&Document { now, timers: rows })
        } else {
            print(&listing(rows, now))
        }
    }
}

fn listing(rows: &[RoomRow], now: DateTime<Utc>) -> String {
    if rows.is_empty() {
        return "No timer is set.".to_owned();
    }
    let zone = Zone::shown();
    let mut table = Table::new(["Room", "Name", &zone.header("Due"), "Opens", "Participants"]);
    table.fit(1, [4, 1]);
    for row in rows {
        table.row([
            row.token.as_str().into(),
            row.name.as_str().into(),
            row.lobby_timer.map(|timer| zone.time(timer)).unwrap_or_default().into(),
            row.opens(now),
            row.participants.to_string().into(),
        ]);
    }
    table.render()
}
