//! Upgrades: workers and APIs are replaced one after another, and the program runs on the tables of
//! a later version.

use std::fs;

use crate::support::{
    cluster::TestCluster,
    daemon::{Daemon, add_user},
    database::{Database, Kind},
    http::Api,
    tools::file,
};

/// Rooms that become due in each second.
const ROOMS: u32 = 20;

/// Seconds in which rooms become due.
const SECONDS: u32 = 12;

#[tokio::test(flavor = "multi_thread")]
async fn workers_are_replaced_while_rooms_open() {
    let cluster = TestCluster::new(Kind::Postgres).await;
    let client = cluster.client().await;
    let mut workers = [cluster.worker().await, cluster.worker().await];
    let now = cluster.database.now().await;
    for second in 1..=SECONDS {
        cluster
            .database
            .insert_rooms(&format!("at{second}-"), ROOMS, now + i64::from(second))
            .await;
    }
    let mut rounds = 0;
    while rounds < 2 || cluster.database.closed_rooms().await > 0 {
        for replaced in [0, 1] {
            assert!(workers[replaced].stop().await.success(), "{}", workers[replaced].log());
            let (status, problems) = workers[1 - replaced].get("/readyz").await.unwrap();
            assert_eq!(status, 200, "{problems}");
            workers[replaced] = cluster.worker().await;
        }
        rounds += 1;
    }
    cluster.all_done(&client, ROOMS * SECONDS).await;
    // No worker crashed, so no event was published twice.
    let again = "SELECT count(*) FROM lobbyd_outbox WHERE attempts > 1";
    assert_eq!(cluster.database.number(again).await, 0);
    let latest = "SELECT ceil(max(extract(epoch FROM created_at - due_at)) * 1000)::bigint
                  FROM lobbyd_outbox";
    println!("{rounds} rounds, the latest room {} ms", cluster.database.number(latest).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn apis_are_replaced_while_clients_send_requests() {
    let cluster = TestCluster::new(Kind::Postgres).await;
    let mut apis = [cluster.api().await, cluster.api().await];
    add_user(&cluster.settings, "alice", "secret", &[]);
    for replaced in [0, 1] {
        let alice = Api::new(apis[1 - replaced].http_port).user("alice", "secret");
        let requests = async {
            loop {
                alice.get("/room").await.expect(200);
            }
        };
        let replacement = async {
            assert!(apis[replaced].stop().await.success());
            let room = serde_json::json!({"roomType": 3, "roomName": "Webinar"});
            alice.post("/room", room).await.expect(201);
            apis[replaced] = cluster.api().await;
        };
        tokio::select! {
            () = replacement => {}
            () = requests => {}
        }
        let alice = Api::new(apis[replaced].http_port).user("alice", "secret");
        let rooms = alice.get("/room").await.expect(200).data();
        assert_eq!(rooms.as_array().unwrap().len(), replaced + 1);
    }
}

/// Changes that a later version may make: additions.
const LATER: [&str; 4] = [
    "ALTER TABLE lobbyd_outbox ADD COLUMN later INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE lobbyd_attendees ADD COLUMN later VARCHAR(8)",
    "CREATE TABLE lobbyd_later (id INTEGER NOT NULL PRIMARY KEY)",
    "INSERT INTO lobbyd_migrations (version, description, success, checksum, execution_time)
     SELECT 9999, 'later', success, checksum, 1 FROM lobbyd_migrations WHERE version = 1",
];

on_every_database! { crate::support::database::Database::create:
    the_program_runs_on_the_tables_of_a_later_version,
}

async fn the_program_runs_on_the_tables_of_a_later_version(database: Database) {
    database.store().await;
    for statement in LATER {
        database.execute(statement).await;
    }
    let settings = database.settings();
    add_user(&settings, "alice", "secret", &[]);
    let mut program = Daemon::start_as("run", &settings);
    program.ready().await;
    let alice = Api::new(program.http_port).user("alice", "secret");
    let room = serde_json::json!({"roomType": 3, "roomName": "Webinar"});
    let room = alice.post("/room", room).await.expect(201).data();
    let lobby = format!("/room/{}/webinar/lobby", room["token"].as_str().unwrap());
    let timer = database.now().await + 1;
    alice.put(&lobby, serde_json::json!({"state": 1, "timer": timer})).await.expect(200);
    database.all_open().await;
    database.all_published().await;
    assert!(program.stop().await.success());
}

/// Whether a migration may contain this statement: the previous version has to run on its result,
/// and `lobbyd_rooms` can be a view.
fn only_adds(statement: &str) -> bool {
    let words: Vec<&str> = statement.split_whitespace().collect();
    let adds_columns = || {
        let mut columns = statement.split(',');
        words.get(1) == Some(&"TABLE")
            && columns.all(|column| {
                column.contains("ADD COLUMN")
                    && (!column.contains("NOT NULL") || column.contains("DEFAULT"))
            })
    };
    let kind = match words.as_slice() {
        [] | ["CREATE", "TABLE" | "INDEX", ..] | ["INSERT", ..] => true,
        ["ALTER", ..] => adds_columns(),
        _other => false,
    };
    kind && !statement.contains("LOBBYD_ROOMS")
}

#[test]
fn migrations_only_add() {
    for folder in ["postgres", "mysql", "sqlite"] {
        for entry in fs::read_dir(file("migrations").join(folder)).unwrap() {
            let path = entry.unwrap().path();
            // The first one creates the table of rooms.
            if path.file_name().unwrap().to_str().unwrap() < "0002" {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap().to_uppercase();
            let lines = text.lines().filter(|line| !line.trim_start().starts_with("--"));
            for statement in lines.collect::<Vec<_>>().join("\n").split(';') {
                assert!(only_adds(statement), "{}: {statement}", path.display());
            }
        }
    }
    assert!(only_adds("ALTER TABLE LOBBYD_OUTBOX ADD COLUMN A INT NOT NULL DEFAULT 0"));
    for harmful in [
        "DROP TABLE LOBBYD_OUTBOX",
        "ALTER TABLE LOBBYD_OUTBOX ADD COLUMN A INT NOT NULL",
        "ALTER TABLE LOBBYD_OUTBOX ADD CONSTRAINT A CHECK (ATTEMPTS > 0)",
        "ALTER TABLE LOBBYD_OUTBOX ALTER COLUMN TOKEN TYPE TEXT",
        "CREATE UNIQUE INDEX A ON LOBBYD_OUTBOX (TOKEN)",
        "CREATE TABLE A (ROOM BIGINT REFERENCES LOBBYD_ROOMS(ID))",
        "TRUNCATE LOBBYD_MESSAGES",
        "UPDATE LOBBYD_OUTBOX SET ATTEMPTS = 0",
    ] {
        assert!(!only_adds(harmful), "{harmful}");
    }
}
