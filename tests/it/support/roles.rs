//! The roles of `deploy/sql`, with which programs use PostgreSQL and MariaDB: `lobbyd` runs workers and
//! APIs, and `lobbyd_owner` owns the tables.
//!
//! The files there are run as they are. What a test creates beside lobbyd's tables, as another
//! program would, it creates as `admin`, who may do everything.

use std::{collections::BTreeSet, fs, path::PathBuf, process::Command, sync::LazyLock};

use tokio::sync::Mutex;

use super::{
    daemon::run,
    database::{Database, Kind},
    eventually,
    tools::{debian, file, printed},
};

pub const ADMIN: &str = "admin";
pub const OWNER: &str = "lobbyd_owner";
pub const RUNTIME: &str = "lobbyd";

/// Databases of each PostgreSQL that are copied for a test: with the roles, and with the tables, too.
const UNMIGRATED: &str = "template_unmigrated";
const MIGRATED: &str = "template_migrated";

/// Triggers of a site run with the rights of the program that changes the row, so the site permits it
/// to use what they need. That widens no right on lobbyd's own tables, which another role owns.
const PERMIT_LATER_OBJECTS: &str =
    "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO lobbyd;
     ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON SEQUENCES TO lobbyd";

/// The URL of a database. On MariaDB the password of each user is the name.
pub fn url(kind: Kind, user: &str, port: u16, name: &str) -> String {
    match kind {
        Kind::Postgres => format!("postgres://{user}@127.0.0.1:{port}/{name}"),
        Kind::MariaDb => format!("mysql://{user}:{user}@127.0.0.1:{port}/{name}"),
        Kind::Sqlite => unreachable!("SQLite has no server"),
    }
}

/// The same database as the owner of the tables uses it.
pub fn as_owner(url: &str) -> String {
    url.replace("//lobbyd@", "//lobbyd_owner@")
        .replace("//lobbyd:lobbyd@", "//lobbyd_owner:lobbyd_owner@")
}

pub fn script(kind: Kind, name: &str) -> PathBuf {
    let folder = if kind == Kind::Postgres { "postgres" } else { "mariadb" };
    file("deploy/sql").join(folder).join(name)
}

/// The client of PostgreSQL, as `admin`.
pub fn psql(port: u16, database: &str) -> Command {
    let mut psql = debian("/usr/bin/psql");
    psql.args(["--no-psqlrc", "--quiet", "--host=127.0.0.1", "--username=admin"]);
    psql.arg(format!("--port={port}")).arg(format!("--dbname={database}"));
    psql
}

/// Creates a database in which lobbyd has its roles, and its tables or none.
pub async fn create(kind: Kind, port: u16, name: &str, is_migrated: bool) {
    prepare(kind, port).await;
    match kind {
        Kind::Postgres => {
            let template = if is_migrated { MIGRATED } else { UNMIGRATED };
            copy(&server(kind, port), template, name).await;
        }
        Kind::MariaDb => create_on_mariadb(port, name, is_migrated).await,
        Kind::Sqlite => unreachable!("SQLite has no roles"),
    }
}

fn server(kind: Kind, port: u16) -> Database {
    let database = if kind == Kind::Postgres { "postgres" } else { "mysql" };
    Database::open(kind, url(kind, ADMIN, port, database))
}

/// Waits until the server accepts connections. Creates the roles on the first call for it.
async fn prepare(kind: Kind, port: u16) {
    static READY: LazyLock<Mutex<BTreeSet<u16>>> = LazyLock::new(Mutex::default);
    let mut ready = READY.lock().await;
    let server = server(kind, port);
    eventually("the database server to accept connections", || async {
        server.try_execute("SELECT 1").await.ok()
    })
    .await;
    if ready.contains(&port) {
        return;
    }
    if kind == Kind::Postgres {
        server.execute(&format!("CREATE DATABASE {UNMIGRATED}")).await;
        printed(psql(port, UNMIGRATED).arg("--file").arg(script(kind, "roles.sql")));
        copy(&server, UNMIGRATED, MIGRATED).await;
        let owner = url(kind, OWNER, port, MIGRATED);
        let migrated = run(&vec![("LOBBYD__DATABASE__URL".to_owned(), owner)], &["migrate"]);
        assert!(migrated.status.success(), "{migrated:?}");
        printed(psql(port, MIGRATED).arg("--file").arg(script(kind, "grants.sql")));
        printed(psql(port, MIGRATED).arg("--command").arg(PERMIT_LATER_OBJECTS));
    } else {
        let roles = fs::read_to_string(script(kind, "roles.sql")).unwrap();
        server.execute(&roles).await;
        for user in [OWNER, RUNTIME] {
            let unlock = format!("ALTER USER {user} IDENTIFIED BY '{user}' ACCOUNT UNLOCK");
            server.execute(&unlock).await;
        }
    }
    ready.insert(port);
}

/// A copy has all rights of the original except those on the database itself.
async fn copy(server: &Database, template: &str, name: &str) {
    server.execute(&format!("CREATE DATABASE {name} TEMPLATE {template}")).await;
    server.execute(&format!("REVOKE ALL ON DATABASE {name} FROM PUBLIC")).await;
    server.execute(&format!("GRANT CONNECT ON DATABASE {name} TO {OWNER}, {RUNTIME}")).await;
}

/// MariaDB has no templates, and its rights name the database.
async fn create_on_mariadb(port: u16, name: &str, is_migrated: bool) {
    let kind = Kind::MariaDb;
    let read = |name| fs::read_to_string(script(kind, name)).unwrap();
    for statement in read("roles.sql").split(';') {
        let statement = statement.trim();
        if let Some(begin) = statement.find("CREATE DATABASE").or(statement.find("GRANT")) {
            let statement =
                statement[begin..].replace("EXISTS lobbyd ", &format!("EXISTS {name} "));
            server(kind, port).execute(&statement.replace("lobbyd.*", &format!("{name}.*"))).await;
        }
    }
    if is_migrated {
        let owner = Database::open(kind, url(kind, OWNER, port, name));
        owner.store().await.close().await;
        Database::open(kind, url(kind, ADMIN, port, name)).execute(&read("grants.sql")).await;
    }
}
