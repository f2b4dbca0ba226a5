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
    /// The database cannot do it now. The request may be repeated.
    #[error(transparent)]
    Unavailable(StoreError),
    /// The database cannot do it. Repeating the request does not help.
    #[error(transparent)]
    Internal(StoreError),
}

impl From<StoreError> for RoomError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_)
            | StoreError::TimedOut(_)
            | StoreError::Contended(_)
            | StoreError::CommitUnanswered(_)
            | StoreError::Conflict { .. } => Self::Unavailable(error),
            StoreError::Rejected(_)
            | StoreError::Unreadable(_)
            | StoreError::Corrupt(_)
            | StoreError::Unprepared(_)
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
