//! The migrations: they create the same tables on each database.

use std::{collections::BTreeSet, fs, path::Path};

use lobbyd::store::StoreError;

use crate::support::{
    cluster::TestCluster,
    daemon::{Daemon, run, settings, text},
    database::{Database, Kind},
    server::{BROKER, start_mariadb_with},
};

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
        let database = Database::as_owner(kind).await;
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

/// It may take minutes on large tables.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_of_tables_that_exist_is_named() {
    let database = Database::create(Kind::Sqlite).await;
    drop(database.store().await);
    for table in ["updates", "changes", "servers"] {
        database.execute(&format!("DROP TABLE lobbyd_signaling_{table}")).await;
    }
    database.execute("DELETE FROM lobbyd_migrations WHERE description = 'signaling'").await;
    let settings = settings(&[("LOBBYD__DATABASE__URL", &database.url)]);
    for (part, is_named) in [("applying migration 1 of 1: signaling", true), ("applying", false)] {
        let output = run(&settings, &["migrate"]);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(text(&output.stderr).contains(part), is_named, "{output:?}");
    }
}

/// The table may be a view of the site, made for an older version.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_is_missing_is_named_at_the_start() {
    let database = Database::as_owner(Kind::MariaDb).await;
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
    let database = Database::as_owner(Kind::MariaDb).await;
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
async fn migrations_that_were_interrupted_after_any_statement_are_completed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/mysql");
    let mut files: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let text: String = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let statements: Vec<&str> =
        text.split_inclusive(";\n").filter(|part| part.trim_end().ends_with(';')).collect();
    assert!(statements.len() > files.len());
    let mut described = BTreeSet::new();
    for done in 0..=statements.len() {
        let database = Database::as_owner(Kind::MariaDb).await;
        for statement in &statements[..done] {
            database.execute(statement).await;
        }
        database.store().await;
        let mut parts = database.texts(columns_of(Kind::MariaDb)).await;
        parts.extend(database.texts(indexes_of(Kind::MariaDb)).await);
        parts.sort();
        described.insert(parts);
        assert_eq!(database.number("SELECT count(*) FROM lobbyd_auth").await, 1);
    }
    assert_eq!(described.len(), 1, "{described:?}");
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
        let database = Database::as_owner(kind).await;
        database.store().await;
        let insert = "INSERT INTO lobbyd_rooms (token, type, name, lobby_timer) VALUES";
        let refused = database.try_execute(&format!("{insert} ('a', 3, '', {bad})")).await;
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("lobbyd_rooms_lobby_timer_check"), "{kind:?} {bad}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_refuses_a_timer_in_a_format_that_does_not_sort() {
    let database = Database::as_owner(Kind::Sqlite).await;
    database.store().await;
    let insert = "INSERT INTO lobbyd_rooms (token, type, name, lobby_timer) VALUES";
    for bad in ["'2026-01-01T00:00:00Z'", "'2026-01-01 00:00:00+00:00'", "1767225600", "'soon'"] {
        let refused = database.try_execute(&format!("{insert} ('a', 3, '', {bad})")).await;
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("lobbyd_rooms_lobby_timer_check"), "{bad}: {error}");
    }
    database.execute(&format!("{insert} ('a', 3, '', datetime('now', '+3 seconds'))")).await;
}

/// A process that is started again and again would not help.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_not_set_up_for_lobbyd_is_refused_at_the_start() {
    let postgres = Database::as_owner(Kind::Postgres).await;
    let latin = format!("{}_latin", postgres.url.rsplit('/').next().unwrap());
    postgres
        .execute(&format!(
            "CREATE DATABASE {latin} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'
             TEMPLATE template0"
        ))
        .await;
    let (server, _name) = postgres.url.rsplit_once('/').unwrap();
    let statements = ["log-bin=binlog", "binlog-format=STATEMENT"].map(str::to_owned);
    let mariadb = start_mariadb_with(&statements);
    let statement = Database::as_owner_on(Kind::MariaDb, mariadb.port).await;
    for (url, problem) in
        [(format!("{server}/{latin}"), "UTF8"), (statement.url.clone(), "binlog_format=STATEMENT")]
    {
        for migrate in ["true", "false"] {
            let settings = settings(&[
                ("LOBBYD__DATABASE__URL", &url),
                ("LOBBYD__DATABASE__MIGRATE", migrate),
            ]);
            let output = run(&settings, &["run"]);
            let error = text(&output.stderr);
            assert_eq!(output.status.code(), Some(78), "{error}");
            assert!(error.contains("database.url: ") && error.contains(problem), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dialect_and_character_set_of_a_mariadb_server_do_not_matter() {
    let modes =
        ["sql-mode=ORACLE", "character-set-server=latin1", "log-bin=binlog", "binlog-format=MIXED"];
    let mariadb = start_mariadb_with(&modes.map(str::to_owned));
    let cluster =
        TestCluster::on(Database::create_on(Kind::MariaDb, mariadb.port).await, &BROKER.url());
    let client = cluster.client().await;
    let run = Daemon::start_as("run", &cluster.settings);
    run.ready().await;
    let timer = cluster.database.timestamp_sql(cluster.database.now().await);
    let insert = "INSERT INTO lobbyd_rooms (token, type, name, lobby_state, lobby_timer) VALUES";
    cluster
        .database
        .execute(&format!("{insert} ('room1', 3, 'Caf\u{e9} \u{1f389}', 1, {timer})"))
        .await;
    cluster.all_done(&client, 1).await;
}
