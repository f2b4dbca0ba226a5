//! Carries out the plan. Faults overlap, but no two have the same process, server or link.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::Mutex as Turn,
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    plan::{Fault, Options, PROCESSES, Planned, Server, WORKERS},
    site::Site,
    support::proxy::Mode,
};

/// The kinds of faults, in the order of the table.
pub const KINDS: [&str; 12] = [
    "workers killed",
    "APIs killed",
    "database killed and started",
    "broker killed and started",
    "workers and APIs stopped by SIGTERM",
    "workers frozen for longer than a claim (SIGSTOP)",
    "connections frozen",
    "connections cut",
    "connections reset",
    "connections slowed down",
    "broker in memory alarm",
    "clock of a worker stepped by a minute to two days",
];

/// So many of them, the first ones, are SIGKILL.
const KILLS: usize = 4;

/// How often each kind of fault has happened, and what processes did wrong.
#[derive(Default)]
pub struct Tally {
    counts: Mutex<BTreeMap<&'static str, u64>>,
    wrong: Mutex<Vec<String>>,
}

impl Tally {
    fn count(&self, what: &'static str) {
        assert!(KINDS.contains(&what), "{what}");
        *self.counts.lock().unwrap().entry(what).or_default() += 1;
    }

    pub fn kills(&self) -> u64 {
        KINDS.iter().take(KILLS).map(|what| self.number(what)).sum()
    }

    pub fn add_wrong(&self, wrong: Option<String>) {
        self.wrong.lock().unwrap().extend(wrong);
    }

    pub fn number(&self, what: &str) -> u64 {
        self.counts.lock().unwrap().get(what).copied().unwrap_or_default()
    }

    pub fn wrong(&self) -> Vec<String> {
        self.wrong.lock().unwrap().clone()
    }
}

/// What only one fault has at a time, and the others wait for.
struct Turns {
    servers: [Turn<()>; 2],
    links: [[Turn<()>; PROCESSES]; 2],
    clock: Turn<()>,
}

impl Turns {
    fn new() -> Self {
        let turn = || Turn::new(());
        Self {
            servers: std::array::from_fn(|_| turn()),
            links: std::array::from_fn(|_| std::array::from_fn(|_| turn())),
            clock: turn(),
        }
    }
}

fn number(server: Server) -> usize {
    match server {
        Server::Database => 0,
        Server::Broker => 1,
    }
}

/// Breaks what is planned. Afterwards everything works again.
pub async fn run(site: Arc<Site>, plan: Vec<Planned>, options: Options, tally: Arc<Tally>) {
    let (begin, turns) = (Instant::now(), Arc::new(Turns::new()));
    let mut faults = JoinSet::new();
    for planned in plan {
        sleep_until(begin + planned.at).await;
        let (site, tally, turns) = (Arc::clone(&site), Arc::clone(&tally), Arc::clone(&turns));
        faults.spawn(async move {
            let left = || (begin + options.length()).saturating_duration_since(Instant::now());
            carry_out(planned.fault, &site, &tally, &turns, left).await;
        });
        while faults.try_join_next().transpose().unwrap().is_some() {}
    }
    while faults.join_next().await.transpose().unwrap().is_some() {}
}

async fn carry_out(
    fault: Fault,
    site: &Site,
    tally: &Tally,
    turns: &Turns,
    left: impl Fn() -> Duration,
) {
    match fault {
        Fault::Kill { process, down } => {
            let is_worker = process < WORKERS;
            tally.add_wrong(site.processes[process].kill(down).await);
            tally.count(if is_worker { "workers killed" } else { "APIs killed" });
        }
        Fault::Terminate { process } => {
            tally.add_wrong(site.processes[process].terminate().await);
            tally.count("workers and APIs stopped by SIGTERM");
        }
        Fault::Pause { process, lasts } => {
            site.processes[process].pause(lasts).await;
            tally.count("workers frozen for longer than a claim (SIGSTOP)");
        }
        Fault::KillServer { server, down } => {
            let _turn = turns.servers[number(server)].lock().await;
            // Others had their turn for long.
            if left().is_zero() {
                return;
            }
            site.kill_server(server, down).await;
            tally.count(match server {
                Server::Database => "database killed and started",
                Server::Broker => "broker killed and started",
            });
        }
        Fault::MemoryAlarm { lasts } => {
            let _turn = turns.servers[number(Server::Broker)].lock().await;
            if left().is_zero() {
                return;
            }
            site.alarm(lasts).await;
            tally.count("broker in memory alarm");
        }
        Fault::ClockStep { offset, lasts } => {
            let _turn = turns.clock.lock().await;
            site.step_clock(offset, lasts).await;
            tally.count("clock of a worker stepped by a minute to two days");
        }
        Fault::Network { server, process, mode, lasts } => {
            let links = &turns.links[number(server)];
            let links = process.map_or(&links[..], |process| &links[process..=process]);
            let mut held = Vec::new();
            for link in links {
                held.push(link.lock().await);
            }
            site.network(server, process, mode);
            sleep(lasts.min(left())).await;
            site.network(server, process, Mode::Pass);
            tally.count(match mode {
                Mode::Cut => "connections cut",
                Mode::Reset => "connections reset",
                Mode::Slow => "connections slowed down",
                Mode::Freeze | Mode::FreezeRequests | Mode::FreezeResponses => "connections frozen",
                Mode::Pass => unreachable!("it is not planned"),
            });
        }
    }
}
