//! Why a store method failed, grouped by what the caller can do about it.

use std::time::Duration;

use crate::domain::commands::Refusal;

pub type Result<T, E = StoreError> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Not reachable, read-only, short of resources, without tables or without permission: the same
    /// request may succeed later, so it is retried.
    #[error("database unavailable")]
    Unavailable(#[source] sqlx::Error),
    /// The server refuses the login, and is not asked again for a while.
    #[error("database refuses the login: {0}")]
    LoginRefused(String),
    /// The files of the database belong to somebody else.
    #[error("database cannot be written: {0}")]
    NotOwned(String),
    /// The server is not set up as lobbyd needs it.
    #[error("{0}")]
    Unsuitable(String),
    /// One use of the database took longer than it may.
    #[error("database did not answer within {0:?}")]
    TimedOut(Duration),
    /// Another transaction was in the way: a lock, a deadlock, a serialization failure. The same
    /// request may succeed at once.
    #[error("another transaction was in the way")]
    Contended(#[source] sqlx::Error),
    /// A commit has had no answer for this long, so no other one is tried.
    #[error("database has not answered a commit for {}s", .0.as_secs())]
    CommitUnanswered(Duration),
    /// The database answered that it does not do this: a constraint, a trigger, a row policy. It
    /// would answer the same again, and nothing else is concerned.
    #[error("database refused the change")]
    Rejected(#[source] sqlx::Error),
    /// Another process changed a row in between, or a trigger discarded the change.
    #[error("{table}: a statement changed {rows} rows where {expected} were expected")]
    Conflict { table: &'static str, rows: u64, expected: usize },
    /// A column has another type than in lobbyd's tables.
    #[error("database holds a column that cannot be read")]
    Unreadable(#[source] sqlx::Error),
    /// A row holds a value that lobbyd does not know.
    #[error("{0}")]
    Corrupt(String),
    /// The tables, or the views on them, do not have what lobbyd needs.
    #[error("statement does not fit the tables, deploy/sql in the source shows what a view needs")]
    Unprepared(#[source] sqlx::Error),
    #[error("migrations could not be applied")]
    Migration(#[source] sqlx::migrate::MigrateError),
    #[error("{0}")]
    Url(String),
}

/// Why a command or a query on behalf of a caller failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl StoreError {
    pub(super) fn unusable_url(error: &sqlx::Error) -> Self {
        // The error of the URL's parser does not repeat the URL, which may hold a password.
        if let sqlx::Error::Configuration(cause) = error {
            return Self::Url(cause.to_string());
        }
        Self::Url(error.to_string())
    }

    /// Whether this one request failed, and others may succeed meanwhile. A set of requests that was
    /// refused is taken apart.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Unavailable(_)
            | Self::LoginRefused(_)
            | Self::NotOwned(_)
            | Self::Unsuitable(_)
            | Self::TimedOut(_)
            | Self::CommitUnanswered(_)
            | Self::Contended(_)
            | Self::Unprepared(_)
            | Self::Migration(_)
            | Self::Url(_) => false,
            Self::Rejected(_) | Self::Conflict { .. } | Self::Unreadable(_) | Self::Corrupt(_) => {
                true
            }
        }
    }

    /// Whether the database was there, and answered that it cannot do this.
    pub fn is_answer(&self) -> bool {
        match self {
            Self::Unavailable(error) => error.as_database_error().is_some(),
            Self::Rejected(_) | Self::Unprepared(_) => true,
            Self::LoginRefused(_)
            | Self::NotOwned(_)
            | Self::Unsuitable(_)
            | Self::TimedOut(_)
            | Self::CommitUnanswered(_)
            | Self::Contended(_)
            | Self::Conflict { .. }
            | Self::Unreadable(_)
            | Self::Corrupt(_)
            | Self::Migration(_)
            | Self::Url(_) => false,
        }
    }

    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::TimedOut(_))
    }

    /// Whether another transaction was in the way.
    pub fn is_contention(&self) -> bool {
        matches!(self, Self::Contended(_))
    }

    /// Whether the statement was refused because a row with this key exists.
    pub(super) fn is_unique_violation(&self) -> bool {
        matches!(self, Self::Rejected(error) if error
            .as_database_error()
            .is_some_and(sqlx::error::DatabaseError::is_unique_violation))
    }
}
