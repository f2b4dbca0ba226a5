//! The statements for MariaDB and MySQL, in the syntax that both have.
//!
//! `FROM_UNIXTIME` ends in 2038 on MariaDB, so instants are counted from 1970 with `INTERVAL`.
//! Updates of many rows join the JSON table, because MariaDB does not optimise `IN (SELECT …)` in
//! an update. `STRAIGHT_JOIN` keeps the small side first.

use std::{sync::Arc, time::Duration};

use sqlx::{
    AssertSqlSafe, Error, Executor, MySql, MySqlConnection,
    migrate::{Migrate, MigrateError, Migrator},
    mysql::{MySqlConnectOptions, MySqlPoolOptions, MySqlQueryResult},
};

use super::{
    Database, Options, Result, StoreError,
    dialect::{Dialect, Statements, sqlstate_refuses_values, usable},
    engine::SqlStore,
    migration::{MIGRATION_TIMEOUT, MIGRATIONS},
    shared::{self, Shared},
};

/// A JSON array of event ids, as a table.
macro_rules! ids {
    () => {
        "JSON_TABLE(?, '$[*]' COLUMNS (id CHAR(36) PATH '$')) AS ids"
    };
}

/// Locks what is due.
macro_rules! due {
    () => {
        concat!(
            "\
        SELECT id, token, CAST(type AS SIGNED), CAST(lobby_state AS SIGNED),
               TIMESTAMPDIFF(SECOND, '1970-01-01', lobby_timer), lobby_version,
               CAST(sip_enabled AS SIGNED)
        FROM lobbyd_rooms
        WHERE lobby_timer <= TIMESTAMP'1970-01-01 00:00:00' + INTERVAL ? SECOND AND ",
            usable!(),
            "
        ORDER BY lobby_timer, id LIMIT ?
        FOR UPDATE"
        )
    };
}

const STATEMENTS: Statements = Statements {
    begin: "START TRANSACTION",
    now: "SELECT CAST(FLOOR(UNIX_TIMESTAMP(NOW(3)) * 1000) AS SIGNED)",
    room: "\
        SELECT room.id, room.token, CAST(room.type AS SIGNED) AS room_type, room.name,
               room.description, room.object_type, room.object_id,
               CAST(room.lobby_state AS SIGNED) AS lobby_state,
               TIMESTAMPDIFF(SECOND, '1970-01-01', room.lobby_timer) AS lobby_timer,
               room.lobby_version,
               TIMESTAMPDIFF(SECOND, '1970-01-01', room.lobby_timer_reached) AS timer_reached,
               CAST(room.sip_enabled AS SIGNED) AS sip_enabled,
               COALESCE(state.password_hash, '') AS password_hash,
               COALESCE(state.call_started_at, 0) AS call_started_at,
               COALESCE(state.call_flags, 0) AS call_flags,
               COALESCE(state.comments, 0) AS comments,
               COALESCE(state.changed_at, 0) AS changed_at
        FROM lobbyd_rooms AS room LEFT JOIN lobbyd_room_states AS state ON state.room_id = room.id
        WHERE room.token = ?",
    lock_room: "SELECT id FROM lobbyd_rooms WHERE token = ? FOR UPDATE",
    set_lobby: "\
        UPDATE lobbyd_rooms
        SET lobby_state = ?, lobby_timer = TIMESTAMP'1970-01-01 00:00:00' + INTERVAL ? SECOND,
            lobby_version = ?
        WHERE id = ? AND lobby_version = ?",
    due: concat!(due!(), " SKIP LOCKED"),
    due_held: due!(),
    reset: "\
        UPDATE JSON_TABLE(?, '$[*]' COLUMNS (id BIGINT PATH '$.id', timer BIGINT PATH '$.timer',
                                             version BIGINT PATH '$.version')) AS due
        STRAIGHT_JOIN lobbyd_rooms AS room ON room.id = due.id
        SET room.lobby_state = 0, room.lobby_timer = NULL, room.lobby_version = due.version,
            room.lobby_timer_reached = TIMESTAMP'1970-01-01 00:00:00' + INTERVAL due.timer SECOND
        WHERE TIMESTAMPDIFF(SECOND, '1970-01-01', room.lobby_timer) = due.timer",
    insert_reset_messages: "\
        INSERT INTO lobbyd_messages (room_id, created_at, actor_type, actor_id, kind)
        SELECT room_id, created_at, 'guests', 'system', 'lobby_timer_reached'
        FROM JSON_TABLE(?, '$[*]' COLUMNS (
                 room_id BIGINT PATH '$.room_id', created_at BIGINT PATH '$.created_at'
             )) AS new_rows",
    insert_outbox: "\
        INSERT INTO lobbyd_outbox
               (id, type, token, data, created_at, due_at, available_at, attempts)
        SELECT id, type, token, data,
               TIMESTAMP'1970-01-01 00:00:00' + INTERVAL created_at * 1000 MICROSECOND,
               TIMESTAMP'1970-01-01 00:00:00' + INTERVAL due_at SECOND,
               TIMESTAMP'1970-01-01 00:00:00' + INTERVAL available_at * 1000 MICROSECOND, attempts
        FROM JSON_TABLE(?, '$[*]' COLUMNS (
                 id CHAR(36) PATH '$.id', type VARCHAR(64) PATH '$.type',
                 token VARCHAR(32) PATH '$.token', data TEXT PATH '$.data',
                 created_at BIGINT PATH '$.created_at', due_at BIGINT PATH '$.due_at',
                 available_at BIGINT PATH '$.available_at', attempts INT PATH '$.attempts'
             )) AS new_rows",
    room_versions: "\
        SELECT room.token, room.lobby_version, CAST(room.lobby_state AS SIGNED) AS lobby_state,
               TIMESTAMPDIFF(SECOND, '1970-01-01', room.lobby_timer) AS lobby_timer,
               CAST(room.type AS SIGNED) AS room_type, room.name,
               CAST(room.sip_enabled AS SIGNED) AS sip_enabled
        FROM JSON_TABLE(?, '$[*]' COLUMNS (
                 token VARCHAR(32) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$'
             )) AS tokens
        STRAIGHT_JOIN lobbyd_rooms AS room ON room.token = tokens.token",
    touch: "\
        UPDATE JSON_TABLE(?, '$[*]' COLUMNS (id BIGINT PATH '$')) AS ids
        STRAIGHT_JOIN lobbyd_attendees AS attendee ON attendee.id = ids.id
        SET attendee.seen_at = ?",
    next_due: concat!(
        "\
        SELECT TIMESTAMPDIFF(SECOND, '1970-01-01', lobby_timer) FROM lobbyd_rooms
        WHERE lobby_timer IS NOT NULL AND ",
        usable!(),
        "
        ORDER BY lobby_timer LIMIT 1"
    ),
    available: "\
        SELECT id, type, token, data,
               TIMESTAMPDIFF(MICROSECOND, '1970-01-01', created_at) DIV 1000,
               TIMESTAMPDIFF(SECOND, '1970-01-01', due_at), CAST(attempts AS SIGNED)
        FROM lobbyd_outbox
        WHERE published_at IS NULL
          AND available_at <= TIMESTAMP'1970-01-01 00:00:00' + INTERVAL ? * 1000 MICROSECOND
        ORDER BY available_at, id LIMIT ?
        FOR UPDATE SKIP LOCKED",
    claim: concat!(
        "UPDATE ",
        ids!(),
        " STRAIGHT_JOIN lobbyd_outbox AS event ON event.id = ids.id
        SET event.available_at = TIMESTAMP'1970-01-01 00:00:00' + INTERVAL ? * 1000 MICROSECOND,
            event.attempts = event.attempts + 1"
    ),
    release: concat!(
        "UPDATE ",
        ids!(),
        " STRAIGHT_JOIN lobbyd_outbox AS event ON event.id = ids.id
        SET event.available_at = TIMESTAMP'1970-01-01 00:00:00' + INTERVAL ? * 1000 MICROSECOND"
    ),
    mark_published: concat!(
        "UPDATE ",
        ids!(),
        " STRAIGHT_JOIN lobbyd_outbox AS event ON event.id = ids.id
        SET event.published_at = TIMESTAMP'1970-01-01 00:00:00' + INTERVAL ? * 1000 MICROSECOND"
    ),
    prune_published: "\
        DELETE FROM lobbyd_outbox
        WHERE published_at < TIMESTAMP'1970-01-01 00:00:00' + INTERVAL ? * 1000 MICROSECOND
        LIMIT ?",
    prune_dead: "\
        DELETE FROM lobbyd_outbox
        WHERE published_at IS NULL
          AND created_at < TIMESTAMP'1970-01-01 00:00:00' + INTERVAL ? * 1000 MICROSECOND
        LIMIT ?",
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
               (SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', min(created_at)) DIV 1000
                FROM lobbyd_outbox WHERE published_at IS NULL)"
    ),
    fired_since: "\
        SELECT count(*) FROM lobbyd_outbox
        WHERE due_at IS NOT NULL
          AND created_at >= TIMESTAMP'1970-01-01 00:00:00' + INTERVAL ? * 1000 MICROSECOND",
};

impl Dialect for MySql {
    const STATEMENTS: Statements = STATEMENTS;

    fn shared() -> &'static Shared {
        &shared::QUESTION_MARKS
    }

    fn migrator() -> Migrator {
        sqlx::migrate!("migrations/mysql")
    }

    fn connect_options(url: &str, _limit: Duration) -> Result<MySqlConnectOptions> {
        url.parse().map_err(|error| StoreError::unusable_url(&error))
    }

    async fn migrate_alone(
        migrator: &Migrator,
        connection: &mut MySqlConnection,
    ) -> std::result::Result<(), MigrateError> {
        // A lock of the session, among those of the whole server.
        let lock = "SELECT GET_LOCK(CONCAT('lobbyd_migrations ', DATABASE()), ?)";
        let locked: Option<i64> = sqlx::query_scalar(lock)
            .bind(MIGRATION_TIMEOUT.as_secs())
            .fetch_one(&mut *connection)
            .await?;
        if locked != Some(1) {
            return Err(Error::Protocol("another process migrates for too long".into()).into());
        }
        // A migration that was interrupted has done some of its work, because MySQL commits every
        // change of a table at once. All of them can be repeated.
        connection.ensure_migrations_table(MIGRATIONS).await?;
        connection.execute("DELETE FROM lobbyd_migrations WHERE success = FALSE").await?;
        migrator.run_direct(None, connection, false).await
    }

    fn rows_affected(done: &MySqlQueryResult) -> u64 {
        done.rows_affected()
    }

    fn refuses_values(error: &Error) -> bool {
        sqlstate_refuses_values(error)
    }
}

pub(super) fn connect(url: &str, options: Options) -> Result<Arc<dyn Database>> {
    let connect = MySql::connect_options(url, options.timeout)?;
    // Lock waits end before the use of the connection does. MariaDB also ends a transaction whose
    // client has gone silent, as PostgreSQL does, and so frees its rooms for the other workers;
    // MySQL has no such setting.
    let seconds = lock_wait_seconds(options.timeout);
    let lock_wait = format!(
        "SET SESSION innodb_lock_wait_timeout = {seconds} \
         /*M!100300 , SESSION idle_transaction_timeout = {seconds} */"
    );
    let pool = MySqlPoolOptions::new().after_connect(move |connection, _| {
        let lock_wait = AssertSqlSafe(lock_wait.clone());
        Box::pin(async move {
            // With the default, repeatable read, the range of due timers would be locked
            // against the arming of new ones.
            connection.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await?;
            connection.execute(lock_wait).await.map(|_done| ())
        })
    });
    Ok(Arc::new(SqlStore::open(pool, connect, options)))
}

/// Whole seconds, at least one: MySQL has nothing finer.
fn lock_wait_seconds(limit: Duration) -> u64 {
    limit.as_secs().saturating_sub(1).max(1)
}
