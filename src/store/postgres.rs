//! The statements for PostgreSQL.
//!
//! A set of ids is compared as an array, `= ANY (ARRAY(…))`, and with nothing beside it: after a
//! burst the planner's statistics are those of a nearly empty table, and it would choose a nested
//! loop for a join, or the index of the pending events, each of which takes a second per batch.

use std::{sync::Arc, time::Duration};

use sqlx::{
    Error, Executor, PgConnection, Postgres,
    migrate::{MigrateError, Migrator},
    postgres::{PgConnectOptions, PgPoolOptions, PgQueryResult},
};

use super::{
    Database, Options, Result, StoreError,
    dialect::{Dialect, Statements, sqlstate_refuses_values, usable},
    engine::SqlStore,
    shared::{self, Shared},
};

/// Locks what is due.
macro_rules! due {
    () => {
        concat!(
        "\
        SELECT id, token, type::bigint, lobby_state::bigint,
               floor(extract(epoch FROM lobby_timer))::bigint, lobby_version, sip_enabled::bigint
        FROM lobbyd_rooms
        WHERE lobby_timer <= to_timestamp($1) AND ",
        usable!(),
        "
        ORDER BY lobby_timer, id LIMIT $2
        FOR UPDATE"
        )
    };
}

const STATEMENTS: Statements = Statements {
    begin: "BEGIN",
    now: "SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint",
    room: "\
        SELECT room.id, room.token, room.type::bigint AS room_type, room.name, room.description,
               room.object_type, room.object_id, room.lobby_state::bigint AS lobby_state,
               floor(extract(epoch FROM room.lobby_timer))::bigint AS lobby_timer,
               room.lobby_version,
               floor(extract(epoch FROM room.lobby_timer_reached))::bigint AS timer_reached,
               room.sip_enabled::bigint AS sip_enabled,
               coalesce(state.password_hash, '') AS password_hash,
               coalesce(state.call_started_at, 0) AS call_started_at,
               coalesce(state.call_flags, 0) AS call_flags,
               coalesce(state.comments, 0) AS comments,
               coalesce(state.changed_at, 0) AS changed_at
        FROM lobbyd_rooms AS room LEFT JOIN lobbyd_room_states AS state ON state.room_id = room.id
        WHERE room.token = $1",
    lock_room: "SELECT id FROM lobbyd_rooms WHERE token = $1 FOR UPDATE",
    set_lobby: "\
        UPDATE lobbyd_rooms
        SET lobby_state = $1, lobby_timer = to_timestamp($2), lobby_version = $3
        WHERE id = $4 AND lobby_version = $5",
    due: concat!(due!(), " SKIP LOCKED"),
    due_held: due!(),
    reset: "\
        UPDATE lobbyd_rooms AS room
        SET lobby_state = 0, lobby_timer = NULL, lobby_version = due.version,
            lobby_timer_reached = room.lobby_timer
        FROM json_to_recordset(CAST($1 AS json)) AS due(id bigint, timer bigint, version bigint)
        WHERE room.id = due.id AND floor(extract(epoch FROM room.lobby_timer)) = due.timer",
    insert_reset_messages: "\
        INSERT INTO lobbyd_messages (room_id, created_at, actor_type, actor_id, kind)
        SELECT room_id, created_at, 'guests', 'system', 'lobby_timer_reached'
        FROM json_to_recordset(CAST($1 AS json)) AS new(room_id bigint, created_at bigint)",
    insert_outbox: "\
        INSERT INTO lobbyd_outbox
               (id, type, token, data, created_at, due_at, available_at, attempts)
        SELECT id, type, token, data, to_timestamp(created_at / 1000.0), to_timestamp(due_at),
               to_timestamp(available_at / 1000.0), attempts
        FROM json_to_recordset(CAST($1 AS json))
             AS new(id text, type text, token text, data text, created_at bigint, due_at bigint,
                    available_at bigint, attempts integer)",
    room_versions: "\
        SELECT token, lobby_version, lobby_state::bigint AS lobby_state,
               floor(extract(epoch FROM lobby_timer))::bigint AS lobby_timer,
               type::bigint AS room_type, name, sip_enabled::bigint AS sip_enabled
        FROM lobbyd_rooms
        WHERE token = ANY (ARRAY(SELECT json_array_elements_text(CAST($1 AS json))))",
    touch: "\
        UPDATE lobbyd_attendees SET seen_at = $2
        WHERE id IN (
            SELECT id FROM lobbyd_attendees
            WHERE id = ANY (ARRAY(
                SELECT value::bigint FROM json_array_elements_text(CAST($1 AS json)) AS value
            ))
            ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
        )",
    next_due: concat!(
        "\
        SELECT floor(extract(epoch FROM lobby_timer))::bigint FROM lobbyd_rooms
        WHERE lobby_timer IS NOT NULL AND ",
        usable!(),
        "
        ORDER BY lobby_timer LIMIT 1"
    ),
    available: "\
        SELECT id, type, token, data, floor(extract(epoch FROM created_at) * 1000)::bigint,
               floor(extract(epoch FROM due_at))::bigint, attempts::bigint
        FROM lobbyd_outbox
        WHERE published_at IS NULL AND available_at <= to_timestamp($1 / 1000.0)
        ORDER BY available_at, id LIMIT $2
        FOR UPDATE SKIP LOCKED",
    claim: "\
        UPDATE lobbyd_outbox
        SET available_at = to_timestamp($2 / 1000.0), attempts = attempts + 1
        WHERE id = ANY (ARRAY(SELECT json_array_elements_text(CAST($1 AS json))))",
    release: "\
        UPDATE lobbyd_outbox SET available_at = to_timestamp($2 / 1000.0)
        WHERE id = ANY (ARRAY(SELECT json_array_elements_text(CAST($1 AS json))))",
    mark_published: "\
        UPDATE lobbyd_outbox SET published_at = to_timestamp($2 / 1000.0)
        WHERE id = ANY (ARRAY(SELECT json_array_elements_text(CAST($1 AS json))))",
    prune_published: "\
        DELETE FROM lobbyd_outbox WHERE id IN (
            SELECT id FROM lobbyd_outbox
            WHERE published_at < to_timestamp($1 / 1000.0) LIMIT $2
        )",
    prune_dead: "\
        DELETE FROM lobbyd_outbox WHERE id IN (
            SELECT id FROM lobbyd_outbox
            WHERE published_at IS NULL
              AND created_at < to_timestamp($1 / 1000.0) LIMIT $2
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
               (SELECT floor(extract(epoch FROM min(created_at)) * 1000)::bigint
                FROM lobbyd_outbox WHERE published_at IS NULL)"
    ),
    fired_since: "\
        SELECT count(*) FROM lobbyd_outbox
        WHERE due_at IS NOT NULL AND created_at >= to_timestamp($1 / 1000.0)",
};

impl Dialect for Postgres {
    const STATEMENTS: Statements = STATEMENTS;

    fn shared() -> &'static Shared {
        &shared::NUMBERED
    }

    fn migrator() -> Migrator {
        sqlx::migrate!("migrations/postgres")
    }

    fn connect_options(url: &str, limit: Duration) -> Result<PgConnectOptions> {
        let connect: PgConnectOptions =
            url.parse().map_err(|error| StoreError::unusable_url(&error))?;
        // The server gives up as well, so that a statement whose client is gone holds no lock.
        let limit = limit.as_millis().to_string();
        Ok(connect.application_name("lobbyd").options([
            ("statement_timeout", limit.as_str()),
            ("idle_in_transaction_session_timeout", limit.as_str()),
        ]))
    }

    async fn migrate_alone(
        migrator: &Migrator,
        connection: &mut PgConnection,
    ) -> std::result::Result<(), MigrateError> {
        // A lock of the session. The number is "lobbyd" in ASCII, so that nobody else takes it.
        connection
            .execute("SET statement_timeout = 0; SELECT pg_advisory_lock(x'6c6f62627964'::bigint)")
            .await?;
        migrator.run_direct(None, connection, false).await
    }

    fn rows_affected(done: &PgQueryResult) -> u64 {
        done.rows_affected()
    }

    fn refuses_values(error: &Error) -> bool {
        sqlstate_refuses_values(error)
    }
}

pub(super) fn connect(url: &str, options: Options) -> Result<Arc<dyn Database>> {
    let connect = Postgres::connect_options(url, options.timeout)?;
    Ok(Arc::new(SqlStore::open(PgPoolOptions::new(), connect, options)))
}
