//! A log of all changes of rooms, written by a trigger in the transaction of the change, with the
//! database's time.
//!
//! A second trigger refuses changes of the rooms in a table, as a site's own constraint would.

use std::collections::BTreeMap;

use crate::{
    check::history::{Change, Row},
    support::database::{Database, Kind},
};

/// Rows that are read at once.
const PAGE: usize = 20_000;

const POSTGRES: &[&str] = &[
    "CREATE TABLE soak_log (
         seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, op TEXT, at BIGINT, token TEXT,
         state0 BIGINT, timer0 BIGINT, version0 BIGINT,
         state1 BIGINT, timer1 BIGINT, version1 BIGINT, reached BIGINT)",
    "CREATE FUNCTION soak_log() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
         INSERT INTO soak_log (op, at, token, state0, timer0, version0, state1, timer1, version1, reached)
         VALUES (nullif(current_setting('soak.op', true), ''),
                 floor(extract(epoch FROM clock_timestamp()) * 1000), OLD.token,
                 OLD.lobby_state, extract(epoch FROM OLD.lobby_timer), OLD.lobby_version,
                 NEW.lobby_state, extract(epoch FROM NEW.lobby_timer), NEW.lobby_version,
                 extract(epoch FROM NEW.lobby_timer_reached));
         RETURN NULL; END $$",
    "CREATE TRIGGER soak_log AFTER UPDATE ON lobbyd_rooms FOR EACH ROW
     WHEN (OLD.lobby_version <> NEW.lobby_version OR OLD.lobby_state <> NEW.lobby_state
           OR OLD.lobby_timer IS DISTINCT FROM NEW.lobby_timer)
     EXECUTE FUNCTION soak_log()",
    "CREATE TABLE soak_refused (token VARCHAR(32) PRIMARY KEY, everything INTEGER NOT NULL)",
    "CREATE FUNCTION soak_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
         IF EXISTS (SELECT 1 FROM soak_refused WHERE token = OLD.token
                    AND (everything = 1 OR NEW.lobby_state < OLD.lobby_state)) THEN
             RAISE EXCEPTION 'conversation is archived';
         END IF;
         RETURN NEW; END $$",
    "CREATE TRIGGER soak_refuse BEFORE UPDATE ON lobbyd_rooms FOR EACH ROW
     EXECUTE FUNCTION soak_refuse()",
];

const MARIADB: &[&str] = &[
    "CREATE TABLE soak_log (
         seq BIGINT AUTO_INCREMENT PRIMARY KEY, op VARCHAR(32), at BIGINT, token VARCHAR(32),
         state0 BIGINT, timer0 BIGINT, version0 BIGINT,
         state1 BIGINT, timer1 BIGINT, version1 BIGINT, reached BIGINT)
     DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    "CREATE TRIGGER soak_log AFTER UPDATE ON lobbyd_rooms FOR EACH ROW
     IF OLD.lobby_version <> NEW.lobby_version OR OLD.lobby_state <> NEW.lobby_state
        OR NOT (OLD.lobby_timer <=> NEW.lobby_timer) THEN
         INSERT INTO soak_log (op, at, token, state0, timer0, version0, state1, timer1, version1, reached)
         VALUES (@soak_op, floor(UNIX_TIMESTAMP(SYSDATE(3)) * 1000), OLD.token,
                 OLD.lobby_state, TIMESTAMPDIFF(SECOND, '1970-01-01', OLD.lobby_timer), OLD.lobby_version,
                 NEW.lobby_state, TIMESTAMPDIFF(SECOND, '1970-01-01', NEW.lobby_timer), NEW.lobby_version,
                 TIMESTAMPDIFF(SECOND, '1970-01-01', NEW.lobby_timer_reached));
     END IF",
    "CREATE TABLE soak_refused (token VARCHAR(32) PRIMARY KEY, everything INTEGER NOT NULL)
     DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    "CREATE TRIGGER soak_refuse BEFORE UPDATE ON lobbyd_rooms FOR EACH ROW
     IF EXISTS (SELECT 1 FROM soak_refused WHERE token = OLD.token
                AND (everything = 1 OR NEW.lobby_state < OLD.lobby_state)) THEN
         SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'conversation is archived';
     END IF",
];

/// Installs the triggers. From now on every change is logged.
pub async fn install(database: &Database) {
    let statements = match database.kind {
        Kind::MariaDb => MARIADB,
        Kind::Postgres | Kind::Sqlite => POSTGRES,
    };
    for statement in statements {
        database.execute(statement).await;
    }
}

/// A statement with which the clients change rooms; the log names the setting.
pub fn marked(kind: Kind, op: usize, statement: &str) -> String {
    match kind {
        Kind::MariaDb => format!("SET @soak_op = '{op}'; {statement}; SET @soak_op = NULL"),
        // A text of several statements is one transaction.
        Kind::Postgres | Kind::Sqlite => {
            format!("SELECT set_config('soak.op', '{op}', true); {statement}")
        }
    }
}

/// The changes, in their order.
pub async fn read(database: &Database) -> Vec<Change> {
    let mut changes = Vec::new();
    loop {
        let columns =
            "seq, op, at, token, state0, timer0, version0, state1, timer1, version1, reached";
        let columns: Vec<String> = columns
            .split(", ")
            .map(|column| format!("coalesce({}, '')", text(database.kind, column)))
            .collect();
        let last = changes.last().map_or(0, |(seq, _change)| *seq);
        let page = database
            .texts(&format!(
                "SELECT concat_ws('|', {}) FROM soak_log WHERE seq > {last} ORDER BY seq LIMIT {PAGE}",
                columns.join(", ")
            ))
            .await;
        let is_last = page.len() < PAGE;
        changes.extend(page.iter().map(|line| parse(line)));
        if is_last {
            return changes.into_iter().map(|(_seq, change)| change).collect();
        }
    }
}

fn text(kind: Kind, column: &str) -> String {
    match kind {
        Kind::MariaDb => format!("CAST({column} AS CHAR)"),
        Kind::Postgres | Kind::Sqlite => format!("{column}::text"),
    }
}

fn parse(line: &str) -> (i64, Change) {
    let fields: Vec<&str> = line.split('|').collect();
    let number = |index: usize| fields[index].parse::<i64>().ok();
    let row = |first: usize| Row {
        state: number(first).unwrap(),
        timer: number(first + 1),
        version: number(first + 2).unwrap(),
    };
    let change = Change {
        op: fields[1].parse().ok(),
        at: number(2).unwrap(),
        token: fields[3].to_owned(),
        before: row(4),
        after: row(7),
        reached: number(10),
    };
    (number(0).unwrap(), change)
}

/// Selects the rooms whose timer is over, except those that the database refuses to open.
pub fn overdue(kind: Kind) -> String {
    let now = match kind {
        Kind::MariaDb => "UTC_TIMESTAMP()",
        Kind::Postgres | Kind::Sqlite => "clock_timestamp()",
    };
    let timer = text(kind, timer(kind));
    format!(
        "SELECT concat_ws('|', token, {timer}) FROM lobbyd_rooms
         WHERE lobby_state = 1 AND lobby_timer <= {now}
               AND token NOT IN (SELECT token FROM soak_refused)"
    )
}

/// The timer of a room in Unix seconds.
fn timer(kind: Kind) -> &'static str {
    match kind {
        Kind::MariaDb => "TIMESTAMPDIFF(SECOND, '1970-01-01', lobby_timer)",
        Kind::Postgres | Kind::Sqlite => "extract(epoch FROM lobby_timer)::bigint",
    }
}

/// The rooms as they are now.
pub async fn rooms(database: &Database) -> BTreeMap<String, Row> {
    let columns = ["token", "lobby_state", timer(database.kind), "lobby_version"]
        .map(|column| format!("coalesce({}, '')", text(database.kind, column)));
    let lines = database
        .texts(&format!("SELECT concat_ws('|', {}) FROM lobbyd_rooms", columns.join(", ")))
        .await;
    let row = |line: String| {
        let fields: Vec<&str> = line.split('|').collect();
        let number = |index: usize| fields[index].parse().ok();
        let row = Row { state: number(1).unwrap(), timer: number(2), version: number(3).unwrap() };
        (fields[0].to_owned(), row)
    };
    lines.into_iter().map(row).collect()
}
