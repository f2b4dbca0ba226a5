//! Why a request to the rooms failed, by what the client can do about it.

use std::time::Duration;

use crate::domain::commands::Refusal;
use crate::store::{CommandError, StoreError};

pub type Result<T> = std::result::Result<T, RoomError>;

#[derive(Debug, thiserror::Error)]
pub enum RoomError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Too many wrong passwords came from this address. It may try again after this time.
    #[error("too many wrong passwords, the next is checked in {0:?}")]
    Throttled(Duration),
    /// The client, or all of them, do too much. It may try again after this time.
    #[error("{limit}, try again in {wait:?}")]
    Limited { limit: Limit, wait: Duration },
    /// The database cannot do it now. The request may be repeated.
    #[error(transparent)]
    Unavailable(StoreError),
    /// The database cannot do it. Repeating the request does not help.
    #[error(transparent)]
    Internal(StoreError),
}

/// A limit that a request exceeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Limit {
    #[error("too many changes, at most {0} a minute")]
    Changes(u32),
    #[error("too many guests join from this address, at most {0} a minute")]
    Joins(u32),
    #[error("too many requests of this client wait for a change, at most {0} may")]
    LongPolls(usize),
    #[error("too many requests wait for a change")]
    AllLongPolls,
    #[error("this user owns too many rooms, at most {0} are allowed")]
    Rooms(u32),
    #[error("the room is full, at most {0} guests may join")]
    Guests(u32),
    #[error("too many requests for unknown rooms from this address")]
    UnknownRooms,
    #[error("another password of this participant is being set")]
    Hashes,
}

impl Limit {
    /// Its label in the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Changes(_) => "changes",
            Self::Joins(_) => "joins",
            Self::LongPolls(_) | Self::AllLongPolls => "long_polls",
            Self::Rooms(_) => "rooms",
            Self::Guests(_) => "guests",
            Self::Hashes => "hashes",
            Self::UnknownRooms => "unknown_rooms",
        }
    }
}

impl From<StoreError> for RoomError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_)
            | StoreError::LoginRefused(_)
            | StoreError::NotOwned(_)
            | StoreError::TimedOut(_)
            | StoreError::Contended(_)
            | StoreError::CommitUnanswered(_)
            | StoreError::Conflict { .. } => Self::Unavailable(error),
            StoreError::Rejected(_)
            | StoreError::Unreadable(_)
            | StoreError::Corrupt(_)
            | StoreError::Unprepared(_)
            | StoreError::Unsuitable(_)
            | StoreError::Migration(_)
            | StoreError::Url(_) => Self::Internal(error),
        }
    }
}

impl From<CommandError> for RoomError {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Refused(refusal) => refusal.into(),
            CommandError::Store(error) => error.into(),
        }
    }
}
