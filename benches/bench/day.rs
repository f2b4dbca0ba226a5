//! A day of herds: the same rooms are closed again and open again, herd after herd.

use super::{
    clock,
    options::{Options, Section},
    process::Usage,
    report::{Figure, Goal, Report, Unit},
    rooms,
    site::{Drain, Site},
    support::{
        cluster::TestCluster,
        database::{Database, Kind},
        server::{BROKER, start_postgres_with},
    },
};

const HERD: u32 = 20_000;

/// Seconds in which the rooms are closed again, before they are due.
const PREPARATION: i64 = 3;

/// Herds at the beginning that are compared with as many at the end.
const COMPARED: usize = 5;

/// The day takes minutes, so what autovacuum does each minute happens each second.
const AUTOVACUUM: &str = "autovacuum_naptime=1s";

const SECTION: Section = Section::Day;

/// What a herd took of the machine.
struct Cost {
    usage: Usage,
    write_ahead_log: f64,
}

pub async fn run(options: &Options, report: &mut Report) {
    let server = start_postgres_with(&[AUTOVACUUM.to_owned()]);
    let database = Database::create_on(Kind::Postgres, server.port).await;
    let site = Site::on(TestCluster::on(database, &BROKER.url())).await;
    rooms::add_open(site.database(), "day", HERD).await;
    rooms::settle(site.database()).await;
    let (mut drains, mut costs) = (Vec::new(), Vec::new());
    for number in 1..=options.herds {
        let (drain, cost) = herd(&site).await;
        let (open, confirmed) = (drain.last_open(), drain.last_confirm());
        println!(
            "  herd {number}: last room open {open:.2} s, last update confirmed {confirmed:.2} s"
        );
        drains.push(drain);
        costs.push(cost);
    }
    add_times(report, &drains);
    add_costs(report, &costs);
    add_sizes(report, site.database()).await;
}

/// Closes all rooms by SQL, and lets them fall due at once.
async fn herd(site: &Site) -> (Drain, Cost) {
    let database = site.database();
    site.clear_queue().await;
    let due = clock::second() + PREPARATION;
    let timer = database.timestamp_sql(due);
    let closing = format!("UPDATE lobbyd_rooms SET lobby_state = 1, lobby_timer = {timer}");
    database.execute(&closing).await;
    let (before, log_before) = (Usage::now(site).await, log_position(database).await);
    let drain = site.watch(HERD, due, 0).await;
    let usage = Usage::now(site).await.since(before);
    let write_ahead_log = (log_position(database).await - log_before) as f64;
    (drain, Cost { usage, write_ahead_log })
}

/// Bytes of the write-ahead log so far.
async fn log_position(database: &Database) -> i64 {
    database.number("SELECT (pg_current_wal_lsn() - '0/0')::bigint").await
}

fn add_times(report: &mut Report, drains: &[Drain]) {
    let compared = COMPARED.min(drains.len());
    let (first, last) = (&drains[..compared], &drains[drains.len() - compared..]);
    for (name, time) in [
        ("last room open", Drain::last_open as fn(&Drain) -> f64),
        ("last update confirmed", Drain::last_confirm),
    ] {
        let times = |drains: &[Drain]| drains.iter().map(time).collect::<Vec<f64>>();
        let name = format!("last of {} herds of 20,000 (limit: the first): {name}", drains.len());
        let figure = Figure::new(SECTION, name, Unit::Seconds, &times(last)).beside(&times(first));
        report.add(figure.goal(Goal::RatioAtMost(1.1)));
    }
}

/// What a room costs, in each of the herds.
fn add_costs(report: &mut Report, costs: &[Cost]) {
    let mut add = |name, unit, cost: fn(&Cost) -> f64| {
        let values: Vec<f64> = costs.iter().map(|each| cost(each) / f64::from(HERD)).collect();
        report.add(Figure::new(SECTION, name, unit, &values));
    };
    let microseconds = Unit::Microseconds;
    add("processor time of the worker per room", microseconds, |cost| cost.usage.worker * 1e6);
    add("processor time of PostgreSQL per room, with autovacuum", microseconds, |cost| {
        cost.usage.database * 1e6
    });
    add("processor time of RabbitMQ per room", microseconds, |cost| cost.usage.broker * 1e6);
    add("write-ahead log per room", Unit::Bytes, |cost| cost.write_ahead_log);
}

async fn add_sizes(report: &mut Report, database: &Database) {
    for table in ["lobbyd_rooms", "lobbyd_outbox", "lobbyd_messages"] {
        for (what, function) in [("table", "pg_table_size"), ("indexes", "pg_indexes_size")] {
            let bytes = database.number(&format!("SELECT {function}('{table}')")).await;
            let name = format!("{table} after the day, {what}");
            let size = [bytes as f64 / f64::from(1 << 20)];
            report.add(Figure::new(SECTION, name, Unit::Mebibytes, &size));
        }
    }
}
