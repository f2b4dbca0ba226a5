//! The statements for SQLite.
//!
//! Instants are text, `YYYY-MM-DD HH:MM:SS` in UTC, as SQLite's own functions write them: it sorts
//! by time, and a person can write it.

use std::{sync::Arc, time::Duration};

use sqlx::{
    Connection, Error, Sqlite, SqliteConnection,
    error::DatabaseError,
    migrate::{MigrateError, Migrator},
    sqlite::{
        SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteQueryResult,
        SqliteSynchronous,
    },
};

use super::{
    Database, Options, Result, StoreError,
    dialect::{Dialect, Statements, usable},
    engine::SqlStore,
    shared::{self, Shared},
};

/// How long a writer waits for another one, as a part of the time that one use may take: what is
/// left is for the work itself.
const BUSY_SHARE: f64 = 0.8;

/// Page cache of one connection: 512 KiB. What is due lies together in a few pages of the index,
/// and the system's own cache holds the others, so that memory does not grow with the rooms.
const CACHE_SIZE: &str = "-512";

/// What is due. Whoever writes holds the whole database, so nothing is ever passed over.
macro_rules! due {
    () => {
        concat!(
            "\
        SELECT id, token, type, lobby_state, unixepoch(lobby_timer), lobby_version, sip_enabled
        FROM lobbyd_rooms
        WHERE lobby_timer <= datetime($1, 'unixepoch') AND ",
            usable!(),
            "
        ORDER BY lobby_timer, id LIMIT $2"
        )
    };
}

const STATEMENTS: Statements = Statements {
    // A transaction that reads first and then writes fails at once if another one wrote in
    // between, whatever the busy timeout, unless it takes the write lock at its beginning.
    begin: "BEGIN IMMEDIATE",
    now: "SELECT CAST(unixepoch('now', 'subsec') * 1000 AS INTEGER)",
    room: "\
        SELECT room.id, room.token, room.type AS room_type, room.name, room.description,
               room.object_type, room.object_id, room.lobby_state,
               unixepoch(room.lobby_timer) AS lobby_timer, room.lobby_version,
               unixepoch(room.lobby_timer_reached) AS timer_reached, room.sip_enabled,
               coalesce(state.password_hash, '') AS password_hash,
               coalesce(state.call_started_at, 0) AS call_started_at,
               coalesce(state.call_flags, 0) AS call_flags,
               coalesce(state.comments, 0) AS comments,
               coalesce(state.changed_at, 0) AS changed_at
        FROM lobbyd_rooms AS room LEFT JOIN lobbyd_room_states AS state ON state.room_id = room.id
        WHERE room.token = $1",
    lock_room: "SELECT id FROM lobbyd_rooms WHERE token = $1",
    set_lobby: "\
        UPDATE lobbyd_rooms
        SET lobby_state = $1, lobby_timer = datetime($2, 'unixepoch'), lobby_version = $3
        WHERE id = $4 AND lobby_version = $5",
    due: due!(),
    due_held: due!(),
    reset: "\
        UPDATE lobbyd_rooms
        SET lobby_state = 0, lobby_timer = NULL, lobby_version = due.value ->> 'version',
            lobby_timer_reached = lobby_timer
        FROM json_each($1) AS due
        WHERE lobbyd_rooms.id = due.value ->> 'id'
          AND unixepoch(lobby_timer) = due.value ->> 'timer'",
    insert_reset_messages: "\
        INSERT INTO lobbyd_messages (room_id, created_at, actor_type, actor_id, kind)
        SELECT value ->> 'room_id', value ->> 'created_at', 'guests', 'system',
               'lobby_timer_reached'
        FROM json_each($1)",
    insert_outbox: "\
        INSERT INTO lobbyd_outbox
               (id, type, token, data, created_at, due_at, available_at, attempts)
        SELECT value ->> 'id', value ->> 'type', value ->> 'token', value ->> 'data',
               strftime('%Y-%m-%d %H:%M:%f', (value ->> 'created_at') / 1000.0, 'unixepoch'),
               datetime(value ->> 'due_at', 'unixepoch'),
               strftime('%Y-%m-%d %H:%M:%f', (value ->> 'available_at') / 1000.0, 'unixepoch'),
               value ->> 'attempts'
        FROM json_each($1)",
    room_versions: "\
        SELECT token, lobby_version, lobby_state, unixepoch(lobby_timer) AS lobby_timer,
               type AS room_type, name, sip_enabled
        FROM lobbyd_rooms WHERE token IN (SELECT value FROM json_each($1))",
    touch: "\
        UPDATE lobbyd_attendees SET seen_at = $2
        WHERE id IN (SELECT value FROM json_each($1))",
    next_due: concat!(
        "\
        SELECT unixepoch(lobby_timer) FROM lobbyd_rooms
        WHERE lobby_timer IS NOT NULL AND ",
        usable!(),
        "
        ORDER BY lobby_timer LIMIT 1"
    ),
    available: "\
        SELECT id, type, token, data,
               CAST(round(unixepoch(created_at, 'subsec') * 1000) AS INTEGER),
               unixepoch(due_at), attempts
        FROM lobbyd_outbox
        WHERE published_at IS NULL
          AND available_at <= strftime('%Y-%m-%d %H:%M:%f', $1 / 1000.0, 'unixepoch')
        ORDER BY available_at, id LIMIT $2",
    claim: "\
        UPDATE lobbyd_outbox
        SET available_at = strftime('%Y-%m-%d %H:%M:%f', $2 / 1000.0, 'unixepoch'),
            attempts = attempts + 1
        WHERE id IN (SELECT value FROM json_each($1))",
    release: "\
        UPDATE lobbyd_outbox
        SET available_at = strftime('%Y-%m-%d %H:%M:%f', $2 / 1000.0, 'unixepoch')
        WHERE id IN (SELECT value FROM json_each($1))",
    mark_published: "\
        UPDATE lobbyd_outbox
        SET published_at = strftime('%Y-%m-%d %H:%M:%f', $2 / 1000.0, 'unixepoch')
        WHERE id IN (SELECT value FROM json_each($1))",
    prune_published: "\
        DELETE FROM lobbyd_outbox WHERE id IN (
            SELECT id FROM lobbyd_outbox
            WHERE published_at < strftime('%Y-%m-%d %H:%M:%f', $1 / 1000.0, 'unixepoch') LIMIT $2
        )",
    prune_dead: "\
        DELETE FROM lobbyd_outbox WHERE id IN (
            SELECT id FROM lobbyd_outbox
            WHERE published_at IS NULL
              AND created_at < strftime('%Y-%m-%d %H:%M:%f', $1 / 1000.0, 'unixepoch') LIMIT $2
        )",
    backlog: concat!(
        "\
        SELECT (SELECT count(*) FROM lobbyd_rooms
                WHERE lobby_timer IS NOT NULL AND lobby_state = 1 AND ",
        usable!(),
        "),
               (SELECT count(*) FROM lobbyd_rooms
                WHERE lobby_timer IS NOT NULL
                  AND NOT (",
        usable!(),
        ")),
               (SELECT count(*) FROM lobbyd_outbox WHERE published_at IS NULL),
               (SELECT CAST(round(unixepoch(min(created_at), 'subsec') * 1000) AS INTEGER)
                FROM lobbyd_outbox WHERE published_at IS NULL)"
    ),
    fired_since: "\
        SELECT count(*) FROM lobbyd_outbox
        WHERE due_at IS NOT NULL
          AND created_at >= strftime('%Y-%m-%d %H:%M:%f', $1 / 1000.0, 'unixepoch')",
};

impl Dialect for Sqlite {
    const STATEMENTS: Statements = STATEMENTS;

    fn shared() -> &'static Shared {
        &shared::NUMBERED
    }

    fn migrator() -> Migrator {
        sqlx::migrate!("migrations/sqlite")
    }

    fn connect_options(url: &str, limit: Duration) -> Result<SqliteConnectOptions> {
        if url.contains(":memory:") || url.contains("mode=memory") {
            return Err(StoreError::Url(
                "a database in memory would be another one for each connection; name a file"
                    .to_owned(),
            ));
        }
        let connect: SqliteConnectOptions =
            url.parse().map_err(|error| StoreError::unusable_url(&error))?;
        Ok(connect
            .journal_mode(SqliteJournalMode::Wal)
            // An event is acknowledged after its effect is durable, also through a loss of power.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs_f64(limit.as_secs_f64() * BUSY_SHARE))
            .pragma("cache_size", CACHE_SIZE))
    }

    async fn migrate_alone(
        migrator: &Migrator,
        connection: &mut SqliteConnection,
    ) -> std::result::Result<(), MigrateError> {
        // The write lock, in one transaction around all of them.
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
        migrator.run_direct(None, &mut *transaction, false).await?;
        Ok(transaction.commit().await?)
    }

    fn rows_affected(done: &SqliteQueryResult) -> u64 {
        done.rows_affected()
    }

    fn refuses_values(error: &Error) -> bool {
        // The primary result code is in the low byte: TOOBIG 18, CONSTRAINT 19, MISMATCH 20.
        error
            .as_database_error()
            .and_then(DatabaseError::code)
            .and_then(|code| code.parse::<u32>().ok())
            .is_some_and(|code| matches!(code & 0xff, 18..=20))
    }
}

pub(super) fn connect(url: &str, options: Options) -> Result<Arc<dyn Database>> {
    let connect = Sqlite::connect_options(url, options.timeout)?;
    Ok(Arc::new(SqlStore::open(SqlitePoolOptions::new(), connect, options)))
}
