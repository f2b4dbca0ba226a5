//! Schedulers that users could pick instead, beside lobbyd: `make bench-peers`.
//!
//! Each has the same rooms, on the same server, and writes the same rows. lobbyd announces the rooms
//! besides, which the others do not.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};

use super::{
    clock, folder,
    options::{Options, Section},
    report::{Figure, Goal, Report, Unit},
    rooms,
    site::Site,
    support::database::{Database, Kind},
};

const HERD: u32 = 20_000;
const WARM_UP: u32 = 2_000;

/// A script of benches/peers, its argument, and by how much lobbyd is to be faster.
struct Peer {
    name: &'static str,
    script: &'static str,
    handler: Option<&'static str>,
    goal: f64,
}

const PEERS: [Peer; 3] = [
    Peer {
        name: "graphile-worker 0.17.3, one handler call per job",
        script: "graphile-worker.mjs",
        handler: None,
        goal: 5.0,
    },
    Peer {
        name: "pg-boss 10.4.2, one handler call per job",
        script: "pg-boss.mjs",
        handler: Some("each"),
        goal: 5.0,
    },
    Peer {
        name: "pg-boss 10.4.2, handler of sets",
        script: "pg-boss.mjs",
        handler: Some("sets"),
        goal: 1.5,
    },
];

pub async fn run(options: &Options, report: &mut Report) {
    let site = Site::new(Kind::Postgres).await;
    site.drain(WARM_UP, 0).await;
    let mut opened = Vec::new();
    let mut others = PEERS.map(|_peer| Vec::new());
    for _ in 0..options.runs() {
        opened.push(site.drain(HERD, 0).await.opened_per_second());
        for (peer, opened) in PEERS.iter().zip(&mut others) {
            opened.push(f64::from(HERD) / peer.open_rooms().await);
        }
    }
    for (peer, others) in PEERS.iter().zip(&others) {
        let name = format!("20,000 due at once: opened (limit: {})", peer.name);
        let figure = Figure::new(Section::Peers, name, Unit::PerSecond, &opened).beside(others);
        report.add(figure.goal(Goal::RatioAtLeast(peer.goal)));
    }
}

impl Peer {
    /// Seconds in which it opens the rooms of a new database. It has its jobs already.
    async fn open_rooms(&self) -> f64 {
        let database = Database::create(Kind::Postgres).await;
        database.store().await;
        let due = database.timestamp_sql(clock::second() - 1);
        rooms::add(&database, "peer", HERD, &due).await;
        rooms::settle(&database).await;
        let script = folder().with_file_name("peers").join(self.script);
        let mut node = Command::new("node");
        node.arg(script).arg(&database.admin_url).args(self.handler);
        let mut process =
            node.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("Node.js");
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        rooms::settle(&database).await;
        writeln!(process.stdin.take().unwrap(), "go").unwrap();
        let seconds = lines.next().unwrap().unwrap().parse().unwrap();
        process.wait().unwrap();
        assert_eq!(database.closed_rooms().await, 0);
        seconds
    }
}
