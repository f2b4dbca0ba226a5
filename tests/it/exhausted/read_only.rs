//! Databases that let nobody write for a while.

use super::{Site, ordinary_site};
use crate::support::{
    cluster::TestCluster,
    database::{Database, Kind},
    server::{BROKER, start_mariadb, start_postgres},
};

/// Sessions that exist, and those that begin meanwhile and stay read-only.
#[tokio::test(flavor = "multi_thread")]
async fn postgres_may_be_read_only_for_a_while() {
    let server = start_postgres();
    let database = Database::create_on(Kind::Postgres, server.port).await;
    let mut site = Site::new(TestCluster::on(database, &BROKER.url())).await;
    let reasons = ["read-only transaction"];
    let reload = "SELECT pg_reload_conf()";
    site.survives(
        "system",
        &reasons,
        async |site| {
            let database = &site.cluster.database;
            database.execute("ALTER SYSTEM SET default_transaction_read_only = on").await;
            database.execute(reload).await;
        },
        async |site| {
            let database = &site.cluster.database;
            database.execute("ALTER SYSTEM RESET default_transaction_read_only").await;
            database.execute(reload).await;
        },
    )
    .await;
    let name = site.cluster.database.texts("SELECT current_database()::text").await.remove(0);
    site.survives(
        "database",
        &reasons,
        async |site| {
            let database = &site.cluster.database;
            let set = "SET default_transaction_read_only = on";
            database.execute(&format!("ALTER DATABASE {name} {set}")).await;
            let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                       WHERE application_name LIKE 'lobbyd%'";
            assert!(database.number(end).await > 0);
        },
        async |site| {
            let reset = "RESET default_transaction_read_only";
            let reset = format!("SET transaction_read_only = off; ALTER DATABASE {name} {reset}");
            site.cluster.database.execute(&reset).await;
        },
    )
    .await;
    site.all_done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_may_be_read_only_for_a_while() {
    let server = start_mariadb();
    let (mut site, _url) = ordinary_site(Kind::MariaDb, &server).await;
    site.survives(
        "readonly",
        &["--read-only option"],
        async |site| site.execute("SET GLOBAL read_only = 1").await,
        async |site| site.execute("SET GLOBAL read_only = 0").await,
    )
    .await;
    site.all_done().await;
}
