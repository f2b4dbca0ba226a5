//! pgbouncer in transaction mode in front of PostgreSQL, set up as deploy/sql/README.md says.

use std::{fs, time::Duration};

use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::sleep;

use super::{Trial, UNDISTURBED, Watch, load::Load};
use crate::support::{
    cluster::TestCluster,
    daemon::{Daemon, add_user, run, settings},
    database::{Database, Kind},
    eventually,
    http::Api,
    server::{BROKER, Server, pgbouncer_version, start_pgbouncer, start_postgres},
    tools::file,
};

/// The first version that knows prepared statements in transaction mode.
const IN_TRANSACTION_MODE: u32 = 121;

/// Rooms that are due at once.
const HERD: u32 = 3000;

/// Rooms that a frozen process has locked.
const FROZEN: u32 = 10;

/// The lines of the first indented block of the document that begins so.
fn documented(begin: &str) -> String {
    let document = fs::read_to_string(file("deploy/sql/README.md")).unwrap();
    let lines = document.lines().skip_while(|line| line.trim() != begin);
    let block: Vec<&str> = lines.map_while(|line| line.strip_prefix("    ")).collect();
    assert!(!block.is_empty(), "{begin}");
    block.join("\n")
}

struct Pooled {
    postgres: Server,
    pgbouncer: Server,
    cluster: TestCluster,
}

impl Pooled {
    async fn start() -> Self {
        let postgres = start_postgres();
        let database = Database::create_on(Kind::Postgres, postgres.port).await;
        for statement in documented("ALTER ROLE lobbyd SET statement_timeout = '5s';").lines() {
            database.execute(statement).await;
        }
        let mut section = documented("[pgbouncer]");
        if pgbouncer_version() < IN_TRANSACTION_MODE {
            println!("pgbouncer of this Debian: {}, in session mode", pgbouncer_version());
            section = section.replace("= transaction", "= session");
            section = section.replace("max_prepared_statements", ";max_prepared_statements");
        }
        let pgbouncer = start_pgbouncer(&postgres, &section);
        let mut cluster = TestCluster::on(database, &BROKER.url());
        cluster.set("DATABASE__URL", &cluster.database.url_through(pgbouncer.port));
        Self { postgres, pgbouncer, cluster }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn migrations_workers_and_api_work_through_pgbouncer() {
    let Pooled { postgres, pgbouncer, cluster } = Pooled::start().await;
    let empty = Database::as_owner_on(Kind::Postgres, postgres.port).await;
    let url = empty.url_through(pgbouncer.port);
    let migrations: Vec<_> = (0..6)
        .map(|_| {
            let settings = settings(&[("LOBBYD__DATABASE__URL", &url)]);
            tokio::task::spawn_blocking(move || run(&settings, &["migrate"]))
        })
        .collect();
    for migration in migrations {
        let output = migration.await.unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
    assert_eq!(empty.number(locks).await, 0, "a migration has left its lock");

    let client = cluster.client().await;
    let mut workers = [cluster.worker().await, cluster.worker().await];
    let api = cluster.api().await;
    add_user(&cluster.settings, "owner", "correct horse", &[]);
    let owner = Api::new(api.http_port).user("owner", "correct horse");
    let room = owner.room(3).await;
    let set = json!({"state": 1, "timer": cluster.database.now().await + 2});
    owner.put(&format!("/room/{room}/webinar/lobby"), set).await.expect(200);
    cluster.database.lobby_becomes(&room, 0).await;

    let database = &cluster.database;
    database.insert_rooms("herd", HERD, database.now().await + 2).await;
    database.all_open().await;

    // A locked room is awaited for a second at a time, and delays no other.
    database.insert_rooms("locked", 2, database.now().await + 2).await;
    let holder = Database::hold_room(&cluster.database.admin_url, "locked1").await;
    database.lobby_becomes("locked2", 0).await;
    eventually("a worker to name the locked room", || async {
        let names = |worker: &Daemon| worker.log().contains("due room is locked");
        workers.iter().any(names).then_some(())
    })
    .await;
    drop(holder);
    database.lobby_becomes("locked1", 0).await;

    // The server ends the transaction of a process that freezes in it, and another process opens the
    // rooms.
    for worker in &mut workers {
        assert!(worker.stop().await.success());
    }
    database.insert_rooms("frozen", FROZEN, database.now().await).await;
    let holder = Database::hold_rooms(&cluster.database.admin_url).await;
    workers[0] = Daemon::start(&cluster.settings);
    eventually("the worker to be inside its transaction", || async {
        let waiting = "SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";
        (database.number(waiting).await > 0).then_some(())
    })
    .await;
    workers[0].signal(Signal::SIGSTOP);
    drop(holder);
    workers[1] = cluster.worker().await;
    database.all_open().await;
    workers[0].signal(Signal::SIGCONT);
    workers[0].ready().await;

    cluster.all_done(&client, 1 + HERD + 2 + FROZEN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pgbouncer_is_killed_under_load() {
    let Pooled { postgres: _postgres, mut pgbouncer, cluster } = Pooled::start().await;
    let workers = [cluster.worker().await, cluster.worker().await];
    let client = cluster.client().await;
    let load = Load::start(&cluster.database, vec![BROKER.url()], &cluster.exchange).await;
    let mut trial = Trial::new("pgbouncer in front of PostgreSQL, two workers");
    sleep(UNDISTURBED).await;
    for (fault, down) in [("pgbouncer killed and started", 0), ("killed, started after 2 s", 2)] {
        let watch = Watch::start(&workers);
        pgbouncer.kill();
        sleep(Duration::from_secs(down)).await;
        pgbouncer.start();
        sleep(UNDISTURBED).await;
        trial.is_over(fault, watch, &cluster.database).await;
    }
    trial.ends(load, &cluster, &client).await;
}
