//! What differs between the databases: the texts of the statements, and nothing of their flow.
//!
//! Rules for the texts. Instants cross as integers, Unix seconds or milliseconds, so that no time
//! zone and no text format of a driver gets in; the column's own type is the database's. Each
//! value is bound once, in the order in which it stands in the text, because MySQL has no numbered
//! placeholders. A set of rows is bound as one JSON array, which all three can read as a table.

use std::{future::Future, time::Duration};

use sqlx::{
    Connection, Database, Error,
    error::DatabaseError,
    migrate::{MigrateError, Migrator},
};

use super::{StoreError, shared::Shared};

/// The rows whose timer lobbyd may act upon: a known state, and a kind of room that can have a
/// lobby, see [`Room::can_have_lobby`](crate::domain::Room::can_have_lobby). Others are left alone.
macro_rules! usable {
    () => {
        "lobby_state IN (0, 1) AND type IN (2, 3) AND object_type IN \
         ('', 'room', 'emails', 'event', 'extended_conversation', 'instant_meeting')"
    };
}
pub(super) use usable;

/// Every statement that lobbyd runs. The order is that of a room's life.
#[derive(Debug, Clone, Copy)]
pub(super) struct Statements {
    /// Begins a transaction that will write.
    pub(super) begin: &'static str,
    /// → milliseconds since 1970.
    pub(super) now: &'static str,
    /// token → the columns of [`RoomRow`](super::rows::RoomRow).
    pub(super) room: &'static str,
    /// token → id; the row is locked until the transaction ends.
    pub(super) lock_room: &'static str,
    /// state, timer (seconds), version, id, the version that was read.
    pub(super) set_lobby: &'static str,
    /// now (seconds), limit → id, token, type, state, timer (seconds), version, SIP; locked, and
    /// without those that are locked already.
    pub(super) due: &'static str,
    /// The same, but waits for those that are locked.
    pub(super) due_held: &'static str,
    /// JSON of `{id, timer, version}`: resets those that still have that timer.
    pub(super) reset: &'static str,
    /// JSON of `{room_id, created_at}`: the chat's message about each reset.
    pub(super) insert_reset_messages: &'static str,
    /// JSON of the new rows.
    pub(super) insert_outbox: &'static str,
    /// JSON of tokens → the columns of [`MarkRow`](super::rows::MarkRow).
    pub(super) room_versions: &'static str,
    /// JSON of attendees, now (seconds).
    pub(super) touch: &'static str,
    /// → seconds: the first timer, over or not.
    pub(super) next_due: &'static str,
    /// now (milliseconds), limit → the columns of [`EventRow`](super::rows::EventRow), locked.
    pub(super) available: &'static str,
    /// JSON of ids, until (milliseconds).
    pub(super) claim: &'static str,
    /// JSON of ids, available at (milliseconds).
    pub(super) release: &'static str,
    /// JSON of ids, now (milliseconds).
    pub(super) mark_published: &'static str,
    /// before (milliseconds), limit.
    pub(super) prune_published: &'static str,
    /// before (milliseconds), limit.
    pub(super) prune_dead: &'static str,
    /// → scheduled timers, unusable timers, unpublished events, milliseconds of the oldest.
    pub(super) backlog: &'static str,
    /// since (milliseconds) → number.
    pub(super) fired_since: &'static str,
}

impl Statements {
    /// Every text that is prepared; MySQL does not prepare `begin`.
    pub(super) fn all(&self) -> [&'static str; 20] {
        // Taken apart, so that no statement is forgotten.
        let Self {
            begin: _,
            now,
            room,
            lock_room,
            set_lobby,
            due,
            due_held,
            reset,
            insert_reset_messages,
            insert_outbox,
            room_versions,
            touch,
            next_due,
            available,
            claim,
            release,
            mark_published,
            prune_published,
            prune_dead,
            backlog,
            fired_since,
        } = *self;
        [
            now,
            room,
            lock_room,
            set_lobby,
            due,
            due_held,
            reset,
            insert_reset_messages,
            insert_outbox,
            room_versions,
            touch,
            next_due,
            available,
            claim,
            release,
            mark_published,
            prune_published,
            prune_dead,
            backlog,
            fired_since,
        ]
    }
}

/// A database that lobbyd runs on.
pub(super) trait Dialect: Database {
    const STATEMENTS: Statements;

    /// The texts that are the same on all databases, but for their placeholders.
    fn shared() -> &'static Shared;

    fn migrator() -> Migrator;

    /// How to connect by a URL, for uses that may take up to `limit`.
    fn connect_options(
        url: &str,
        limit: Duration,
    ) -> Result<<Self::Connection as Connection>::Options, StoreError>;

    /// Runs the migrations while no other connection does.
    fn migrate_alone(
        migrator: &Migrator,
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<(), MigrateError>> + Send;

    fn rows_affected(done: &Self::QueryResult) -> u64;

    /// Whether the error is about the values of this one statement, so that repeating it is in
    /// vain.
    fn refuses_values(error: &Error) -> bool;
}

/// By the SQL standard, class 22 is about data and class 23 about constraints.
pub(super) fn sqlstate_refuses_values(error: &Error) -> bool {
    error
        .as_database_error()
        .and_then(DatabaseError::code)
        .is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
}

#[cfg(test)]
mod tests {
    use crate::domain::OBJECT_TYPES_WITH_LOBBY;

    #[test]
    fn the_statements_know_the_same_rooms_as_the_rule() {
        let listed: Vec<String> =
            OBJECT_TYPES_WITH_LOBBY.iter().map(|name| format!("'{name}'")).collect();
        let list = format!("object_type IN ({})", listed.join(", "));
        assert!(usable!().ends_with(&list), "expected {list}");
    }
}
