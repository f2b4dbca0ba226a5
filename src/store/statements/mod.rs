//! The text of every statement, for all three databases.
//!
//! The comment of a statement lists its values → its columns. Rules for the texts: times cross as
//! integers, Unix seconds or milliseconds, so that no time zone and no text format of a driver gets
//! in; the column's own type is the database's. Each value is bound once, in the order in which it
//! stands in the text, because MySQL's placeholders have no numbers. A set of rows is bound as one
//! JSON array, which all three can read as a table. Results are whole numbers and texts, and are
//! read by the names of their columns.
//!
//! PostgreSQL compares a set of ids as an array, `= ANY (ARRAY(…))`, and with nothing beside it:
//! after a burst the planner's statistics are those of a nearly empty table, and it would choose a
//! nested loop for a join, or the index of the pending events, each of which takes a second per
//! batch.
//!
//! MySQL's texts keep to the syntax that MariaDB has too. `FROM_UNIXTIME` ends in 2038 on MariaDB,
//! so times are counted from 1970 with `INTERVAL`. MySQL refuses to lock a JSON table, so the table
//! whose rows are locked is named where it is joined to one (`/*!80000 OF room */`), which MariaDB
//! does not know. Updates of many rows join the JSON table,
//! because MariaDB does not optimise `IN (SELECT …)` in an update. `STRAIGHT_JOIN` keeps the small
//! side first.
//!
//! SQLite's times are texts, `YYYY-MM-DD HH:MM:SS` in UTC, as its own functions write them: they
//! sort by time, and a person can write them. Objects of an array come from `jsonb_each`, because the
//! text that `json_each` makes of each would be parsed again for each of its fields.

/// One statement, as each database writes it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Statement {
    pub(super) postgres: &'static str,
    pub(super) mysql: &'static str,
    pub(super) sqlite: &'static str,
}

/// Declares statements, and the list of them. A statement is either `portable` or has one text per
/// database.
macro_rules! statements {
    ($(
        $(#[$doc:meta])*
        $name:ident: $($database:ident $text:expr),+;
    )*) => {
        $(
            $(#[$doc])*
            pub(crate) const $name: super::Statement = statement!($($database $text),+);
        )*

        pub(super) const ALL: &[super::Statement] = &[$($name),*];
    };
}

macro_rules! statement {
    (portable $text:expr) => {
        statement!(postgres $text, mysql $text, sqlite $text)
    };
    (postgres $postgres:expr, mysql $mysql:expr, sqlite $sqlite:expr) => {
        super::Statement {
            postgres: $postgres,
            mysql: {
                const NUMBERED: &str = $mysql;
                const MARKED: [u8; NUMBERED.len()] = super::with_question_marks(NUMBERED);
                super::text(&MARKED)
            },
            sqlite: $sqlite,
        }
    };
}

/// The rooms that can have a lobby, as in
/// [`Room::can_have_lobby`](crate::domain::Room::can_have_lobby).
macro_rules! can_have_lobby {
    () => {
        "type IN (2, 3) AND object_type IN \
         ('', 'room', 'emails', 'event', 'extended_conversation', 'instant_meeting')"
    };
}

/// The rooms whose timer can fire: the condition of the index of timers, which has no other rows.
/// MySQL has no such index; there it is a generated column.
macro_rules! has_timer {
    (mysql) => {
        "lobby_due_at IS NOT NULL"
    };
    ($other:ident) => {
        concat!("lobby_timer IS NOT NULL AND lobby_state = 1 AND ", can_have_lobby!())
    };
}

/// The number of events in rows of the outbox.
macro_rules! sum_of_events {
    (postgres) => {
        "coalesce(sum(events), 0)::bigint"
    };
    (mysql) => {
        "CAST(coalesce(sum(events), 0) AS SIGNED)"
    };
    (sqlite) => {
        "coalesce(sum(events), 0)"
    };
}

pub(super) mod admin;
pub(super) mod attendees;
pub(super) mod bans;
pub(super) mod inbox;
pub(super) mod lobby_changes;
pub(super) mod messages;
pub(super) mod operations;
pub(super) mod outbox;
pub(super) mod rooms;
pub(super) mod signaling;
pub(super) mod talk;
pub(super) mod users;

pub(super) fn all() -> impl Iterator<Item = Statement> {
    [
        admin::ALL,
        attendees::ALL,
        bans::ALL,
        inbox::ALL,
        lobby_changes::ALL,
        messages::ALL,
        operations::ALL,
        outbox::ALL,
        rooms::ALL,
        signaling::ALL,
        talk::ALL,
        users::ALL,
    ]
    .into_iter()
    .flatten()
    .copied()
}

/// Makes `?` of `$1`, as MySQL needs it, and checks that the numbers are in order. The text gets
/// shorter, so it ends in spaces.
const fn with_question_marks<const LENGTH: usize>(numbered: &str) -> [u8; LENGTH] {
    let mut marked = [b' '; LENGTH];
    let (mut input, mut output) = (numbered.as_bytes(), marked.as_mut_slice());
    let mut placeholders = 0;
    while let Some((byte, mut after)) = input.split_first()
        && let Some((place, further)) = output.split_first_mut()
    {
        *place = *byte;
        if let (b'$', [b'0'..=b'9', ..]) = (*byte, after) {
            *place = b'?';
            placeholders += 1;
            let mut number = 0;
            while let Some((digit @ b'0'..=b'9', rest)) = after.split_first() {
                number = number * 10 + (*digit - b'0');
                after = rest;
            }
            assert!(number == placeholders, "placeholders stand in the order of their numbers");
        }
        (input, output) = (after, further);
    }
    marked
}

const fn text(utf8: &[u8]) -> &str {
    match str::from_utf8(utf8) {
        Ok(text) => text,
        Err(_) => panic!("only placeholders of the text were replaced"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::OBJECT_TYPES_WITH_LOBBY;

    #[test]
    fn every_dialect_has_the_same_number_of_placeholders() {
        for Statement { postgres, mysql, sqlite } in all() {
            let number = postgres.matches('$').count();
            assert_eq!(mysql.matches('?').count(), number, "{mysql}");
            assert_eq!(sqlite.matches('$').count(), number, "{sqlite}");
        }
    }

    #[test]
    fn placeholders_become_question_marks() {
        const SQL: &str = "SELECT a WHERE b = $1 AND c IN ($2, 3) AND d = '$[*]'";
        let marked: [u8; SQL.len()] = with_question_marks(SQL);
        assert_eq!(text(&marked), "SELECT a WHERE b = ? AND c IN (?, 3) AND d = '$[*]'  ");
        let many = messages::INSERT.mysql;
        assert_eq!(many.matches('?').count(), 13, "{many}");
        assert!(!many.contains('$'), "{many}");
    }

    #[test]
    #[should_panic(expected = "in the order of their numbers")]
    fn placeholders_out_of_order_are_refused() {
        let _: [u8; 16] = with_question_marks("SET a = $2, $1  ");
    }

    #[test]
    fn the_statements_know_the_same_rooms_as_the_rule() {
        let listed: Vec<String> =
            OBJECT_TYPES_WITH_LOBBY.iter().map(|name| format!("'{name}'")).collect();
        let list = format!("object_type IN ({})", listed.join(", "));
        assert!(can_have_lobby!().ends_with(&list), "expected {list}");
    }

    #[test]
    fn the_index_of_timers_has_the_rooms_of_the_statements() {
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let has_timer = has_timer!(postgres);
        for index in [
            include_str!("../../../migrations/postgres/0001_rooms.sql"),
            include_str!("../../../migrations/sqlite/0001_rooms.sql"),
            include_str!("../../../deploy/sql/postgres/conversations-view.sql"),
        ] {
            assert!(words(index).contains(&format!("WHERE {has_timer};")), "{index}");
        }
        let closed = has_timer.strip_prefix("lobby_timer IS NOT NULL AND ").unwrap();
        for column in [
            include_str!("../../../migrations/mysql/0001_rooms.sql"),
            include_str!("../../../deploy/sql/mariadb/conversations-view.sql"),
        ] {
            let case = format!("CASE WHEN {closed} THEN lobby_timer END");
            assert!(words(column).contains(&case), "{column}");
        }
    }
}
