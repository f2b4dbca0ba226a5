//! `deploy/sql`: lobbyd runs with the roles, which have no further rights, and on a view on the
//! table of another program.

use std::{fs, process::Command, time::Duration};

use lobbyd::store;
use serde_json::json;

use crate::support::{
    cluster::TestCluster,
    daemon::{Daemon, add_user, run},
    database::{Database, Kind},
    eventually,
    http::Api,
    roles::{self, ADMIN, OWNER, RUNTIME, psql, script},
    server::{BROKER, Server, start_mariadb, start_postgres},
    tools::{debian, printed},
};

/// A private server with both roles and the tables. It is private because roles belong to a whole
/// server.
struct Roles {
    server: Server,
    /// As the superuser.
    admin: Database,
    /// As the role that may change rows.
    cluster: TestCluster,
    owner: Vec<(String, String)>,
}

impl Roles {
    async fn new(kind: Kind) -> Self {
        let (server, admin, owner, runtime) = match kind {
            Kind::Postgres => Self::postgres().await,
            Kind::MariaDb => Self::mariadb().await,
            Kind::Sqlite => unreachable!("SQLite has no roles"),
        };
        let mut cluster = TestCluster::on(Database::open(kind, runtime), &BROKER.url());
        cluster.set("DATABASE__MIGRATE", "false");
        let owner = vec![("LOBBYD__DATABASE__URL".to_owned(), owner)];
        let roles = Self { server, admin, cluster, owner };
        roles.migrate();
        roles.apply("grants.sql");
        roles
    }

    async fn postgres() -> (Server, Database, String, String) {
        let server = start_postgres();
        let url = |user: &str, name: &str| roles::url(Kind::Postgres, user, server.port, name);
        let first = Database::open(Kind::Postgres, url(ADMIN, "postgres"));
        first.execute("CREATE DATABASE lobbyd").await;
        let admin = Database::open(Kind::Postgres, url(ADMIN, "lobbyd"));
        apply(&admin, server.port, "roles.sql");
        let [owner, runtime] = [OWNER, RUNTIME].map(|user| url(user, "lobbyd"));
        (server, admin, owner, runtime)
    }

    async fn mariadb() -> (Server, Database, String, String) {
        let server = start_mariadb();
        let url = |user: &str, name: &str| roles::url(Kind::MariaDb, user, server.port, name);
        let first = Database::open(Kind::MariaDb, url(ADMIN, "mysql"));
        apply(&first, server.port, "roles.sql");
        let locked = Database::open(
            Kind::MariaDb,
            format!("mysql://lobbyd@127.0.0.1:{}/lobbyd", server.port),
        );
        let error = locked.try_execute("SELECT 1").await.unwrap_err().to_string();
        assert!(error.contains("locked"), "{error}");
        for user in [OWNER, RUNTIME] {
            let unlock = format!("ALTER USER {user} IDENTIFIED BY '{user}' ACCOUNT UNLOCK");
            first.execute(&unlock).await;
        }
        let admin = Database::open(Kind::MariaDb, url(ADMIN, "lobbyd"));
        let [owner, runtime] = [OWNER, RUNTIME].map(|user| url(user, "lobbyd"));
        (server, admin, owner, runtime)
    }

    /// Updates the schema, as the owner.
    fn migrate(&self) {
        let migrated = run(&self.owner, &["migrate"]);
        assert!(migrated.status.success(), "{migrated:?}");
    }

    /// Runs a file of deploy/sql, as the superuser.
    fn apply(&self, name: &str) {
        apply(&self.admin, self.server.port, name);
    }
}

/// Runs a file of deploy/sql with the client of that database, as its header describes.
fn apply(admin: &Database, port: u16, name: &str) {
    if admin.kind == Kind::Postgres {
        printed(psql(port, "lobbyd").arg("--file").arg(script(admin.kind, name)));
        return;
    }
    let mut mariadb: Command = debian("/usr/bin/mariadb");
    mariadb.args(["--no-defaults", "--host=127.0.0.1", "--user=admin", "--password=admin"]);
    mariadb.arg(format!("--port={port}"));
    if name != "roles.sql" {
        mariadb.arg("lobbyd");
    }
    printed(mariadb.stdin(fs::File::open(script(admin.kind, name)).unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres_lobbyd_runs_with_the_roles_and_they_have_no_further_rights() {
    let roles = Roles::new(Kind::Postgres).await;
    let owner = Database::open(Kind::Postgres, roles.owner[0].1.clone());
    owner.execute("CREATE TABLE lobbyd_later (id BIGINT)").await;
    // Tables of a later migration can be used before grants.sql is run again.
    roles.cluster.database.execute("INSERT INTO lobbyd_later VALUES (1)").await;
    lobbyd_runs_with_the_roles(&roles).await;
    the_roles_have_no_further_rights(&roles, "INSERT INTO lobbyd_users VALUES ('eve', '', '')")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_mariadb_lobbyd_runs_with_the_roles_and_they_have_no_further_rights() {
    let roles = Roles::new(Kind::MariaDb).await;
    lobbyd_runs_with_the_roles(&roles).await;
    the_roles_have_no_further_rights(&roles, "CREATE DATABASE mine").await;
}

/// Worker, API and housekeeping do their work.
async fn lobbyd_runs_with_the_roles(roles: &Roles) {
    let cluster = &roles.cluster;
    let client = cluster.client().await;
    let mut settings = cluster.settings.clone();
    for key in ["PRUNE", "SUMMARY", "SESSIONS"] {
        settings.push((format!("LOBBYD__HOUSEKEEPING__{key}"), "* * * * * *".to_owned()));
    }
    let worker = Daemon::start_ready(&settings).await;
    cluster.database.insert_room("event").await;
    let timer = cluster.database.now().await + 1;
    client.publish(&json!({"token": "event", "state": 1, "timer": timer})).await;
    cluster.database.insert_rooms("row", 2, timer).await;
    cluster.all_done(&client, 3).await;

    let api = cluster.api().await;
    add_user(&roles.owner, "alice", "correct horse", &["webinars"]);
    let alice = Api::new(api.http_port).user("alice", "correct horse");
    let room = alice.room(3).await;
    alice.join(&room).await;
    alice.post(&format!("/chat/{room}"), json!({"message": "hello"})).await.expect(201);
    alice.system_messages(&room).await;
    alice.delete(&format!("/room/{room}"), json!({})).await.expect(200);
    for (process, log) in [("worker", worker.log()), ("API", api.log())] {
        assert!(!log.contains("denied"), "the {process} lacks a right: {log}");
    }
}

async fn the_roles_have_no_further_rights(roles: &Roles, statement: &str) {
    roles.admin.execute("CREATE TABLE of_another (id INTEGER)").await;
    for statement in [
        statement,
        "CREATE TABLE mine (id INTEGER)",
        "CREATE TEMPORARY TABLE mine (id INTEGER)",
        "ALTER TABLE lobbyd_rooms ADD COLUMN mine INTEGER",
        "CREATE INDEX mine ON lobbyd_rooms (name)",
        "DROP TABLE lobbyd_outbox",
        "UPDATE lobbyd_user_groups SET name = ''",
        "SELECT count(*) FROM lobbyd_migrations",
        "SELECT count(*) FROM of_another",
    ] {
        let refused = roles.cluster.database.try_execute(statement).await;
        let error = refused.expect_err(statement).to_string();
        let known = ["denied", "must be owner"].iter().any(|text| error.contains(text));
        assert!(known, "{statement}: {error}");
    }
    let migrated = run(&roles.cluster.settings, &["migrate"]);
    assert_eq!(migrated.status.code(), Some(1), "{migrated:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres_rooms_can_be_a_view_on_conversations() {
    let roles = Roles::new(Kind::Postgres).await;
    // The time zone of a server is often not UTC.
    roles.admin.execute("ALTER DATABASE lobbyd SET timezone TO 'America/New_York'").await;
    rooms_are_a_view(&roles).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_mariadb_rooms_can_be_a_view_on_conversations() {
    let roles = Roles::new(Kind::MariaDb).await;
    roles.admin.execute("SET GLOBAL time_zone = '-05:00'").await;
    rooms_are_a_view(&roles).await;
}

async fn rooms_are_a_view(roles: &Roles) {
    let Roles { admin, cluster, .. } = roles;
    admin.execute(&conversations(admin.kind)).await;
    let insert = "INSERT INTO oc_talk_rooms (token, type, name, description) VALUES";
    admin.execute(&format!("{insert} ('event', 3, 'Old', NULL), ('row', 2, NULL, NULL)")).await;
    roles.apply("conversations-view.sql");

    let options = store::PoolOptions {
        max_connections: 2,
        timeout: Duration::from_secs(20),
        application: "lobbyd test",
        group: store::PoolGroup::default(),
    };
    let prepared = store::connect(&[&cluster.database.url], options).unwrap();
    prepared.prepare_all().await.unwrap();

    let client = cluster.client().await;
    let _worker = cluster.worker().await;
    // One timer set by an event, the other by the program that owns the conversations.
    let timer = cluster.database.now().await + 2;
    client.publish(&json!({"token": "event", "state": 1, "timer": timer})).await;
    let utc = if admin.kind == Kind::Postgres {
        format!("to_timestamp({timer}) AT TIME ZONE 'UTC'")
    } else {
        admin.timestamp_sql(timer)
    };
    let set = format!("UPDATE oc_talk_rooms SET lobby_state = 1, lobby_timer = {utc}");
    admin.execute(&format!("{set} WHERE token = 'row'")).await;
    cluster.all_done(&client, 2).await;
    let early = "SELECT count(*) FROM lobbyd_outbox WHERE data LIKE '%lobby_timer_reached%'
                 AND (due_at IS NULL OR created_at < due_at)";
    assert_eq!(cluster.database.number(early).await, 0);

    let api = cluster.api().await;
    add_user(&roles.owner, "alice", "correct horse", &[]);
    let alice = Api::new(api.http_port).user("alice", "correct horse");
    let room = alice.room(3).await;
    assert_eq!(admin.texts("SELECT name FROM oc_talk_rooms WHERE id = 3").await, ["Webinar"]);
    let lobby = format!("/room/{room}/webinar/lobby");
    let later = cluster.database.now().await + 1000;
    let set = alice.put(&lobby, json!({"state": 1, "timer": later})).await.expect(200).data();
    assert_eq!(set["lobbyTimer"], later);
    let timer = cluster.database.now().await + 5;
    alice.put(&lobby, json!({"state": 1, "timer": timer})).await.expect(200);
    cluster.database.all_open().await;
    // The cache of the API learns of the reset by its update, after the commit.
    eventually("the API to show the open room", || async {
        let seen = alice.get(&format!("/room/{room}")).await.expect(200).data();
        (seen["lobbyState"] == 0).then_some(())
    })
    .await;
    assert_eq!(alice.system_messages(&room).await.last().unwrap(), "lobby_timer_reached");
    let name = json!({"roomName": "Renamed"});
    alice.put(&format!("/room/{room}"), name).await.expect(200);
    assert_eq!(admin.texts("SELECT name FROM oc_talk_rooms WHERE id = 3").await, ["Renamed"]);
    alice.delete(&format!("/room/{room}"), json!({})).await.expect(200);
    assert_eq!(admin.number("SELECT count(*) FROM oc_talk_rooms").await, 2);

    // Migrating again changes nothing, and lobbyd cannot bypass the view.
    let migrations = "SELECT count(*) FROM lobbyd_migrations";
    let applied = admin.number(migrations).await;
    roles.migrate();
    assert_eq!(admin.number(migrations).await, applied);
    roles.apply("grants.sql");
    assert_eq!(admin.number("SELECT count(*) FROM lobbyd_rooms").await, 2);
    let bypass = cluster.database.try_execute("SELECT count(*) FROM oc_talk_rooms").await;
    assert!(bypass.unwrap_err().to_string().contains("denied"));
}

/// The table of the example, from its comment.
fn conversations(kind: Kind) -> String {
    let example = fs::read_to_string(script(kind, "conversations-view.sql")).unwrap();
    let lines = example.lines().skip_while(|line| !line.contains("CREATE TABLE oc_talk_rooms"));
    let mut table = String::new();
    for line in lines {
        table.push_str(line.trim_start_matches("--     "));
        table.push('\n');
        if line.ends_with(';') {
            return table;
        }
    }
    panic!("the example has no table");
}

/// A locked room is skipped, also through the view, and opens when it is unlocked.
#[tokio::test(flavor = "multi_thread")]
async fn on_a_view_a_locked_room_does_not_delay_other_rooms() {
    let roles = Roles::new(Kind::Postgres).await;
    roles.admin.execute(&conversations(Kind::Postgres)).await;
    roles.apply("conversations-view.sql");
    let cluster = &roles.cluster;
    let client = cluster.client().await;
    let timer = cluster.database.now().await;
    cluster.database.insert_rooms("room", 3, timer).await;
    let holder = Database::hold_room(&cluster.database.url, "room1").await;
    let _worker = cluster.worker().await;
    assert_eq!(client.take_ids(&cluster.updates, 2).await.len(), 2);
    assert_eq!(cluster.database.lobby_state("room1").await, 1);
    drop(holder);
    cluster.database.lobby_becomes("room1", 0).await;
    assert_eq!(client.take_ids(&cluster.updates, 1).await.len(), 1);
}
