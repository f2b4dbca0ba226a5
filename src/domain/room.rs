//! A room and its lobby, as the database holds them.

use std::{borrow::Borrow, fmt};

use chrono::{DateTime, Utc};

use super::attendee::Actor;

/// Object types whose rooms can have a lobby, besides rooms of no object at all. As in Talk's
/// `RoomService::setLobby`; rooms of a file, a shared password or a phone call cannot.
pub const OBJECT_TYPES_WITH_LOBBY: [&str; 6] =
    ["", "room", "emails", "event", "extended_conversation", "instant_meeting"];

/// The name of a room on every wire: up to 32 characters, none of them white space or a control
/// character.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomToken(String);

impl RoomToken {
    /// Longest token, in characters: the width of the database's column.
    pub const MAX_CHARS: usize = 32;

    /// Checks a token that came from outside.
    pub fn parse(token: &str) -> Result<Self, InvalidToken> {
        let length = token.chars().count();
        if length == 0 || length > Self::MAX_CHARS {
            return Err(InvalidToken::Length(length));
        }
        if token.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(InvalidToken::Blank);
        }
        Ok(Self(token.to_owned()))
    }

    /// Whether a telephone can dial it, by Talk's rule: digits that do not begin with 0, and none
    /// twice in a row.
    pub fn is_dialable(&self) -> bool {
        let digits = self.0.as_bytes();
        digits.iter().all(u8::is_ascii_digit)
            && digits.first() != Some(&b'0')
            && digits.windows(2).all(|pair| pair.first() != pair.last())
    }

    /// Takes the token of a row: what the database holds is a token, whoever wrote it.
    pub(crate) fn stored(token: String) -> Self {
        Self(token)
    }

    /// The token's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RoomToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// So that a map from tokens can be asked with a text.
impl Borrow<str> for RoomToken {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Why a text is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// Empty, or longer than the column.
    #[error("a token has 1 to {max} characters, this one has {0}", max = RoomToken::MAX_CHARS)]
    Length(usize),
    /// White space or control characters, which no URL and no routing key carries well.
    #[error("a token has no white space and no control characters")]
    Blank,
}

/// The key of a room's row; only the store makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RoomId(pub(crate) i64);

impl RoomId {
    /// The number, as clients see it.
    pub fn number(self) -> i64 {
        self.0
    }
}

/// Orders the changes of one room: milliseconds since 1970 of the change, strictly growing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(i64);

impl Version {
    /// First number that cannot be milliseconds since 1970 (it would be the year 5138): a sender
    /// that counts micro- or nanoseconds would otherwise shut out every later change for ever.
    pub const LIMIT: i64 = 100_000_000_000_000;

    /// The version that a room starts with.
    pub const ZERO: Self = Self(0);

    /// Checks a version that came from outside.
    pub fn parse(milliseconds: i64) -> Option<Self> {
        (0..Self::LIMIT).contains(&milliseconds).then_some(Self(milliseconds))
    }

    /// Takes the version of a row.
    pub(crate) fn stored(milliseconds: i64) -> Self {
        Self(milliseconds)
    }

    /// The version of a change that was made, or heard of, at `instant`.
    pub fn of(instant: DateTime<Utc>) -> Self {
        Self(instant.timestamp_millis())
    }

    /// The smallest newer version.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Milliseconds since 1970.
    pub fn milliseconds(self) -> i64 {
        self.0
    }
}

/// Whether others than moderators have to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LobbyState {
    /// The room is open: 0.
    None,
    /// Everybody but the moderators waits: 1.
    NonModerators,
}

impl LobbyState {
    /// Reads Talk's number.
    pub fn from_number(number: i64) -> Option<Self> {
        match number {
            0 => Some(Self::None),
            1 => Some(Self::NonModerators),
            _ => None,
        }
    }

    /// Talk's number.
    pub fn number(self) -> i64 {
        match self {
            Self::None => 0,
            Self::NonModerators => 1,
        }
    }
}

/// What a lobby change sets: the state, and the instant at which the room is reset to no lobby.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lobby {
    /// Who has to wait.
    pub state: LobbyState,
    /// UTC, in whole seconds.
    pub timer: Option<DateTime<Utc>>,
}

impl Lobby {
    /// Nobody waits and nothing is scheduled.
    pub const OPEN: Self = Self { state: LobbyState::None, timer: None };

    /// 9999-12-31T23:59:59Z, the last second that every database can hold.
    const LAST_TIMER: i64 = 253_402_300_799;

    /// Reads Talk's number of the state, and a timer in Unix seconds, 0 for none. A timer opens a
    /// lobby; without one there is nothing to open, and it is left out.
    pub fn parse(state: i64, timer: Option<i64>) -> Result<Self, InvalidLobby> {
        let known = LobbyState::from_number(state).ok_or(InvalidLobby::State(state))?;
        let timer = match timer {
            None | Some(0) => None,
            Some(seconds) if (0..=Self::LAST_TIMER).contains(&seconds) => {
                DateTime::from_timestamp(seconds, 0)
            }
            Some(seconds) => return Err(InvalidLobby::Timer(seconds)),
        };
        Ok(match known {
            LobbyState::None => Self::OPEN,
            LobbyState::NonModerators => Self { state: known, timer },
        })
    }

    /// The timer, if it is a scheduled one: a row that is open already is only cleared.
    pub fn scheduled(&self) -> Option<DateTime<Utc>> {
        match self.state {
            LobbyState::None => None,
            LobbyState::NonModerators => self.timer,
        }
    }
}

/// Why numbers are no lobby.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLobby {
    /// The state is neither 0 nor 1.
    #[error("state {0} is unknown, expected 0 (no lobby) or 1 (non-moderators wait)")]
    State(i64),
    /// The timer is before 1970 or after the year 9999.
    #[error("timer {0} is out of range, expected seconds since 1970")]
    Timer(i64),
}

/// A room.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Room {
    /// Key of the row.
    pub id: RoomId,
    /// Name of the room on every wire.
    pub token: RoomToken,
    /// Talk's number of the room's type: 2 group, 3 public; the others have no lobby.
    pub room_type: i64,
    /// Name for people. Of a room of two, the names of both users as a JSON array.
    pub name: String,
    /// What it is about.
    pub description: String,
    /// What the room belongs to; empty for most.
    pub object_type: String,
    /// Which one of these.
    pub object_id: String,
    /// The lobby now.
    pub lobby: Lobby,
    /// Version of the room's last change.
    pub version: Version,
    /// The timer that last reset the room. A repeated event that has no version of its own is
    /// known by it.
    pub timer_reached: Option<DateTime<Utc>>,
    /// Talk's number: 0 off, 1 with a PIN per attendee, 2 without PIN.
    pub sip_enabled: i64,
    /// Hash of the password that strangers need to join; empty for none.
    pub password_hash: String,
    /// The call, while there is one.
    pub call: Option<Call>,
    /// How many chat messages were sent, system messages not counted.
    pub comments: i64,
    /// Unix seconds of the last change that the chat does not show.
    pub changed_at: i64,
}

/// A call that goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Call {
    /// Unix seconds of its start.
    pub started_at: i64,
    /// Flags of all who have been in it.
    pub flags: i64,
}

impl Room {
    /// Talk's type of a room of two.
    pub const ONE_TO_ONE: i64 = 1;
    /// Talk's type of a room of those who were added.
    pub const GROUP: i64 = 2;
    /// Talk's type of a room that anybody with the link may join.
    pub const PUBLIC: i64 = 3;

    /// Whether anybody with the link may join.
    pub fn is_public(&self) -> bool {
        self.room_type == Self::PUBLIC
    }

    /// The name of a room of two users.
    ///
    /// # Panics
    ///
    /// Never: texts can be written as JSON.
    pub fn one_to_one_name(one: &str, other: &str) -> String {
        let pair = if one < other { [one, other] } else { [other, one] };
        serde_json::to_string(&pair).expect("two texts can be written as JSON")
    }

    /// Whether it is a room of two, and the actor is one of them.
    pub fn is_one_to_one_with(&self, actor: &Actor) -> bool {
        self.room_type == Self::ONE_TO_ONE && actor.is_user() && self.pair().contains(&actor.id)
    }

    /// The users that a room of two is for; nobody for other rooms.
    pub fn pair(&self) -> Vec<String> {
        match self.room_type {
            Self::ONE_TO_ONE => serde_json::from_str(&self.name).unwrap_or_default(),
            _ => Vec::new(),
        }
    }

    /// Whether a moderator may shape it, other than a room of two or one that Talk keeps itself.
    pub fn is_configurable(&self) -> bool {
        matches!(self.room_type, Self::GROUP | Self::PUBLIC)
    }

    /// Whether it is a breakout room, whose lobby follows its parent.
    pub fn is_breakout_room(&self) -> bool {
        self.object_type == "room"
    }

    /// Whether this kind of room can have a lobby at all.
    pub fn can_have_lobby(&self) -> bool {
        self.is_configurable() && OBJECT_TYPES_WITH_LOBBY.contains(&self.object_type.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_fits_its_column_and_any_url() {
        assert_eq!(RoomToken::parse("webinar1").unwrap().as_str(), "webinar1");
        assert!(RoomToken::parse(&"ä".repeat(32)).is_ok());
        assert_eq!(RoomToken::parse(""), Err(InvalidToken::Length(0)));
        assert_eq!(RoomToken::parse(&"a".repeat(33)), Err(InvalidToken::Length(33)));
        assert_eq!(RoomToken::parse("a b"), Err(InvalidToken::Blank));
        assert_eq!(RoomToken::parse("a\0"), Err(InvalidToken::Blank));
    }

    #[test]
    fn a_telephone_dials_digits() {
        for (token, dialable) in
            [("1234567", true), ("12a", false), ("0123", false), ("1223", false), ("7", true)]
        {
            assert_eq!(RoomToken::parse(token).unwrap().is_dialable(), dialable, "{token}");
        }
    }

    #[test]
    fn a_version_in_microseconds_is_refused() {
        assert!(Version::parse(1_767_225_600_000).is_some());
        assert!(Version::parse(1_767_225_600_000_000).is_none());
        assert!(Version::parse(-1).is_none());
    }
}
