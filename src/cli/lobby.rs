//! `lobbyd lobby`: sets or removes the lobby of a room, in the database and without a broker.
//!
//! The change is stored as an event would store it, so a worker fires the timer and announces both.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use lobbyd::config::Loaded;
use lobbyd::domain::{Applied, ChangeOrder, IncomingChange, Lobby, LobbyState, RoomToken, Version};
use lobbyd::logging;
use lobbyd::store::{Database, Patience, StoreError};
use tokio::time::sleep;

use super::access::with_database;
use super::diagnosis::{Asker, REMOVE_REFUSAL, without_lobby};
use super::instant::TimerOptions;
use super::output::{self, Format, Zone};
use super::{publish, rooms};

/// How often a room is tried that another transaction has locked.
const ATTEMPTS: u32 = 20;

/// Delay between two attempts.
const RETRY_DELAY: Duration = Duration::from_millis(250);

#[derive(Debug, Subcommand)]
pub(super) enum LobbyCommand {
    /// Put a lobby in front of a room, with a timer or without
    Set(Set),
    /// Remove the lobby of a room: open it now
    Clear(Clear),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Times without an offset are in the time zone of the machine, or of the variable TZ. A running worker \
notices the change within a second and announces it.")]
pub(super) struct Set {
    /// Token of the room
    #[arg(value_parser = publish::token)]
    token: RoomToken,

    #[command(flatten)]
    timer: TimerOptions,

    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Args)]
pub(super) struct Clear {
    /// Token of the room
    #[arg(value_parser = publish::token)]
    token: RoomToken,

    #[command(flatten)]
    format: Format,
}

impl LobbyCommand {
    pub(super) async fn run(self, loaded: &Loaded) -> anyhow::Result<()> {
        with_database(loaded, "lobbyd lobby", async |database| match self {
            Self::Set(set) => {
                let lobby = set.lobby(database.now().await?)?;
                change(database, &set.token, lobby, set.format, loaded).await
            }
            Self::Clear(clear) => {
                change(database, &clear.token, Lobby::OPEN, clear.format, loaded).await
            }
        })
        .await
    }
}

impl Set {
    fn lobby(&self, now: DateTime<Utc>) -> anyhow::Result<Lobby> {
        let lobby = self.timer.lobby(LobbyState::NonModerators, now)?;
        if let Some(at) = lobby.timer.filter(|at| *at < now) {
            let (zone, token) = (Zone::local(), output::argument(self.token.as_str()));
            bail!(
                "{} ({}) is over, it is {} now; to open the room now: lobbyd lobby clear {token}",
                zone.time(at),
                zone.name,
                zone.time(now)
            );
        }
        Ok(lobby)
    }
}

/// Changes the lobby of a room, and prints the room.
async fn change(
    database: &dyn Database,
    token: &RoomToken,
    lobby: Lobby,
    format: Format,
    loaded: &Loaded,
) -> anyhow::Result<()> {
    let mut attempts = 1;
    let applied = loop {
        let now = database.now().await?;
        let order = ChangeOrder::ReceivedNow(Version::of(now));
        let change =
            IncomingChange { token: token.clone(), lobby, order, identity: None, own: false };
        let outcome = database.apply(&[change], Patience::Full, now, None).await;
        let is_locked = match &outcome {
            Ok(set) => set.results.contains(&Applied::Locked),
            Err(error) => error.is_contention(),
        };
        if !is_locked || attempts == ATTEMPTS {
            break outcome.map_err(|error| explained(error, token))?.results.into_iter().next();
        }
        attempts += 1;
        sleep(RETRY_DELAY).await;
    };
    let now = database.now().await?;
    match applied.context("the database has not applied the change")? {
        Applied::Set { .. } => {
            let tokens = std::slice::from_ref(token);
            let rows = rooms::explained_rooms(database, tokens, now, loaded, Asker::Setter).await?;
            rooms::show(&rows, now, format)
        }
        Applied::LobbyNotSupported => {
            let room = database.rooms_by_token(std::slice::from_ref(token)).await?.pop();
            let why = room.map(|room| without_lobby(&room.room)).unwrap_or_default();
            bail!("{token}: {why}")
        }
        Applied::UnknownRoom => {
            bail!("{}", rooms::unknown_room(database, token, &loaded.config).await?)
        }
        Applied::Locked => {
            bail!("{token}: another transaction has locked the room; try again when it has ended")
        }
        Applied::Stale => bail!("{token}: superseded by a newer change"),
    }
}

/// Says what can be done about a change that the database refuses.
fn explained(error: StoreError, token: &RoomToken) -> anyhow::Error {
    if error.is_refusal() {
        return anyhow!("{token}: {}. {REMOVE_REFUSAL}", logging::causes(&error));
    }
    error.into()
}
