//! The migrations: they create the same tables on each database.

use std::{collections::BTreeSet, fs, path::Path};

use lobbyd::store::StoreError;

use crate::support::database::{Database, Kind};

const KINDS: [Kind; 3] = [Kind::Sqlite, Kind::Postgres, Kind::MariaDb];

#[test]
fn each_database_has_the_same_files() {
    let files = |folder: &str| -> BTreeSet<String> {
        fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    assert!(!files("postgres").is_empty());
    assert_eq!(files("postgres"), files("mysql"));
    assert_eq!(files("postgres"), files("sqlite"));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_database_has_the_same_tables_columns_and_indexes() {
    let mut described = Vec::new();
    for kind in KINDS {
        let database = Database::create(kind).await;
        database.store().await;
        let columns: BTreeSet<String> =
            database.texts(columns_of(kind)).await.into_iter().collect();
        let indexes: BTreeSet<String> =
            database.texts(indexes_of(kind)).await.into_iter().collect();
        assert!(columns.contains("lobbyd_rooms.lobby_timer"), "{columns:?}");
        assert!(indexes.contains("lobbyd_rooms_due_idx"), "{indexes:?}");
        described.push((columns, indexes));
    }
    assert_eq!(described[0], described[1]);
    assert_eq!(described[1], described[2]);
}

/// The table may be a view of the site, made for an older version.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_is_missing_is_named_at_the_start() {
    let database = Database::create(Kind::MariaDb).await;
    let store = database.store().await;
    let drop = "ALTER TABLE lobbyd_rooms DROP INDEX lobbyd_rooms_due_idx, DROP COLUMN lobby_due_at";
    database.execute(drop).await;
    let error = store.prepare_all().await.unwrap_err();
    assert!(error.to_string().contains("deploy/sql"), "{error}");
    let StoreError::Unprepared(cause) = error else { panic!("{error}") };
    assert!(cause.to_string().contains("lobby_due_at"), "{cause}");
}

/// "table.column" of each table of lobbyd. (sqlx defines the table of migrations.)
fn columns_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Sqlite => {
            "SELECT t.name || '.' || c.name FROM sqlite_schema t, pragma_table_info(t.name) c
             WHERE t.type = 'table' AND t.name LIKE 'lobbyd_%'
             AND t.name <> 'lobbyd_migrations'"
        }
        Kind::Postgres => {
            "SELECT table_name || '.' || column_name FROM information_schema.columns
             WHERE table_name LIKE 'lobbyd_%' AND table_name <> 'lobbyd_migrations'"
        }
        Kind::MariaDb => {
            "SELECT CONCAT(table_name, '.', column_name) FROM information_schema.columns
             WHERE table_schema = DATABASE() AND table_name LIKE 'lobbyd_%'
             AND table_name <> 'lobbyd_migrations' AND is_generated = 'NEVER'"
        }
    }
}

/// The names of the indexes that lobbyd has named.
fn indexes_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Sqlite => "SELECT name FROM sqlite_schema WHERE type = 'index' AND name LIKE '%_idx'",
        Kind::Postgres => "SELECT indexname::text FROM pg_indexes WHERE indexname LIKE '%_idx'",
        Kind::MariaDb => {
            "SELECT DISTINCT index_name FROM information_schema.statistics
             WHERE table_schema = DATABASE() AND index_name LIKE '%_idx'"
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_migration_is_completed() {
    // Only MariaDB can leave a migration incomplete: it commits each change of a table at once.
    let database = Database::create(Kind::MariaDb).await;
    database.store().await;
    let done = "SELECT version FROM lobbyd_migrations WHERE success = TRUE ORDER BY version";
    let all = database.numbers(done).await;
    for version in &all {
        let interrupt = "UPDATE lobbyd_migrations SET success = FALSE WHERE version =";
        database.execute(&format!("{interrupt} {version}")).await;
        assert_eq!(database.numbers(done).await.len(), all.len() - 1);
        database.store().await;
        assert_eq!(database.numbers(done).await, all);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_row_can_have_a_timer_that_blocks_all_others() {
    for (kind, bad) in [
        (Kind::Postgres, "'infinity'"),
        (Kind::Postgres, "'-infinity'"),
        (Kind::Postgres, "'10000-01-01 00:00:00+00'"),
        (Kind::MariaDb, "0"),
        (Kind::MariaDb, "'1969-12-31 23:59:59'"),
        (Kind::Sqlite, "'1969-12-31 23:59:59'"),
    ] {
        let database = Database::create(kind).await;
        database.store().await;
        let insert = "INSERT INTO lobbyd_rooms (token, type, name, lobby_timer) VALUES";
        let refused = database.try_execute(&format!("{insert} ('a', 3, '', {bad})")).await;
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("lobbyd_rooms_lobby_timer_check"), "{kind:?} {bad}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_refuses_a_timer_in_a_format_that_does_not_sort() {
    let database = Database::create(Kind::Sqlite).await;
    database.store().await;
    let insert = "INSERT INTO lobbyd_rooms (token, type, name, lobby_timer) VALUES";
    for bad in ["'2026-01-01T00:00:00Z'", "'2026-01-01 00:00:00+00:00'", "1767225600", "'soon'"] {
        let refused = database.try_execute(&format!("{insert} ('a', 3, '', {bad})")).await;
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("lobbyd_rooms_lobby_timer_check"), "{bad}: {error}");
    }
    database.execute(&format!("{insert} ('a', 3, '', datetime('now', '+3 seconds'))")).await;
}
