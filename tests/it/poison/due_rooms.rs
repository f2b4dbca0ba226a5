//! Faults at the head of the queue of due rooms: rows that the database refuses to reset or that
//! cannot be read, and rows that never fire.

use lobbyd::store::DueBatch;

use crate::support::{
    cluster::TestCluster,
    daemon::Daemon,
    database::{Database, Kind},
    eventually,
    fixtures::{StoreFixture, at},
};

const REFUSED: &str = "lobbyd_timers_refused";

on_every_database! { std::future::ready:
    a_room_that_a_trigger_refuses_delays_only_itself,
    a_room_whose_change_a_trigger_discards_delays_only_itself,
    a_room_whose_trigger_cannot_run_delays_only_itself,
    open_rooms_with_old_timers_delay_no_room,
}

/// A cluster with tables, in which a bad room and a hundred others are due, and no worker runs.
async fn due_rooms(kind: Kind) -> TestCluster {
    let mut cluster = TestCluster::new(kind).await;
    cluster.set("OPS__OVERDUE_AFTER", "1s");
    let database = &cluster.database;
    database.store().await;
    let now = database.now().await;
    database.insert_rooms("bad", 1, now - 5).await;
    database.insert_rooms("good", 100, now - 1).await;
    cluster
}

/// Starts a worker. The good rooms open, and the bad one shows; it opens after the cure.
async fn only_the_bad_room_waits(cluster: &TestCluster, cure: &[&str]) {
    let client = cluster.client().await;
    let database = &cluster.database;
    let worker = Daemon::start(&cluster.settings);
    client.take_ids(&cluster.updates, 100).await;
    assert_eq!(database.lobby_state("bad1").await, 1);
    worker.metric_becomes(REFUSED, 1).await;
    worker.unready_with("room bad1 is due").await;
    assert!(worker.gauge("lobbyd_timer_overdue_seconds").await.unwrap() > 1.0);

    for statement in cure {
        database.execute(statement).await;
    }
    database.lobby_becomes("bad1", 0).await;
    worker.metric_becomes(REFUSED, 0).await;
    worker.ready().await;
    assert_eq!(worker.log().matches("room cannot be opened").count(), 1, "it is logged once");
    client.take_ids(&cluster.updates, 1).await;
    database.all_published().await;
}

async fn a_room_that_a_trigger_refuses_delays_only_itself(kind: Kind) {
    let cluster = due_rooms(kind).await;
    cluster.database.refuse_reset("bad1").await;
    let drop = match kind {
        Kind::Postgres => "DROP TRIGGER archived ON lobbyd_rooms",
        Kind::Sqlite | Kind::MariaDb => "DROP TRIGGER archived",
    };
    only_the_bad_room_waits(&cluster, &[drop]).await;
}

async fn a_room_whose_change_a_trigger_discards_delays_only_itself(kind: Kind) {
    let cluster = due_rooms(kind).await;
    let database = &cluster.database;
    let drop = match kind {
        Kind::Sqlite => {
            let discard = "CREATE TRIGGER discard BEFORE UPDATE ON lobbyd_rooms
                           WHEN OLD.token = 'bad1' BEGIN SELECT RAISE(IGNORE); END";
            database.execute(discard).await;
            "DROP TRIGGER discard"
        }
        Kind::Postgres => {
            let function = "CREATE FUNCTION discard() RETURNS trigger LANGUAGE plpgsql
                            AS $$ BEGIN RETURN NULL; END $$";
            database.execute(function).await;
            let discard = "CREATE TRIGGER discard BEFORE UPDATE ON lobbyd_rooms FOR EACH ROW
                           WHEN (OLD.token = 'bad1') EXECUTE FUNCTION discard()";
            database.execute(discard).await;
            "DROP TRIGGER discard ON lobbyd_rooms"
        }
        Kind::MariaDb => {
            // The number of rows does not show it.
            let restore = "CREATE TRIGGER discard BEFORE UPDATE ON lobbyd_rooms FOR EACH ROW
                           IF OLD.token = 'bad1' THEN
                               SET NEW.lobby_state = OLD.lobby_state;
                               SET NEW.lobby_timer = OLD.lobby_timer;
                           END IF";
            database.execute(restore).await;
            "DROP TRIGGER discard"
        }
    };
    only_the_bad_room_waits(&cluster, &[drop]).await;
}

/// Such an error is an outage if it is about a table of lobbyd.
async fn a_room_whose_trigger_cannot_run_delays_only_itself(kind: Kind) {
    let cluster = due_rooms(kind).await;
    let database = &cluster.database;
    let drop = match kind {
        Kind::Sqlite => {
            let fail = "CREATE TRIGGER fail BEFORE UPDATE ON lobbyd_rooms
                        WHEN OLD.token = 'bad1' BEGIN SELECT json_extract('{', '$'); END";
            database.execute(fail).await;
            "DROP TRIGGER fail"
        }
        Kind::Postgres => {
            let function = "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql
                            AS $$ BEGIN PERFORM missing(OLD.id); RETURN NEW; END $$";
            database.execute(function).await;
            let fail = "CREATE TRIGGER fail BEFORE UPDATE ON lobbyd_rooms FOR EACH ROW
                        WHEN (OLD.token = 'bad1') EXECUTE FUNCTION fail()";
            database.execute(fail).await;
            "DROP TRIGGER fail ON lobbyd_rooms"
        }
        Kind::MariaDb => {
            let fail = "CREATE TRIGGER fail BEFORE UPDATE ON lobbyd_rooms FOR EACH ROW
                        IF OLD.token = 'bad1' THEN CALL missing(); END IF";
            database.execute(fail).await;
            "DROP TRIGGER fail"
        }
    };
    only_the_bad_room_waits(&cluster, &[drop]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_that_a_constraint_of_the_site_keeps_closed_delays_only_itself() {
    for (kind, add) in [
        (Kind::Postgres, "CHECK (token <> 'bad1' OR lobby_state = 1) NOT VALID"),
        (Kind::MariaDb, "CHECK (token <> 'bad1' OR lobby_state = 1)"),
    ] {
        let cluster = due_rooms(kind).await;
        let add = format!("ALTER TABLE lobbyd_rooms ADD CONSTRAINT site {add}");
        cluster.database.execute(&add).await;
        let cure = "ALTER TABLE lobbyd_rooms DROP CONSTRAINT site";
        only_the_bad_room_waits(&cluster, &[cure]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_constraint_that_is_checked_at_the_commit_delays_only_its_room() {
    let cluster = due_rooms(Kind::Postgres).await;
    let database = &cluster.database;
    let function = "CREATE FUNCTION site() RETURNS trigger LANGUAGE plpgsql
                    AS $$ BEGIN RAISE EXCEPTION 'not now'; END $$";
    database.execute(function).await;
    let check = "CREATE CONSTRAINT TRIGGER site AFTER UPDATE ON lobbyd_rooms
                 DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD.token = 'bad1')
                 EXECUTE FUNCTION site()";
    database.execute(check).await;
    only_the_bad_room_waits(&cluster, &["DROP TRIGGER site ON lobbyd_rooms"]).await;
}

/// The row that takes too long is found by four attempts: with the batch, and with ever smaller parts of
/// it. A fifth one may be its first retry.
#[tokio::test(flavor = "multi_thread")]
async fn a_room_whose_reset_takes_too_long_delays_only_itself() {
    let mut cluster = due_rooms(Kind::Postgres).await;
    cluster.set("DATABASE__TIMEOUT", "2s");
    let database = &cluster.database;
    let function = "CREATE FUNCTION site() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                        IF OLD.token = 'bad1' THEN
                            PERFORM nextval('attempts'), pg_sleep(600);
                        END IF;
                        INSERT INTO opened SELECT last_value FROM attempts;
                        RETURN NEW; END $$";
    let trigger = "CREATE TRIGGER site BEFORE UPDATE ON lobbyd_rooms FOR EACH ROW
                   EXECUTE FUNCTION site()";
    let table = "CREATE TABLE opened (attempts bigint)";
    for statement in ["CREATE SEQUENCE attempts", table, function, trigger] {
        database.execute(statement).await;
    }
    only_the_bad_room_waits(&cluster, &["DROP TRIGGER site ON lobbyd_rooms"]).await;
    let attempts = database.number("SELECT max(attempts) FROM opened").await;
    // To halve the batch down to this room would take seven.
    assert!(attempts < 6, "the last room opened after {attempts} attempts");
}

/// The server ends the statement, so that it does not hold the locks of the whole batch.
#[tokio::test(flavor = "multi_thread")]
async fn a_room_whose_reset_takes_too_long_delays_only_itself_on_mariadb() {
    let mut cluster = due_rooms(Kind::MariaDb).await;
    cluster.set("DATABASE__TIMEOUT", "2s");
    let trigger = "CREATE TRIGGER site BEFORE UPDATE ON lobbyd_rooms FOR EACH ROW
                   IF OLD.token = 'bad1' THEN SET NEW.name = sleep(600); END IF";
    cluster.database.execute(trigger).await;
    only_the_bad_room_waits(&cluster, &["DROP TRIGGER site"]).await;
}

/// A use of the database may take so long here that, if the others waited for each slow room to take it,
/// they would not open before the test gives up.
#[tokio::test(flavor = "multi_thread")]
async fn several_rooms_whose_reset_takes_too_long_delay_no_other() {
    for kind in [Kind::Postgres, Kind::MariaDb] {
        let mut cluster = due_rooms(kind).await;
        cluster.set("DATABASE__TIMEOUT", "45s");
        let database = &cluster.database;
        database.insert_rooms("slow", 6, database.now().await - 1).await;
        let triggers: &[&str] = match kind {
            Kind::Postgres => &[
                "CREATE FUNCTION site() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                     PERFORM pg_sleep(600); RETURN NEW; END $$",
                "CREATE TRIGGER site BEFORE UPDATE ON lobbyd_rooms FOR EACH ROW
                 WHEN (OLD.token LIKE 'slow%') EXECUTE FUNCTION site()",
            ],
            Kind::MariaDb | Kind::Sqlite => &["CREATE TRIGGER site BEFORE UPDATE ON lobbyd_rooms
                FOR EACH ROW IF OLD.token LIKE 'slow%' THEN SET NEW.name = sleep(600); END IF"],
        };
        for statement in triggers {
            database.execute(statement).await;
        }
        let client = cluster.client().await;
        let worker = Daemon::start(&cluster.settings);
        client.take_ids(&cluster.updates, 101).await;
        worker.metric_becomes(REFUSED, 6).await;
        assert_eq!(database.closed_rooms().await, 6);
    }
}

/// What a retry meets that has nothing to do with the room says nothing about it.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_does_not_slow_down_the_retries_of_a_refused_room() {
    let cluster = TestCluster::new(Kind::Postgres).await;
    let database = &cluster.database;
    database.store().await;
    database.execute("CREATE SEQUENCE attempts").await;
    database.insert_rooms("bad", 1, database.now().await).await;
    database.refuse_reset("bad1").await;
    let worker = Daemon::start(&cluster.settings);
    worker.metric_becomes(REFUSED, 1).await;
    let outage =
        "CREATE OR REPLACE FUNCTION archived() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                      PERFORM nextval('attempts'), pg_terminate_backend(pg_backend_pid());
                      RETURN NEW; END $$";
    database.execute(outage).await;
    // Doubled, the delays would add up to more than the test waits.
    eventually("ten retries", || async {
        (database.number("SELECT last_value FROM attempts").await >= 10).then_some(())
    })
    .await;
}

/// Deadlocks and conflicts of a cluster are no outage.
#[tokio::test(flavor = "multi_thread")]
async fn conflicts_are_repeated_without_a_warning() {
    let cluster = due_rooms(Kind::Postgres).await;
    let (database, client) = (&cluster.database, cluster.client().await);
    let function = "CREATE FUNCTION conflict() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                        IF nextval('attempts') < 6 THEN
                            RAISE EXCEPTION 'conflict' USING ERRCODE = 'serialization_failure';
                        END IF;
                        RETURN NEW; END $$";
    let trigger = "CREATE TRIGGER conflict BEFORE UPDATE ON lobbyd_rooms FOR EACH ROW
                   WHEN (OLD.token = 'bad1') EXECUTE FUNCTION conflict()";
    for statement in ["CREATE SEQUENCE attempts", function, trigger] {
        database.execute(statement).await;
    }
    let worker = Daemon::start(&cluster.settings);
    client.take_ids(&cluster.updates, 101).await;
    worker.ready().await;
    let log = worker.log();
    assert!(!log.contains("WARN"), "{log}");
}

/// A policy of the site covers the row.
#[tokio::test(flavor = "multi_thread")]
async fn a_room_that_a_row_policy_protects_delays_only_itself() {
    let cluster = due_rooms(Kind::Postgres).await;
    // Policies do not apply to superusers, nor to the owner of a table.
    for statement in [
        "ALTER TABLE lobbyd_rooms ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY reading ON lobbyd_rooms USING (TRUE)
         WITH CHECK (token <> 'bad1' OR lobby_state = 1)",
    ] {
        cluster.database.execute(statement).await;
    }
    only_the_bad_room_waits(
        &cluster,
        &[
            "DROP POLICY reading ON lobbyd_rooms",
            "CREATE POLICY reading ON lobbyd_rooms USING (TRUE)",
        ],
    )
    .await;
}

/// The table of a site has a null where lobbyd expects none.
#[tokio::test(flavor = "multi_thread")]
async fn a_room_that_cannot_be_read_delays_only_itself() {
    for (kind, nullable) in [
        (Kind::Postgres, "ALTER COLUMN sip_enabled DROP NOT NULL"),
        (Kind::MariaDb, "MODIFY sip_enabled SMALLINT"),
    ] {
        let cluster = due_rooms(kind).await;
        cluster.database.execute(&format!("ALTER TABLE lobbyd_rooms {nullable}")).await;
        let set =
            |value| format!("UPDATE lobbyd_rooms SET sip_enabled = {value} WHERE token = 'bad1'");
        cluster.database.execute(&set("NULL")).await;
        only_the_bad_room_waits(&cluster, &[&set("0")]).await;
    }
}

/// They are found one by one, at the head of the queue. Meanwhile the others open, also those that
/// were locked at first, or whose timer is set into the past.
#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_refused_rooms_delay_no_other_room() {
    for kind in [Kind::Postgres, Kind::MariaDb] {
        let cluster = TestCluster::new(kind).await;
        let client = cluster.client().await;
        let database = &cluster.database;
        database.store().await;
        let now = database.now().await;
        database.insert_rooms("bad", 2000, now - 5).await;
        // More than a batch, so that the locked one is not in the last.
        database.insert_rooms("good", 600, now - 1).await;
        database.refuse_reset("bad%").await;
        let locked = "SELECT id FROM lobbyd_rooms WHERE token = 'good1' FOR UPDATE";
        let holder = database.hold(locked).await;
        let worker = Daemon::start(&cluster.settings);
        client.take_ids(&cluster.updates, 599).await;
        drop(holder);
        database.insert_rooms("past", 10, now - 60).await;
        client.take_ids(&cluster.updates, 11).await;
        let refused = worker.gauge(REFUSED).await.unwrap();
        assert!(refused < 2000.0, "the others waited for them");
        worker.metric_becomes(REFUSED, 2000).await;
        // Known ones delay nothing.
        database.insert_rooms("more", 100, database.now().await).await;
        client.take_ids(&cluster.updates, 100).await;
        if kind == Kind::MariaDb {
            // Ends the test: 2,000 commits take it a minute.
            continue;
        }
        // With their cause they are all gone soon, though each waits for its next retry.
        database.allow_reset().await;
        database.all_open().await;
        worker.metric_becomes(REFUSED, 0).await;
    }
}

/// A newer setting of a refused room is a new timer.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_room_whose_timer_is_moved_or_removed_is_forgotten() {
    let cluster = TestCluster::new(Kind::Postgres).await;
    let database = &cluster.database;
    database.store().await;
    database.insert_rooms("bad", 3, database.now().await).await;
    database.refuse_reset("bad%").await;
    let worker = Daemon::start(&cluster.settings);
    worker.metric_becomes(REFUSED, 3).await;
    let moved = "UPDATE lobbyd_rooms SET lobby_timer = now() + interval '1 hour'
                 WHERE token = 'bad1'";
    database.execute(moved).await;
    database.execute("UPDATE lobbyd_rooms SET lobby_timer = NULL WHERE token = 'bad2'").await;
    database.execute("DELETE FROM lobbyd_rooms WHERE token = 'bad3'").await;
    worker.metric_becomes(REFUSED, 0).await;
    worker.ready().await;
}

async fn open_rooms_with_old_timers_delay_no_room(kind: Kind) {
    let cluster = TestCluster::new(kind).await;
    let client = cluster.client().await;
    let database = &cluster.database;
    database.store().await;
    let now = database.now().await;
    database.insert_rooms("open", 5000, now - 100).await;
    database.execute("UPDATE lobbyd_rooms SET lobby_state = 0").await;
    database.insert_rooms("due", 1, now).await;
    let worker = cluster.worker().await;
    client.take_ids(&cluster.updates, 1).await;
    assert_eq!(database.lobby_state("due1").await, 0);
    // Only housekeeping touches the others.
    let timers = "SELECT count(*) FROM lobbyd_rooms WHERE lobby_timer IS NOT NULL";
    assert_eq!(database.number(timers).await, 5000);
    let overdue = worker.gauge("lobbyd_timer_overdue_seconds").await.unwrap();
    assert!(overdue < 100.0, "{overdue}");
}

/// Promise P8: rows that can never fire are not in the index, and nothing else is read.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_can_never_fire_are_not_read() {
    let StoreFixture { database, store, .. } = StoreFixture::new(Kind::Postgres).await;
    database.insert_rooms("never", 20_000, at(0).timestamp()).await;
    database.execute("UPDATE lobbyd_rooms SET type = 1").await;
    database.insert_rooms("due", 20, at(1).timestamp()).await;
    database.insert_rooms("later", 20, at(90).timestamp()).await;
    database.execute("VACUUM ANALYZE lobbyd_rooms").await;
    let read = "SELECT (seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint
                FROM pg_stat_user_tables WHERE relname = 'lobbyd_rooms'";
    let used = "SELECT idx_scan FROM pg_stat_user_indexes
                WHERE indexrelname = 'lobbyd_rooms_due_idx'";
    // The rows that were inserted, updated or opened.
    let written = "SELECT (n_tup_ins + n_tup_upd)::bigint
                   FROM pg_stat_user_tables WHERE relname = 'lobbyd_rooms'";
    becomes(&database, written, 40_040).await;
    let before = database.number(read).await;
    for _ in 0..20 {
        let fired = store.fire_due(at(2), DueBatch::first(1), None).await.unwrap();
        assert_eq!(fired.rows.len(), 1);
        assert!(store.next_due(None, &[]).await.unwrap().is_some());
    }
    store.close().await;
    becomes(&database, used, 40).await;
    becomes(&database, written, 40_060).await;
    let read = database.number(read).await - before;
    assert!(read < 1000, "{read} rows read");
}

/// Waits until a number of the statistics is so large.
async fn becomes(database: &Database, sql: &str, number: i64) {
    eventually(sql, || async { (database.number(sql).await >= number).then_some(()) }).await;
}
