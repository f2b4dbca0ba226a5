//! Rooms of a Nextcloud Talk, whose own readers reset them.

use chrono::{DateTime, Utc};

use super::event::RoomUpdated;
use super::lobby::{Lobby, LobbyState};
use super::reason::Reason;
use super::room::{RoomId, RoomToken, RoomType, SipState, Version};

/// A timer in Talk's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TalkTimer {
    pub room: RoomId,
    pub token: RoomToken,
    pub room_type: RoomType,
    pub due_at: DateTime<Utc>,
}

/// The lobby of a row of Talk's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TalkLobby {
    pub is_closed: bool,
    pub timer: Option<DateTime<Utc>>,
}

/// What became of a timer, by the row of its room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The room is still closed with this timer.
    Stands,
    /// The room is open.
    Opened,
    /// The room has another timer, or none, and is closed.
    Superseded,
    /// There is no such room.
    Gone,
}

impl TalkTimer {
    /// Judges the timer by the row of its room as it is now.
    pub fn judge(&self, row: Option<TalkLobby>) -> Standing {
        match row {
            None => Standing::Gone,
            Some(lobby) if !lobby.is_closed => Standing::Opened,
            Some(lobby) if lobby.timer == Some(self.due_at) => Standing::Stands,
            Some(_other_timer) => Standing::Superseded,
        }
    }

    /// The event about the reset, seen at `fired_at`. Talk has no versions: that time takes its place.
    pub fn opened(&self, fired_at: DateTime<Utc>, sip: SipState) -> RoomUpdated {
        let version = Version::of(fired_at);
        RoomUpdated {
            reason: Reason::LobbyTimerReached,
            due_at: Some(self.due_at),
            fired_at: Some(fired_at),
            ..talk_lobby_set(&self.token, self.room_type, Lobby::OPEN, version, sip)
        }
    }
}

/// The event about a lobby that was set in Talk.
pub fn talk_lobby_set(
    token: &RoomToken,
    room_type: RoomType,
    lobby: Lobby,
    version: Version,
    sip: SipState,
) -> RoomUpdated {
    RoomUpdated {
        token: token.as_str().to_owned(),
        room_type: room_type.number(),
        lobby_state: lobby.state.number(),
        lobby_timer: lobby.timer.map_or(0, |timer| timer.timestamp()),
        sip_enabled: sip.number(),
        version: version.milliseconds(),
        reason: match lobby.state {
            LobbyState::None => Reason::LobbyNone,
            LobbyState::NonModerators => Reason::LobbyNonModerators,
        },
        about: None,
        mentioned: Vec::new(),
        due_at: None,
        fired_at: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_row_decides_what_became_of_a_timer() {
        let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap();
        let timer = TalkTimer {
            room: RoomId(1),
            token: RoomToken::stored("abc".to_owned()),
            room_type: RoomType::Public,
            due_at: at(10),
        };
        let row = |is_closed, timer| Some(TalkLobby { is_closed, timer });
        assert_eq!(timer.judge(row(true, Some(at(10)))), Standing::Stands);
        assert_eq!(timer.judge(row(true, Some(at(11)))), Standing::Superseded);
        assert_eq!(timer.judge(row(true, None)), Standing::Superseded);
        assert_eq!(timer.judge(row(false, None)), Standing::Opened);
        assert_eq!(timer.judge(row(false, Some(at(10)))), Standing::Opened);
        assert_eq!(timer.judge(None), Standing::Gone);
    }
}
