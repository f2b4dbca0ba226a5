//! The statements on Talk's table, whose name is configured, so that they are made at run time.

use std::future::Future;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Error, Executor, MySql, MySqlConnection, PgConnection, Postgres};

use crate::store::dialect::{ConnectOptions, Dialect};
use crate::store::statements::Statement;

/// How the leader's session is kept from outliving its client: the server ends it after so many
/// seconds without a statement.
const MAX_SILENCE: &str = "10";

#[derive(Clone, Copy)]
pub(super) struct TalkStatements {
    /// Whether rooms that are not public count too (0 or 1), limit → id, token, type, timer.
    pub(super) upcoming: Statement,
    /// id → state or null, timer or null, now (milliseconds); one row, also if there is no room.
    pub(super) lobby: Statement,
    /// Whether rooms that are not public count too (0 or 1), token or an empty text, twice → token, type.
    pub(super) sample: Statement,
}

impl TalkStatements {
    pub(super) fn of<D: TalkDialect>(table: &str) -> Self {
        let parts: Vec<String> =
            table.split('.').map(|part| format!("{0}{part}{0}", D::QUOTE)).collect();
        let table = parts.join(".");
        let statement = |template: &str| {
            // It lives as long as the process, as the other statements do.
            let text: &'static str = template.replace("{table}", &table).leak();
            Statement { postgres: text, mysql: text, sqlite: text }
        };
        Self {
            upcoming: statement(D::UPCOMING),
            lobby: statement(D::LOBBY),
            sample: statement(D::SAMPLE),
        }
    }
}

/// What differs between the databases that Talk runs on.
pub(super) trait TalkDialect: Dialect {
    const QUOTE: char;
    const UPCOMING: &'static str;
    const LOBBY: &'static str;
    const SAMPLE: &'static str;

    /// How to connect to the database of Talk, whose table is read from end to end.
    fn of_talk(options: ConnectOptions<Self>) -> ConnectOptions<Self> {
        options
    }

    /// Has the server end this session soon after its client is gone.
    fn limit_silence(
        connection: &mut Self::Connection,
    ) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Takes a lock of the session for this table, unless another session has it.
    fn try_lock(
        connection: &mut Self::Connection,
        table: &str,
    ) -> impl Future<Output = sqlx::Result<bool>> + Send;
}

impl TalkDialect for Postgres {
    const QUOTE: char = '"';

    const UPCOMING: &'static str = "\
        SELECT id::bigint AS id, token::text AS token, type::bigint AS room_type,
               extract(epoch FROM lobby_timer)::bigint AS due_at
        FROM {table}
        WHERE lobby_state = 1 AND coalesce(remote_server, '') = '' AND token IS NOT NULL
          AND lobby_timer > '1970-01-02'
          AND lobby_timer <= (clock_timestamp() AT TIME ZONE 'UTC') + interval '5 seconds'
          AND (type = 3 OR $1 = 1)
        ORDER BY lobby_timer, id LIMIT $2";

    const LOBBY: &'static str = "\
        SELECT lobby_state::bigint AS lobby_state,
               extract(epoch FROM lobby_timer)::bigint AS due_at,
               floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now
        FROM (SELECT 1 AS one) AS one LEFT JOIN {table} ON id = $1";

    const SAMPLE: &'static str = "\
        SELECT token::text AS token, type::bigint AS room_type
        FROM {table}
        WHERE coalesce(remote_server, '') = '' AND (type = 3 OR type = 2 AND $1 = 1)
          AND (token = $2 OR $3 = '' AND token IS NOT NULL AND (lobby_timer IS NULL
                   OR lobby_timer > (now() AT TIME ZONE 'UTC') + interval '1 minute'))
        ORDER BY type, id DESC LIMIT 1";

    fn of_talk(options: PgConnectOptions) -> PgConnectOptions {
        options.options([("enable_seqscan", "on")])
    }

    async fn limit_silence(connection: &mut PgConnection) -> sqlx::Result<()> {
        let keepalives = "SET tcp_keepalives_idle = 3; SET tcp_keepalives_interval = 2; \
                          SET tcp_keepalives_count = 3";
        connection.execute(keepalives).await?;
        // PostgreSQL 14 or newer; before, a client that is frozen keeps the lock.
        let setting = "SELECT set_config(name, $1, false) FROM pg_settings \
                       WHERE name = 'idle_session_timeout'";
        sqlx::query(setting).bind(format!("{MAX_SILENCE}s")).execute(connection).await.map(drop)
    }

    async fn try_lock(connection: &mut PgConnection, table: &str) -> sqlx::Result<bool> {
        let lock = "SELECT pg_try_advisory_lock(\
                        ('x' || left(md5('lobbyd talk ' || $1), 16))::bit(64)::bigint)";
        sqlx::query_scalar(lock).bind(split(table).1).fetch_one(connection).await
    }
}

impl TalkDialect for MySql {
    const QUOTE: char = '`';

    const UPCOMING: &'static str = "\
        SELECT CAST(id AS SIGNED) AS id, CAST(token AS CHAR) AS token,
               CAST(type AS SIGNED) AS room_type,
               TIMESTAMPDIFF(SECOND, '1970-01-01', lobby_timer) AS due_at
        FROM {table}
        WHERE lobby_state = 1 AND coalesce(remote_server, '') = '' AND token IS NOT NULL
          AND lobby_timer > '1970-01-02' AND lobby_timer <= UTC_TIMESTAMP() + INTERVAL 5 SECOND
          AND (type = 3 OR ? = 1)
        ORDER BY lobby_timer, id LIMIT ?";

    const LOBBY: &'static str = "\
        SELECT CAST(lobby_state AS SIGNED) AS lobby_state,
               TIMESTAMPDIFF(SECOND, '1970-01-01', lobby_timer) AS due_at,
               TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(3)) DIV 1000 AS now
        FROM (SELECT 1 AS one) AS one LEFT JOIN {table} ON id = ?";

    const SAMPLE: &'static str = "\
        SELECT CAST(token AS CHAR) AS token, CAST(type AS SIGNED) AS room_type
        FROM {table}
        WHERE coalesce(remote_server, '') = '' AND (type = 3 OR type = 2 AND ? = 1)
          AND (token = ? OR ? = '' AND token IS NOT NULL AND (lobby_timer IS NULL
                   OR lobby_timer > UTC_TIMESTAMP() + INTERVAL 1 MINUTE))
        ORDER BY type, id DESC LIMIT 1";

    async fn limit_silence(connection: &mut MySqlConnection) -> sqlx::Result<()> {
        let setting = sqlx::AssertSqlSafe(format!("SET SESSION wait_timeout = {MAX_SILENCE}"));
        connection.execute(setting).await.map(drop)
    }

    async fn try_lock(connection: &mut MySqlConnection, table: &str) -> sqlx::Result<bool> {
        let (schema, table) = split(table);
        // The locks of MySQL are those of the whole server, and their names are short.
        let lock = "SELECT GET_LOCK(\
                        CONCAT('lobbyd ', SHA1(CONCAT(COALESCE(?, DATABASE()), ' ', ?))), 0)";
        let taking = sqlx::query_scalar(lock).bind(schema).bind(table);
        let taken: Option<i64> = taking.fetch_one(connection).await?;
        let problem = || Error::Protocol("talk.database_url has to name a database".to_owned());
        Ok(taken.ok_or_else(problem)? == 1)
    }
}

/// The schema, if it is named, and the table.
fn split(table: &str) -> (Option<&str>, &str) {
    table.split_once('.').map_or((None, table), |(schema, table)| (Some(schema), table))
}
