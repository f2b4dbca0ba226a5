//! `lobbyd publish`: publishes one lobby change, as a conversation backend would.

use std::time::Duration;

use anyhow::{Context, bail};
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use clap::Args;
use lobbyd::app;
use lobbyd::bus::{Confirmation, cloudevents};
use lobbyd::config::{Config, ConfigError};
use lobbyd::domain::{EventId, Lobby, LobbyState, RoomToken};

use super::print;

#[derive(Debug, Args)]
pub(crate) struct Publish {
    /// Token of the room
    #[arg(value_parser = token)]
    token: RoomToken,

    /// 1 puts a lobby in front of the room, 0 removes it
    #[arg(long, value_parser = state)]
    state: LobbyState,

    /// Open the room after this time, for example 30s or 10m
    #[arg(long = "in", value_name = "DURATION", value_parser = humantime::parse_duration,
          conflicts_with = "at")]
    after: Option<Duration>,

    /// Open the room at this time, for example 2026-12-01T18:00:00Z
    #[arg(long, value_name = "RFC3339")]
    at: Option<DateTime<Utc>>,
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
        let timer = match (self.at, self.after) {
            (Some(at), _) => Some(round_up(at)),
            (None, Some(after)) => {
                let at = TimeDelta::from_std(after).ok().and_then(|d| now.checked_add_signed(d));
                Some(round_up(at.context("--in is too long")?))
            }
            (None, None) => None,
        };
        if self.state == LobbyState::None && timer.is_some() {
            bail!("--in and --at need --state 1: without a lobby there is no timer");
        }
        let lobby = Lobby { state: self.state, timer };
        let id = EventId::from(uuid::Uuid::now_v7());
        let message = cloudevents::lobby_changed(&self.token, lobby, now, id);

        let bus = app::open_bus(config)?;
        let confirmations = bus.publish(&[message]).await?;
        bus.close().await;
        match confirmations.into_iter().next() {
            Some(Confirmation::Confirmed) => match timer {
                Some(timer) => print(&format!("{}: lobby until {timer}", self.token)),
                None => print(&format!("{}: lobby state {}", self.token, self.state.number())),
            },
            Some(Confirmation::Refused(why) | Confirmation::Unconfirmed(why)) => {
                bail!("event not accepted by the broker: {why}")
            }
            None => bail!("no answer from the broker"),
        }
    }
}

/// Timers are whole seconds, and must not fire early.
fn round_up(time: DateTime<Utc>) -> DateTime<Utc> {
    match time.trunc_subsecs(0) {
        whole if whole == time => whole,
        whole => whole + Duration::from_secs(1),
    }
}

fn token(text: &str) -> Result<RoomToken, String> {
    RoomToken::parse(text).map_err(|error| error.to_string())
}

fn state(text: &str) -> Result<LobbyState, String> {
    text.parse()
        .ok()
        .and_then(|number: i64| number.try_into().ok())
        .ok_or_else(|| "expected 0 (no lobby) or 1 (non-moderators wait)".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fraction_of_a_second_is_rounded_up() {
        let time = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let whole = time("2026-12-01T18:00:00Z");
        assert_eq!(round_up(whole), whole);
        assert_eq!(round_up(time("2026-12-01T17:59:59.001Z")), whole);
    }
}
