//! `lobbyd publish`: publishes one lobby change, as a conversation backend would.

use std::time::Duration;

use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use clap::Args;
use lobbyd::bus::{Confirmation, Message, cloudevents};
use lobbyd::config::{Config, ConfigError};
use lobbyd::domain::{EventId, Lobby, LobbyState, Room, RoomToken, Version};
use lobbyd::store::{self, Database};
use lobbyd::{app, logging};
use tokio::time::{sleep, timeout};

use super::instant::TimerOptions;
use super::print;

/// How long to wait for a worker to apply the change.
const APPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// Delay between two checks whether it has done so.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
pub(crate) struct Publish {
    /// Token of the room
    #[arg(value_parser = token)]
    token: RoomToken,

    /// 1 puts a lobby in front of the room, 0 removes it
    #[arg(long, value_parser = state)]
    state: LobbyState,

    #[command(flatten)]
    timer: TimerOptions,
}

impl Publish {
    #[expect(clippy::disallowed_methods, reason = "a sender dates its change by its own clock")]
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        if config.events.url.is_in_process() {
            return Err(ConfigError::new(
                "events.url",
                "memory: is a bus inside one process, which other processes cannot reach; set the \
                 URL of a broker (amqp://…), or write lobby_state and lobby_timer to the room's row",
            )
            .into());
        }
        let now = Utc::now();
        if self.state == LobbyState::None && self.timer.is_given() {
            bail!("--in and --at need --state 1: without a lobby there is no timer");
        }
        let lobby = self.timer.lobby(self.state, now)?;
        let database = app::open_existing_database(config, "lobbyd publish")?;
        let published = self.publish(lobby, now, config, &*database).await;
        database.close().await;
        published
    }

    async fn publish(
        &self,
        lobby: Lobby,
        now: DateTime<Utc>,
        config: &Config,
        database: &dyn Database,
    ) -> anyhow::Result<()> {
        let token = &self.token;
        let (made_at, unchecked) = match read(database, token).await {
            Ok((now, room)) => (self.newer_than(room, now, config)?, None),
            Err(error) => (now, Some(logging::causes(&error))),
        };
        let id = EventId::from(uuid::Uuid::now_v7());
        send(config, cloudevents::lobby_changed(token, lobby, made_at, id)).await?;
        if let Some(reason) = unchecked {
            return print(&format!("{token}: published, not checked ({reason})"));
        }
        let Some(room) = await_version(database, token, Version::of(made_at)).await else {
            return print(&format!("{token}: published, no worker has applied it yet"));
        };
        // A later change, for example of the API, may have followed at once.
        let is_applied = room.version == Version::of(made_at) || room.lobby == lobby;
        match lobby.timer {
            Some(timer) if is_applied => print(&format!("{token}: lobby until {timer}")),
            Some(timer) if room.timer_reached == Some(timer) => {
                print(&format!("{token}: opened, its timer was reached"))
            }
            None if is_applied => print(&format!("{token}: lobby state {}", lobby.state.number())),
            Some(_) | None => bail!("{token}: superseded by a newer change"),
        }
    }

    /// When the change counts as made: now, or just after the last change of the room, which may
    /// have been dated by a clock that is ahead.
    fn newer_than(
        &self,
        room: Option<Room>,
        now: DateTime<Utc>,
        config: &Config,
    ) -> anyhow::Result<DateTime<Utc>> {
        let token = &self.token;
        let room = room.with_context(|| format!("there is no room {token}"))?;
        if self.state == LobbyState::NonModerators && !room.can_have_lobby() {
            bail!("room {token} is of a type or object without lobby");
        }
        let next = DateTime::from_timestamp_millis(room.version.next().milliseconds());
        next.map(|next| next.max(now))
            .filter(|&made_at| made_at <= now + config.events.max_clock_skew)
            .with_context(|| {
                let version = room.version.milliseconds();
                format!(
                    "room {token} has version {version}, far ahead of the database's clock: events \
                     cannot change it, the API can"
                )
            })
    }
}

/// Reads the database's time and the room.
async fn read(
    database: &dyn Database,
    token: &RoomToken,
) -> store::Result<(DateTime<Utc>, Option<Room>)> {
    Ok((database.now().await?, database.room(token).await?))
}

async fn send(config: &Config, message: Message) -> anyhow::Result<()> {
    let bus = app::open_bus(config)?;
    let confirmations = bus.publish(&[message]).await?;
    bus.close().await;
    match confirmations.into_iter().next() {
        Some(Confirmation::Confirmed) => Ok(()),
        Some(Confirmation::Refused(why) | Confirmation::Unconfirmed(why)) => {
            bail!("event not accepted by the broker: {why}")
        }
        None => bail!("no answer from the broker"),
    }
}

/// Waits until the room has this version or a newer one; `None` if it does not within the timeout.
async fn await_version(
    database: &dyn Database,
    token: &RoomToken,
    version: Version,
) -> Option<Room> {
    let reached = async {
        loop {
            if let Ok(Some(room)) = database.room(token).await
                && room.version >= version
            {
                return room;
            }
            sleep(CHECK_INTERVAL).await;
        }
    };
    timeout(APPLY_TIMEOUT, reached).await.ok()
}

pub(super) fn token(text: &str) -> Result<RoomToken, String> {
    RoomToken::parse(text).map_err(|error| error.to_string())
}

fn state(text: &str) -> Result<LobbyState, String> {
    text.parse()
        .ok()
        .and_then(|number: i64| number.try_into().ok())
        .ok_or_else(|| "expected 0 (no lobby) or 1 (non-moderators wait)".to_owned())
}
