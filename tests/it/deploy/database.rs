//! The SQL of `deploy/sql`: roles with the least rights, and `lobbyd_rooms` as a view on a table of
//! conversations, on servers of their own, because roles are known to a whole server.

use std::{fs, process::Stdio};

use serde_json::json;

use crate::support::{
    daemon::{Daemon, Settings, add_user, run},
    database::{Database, Kind},
    http::Api,
    server::{Server, start_mariadb, start_postgres},
    tools::{debian, file, output},
};

/// A server that was set up as the files say.
struct Installation {
    kind: Kind,
    server: Server,
}

impl Installation {
    async fn new(kind: Kind) -> Self {
        let server = match kind {
            Kind::MariaDb => start_mariadb(),
            Kind::Postgres | Kind::Sqlite => start_postgres(),
        };
        let this = Self { kind, server };
        // The name of the user that the harness makes is that of the role.
        let (harness, admin) = match kind {
            Kind::MariaDb => ("mysql://lobbyd:lobbyd", "DROP USER lobbyd@'127.0.0.1'"),
            Kind::Postgres | Kind::Sqlite => {
                ("postgres://lobbyd", "ALTER ROLE lobbyd RENAME TO harness")
            }
        };
        let system = if kind == Kind::MariaDb { "mysql" } else { "postgres" };
        let harness = format!("{harness}@127.0.0.1:{}/{system}", this.server.port);
        let harness = Database::open(kind, harness);
        for statement in match kind {
            Kind::MariaDb => [
                "CREATE USER admin@'127.0.0.1' IDENTIFIED BY 'admin'",
                "GRANT ALL ON *.* TO admin@'127.0.0.1' WITH GRANT OPTION",
            ],
            Kind::Postgres | Kind::Sqlite => {
                ["CREATE ROLE admin LOGIN SUPERUSER", "CREATE DATABASE lobbyd"]
            }
        } {
            harness.execute(statement).await;
        }
        this.admin(system).execute(admin).await;
        this
    }

    fn url(&self, user: &str, database: &str) -> String {
        let port = self.server.port;
        match self.kind {
            Kind::MariaDb => format!("mysql://{user}:{user}@127.0.0.1:{port}/{database}"),
            Kind::Postgres | Kind::Sqlite => {
                format!("postgres://{user}@127.0.0.1:{port}/{database}")
            }
        }
    }

    fn admin(&self, database: &str) -> Database {
        Database::open(self.kind, self.url("admin", database))
    }

    /// Runs a file with the client that its first lines name.
    fn run_file(&self, name: &str) {
        let port = self.server.port.to_string();
        let (folder, mut client) = match self.kind {
            Kind::MariaDb => {
                let mut client = debian("mariadb");
                client.args(["--no-defaults", "--host=127.0.0.1", "--user=admin"]);
                client.args(["--password=admin", "--port", &port]);
                // The one that makes the database cannot be in it.
                client.args((name != "roles.sql").then_some("lobbyd"));
                ("mariadb", client)
            }
            Kind::Postgres | Kind::Sqlite => {
                let mut client = debian("psql");
                client.args(["--no-psqlrc", "--host=127.0.0.1", "--username=admin"]);
                client.args(["--dbname=lobbyd", "--port", &port, "--file=-"]);
                ("postgres", client)
            }
        };
        let script = file("deploy/sql").join(folder).join(name);
        client.stdin(Stdio::from(fs::File::open(&script).unwrap()));
        let output = output(&mut client);
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {complaints}", script.display());
    }

    fn settings(&self, user: &str) -> Settings {
        let url = self.url(user, "lobbyd");
        vec![
            ("LOBBYD__DATABASE__URL".to_owned(), url),
            ("LOBBYD__DATABASE__MIGRATE".to_owned(), "false".to_owned()),
        ]
    }

    /// As after the first installation, and after an upgrade.
    fn migrate(&self) {
        let output = run(&self.settings("lobbyd_owner"), &["migrate"]);
        assert!(output.status.success(), "{output:?}");
    }

    /// A webinar through the API, by a program that logs in as `lobbyd`.
    async fn hold_webinar(&self) -> Daemon {
        let program = Daemon::start_as("run", &self.settings("lobbyd"));
        program.ready().await;
        let database = self.admin("lobbyd");
        let alice = Api::new(program.http_port).user("alice", "secret");
        let room = json!({"roomType": 3, "roomName": "Webinar"});
        let room = alice.post("/room", room).await.expect(201).data();
        let path = format!("/room/{}", room["token"].as_str().unwrap());
        let timer = database.now().await + 2;
        let lobby = json!({"state": 1, "timer": timer});
        alice.put(&format!("{path}/webinar/lobby"), lobby).await.expect(200);
        assert_eq!(database.closed_rooms().await, 1);
        database.all_open().await;
        database.all_published().await;
        alice.delete(&path, json!({})).await.expect(200);
        assert_eq!(database.number("SELECT count(*) FROM lobbyd_rooms").await, 0);
        program
    }

    /// What the comment of the view's file shows.
    fn table_of_conversations(&self) -> String {
        let folder = if self.kind == Kind::MariaDb { "mariadb" } else { "postgres" };
        let script = file("deploy/sql").join(folder).join("conversations-view.sql");
        let script = fs::read_to_string(script).unwrap();
        let lines = script.lines().filter_map(|line| line.strip_prefix("--     "));
        lines.collect::<Vec<_>>().join("\n")
    }
}

async fn roles_and_view(kind: Kind) {
    let site = Installation::new(kind).await;
    site.run_file("roles.sql");
    if kind == Kind::MariaDb {
        for user in ["lobbyd_owner", "lobbyd"] {
            let unlock = format!("ALTER USER {user} IDENTIFIED BY '{user}' ACCOUNT UNLOCK");
            site.admin("mysql").execute(&unlock).await;
        }
    }
    site.migrate();
    site.run_file("grants.sql");
    add_user(&site.settings("lobbyd_owner"), "alice", "secret", &[]);
    let mut program = site.hold_webinar().await;

    let runtime = Database::open(kind, site.url("lobbyd", "lobbyd"));
    for forbidden in [
        "CREATE TABLE other (id INTEGER)",
        "ALTER TABLE lobbyd_rooms ADD COLUMN other INTEGER",
        "DROP TABLE lobbyd_rooms",
        "SELECT version FROM lobbyd_migrations",
        "UPDATE lobbyd_messages SET message = 'other'",
    ] {
        let refused = runtime.try_execute(forbidden).await;
        assert!(refused.is_err(), "{forbidden} was allowed");
    }
    assert!(program.stop().await.success(), "{}", program.log());

    let database = site.admin("lobbyd");
    database.execute(&site.table_of_conversations()).await;
    database
        .execute("INSERT INTO oc_talk_rooms (token, type, name) VALUES ('talk', 2, 'Talk')")
        .await;
    site.run_file("conversations-view.sql");
    let timer = database.instant(database.now().await);
    let program = Daemon::start_as("run", &site.settings("lobbyd"));
    program.ready().await;
    // As the backend writes it, in its own table.
    let set = format!("UPDATE oc_talk_rooms SET lobby_state = 1, lobby_timer = {timer}");
    database.execute(&set).await;
    database.all_open().await;
    let open = "SELECT count(*) FROM oc_talk_rooms WHERE lobby_state = 0 AND lobby_timer IS NULL
                AND lobby_timer_reached IS NOT NULL";
    assert_eq!(database.number(open).await, 1);
    drop(program);
    database.execute("DELETE FROM oc_talk_rooms").await;
    site.migrate();
    let mut program = site.hold_webinar().await;
    assert!(program.stop().await.success(), "{}", program.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_and_view_work_on_postgres() {
    roles_and_view(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_and_view_work_on_mariadb() {
    roles_and_view(Kind::MariaDb).await;
}
