//! A room as the database holds it.

use std::borrow::Borrow;
use std::fmt;

use chrono::{DateTime, Utc};
use num_enum::{FromPrimitive, IntoPrimitive};
use serde::Serialize;

use super::actor::Actor;
use super::call::Call;
use super::lobby::Lobby;
use super::message::Message;
use super::permissions::Permissions;

/// Object types whose rooms can have a lobby, including rooms of no object. As in Talk's
/// `RoomService::setLobby`; rooms of a file, a shared password or a phone call cannot.
pub const OBJECT_TYPES_WITH_LOBBY: [&str; 6] =
    ["", "room", "emails", "event", "extended_conversation", "instant_meeting"];

/// Identifies a room to clients: up to 32 characters, none of them white space or a control
/// character.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct RoomToken(String);

impl RoomToken {
    /// Width of the database's column.
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

    /// Whether a telephone can dial it, by Talk's rule: digits, no leading 0, no digit twice in a
    /// row.
    pub fn is_dialable(&self) -> bool {
        let digits = self.0.as_bytes();
        digits.iter().all(u8::is_ascii_digit)
            && digits.first() != Some(&b'0')
            && digits.windows(2).all(|pair| pair.first() != pair.last())
    }

    /// The token of a row. Whatever the database holds is a token.
    pub(crate) fn stored(token: String) -> Self {
        Self(token)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RoomToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Maps with tokens as keys can be searched by a string.
impl Borrow<str> for RoomToken {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Why a string is not a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// Empty, or longer than the column.
    #[error("a token has 1 to {max} characters, this one has {0}", max = RoomToken::MAX_CHARS)]
    Length(usize),
    /// Neither URLs nor routing keys can carry white space and control characters reliably.
    #[error("a token has no white space and no control characters")]
    Blank,
}

/// The key of a room's row. Only a store creates one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct RoomId(pub(crate) i64);

impl RoomId {
    /// The key of a row that a store has read.
    pub fn stored(id: i64) -> Self {
        Self(id)
    }

    /// The number that clients see.
    pub fn number(self) -> i64 {
        self.0
    }
}

/// Orders the changes of one room: milliseconds since 1970 of the change, strictly growing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Version(i64);

impl Version {
    /// The first number that cannot be milliseconds since 1970: it would be the year 5138. A
    /// sender that counts microseconds would otherwise block every later change forever.
    pub const LIMIT: i64 = 100_000_000_000_000;

    /// Older than every change: the version of a row that another program inserted.
    pub const ZERO: Self = Self(0);

    /// Checks a version that came from outside.
    pub fn parse(milliseconds: i64) -> Option<Self> {
        (0..Self::LIMIT).contains(&milliseconds).then_some(Self(milliseconds))
    }

    /// The version of a row.
    pub(crate) fn stored(milliseconds: i64) -> Self {
        Self(milliseconds)
    }

    /// The version of a change that was made or received at this time.
    pub fn of(time: DateTime<Utc>) -> Self {
        Self(time.timestamp_millis())
    }

    /// The smallest newer version.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    pub fn milliseconds(self) -> i64 {
        self.0
    }
}

/// Talk's room types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, FromPrimitive, IntoPrimitive, Serialize)]
#[repr(i64)]
pub enum RoomType {
    OneToOne = 1,
    /// Only for participants who were added.
    Group = 2,
    /// Anyone with the link may join.
    Public = 3,
    Changelog = 4,
    FormerOneToOne = 5,
    NoteToSelf = 6,
    /// A type that this version does not know, in a table that another program writes.
    #[num_enum(catch_all)]
    Other(i64),
}

impl RoomType {
    /// Talk's number.
    pub fn number(self) -> i64 {
        self.into()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, FromPrimitive, IntoPrimitive, Serialize)]
#[repr(i64)]
pub enum SipState {
    Disabled = 0,
    /// Each user dials in with a PIN of their own.
    WithPin = 1,
    WithoutPin = 2,
    /// A state that this version does not know.
    #[num_enum(catch_all)]
    Other(i64),
}

impl SipState {
    /// Talk's number.
    pub fn number(self) -> i64 {
        self.into()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Room {
    pub id: RoomId,
    pub token: RoomToken,
    pub room_type: RoomType,
    /// Display name. Of a one-to-one room, the ids of both users as a JSON array.
    pub name: String,
    pub description: String,
    /// What the room belongs to; empty for most rooms.
    pub object_type: String,
    pub object_id: String,
    pub lobby: Lobby,
    pub version: Version,
    /// The timer that last reset the room. It identifies a repeated event without a version.
    pub timer_reached: Option<DateTime<Utc>>,
    pub sip: SipState,
    /// Hash of the password that non-members need to join; empty for none.
    pub password_hash: String,
    /// Permissions of participants who have none of their own, or [`Permissions::DEFAULT`].
    pub default_permissions: Permissions,
    /// Whether nobody may write, or join the call.
    pub read_only: bool,
    pub call: Option<Call>,
    /// Number of chat messages, without system messages.
    pub comments: i64,
    /// Unix seconds of the last change that the chat does not show.
    pub changed_at: i64,
}

impl Room {
    pub fn is_public(&self) -> bool {
        self.room_type == RoomType::Public
    }

    /// The name of the one-to-one room of two users: the same for both orders.
    pub fn one_to_one_name(one: &str, other: &str) -> String {
        let members = if one < other { [one, other] } else { [other, one] };
        serde_json::to_string(&members).expect("two strings can be written as JSON")
    }

    /// Whether it is a one-to-one room and the actor is one of its two users.
    pub fn is_one_to_one_with(&self, actor: &Actor) -> bool {
        actor.is_user() && self.one_to_one_members().contains(&actor.id)
    }

    /// Ids of both users of a one-to-one room; empty for other rooms.
    pub fn one_to_one_members(&self) -> Vec<String> {
        let members = (self.room_type == RoomType::OneToOne).then_some(&self.name);
        members.and_then(|name| serde_json::from_str(name).ok()).unwrap_or_default()
    }

    /// Whether moderators may change its settings: group and public rooms.
    pub fn is_configurable(&self) -> bool {
        matches!(self.room_type, RoomType::Group | RoomType::Public)
    }

    /// Breakout rooms take their lobby from their parent.
    pub fn is_breakout_room(&self) -> bool {
        self.object_type == "room"
    }

    pub fn can_have_lobby(&self) -> bool {
        self.is_configurable() && OBJECT_TYPES_WITH_LOBBY.contains(&self.object_type.as_str())
    }

    /// Whether signaling servers would tell their clients of a difference. They are not told the name;
    /// Talk has them announce a new one nevertheless.
    pub fn is_told_as(&self, other: &Self) -> bool {
        let told = |room: &Self| {
            (
                room.room_type,
                room.lobby,
                room.sip,
                room.read_only,
                room.call.map(|call| call.started_at),
            )
        };
        told(self) == told(other)
            && (&self.name, &self.description) == (&other.name, &other.description)
    }

    pub fn has_password(&self) -> bool {
        !self.password_hash.is_empty()
    }
}

/// What all participants see of a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomOverview {
    pub room: Room,
    pub last_message: Option<Message>,
    /// Number of owners and moderators with an account.
    pub moderators: i64,
    /// Whether at most one user takes part.
    pub is_single_user: bool,
    /// Both users of a one-to-one room with their display names; empty for other rooms.
    pub one_to_one: Vec<(Actor, String)>,
}

impl RoomOverview {
    /// Whether the room or its chat has changed at `since`, in Unix seconds, or later.
    pub fn is_modified_since(&self, since: i64) -> bool {
        let last_message = self.last_message.as_ref().map_or(0, |message| message.created_at);
        self.room.changed_at.max(last_message) >= since
    }
}

/// The columns that show whether a cached room is stale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomVersion {
    pub token: RoomToken,
    pub version: Version,
    pub lobby: Lobby,
    pub room_type: RoomType,
    pub name: String,
    pub sip: SipState,
}

#[cfg(test)]
impl Room {
    /// An open public room for unit tests.
    pub(crate) fn example() -> Self {
        Self {
            id: RoomId(1),
            token: RoomToken::parse("abc").unwrap(),
            room_type: RoomType::Public,
            name: "Webinar".to_owned(),
            description: String::new(),
            object_type: String::new(),
            object_id: String::new(),
            lobby: Lobby::OPEN,
            version: Version(10),
            timer_reached: None,
            sip: SipState::Disabled,
            password_hash: String::new(),
            default_permissions: Permissions::DEFAULT,
            read_only: false,
            call: None,
            comments: 0,
            changed_at: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_fits_the_column_and_a_url() {
        assert_eq!(RoomToken::parse("webinar1").unwrap().as_str(), "webinar1");
        assert!(RoomToken::parse(&"ä".repeat(32)).is_ok());
        assert_eq!(RoomToken::parse(""), Err(InvalidToken::Length(0)));
        assert_eq!(RoomToken::parse(&"a".repeat(33)), Err(InvalidToken::Length(33)));
        assert_eq!(RoomToken::parse("a b"), Err(InvalidToken::Blank));
        assert_eq!(RoomToken::parse("a\0"), Err(InvalidToken::Blank));
    }

    #[test]
    fn only_some_tokens_can_be_dialled() {
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
