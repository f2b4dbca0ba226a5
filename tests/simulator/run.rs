//! Runs a scenario, and reports what was wrong.

use std::{sync::Arc, time::Duration};

use lobbyd::{
    backoff,
    bus::Bus,
    domain::{Lobby, RoomToken},
};
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    process::{Process, Role},
    scenario::{Scenario, Step, Trouble},
    world::{Bug, Faults, Obstacle, Server, State, World},
};

/// How long the processes may take until all is done, after everything works again.
const SETTLING: Duration = Duration::from_mins(3);

/// How late a room may be opened or announced while something is wrong with others, which may take a
/// second each.
const PACE: Duration = Duration::from_secs(4);

/// Events in a row of the outbox, so that a few rooms share one.
const SHARED_ABOVE: usize = 2;

/// How old work is at least that a process must report.
const REPORTED: Duration = Duration::from_secs(8);

/// How long processes may know nothing after the database has failed: a request of theirs may wait for
/// an answer for five seconds.
const RECOVERED: Duration = Duration::from_secs(7);

#[derive(Default)]
pub struct Report {
    pub seed: u64,
    pub problems: Vec<String>,
    pub log: Vec<String>,
    pub resets: usize,
    pub changes: usize,
    /// How late a room was opened or announced that nothing was wrong with, beside others.
    pub latest: Duration,
}

impl Report {
    pub fn assert(&self) {
        assert!(
            self.problems.is_empty(),
            "LOBBYD_SEED={} repeats this history:\n{}\n\n{}",
            self.seed,
            self.log.join("\n"),
            self.problems.join("\n"),
        );
    }
}

/// Runs the history of a seed.
pub fn run(seed: u64, bug: Option<Bug>) -> Report {
    backoff::seed_jitter(seed);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(async {
        let world = World::new(seed, bug);
        Simulation::new(world, Scenario::of(seed)).run().await.report(seed)
    })
}

struct Simulation {
    world: Arc<World>,
    scenario: Scenario,
    processes: Vec<Process>,
    begin: Instant,
    /// How late a room was that nothing was wrong with, beside others.
    latest: Duration,
    /// When the database last did not answer.
    unavailable_at: Option<Instant>,
}

impl Simulation {
    fn new(world: Arc<World>, scenario: Scenario) -> Self {
        {
            let mut state = world.state.lock();
            state.tables.shared_above = SHARED_ABOVE;
            for room in &scenario.rooms {
                state.tables.insert_room(room.as_str(), Lobby::OPEN);
            }
        }
        let processes = scenario.roles.iter().map(|role| Process::start(&world, *role)).collect();
        let begin = Instant::now();
        Self { world, scenario, processes, begin, latest: Duration::ZERO, unavailable_at: None }
    }

    async fn run(mut self) -> Self {
        let mut next_look = self.begin;
        for (time, step) in std::mem::take(&mut self.scenario.steps) {
            while next_look < self.begin + time {
                sleep_until(next_look).await;
                self.look();
                next_look += Duration::from_secs(1);
            }
            sleep_until(self.begin + time).await;
            self.take(step).await;
            if !self.world.state.lock().history.violations.is_empty() {
                return self;
            }
        }
        sleep_until(self.begin + self.scenario.healed_at).await;
        self.heal();
        self.settle().await;
        self
    }

    async fn take(&mut self, step: Step) {
        let world = Arc::clone(&self.world);
        let note = |what: String| world.state.lock().history.note(&what);
        match step {
            Step::Publish(message) => {
                world.state.lock().history.sent(&message);
                world.broker.publish(&[message]).await.unwrap();
            }
            Step::Write(token, lobby) => {
                let state = &mut *world.state.lock();
                let row = state.tables.rooms.get_mut(&token).unwrap();
                // It would wait for a lock.
                if !row.is_locked() {
                    row.room.lobby = lobby;
                    state.history.set_by_sql(&token, lobby);
                }
            }
            Step::Create(token) => {
                let state = &mut *world.state.lock();
                state.tables.insert_room(token.as_str(), Lobby::OPEN);
                state.history.created(&token);
            }
            Step::Hinder(token, obstacle) => {
                note(format!("{token}: {obstacle:?}"));
                let state = &mut *world.state.lock();
                if obstacle == Some(Obstacle::Refused) {
                    state.history.refused(&token);
                }
                state.tables.rooms.get_mut(&token).unwrap().obstacle = obstacle;
            }
            Step::RefuseEvents(token) => {
                note(format!("{token}: events refused"));
                world.state.lock().tables.refused_events.insert(token);
            }
            Step::Fail(faults) => {
                note(format!("{faults:?}"));
                self.replace_faults(faults);
            }
            Step::Disconnect => world.disconnect(),
            Step::MoveClock(by) => {
                note(format!("clock stepped by {by}"));
                world.state.lock().clock.step(by);
            }
            Step::Kill(process) => {
                note(format!("process {process} killed"));
                self.processes[process].kill();
            }
            Step::Terminate(process) => {
                note(format!("process {process} terminated"));
                self.processes[process].terminate();
            }
            Step::Start(process) => self.start(process),
            Step::Pause(process, is_paused) => {
                note(format!("process {process} paused: {is_paused}"));
                self.processes[process].pause(is_paused);
            }
        }
    }

    fn start(&mut self, process: usize) {
        let process = &mut self.processes[process];
        process.kill();
        *process = Process::start(&self.world, process.role);
    }

    /// Whether nothing is wrong with a room itself.
    fn is_healthy(&self, room: &RoomToken) -> bool {
        !self.scenario.poisoned.contains(room)
    }

    /// Checks what must hold at any time: the pace of other rooms, and that no process is green while
    /// work is not done.
    fn look(&self) {
        let state = &mut *self.world.state.lock();
        let (history, clock) = (&state.history, &state.clock);
        let rooms = state.tables.rooms.values().map(|row| &row.room);
        let overdue = rooms.filter_map(|room| {
            let age = history.overdue(&room.token, room.lobby.scheduled()?, clock)?;
            Some((room.token.clone(), age))
        });
        let overdue: Vec<_> = overdue.collect();
        if self.scenario.trouble == Trouble::SingleRooms {
            for (room, age) in overdue.iter().filter(|(room, _age)| self.is_healthy(room)) {
                if *age > PACE {
                    state
                        .history
                        .violation(&format!("P9: {room} is closed {age:?} after its time"));
                }
            }
        }
        let is_recent = |time: Instant| time.elapsed() < REPORTED + Duration::from_secs(1);
        let is_unknown = state.faults.database != Server::Up
            || self.unavailable_at.is_some_and(|time| time.elapsed() < RECOVERED);
        if is_unknown || state.clock.stepped_at().is_some_and(is_recent) {
            return;
        }
        let due = overdue.into_iter().map(|(room, age)| (format!("{room} is due"), age));
        let State { history, tables, clock, .. } = state;
        let unannounced = history.unannounced(tables, clock, |room| self.is_healthy(room));
        let undone: Vec<_> =
            due.chain(unannounced).filter(|(_what, age)| *age > REPORTED).collect();
        let workers = self.processes.iter().filter(|process| process.role == Role::Worker);
        for worker in workers.filter(|worker| worker.is_running() && !is_recent(worker.started_at))
        {
            if worker.health.problems().is_empty() {
                for (what, age) in &undone {
                    state.history.violation(&format!("P10: green while {what} for {age:?}"));
                }
            }
        }
    }

    fn replace_faults(&mut self, faults: Faults) {
        let replaced = std::mem::replace(&mut self.world.state.lock().faults, faults);
        if replaced.database != Server::Up {
            self.unavailable_at = Some(Instant::now());
        }
    }

    /// Ends all faults.
    fn heal(&mut self) {
        self.replace_faults(Faults { latency: Duration::from_millis(2), ..Faults::default() });
        {
            let state = &mut *self.world.state.lock();
            state.history.note("everything works again");
            if self.scenario.trouble == Trouble::SingleRooms {
                let scenario = &self.scenario;
                let is_healthy =
                    |room: &_| scenario.rooms.contains(room) && !scenario.poisoned.contains(room);
                self.latest = state.history.check_pace(PACE, is_healthy);
            }
            state.tables.refused_events.clear();
            for row in state.tables.rooms.values_mut() {
                row.obstacle = None;
            }
        }
        for process in 0..self.processes.len() {
            self.processes[process].pause(false);
            if !self.processes[process].is_running() {
                self.start(process);
            }
        }
    }

    /// Waits until everything that has to happen has happened.
    async fn settle(&self) {
        let begin = Instant::now();
        loop {
            sleep(Duration::from_millis(500)).await;
            self.look();
            if !self.world.state.lock().history.violations.is_empty() {
                return;
            }
            let mut unfinished = self.world.state.lock().unfinished();
            for process in &self.processes {
                unfinished.extend(process.health.problems().into_iter().map(|problem| {
                    format!("P10: {:?} is not ready: {}", process.role, problem.text)
                }));
            }
            if unfinished.is_empty() {
                return;
            }
            if begin.elapsed() > SETTLING {
                for what in unfinished {
                    self.world.state.lock().history.violation(&what);
                }
                return;
            }
        }
    }

    fn report(self, seed: u64) -> Report {
        for process in &self.processes {
            process.kill();
        }
        let history = &mut self.world.state.lock().history;
        let (problems, log) =
            (std::mem::take(&mut history.violations), std::mem::take(&mut history.log));
        Report {
            seed,
            problems,
            log,
            resets: history.resets.len(),
            changes: history.changes(),
            latest: self.latest,
        }
    }
}
