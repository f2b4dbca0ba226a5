//! The lobby of a room: its state and its timer.
//!
//! Which change applies to a room is in [`lobby_change`](super::lobby_change), what a timer that is
//! due does in [`timer`](super::timer).

use chrono::{DateTime, Utc};
use num_enum::{IntoPrimitive, TryFromPrimitive};
use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, IntoPrimitive, TryFromPrimitive, Serialize)]
#[repr(i64)]
pub enum LobbyState {
    None = 0,
    /// Participants wait, except moderators and those with the permission to ignore the lobby.
    NonModerators = 1,
}

impl LobbyState {
    /// Talk's number.
    pub fn number(self) -> i64 {
        self.into()
    }
}

/// A lobby state, and the time at which the room is reset to no lobby.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Lobby {
    pub state: LobbyState,
    /// UTC, in whole seconds.
    pub timer: Option<DateTime<Utc>>,
}

impl Lobby {
    pub const OPEN: Self = Self { state: LobbyState::None, timer: None };

    /// 9999-12-31T23:59:59Z, the last second that every database can hold.
    const LAST_TIMER: i64 = 253_402_300_799;

    /// Reads Talk's number of the state, and a timer in Unix seconds, 0 for none. A timer without
    /// a lobby is dropped, because there is nothing to reset.
    pub fn parse(LobbyRequest { state, timer }: LobbyRequest) -> Result<Self, InvalidLobby> {
        let state = LobbyState::try_from(state).map_err(|_unknown| InvalidLobby::State(state))?;
        let timer = match timer {
            None | Some(0) => None,
            Some(seconds) if (0..=Self::LAST_TIMER).contains(&seconds) => {
                DateTime::from_timestamp(seconds, 0)
            }
            Some(seconds) => return Err(InvalidLobby::Timer(seconds)),
        };
        Ok(match state {
            LobbyState::None => Self::OPEN,
            LobbyState::NonModerators => Self { state, timer },
        })
    }

    /// The timer, if it is scheduled: the timer of an open room resets nothing.
    pub fn scheduled(&self) -> Option<DateTime<Utc>> {
        match self.state {
            LobbyState::None => None,
            LobbyState::NonModerators => self.timer,
        }
    }
}

/// A lobby as a client or sender writes it, not yet checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LobbyRequest {
    /// Talk's number.
    pub state: i64,
    /// Unix seconds; `None` or 0 for no timer.
    pub timer: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLobby {
    #[error("state {0} is unknown, expected 0 (no lobby) or 1 (non-moderators wait)")]
    State(i64),
    /// Before 1970 or after the year 9999.
    #[error("timer {0} is out of range, expected seconds since 1970")]
    Timer(i64),
}
